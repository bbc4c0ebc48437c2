//! openraft's own storage suite, over the log on sled and the log in memory.

use std::sync::Arc;

use openraft::testing::{StoreBuilder, Suite};
use protocol::Epoch;
use protocol::entry::UnixMillis;
use protocol::seam::WallClock;
use protocol::snapshot::ClusterId;
use raft_store::log::memory::MemoryDisk;
use raft_store::log::{LogStore, SledLog, SledLogSettings, WriterDriver};
use raft_store::snapshots::{SnapshotFiles, SnapshotMemory, SnapshotStore};
use raft_store::types::{StorageError, TypeConfig};
use raft_store::{Replica, ReplicaStart};
use tempfile::TempDir;

struct Frozen;

impl WallClock for Frozen {
    fn now(&self) -> UnixMillis {
        0
    }
}

fn replica(log: &LogStore, snapshots: Arc<dyn SnapshotStore>) -> Replica {
    Replica::open(ReplicaStart {
        cluster: ClusterId([1; 16]),
        epoch: Epoch::default(),
        durability: log.durability().clone(),
        snapshots,
        clock: Arc::new(Frozen),
    })
    .unwrap()
}

struct OnSled;

impl StoreBuilder<TypeConfig, LogStore, Replica, TempDir> for OnSled {
    async fn build(&self) -> Result<(TempDir, LogStore, Replica), StorageError> {
        let dir = tempfile::tempdir().unwrap();
        let backend = SledLog::open(dir.path(), SledLogSettings::default()).unwrap();
        let log = LogStore::open(0, backend, WriterDriver::Thread).unwrap();
        let files = SnapshotFiles::open(&dir.path().join("snapshots")).unwrap();
        let replica = replica(&log, Arc::new(files));
        Ok((dir, log, replica))
    }
}

struct InMemory;

impl StoreBuilder<TypeConfig, LogStore, Replica, ()> for InMemory {
    async fn build(&self) -> Result<((), LogStore, Replica), StorageError> {
        let driver = WriterDriver::Task(std::time::Duration::from_micros(10));
        let log = LogStore::open(0, MemoryDisk::default().mount(), driver).unwrap();
        let replica = replica(&log, Arc::new(SnapshotMemory::default()));
        Ok(((), log, replica))
    }
}

#[test]
fn the_log_on_sled_passes_openrafts_suite() {
    Suite::test_all(OnSled).unwrap();
}

#[test]
fn the_log_in_memory_passes_openrafts_suite() {
    Suite::test_all(InMemory).unwrap();
}
