//! Public behaviour of a control-plane node: real nodes in this process, on real sockets and a real disk. What needs their
//! death is in `chaos`.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod admin;
mod ahead;
mod archive;
mod binary;
mod disk;
mod elections;
mod history;
mod links;
mod node;
mod openapi;
mod plugins;
mod races;
mod refusals;
mod reverts;
mod ssls;
mod transcript;
mod users;
mod whole;
mod writes;
