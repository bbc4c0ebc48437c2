//! The pointer: what a reader needs for the newest position of a view, signed.
//!
//! ```text
//!   record "aptr" | record "asig"
//! ```
//!
//! It is a short cut and no more: what it names proves itself, and without it everything is found by listing.

use bincode::{Decode, Encode};
use protocol::codec::{self, Record};
use protocol::crypto::{SigningKey, TrustedKeys};
use protocol::entry::UnixMillis;
use protocol::snapshot::ClusterId;
use protocol::{Digest, Position, Text};

use crate::segment::{SignedError, check_owner, check_signature, sign};

/// How many segments may stand behind a base: a reader fetches them one by one.
pub const SEGMENTS_MAX: usize = 256;

/// The newest of a view.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Pointer {
    /// Whose configuration.
    pub cluster: ClusterId,
    /// Which view; `None`: everything.
    pub view: Option<Text>,
    /// Up to where the view is here: its last change when this was written.
    pub position: Position,
    /// The digest there.
    pub digest: Digest,
    /// The position of the base.
    pub base: Position,
    /// The view's last change in it.
    pub base_changed_at: Position,
    /// Its size.
    pub base_bytes: u64,
    /// What stands behind it, in order.
    pub segments: Vec<SegmentRef>,
    /// The writer's wall clock.
    pub written: UnixMillis,
}

/// A segment behind the base.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct SegmentRef {
    /// The change that it starts from.
    pub prev: Position,
    /// The change that it ends with.
    pub position: Position,
    /// Its size.
    pub bytes: u64,
}

impl Record for Pointer {
    const TAG: [u8; 4] = *b"aptr";
    const VERSION: u16 = 1;
    /// 256 segments of under 100 bytes, with room.
    const PAYLOAD_BYTES_MAX: usize = POINTER_BYTES_MAX;
}

/// The largest pointer that is read.
pub const POINTER_BYTES_MAX: usize = 64 << 10;

impl Pointer {
    /// Its bytes.
    ///
    /// # Panics
    /// With more segments than [`SEGMENTS_MAX`].
    #[must_use]
    pub fn seal(&self, key: &SigningKey) -> Vec<u8> {
        let mut bytes = codec::seal(self).expect("the writer bounds the segments");
        sign(&mut bytes, key);
        bytes
    }

    /// Reads the pointer of this cluster and view.
    ///
    /// # Errors
    /// [`SignedError`].
    pub fn open(
        bytes: &[u8],
        cluster: ClusterId,
        view: &Option<Text>,
        trusted: &TrustedKeys,
    ) -> Result<Self, SignedError> {
        let (pointer, used) = codec::open_prefix::<Self>(bytes).map_err(|e| SignedError::Record("pointer", e))?;
        check_signature(bytes, used, trusted)?;
        check_owner((pointer.cluster, &pointer.view), cluster, view)?;
        Ok(pointer)
    }

    /// What stands behind the base takes so many bytes.
    #[must_use]
    pub fn segments_bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }
}
