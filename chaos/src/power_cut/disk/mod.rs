//! A directory as a disk with a volatile cache sees it: what is there, and what of it is safe.

mod luck;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;

use anyhow::{Context, Result, bail, ensure};

use self::luck::Luck;
use super::journal::Journal;
use super::record::{Header, Kind};
use super::tree::{self, Node, Tree};

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
        self.left_of(ROOT, &mut Luck::of(cut))
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
