//! The log over both backends: what is acknowledged comes back, what is damaged is refused.

use std::path::Path;
use std::time::Duration;

use openraft::EntryPayload;
use openraft::storage::RaftLogStorageExt;

use super::memory::{MemoryDisk, MemoryLog};
use super::*;
use crate::types::LogPayload;

const ME: NodeId = 1;

fn id(term: u64, node: NodeId, index: u64) -> LogId {
    LogId::new(openraft::CommittedLeaderId::new(term, node), index)
}

fn entry(term: u64, node: NodeId, index: u64, bytes: usize) -> Entry {
    let payload = LogPayload(vec![u8::try_from(index % 251).unwrap(); bytes].into());
    Entry { log_id: id(term, node, index), payload: EntryPayload::Normal(payload) }
}

fn open(dir: &Path) -> Result<LogStore, LogError> {
    LogStore::open(ME, SledLog::open(dir, SledLogSettings::default())?, WriterDriver::Thread)
}

async fn all(log: &mut LogStore) -> Vec<Entry> {
    log.try_get_log_entries(..).await.unwrap()
}

#[tokio::test]
async fn what_is_acknowledged_comes_back_large_and_small() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    let sizes = [0, 1, 4000, 4096, 4097, 16 << 10, 60 << 10, 64 << 10];
    let entries: Vec<Entry> = (0..).zip(sizes).map(|(index, bytes)| entry(1, 2, index, bytes)).collect();
    log.save_vote(&Vote::new_committed(1, 2)).await.unwrap();
    log.blocking_append(entries.clone()).await.unwrap();
    log.save_committed(Some(id(1, 2, 5))).await.unwrap();
    log.close().await;
    let mut log = open(dir.path()).unwrap();
    assert_eq!(all(&mut log).await, entries);
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new_committed(1, 2)));
    assert_eq!(log.read_committed().await.unwrap(), Some(id(1, 2, 5)));
    log.truncate(id(1, 2, 6)).await.unwrap();
    log.purge(id(1, 2, 2)).await.unwrap();
    log.close().await;
    let mut log = open(dir.path()).unwrap();
    assert_eq!(all(&mut log).await, entries[3..6]);
    let state = log.get_log_state().await.unwrap();
    assert_eq!((state.last_purged_log_id, state.last_log_id), (Some(id(1, 2, 2)), Some(id(1, 2, 5))));
    assert!(std::fs::read_dir(dir.path().join("log.1/blobs")).map_or(true, |mut blobs| blobs.next().is_none()));
}

#[tokio::test]
async fn a_call_carries_no_more_than_its_bound_and_at_least_one_entry() {
    let mut log = LogStore::open(ME, MemoryDisk::default().mount(), WriterDriver::Thread).unwrap();
    log.blocking_append((0..10).map(|index| entry(1, 2, index, 20 << 10))).await.unwrap();
    log.blocking_append([entry(1, 2, 10, 64 << 10), entry(1, 2, 11, 1)]).await.unwrap();
    let lengths = |log: &mut LogStore, start| {
        let mut log = log.clone();
        async move { log.limited_get_log_entries(start, 12).await.unwrap().len() }
    };
    assert_eq!(lengths(&mut log, 0).await, 3);
    assert_eq!(lengths(&mut log, 10).await, 1, "a large entry goes alone");
    assert_eq!(lengths(&mut log, 11).await, 1);
}

#[tokio::test]
async fn a_leaders_own_entries_are_reported_at_once_and_unsafe_until_synced() {
    let disk = MemoryDisk::default();
    let driver = WriterDriver::Task(Duration::from_millis(50));
    let mut log = LogStore::open(ME, disk.mount(), driver).unwrap();
    log.save_vote(&Vote::new_committed(3, ME)).await.unwrap();
    log.blocking_append([entry(3, ME, 0, 10)]).await.unwrap();
    assert!(!log.durability().is_safe(0), "reported before it is on disk");
    log.durability().wait_safe(0).await.unwrap();
    // An entry of another leader, and one of its own from a term that is over, wait for the disk.
    log.blocking_append([entry(2, ME, 1, 10)]).await.unwrap();
    assert!(log.durability().is_safe(1));
    log.save_vote(&Vote::new_committed(4, 2)).await.unwrap();
    log.blocking_append([entry(4, 2, 2, 10)]).await.unwrap();
    assert!(log.durability().is_safe(2));
}

#[tokio::test]
async fn after_a_power_cut_a_node_does_not_lead_on() {
    let disk = MemoryDisk::default();
    let mut log = LogStore::open(ME, disk.mount(), WriterDriver::Task(Duration::from_secs(3600))).unwrap();
    {
        // Let the vote through, then stop syncing.
        let mut first = LogStore::open(ME, disk.mount(), WriterDriver::Task(Duration::ZERO)).unwrap();
        first.save_vote(&Vote::new_committed(3, ME)).await.unwrap();
        log = LogStore::open(ME, disk.mount(), WriterDriver::Task(Duration::from_secs(3600))).unwrap_or(log);
    }
    log.live().vote = Some(Vote::new_committed(3, ME));
    log.blocking_append([entry(3, ME, 0, 10)]).await.unwrap();
    disk.power_cut(0);
    let mut log = LogStore::open(ME, disk.mount(), WriterDriver::Thread).unwrap();
    assert!(all(&mut log).await.is_empty(), "the entry was never safe");
    assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new(3, ME)), "it has to be elected again");
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_acknowledged() {
    let disk = MemoryDisk::default();
    let mut log = LogStore::open(ME, disk.mount(), WriterDriver::Thread).unwrap();
    log.blocking_append([entry(1, 2, 0, 10)]).await.unwrap();
    disk.fail_next_sync();
    assert!(log.save_vote(&Vote::new(2, 2)).await.is_err());
    assert!(log.blocking_append([entry(1, 2, 1, 10)]).await.is_err(), "it is not tried again");
    assert!(log.save_vote(&Vote::new(3, 2)).await.is_err());
    assert!(log.failed().await.contains("the disk is gone"));
}

/// A disk whose driver has a bug.
struct Panicking(MemoryLog);

impl LogBackend for Panicking {
    fn recover(&mut self) -> Result<Recovered, LogError> {
        self.0.recover()
    }

    fn write(&mut self, _: &[WriteOp]) -> Result<(), LogError> {
        panic!("a bug of the driver");
    }

    fn sync(&mut self) -> Result<(), LogError> {
        self.0.sync()
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}

#[tokio::test]
async fn a_panic_of_the_writer_is_a_failed_disk() {
    let mut log = LogStore::open(ME, Panicking(MemoryDisk::default().mount()), WriterDriver::Thread).unwrap();
    assert!(log.save_vote(&Vote::new(2, 2)).await.is_err());
    assert!(log.failed().await.contains("panicked"));
    assert!(log.save_vote(&Vote::new(3, 2)).await.is_err(), "and so it stays");
}

/// What a crash leaves between a snapshot that was installed and the log that it replaces.
#[tokio::test]
async fn a_purge_up_to_another_history_leaves_nothing_of_this_one() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    log.blocking_append((0..10).map(|index| entry(1, 2, index, 30_000))).await.unwrap();
    log.purge(id(2, 3, 5)).await.unwrap();
    assert!(all(&mut log).await.is_empty());
    assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(id(2, 3, 5)));
    log.close().await;
    let mut log = open(dir.path()).unwrap();
    assert!(all(&mut log).await.is_empty());
    log.blocking_append([entry(2, 3, 6, 10)]).await.unwrap();
    log.close().await;
    let mut log = open(dir.path()).unwrap();
    assert_eq!(all(&mut log).await, [entry(2, 3, 6, 10)]);
}

#[tokio::test]
async fn an_entry_in_the_place_of_a_longer_one_is_read_back() {
    let dir = tempfile::tempdir().unwrap();
    let mut backend = SledLog::open(dir.path(), SledLogSettings::default()).unwrap();
    backend.recover().unwrap();
    for bytes in [60_000, 10] {
        backend.write(&[WriteOp::Append((&entry(1, 2, 0, bytes)).into())]).unwrap();
        backend.sync().unwrap();
    }
    drop(backend);
    assert_eq!(all(&mut open(dir.path()).unwrap()).await, [entry(1, 2, 0, 10)]);
}

#[tokio::test]
async fn holes_and_disorder_are_refused() {
    let open = |entries: Vec<Entry>, purged, committed| {
        let disk = MemoryDisk::default();
        let mut log = disk.mount();
        let ops: Vec<WriteOp> = entries.iter().map(|e| WriteOp::Append(e.into())).collect();
        log.write(&ops).unwrap();
        if let Some(purged) = purged {
            log.write(&[WriteOp::PurgeTo(LogId::into(purged))]).unwrap();
        }
        log.write(&[WriteOp::Committed(committed)]).unwrap();
        log.sync().unwrap();
        LogStore::open(ME, disk.mount(), WriterDriver::Thread).map(|_| ()).map_err(|e| e.to_string())
    };
    assert_eq!(
        open(vec![entry(1, 2, 0, 1), entry(1, 2, 2, 1)], None, None),
        Err("the log has a hole: after it should come entry 1, there is 2".into())
    );
    assert!(open(vec![entry(2, 2, 0, 1), entry(1, 2, 1, 1)], None, None).unwrap_err().contains("out of order"));
    assert!(open(vec![entry(1, 2, 7, 1)], Some(id(1, 2, 5)), None).unwrap_err().contains("hole"));
    let committed = Some(id(1, 2, 3).into());
    assert!(open(vec![entry(1, 2, 0, 1)], None, committed).unwrap_err().contains("known to be committed"));
}

#[tokio::test]
async fn values_that_sled_would_never_sync_are_refused() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).unwrap().close().await;
    std::fs::create_dir_all(dir.path().join("log.1/blobs")).unwrap();
    std::fs::write(dir.path().join("log.1/blobs/1"), b"x").unwrap();
    let error = open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("log.1/blobs is damaged"), "{error}");
}

#[tokio::test]
async fn a_lock_that_sled_lets_go_of_late_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).unwrap().close().await;
    let held = std::fs::File::open(dir.path().join("log.1/db")).unwrap();
    // The one who closed it has a moment left, as sled's own threads may.
    while held.try_lock().is_err() {
        tokio::task::yield_now().await;
    }
    let late = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(50));
        drop(held);
    });
    open(dir.path()).unwrap().close().await;
    late.join().unwrap();
}

#[tokio::test]
async fn an_older_file_put_back_is_noticed() {
    let dir = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let mut log = open(dir.path()).unwrap();
    log.blocking_append([entry(1, 2, 0, 10)]).await.unwrap();
    log.close().await;
    let copied = copy.path().join("db");
    std::fs::copy(dir.path().join("log.1/db"), &copied).unwrap();
    let mut log = open(dir.path()).unwrap();
    log.blocking_append([entry(1, 2, 1, 10)]).await.unwrap();
    log.close().await;
    for file in std::fs::read_dir(dir.path().join("log.1")).unwrap() {
        let path = file.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("snap.") {
            std::fs::remove_file(path).unwrap();
        }
    }
    std::fs::copy(&copied, dir.path().join("log.1/db")).unwrap();
    let error = open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("has lost writes that were acknowledged"), "{error}");
}

#[tokio::test]
async fn the_file_is_rewritten_when_it_has_grown_far_beyond_what_it_holds() {
    let dir = tempfile::tempdir().unwrap();
    let settings = SledLogSettings { rewrite_bytes: 4 << 20, rewrite_factor: 2, ..SledLogSettings::default() };
    let backend = SledLog::open(dir.path(), settings).unwrap();
    let mut log = LogStore::open(ME, backend, WriterDriver::Thread).unwrap();
    let mut next = 0;
    while !dir.path().join("log.2").exists() {
        assert!(next < 4000, "the file was never rewritten");
        log.blocking_append((next..next + 20).map(|index| entry(1, 2, index, 32 << 10))).await.unwrap();
        next += 20;
        log.purge(id(1, 2, next - 5)).await.unwrap();
    }
    log.blocking_append([entry(1, 2, next, 100)]).await.unwrap();
    let kept = all(&mut log).await;
    log.close().await;
    let mut log = open(dir.path()).unwrap();
    assert_eq!(all(&mut log).await, kept);
    assert!(!dir.path().join("log.1").exists() && !dir.path().join("log.1.count").exists());
}

#[tokio::test]
async fn a_purge_point_keeps_what_was_asked_for() {
    let mut log = LogStore::open(ME, MemoryDisk::default().mount(), WriterDriver::Thread).unwrap();
    assert_eq!(log.purge_point(5, u64::MAX), None);
    log.blocking_append((0..20).map(|index| entry(1, 2, index, 1000))).await.unwrap();
    assert_eq!(log.purge_point(5, u64::MAX), Some(id(1, 2, 14)), "entries 15 to 19 are kept");
    assert_eq!(log.purge_point(100, u64::MAX), None);
    assert_eq!(log.purge_point(100, 3 * 1128), Some(id(1, 2, 16)));
    assert_eq!(log.size(), LogSize { entries: 20, bytes: 20 * 1128 });
    log.purge(id(1, 2, 14)).await.unwrap();
    assert_eq!(log.size(), LogSize { entries: 5, bytes: 5 * 1128 });
}

/// A disk that has lost a part of what it was told to keep: no power cut leaves that, and nothing may be believed of it that
/// is not all of it.
#[tokio::test]
async fn a_torn_file_is_refused_or_has_everything() {
    let (dir, torn) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let entries: Vec<Entry> =
        (0..40).map(|index| entry(1, 2, index, 700 * usize::try_from(index % 9).unwrap())).collect();
    let mut log = open(dir.path()).unwrap();
    log.save_vote(&Vote::new_committed(1, 2)).await.unwrap();
    for few in entries.chunks(3) {
        log.blocking_append(few.to_vec()).await.unwrap();
    }
    log.close().await;
    let db = Path::new("log.1/db");
    let good = std::fs::read(dir.path().join(db)).unwrap();
    let (mut refused, mut whole) = (0, 0);
    for at in (0..good.len()).step_by(good.len() / 12) {
        let mut zeros = good.clone();
        zeros[at..good.len().min(at + 4096)].fill(0);
        for bytes in [good[..at].to_vec(), zeros] {
            copy(dir.path(), torn.path());
            std::fs::write(torn.path().join(db), bytes).unwrap();
            // The engine panics over some of it, which ends a node as an error does.
            let opened = std::panic::catch_unwind(|| open(torn.path()));
            let Ok(Ok(mut log)) = opened else {
                refused += 1;
                continue;
            };
            assert_eq!(all(&mut log).await, entries, "torn at {at} of {}", good.len());
            assert_eq!(log.read_vote().await.unwrap(), Some(Vote::new_committed(1, 2)), "torn at {at}");
            log.close().await;
            whole += 1;
        }
    }
    println!("{refused} refused, {whole} whole");
    assert!(refused > 0);
}

/// Puts a copy of all that is in one directory into another, in place of what is there.
fn copy(from: &Path, to: &Path) {
    std::fs::remove_dir_all(to).unwrap();
    std::fs::create_dir(to).unwrap();
    for item in std::fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        match item.file_type().unwrap().is_dir() {
            true => {
                std::fs::create_dir(to.join(item.file_name())).unwrap();
                copy(&item.path(), &to.join(item.file_name()));
            }
            false => drop(std::fs::copy(item.path(), to.join(item.file_name())).unwrap()),
        }
    }
}
