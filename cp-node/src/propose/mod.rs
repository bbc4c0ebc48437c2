//! From a checked request to its outcome.
//!
//! ```text
//!   Admin API --> Proposer: names the command (node, boot, sequence), keeps trying until its deadline
//!                    |                                  |
//!                    | this node leads                  | another node leads: Propose over gRPC
//!                    v                                  v
//!                 Batcher: all that waits becomes one log entry --> consensus --> outcomes, one per command
//! ```
//!
//! A command keeps its name over all attempts, and the log remembers what it came to; so trying again is always safe, and
//! a command is carried out at most once however many leaders it meets.

mod batch;
mod proposer;
mod stage;

pub(crate) use batch::Batcher;
pub(crate) use proposer::Proposer;
use raft_store::types::NodeId;

/// A command without a known outcome.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Undecided {
    /// It was not proposed, and never will be by this attempt.
    NotProposed {
        /// Why.
        reason: String,
        /// Who leads, as far as is known.
        leader: Option<NodeId>,
    },
    /// It was proposed, and may still commit.
    Unknown(String),
}

/// Why a request gets no outcome.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum ProposeError {
    /// It was not proposed, and will not be.
    #[error("{0}")]
    NotProposed(String),
    /// It was proposed and may still be carried out. A retry under the same name is harmless.
    #[error("{0}")]
    Unknown(String),
}
