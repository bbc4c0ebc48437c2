//! Upstreams whose nodes DNS knows (`service_name` with `discovery_type: dns`).
//!
//! ```text
//!   compiler --note, nodes--> Services --orders--> find (tasks of the feed) --> DNS
//!                                ^------- learn -----+
//! ```
//!
//! The nodes of a service take their place when an upstream is compiled, so a request pays nothing for them, and they are
//! watched and balanced as listed ones are. A service is asked for when a resource first names it, and again when what DNS
//! said has run out. What it said last holds for as long as it says nothing else.

mod book;
mod find;

pub(crate) use book::Services;
pub(crate) use find::{Found, Searches};
