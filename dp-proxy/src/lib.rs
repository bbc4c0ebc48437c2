//! The data plane of Holdfast: carries the traffic, follows the control plane, and never needs it to serve.
//!
//! ```text
//!   control plane -> feed (thread) -> disk (thread)
//!                       |
//!                       +-> table -> workers (a thread each) <-> clients and upstreams
//!                                        |
//!   operators <- status, metrics <-------+
//! ```
//!
//! At its start a proxy serves the newest configuration that its disk can prove; whatever the control plane says comes
//! on top of that, one proved step after the other. `docs/ARCHITECTURE.md` has the whole picture.

pub mod access_log;
pub mod archive;
pub mod command;
pub mod discovery;
pub mod disk;
pub mod dns;
pub mod feed;
pub mod handover;
pub mod health;
pub mod net;
pub mod path;
pub mod proxy;
pub mod run;
pub mod secrets;
pub mod settings;
pub mod standalone;
pub mod standing;
pub mod status;
pub mod table;
