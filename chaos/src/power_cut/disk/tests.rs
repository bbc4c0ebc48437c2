//! What a cut leaves of files and names.

use std::collections::BTreeSet;

use super::luck::{PAGE_SECTORS, SECTOR_BYTES};
use super::*;

/// Inodes of files in these tests.
const A: u64 = 1 << 60;
const B: u64 = A + 1;

struct Played {
    disk: Disk,
    root: u64,
    _directory: tempfile::TempDir,
}

impl Played {
    fn new(forgets: Forgets) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let root = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(directory.path()).unwrap());
        Self { disk: Disk::of(directory.path(), forgets).unwrap(), root, _directory: directory }
    }

    fn does(&mut self, kind: Kind, inode: u64, number: u64, payload: &[u8]) -> &mut Self {
        let payload_bytes = u32::try_from(payload.len()).unwrap();
        self.disk.apply(Header { kind, inode, number, payload_bytes }, payload).unwrap();
        self
    }

    fn syncs_names(&mut self) -> &mut Self {
        self.does(Kind::SyncAll, self.root, 0, b"")
    }

    /// `a` with 8 KiB of ones, all safe.
    fn with_a(&mut self) -> &mut Self {
        self.does(Kind::Create, A, 0, b"a").does(Kind::Write, A, 0, &[1; 8192]).does(Kind::SyncData, A, 0, b"");
        self.syncs_names()
    }

    fn file(&self, name: &str, cut: Cut) -> Option<Vec<u8>> {
        match self.disk.cut(cut).remove(name)? {
            Node::File { bytes, .. } => Some(bytes),
            Node::Directory { .. } => None,
        }
    }

    fn seeds(&self) -> impl Iterator<Item = Cut> {
        (0..500).map(|seed| Cut::SomeLost { seed })
    }
}

#[test]
fn what_is_synced_is_there_whatever_the_luck() {
    let mut played = Played::new(Forgets::default());
    played.with_a();
    for cut in played.seeds().chain([Cut::AllLost]) {
        assert_eq!(played.file("a", cut).unwrap(), [1; 8192]);
    }
}

#[test]
fn pages_of_one_write_come_alone_or_torn_and_the_rest_stays_as_it_was() {
    let mut played = Played::new(Forgets::default());
    played.with_a().does(Kind::Write, A, 0, &[2; 8192]);
    let mut seen = BTreeSet::new();
    for cut in played.seeds() {
        let bytes = played.file("a", cut).unwrap();
        assert_eq!(bytes.len(), 8192);
        let sectors: Vec<u8> = bytes.chunks(SECTOR_BYTES).map(|sector| sector[0]).collect();
        assert!(bytes.chunks(SECTOR_BYTES).all(|sector| sector.iter().all(|byte| *byte == sector[0])));
        let page = |sectors: &[u8]| match sectors.iter().filter(|sector| **sector == 2).count() {
            0 => "old",
            PAGE_SECTORS => "new",
            _ => "torn",
        };
        seen.insert((page(&sectors[..PAGE_SECTORS]), page(&sectors[PAGE_SECTORS..])));
    }
    assert_eq!(seen.len(), 9, "each of old, new and torn beside each: {seen:?}");
    assert_eq!(played.file("a", Cut::AllLost).unwrap(), [1; 8192]);
}

#[test]
fn a_later_write_may_be_there_without_an_earlier_one() {
    let mut played = Played::new(Forgets::default());
    played.with_a().does(Kind::Write, A, 0, &[2; 4096]).does(Kind::Write, A, 4096, &[3; 4096]);
    let lone = played.seeds().any(|cut| {
        let bytes = played.file("a", cut).unwrap();
        bytes[..4096] == [1; 4096] && bytes[4096..] == [3; 4096]
    });
    assert!(lone);
}

#[test]
fn a_length_may_be_there_without_the_bytes() {
    let mut played = Played::new(Forgets::default());
    played.with_a().does(Kind::SetLength, A, 9000, b"").does(Kind::Write, A, 8192, &[2; 808]);
    let lengths: BTreeSet<usize> = played.seeds().map(|cut| played.file("a", cut).unwrap().len()).collect();
    assert!(lengths.contains(&8192) && lengths.contains(&9000), "{lengths:?}");
    let hollow = |bytes: Vec<u8>| bytes.len() == 9000 && bytes[8192..] == [0; 808];
    assert!(played.seeds().any(|cut| hollow(played.file("a", cut).unwrap())));
}

#[test]
fn a_file_is_replaced_wholly_or_not_at_all() {
    let mut played = Played::new(Forgets::default());
    played.with_a().does(Kind::Create, B, 0, b"b").does(Kind::Write, B, 0, b"new").does(Kind::SyncAll, B, 0, b"");
    played.does(Kind::Rename, 0, 0, b"b\0a");
    let mut seen = BTreeSet::new();
    for cut in played.seeds() {
        seen.insert((played.file("a", cut).unwrap().len(), played.file("b", cut).map(|bytes| bytes.len())));
    }
    // The new name may come without the old one's making; never both names, never none.
    assert_eq!(seen, BTreeSet::from([(3, None), (8192, None), (8192, Some(3))]));
    played.syncs_names();
    assert_eq!(played.file("a", Cut::AllLost).unwrap(), b"new");
}

#[test]
fn the_same_seed_loses_the_same() {
    let mut played = Played::new(Forgets::default());
    played.with_a().does(Kind::Write, A, 100, &[2; 5000]).does(Kind::Create, B, 0, b"b");
    assert!(played.seeds().all(|cut| played.disk.cut(cut) == played.disk.cut(cut)));
}

#[test]
fn a_disk_can_forget_what_it_is_told() {
    let mut played = Played::new(Forgets { data_of: Some("a"), names: false });
    played.with_a();
    assert_eq!(played.file("a", Cut::AllLost).unwrap(), Vec::<u8>::new());
    played.does(Kind::SyncAll, A, 0, b"");
    assert_eq!(played.file("a", Cut::AllLost).unwrap(), [1; 8192], "only `fdatasync` is forgotten");
    let mut played = Played::new(Forgets { data_of: None, names: true });
    played.with_a();
    assert_eq!(played.file("a", Cut::AllLost), None);
}
