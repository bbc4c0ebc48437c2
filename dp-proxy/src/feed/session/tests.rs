//! Streams as transcripts: what a node sends, what the proxy makes of it.

use std::sync::Arc;

use protocol::entry::Stamp;
use protocol::grpc::{Behind, Refused};
use protocol::position::{Epoch, RestoreId};
use protocol::snapshot::Header;
use protocol::state::CatchUp;
use protocol::{Chain, Digest, Entry, ResourceKey};

use super::*;

const CLUSTER: ClusterId = ClusterId([3; 16]);
const BOUNDS: Bounds = Bounds { payload_bytes_max: 1 << 20, silence_max: Duration::from_secs(5) };

/// A node of the control plane with its configuration, and the messages that it would send.
struct Cp {
    state: ConfigState,
    last: Option<(ConfigState, Delta)>,
}

impl Cp {
    fn new() -> Self {
        let mut state = ConfigState::serving();
        state.begin_epoch(Epoch { number: 1, restore: RestoreId([1; 16]) });
        let mut cp = Self { state, last: None };
        cp.edit("routes", "first", "default");
        cp
    }

    /// One commit; the view's step, if it touches the view.
    fn edit(&mut self, kind: &str, body: &str, group: &str) -> Option<Delta> {
        let position = self.state.position().next();
        let stamp = Stamp { revision: position.revision, time: 0 };
        let entry = Entry::new(format!("{{\"n\":\"{body}\"}}"), group, stamp);
        let changes = vec![Change { key: ResourceKey::new(kind, body), entry: Some(Arc::new(entry)) }];
        let (prev, digest) = (self.state.changed_at(), self.state.digest_after(&changes));
        let before = self.state.clone();
        let steps = self.state.evolve(&Delta { prev, position, changes, digest, cause: None }).unwrap();
        let step = steps.into_iter().find(|(group, _)| group == "default").map(|(_, step)| step);
        self.last = step.clone().map(|step| (before, step));
        step
    }

    fn welcome(&self) -> FeedDown {
        let welcome = Welcome {
            cluster: CLUSTER.to_string(),
            node_id: 1,
            node_name: "cp1".into(),
            region: String::new(),
            version: String::new(),
            silence_ms_max: 3000,
        };
        FeedDown { kind: Some(Down::Welcome(welcome)) }
    }

    fn heartbeat(&self) -> FeedDown {
        let view = self.state.view("default");
        heartbeat(self.state.position(), view.changed_at(), view.digest().total(), 0)
    }

    fn full(&self) -> FeedDown {
        let view = self.state.view("default");
        let entries = self.state.iter().filter(|(_, e)| e.is_in("default")).map(|(k, e)| (k.clone(), e.clone()));
        let state = ConfigState::from_entries(
            ConfigState::following(),
            self.state.position(),
            view.changed_at(),
            Chain::default(),
            entries,
        );
        let header = Header {
            cluster: CLUSTER,
            view: Some("default".into()),
            position: state.position(),
            changed_at: state.changed_at(),
            chain: None,
            digest: state.digest(),
            entries: state.len() as u64,
            level: 1,
            created: 0,
        };
        let mut bytes = Vec::new();
        snapshot::write(&mut bytes, &header, &state, &[], &Unsealed).unwrap();
        payload(PayloadKind::Full, &bytes)
    }

    fn buckets(&self, mend: &FeedUp) -> FeedDown {
        let Some(Up::Mend(mend)) = &mend.kind else { panic!("{mend:?}") };
        let theirs = grpc::buckets_from_bytes(&mend.buckets).unwrap();
        payload(PayloadKind::Buckets, &codec::seal(&self.state.bucket_contents("default", &theirs)).unwrap())
    }
}

fn heartbeat(position: Position, changed_at: Position, digest: Digest, age: u64) -> FeedDown {
    let heartbeat = Heartbeat {
        position: Some(position.into()),
        changed_at: Some(changed_at.into()),
        digest: digest.0.to_vec().into(),
        leader_contact_age_ms: age,
    };
    FeedDown { kind: Some(Down::Heartbeat(heartbeat)) }
}

fn payload(kind: PayloadKind, bytes: &[u8]) -> FeedDown {
    let payload = Payload {
        kind: kind.into(),
        total_bytes: bytes.len() as u64,
        zstd: false,
        raw_bytes: 0,
        part: Bytes::copy_from_slice(bytes),
        last: true,
    };
    FeedDown { kind: Some(Down::Payload(payload)) }
}

fn delta(delta: &Delta) -> FeedDown {
    payload(PayloadKind::Delta, &codec::seal(delta).unwrap())
}

/// A proxy on one stream.
struct Dp {
    holding: Holding,
    session: Session,
    now: Instant,
}

impl Dp {
    fn new() -> Self {
        let now = Instant::now();
        let holding = Holding { cluster: None, state: ConfigState::following() };
        Self { holding, session: Session::new("default".into(), BOUNDS, now), now }
    }

    /// One that is up to date with `cp`.
    fn following(cp: &Cp) -> Self {
        let mut dp = Self::new();
        dp.take(cp.welcome()).unwrap();
        dp.take(cp.full()).unwrap();
        dp
    }

    fn take(&mut self, message: FeedDown) -> Result<Option<Event>, Leave> {
        let before = self.holding.clone();
        let result = self.session.take(&mut self.holding, message, self.now);
        match &result {
            Ok(Some(Event::Moved(moved))) => {
                assert_eq!(moved.before, before.state);
                assert_eq!(moved.position, self.holding.state.position());
                let old = before.state.position();
                assert_ne!(moved.position.compare(&old).unwrap(), Ordering::Less, "law 4");
            }
            _ => assert_eq!(self.holding.state, before.state, "whatever brings no step changes nothing"),
        }
        result
    }

    fn agrees_with(&self, cp: &Cp) -> bool {
        let state = &self.holding.state;
        state.position() == cp.state.position() && state.digest() == cp.state.view("default").digest().total()
    }
}

fn keep(result: Result<Option<Event>, Leave>) -> Keep {
    let Ok(Some(Event::Moved(moved))) = result else { panic!("{result:?}") };
    moved.keep
}

#[test]
fn an_orderly_stream() {
    let mut cp = Cp::new();
    let mut dp = Dp::new();
    let Ok(Some(Event::Welcomed(node))) = dp.take(cp.welcome()) else { panic!("no welcome") };
    assert_eq!(node.first_contact, Some(CLUSTER));
    assert_eq!(keep(dp.take(cp.full())), Keep::Base);
    assert!(matches!(dp.take(cp.heartbeat()), Ok(Some(Event::Current))));
    let step = cp.edit("routes", "two", "default").unwrap();
    assert_eq!(keep(dp.take(delta(&step))), Keep::Frame(codec::seal(&step).unwrap().into()));
    assert!(dp.agrees_with(&cp));
    // A commit of another group is a bookmark, and the step after it still fits.
    assert_eq!(cp.edit("routes", "elsewhere", "edge"), None);
    assert_eq!(keep(dp.take(cp.heartbeat())), Keep::Mark);
    let step = cp.edit("routes", "three", "default").unwrap();
    dp.take(delta(&step)).unwrap();
    assert!(dp.agrees_with(&cp));
    // What came twice is old; what a newer node may say is let pass.
    assert!(matches!(dp.take(delta(&step)), Ok(None)));
    assert!(matches!(dp.take(FeedDown { kind: None }), Ok(None)));
    let alive = FeedDown { kind: Some(Down::KeepAlive(grpc::KeepAlive {})) };
    assert!(matches!(dp.take(alive), Ok(None)));
}

#[test]
fn a_stream_goes_on_from_where_the_last_one_ended() {
    let mut cp = Cp::new();
    let mut dp = Dp::following(&cp);
    for n in 0..5 {
        cp.edit("routes", &format!("missed {n}"), "default");
    }
    dp.session = Session::new("default".into(), BOUNDS, dp.now);
    let Ok(Some(Event::Welcomed(node))) = dp.take(cp.welcome()) else { panic!("no welcome") };
    assert_eq!(node.first_contact, None);
    let state = &dp.holding.state;
    let CatchUp::Delta(step) = cp.state.catch_up("default", state.position(), state.changed_at()) else {
        panic!("a step")
    };
    dp.take(delta(&step)).unwrap();
    assert!(dp.agrees_with(&cp));
}

#[test]
fn law_3_a_digest_that_does_not_match_is_mended_in_place() {
    let mut cp = Cp::new();
    let mut dp = Dp::following(&cp);
    // Something was changed here behind everybody's back.
    let mut entries: Vec<_> = dp.holding.state.iter().map(|(k, e)| (k.clone(), e.clone())).collect();
    entries.push((ResourceKey::new("routes", "stray"), entries[0].1.clone()));
    let (position, changed_at) = (dp.holding.state.position(), dp.holding.state.changed_at());
    let state = ConfigState::following();
    dp.holding.state = ConfigState::from_entries(state, position, changed_at, Chain::default(), entries);
    let damaged = dp.holding.clone();
    // Found by a heartbeat, and by a step.
    let step = cp.edit("routes", "two", "default").unwrap();
    for found_by in [cp.heartbeat(), delta(&step)] {
        dp.holding = damaged.clone();
        dp.session = Session::new("default".into(), BOUNDS, dp.now);
        dp.take(cp.welcome()).unwrap();
        let mut found_by = found_by;
        if let Some(Down::Heartbeat(_)) = &found_by.kind {
            let mut old = Cp::new();
            found_by = old.heartbeat();
            old.edit("routes", "two", "default");
        }
        let Ok(Some(Event::Mend(mend))) = dp.take(found_by) else { panic!("no mend") };
        // What comes in between waits for the repair, which brings it along.
        assert!(matches!(dp.take(delta(&step)), Ok(None)));
        assert!(matches!(dp.take(cp.heartbeat()), Ok(None)));
        let repair = cp.buckets(&mend);
        let Ok(Some(Event::Moved(moved))) = dp.take(repair.clone()) else { panic!("no repair") };
        assert_eq!(moved.keep, Keep::Base);
        assert!(dp.agrees_with(&cp));
        assert!(matches!(dp.take(cp.heartbeat()), Ok(Some(Event::Current))));
        assert!(matches!(dp.take(repair), Ok(None)), "a repair that nobody asked for");
    }
}

#[test]
fn a_repair_that_does_not_help_asks_for_everything() {
    let cp = Cp::new();
    let mut dp = Dp::following(&cp);
    let view = cp.state.view("default");
    let wrong = heartbeat(cp.state.position(), view.changed_at(), Digest([9; 32]), 0);
    let Ok(Some(Event::Mend(mend))) = dp.take(wrong.clone()) else { panic!("no mend") };
    let Some(Up::Mend(buckets)) = &mend.kind else { panic!("no mend") };
    let theirs = grpc::buckets_from_bytes(&buckets.buckets).unwrap();
    let mut contents = cp.state.bucket_contents("default", &theirs);
    contents.digest = Digest([9; 32]);
    let repair = payload(PayloadKind::Buckets, &codec::seal(&contents).unwrap());
    assert!(matches!(dp.take(repair), Err(Leave::NeedFull(_))));
    // Nor may an answer be waited for without end.
    let mut dp = Dp::following(&cp);
    dp.take(wrong.clone()).unwrap();
    for _ in 0..6 {
        dp.now += Duration::from_secs(1);
        dp.take(cp.heartbeat()).unwrap();
    }
    assert!(matches!(dp.session.tick(dp.now), Err(Leave::NeedFull(_))));
    // The full state at the position where we stand is no step back.
    dp.session = Session::new("default".into(), BOUNDS, dp.now);
    dp.take(cp.welcome()).unwrap();
    assert_eq!(keep(dp.take(cp.full())), Keep::Base);
}

#[test]
fn what_does_not_fit_ends_the_stream_and_changes_nothing() {
    let mut cp = Cp::new();
    let older = Cp::new();
    let first = cp.edit("routes", "two", "default").unwrap();
    let second = cp.edit("routes", "three", "default").unwrap();
    let follower = || {
        let mut dp = Dp::following(&older);
        dp.take(delta(&first)).unwrap();
        dp
    };
    let third = cp.edit("routes", "four", "default").unwrap();
    let mut elsewhere = second.clone();
    elsewhere.position.epoch.restore = RestoreId([9; 16]);
    let mut other_cluster = cp.welcome();
    if let Some(Down::Welcome(welcome)) = &mut other_cluster.kind {
        welcome.cluster = ClusterId([4; 16]).to_string();
    }
    let mut no_position = cp.heartbeat();
    if let Some(Down::Heartbeat(heartbeat)) = &mut no_position.kind {
        heartbeat.position = None;
    }
    let restart = |dp: &mut Dp| dp.session = Session::new("default".into(), BOUNDS, dp.now);
    let refused = FeedDown { kind: Some(Down::Refused(Refused { reason: "full".into() })) };
    let behind = FeedDown { kind: Some(Down::Behind(Behind { position: Some(older.state.position().into()) })) };
    type IsRight = fn(&Leave) -> bool;
    #[rustfmt::skip]
    let cases: [(&str, bool, FeedDown, IsRight); 13] = [
        ("a lost step", false, delta(&third), |l| matches!(l, Leave::Gap { .. })),
        ("a heartbeat beyond a lost step", false, cp.heartbeat(), |l| matches!(l, Leave::Gap { .. })),
        ("another history", false, delta(&elsewhere), |l| matches!(l, Leave::Conflict(_))),
        ("no delta", false, payload(PayloadKind::Delta, b"HFdeltxx"), |l| matches!(l, Leave::Nonsense(_))),
        ("no snapshot", false, payload(PayloadKind::Full, b"x"), |l| matches!(l, Leave::Nonsense(_))),
        ("a heartbeat from behind", false, older.heartbeat(), |l| matches!(l, Leave::Behind { .. })),
        ("everything from behind", false, older.full(), |l| matches!(l, Leave::Behind { .. })),
        ("a malformed heartbeat", false, no_position, |l| matches!(l, Leave::Nonsense(_))),
        ("a second welcome", false, cp.welcome(), |l| matches!(l, Leave::Nonsense(_))),
        ("no welcome", true, cp.heartbeat(), |l| matches!(l, Leave::Nonsense(_))),
        ("another cluster", true, other_cluster, |l| matches!(l, Leave::OtherCluster { .. })),
        ("refused", true, refused, |l| matches!(l, Leave::Refused(_))),
        ("behind", true, behind, |l| matches!(l, Leave::Behind { .. })),
    ];
    for (name, fresh, message, expected) in cases {
        let mut dp = follower();
        if fresh {
            restart(&mut dp);
        }
        let leave = dp.take(message).unwrap_err();
        assert!(expected(&leave), "{name}: {leave}");
        assert_eq!(dp.holding.state.position(), first.position, "{name}");
    }
}

#[test]
fn law_4_a_restore_is_the_only_way_back() {
    let mut cp = Cp::new();
    for n in 0..5 {
        cp.edit("routes", &format!("lost {n}"), "default");
    }
    let mut dp = Dp::following(&cp);
    let mut restored = Cp { state: ConfigState::serving(), last: None };
    restored.state.begin_epoch(Epoch { number: 2, restore: RestoreId([2; 16]) });
    restored.edit("routes", "first", "default");
    assert_eq!(keep(dp.take(restored.full())), Keep::Base);
    assert!(dp.agrees_with(&restored));
    assert!(matches!(dp.take(cp.full()), Err(Leave::Behind { .. })));
}

#[test]
fn a_silent_node_is_left() {
    let cp = Cp::new();
    let mut dp = Dp::new();
    dp.now += Duration::from_secs(4);
    dp.session.tick(dp.now).unwrap();
    dp.take(cp.welcome()).unwrap();
    // The welcome asks for three seconds.
    dp.now += Duration::from_millis(2900);
    dp.session.tick(dp.now).unwrap();
    dp.take(cp.full()).unwrap();
    dp.take(heartbeat(cp.state.position(), cp.state.position(), dp.holding.state.digest(), 1234)).unwrap();
    assert_eq!(dp.session.leader_age(), Some(Duration::from_millis(1234)));
    dp.now += Duration::from_millis(2900);
    dp.session.tick(dp.now).unwrap();
    dp.now += Duration::from_millis(200);
    assert!(matches!(dp.session.tick(dp.now), Err(Leave::Silent(_))));
}

#[test]
fn a_step_in_parts_is_one_step() {
    let mut cp = Cp::new();
    let mut dp = Dp::following(&cp);
    let step = cp.edit("routes", "two", "default").unwrap();
    let bytes = codec::seal(&step).unwrap();
    let at = |range: std::ops::Range<usize>| {
        let part = Payload {
            kind: PayloadKind::Delta.into(),
            total_bytes: bytes.len() as u64,
            zstd: false,
            raw_bytes: 0,
            part: Bytes::copy_from_slice(&bytes[range.clone()]),
            last: range.end == bytes.len(),
        };
        FeedDown { kind: Some(Down::Payload(part)) }
    };
    assert!(matches!(dp.take(at(0..10)), Ok(None)));
    // A heartbeat may come in between: it speaks of what was sent before.
    let before = Cp::new().heartbeat();
    assert!(matches!(dp.take(before), Ok(Some(Event::Current))));
    assert_eq!(keep(dp.take(at(10..bytes.len()))), Keep::Frame(bytes.clone().into()));
    assert!(dp.agrees_with(&cp));
}

#[test]
fn fuzz_messages_of_a_node_lead_forward_or_change_nothing() {
    let (mut cp, mut ahead) = (Cp::new(), Cp::new());
    let step = ahead.edit("routes", "two", "default").unwrap();
    let whole = [cp.welcome(), cp.full(), cp.heartbeat(), delta(&step), ahead.heartbeat(), ahead.full()];
    let encoded: Vec<Vec<u8>> = whole.iter().map(prost::Message::encode_to_vec).collect();
    let seeds: Vec<&[u8]> = encoded.iter().map(Vec::as_slice).collect();
    fuzz::hammer(2, &seeds, |bytes| {
        let Ok(message) = <FeedDown as prost::Message>::decode(bytes) else { return };
        // What holds of every message is looked at where it is taken.
        drop(Dp::following(&cp).take(message));
    });
    // What is inside of them, whole as far as the frames around it say.
    cp.edit("routes", "three", "default");
    let view = cp.state.bucket_contents("default", ConfigState::following().view("default").digest().buckets());
    let Some(Down::Payload(full)) = ahead.full().kind else { panic!("a full state is a payload") };
    let inside = [codec::seal(&step).unwrap(), full.part.to_vec(), codec::seal(&view).unwrap()];
    let seeds: Vec<&[u8]> = inside.iter().map(Vec::as_slice).collect();
    let held = Cp::new();
    fuzz::hammer(2, &seeds, |bytes| {
        for kind in [PayloadKind::Delta, PayloadKind::Full, PayloadKind::Buckets] {
            drop(Dp::following(&held).take(payload(kind, bytes)));
        }
    });
}
