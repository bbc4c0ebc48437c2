//! Why the record is not written, each reason with a word of its own.

use std::time::Duration;

use tokio_postgres::error::SqlState;

/// Why the record is not written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Trouble {
    /// No connection.
    #[error("PostgreSQL cannot be reached: {0}")]
    Unreachable(String),
    /// It accepts and does not answer.
    #[error("PostgreSQL did not answer within {0:?}")]
    Silent(Duration),
    /// The password or the certificate is not good.
    #[error("PostgreSQL refuses this user: {0}")]
    Unauthorised(String),
    /// `max_connections` is reached.
    #[error("PostgreSQL takes no more connections: {0}")]
    TooManyConnections(String),
    /// Its disk is full.
    #[error("PostgreSQL's disk is full: {0}")]
    DiskFull(String),
    /// It is a standby.
    #[error("this PostgreSQL is a standby")]
    Standby,
    /// It takes no writes.
    #[error("this PostgreSQL is read-only")]
    ReadOnly,
    /// Its text is not UTF-8.
    #[error("the database has the encoding {0}, UTF8 is needed")]
    Encoding(String),
    /// A newer version of Holdfast has been here.
    #[error("the schema is at version {found}, this version of holdfast knows up to {known}")]
    NewerSchema {
        /// The schema's version.
        found: i32,
        /// The highest known here.
        known: i32,
    },
    /// It is another system than the one that was written to.
    #[error(
        "this is PostgreSQL system {found}, the record is on {wanted}; if it was moved on purpose: hfctl record release"
    )]
    OtherSystem {
        /// As found.
        found: u64,
        /// As replicated.
        wanted: u64,
    },
    /// A primary from before a failover.
    #[error(
        "this PostgreSQL is on timeline {found}, the record has gone on to {wanted}: an old primary, never written again"
    )]
    OlderTimeline {
        /// As found.
        found: u32,
        /// As replicated.
        wanted: u32,
    },
    /// Another cluster's record.
    #[error("this is the record of cluster {0}")]
    OtherCluster(String),
    /// The cluster was restored elsewhere.
    #[error(
        "the record belongs to epoch {found}, this cluster is at {here}: it was restored elsewhere; this one stands down"
    )]
    HigherEpoch {
        /// The record's.
        found: u64,
        /// Ours.
        here: u64,
    },
    /// Somebody brings the cluster back, or has.
    #[error(
        "epoch {number} is claimed by restore {by}: the cluster is being restored elsewhere, or was; this one stands down"
    )]
    Claimed {
        /// The number.
        number: u64,
        /// By whom.
        by: String,
    },
    /// Two clusters were restored under one number.
    #[error("the record's epoch {0} has another restore id: two clusters were restored apart from each other")]
    EpochConflict(u64),
    /// Of an earlier life, and not where this one began.
    #[error(
        "the record is at {found} of an earlier epoch, this one began at {base}: changes lie between that cannot be vouched for"
    )]
    OlderEpoch {
        /// The record's revision.
        found: u64,
        /// Where this life began.
        base: u64,
    },
    /// A later leader has been here.
    #[error("a leader of term {found} has written, this one is of term {here}")]
    HigherTerm {
        /// The record's.
        found: u64,
        /// Ours.
        here: u64,
    },
    /// Another history.
    #[error("at revision {0} the record holds another history than this cluster")]
    DifferentChain(u64),
    /// It holds what this cluster does not.
    #[error("the record is at revision {found}, this cluster only at {head}")]
    Ahead {
        /// The record's revision.
        found: u64,
        /// Ours.
        head: u64,
    },
    /// It lacks what has been recorded: a standby that lags, or a primary from before a failover.
    #[error(
        "the record is at revision {found} here, and was at {recorded} already: a standby that lags, or an old primary"
    )]
    Lags {
        /// Its revision.
        found: u64,
        /// Up to where the cluster knows the record to be.
        recorded: u64,
    },
    /// It has lost more than is kept.
    #[error("the record is at revision {found}, changes are kept only from {base} on")]
    TooFarBehind {
        /// The record's revision.
        found: u64,
        /// Where the outbox begins.
        base: u64,
    },
    /// Its cursor was moved by somebody else.
    #[error("the cursor was not where this writer left it")]
    Moved,
    /// Anything else that PostgreSQL says.
    #[error("PostgreSQL: {0}")]
    Database(String),
}

impl Trouble {
    /// A word for programs.
    pub(crate) fn word(&self) -> &'static str {
        match self {
            Self::Unreachable(_) => "unreachable",
            Self::Silent(_) => "silent",
            Self::Unauthorised(_) => "unauthorised",
            Self::TooManyConnections(_) => "too-many-connections",
            Self::DiskFull(_) => "disk-full",
            Self::Standby => "standby",
            Self::ReadOnly => "read-only",
            Self::Encoding(_) => "encoding",
            Self::NewerSchema { .. } => "newer-schema",
            Self::OtherSystem { .. } => "other-system",
            Self::OlderTimeline { .. } => "older-timeline",
            Self::OtherCluster(_) => "other-cluster",
            Self::HigherEpoch { .. } => "higher-epoch",
            Self::Claimed { .. } => "claimed",
            Self::EpochConflict(_) => "epoch-conflict",
            Self::OlderEpoch { .. } => "older-epoch",
            Self::HigherTerm { .. } => "higher-term",
            Self::DifferentChain(_) => "different-chain",
            Self::Ahead { .. } => "ahead",
            Self::Lags { .. } => "lags",
            Self::TooFarBehind { .. } => "too-far-behind",
            Self::Moved => "moved",
            Self::Database(_) => "database",
        }
    }
}

impl From<tokio_postgres::Error> for Trouble {
    fn from(e: tokio_postgres::Error) -> Self {
        let Some(said) = e.as_db_error() else {
            let mut words = e.to_string();
            let mut source = std::error::Error::source(&e);
            while let Some(cause) = source {
                words = format!("{words}: {cause}");
                source = cause.source();
            }
            return Self::Unreachable(words);
        };
        let words = said.message().to_owned();
        let code = said.code();
        if *code == SqlState::TOO_MANY_CONNECTIONS {
            Self::TooManyConnections(words)
        } else if *code == SqlState::DISK_FULL {
            Self::DiskFull(words)
        } else if *code == SqlState::READ_ONLY_SQL_TRANSACTION {
            Self::ReadOnly
        } else if code.code().starts_with("28") {
            Self::Unauthorised(words)
        } else if code.code().starts_with("57P") {
            Self::Unreachable(words)
        } else {
            Self::Database(format!("{words} ({})", code.code()))
        }
    }
}
