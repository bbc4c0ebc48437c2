//! Snapshots: what is written comes back, and nothing else does.

use std::sync::Arc;

use super::*;
use crate::delta::{Cause, Change, Delta};
use crate::entry::{Entry, Stamp};
use crate::key::ResourceKey;
use crate::state::ConfigState;

fn entry(revision: u64, body: &str) -> Arc<Entry> {
    let stamp = Stamp { revision, time: 1_700_000_000_000 + revision };
    Arc::new(Entry::new(body, "default", stamp))
}

/// A serving state with `n` routes, of which every tenth was removed again.
fn state(n: u64) -> ConfigState {
    let mut state = ConfigState::serving();
    let step = |state: &mut ConfigState, key: ResourceKey, entry: Option<Arc<Entry>>| {
        let changes = vec![Change { key, entry }];
        let delta = Delta {
            prev: state.changed_at(),
            position: state.position().next(),
            digest: state.digest_after(&changes),
            changes,
            cause: Some(Cause { author: "a".into(), request: "r".into(), time: 1 }),
        };
        state.evolve(&delta).unwrap();
    };
    for i in 0..n {
        let revision = state.position().next().revision;
        let body = format!(r#"{{"upstream_id":"u1","uri":"/path/{i}"}}"#);
        step(&mut state, ResourceKey::new("routes", &format!("r{i}")), Some(entry(revision, &body)));
    }
    for i in (0..n).step_by(10) {
        step(&mut state, ResourceKey::new("routes", &format!("r{i}")), None);
    }
    state
}

fn header(state: &ConfigState) -> Header {
    Header {
        cluster: ClusterId([7; 16]),
        view: None,
        position: state.position(),
        changed_at: state.changed_at(),
        chain: Some(state.chain()),
        digest: state.digest(),
        entries: state.len() as u64,
        level: 1,
        created: 5,
    }
}

fn written(state: &ConfigState, sections: &[(SectionTag, &[u8])], sealer: &impl Sealer) -> Vec<u8> {
    let mut bytes = Vec::new();
    let summary = write(&mut bytes, &header(state), state, sections, sealer).unwrap();
    assert_eq!(summary.bytes, bytes.len() as u64);
    bytes
}

fn open(bytes: &[u8]) -> Result<Loaded, SnapshotError> {
    read(&mut &bytes[..], ConfigState::serving(), &Expected::default(), &Unsealed)
}

#[test]
fn what_is_written_comes_back_with_views_and_sections() {
    let state = state(300);
    let big = vec![9u8; 3 << 20];
    let bytes = written(&state, &[(SectionTag::CONTROL, &big), (SectionTag::RAFT, b"raft")], &Unsealed);
    let loaded = open(&bytes).unwrap();
    assert_eq!(loaded.state, state);
    assert_eq!(loaded.sections[&SectionTag::CONTROL.0], big);
    assert_eq!(loaded.sections[&SectionTag::RAFT.0], b"raft");
    let (ours, theirs) = (state.view("default"), loaded.state.view("default"));
    assert_eq!(ours.changed_at(), theirs.changed_at());
    assert!(ours.tombstones().eq(theirs.tombstones()) && ours.tombstones().count() == 30);
    // A node that restarted from it serves the same delta as one that never stopped.
    let from = Position { revision: 200, ..state.position() };
    assert_eq!(loaded.state.catch_up("default", from, from), state.catch_up("default", from, from));
}

/// A state with one resource whose body has so many bytes.
fn with_body(bytes: usize) -> ConfigState {
    let mut state = ConfigState::following();
    let body = format!("{{\"a\":\"{}\"}}", "x".repeat(bytes - 8));
    let changes = vec![Change { key: ResourceKey::new("protos", "p"), entry: Some(entry(1, &body)) }];
    let digest = state.digest_after(&changes);
    let delta = Delta { prev: state.changed_at(), position: state.position().next(), changes, digest, cause: None };
    state.evolve(&delta).unwrap();
    state
}

#[test]
fn an_entry_larger_than_a_block_is_cut_and_joined_and_what_no_reader_takes_is_not_written() {
    for bytes in [3 << 20, (8 << 20) - 100] {
        let state = with_body(bytes);
        assert_eq!(open(&written(&state, &[], &Unsealed)).unwrap().state, state, "{bytes}");
    }
    let state = with_body(8 << 20);
    let refused = write(&mut Vec::new(), &header(&state), &state, &[], &Unsealed).unwrap_err().to_string();
    assert!(
        refused.starts_with("protos/p: 83886") && refused.ends_with("no reader takes more than 8388608"),
        "{refused}"
    );
}

#[test]
fn every_flipped_byte_is_refused() {
    let bytes = written(&state(20), &[(SectionTag::CONTROL, b"control")], &Unsealed);
    for at in 0..bytes.len() {
        let mut bad = bytes.clone();
        bad[at] ^= 0x10;
        // The seal byte of an unsealed snapshot sits in a record with a checksum of its own, so this holds everywhere.
        assert!(open(&bad).is_err(), "byte {at} of {}", bytes.len());
    }
}

#[test]
fn every_truncation_and_every_tail_is_refused() {
    let bytes = written(&state(20), &[], &Unsealed);
    for have in 0..bytes.len() {
        assert!(matches!(open(&bytes[..have]), Err(SnapshotError::Short)), "{have} bytes");
    }
    let mut longer = bytes;
    longer.push(0);
    assert!(matches!(open(&longer), Err(SnapshotError::Damaged(_))));
}

#[test]
fn anothers_key_cluster_or_view_is_refused_with_its_own_reason() {
    let state = state(5);
    let key = MacKey([1; 32]);
    let bytes = written(&state, &[], &key);
    let open = |expected: &Expected, key: &MacKey| {
        read(&mut &bytes[..], ConfigState::following(), expected, key).map(|loaded| loaded.header)
    };
    assert!(open(&Expected::default(), &key).is_ok());
    let wrong = open(&Expected::default(), &MacKey([2; 32])).unwrap_err();
    assert_eq!(wrong.to_string(), "its seal does not fit its content");
    let foreign = Expected { cluster: Some(ClusterId([8; 16])), view: None };
    let wrong = open(&foreign, &key).unwrap_err();
    assert_eq!(
        wrong.to_string(),
        "it is of cluster 07070707070707070707070707070707, this is 08080808080808080808080808080808"
    );
    let view = Expected { cluster: None, view: Some("edge".into()) };
    assert!(matches!(open(&view, &key), Err(SnapshotError::View { .. })));
    let unsealed = written(&state, &[], &Unsealed);
    let missing = read(&mut &unsealed[..], ConfigState::following(), &Expected::default(), &key).unwrap_err();
    assert_eq!(missing.to_string(), "it is not sealed as required here");
}

#[test]
fn a_header_that_lies_is_refused() {
    let state = state(5);
    let lie = |change: &dyn Fn(&mut Header)| {
        let mut header = header(&state);
        change(&mut header);
        let mut bytes = Vec::new();
        write(&mut bytes, &header, &state, &[], &Unsealed).unwrap();
        open(&bytes).unwrap_err().to_string()
    };
    assert!(lie(&|h| h.entries = 2).contains("more entries than its header says"));
    assert!(lie(&|h| h.digest.0[0] ^= 1).contains("its header says"));
}

#[test]
fn a_decompression_bomb_allocates_one_block() {
    let mut bytes = Vec::new();
    bytes.extend_from_slice(&MAGIC);
    bytes.extend_from_slice(&crate::codec::seal(&header(&ConfigState::serving())).unwrap());
    let bomb = zstd::bulk::compress(&vec![0; 64 << 20], 1).unwrap();
    let mut block = vec![1u8];
    block.extend_from_slice(&u32::try_from(block::RAW_BYTES_MAX).unwrap().to_le_bytes());
    block.extend_from_slice(&u32::try_from(bomb.len()).unwrap().to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&block), &bomb);
    block.extend_from_slice(&crc.to_le_bytes());
    block.extend_from_slice(&bomb);
    bytes.extend_from_slice(&block);
    let refused = open(&bytes).unwrap_err().to_string();
    assert!(refused.contains("does not decompress to its announced size"), "{refused}");
}

#[test]
fn what_is_no_snapshot_or_a_newer_one_says_so() {
    assert!(matches!(open(b"PK\x03\x04aaaaaaaaaaaa"), Err(SnapshotError::Magic)));
    assert!(matches!(open(b"HFSNAP02aaaaaaaaaaaa"), Err(SnapshotError::Newer(_))));
}
