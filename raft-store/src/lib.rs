//! Consensus storage: everything of Raft that touches bytes, and the state machine that decides.
//!
//! ```text
//!                 append, vote                 committed entries              each change
//!   consensus  ----------------> log store   ---------------------> replica --------------> feed --> readers
//!   (openraft) <---------------- (writer      snapshots             (decide, evolve)
//!                durable           thread)  <---------------------
//! ```
//!
//! It knows no HTTP, no gRPC, no PostgreSQL and no S3, and no clock: time comes in commands and batches.

pub mod backlog;
pub mod disk;
pub mod embedded;
pub mod feed;
pub mod log;
pub mod machine;
mod replica;
pub mod runtime;
pub mod snapshots;
pub mod types;
pub mod wire;

pub use replica::{Applied, Builder, Replica, ReplicaError, ReplicaStart, receive_snapshot};
