//! A control-plane node's data directory: whose it is, and which layout it has.
//!
//! ```text
//!   <data_dir>/format        the version of the layout
//!   <data_dir>/lock          held while a process uses the directory
//!   <data_dir>/identity      cluster, node id, the node's own name; written once
//!   <data_dir>/joining       the name under which it asks to join, until it has joined
//!   <data_dir>/boot          how often the node has started
//!   <data_dir>/log/          the log
//!   <data_dir>/snapshots/    snapshots
//!   <data_dir>/history/      the embedded record, where the node keeps one; it can be taken away
//! ```

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use bincode::{Decode, Encode};
use daemon::{durable, planted};
use protocol::codec::{self, Record};
use protocol::snapshot::ClusterId;
use protocol::{Epoch, Text};

use crate::types::NodeId;

/// The version of the layout that this build writes.
pub const FORMAT: u32 = 1;

/// The ladder: `STEPS[n]` brings a directory from layout `n + 1` to `n + 2`. A release that changes the layout adds a
/// step and never takes one away, so that any directory can be brought up, one step after the other.
const STEPS: [fn(&Path) -> io::Result<()>; (FORMAT - 1) as usize] = [];

/// Who a node is. Written when it founds or joins a cluster, and never changed; a directory without it is nobody's.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Identity {
    /// Its cluster.
    pub cluster: ClusterId,
    /// The life of the cluster in which it founded or joined.
    pub epoch: Epoch,
    /// Its id.
    pub node: NodeId,
    /// Its own random name: another node at its address, or itself with a wiped disk, has another.
    pub uuid: [u8; 16],
    /// Its name, for people.
    pub name: Text,
    /// Set when it has left the cluster: it must never come back as itself.
    pub left: bool,
}

impl Record for Identity {
    const TAG: [u8; 4] = *b"idnt";
    const VERSION: u16 = 1;
    const PAYLOAD_BYTES_MAX: usize = 4096;
}

#[derive(Encode, Decode)]
struct Boot(u64);

impl Record for Boot {
    const TAG: [u8; 4] = *b"boot";
    const VERSION: u16 = 1;
    const PAYLOAD_BYTES_MAX: usize = 64;
}

#[derive(Encode, Decode)]
struct Joining([u8; 16]);

impl Record for Joining {
    const TAG: [u8; 4] = *b"join";
    const VERSION: u16 = 1;
    const PAYLOAD_BYTES_MAX: usize = 64;
}

/// A data directory that this process has for itself.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

/// Why a data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// The file system failed; the message names the path.
    #[error("{0}")]
    Io(#[from] io::Error),
    /// A file in it is damaged.
    #[error("{}: {reason}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// A newer version of Holdfast has used it.
    #[error("{}: layout {found}, this version of holdfast knows up to {FORMAT}", path.display())]
    Newer {
        /// The directory.
        path: PathBuf,
        /// Its layout.
        found: u32,
    },
    /// It belongs to a node already.
    #[error("{}: this directory belongs to node {node} of cluster {cluster} already", path.display())]
    Taken {
        /// The directory.
        path: PathBuf,
        /// Whose it is.
        node: NodeId,
        /// And of which cluster.
        cluster: ClusterId,
    },
}

impl DataDir {
    /// Takes a directory for this process; makes it if it is missing, and brings its layout up to this build's.
    ///
    /// # Errors
    /// [`DiskError`]; [`io::ErrorKind::WouldBlock`] when another process uses it.
    pub fn open(path: &Path) -> Result<Self, DiskError> {
        durable::create_private_directory(path)?;
        let lock = durable::lock(&path.join("lock"))?;
        climb(path)?;
        Ok(Self { path: path.to_owned(), _lock: lock })
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where the log is; made if it is missing.
    ///
    /// # Errors
    /// Those of the file system.
    pub fn log(&self) -> io::Result<PathBuf> {
        let path = self.path.join("log");
        durable::create_directory(&path)?;
        Ok(path)
    }

    /// Where snapshots are.
    #[must_use]
    pub fn snapshots(&self) -> PathBuf {
        self.path.join("snapshots")
    }

    /// Where the embedded record is.
    #[must_use]
    pub fn history(&self) -> PathBuf {
        self.path.join("history")
    }

    /// Whose it is; `None` when it is nobody's yet.
    ///
    /// # Errors
    /// [`DiskError`] when that cannot be read.
    pub fn identity(&self) -> Result<Option<Identity>, DiskError> {
        read_record(&self.path.join("identity"))
    }

    /// Whose a directory is, without taking it: its node may be running.
    ///
    /// # Errors
    /// [`DiskError`] when that cannot be read.
    pub fn peek_identity(path: &Path) -> Result<Option<Identity>, DiskError> {
        read_record(&path.join("identity"))
    }

    /// Makes sure that it is nobody's.
    ///
    /// # Errors
    /// [`DiskError::Taken`] when it is somebody's.
    pub fn check_unclaimed(&self) -> Result<(), DiskError> {
        match self.identity()? {
            Some(taken) => Err(DiskError::Taken { path: self.path.clone(), node: taken.node, cluster: taken.cluster }),
            None => Ok(()),
        }
    }

    /// Clears away what an unfinished founding or joining has left in a directory that is nobody's.
    ///
    /// # Errors
    /// [`DiskError::Taken`] when it is somebody's.
    pub fn clear(&self) -> Result<(), DiskError> {
        self.check_unclaimed()?;
        for part in [self.path.join("log"), self.snapshots(), self.history()] {
            match std::fs::remove_dir_all(&part) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(durable::at(&part, e).into()),
                _ => {}
            }
        }
        Ok(durable::sync_directory(&self.path)?)
    }

    /// The name under which this directory's future node asks to join: `fresh` the first time, and that one again after.
    ///
    /// # Errors
    /// [`DiskError`] when it cannot be read or written.
    pub fn joining_as(&self, fresh: [u8; 16]) -> Result<[u8; 16], DiskError> {
        let path = self.path.join("joining");
        if let Some(Joining(uuid)) = read_record(&path)?
            && !planted!("name-of-joining-forgotten")
        {
            return Ok(uuid);
        }
        write_record(&path, &Joining(fresh))?;
        Ok(fresh)
    }

    /// Makes it a node's.
    ///
    /// # Errors
    /// [`DiskError::Taken`] when it is another's already.
    pub fn claim(&self, identity: &Identity) -> Result<(), DiskError> {
        self.check_unclaimed()?;
        write_record(&self.path.join("identity"), identity)?;
        Ok(durable::remove(&self.path.join("joining"))?)
    }

    /// Marks its node as gone for good.
    ///
    /// # Errors
    /// [`DiskError`] when that cannot be written.
    pub fn mark_left(&self) -> Result<(), DiskError> {
        match self.identity()? {
            Some(identity) => write_record(&self.path.join("identity"), &Identity { left: true, ..identity }),
            None => Ok(()),
        }
    }

    /// Counts a start of the node, durably; gives the number of this one, from 1.
    ///
    /// # Errors
    /// [`DiskError`] when it cannot be read or written.
    pub fn count_boot(&self) -> Result<u64, DiskError> {
        let path = self.path.join("boot");
        let boot = read_record::<Boot>(&path)?.map_or(0, |Boot(boot)| boot) + 1;
        write_record(&path, &Boot(boot))?;
        Ok(boot)
    }
}

/// Brings the layout of a directory up to this build's, one step at a time.
fn climb(path: &Path) -> Result<(), DiskError> {
    let file = path.join("format");
    let mut found = match std::fs::read_to_string(&file) {
        Ok(text) => text
            .trim()
            .parse::<u32>()
            .ok()
            .filter(|format| *format > 0)
            .ok_or_else(|| DiskError::Damaged { path: file.clone(), reason: format!("{text:?} is no version") })?,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            durable::write(&file, format!("{FORMAT}\n").as_bytes())?;
            return Ok(());
        }
        Err(e) => return Err(durable::at(&file, e).into()),
    };
    if found > FORMAT {
        return Err(DiskError::Newer { path: path.to_owned(), found });
    }
    for step in &STEPS[(found - 1) as usize..] {
        step(path)?;
        found += 1;
        durable::write(&file, format!("{found}\n").as_bytes())?;
        tracing::info!(path = %path.display(), layout = found, "the data directory was brought to a newer layout");
    }
    Ok(())
}

fn read_record<T: Record>(path: &Path) -> Result<Option<T>, DiskError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(durable::at(path, e).into()),
    };
    let record =
        codec::open(&bytes).map_err(|e| DiskError::Damaged { path: path.to_owned(), reason: e.to_string() })?;
    Ok(Some(record))
}

fn write_record<T: Record>(path: &Path, record: &T) -> Result<(), DiskError> {
    let bytes = codec::seal(record).map_err(|e| DiskError::Damaged { path: path.to_owned(), reason: e.to_string() })?;
    Ok(durable::write(path, &bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity() -> Identity {
        Identity {
            cluster: ClusterId([1; 16]),
            epoch: Epoch::default(),
            node: 3,
            uuid: [2; 16],
            name: "cp3".into(),
            left: false,
        }
    }

    #[test]
    fn a_directory_is_claimed_once_and_counts_its_boots() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        assert_eq!(data.identity().unwrap(), None);
        data.claim(&identity()).unwrap();
        let taken = data.claim(&identity()).unwrap_err().to_string();
        assert!(taken.contains("belongs to node 3 of cluster 0101"), "{taken}");
        assert_eq!((data.count_boot().unwrap(), data.count_boot().unwrap()), (1, 2));
        assert!(matches!(DataDir::open(dir.path()), Err(DiskError::Io(e)) if e.kind() == io::ErrorKind::WouldBlock));
        data.mark_left().unwrap();
        drop(data);
        let again = DataDir::open(dir.path()).unwrap();
        assert_eq!(again.identity().unwrap(), Some(Identity { left: true, ..identity() }));
        assert_eq!(again.count_boot().unwrap(), 3);
    }

    #[test]
    fn damage_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open(dir.path()).unwrap();
        data.claim(&identity()).unwrap();
        let path = dir.path().join("identity");
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 4;
            std::fs::write(&path, &bad).unwrap();
            let error = data.identity().unwrap_err().to_string();
            assert!(error.contains("identity: "), "{error}");
        }
        std::fs::write(&path, &good[..good.len() - 1]).unwrap();
        assert!(data.identity().is_err());
    }

    #[test]
    fn a_layout_of_a_newer_version_or_of_none_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(DataDir::open(dir.path()).unwrap());
        std::fs::write(dir.path().join("format"), "2\n").unwrap();
        let error = DataDir::open(dir.path()).unwrap_err().to_string();
        assert!(error.ends_with("layout 2, this version of holdfast knows up to 1"), "{error}");
        for odd in ["", "x", "0", "-1"] {
            std::fs::write(dir.path().join("format"), odd).unwrap();
            assert!(matches!(DataDir::open(dir.path()), Err(DiskError::Damaged { .. })), "{odd:?}");
        }
    }
}
