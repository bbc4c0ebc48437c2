//! Snapshots at rest: an object store, over a directory or S3, and how a configuration lies in it.
//!
//! ```text
//!   leader  --Writer--> base, segments, `latest` --> ObjectStore (directory | S3)
//!   proxy, restore, hfctl  <--Reader-- the newest position that can be proved, and why others were refused
//! ```
//!
//! Nothing that comes out of a store is believed: an object counts when a trusted key has signed it, when it is of the
//! right cluster and view, and when the digest after it is the one it names. The signature is checked before anything
//! is unpacked. A store that fails costs its reader time within named bounds, and gates nothing.

pub mod layout;
pub mod pointer;
pub mod read;
pub mod segment;
pub mod settings;
pub mod store;
pub mod write;

pub use layout::{Layout, View};
pub use pointer::Pointer;
pub use read::{Found, Reader, Refused};
pub use settings::{ArchiveSettings, AsSet, BadArchive, OpenStore};
pub use store::{ObjectStore, StoreError};
pub use write::Writer;
