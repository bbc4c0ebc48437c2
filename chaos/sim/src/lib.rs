//! Holdfast in one process: real control-plane nodes and real feeds of proxies, on a simulated network, clock and disk.
//!
//! ```text
//!   seed -> Plan (sizes, thresholds, faults, load)
//!
//!   clients --Admin API--> cp1..cp5 --feed--> dp1..dp5         nemesis: cuts links, kills, pulls the plug
//!      |                      |                  |
//!      +------ History -------+---- Truth -------+--> checked after every step
//! ```
//!
//! What runs is the product: consensus over gRPC, proposer, batcher, read index, Admin API, snapshots, purges, membership,
//! feed service, and the proxy's follower with its disk. What is simulated is what those stand on: TCP is turmoil's, time
//! is tokio's paused clock, the log's disk loses what was not synced, and every source of randomness comes from the seed.

mod check;
mod client;
mod hosts;
mod nemesis;
mod network;
mod outside;
pub mod plan;
mod random;
mod run;
mod tally;
mod truth;

pub use plan::Mutant;
pub use random::seed_everything;
pub use run::{Breach, Ran, home, run};
pub use tally::Tally;
