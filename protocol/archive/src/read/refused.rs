//! What in an archive is not taken, and why.

use std::fmt;

use protocol::Position;
use protocol::position::EpochConflict;
use protocol::snapshot::SnapshotError;
use protocol::state::EvolveError;

use crate::segment::SignedError;
use crate::store::StoreError;

/// Something in an archive that was not taken.
#[derive(Debug)]
pub struct Refused {
    /// The object, or the folder.
    pub object: String,
    /// Why.
    pub reason: Reason,
}

/// Why something in an archive is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// It cannot be had.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A base is not good.
    #[error(transparent)]
    Base(#[from] SnapshotError),
    /// A segment or the pointer is not good.
    #[error(transparent)]
    Signed(#[from] SignedError),
    /// What it holds does not follow from what stands before it.
    #[error(transparent)]
    Evolve(#[from] EvolveError),
    /// It is not what its name or the pointer says.
    #[error("it ends at {found}, it should at {wanted}")]
    Elsewhere {
        /// Where it ends.
        found: Position,
        /// Where it should.
        wanted: Position,
    },
    /// It is behind what the reader has.
    #[error("it is at {found}, behind {have}")]
    Older {
        /// Where it is.
        found: Position,
        /// What the reader has.
        have: Position,
    },
    /// Two lives with one number.
    #[error(transparent)]
    Conflict(#[from] EpochConflict),
    /// Several clusters, and nobody said which.
    #[error("there are {0} clusters here: set archive.cluster to the one that is meant")]
    Clusters(usize),
}

impl Reason {
    /// Whether it is not as anybody wrote it: cut short, or changed on its way or where it lies.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self.name(), "truncated" | "damaged") && !matches!(self, Self::Store(_))
    }

    /// A short name, for metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Store(e) => e.name(),
            Self::Base(e) => match e {
                SnapshotError::Short | SnapshotError::Io(_) => "truncated",
                SnapshotError::Newer(_) => "newer_format",
                SnapshotError::Cluster { .. } => "cluster",
                SnapshotError::View { .. } => "view",
                SnapshotError::Seal(_) => "signature",
                SnapshotError::TooLarge { .. } => "too_large",
                SnapshotError::Digest { .. } => "digest",
                SnapshotError::Magic | SnapshotError::Record(..) | SnapshotError::Damaged(_) => "damaged",
            },
            Self::Signed(e) => match e {
                SignedError::Size { .. } => "truncated",
                SignedError::Record(..) | SignedError::Damaged => "damaged",
                SignedError::Seal(_) => "signature",
                SignedError::TooLarge { .. } => "too_large",
                SignedError::Cluster { .. } => "cluster",
                SignedError::View { .. } => "view",
            },
            Self::Evolve(EvolveError::Digest { .. }) => "digest",
            Self::Evolve(_) => "gap",
            Self::Elsewhere { .. } => "position",
            Self::Older { .. } => "older",
            Self::Conflict(_) => "epoch",
            Self::Clusters(_) => "clusters",
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.reason)
    }
}
