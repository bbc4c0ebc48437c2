//! A model of a disk that knows what a crash does: what was not synced is gone.

use std::sync::{Arc, Mutex, MutexGuard};

use super::backend::{LogBackend, LogError, Recovered, WriteOp};

/// A disk in memory. Clones share it; it outlives the log on it, as a disk does.
#[derive(Clone, Debug, Default)]
pub struct MemoryDisk {
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug, Default)]
struct Inner {
    durable: Recovered,
    /// Written, in order, and not synced.
    volatile: Vec<WriteOp>,
    fail_next_sync: bool,
    /// A log on a disk that was taken away from it by a crash must not write any more.
    mounted: u64,
}

/// A log on a [`MemoryDisk`].
#[derive(Debug)]
pub struct MemoryLog {
    disk: MemoryDisk,
    mount: u64,
}

impl MemoryDisk {
    /// Mounts the disk anew. Whoever had it before can write no more.
    #[must_use]
    pub fn mount(&self) -> MemoryLog {
        let mut inner = self.inner();
        inner.mounted += 1;
        MemoryLog { disk: self.clone(), mount: inner.mounted }
    }

    /// Cuts the power: of what was not synced, the first `keep` operations have made it to the platter.
    pub fn power_cut(&self, keep: usize) {
        let mut inner = self.inner();
        inner.mounted += 1;
        let volatile = std::mem::take(&mut inner.volatile);
        for op in volatile.into_iter().take(keep) {
            inner.durable.apply(&op);
        }
    }

    /// Lets the next sync fail.
    pub fn fail_next_sync(&self) {
        self.inner().fail_next_sync = true;
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no code panics while it holds the disk")
    }
}

impl LogBackend for MemoryLog {
    fn recover(&mut self) -> Result<Recovered, LogError> {
        let mut inner = self.disk.inner();
        // A process that only crashed finds what it wrote in the page cache.
        let volatile = std::mem::take(&mut inner.volatile);
        for op in &volatile {
            inner.durable.apply(op);
        }
        Ok(inner.durable.clone())
    }

    fn write(&mut self, ops: &[WriteOp]) -> Result<(), LogError> {
        let mut inner = self.disk.inner();
        if inner.mounted != self.mount {
            return Err(LogError::io("memory", "the disk is gone"));
        }
        inner.volatile.extend_from_slice(ops);
        Ok(())
    }

    fn sync(&mut self) -> Result<(), LogError> {
        let mut inner = self.disk.inner();
        if inner.mounted != self.mount || std::mem::take(&mut inner.fail_next_sync) {
            return Err(LogError::io("memory", "the disk is gone"));
        }
        let volatile = std::mem::take(&mut inner.volatile);
        for op in &volatile {
            inner.durable.apply(op);
        }
        Ok(())
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}

impl Recovered {
    fn apply(&mut self, op: &WriteOp) {
        match op {
            WriteOp::Append(record) => self.entries.push(record.clone().into()),
            WriteOp::TruncateFrom(index) => self.entries.retain(|entry| entry.log_id.index < *index),
            WriteOp::PurgeTo(id) => {
                self.entries.retain(|entry| entry.log_id.index > id.index);
                self.purged = Some((*id).into());
            }
            WriteOp::Vote(vote) => self.vote = Some((*vote).into()),
            WriteOp::Committed(committed) => self.committed = committed.map(Into::into),
        }
    }
}
