//! The one file format for the whole configuration at one position: Raft's snapshots, the archive's bases and the
//! proxies' disks are all of it.
//!
//! ```text
//!   magic "HFSNAP01"
//!   header      a record "snap": cluster, view, position, digest, counts
//!   block*      kind u8 | raw length u32 | stored length u32 | CRC-32C u32 | zstd of at most 1 MiB
//!   end block   kind 0, empty
//!   footer      a record "snpf": blocks, bytes, SHA-256 of everything before it, seal over that hash
//! ```
//!
//! It is written and read as a stream in constant memory beside the state. A reader believes nothing before it has seen
//! the footer: the hash, the seal, and the digest of the state that it built must all agree.

mod block;
mod read;
mod seal;
#[cfg(test)]
mod tests;
mod write;

use bincode::{Decode, Encode};

pub use read::{Examined, Expected, Loaded, SnapshotError, examine, inspect, read, read_header};
pub use seal::{MacKey, Seal, SealError, Sealer, Unsealed, Verifier};
pub use write::{Summary, write};

use crate::codec::Record;
use crate::digest::{Chain, Digest};
use crate::entry::UnixMillis;
use crate::position::{Position, Revision};
use crate::text::Text;

/// The first bytes of every snapshot. The last two digits are the version of the framing.
pub const MAGIC: [u8; 8] = *b"HFSNAP01";

/// Random name of a cluster, drawn when it is initialised. It stays the same over restores.
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Encode, Decode)]
pub struct ClusterId(pub [u8; 16]);

/// What a snapshot holds.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Header {
    /// Whose configuration it is.
    pub cluster: ClusterId,
    /// Which gateway group's view; `None`: everything.
    pub view: Option<Text>,
    /// The position.
    pub position: Position,
    /// The position of the view's last change.
    pub changed_at: Position,
    /// The chain over all full deltas; only where everything is held.
    pub chain: Option<Chain>,
    /// The digest of the entries.
    pub digest: Digest,
    /// How many entries.
    pub entries: u64,
    /// The level of the cluster.
    pub level: u32,
    /// The writer's wall clock.
    pub created: UnixMillis,
}

/// The last record of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Footer {
    /// How many blocks there are, the end block not counted.
    pub blocks: u64,
    /// How many bytes stand before the footer.
    pub bytes: u64,
    /// SHA-256 of these.
    pub sha256: [u8; 32],
    /// Who vouches for it.
    pub seal: Seal,
}

/// A part of a snapshot that this crate carries and does not read, such as the control plane's own state.
///
/// The number is the kind of its blocks: 128 and above.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct SectionTag(pub u8);

impl SectionTag {
    /// The control plane's own state ([`raft-store`'s](../../raft_store/index.html)).
    pub const CONTROL: Self = Self(128);
    /// Raft's membership and last applied log id.
    pub const RAFT: Self = Self(129);
    /// The last entries that a proxy could compile, where the newest could not be.
    pub const LAST_GOOD: Self = Self(130);
    /// What the control plane keeps for its record: changes that may not be in it yet.
    pub const OUTBOX: Self = Self(131);
    /// Parts of a configuration that is being brought back.
    pub const RESTORE: Self = Self(132);
}

/// What a view remembers beyond its entries.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
struct ViewRecord {
    group: Text,
    changed_at: Position,
    horizon: Revision,
}

impl Record for Header {
    const TAG: [u8; 4] = *b"snap";
    const VERSION: u16 = 1;
    const PAYLOAD_BYTES_MAX: usize = 4096;
}

impl Record for Footer {
    const TAG: [u8; 4] = *b"snpf";
    const VERSION: u16 = 1;
    const PAYLOAD_BYTES_MAX: usize = 4096;
}

impl std::fmt::Display for ClusterId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        crate::digest::write_hex(f, &self.0)
    }
}

impl std::fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        crate::digest::write_hex(f, &self.0)
    }
}

/// A text that is no cluster id.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a cluster id is 32 hexadecimal digits")]
pub struct BadClusterId;

impl std::str::FromStr for ClusterId {
    type Err = BadClusterId;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        crate::digest::parse_hex(s).map(Self).ok_or(BadClusterId)
    }
}
