//! What became of a command. A refusal is data: it was decided in the log, where no race can reach it.

use bincode::{Decode, Encode};

use crate::entry::Stamp;
use crate::key::ResourceKey;
use crate::position::{Position, Revision};
use crate::text::Text;

/// What became of a command.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Outcome {
    /// It changed the configuration.
    Done {
        /// The position that the change got.
        position: Position,
        /// What was written, in the order of the command.
        written: Vec<Written>,
    },
    /// A part is held.
    Staged,
    /// A node has its id.
    Enrolled {
        /// The id.
        node: u64,
    },
    /// The level is (at least) what was asked for.
    Level {
        /// The level now.
        level: u32,
    },
    /// It changed nothing.
    Refused {
        /// The position at which it was refused.
        position: Position,
        /// Why.
        rejection: Rejection,
    },
    /// What is known of the record is as was said.
    Record,
    /// A part of a restore is held, or a restore has begun.
    Restoring,
    /// A configuration was brought back.
    Restored {
        /// The first position of the new life.
        position: Position,
    },
}

/// One resource that was written.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Written {
    /// Which.
    pub key: ResourceKey,
    /// How.
    pub how: WrittenHow,
}

/// How a resource was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub enum WrittenHow {
    /// It is new.
    Created {
        /// Creation and last change.
        stamp: Stamp,
    },
    /// It was there before.
    Replaced {
        /// When it came to be.
        created: Stamp,
        /// This change.
        modified: Stamp,
    },
    /// It is gone.
    Deleted,
}

/// Why a command changed nothing.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode, thiserror::Error)]
pub enum Rejection {
    /// Something that admission has read has changed since. Admit again.
    #[error("{key} has changed since the request was checked")]
    Stale {
        /// What has changed.
        key: ResourceKey,
    },
    /// `If-Match` names another revision than the resource's last change.
    #[error("If-Match asks for revision {wanted} of {key}, it is at {}", found.map_or("none: it does not exist".to_owned(), |r| r.to_string()))]
    Mismatch {
        /// Which resource.
        key: ResourceKey,
        /// As asked.
        wanted: Revision,
        /// As it is; `None` when it does not exist.
        found: Option<Revision>,
    },
    /// There is no such resource.
    #[error("{key} does not exist")]
    NotFound {
        /// Which resource.
        key: ResourceKey,
    },
    /// There is such a resource already.
    #[error("{key} exists already")]
    Exists {
        /// Which resource.
        key: ResourceKey,
    },
    /// It refers to something that does not exist.
    #[error("{from} refers to {to}, which does not exist")]
    MissingReference {
        /// What refers.
        from: ResourceKey,
        /// What is missing.
        to: ResourceKey,
    },
    /// Something still refers to it.
    #[error("{key} is still used by {by}")]
    StillReferenced {
        /// What should go.
        key: ResourceKey,
        /// What refers to it.
        by: ResourceKey,
    },
    /// It refers to something that a gateway group of its own does not see.
    #[error("{from} is in gateway group {group}, {to} is not")]
    ForeignGroup {
        /// What refers.
        from: ResourceKey,
        /// What it refers to.
        to: ResourceKey,
        /// The group.
        group: Text,
    },
    /// Somebody else holds a value that must be unique.
    #[error("a value of {space} in {key} is held by {by}")]
    Claimed {
        /// What wants it.
        key: ResourceKey,
        /// The space of values.
        space: Text,
        /// What holds it.
        by: ResourceKey,
    },
    /// The `Idempotency-Key` was used for another request.
    #[error("the Idempotency-Key {key:?} was used for another request")]
    KeyReused {
        /// The key.
        key: Text,
    },
    /// `if_revision` names another revision than the current one.
    #[error("the transaction asks for revision {wanted}, the configuration is at {found}")]
    RevisionMoved {
        /// As asked.
        wanted: Revision,
        /// As it is.
        found: Revision,
    },
    /// One resource is written twice in one transaction.
    #[error("{key} is written twice in one transaction")]
    Twice {
        /// Which.
        key: ResourceKey,
    },
    /// A transaction without a write, or with a write that needs an id of its own.
    #[error("{why}")]
    Malformed {
        /// What is wrong.
        why: Text,
    },
    /// The outcome of this proposal is no longer remembered, so it must not be decided again.
    #[error("the proposal is older than what is remembered")]
    Forgotten,
    /// The parts of a stage are missing, incomplete or damaged, or there is no room for them.
    #[error("staged transaction: {why}")]
    Stage {
        /// What is wrong.
        why: Text,
    },
    /// The level cannot be what was asked for.
    #[error("the cluster is at level {level} and supports up to {supported}; {wanted} was asked for")]
    Level {
        /// As asked.
        wanted: u32,
        /// As it is.
        level: u32,
        /// What this build supports.
        supported: u32,
    },
    /// The record lags so far behind that no more changes can be kept for it.
    #[error("the record is {changes} changes ({bytes} bytes) behind, and no more can be kept for it")]
    RecordBehind {
        /// Changes that it lacks.
        changes: u64,
        /// What they take.
        bytes: u64,
    },
    /// What was said of the record cannot be.
    #[error("the record: {why}")]
    Record {
        /// What is wrong.
        why: Text,
    },
    /// A restore cannot be as was asked for, or its parts are missing, incomplete or damaged.
    #[error("restore: {why}")]
    Restore {
        /// What is wrong.
        why: Text,
    },
}

impl Outcome {
    /// The position of the change or of the refusal, where there is one.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        match self {
            Self::Done { position, .. } | Self::Refused { position, .. } | Self::Restored { position } => {
                Some(*position)
            }
            Self::Staged | Self::Enrolled { .. } | Self::Level { .. } | Self::Record | Self::Restoring => None,
        }
    }
}

impl crate::codec::Record for Outcome {
    const TAG: [u8; 4] = *b"outc";
    const VERSION: u16 = 1;
    /// A transaction of a hundred thousand writes names each of them.
    const PAYLOAD_BYTES_MAX: usize = 64 << 20;
}
