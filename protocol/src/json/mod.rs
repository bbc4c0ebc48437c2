//! Canonical JSON: one text for one value.
//!
//! What the Admin API accepts is parsed strictly ([`parse`]) and written canonically ([`canonical`]) once, at admission;
//! those bytes then travel unchanged through the log, deltas, snapshots, the record and the proxies' disks. The rules:
//!
//! - UTF-8, no white space, members sorted by the bytes of their names;
//! - refused: a name twice in one object, lone surrogates, `\u0000`, nesting over [`DEPTH_MAX`], an integer wider than 64 bits;
//! - integers stay integers, every other number takes its shortest form that reads back the same.
//!
//! The writer is our own because a JSON library's member order leaks through feature unification: one crate anywhere in
//! the build that asks for insertion order would change the bytes.

mod canonical;
mod diff;
mod merge;
mod parse;

pub use canonical::canonical;
pub use diff::{Difference, differences};
pub use merge::{merge, replace_at};
pub use parse::{DEPTH_MAX, JsonError, parse};
pub use serde_json::{Map, Number, Value};
