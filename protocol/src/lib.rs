//! The words, bytes and rules that every Holdfast program shares.
//!
//! ```text
//!   body --admit--> Admitted --proposer--> Command --decide (raft-store)--> Delta --evolve--> ConfigState
//! ```
//!
//! A control-plane node decides and evolves; a proxy, the record writer, a restore and a test model only evolve. This
//! crate therefore knows no runtime, no consensus, no disk and no clock: what it computes depends on its arguments
//! alone, on every machine and in every version of the same format.

pub mod codec;
pub mod command;
#[cfg(feature = "crypto")]
pub mod crypto;
pub mod delta;
pub mod digest;
pub mod entry;
#[cfg(feature = "grpc")]
pub mod grpc;
pub mod json;
pub mod key;
pub mod outcome;
pub mod position;
pub mod report;
pub mod resource;
pub mod seal;
pub mod seam;
pub mod snapshot;
pub mod state;
pub mod text;

pub use command::Command;
pub use delta::Delta;
pub use digest::{Chain, Digest};
pub use entry::Entry;
pub use key::{Kind, ResourceKey};
pub use outcome::{Outcome, Rejection};
pub use position::{Epoch, Position, Revision};
pub use report::Report;
pub use state::ConfigState;
pub use text::Text;
