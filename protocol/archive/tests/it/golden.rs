//! What lies in an archive is frozen: every later build must read it. Written anew with `UPDATE_GOLDEN=1`, after a
//! deliberate change that raised the record's version and keeps reading the old file.

use std::path::PathBuf;

use archive::pointer::{Pointer, SegmentRef};
use archive::segment;
use protocol::crypto::{SigningKey, TrustedKeys};
use protocol::{Chain, Delta, Digest, Position};

use crate::writing::{CLUSTER, Cluster, epoch};

fn golden(name: &str, fresh: &[u8]) -> Vec<u8> {
    let file = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name);
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        std::fs::write(&file, fresh).unwrap();
    }
    std::fs::read(&file).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn key() -> SigningKey {
    SigningKey::from_seed([1; 32])
}

fn trusted() -> TrustedKeys {
    TrustedKeys::new([key().public()])
}

#[test]
fn segments() {
    let mut cluster = Cluster::new(1);
    let before = cluster.config.clone();
    cluster.fill(0..3);
    let delta = Delta {
        prev: before.changed_at(),
        position: cluster.config.position(),
        changes: cluster.config.changes_since(&before),
        digest: cluster.config.digest(),
        cause: None,
    };
    let chain = Some(Chain([9; 32]));
    let fresh = segment::write(CLUSTER, None, &delta, chain, 4, &key()).unwrap();
    let read = segment::read(&golden("segment.v1.bin", &fresh), CLUSTER, &None, &trusted(), 1 << 20).unwrap();
    assert_eq!(read.steps[0].0, delta);
    assert_eq!((read.header.chain, read.header.level, read.header.position), (chain, 4, delta.position));
}

#[test]
fn pointers() {
    let at = |revision| Position { epoch: epoch(2), revision };
    let pointer = Pointer {
        cluster: CLUSTER,
        view: Some("default".into()),
        position: at(9),
        digest: Digest([3; 32]),
        base: at(5),
        base_changed_at: at(4),
        base_bytes: 1234,
        segments: vec![
            SegmentRef { prev: at(4), position: at(7), bytes: 70 },
            SegmentRef { prev: at(7), position: at(9), bytes: 90 },
        ],
        written: 1_700_000_000_000,
    };
    let fresh = pointer.seal(&key());
    let stored = golden("pointer.v1.bin", &fresh);
    assert_eq!(stored, fresh, "the stored form has changed");
    assert_eq!(Pointer::open(&stored, CLUSTER, &pointer.view, &trusted()), Ok(pointer));
}
