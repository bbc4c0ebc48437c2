//! What stores the log: sled in production, a model of a disk in simulations.

use crate::types::{Entry, LogId, Vote};
use crate::wire::{EntryRecord, LogIdRecord, VoteRecord};

/// Stores what the writer gives it. The writer is its only user, one call at a time.
///
/// What is written is not durable before [`Self::sync`] has returned; after a crash in between each write since the last
/// sync may be there or not, but never a later one without an earlier.
pub trait LogBackend: Send + 'static {
    /// Reads everything, once, before anything is written.
    ///
    /// # Errors
    /// [`LogError`] when what is stored is not what was written.
    fn recover(&mut self) -> Result<Recovered, LogError>;

    /// Writes operations in their order, all or none.
    ///
    /// # Errors
    /// [`LogError`]; the log must not be used any more.
    fn write(&mut self, ops: &[WriteOp]) -> Result<(), LogError>;

    /// Makes everything written so far durable.
    ///
    /// # Errors
    /// [`LogError`]; the log must not be used any more. A failed sync is never tried again: the kernel may have dropped
    /// what it could not write.
    fn sync(&mut self) -> Result<(), LogError>;

    /// What it takes on disk, in bytes.
    fn disk_bytes(&self) -> u64;
}

/// One change of what is stored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum WriteOp {
    /// An entry, behind the last.
    Append(EntryRecord),
    /// Every entry from this index on goes.
    TruncateFrom(u64),
    /// Every entry up to this one goes.
    PurgeTo(LogIdRecord),
    /// The vote.
    Vote(VoteRecord),
    /// Up to where entries are known to be committed.
    Committed(Option<LogIdRecord>),
}

/// What was stored.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// The entries, by index.
    pub entries: Vec<Entry>,
    /// The vote.
    pub vote: Option<Vote>,
    /// Up to where entries were known to be committed.
    pub committed: Option<LogId>,
    /// The last purged entry.
    pub purged: Option<LogId>,
}

/// Why a log cannot be used. Each names the place. After any of them the node is lost: it must join anew, under a new id.
#[derive(Clone, Debug, thiserror::Error)]
pub enum LogError {
    /// The file system or sled failed.
    #[error("{place}: {reason}")]
    Io {
        /// Which file or directory.
        place: String,
        /// What it said.
        reason: String,
    },
    /// What is stored is damaged.
    #[error("{place} is damaged: {reason}")]
    Damaged {
        /// Which file or record.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// Sled came back with less than what was acknowledged.
    #[error(
        "{place} has lost writes that were acknowledged: {high_water} were counted, {found} are there; the file was damaged or replaced"
    )]
    LostWrites {
        /// The sled file.
        place: String,
        /// As counted beside it.
        high_water: u64,
        /// As counted in it.
        found: u64,
    },
    /// An entry is missing.
    #[error("the log has a hole: after it should come entry {expected}, there is {found}")]
    Hole {
        /// The index that is missing.
        expected: u64,
        /// The index that is there.
        found: u64,
    },
    /// Terms go backwards.
    #[error("the log is out of order: entry {index} is of an earlier term than the one before it")]
    Order {
        /// The entry.
        index: u64,
    },
    /// Entries that were known to be committed are missing.
    #[error("the log ends at {last:?}, but entries up to {committed} were known to be committed")]
    Behind {
        /// Known to be committed.
        committed: u64,
        /// The last one there is.
        last: Option<u64>,
    },
    /// A write or sync has failed before; nothing is acknowledged after it.
    #[error("the log has failed before: {0}")]
    Poisoned(String),
}

impl LogError {
    pub(super) fn io(place: impl Into<String>, reason: impl ToString) -> Self {
        Self::Io { place: place.into(), reason: reason.to_string() }
    }
}

impl From<LogError> for std::io::Error {
    fn from(e: LogError) -> Self {
        Self::other(e)
    }
}
