//! Where snapshots are kept: files in production, memory in simulations.

mod files;
#[cfg(any(test, feature = "test-util"))]
mod memory;

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;

pub use files::SnapshotFiles;
#[cfg(any(test, feature = "test-util"))]
pub use memory::SnapshotMemory;

/// A place for snapshots. It never makes one visible that is not complete and durable.
pub trait SnapshotStore: Send + Sync + 'static {
    /// Begins a snapshot. It is nowhere to be seen before it is committed.
    ///
    /// # Errors
    /// Those of the place.
    fn begin(&self) -> io::Result<Box<dyn SnapshotWriter>>;

    /// The snapshots there are, newest first by their last log entry.
    ///
    /// # Errors
    /// Those of the place.
    fn list(&self) -> io::Result<Vec<SnapshotHandle>>;

    /// Removes all but the newest `keep`.
    ///
    /// # Errors
    /// Those of the place.
    fn retain(&self, keep: usize) -> io::Result<()>;
}

/// A snapshot that is being written.
pub trait SnapshotWriter: Write + Send {
    /// Makes it durable and visible. `last_index` is the last log entry in it; names sort by it.
    ///
    /// # Errors
    /// Those of the place; then it is not visible.
    fn commit(self: Box<Self>, last_index: u64) -> io::Result<SnapshotHandle>;
}

/// A snapshot that can be read, any number of times, also while newer ones come. Clones share it.
#[derive(Clone)]
pub struct SnapshotHandle(Arc<dyn SnapshotSource>);

/// What a handle reads from.
pub trait SnapshotSource: Send + Sync + 'static {
    /// Its name, for logs and errors.
    fn name(&self) -> String;
    /// The last log entry in it.
    fn last_index(&self) -> u64;
    /// Its size in bytes.
    fn bytes(&self) -> u64;
    /// Opens it at its start.
    ///
    /// # Errors
    /// Those of the place.
    fn open(&self) -> io::Result<Box<dyn Read + Send>>;
}

impl SnapshotHandle {
    /// A handle to `source`.
    pub fn new(source: impl SnapshotSource) -> Self {
        Self(Arc::new(source))
    }

    /// A handle to no snapshot.
    pub(crate) fn nothing() -> Self {
        Self::new(Nothing)
    }
}

struct Nothing;

impl SnapshotSource for Nothing {
    fn name(&self) -> String {
        "no snapshot".to_owned()
    }

    fn last_index(&self) -> u64 {
        0
    }

    fn bytes(&self) -> u64 {
        0
    }

    fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        Err(io::Error::new(io::ErrorKind::NotFound, "no snapshot"))
    }
}

impl std::ops::Deref for SnapshotHandle {
    type Target = dyn SnapshotSource;
    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl fmt::Debug for SnapshotHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SnapshotHandle({})", self.name())
    }
}
