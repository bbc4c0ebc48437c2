//! The archive from outside: one contract over every store, and what is found in it whatever became of it.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod between;
mod contract;
mod damage;
mod faults;
mod golden;
mod servers;
mod writing;
