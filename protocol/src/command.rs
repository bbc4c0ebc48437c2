//! What is proposed to the log.
//!
//! A command carries everything that applying it needs: times, references, claims and sealed secrets are stamped by the
//! proposer, so that apply needs no clock, no key and no schema, and two builds decide alike.

use std::sync::Arc;

use bincode::{Decode, Encode};

use crate::codec::Record;
use crate::digest::Chain;
use crate::entry::{Claim, SYSTEM_GROUP, UnixMillis};
use crate::key::{Kind, ResourceKey};
use crate::position::{Epoch, RestoreId, Revision};
use crate::text::Text;

/// The largest log entry, in bytes. One that cannot cross a link within the deadline of an AppendEntries call, which is
/// the heartbeat interval, would be sent again for ever: at 20 Mbit/s so much takes 26 ms. What is larger is staged.
pub const LOG_ENTRY_BYTES_MAX: usize = 64 << 10;

/// The largest staged part, in bytes: a command that carries it fits into a log entry.
pub const STAGE_PART_BYTES_MAX: usize = LOG_ENTRY_BYTES_MAX - (4 << 10);

/// One change that somebody asked for.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Command {
    /// Which node forwards or proposes it, so that its own retries are harmless.
    pub origin: Option<Origin>,
    /// The client's `Idempotency-Key`, so that the client's retries are harmless.
    pub idempotency: Option<Idempotency>,
    /// The request's id in history and logs: the client's key, or one that the server made.
    pub request: Text,
    /// The principal that the Admin API authenticated, or `system`.
    pub author: Text,
    /// The proposer's wall clock.
    pub time: UnixMillis,
    /// What admission has read. If any of it has changed by now, the command is refused as stale.
    pub based_on: Vec<BasedOn>,
    /// What to do.
    pub action: Action,
}

/// A node's own name for one of its proposals.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Origin {
    /// The node.
    pub node: u64,
    /// How often it has started, counted on its disk.
    pub boot: u64,
    /// Counts its proposals since then.
    pub sequence: u64,
    /// Every proposal of this boot below this number has been answered: it will not be retried.
    pub answered_below: u64,
}

/// A client's own name for a request.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Idempotency {
    /// The key as the client sent it. Keys of different authors do not meet.
    pub key: Text,
    /// SHA-256 of method, path and body: the same key with another request is refused.
    pub fingerprint: [u8; 32],
}

/// Something that admission has read.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct BasedOn {
    /// Which resource.
    pub key: ResourceKey,
    /// Its last change then; `None` when it did not exist.
    pub modified: Option<Revision>,
}

/// What to do.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Action {
    /// One write.
    Write(Write),
    /// Several writes, all or nothing, under one revision.
    Transaction(Transaction),
    /// Removes a resource whose time is up, unless it has changed since or is referenced.
    Expire {
        /// Which resource.
        key: ResourceKey,
        /// Its last change when its time ran out.
        modified: Revision,
    },
    /// Holds a part of a transaction that is too large for one log entry.
    StagePart {
        /// Which stage.
        stage: StageId,
        /// Which part, from 0.
        part: u32,
        /// At most [`STAGE_PART_BYTES_MAX`].
        bytes: Vec<u8>,
    },
    /// Puts the parts together and executes the transaction in them: a record `trns`, compressed.
    StageCommit {
        /// Which stage.
        stage: StageId,
        /// How many parts there are.
        parts: u32,
        /// The size of the record before compression.
        raw_bytes: u64,
        /// SHA-256 over all parts in order.
        sha256: [u8; 32],
    },
    /// Gives a node that wants to join its id.
    Enrol {
        /// The node's own random name: asking twice gives one id.
        uuid: [u8; 16],
    },
    /// Raises the level of the cluster.
    RaiseLevel {
        /// The new level.
        to: u32,
    },
    /// Something about the durable record.
    Record(RecordAction),
    /// Begins to bring back a configuration that a disaster has taken, as a new life of the cluster.
    RestoreBegin {
        /// The new life. Its number is above that of the current one.
        epoch: Epoch,
    },
    /// Holds a part of the configuration that is brought back.
    RestorePart {
        /// The life that it is for.
        restore: RestoreId,
        /// Which part, from 0.
        part: u32,
        /// At most [`STAGE_PART_BYTES_MAX`] bytes of a snapshot of everything ([`crate::snapshot`]): entries with their
        /// own metadata, position, chain and level.
        bytes: Vec<u8>,
    },
    /// Puts the configuration in place, all at once. Before it nothing is visible.
    RestoreEnd {
        /// The life that begins.
        restore: RestoreId,
        /// How many parts there are.
        parts: u32,
        /// SHA-256 over all parts in order.
        sha256: [u8; 32],
    },
}

/// What the writer of the durable record proposes.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum RecordAction {
    /// From now on every change is kept until the record has it.
    On,
    /// There is no record any more: nothing is kept for it.
    Off,
    /// The record was found to hold everything up to a revision.
    Recorded(RecordMark),
    /// Forgets which PostgreSQL system the record is on, so that another one with the same content can take its place.
    Release,
}

/// What the record is known to hold, and who said so.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct RecordMark {
    /// Everything up to here is in it.
    pub revision: Revision,
    /// The chain at this revision.
    pub chain: Chain,
    /// PostgreSQL's system identifier.
    pub system: u64,
    /// PostgreSQL's timeline: it grows with every failover.
    pub timeline: u32,
    /// The term of the leader that wrote.
    pub term: u64,
}

/// Several writes, all or nothing.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Transaction {
    /// The writes. No key may stand in two of them.
    pub writes: Vec<Write>,
    /// Refused unless this is the revision now.
    pub if_revision: Option<Revision>,
}

/// One write.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Write {
    /// Creates or replaces.
    Put {
        /// Which resource.
        key: ResourceKey,
        /// What it shall be.
        draft: Draft,
        /// Refused unless this is its last change.
        if_match: Option<Revision>,
        /// Refused if it exists.
        only_new: bool,
    },
    /// Creates under an id that is the revision, 20 digits, zero-padded. In a transaction it must stand alone.
    Post {
        /// Of which kind.
        kind: Kind,
        /// What it shall be.
        draft: Draft,
    },
    /// Removes.
    Delete {
        /// Which resource.
        key: ResourceKey,
        /// Refused unless this is its last change.
        if_match: Option<Revision>,
        /// Even if something refers to it.
        force: bool,
    },
}

/// An entry without its stamps.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Draft {
    /// Canonical JSON.
    pub body: Arc<str>,
    /// Sorted, each once.
    pub references: Vec<ResourceKey>,
    /// Sorted, each once.
    pub claims: Vec<Claim>,
    /// Sorted, each once, never empty.
    pub groups: Vec<Text>,
    /// See [`crate::Entry::ttl_seconds`].
    pub ttl_seconds: Option<u64>,
}

impl Draft {
    /// What the control plane keeps for itself: nothing refers to it, and no proxy gets it.
    #[must_use]
    pub fn of_the_system(body: Arc<str>) -> Self {
        let groups = vec![SYSTEM_GROUP.into()];
        Self { body, references: Vec::new(), claims: Vec::new(), groups, ttl_seconds: None }
    }
}

/// A stage's name: the origin of its first part.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
pub struct StageId {
    /// The node that stages.
    pub node: u64,
    /// Its boot.
    pub boot: u64,
    /// Counts its stages.
    pub number: u64,
}

/// What one log entry carries: commands of which each is decided, numbered and answered on its own.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Batch {
    /// How long ago the leader proposed its batch before this one, by its monotonic clock: what the log's own time goes
    /// on by. A wall clock that jumps cannot make the log forget anything early.
    pub elapsed_millis: u64,
    /// The commands, in the order in which they are decided.
    pub commands: Vec<Command>,
}

impl Record for Command {
    const TAG: [u8; 4] = *b"cmnd";
    const VERSION: u16 = 1;
    const PAYLOAD_BYTES_MAX: usize = LOG_ENTRY_BYTES_MAX;
}

impl Record for Batch {
    const TAG: [u8; 4] = *b"btch";
    const VERSION: u16 = 1;
    /// A batch is closed before it passes [`LOG_ENTRY_BYTES_MAX`]; one command at the bound still fits.
    const PAYLOAD_BYTES_MAX: usize = LOG_ENTRY_BYTES_MAX + 1024;
}

impl Record for Transaction {
    const TAG: [u8; 4] = *b"trns";
    const VERSION: u16 = 1;
    /// What may be staged, uncompressed.
    const PAYLOAD_BYTES_MAX: usize = 256 << 20;
}

impl Write {
    /// The resource that is written; `None` for one that gets its id only when it is decided.
    #[must_use]
    pub fn key(&self) -> Option<&ResourceKey> {
        match self {
            Self::Put { key, .. } | Self::Delete { key, .. } => Some(key),
            Self::Post { .. } => None,
        }
    }
}
