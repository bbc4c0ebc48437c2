//! What is made of every PostgreSQL that may be found, how lag is measured, and what a server that lies can do.

use std::sync::Arc;
use std::time::Duration;

use protocol::command::{Action, Command, Draft, RecordAction, RecordMark, Write};
use protocol::position::RestoreId;
use protocol::{Chain, Epoch, Outcome, ResourceKey};
use raft_store::backlog::Backlog;
use raft_store::machine::State as Machine;
use tokio::time::Instant;

use super::judge::{self, Cursor, Found, Verdict};
use super::lag::Ages;
use super::{Lag, Trouble};

const CLUSTER: &str = "c";

fn epoch() -> Epoch {
    Epoch { number: 2, restore: RestoreId([7; 16]) }
}

fn command(action: Action) -> Command {
    Command {
        origin: None,
        idempotency: None,
        request: "r".into(),
        author: "a".into(),
        time: 5,
        based_on: vec![],
        action,
    }
}

fn change(machine: &mut Machine) {
    let n = machine.config.position().revision;
    let draft = Draft {
        body: format!("{{\"n\":{n}}}").into(),
        references: vec![],
        claims: vec![],
        groups: vec!["default".into()],
        ttl_seconds: None,
    };
    let write = Write::Put { key: ResourceKey::new("routes", "r"), draft, if_match: None, only_new: false };
    machine.apply(&command(Action::Write(write))).unwrap().change.unwrap();
}

fn recorded(machine: &mut Machine, revision: u64) {
    let chain = machine.outbox.chain_at(revision).unwrap();
    let mark = RecordMark { revision, chain, system: 11, timeline: 3, term: 4 };
    let said = machine.apply(&command(Action::Record(RecordAction::Recorded(mark)))).unwrap();
    assert_eq!(said.outcome, Outcome::Record);
}

/// Five changes, then a record that was told of ten more, of which it has confirmed seven.
fn machine() -> Machine {
    let mut machine = Machine::new(epoch());
    (0..5).for_each(|_| change(&mut machine));
    machine.apply(&command(Action::Record(RecordAction::On))).unwrap();
    (0..10).for_each(|_| change(&mut machine));
    recorded(&mut machine, 12);
    machine
}

fn backlog(machine: &Machine) -> Backlog {
    Backlog { config: machine.config.clone(), outbox: machine.outbox.clone() }
}

fn cursor(machine: &Machine, revision: u64) -> Cursor {
    Cursor {
        cluster: CLUSTER.into(),
        epoch: 2,
        restore: epoch().restore.to_string(),
        revision,
        chain: machine.outbox.chain_at(revision).unwrap_or(Chain([9; 32])),
        term: 4,
        claimed: None,
    }
}

#[test]
fn only_the_system_and_the_timeline_that_are_known_may_be_written_to() {
    let machine = machine();
    let found = Found { system: 11, timeline: 3, is_standby: false, is_read_only: false, encoding: "UTF8".into() };
    let judged = |found: Found| judge::system(&found, &backlog(&machine));
    assert_eq!(judged(found.clone()), Ok(()));
    assert_eq!(judged(Found { timeline: 4, ..found.clone() }), Ok(()), "a promotion");
    for (found, trouble) in [
        (Found { is_standby: true, is_read_only: true, ..found.clone() }, Trouble::Standby),
        (Found { system: 12, ..found.clone() }, Trouble::OtherSystem { found: 12, wanted: 11 }),
        (Found { timeline: 2, ..found.clone() }, Trouble::OlderTimeline { found: 2, wanted: 3 }),
        (Found { is_read_only: true, ..found.clone() }, Trouble::ReadOnly),
        (Found { encoding: "SQL_ASCII".into(), ..found.clone() }, Trouble::Encoding("SQL_ASCII".into())),
    ] {
        assert_eq!(judged(found), Err(trouble));
    }
    // Nothing was recorded yet, or the record may move: any system and timeline will do.
    let anywhere = Found { system: 99, timeline: 1, ..found };
    let mut fresh = Machine::new(epoch());
    fresh.apply(&command(Action::Record(RecordAction::On))).unwrap();
    assert_eq!(judge::system(&anywhere, &backlog(&fresh)), Ok(()));
    let mut released = machine.clone();
    released.apply(&command(Action::Record(RecordAction::Release))).unwrap();
    assert_eq!(judge::system(&anywhere, &backlog(&released)), Ok(()));
}

#[test]
fn only_the_beginning_of_this_history_is_gone_on_from() {
    let machine = machine();
    let now = backlog(&machine);
    let judged = |cursor: Cursor| judge::content(Some(&cursor), CLUSTER, 4, &now);
    let at = |revision| cursor(&machine, revision);
    assert_eq!(judged(at(12)), Ok(Verdict::GoOn { from: 12, lost: 0 }));
    assert_eq!(judged(at(15)), Ok(Verdict::GoOn { from: 15, lost: 0 }), "confirmed, and not yet known to all");
    assert_eq!(judged(at(9)), Ok(Verdict::GoOn { from: 9, lost: 3 }), "it has lost what it confirmed");
    assert_eq!(judged(at(5)), Ok(Verdict::GoOn { from: 5, lost: 7 }));
    assert_eq!(judged(Cursor { term: 3, ..at(12) }), Ok(Verdict::GoOn { from: 12, lost: 0 }));
    for (found, trouble) in [
        (Cursor { cluster: "d".into(), ..at(12) }, Trouble::OtherCluster("d".into())),
        (Cursor { epoch: 3, ..at(12) }, Trouble::HigherEpoch { found: 3, here: 2 }),
        (Cursor { restore: "00".into(), ..at(12) }, Trouble::EpochConflict(2)),
        (Cursor { term: 5, ..at(12) }, Trouble::HigherTerm { found: 5, here: 4 }),
        (at(16), Trouble::Ahead { found: 16, head: 15 }),
        (at(4), Trouble::TooFarBehind { found: 4, base: 5 }),
        (Cursor { chain: Chain([1; 32]), ..at(12) }, Trouble::DifferentChain(12)),
        (Cursor { chain: Chain([1; 32]), ..at(5) }, Trouble::DifferentChain(5)),
        // An earlier life is gone on from only where this one began.
        (Cursor { epoch: 1, ..at(12) }, Trouble::OlderEpoch { found: 12, base: 5 }),
        (Cursor { epoch: 1, chain: Chain([1; 32]), ..at(5) }, Trouble::OlderEpoch { found: 5, base: 5 }),
    ] {
        assert_eq!(judged(found), Err(trouble));
    }
    assert_eq!(judged(Cursor { epoch: 1, restore: "old".into(), ..at(5) }), Ok(Verdict::NextLife { from: 5 }));
}

#[test]
fn what_lacks_a_recorded_change_or_is_not_this_clusters_is_not_read() {
    let machine = machine();
    let now = backlog(&machine);
    let judged = |cursor: Cursor| judge::readable(Some(&cursor), CLUSTER, &now);
    let at = |revision| cursor(&machine, revision);
    assert_eq!(judged(at(12)), Ok(()));
    assert_eq!(judged(at(15)), Ok(()), "further than all know yet");
    assert_eq!(judged(Cursor { term: 9, ..at(12) }), Ok(()), "whoever writes it");
    assert_eq!(judged(Cursor { epoch: 1, restore: "old".into(), ..at(5) }), Ok(()), "an earlier life is told of");
    for (found, trouble) in [
        (at(11), Trouble::Lags { found: 11, recorded: 12 }),
        (Cursor { cluster: "d".into(), ..at(12) }, Trouble::OtherCluster("d".into())),
        (Cursor { restore: "00".into(), ..at(12) }, Trouble::EpochConflict(2)),
        (Cursor { chain: Chain([1; 32]), ..at(13) }, Trouble::DifferentChain(13)),
    ] {
        assert_eq!(judged(found), Err(trouble));
    }
    assert_eq!(judge::readable(None, CLUSTER, &now), Err(Trouble::Lags { found: 0, recorded: 12 }));
    let mut fresh = Machine::new(epoch());
    fresh.apply(&command(Action::Record(RecordAction::On))).unwrap();
    assert_eq!(judge::readable(None, CLUSTER, &backlog(&fresh)), Ok(()));
}

#[test]
fn who_brings_a_cluster_back_bars_the_record_to_everybody_else() {
    let machine = machine();
    let now = backlog(&machine);
    let judged = |cursor: Cursor| judge::content(Some(&cursor), CLUSTER, 4, &now);
    let (ours, other) = (epoch().restore.to_string(), "ff".to_owned());
    let claimed = |number, by: &String, cursor: Cursor| Cursor { claimed: Some((number, by.clone())), ..cursor };
    let at = |revision| cursor(&machine, revision);
    let old = |revision| Cursor { epoch: 1, restore: "old".into(), ..at(revision) };
    // A later life is being brought back, or another one under this number.
    let barred = Trouble::Claimed { number: 3, by: other.clone() };
    assert_eq!(judged(claimed(3, &other, at(12))), Err(barred));
    assert_eq!(judged(claimed(2, &other, at(12))), Err(Trouble::EpochConflict(2)));
    assert_eq!(judged(claimed(2, &other, old(5))), Err(Trouble::EpochConflict(2)));
    // This one: it goes on from where it began, also where the record was elsewhere.
    assert_eq!(judged(claimed(2, &ours, at(12))), Ok(Verdict::GoOn { from: 12, lost: 0 }));
    assert_eq!(judged(claimed(2, &ours, old(5))), Ok(Verdict::NextLife { from: 5 }));
    assert_eq!(judged(claimed(2, &ours, old(3))), Ok(Verdict::Rebase { from: 3 }));
    assert_eq!(judged(claimed(2, &ours, old(9))), Ok(Verdict::Rebase { from: 9 }));
    // The claim of an earlier life says nothing.
    assert_eq!(judged(claimed(1, &other, old(3))), Err(Trouble::OlderEpoch { found: 3, base: 5 }));
}

#[test]
fn an_empty_record_is_begun_only_where_nothing_that_was_confirmed_is_gone() {
    let judged = |machine: &Machine| judge::content(None, CLUSTER, 4, &backlog(machine));
    let mut fresh = Machine::new(epoch());
    assert!(matches!(judged(&fresh), Err(Trouble::Database(_))), "no record is wanted");
    (0..3).for_each(|_| change(&mut fresh));
    fresh.apply(&command(Action::Record(RecordAction::On))).unwrap();
    change(&mut fresh);
    assert_eq!(judged(&fresh), Ok(Verdict::Begin));
    recorded(&mut fresh, 4);
    assert_eq!(judged(&fresh), Err(Trouble::TooFarBehind { found: 0, base: 3 }), "what was before the outbox is gone");
    let mut whole = Machine::new(epoch());
    whole.apply(&command(Action::Record(RecordAction::On))).unwrap();
    change(&mut whole);
    recorded(&mut whole, 1);
    assert_eq!(judged(&whole), Ok(Verdict::Begin), "everything there ever was is still kept");
}

#[tokio::test(start_paused = true)]
async fn lag_counts_changes_bytes_and_the_age_of_the_oldest() {
    let bound = Duration::from_secs(2560);
    let ages = Ages::new(bound);
    let mut machine = Machine::new(epoch());
    machine.apply(&command(Action::Record(RecordAction::On))).unwrap();
    let measure = |machine: &Machine| ages.measure(&backlog(machine), Instant::now());
    assert_eq!(measure(&machine), Lag { changes: 0, bytes: 0, age: Duration::ZERO });
    tokio::time::advance(Duration::from_secs(100)).await;
    change(&mut machine);
    let first = measure(&machine);
    assert_eq!((first.changes, first.age), (1, Duration::ZERO), "a change is no older than when it was seen");
    assert_eq!(first.bytes, machine.outbox.backlog_bytes());
    tokio::time::advance(Duration::from_secs(30)).await;
    change(&mut machine);
    assert_eq!(measure(&machine).age, Duration::from_secs(30));
    tokio::time::advance(Duration::from_secs(30)).await;
    // The first is recorded: now the second is the oldest.
    recorded(&mut machine, 1);
    let second = measure(&machine);
    assert_eq!((second.changes, second.age), (1, Duration::from_secs(30)));
    recorded(&mut machine, 2);
    assert_eq!(measure(&machine), Lag { changes: 0, bytes: 0, age: Duration::ZERO });
    // However long it lasts: so many samples, none older than the truth, and the oldest stays.
    change(&mut machine);
    let began = Instant::now();
    for _ in 0..1000 {
        measure(&machine);
        tokio::time::advance(Duration::from_secs(10)).await;
        change(&mut machine);
    }
    let late = measure(&machine);
    assert_eq!((late.changes, late.age), (1001, began.elapsed()));
    assert!(late.age > bound);
}

mod stub {
    //! A server that speaks just enough of PostgreSQL's protocol to be believed, and then does not.

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::super::link::Link;
    use super::super::{schema, step};
    use super::*;
    use crate::net::TcpNet;
    use crate::settings::RecordSettings;

    /// How a reply is bent: the reply as it should be, and which one it is on this connection.
    type Bend = Arc<dyn Fn(usize, Vec<u8>) -> Vec<u8> + Send + Sync>;

    fn message(tag: u8, payload: &[u8]) -> Vec<u8> {
        let length = u32::try_from(payload.len() + 4).unwrap();
        [&[tag], &length.to_be_bytes()[..], payload].concat()
    }

    /// Column name, the type's number.
    fn description(columns: &[u32]) -> Vec<u8> {
        let mut payload = u16::try_from(columns.len()).unwrap().to_be_bytes().to_vec();
        for type_ in columns {
            payload.extend_from_slice(b"c\0");
            payload.extend_from_slice(&0u32.to_be_bytes());
            payload.extend_from_slice(&0u16.to_be_bytes());
            payload.extend_from_slice(&type_.to_be_bytes());
            payload.extend_from_slice(&[0; 8]);
        }
        message(b'T', &payload)
    }

    fn row(values: &[&[u8]]) -> Vec<u8> {
        let mut payload = u16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
        for value in values {
            payload.extend_from_slice(&u32::try_from(value.len()).unwrap().to_be_bytes());
            payload.extend_from_slice(value);
        }
        message(b'D', &payload)
    }

    /// What [`step::look`] is told, where nothing is bent.
    const LOOK: [u32; 5] = [20, 16, 16, 25, 25];

    fn looked() -> Vec<u8> {
        row(&[&11u64.to_be_bytes(), &[0], &[0], b"UTF8", b"00000003"])
    }

    async fn serve(mut stream: TcpStream, bend: Bend) -> std::io::Result<()> {
        let length = stream.read_u32().await?;
        let mut startup = vec![0; usize::try_from(length).unwrap() - 4];
        stream.read_exact(&mut startup).await?;
        let ready = message(b'Z', b"I");
        let greeting = [message(b'R', &0u32.to_be_bytes()), ready.clone()].concat();
        let mut number = 0;
        let mut say = |reply: Vec<u8>| {
            number += 1;
            bend(number - 1, reply)
        };
        stream.write_all(&say(greeting)).await?;
        let mut waiting: Vec<u8> = Vec::new();
        loop {
            let tag = stream.read_u8().await?;
            let length = stream.read_u32().await?;
            let mut payload = vec![0; usize::try_from(length).unwrap() - 4];
            stream.read_exact(&mut payload).await?;
            match tag {
                b'Q' => {
                    let reply = [message(b'C', b"SET\0"), ready.clone()].concat();
                    stream.write_all(&say(reply)).await?;
                }
                b'P' => waiting.extend(message(b'1', b"")),
                b'D' => waiting.extend([message(b't', &0u16.to_be_bytes()), description(&LOOK)].concat()),
                b'B' => waiting.extend(message(b'2', b"")),
                b'E' => waiting.extend([looked(), message(b'C', b"SELECT 1\0")].concat()),
                b'S' => {
                    waiting.extend(ready.clone());
                    stream.write_all(&say(std::mem::take(&mut waiting))).await?;
                }
                b'C' => waiting.extend(message(b'3', b"")),
                _ => return Ok(()),
            }
        }
    }

    /// Within this time a machine that is busy with other things gets to everything.
    const SOON: Duration = Duration::from_secs(20);
    /// What is waited for a server that says nothing more.
    const QUICK: Duration = Duration::from_millis(300);

    /// Connects to such a server and looks, each step within a time; what came of it.
    async fn look(bend: Bend, within: Duration) -> Result<Found, Trouble> {
        #[expect(clippy::disallowed_methods, reason = "a test's server is no part of the node")]
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let _ = serve(stream, bend).await;
        });
        let limit = daemon::settings::units::Span(within);
        let mut settings =
            RecordSettings { connect_timeout: limit, statement_timeout: limit, ..RecordSettings::default() };
        settings.dsn.0 = format!("host=127.0.0.1 port={port} user=u dbname=d");
        let link = Link::new(&settings, Arc::new(TcpNet)).unwrap().unwrap();
        let looked = async {
            let mut session = link.connect(0).await?;
            let found = step::look(&session).await?;
            // Whatever this server says to the rest is nothing that a schema or a cursor could be made of.
            let _ = schema::migrate(&mut session).await;
            let _ = step::cursor(&session).await;
            Ok(found)
        };
        let looked = looked.await;
        server.abort();
        looked
    }

    /// Counts panics of every thread and task of this process.
    fn count_panics() -> Arc<std::sync::atomic::AtomicU64> {
        let panics = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let (counter, print) = (panics.clone(), std::panic::take_hook());
        std::panic::set_hook(Box::new(move |info| {
            counter.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            print(info);
        }));
        panics
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn whatever_a_server_replies_is_an_error_in_time_and_never_a_panic() {
        let panics = count_panics();
        let found = look(Arc::new(|_, reply| reply), SOON).await.unwrap();
        assert_eq!((found.system, found.timeline), (11, 3), "unbent, it is believed");
        let only = |at: usize, with: Vec<u8>| -> Bend {
            Arc::new(move |number, reply| if number == at { with.clone() } else { reply })
        };
        let replace = |from: Vec<u8>, to: Vec<u8>| -> Bend {
            Arc::new(move |_, reply| {
                let Some(at) = reply.windows(from.len()).position(|window| window == from) else { return reply };
                [&reply[..at], &to, &reply[at + from.len()..]].concat()
            })
        };
        let short = {
            // It announces five columns and brings two and a half.
            let mut short = looked();
            short.truncate(1 + 4 + 2 + 4 + 8 + 4);
            let length = u32::try_from(short.len() - 1).unwrap().to_be_bytes();
            short[1..5].copy_from_slice(&length);
            short
        };
        let huge = |tag: u8| [&[tag], &0x7fff_ffffu32.to_be_bytes()[..], b"x"].concat();
        for (what, bend) in [
            ("garbage for a greeting", only(0, b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec())),
            ("nothing", only(0, Vec::new())),
            ("an unknown way to sign in", only(0, message(b'R', &99u32.to_be_bytes()))),
            ("a broken way to sign in", only(0, message(b'R', &[0, 0, 0, 10, 1, 2, 3]))),
            ("an error without an end", only(0, message(b'E', b"SFATAL\0C28P01"))),
            ("a message without a length", only(0, vec![b'R', 0, 0, 0, 0])),
            ("a message of a negative length", only(0, vec![b'R', 0xff, 0xff, 0xff, 0xff, 0])),
            ("a huge message", only(0, huge(b'R'))),
            ("a short row", replace(looked(), short)),
            ("a row with fewer columns", replace(looked(), row(&[&11u64.to_be_bytes()]))),
            ("a row with more columns", replace(looked(), row(&[&[0; 8], &[0], &[0], b"", b"", b"", b""]))),
            ("a number of three bytes", replace(looked(), row(&[&[1, 2, 3], &[0], &[0], b"UTF8", b"00000003"]))),
            ("text that is none", replace(looked(), row(&[&[0; 8], &[0], &[0], &[0xff, 0xfe], b"00000003"]))),
            ("a timeline that is none", replace(looked(), row(&[&[0; 8], &[0], &[0], b"UTF8", b"zzzz"]))),
            ("nulls", replace(looked(), message(b'D', &[&[0, 5], &[0xff; 20][..]].concat()))),
            ("other types", replace(description(&LOOK), description(&[25, 25, 25, 25, 25]))),
            ("fewer columns in the description", replace(description(&LOOK), description(&LOOK[..2]))),
            ("no row", replace(looked(), Vec::new())),
            ("two rows", replace(looked(), [looked(), looked()].concat())),
            ("a huge row", replace(looked(), huge(b'D'))),
            ("an answer to nothing", replace(looked(), message(b'Z', b"I"))),
        ] {
            let said = tokio::time::timeout(SOON, look(bend, QUICK)).await.expect(what);
            assert!(said.is_err(), "{what}: {said:?}");
        }
        assert_eq!(panics.load(std::sync::atomic::Ordering::SeqCst), 0);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn replies_with_any_bytes_changed_are_survived() {
        let panics = count_panics();
        let mut random = 20_261_125u64;
        let mut below = move |bound: u64| {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from((random >> 33) % bound).unwrap()
        };
        let mut looking = tokio::task::JoinSet::new();
        for _ in 0..400 {
            let (which, at, what, cut) = (below(4), below(160), below(256), below(8));
            let bend: Bend = Arc::new(move |number, mut reply| {
                if number != which || reply.is_empty() {
                    return reply;
                }
                let at = at % reply.len();
                match cut {
                    0 => reply.truncate(at),
                    1 => drop(reply.remove(at)),
                    2 => reply.insert(at, u8::try_from(what).unwrap()),
                    _ => reply[at] = u8::try_from(what).unwrap(),
                }
                reply
            });
            looking.spawn(async move { tokio::time::timeout(SOON, look(bend, Duration::from_secs(2))).await });
        }
        let said = looking.join_all().await;
        assert!(said.iter().all(Result::is_ok), "each ends in time");
        let refused = said.iter().flatten().filter(|said| said.is_err()).count();
        assert!((40..400).contains(&refused), "{refused} of 400 were refused: nothing was tried");
        assert_eq!(panics.load(std::sync::atomic::Ordering::SeqCst), 0);
    }
}
