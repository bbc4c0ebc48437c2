//! Where a node's log and snapshots are: sled and files, or the models of a simulation that know what a crash does.

use std::io;
use std::sync::Arc;

use raft_store::disk::{DataDir, Identity};
use raft_store::log::{LogError, LogStore, SledLog, SledLogSettings, WriterDriver};
use raft_store::snapshots::{SnapshotFiles, SnapshotStore};

use crate::settings::RaftSettings;

/// Opens what consensus stands on.
pub trait Disks: Send + Sync + 'static {
    /// The log of a node.
    ///
    /// # Errors
    /// The directory that it needs cannot be had; or, inside, the log itself is damaged or has a hole.
    fn log(
        &self,
        data: &DataDir,
        identity: &Identity,
        settings: &RaftSettings,
    ) -> io::Result<Result<LogStore, LogError>>;

    /// Its snapshots.
    ///
    /// # Errors
    /// Those of the place.
    fn snapshots(&self, data: &DataDir) -> io::Result<Arc<dyn SnapshotStore>>;
}

/// In the data directory.
#[derive(Clone, Copy, Debug, Default)]
pub struct Files;

impl Disks for Files {
    fn log(
        &self,
        data: &DataDir,
        identity: &Identity,
        settings: &RaftSettings,
    ) -> io::Result<Result<LogStore, LogError>> {
        let sled = SledLogSettings { cache_bytes: settings.cache.0, ..SledLogSettings::default() };
        let backend = SledLog::open(&data.log()?, sled);
        Ok(backend.and_then(|backend| LogStore::open(identity.node, backend, WriterDriver::Thread)))
    }

    fn snapshots(&self, data: &DataDir) -> io::Result<Arc<dyn SnapshotStore>> {
        Ok(Arc::new(SnapshotFiles::open(&data.snapshots())?))
    }
}
