//! Public behaviour of consensus storage.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod cluster;
mod damage;
mod golden;
mod suite;
