//! A node of the control plane.
//!
//! ```text
//!   operators, tools --- Admin API ---+            +--- peer listener --- other nodes
//!                                     |            |
//!                                  proposer --> consensus (raft-store, openraft)
//!                                                  |
//!   proxies ------------ feed listener <-- feed <--+
//! ```
//!
//! Consensus and what nodes say to each other run on a runtime of their own; the Admin API and the feed on another.

mod admin;
mod archiver;
pub mod bootstrap;
pub mod command;
mod escrow;
mod feed;
mod http;
mod links;
mod maintenance;
mod members;
mod metrics;
pub mod net;
pub mod node;
mod probes;
mod propose;
mod raft;
mod read;
pub mod record;
pub mod settings;
mod status;

pub use admin::KeyError;
