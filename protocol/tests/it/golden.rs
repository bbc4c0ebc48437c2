//! Stored and sent bytes are frozen: every record has a golden file per layout version, which every later build must
//! read and, for the newest version, write.
//!
//! After a deliberate change: raise the record's `VERSION`, keep reading the old file, run with `UPDATE_GOLDEN=1`, and say
//! so in the changelog.

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;

use protocol::codec::{self, Record};
use protocol::command::{
    Action, BasedOn, Batch, Command, Draft, Idempotency, Origin, RecordAction, RecordMark, StageId, Transaction, Write,
};
use protocol::delta::{Cause, Change};
use protocol::entry::{Claim, Stamp};
use protocol::outcome::{Written, WrittenHow};
use protocol::position::RestoreId;
use protocol::snapshot::{self, ClusterId, Expected, Header, MacKey, SectionTag};
use protocol::state::BucketContents;
use protocol::{Chain, ConfigState, Delta, Digest, Entry, Epoch, Kind, Outcome, Position, Rejection, ResourceKey};

fn file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Compares with the golden file, which holds hexadecimal digits, 64 a line.
fn is_golden(name: &str, bytes: &[u8]) {
    let digits: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    let lines: Vec<&str> = digits.as_bytes().chunks(64).map(|l| str::from_utf8(l).unwrap()).collect();
    let text = lines.join("\n") + "\n";
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(file(name), &text).unwrap();
    }
    let golden = std::fs::read_to_string(file(name)).unwrap_or_else(|e| panic!("{name}: {e}"));
    assert_eq!(golden, text, "{name}: the stored form has changed");
}

fn record_is_golden<T: Record + PartialEq + Debug>(name: &str, record: &T) {
    let frame = codec::seal(record).unwrap();
    is_golden(name, &frame);
    assert_eq!(&codec::open::<T>(&frame).unwrap(), record);
}

fn key(id: &str) -> ResourceKey {
    ResourceKey::new("routes", id)
}

fn position(revision: u64) -> Position {
    Position { epoch: Epoch { number: 3, restore: RestoreId([0xaa; 16]) }, revision }
}

fn draft() -> Draft {
    Draft {
        body: r#"{"upstream_id":"u1","uri":"/a"}"#.into(),
        references: vec![ResourceKey::new("upstreams", "u1")],
        claims: vec![Claim { space: "key-auth".into(), hash: [0xcc; 32] }],
        groups: vec!["default".into(), "edge".into()],
        ttl_seconds: Some(300),
    }
}

fn entry() -> Arc<Entry> {
    let draft = draft();
    Arc::new(Entry {
        body: draft.body,
        references: draft.references,
        claims: draft.claims,
        groups: draft.groups,
        created: Stamp { revision: 5, time: 1_790_000_000_000 },
        modified: Stamp { revision: 260, time: 1_790_000_001_000 },
        ttl_seconds: draft.ttl_seconds,
    })
}

fn command(action: Action) -> Command {
    Command {
        origin: Some(Origin { node: 2, boot: 7, sequence: 300, answered_below: 290 }),
        idempotency: Some(Idempotency { key: "k-1".into(), fingerprint: [0xbb; 32] }),
        request: "k-1".into(),
        author: "admin".into(),
        time: 1_790_000_002_000,
        based_on: vec![BasedOn { key: key("r1"), modified: Some(260) }, BasedOn { key: key("r2"), modified: None }],
        action,
    }
}

fn put() -> Write {
    Write::Put { key: key("r1"), draft: draft(), if_match: Some(260), only_new: false }
}

fn actions() -> Vec<(&'static str, Action)> {
    let stage = StageId { node: 2, boot: 7, number: 1 };
    vec![
        ("put", Action::Write(put())),
        ("post", Action::Write(Write::Post { kind: Kind::new("routes"), draft: draft() })),
        ("delete", Action::Write(Write::Delete { key: key("r1"), if_match: None, force: true })),
        ("transaction", Action::Transaction(Transaction { writes: vec![put()], if_revision: Some(9) })),
        ("expire", Action::Expire { key: key("r1"), modified: 260 }),
        ("stage-part", Action::StagePart { stage, part: 1, bytes: vec![1, 2, 3] }),
        ("stage-commit", Action::StageCommit { stage, parts: 2, raw_bytes: 70_000, sha256: [0xdd; 32] }),
        ("enrol", Action::Enrol { uuid: [0xee; 16] }),
        ("raise-level", Action::RaiseLevel { to: 2 }),
    ]
}

/// Actions that came after the first batch was frozen.
fn later_actions() -> Vec<(&'static str, Action)> {
    let restore = RestoreId([0xab; 16]);
    let mark = RecordMark { revision: 300, chain: Chain([0xcd; 32]), system: u64::MAX - 1, timeline: 300, term: 7 };
    vec![
        ("record-on", Action::Record(RecordAction::On)),
        ("record-off", Action::Record(RecordAction::Off)),
        ("record-recorded", Action::Record(RecordAction::Recorded(mark))),
        ("record-release", Action::Record(RecordAction::Release)),
        ("restore-begin", Action::RestoreBegin { epoch: Epoch { number: 4, restore } }),
        ("restore-part", Action::RestorePart { restore, part: 1, bytes: vec![1, 2, 3] }),
        ("restore-end", Action::RestoreEnd { restore, parts: 2, sha256: [0xef; 32] }),
    ]
}

#[test]
fn commands() {
    for (name, action) in actions().into_iter().chain(later_actions()) {
        record_is_golden(&format!("command-{name}.v1.hex"), &command(action));
    }
    let commands = actions().into_iter().map(|(_, action)| command(action)).collect();
    record_is_golden("batch.v1.hex", &Batch { elapsed_millis: 1500, commands });
    record_is_golden("transaction.v1.hex", &Transaction { writes: vec![put()], if_revision: None });
}

#[test]
fn outcomes() {
    let stamp = |revision| Stamp { revision, time: 1_790_000_000_000 };
    let written = vec![
        Written { key: key("r1"), how: WrittenHow::Created { stamp: stamp(261) } },
        Written { key: key("r2"), how: WrittenHow::Replaced { created: stamp(5), modified: stamp(261) } },
        Written { key: key("r3"), how: WrittenHow::Deleted },
    ];
    record_is_golden("outcome-done.v1.hex", &Outcome::Done { position: position(261), written });
    record_is_golden("outcome-staged.v1.hex", &Outcome::Staged);
    record_is_golden("outcome-enrolled.v1.hex", &Outcome::Enrolled { node: 4 });
    record_is_golden("outcome-level.v1.hex", &Outcome::Level { level: 2 });
    record_is_golden("outcome-record.v1.hex", &Outcome::Record);
    record_is_golden("outcome-restoring.v1.hex", &Outcome::Restoring);
    record_is_golden("outcome-restored.v1.hex", &Outcome::Restored { position: position(261) });
    let (from, to) = (key("r1"), ResourceKey::new("upstreams", "u1"));
    let rejections = [
        Rejection::Stale { key: key("r1") },
        Rejection::Mismatch { key: key("r1"), wanted: 5, found: Some(6) },
        Rejection::NotFound { key: key("r1") },
        Rejection::Exists { key: key("r1") },
        Rejection::MissingReference { from: from.clone(), to: to.clone() },
        Rejection::StillReferenced { key: to.clone(), by: from.clone() },
        Rejection::ForeignGroup { from, to, group: "edge".into() },
        Rejection::Claimed { key: key("r1"), space: "key-auth".into(), by: key("r2") },
        Rejection::KeyReused { key: "k-1".into() },
        Rejection::RevisionMoved { wanted: 1, found: 2 },
        Rejection::Twice { key: key("r1") },
        Rejection::Malformed { why: "why".into() },
        Rejection::Forgotten,
        Rejection::Stage { why: "why".into() },
        Rejection::Level { wanted: 3, level: 1, supported: 2 },
        Rejection::RecordBehind { changes: 300, bytes: 70_000 },
        Rejection::Record { why: "why".into() },
        Rejection::Restore { why: "why".into() },
    ];
    let frames: Vec<u8> = rejections
        .into_iter()
        .flat_map(|rejection| codec::seal(&Outcome::Refused { position: position(261), rejection }).unwrap())
        .collect();
    is_golden("outcomes-refused.v1.hex", &frames);
}

#[test]
fn deltas_and_buckets() {
    record_is_golden("entry.v1.hex", &*entry());
    let changes = vec![Change { key: key("r1"), entry: Some(entry()) }, Change { key: key("r2"), entry: None }];
    let cause = Cause { author: "admin".into(), request: "k-1".into(), time: 1_790_000_002_000 };
    let delta =
        Delta { prev: position(260), position: position(261), changes, digest: Digest([0x11; 32]), cause: Some(cause) };
    record_is_golden("delta.v1.hex", &delta);
    record_is_golden("delta-of-a-view.v1.hex", &Delta { cause: None, ..delta });
    let contents = BucketContents {
        position: position(261),
        changed_at: position(260),
        digest: Digest([0x22; 32]),
        buckets: vec![0, 255],
        entries: vec![(key("r1"), entry())],
    };
    record_is_golden("buckets.v1.hex", &contents);
}

/// The value of an entry in a digest is stored and compared between versions: it is frozen like a record.
#[test]
fn digests() {
    assert_eq!(
        Digest::of_entry(&key("r1"), &entry()).to_string(),
        "1463519939d0d6d38dabdc81ed854f6f8088d36824728ad2b5d65ea7900be1f8"
    );
    assert_eq!(protocol::digest::bucket_of(&key("r1")), 113);
}

/// A snapshot's compressed blocks may differ between versions of the compressor; so a golden one is read, not compared.
#[test]
fn snapshots() {
    let mut state = ConfigState::serving();
    state.begin_epoch(position(0).epoch);
    let step = |state: &mut ConfigState, entry: Option<Arc<Entry>>| {
        let changes = vec![Change { key: key("r1"), entry }];
        let cause = Cause { author: "admin".into(), request: "k-1".into(), time: 1_790_000_002_000 };
        let (prev, digest) = (state.changed_at(), state.digest_after(&changes));
        let position = state.position().next();
        state.evolve(&Delta { prev, position, changes, digest, cause: Some(cause) }).unwrap();
    };
    step(&mut state, Some(entry()));
    step(&mut state, None);
    step(&mut state, Some(entry()));
    let header = Header {
        cluster: ClusterId([0x33; 16]),
        view: None,
        position: state.position(),
        changed_at: state.changed_at(),
        chain: Some(state.chain()),
        digest: state.digest(),
        entries: 1,
        level: 1,
        created: 1_790_000_003_000,
    };
    let sections: [(SectionTag, &[u8]); 2] = [(SectionTag::CONTROL, b"control"), (SectionTag::RAFT, b"raft")];
    let key = MacKey([0x44; 32]);
    let path = file("snapshot.v1.bin");
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let mut bytes = Vec::new();
        snapshot::write(&mut bytes, &header, &state, &sections, &key).unwrap();
        std::fs::write(&path, bytes).unwrap();
    }
    let golden = std::fs::read(&path).unwrap();
    let loaded = snapshot::read(&mut &golden[..], ConfigState::serving(), &Expected::default(), &key).unwrap();
    assert_eq!(loaded.header, header);
    assert_eq!(loaded.state, state);
    assert_eq!(loaded.state.view("edge").changed_at(), state.view("edge").changed_at());
    assert_eq!(loaded.sections[&SectionTag::CONTROL.0], b"control");
}
