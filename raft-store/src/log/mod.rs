//! The log: what this node has promised, and the entries it holds.
//!
//! The live log is kept in memory, where consensus and replication read it; every change also goes to one writer, which
//! groups what has queued up into one write and one sync, and only then says so ([`writer`]). A purge bounds both.
//!
//! **A leader writes its own entries in parallel with its followers** (Raft thesis §10.2.1). Consensus waits for the
//! local disk before it replicates; so an append of the leader's own entries is reported at once, and the entry is
//! *unsafe* until the writer has synced it ([`durability`]). Nothing that depends on it leaves the node before that: the
//! state machine does not apply an unsafe entry, and no message tells a follower that one is committed. What counts as
//! committed to anybody is therefore on the disks of a quorum, this node's included. Two rules make it sound:
//!
//! - the writer keeps its order, so that a vote for somebody else is durable only after everything appended before it;
//! - a restarted node never leads on with the vote of its former life: an entry of that term may be missing on its disk
//!   and present on a follower's, and must not be written again with another content ([`LogStore::read_vote`]).

mod backend;
mod durability;
#[cfg(any(test, feature = "test-util"))]
pub mod memory;
pub(crate) mod sled;
mod sled_names;
#[cfg(test)]
mod tests;
mod writer;

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard};

use daemon::planted;
use openraft::storage::{LogFlushed, LogState, RaftLogStorage};
use openraft::{AnyError, OptionalSend, RaftLogReader, StorageIOError};

pub use backend::{LogBackend, LogError, Recovered, WriteOp};
pub use durability::{Durability, SafeCommit};
pub use sled::{SledLog, SledLogSettings};
use writer::Writer;
pub use writer::{WriterDriver, WriterReport};

use crate::types::{Entry, LogId, NodeId, StorageError, TypeConfig, Vote};
use crate::wire::{APPEND_BYTES_MAX, EntryRecord};

/// The log of one node. Clones share it.
#[derive(Clone, Debug)]
pub struct LogStore {
    node: NodeId,
    live: Arc<Mutex<Live>>,
    writer: Writer,
    durability: Durability,
}

/// What is in memory.
#[derive(Debug, Default)]
struct Live {
    entries: BTreeMap<u64, Entry>,
    bytes: u64,
    vote: Option<Vote>,
    committed: Option<LogId>,
    purged: Option<LogId>,
}

/// How much the log holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct LogSize {
    /// Entries after the last purge.
    pub entries: u64,
    /// Their bytes, in memory.
    pub bytes: u64,
}

impl LogStore {
    /// Opens a node's log over what stores it.
    ///
    /// # Errors
    /// [`LogError`] when what is stored is damaged or has a hole: the node is lost and must join anew.
    pub fn open(node: NodeId, mut backend: impl LogBackend, driver: WriterDriver) -> Result<Self, LogError> {
        let recovered = backend.recover()?;
        let live = Live::from_recovered(&recovered)?;
        let durability = Durability::new();
        let writer = Writer::start(Box::new(backend), driver, durability.clone());
        Ok(Self { node, live: Arc::new(Mutex::new(live)), writer, durability })
    }

    /// Which of this node's entries are not safe yet.
    #[must_use]
    pub fn durability(&self) -> &Durability {
        &self.durability
    }

    /// What it takes on the disk.
    #[must_use]
    pub fn disk_bytes(&self) -> u64 {
        self.writer.disk_bytes()
    }

    /// How the writer is doing. What is counted since the last report begins anew: there is one reader, the metrics.
    #[must_use]
    pub fn writer_report(&self) -> WriterReport {
        self.writer.report()
    }

    /// Resolves, with the reason, when the disk has failed: nothing is acknowledged any more, and the process must end.
    pub async fn failed(&self) -> String {
        self.writer.failed().await
    }

    /// How much it holds.
    #[must_use]
    pub fn size(&self) -> LogSize {
        let live = self.live();
        LogSize { entries: live.entries.len() as u64, bytes: live.bytes }
    }

    /// The last entry up to which a purge leaves no more than `entries` and no more than `bytes`; `None` when there is
    /// nothing to purge for that. What may be purged is the caller's to know.
    #[must_use]
    pub fn purge_point(&self, entries: u64, bytes: u64) -> Option<LogId> {
        let live = self.live();
        let (mut kept_entries, mut kept_bytes) = (0, 0);
        live.entries
            .values()
            .rev()
            .find(|entry| {
                kept_entries += 1;
                kept_bytes += memory_bytes(entry);
                kept_entries > entries || kept_bytes > bytes
            })
            .map(|entry| entry.log_id)
    }

    /// Closes the log once everything given to the writer so far is on disk or has failed: its files and their lock are
    /// let go, whoever still holds a clone. What is written later fails.
    pub async fn close(&self) {
        self.writer.close().await;
    }

    fn live(&self) -> MutexGuard<'_, Live> {
        self.live.lock().expect("no code panics while it holds the live log")
    }

    /// Whether these are entries that this node proposes as the leader that it is.
    fn leads(&self, live: &Live, first: &LogId) -> bool {
        live.vote.is_some_and(|vote| {
            vote.committed && vote.leader_id.node_id == self.node && vote.leader_id == first.leader_id
        })
    }
}

impl Live {
    fn from_recovered(recovered: &Recovered) -> Result<Self, LogError> {
        let mut live =
            Self { vote: recovered.vote, committed: recovered.committed, purged: recovered.purged, ..Self::default() };
        let mut last = recovered.purged;
        for entry in &recovered.entries {
            let expected = last.map_or(0, |last| last.index + 1);
            if entry.log_id.index != expected {
                return Err(LogError::Hole { expected, found: entry.log_id.index });
            }
            if last.is_some_and(|last| entry.log_id.leader_id < last.leader_id) {
                return Err(LogError::Order { index: entry.log_id.index });
            }
            last = Some(entry.log_id);
            live.bytes += memory_bytes(entry);
            live.entries.insert(entry.log_id.index, entry.clone());
        }
        if let Some(committed) = live.committed.filter(|committed| Some(committed.index) > last.map(|last| last.index))
        {
            return Err(LogError::Behind { committed: committed.index, last: last.map(|last| last.index) });
        }
        Ok(live)
    }

    fn last_log_id(&self) -> Option<LogId> {
        self.entries.last_key_value().map(|(_, entry)| entry.log_id).or(self.purged)
    }
}

/// What an entry takes in memory, near enough.
fn memory_bytes(entry: &Entry) -> u64 {
    let payload = match &entry.payload {
        openraft::EntryPayload::Normal(payload) => payload.0.len(),
        openraft::EntryPayload::Blank | openraft::EntryPayload::Membership(_) => 0,
    };
    payload as u64 + 128
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, StorageError> {
        let bounds = (range.start_bound().cloned(), range.end_bound().cloned());
        if is_empty(bounds) {
            return Ok(Vec::new());
        }
        Ok(self.live().entries.range(bounds).map(|(_, entry)| entry.clone()).collect())
    }

    /// As many entries as one call can carry within its deadline, and at least one.
    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, StorageError> {
        let mut bytes = 0;
        let within = |entry: &&Entry| {
            let first = bytes == 0;
            bytes += memory_bytes(entry);
            first || bytes <= APPEND_BYTES_MAX as u64
        };
        Ok(self.live().entries.range(start..end).map(|(_, entry)| entry).take_while(within).cloned().collect())
    }
}

/// `BTreeMap::range` panics on ranges that are inside out.
fn is_empty(bounds: (Bound<u64>, Bound<u64>)) -> bool {
    let start = match bounds.0 {
        Bound::Included(start) => start,
        Bound::Excluded(start) => start.saturating_add(1),
        Bound::Unbounded => 0,
    };
    match bounds.1 {
        Bound::Included(end) => start > end,
        Bound::Excluded(end) => start >= end,
        Bound::Unbounded => false,
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, StorageError> {
        let live = self.live();
        Ok(LogState { last_purged_log_id: live.purged, last_log_id: live.last_log_id() })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), StorageError> {
        self.live().vote = Some(*vote);
        if planted!("vote-not-synced") {
            self.writer.write_later(WriteOp::Vote((*vote).into()));
            return Ok(());
        }
        let done = self.writer.write_and_wait(WriteOp::Vote((*vote).into()));
        done.await.map_err(|e| StorageIOError::write_vote(AnyError::new(&e)).into())
    }

    /// The vote as it was saved, except that a node does not lead on from its former life: a won vote for itself comes
    /// back as a mere vote for itself, and the next leader, perhaps the same node, is elected in a higher term.
    async fn read_vote(&mut self) -> Result<Option<Vote>, StorageError> {
        let mut live = self.live();
        if let Some(vote) = &mut live.vote
            && vote.leader_id.node_id == self.node
        {
            vote.committed = false;
        }
        Ok(live.vote)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), StorageError> {
        self.live().committed = committed;
        // Nobody waits for it: it rides along with the next write. After a crash an older one is only a slower start.
        self.writer.write_later(WriteOp::Committed(committed.map(Into::into)));
        Ok(())
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, StorageError> {
        Ok(self.live().committed)
    }

    async fn append<I>(&mut self, entries: I, callback: LogFlushed<TypeConfig>) -> Result<(), StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let Some(first) = entries.first().map(|e| e.log_id) else {
            callback.log_io_completed(Ok(()));
            return Ok(());
        };
        let records: Vec<EntryRecord> = entries.iter().map(EntryRecord::from).collect();
        let unsafe_until_synced = {
            let mut live = self.live();
            let leads = self.leads(&live, &first);
            for entry in entries {
                live.bytes += memory_bytes(&entry);
                live.entries.insert(entry.log_id.index, entry);
            }
            leads
        };
        if unsafe_until_synced {
            let ticket = self.durability.begin(first.index);
            self.writer.append_unsafe(records, ticket);
            callback.log_io_completed(Ok(()));
        } else if planted!("follower-writes-nothing") {
            callback.log_io_completed(Ok(()));
        } else {
            self.writer.append(records, callback);
        }
        Ok(())
    }

    async fn truncate(&mut self, log_id: LogId) -> Result<(), StorageError> {
        {
            let mut live = self.live();
            let removed = live.entries.split_off(&log_id.index);
            live.bytes -= removed.values().map(memory_bytes).sum::<u64>();
        }
        let done = self.writer.write_and_wait(WriteOp::TruncateFrom(log_id.index));
        done.await.map_err(|e| StorageIOError::write_logs(AnyError::new(&e)).into())
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), StorageError> {
        // After a crash between a snapshot and what it makes of the log, entries may stand here that never came to be: where the
        // snapshot has another one, nothing behind it is of this history.
        let is_other = self.live().entries.get(&log_id.index).is_some_and(|entry| entry.log_id != log_id);
        if is_other {
            self.truncate(log_id).await?;
        }
        {
            let mut live = self.live();
            let kept = live.entries.split_off(&(log_id.index + 1));
            let removed = std::mem::replace(&mut live.entries, kept);
            live.bytes -= removed.values().map(memory_bytes).sum::<u64>();
            live.purged = Some(log_id);
        }
        // Nobody waits for it either: after a crash the entries are only there once more.
        self.writer.write_later(WriteOp::PurgeTo(log_id.into()));
        Ok(())
    }
}
