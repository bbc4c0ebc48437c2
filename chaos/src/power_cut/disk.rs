//! A directory as a disk with a volatile cache sees it: what is there, and what of it is safe.

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use super::journal::Journal;
use super::record::{Header, Kind};
use super::tree::{self, Node, Tree};

/// What a disk writes at once.
const SECTOR_BYTES: usize = 512;
/// What a file system writes at once, mostly.
const PAGE_SECTORS: usize = 8;

/// What becomes of that which was not synced.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Cut {
    /// All of it is lost.
    AllLost,
    /// A random part of it has made it to the disk: pages, some of them torn, names, lengths, in any order.
    SomeLost {
        /// The same seed loses the same.
        seed: u64,
    },
}

/// A disk that does not do what it is told, for controls: what must go wrong on it?
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Forgets {
    /// `fdatasync` of files whose names begin so does nothing.
    pub data_of: Option<&'static str>,
    /// `fsync` of directories does nothing.
    pub names: bool,
}

/// What is there and what is safe. It outlives the processes that use it.
#[derive(Debug)]
pub struct Disk {
    things: Vec<Thing>,
    by_inode: HashMap<u64, usize>,
    forgets: Forgets,
}

/// The directory itself.
const ROOT: usize = 0;

#[derive(Debug)]
enum Thing {
    File {
        inode: u64,
        safe: Vec<u8>,
        /// Since the last sync.
        open: Vec<Change>,
    },
    Directory {
        inode: u64,
        safe: BTreeMap<String, usize>,
        now: BTreeMap<String, usize>,
        /// Since the last sync; what is in one item happens together or not at all.
        open: Vec<Vec<(String, Option<usize>)>>,
    },
}

#[derive(Debug)]
enum Change {
    Write(u64, Vec<u8>),
    Length(u64),
}

impl Disk {
    /// A directory all of which is safe.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn of(directory: &Path, forgets: Forgets) -> Result<Self> {
        let inode = std::os::unix::fs::MetadataExt::ino(&std::fs::metadata(directory)?);
        let mut disk = Self { things: Vec::new(), by_inode: HashMap::new(), forgets };
        disk.add(Thing::directory(inode));
        disk.compare(ROOT, &tree::read(directory)?);
        disk.things.iter_mut().for_each(Thing::settle);
        Ok(disk)
    }

    /// Takes in what a process has done. Then looks at the directory itself, for a process may have died between a call
    /// and its record; gives the number of such differences, which are taken in too, as not synced. After a process that
    /// has ended by itself there are none, else the library has missed something.
    ///
    /// # Errors
    /// When the journal does not make sense.
    pub fn take(&mut self, journal: &mut Journal, directory: &Path) -> Result<usize> {
        journal.read(|header, payload| {
            self.apply(header, payload).with_context(|| {
                let text = String::from_utf8_lossy(&payload[..payload.len().min(200)]).into_owned();
                format!("{header:?} {text:?}")
            })
        })?;
        Ok(self.compare(ROOT, &tree::read(directory)?))
    }

    /// What is left after a cut.
    #[must_use]
    pub fn cut(&self, cut: Cut) -> Tree {
        let mut luck = match cut {
            Cut::AllLost => Luck { state: None },
            Cut::SomeLost { seed } => Luck { state: Some(seed) },
        };
        self.left_of(ROOT, &mut luck)
    }

    /// Cuts the power: the directory becomes what is left of it, and all of that is safe.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn cut_at(&mut self, directory: &Path, cut: Cut) -> Result<()> {
        tree::replace(directory, &self.cut(cut))?;
        *self = Self::of(directory, self.forgets)?;
        Ok(())
    }

    fn apply(&mut self, header: Header, payload: &[u8]) -> Result<()> {
        let path = || std::str::from_utf8(payload).context("a path that is no text");
        match header.kind {
            Kind::Create => {
                let thing = self.add(Thing::File { inode: header.inode, safe: Vec::new(), open: Vec::new() });
                self.name(path()?, Some(thing))?;
            }
            Kind::MakeDirectory => {
                let thing = self.add(Thing::directory(header.inode));
                self.name(path()?, Some(thing))?;
            }
            Kind::Open => {
                let found = self.find(path()?)?;
                ensure!(self.by_inode.get(&header.inode) == Some(&found), "another thing has this inode");
            }
            Kind::Write => self.change(header.inode, Change::Write(header.number, payload.to_vec()))?,
            Kind::SetLength => self.change(header.inode, Change::Length(header.number))?,
            Kind::Rename => {
                let (from, to) = path()?.split_once('\0').context("one path")?;
                let thing = self.find(from)?;
                let ((from_dir, from), (to_dir, to)) = (self.parent(from)?, self.parent(to)?);
                if from_dir == to_dir {
                    self.names(from_dir, vec![(from, None), (to, Some(thing))])?;
                } else {
                    self.names(to_dir, vec![(to, Some(thing))])?;
                    self.names(from_dir, vec![(from, None)])?;
                }
            }
            Kind::Link => {
                let (from, to) = path()?.split_once('\0').context("one path")?;
                let thing = self.find(from)?;
                self.name(to, Some(thing))?;
            }
            Kind::Remove => self.name(path()?, None)?,
            Kind::SyncAll | Kind::SyncData => {
                let thing = *self.by_inode.get(&header.inode).context("an inode that nobody has opened")?;
                if !self.forgotten(thing, header.kind) {
                    self.things[thing].settle();
                }
            }
        }
        Ok(())
    }

    fn forgotten(&self, thing: usize, kind: Kind) -> bool {
        let has_name = |prefix: &str| {
            self.things.iter().any(|other| match other {
                Thing::Directory { now, .. } => {
                    now.iter().any(|(name, named)| name.starts_with(prefix) && *named == thing)
                }
                Thing::File { .. } => false,
            })
        };
        match self.things[thing] {
            Thing::Directory { .. } => self.forgets.names,
            Thing::File { .. } => kind == Kind::SyncData && self.forgets.data_of.is_some_and(has_name),
        }
    }

    /// Takes in what is really there; everything that is new by that is not safe. Gives the number of differences.
    fn compare(&mut self, directory: usize, tree: &Tree) -> usize {
        let mut differences = 0;
        let Thing::Directory { now, .. } = &self.things[directory] else { unreachable!("only directories have trees") };
        let gone: Vec<String> = now.keys().filter(|name| !tree.contains_key(*name)).cloned().collect();
        let mut changes: Vec<(String, Option<usize>)> = gone.into_iter().map(|name| (name, None)).collect();
        for (name, node) in tree {
            let (Node::File { inode, .. } | Node::Directory { inode, .. }) = node;
            let Thing::Directory { now, .. } = &self.things[directory] else { continue };
            let named = now.get(name).copied();
            let thing = match self.by_inode.get(inode) {
                Some(thing) if self.things[*thing].is_like(node) => *thing,
                _ => self.add(Thing::like(node)),
            };
            if named != Some(thing) {
                changes.push((name.clone(), Some(thing)));
            }
            match node {
                Node::Directory { entries, .. } => differences += self.compare(thing, entries),
                Node::File { bytes, .. } => {
                    let known = self.things[thing].now();
                    if known != *bytes {
                        differences += 1;
                        let Thing::File { open, .. } = &mut self.things[thing] else { continue };
                        open.push(Change::Length(bytes.len() as u64));
                        let same = known.iter().zip(bytes).take_while(|(known, found)| known == found).count();
                        open.push(Change::Write(same as u64, bytes[same..].to_vec()));
                    }
                }
            }
        }
        differences += usize::from(!changes.is_empty());
        if let (false, Thing::Directory { now, open, .. }) = (changes.is_empty(), &mut self.things[directory]) {
            for (name, thing) in &changes {
                set(now, name, *thing);
            }
            open.push(changes);
        }
        differences
    }

    fn add(&mut self, thing: Thing) -> usize {
        let (Thing::File { inode, .. } | Thing::Directory { inode, .. }) = &thing;
        self.by_inode.insert(*inode, self.things.len());
        self.things.push(thing);
        self.things.len() - 1
    }

    fn change(&mut self, inode: u64, change: Change) -> Result<()> {
        let thing = *self.by_inode.get(&inode).context("an inode that nobody has opened")?;
        let Thing::File { open, .. } = &mut self.things[thing] else { bail!("a directory is written") };
        open.push(change);
        Ok(())
    }

    fn find(&self, path: &str) -> Result<usize> {
        let mut found = ROOT;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            let Thing::Directory { now, .. } = &self.things[found] else { bail!("{path}: not below a directory") };
            found = *now.get(part).with_context(|| format!("{path}: it was never made"))?;
        }
        Ok(found)
    }

    fn parent(&self, path: &str) -> Result<(usize, String)> {
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        Ok((self.find(parent)?, name.to_owned()))
    }

    fn name(&mut self, path: &str, thing: Option<usize>) -> Result<()> {
        let (directory, name) = self.parent(path)?;
        self.names(directory, vec![(name, thing)])
    }

    fn names(&mut self, directory: usize, changes: Vec<(String, Option<usize>)>) -> Result<()> {
        let Thing::Directory { now, open, .. } = &mut self.things[directory] else { bail!("a name in a file") };
        for (name, thing) in &changes {
            set(now, name, *thing);
        }
        open.push(changes);
        Ok(())
    }

    fn left_of(&self, directory: usize, luck: &mut Luck) -> Tree {
        let Thing::Directory { safe, open, .. } = &self.things[directory] else { return Tree::new() };
        let mut names = safe.clone();
        for changes in open {
            if luck.keeps() {
                changes.iter().for_each(|(name, thing)| set(&mut names, name, *thing));
            }
        }
        let mut tree = Tree::new();
        for (name, thing) in names {
            let node = match &self.things[thing] {
                Thing::Directory { inode, .. } => Node::Directory { inode: *inode, entries: self.left_of(thing, luck) },
                Thing::File { inode, safe, open } => {
                    let mut bytes = safe.clone();
                    open.iter().for_each(|change| luck.keep_of(change, &mut bytes));
                    Node::File { inode: *inode, bytes }
                }
            };
            tree.insert(name, node);
        }
        tree
    }
}

impl Thing {
    fn directory(inode: u64) -> Self {
        Self::Directory { inode, safe: BTreeMap::new(), now: BTreeMap::new(), open: Vec::new() }
    }

    fn like(node: &Node) -> Self {
        match node {
            Node::Directory { inode, .. } => Self::directory(*inode),
            Node::File { inode, .. } => Self::File { inode: *inode, safe: Vec::new(), open: Vec::new() },
        }
    }

    fn is_like(&self, node: &Node) -> bool {
        matches!(self, Self::File { .. }) == matches!(node, Node::File { .. })
    }

    /// A file's bytes as they are read now.
    fn now(&self) -> Vec<u8> {
        let Self::File { safe, open, .. } = self else { return Vec::new() };
        let mut bytes = safe.clone();
        open.iter().for_each(|change| change.apply(&mut bytes));
        bytes
    }

    fn settle(&mut self) {
        match self {
            Self::File { safe, open, .. } => open.drain(..).for_each(|change| change.apply(safe)),
            Self::Directory { safe, now, open, .. } => {
                open.clear();
                safe.clone_from(now);
            }
        }
    }
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(at, written) => put(bytes, *at, written),
            Self::Length(length) => bytes.resize(usize::try_from(*length).expect("it fits into memory"), 0),
        }
    }
}

fn put(bytes: &mut Vec<u8>, at: u64, written: &[u8]) {
    let at = usize::try_from(at).expect("it fits into memory");
    let end = at + written.len();
    if bytes.len() < end {
        bytes.resize(end, 0);
    }
    bytes[at..end].copy_from_slice(written);
}

fn set(names: &mut BTreeMap<String, usize>, name: &str, thing: Option<usize>) {
    match thing {
        Some(thing) => names.insert(name.to_owned(), thing),
        None => names.remove(name),
    };
}

/// What happens to have made it to the disk.
struct Luck {
    /// None has.
    state: Option<u64>,
}

impl Luck {
    fn keeps(&mut self) -> bool {
        self.below(2) == Some(1)
    }

    /// `None` when there is no luck at all.
    fn below(&mut self, bound: u64) -> Option<u64> {
        let state = self.state.as_mut()?;
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Some((*state >> 33) % bound)
    }

    fn keep_of(&mut self, change: &Change, bytes: &mut Vec<u8>) {
        match change {
            Change::Length(_) if self.keeps() => change.apply(bytes),
            Change::Length(_) => {}
            Change::Write(at, written) => {
                let mut sector_at = *at;
                let mut rest = &written[..];
                let mut page = None;
                let mut keeps = None;
                while !rest.is_empty() {
                    // Sectors and pages of the file, not of the write.
                    let sector = sector_at / SECTOR_BYTES as u64;
                    let until_next = usize::try_from((sector + 1) * SECTOR_BYTES as u64 - sector_at).unwrap_or(1);
                    let (now, later) = rest.split_at(until_next.min(rest.len()));
                    if page != Some(sector / PAGE_SECTORS as u64) {
                        page = Some(sector / PAGE_SECTORS as u64);
                        keeps = self.below(5);
                    }
                    // Of five pages two are kept, two are lost, and one is torn.
                    let kept = match keeps {
                        Some(0 | 1) => true,
                        Some(2 | 3) | None => false,
                        Some(_) => self.keeps(),
                    };
                    if kept {
                        put(bytes, sector_at, now);
                    }
                    sector_at += now.len() as u64;
                    rest = later;
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

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
}
