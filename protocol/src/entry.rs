//! What is stored for a resource.

use std::sync::Arc;

use bincode::{Decode, Encode};

use crate::key::ResourceKey;
use crate::position::Revision;
use crate::text::Text;

/// The gateway group that every resource belongs to unless it says otherwise.
pub const DEFAULT_GROUP: &str = "default";

/// The group of what the control plane keeps for itself among the resources. No proxy can be in it.
pub const SYSTEM_GROUP: &str = "$system";

/// Milliseconds since 1970-01-01 UTC, by the wall clock of whoever stamped it. It informs and never decides.
pub type UnixMillis = u64;

/// The whole stored form of one resource. Entries travel whole in deltas, records and snapshots: nothing in them is
/// worked out again from the body, so that two builds with different models hold the same state.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Entry {
    /// The user's fields, as canonical JSON ([`crate::json`]).
    pub body: Arc<str>,
    /// The resources that the body refers to, sorted, each once.
    pub references: Vec<ResourceKey>,
    /// Values of the body that nobody else may hold, as keyed hashes, sorted, each once.
    pub claims: Vec<Claim>,
    /// The gateway groups that may see it, sorted, each once, never empty.
    pub groups: Vec<Text>,
    /// When it came to be.
    pub created: Stamp,
    /// Its last change.
    pub modified: Stamp,
    /// How long after its last change it goes away by itself, in seconds.
    pub ttl_seconds: Option<u64>,
}

impl Entry {
    /// What came to be with this stamp in one group, refers to nothing, and stays until it is taken away.
    #[must_use]
    pub fn new(body: impl Into<Arc<str>>, group: &str, stamp: Stamp) -> Self {
        Self {
            body: body.into(),
            references: Vec::new(),
            claims: Vec::new(),
            groups: vec![group.into()],
            created: stamp,
            modified: stamp,
            ttl_seconds: None,
        }
    }
}

/// On its own, in the durable record, which keeps the body beside it.
impl crate::codec::Record for Entry {
    const TAG: [u8; 4] = *b"entr";
    const VERSION: u16 = 1;
    const PAYLOAD_BYTES_MAX: usize = 256 << 20;
}

/// A change's revision and time.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Stamp {
    /// The revision that the change got.
    pub revision: Revision,
    /// The proposer's wall clock.
    pub time: UnixMillis,
}

/// A value that at most one resource may hold: the name of a space, and a keyed hash of the value.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Encode, Decode)]
pub struct Claim {
    /// What kind of value, e.g. `key-auth`.
    pub space: Text,
    /// HMAC-SHA256 of the value under the cluster's claim key.
    pub hash: [u8; 32],
}
