//! A golden log: every later build must replay it to the same digests, entry by entry.
//!
//! `golden/log.v1.bin` holds framed batches, one after the other, and `golden/log.v1.txt` what each came to. A release that
//! changes a rule gates it by the level, so that these never change; a new level gets a log of its own.

use std::fmt::Write as _;
use std::path::PathBuf;

use protocol::codec;
use protocol::command::{
    Action, BasedOn, Batch, Command, Draft, Idempotency, Origin, RecordAction, RecordMark, STAGE_PART_BYTES_MAX,
    StageId, Transaction, Write,
};
use protocol::entry::Claim;
use protocol::position::RestoreId;
use protocol::snapshot::{self, ClusterId, Header, Unsealed};
use protocol::{Epoch, Kind, Outcome, ResourceKey, Text};
use raft_store::machine::{State, outbox_section, read_outbox, read_restoring, restoring_section};
use sha2::{Digest as _, Sha256};

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

fn epoch() -> Epoch {
    Epoch { number: 1, restore: RestoreId([7; 16]) }
}

/// Splits the file into frames by decoding them.
fn frames(bytes: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (_, used) = codec::open_prefix::<Batch>(rest).unwrap();
        let (frame, tail) = rest.split_at(used);
        frames.push(frame.to_vec());
        rest = tail;
    }
    frames
}

/// What each entry of a log comes to.
fn replay(frames: &[Vec<u8>]) -> String {
    let mut state = State::new(epoch());
    let mut text = String::new();
    for (index, frame) in frames.iter().enumerate() {
        let mut outcomes = Vec::new();
        state.apply_entry(frame, |_, effect| outcomes.push(effect.outcome)).unwrap();
        let words: Vec<String> = outcomes.iter().map(word).collect();
        let config = &state.config;
        writeln!(
            text,
            "{index} {} digest={} chain={} control={} [{}]",
            config.position(),
            config.digest(),
            config.chain(),
            state.control_digest(),
            words.join("; ")
        )
        .unwrap();
    }
    text
}

fn word(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Done { position, written } => format!("{position}: {} written", written.len()),
        Outcome::Staged => "staged".into(),
        Outcome::Enrolled { node } => format!("node {node}"),
        Outcome::Level { level } => format!("level {level}"),
        Outcome::Record => "record".into(),
        Outcome::Restoring => "restoring".into(),
        Outcome::Restored { position } => format!("restored at {position}"),
        Outcome::Refused { rejection, .. } => rejection.to_string(),
    }
}

/// The outbox and a restore, entry by entry, as the log before.
#[test]
fn the_golden_log_of_the_record_replays_to_the_same_digests() {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let frames: Vec<Vec<u8>> = a_log_with_a_record().iter().map(|batch| codec::seal(batch).unwrap()).collect();
        std::fs::write(file("record-log.v1.bin"), frames.concat()).unwrap();
        std::fs::write(file("record-log.v1.txt"), replay(&frames)).unwrap();
    }
    let frames = frames(&std::fs::read(file("record-log.v1.bin")).unwrap());
    let expected = std::fs::read_to_string(file("record-log.v1.txt")).unwrap();
    for (ours, golden) in replay(&frames).lines().zip(expected.lines()) {
        assert_eq!(ours, golden);
    }
    assert_eq!(frames.len(), expected.lines().count());
    for word in ["[record]", "not known with this chain", "knows better", "restoring", "restored at 2-", "not above"] {
        assert!(expected.contains(word), "the golden log never says {word:?}");
    }
}

/// The sections of a snapshot that hold the outbox and a restore, as the golden log leaves them half way, byte by byte:
/// `golden/outbox.v1.bin` and `golden/restoring.v1.bin`.
#[test]
fn the_golden_sections_read_back_as_they_were_written() {
    let frames = frames(&std::fs::read(file("record-log.v1.bin")).unwrap());
    let mut state = State::new(epoch());
    let (mut fullest, mut restoring) = (state.clone(), None);
    for frame in &frames {
        state.apply_entry(frame, |_, _| {}).unwrap();
        if state.outbox.mark().is_some() && state.outbox.bytes() > fullest.outbox.bytes() {
            fullest = state.clone();
        }
        restoring = state.restoring.clone().or(restoring);
    }
    let outbox = outbox_section(&fullest.outbox).unwrap().unwrap();
    let restoring_bytes = restoring_section(restoring.as_ref()).unwrap().unwrap();
    for (name, bytes) in [("outbox.v1.bin", &outbox), ("restoring.v1.bin", &restoring_bytes)] {
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            std::fs::write(file(name), bytes).unwrap();
        }
        assert_eq!(&std::fs::read(file(name)).unwrap(), bytes, "{name}");
    }
    assert_eq!(read_outbox(Some(&outbox)).unwrap(), fullest.outbox);
    let read = read_restoring(Some(&restoring_bytes)).unwrap();
    assert_eq!(restoring_section(read.as_ref()).unwrap(), Some(restoring_bytes));
    // Not a byte may lack, and none may be too many.
    assert!(read_outbox(Some(&outbox[..outbox.len() - 1])).is_err());
    assert!(read_outbox(Some(&[&outbox[..], b"x"].concat())).is_err());
}

fn a_log_with_a_record() -> Vec<Batch> {
    let mut random = Lcg(20_261_125);
    let mut state = State::new(epoch());
    let mut log: Vec<Batch> = Vec::new();
    let plain = |action| Command {
        origin: None,
        idempotency: None,
        request: "r".into(),
        author: "system".into(),
        time: 1_790_000_000_000,
        based_on: vec![],
        action,
    };
    for i in 0..80 {
        let head = state.config.position().revision;
        let action = match i % 8 {
            0 if i % 40 == 0 => Some(Action::Record(RecordAction::On)),
            3 | 6 => {
                let revision = head.saturating_sub(random.below(3));
                let chain = state.outbox.chain_at(revision).unwrap_or_default();
                let term = 5 - random.below(2);
                Some(Action::Record(RecordAction::Recorded(RecordMark {
                    revision,
                    chain,
                    system: 7,
                    timeline: 1,
                    term,
                })))
            }
            7 if i == 39 => Some(Action::Record(RecordAction::Release)),
            _ => None,
        };
        let commands = action.map_or_else(|| commands(&mut random, i), |action| vec![plain(action)]);
        let batch = Batch { elapsed_millis: random.below(120_000), commands };
        state.apply_entry(&codec::seal(&batch).unwrap(), |_, _| {}).unwrap();
        log.push(batch);
    }
    let config = &state.config;
    let header = Header {
        cluster: ClusterId([5; 16]),
        view: None,
        position: config.position(),
        changed_at: config.changed_at(),
        chain: Some(config.chain()),
        digest: config.digest(),
        entries: config.len() as u64,
        level: 1,
        created: 0,
    };
    let mut bytes = Vec::new();
    snapshot::write(&mut bytes, &header, config, &[], &Unsealed).unwrap();
    let restore = RestoreId([8; 16]);
    let begin = |number| Action::RestoreBegin { epoch: Epoch { number, restore } };
    let mut actions = vec![begin(1), begin(2)];
    let chunks: Vec<_> = bytes.chunks(300).collect();
    let parts = u32::try_from(chunks.len()).unwrap();
    actions.extend((0..).zip(chunks).map(|(part, b)| Action::RestorePart { restore, part, bytes: b.to_vec() }));
    actions.push(Action::RestoreEnd { restore, parts, sha256: Sha256::digest(&bytes).into() });
    log.extend(actions.into_iter().map(|action| Batch { elapsed_millis: 1, commands: vec![plain(action)] }));
    log.push(Batch { elapsed_millis: 1, commands: commands(&mut random, 100) });
    log
}

#[test]
fn the_golden_log_replays_to_the_same_digests() {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let frames: Vec<Vec<u8>> = a_log().iter().map(|batch| codec::seal(batch).unwrap()).collect();
        std::fs::write(file("log.v1.bin"), frames.concat()).unwrap();
        std::fs::write(file("log.v1.txt"), replay(&frames)).unwrap();
    }
    let frames = frames(&std::fs::read(file("log.v1.bin")).unwrap());
    let expected = std::fs::read_to_string(file("log.v1.txt")).unwrap();
    for (ours, golden) in replay(&frames).lines().zip(expected.lines()) {
        assert_eq!(ours, golden);
    }
    assert_eq!(frames.len(), expected.lines().count());
    // A log in which nothing happened would prove nothing.
    for word in ["written", "staged", "node 3", "level 1", "still used", "does not exist", "If-Match", "held by"] {
        assert!(expected.contains(word), "the golden log never says {word:?}");
    }
}

/// How the golden log was made: pseudo-random commands from a fixed seed, over few keys, with every kind of action.
fn a_log() -> Vec<Batch> {
    let mut random = Lcg(20_261_124);
    (0..150)
        .map(|i| {
            let commands = (0..1 + random.below(4)).flat_map(|_| commands(&mut random, i)).collect();
            Batch { elapsed_millis: random.below(120_000), commands }
        })
        .collect()
}

struct Lcg(u64);

impl Lcg {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

fn key(random: &mut Lcg) -> ResourceKey {
    let kind = ["routes", "services", "upstreams", "gadgets"][usize::try_from(random.below(4)).unwrap()];
    ResourceKey::new(kind, &format!("k{}", random.below(8)))
}

fn draft(random: &mut Lcg) -> Draft {
    let mut references: Vec<ResourceKey> =
        (0..random.below(2)).map(|_| ResourceKey::new("upstreams", &format!("k{}", random.below(8)))).collect();
    references.sort();
    references.dedup();
    let claims = if random.one_in(4) {
        vec![Claim { space: "key-auth".into(), hash: [u8::try_from(random.below(3)).unwrap(); 32] }]
    } else {
        vec![]
    };
    let mut groups: Vec<Text> = vec!["default".into()];
    if random.one_in(3) {
        groups.push("edge".into());
    }
    let ttl_seconds = random.one_in(5).then(|| random.below(3600));
    let body =
        format!(r#"{{"desc":"{}","uri":"/{}"}}"#, "x".repeat(random.below(200).try_into().unwrap()), random.below(99));
    Draft { body: body.into(), references, claims, groups, ttl_seconds }
}

fn write(random: &mut Lcg) -> Write {
    let if_match = random.one_in(6).then(|| random.below(300));
    match random.below(10) {
        0..6 => Write::Put { key: key(random), draft: draft(random), if_match, only_new: random.one_in(10) },
        6..9 => Write::Delete { key: key(random), if_match, force: random.one_in(5) },
        _ => Write::Post { kind: Kind::new("routes"), draft: draft(random) },
    }
}

fn commands(random: &mut Lcg, time: u64) -> Vec<Command> {
    let command = |random: &mut Lcg, action| Command {
        origin: random.one_in(2).then(|| {
            let sequence = 20 + time * 3 + random.below(9);
            Origin { node: 1 + random.below(3), boot: 1 + time / 60, sequence, answered_below: sequence - 20 }
        }),
        idempotency: random.one_in(5).then(|| Idempotency {
            key: format!("key-{}", random.below(9)).into(),
            fingerprint: [u8::try_from(random.below(2)).unwrap(); 32],
        }),
        request: format!("req-{}", random.below(1000)).into(),
        author: ["admin", "ci"][usize::try_from(random.below(2)).unwrap()].into(),
        time: 1_790_000_000_000 + time * 1000,
        based_on: (0..random.below(2).saturating_sub(random.below(2)))
            .map(|_| BasedOn { key: key(random), modified: random.one_in(2).then(|| random.below(300)) })
            .collect(),
        action,
    };
    match random.below(20) {
        0..12 => {
            let action = Action::Write(write(random));
            vec![command(random, action)]
        }
        12..16 => {
            let writes = (0..random.below(5)).map(|_| write(random)).collect();
            let if_revision = random.one_in(9).then(|| random.below(300));
            let action = Action::Transaction(Transaction { writes, if_revision });
            vec![command(random, action)]
        }
        16 => {
            let action = Action::Expire { key: key(random), modified: random.below(300) };
            vec![command(random, action)]
        }
        17 => {
            let mut uuid = [0; 16];
            uuid[0] = u8::try_from(random.below(5)).unwrap();
            vec![command(random, Action::Enrol { uuid })]
        }
        18 => {
            let to = u32::try_from(random.below(2)).unwrap();
            vec![command(random, Action::RaiseLevel { to })]
        }
        _ => {
            let writes = (0..3).map(|_| write(random)).collect();
            let raw = codec::seal(&Transaction { writes, if_revision: None }).unwrap();
            let whole = codec::compress(&raw);
            let stage = StageId { node: 1, boot: 1, number: random.below(1000) };
            let sha256 = Sha256::digest(&whole).into();
            let chunks: Vec<Vec<u8>> =
                whole.chunks(STAGE_PART_BYTES_MAX.min(whole.len().div_ceil(2))).map(<[u8]>::to_vec).collect();
            let parts = u32::try_from(chunks.len()).unwrap();
            let mut all: Vec<Command> = (0..)
                .zip(chunks)
                .map(|(part, bytes)| command(random, Action::StagePart { stage, part, bytes }))
                .collect();
            let raw_bytes = raw.len() as u64;
            all.push(command(random, Action::StageCommit { stage, parts, raw_bytes, sha256 }));
            all
        }
    }
}
