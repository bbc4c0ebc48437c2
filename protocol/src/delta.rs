//! All changes of one commit, or of a span of commits.

use std::sync::Arc;

use bincode::{Decode, Encode};

use crate::codec::Record;
use crate::digest::Digest;
use crate::entry::{Entry, UnixMillis};
use crate::key::ResourceKey;
use crate::position::Position;
use crate::text::Text;

/// An atomic step from one position of a view to a later one. Whoever stands at `prev` and evolves by `changes` stands
/// at `position` and must have `digest`.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Delta {
    /// The position of the view's previous *change* (not of the previous commit, which may not have touched the view).
    pub prev: Position,
    /// The position that the view is brought to.
    pub position: Position,
    /// What changed, sorted by key, each key once.
    pub changes: Vec<Change>,
    /// The view's digest afterwards.
    pub digest: Digest,
    /// Who caused it, on full deltas of one commit only (the control plane's own and the record's).
    pub cause: Option<Cause>,
}

/// What became of one resource.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Change {
    /// Which resource.
    pub key: ResourceKey,
    /// Its entry now; `None` when it is gone from the view.
    pub entry: Option<Arc<Entry>>,
}

/// Who changed the configuration, when, and on whose behalf.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Cause {
    /// The principal that the Admin API authenticated, or `system`.
    pub author: Text,
    /// The client's `Idempotency-Key`, or the id that the server gave the request.
    pub request: Text,
    /// The proposer's wall clock.
    pub time: UnixMillis,
}

impl Record for Delta {
    const TAG: [u8; 4] = *b"delt";
    const VERSION: u16 = 1;
    /// A transaction may carry a whole configuration.
    const PAYLOAD_BYTES_MAX: usize = 512 << 20;
}
