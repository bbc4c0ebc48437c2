//! Public behaviour of the crate, and the shape of the house.
#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod golden;
mod house;
