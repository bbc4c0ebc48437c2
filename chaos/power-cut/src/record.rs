//! The journal: what a process has done to files, in order. Written by the library, read by whoever cuts the power.
//!
//! ```text
//!   kind u8 | 0 0 0 | payload length u32 | inode u64 | number u64 | payload          all little-endian
//! ```

/// Environment: the directory that is watched, an absolute path without links.
pub const DIRECTORY: &str = "POWER_CUT_DIRECTORY";

/// Environment: the file that the journal is appended to, outside the directory.
pub const JOURNAL: &str = "POWER_CUT_JOURNAL";

/// Environment: the file that says how far the wall clock is off. Three numbers, `i64` of this machine: nanoseconds that
/// are added to it; how many microseconds it gains each second, from when on; and that moment, in nanoseconds since 1970.
pub const CLOCK: &str = "POWER_CUT_CLOCK";

/// How long the file of [`CLOCK`] is.
pub const CLOCK_BYTES: usize = 24;

/// The bytes before a record's payload.
pub const HEADER_BYTES: usize = 24;

/// What was done. Paths are relative to the directory; the directory itself is the empty path.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// A file was made: inode, payload its path.
    Create = 1,
    /// Something that was there was opened: inode, payload its path.
    Open = 2,
    /// A directory was made: inode, payload its path.
    MakeDirectory = 3,
    /// Inode, number the offset, payload the bytes.
    Write = 4,
    /// Inode, number the length.
    SetLength = 5,
    /// Payload both paths with a zero byte between.
    Rename = 6,
    /// A second name: payload both paths with a zero byte between.
    Link = 7,
    /// A name is gone, of a file or a directory: payload its path.
    Remove = 8,
    /// `fsync` of a file or a directory: inode.
    SyncAll = 9,
    /// `fdatasync`: inode.
    SyncData = 10,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 10] = [
        Self::Create,
        Self::Open,
        Self::MakeDirectory,
        Self::Write,
        Self::SetLength,
        Self::Rename,
        Self::Link,
        Self::Remove,
        Self::SyncAll,
        Self::SyncData,
    ];
}

/// What stands before a payload.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Header {
    /// What was done.
    pub kind: Kind,
    /// To which inode, where it matters.
    pub inode: u64,
    /// An offset or a length.
    pub number: u64,
    /// The length of the payload.
    pub payload_bytes: u32,
}

impl Header {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[0] = self.kind as u8;
        bytes[4..8].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.inode.to_le_bytes());
        bytes[16..].copy_from_slice(&self.number.to_le_bytes());
        bytes
    }

    /// From its bytes; `None` when they are none.
    #[must_use]
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<Self> {
        let kind = Kind::ALL.into_iter().find(|kind| *kind as u8 == bytes[0])?;
        let number = |at: usize| bytes[at..at + 8].try_into().ok().map(u64::from_le_bytes);
        let payload_bytes = u32::from_le_bytes(bytes[4..8].try_into().ok()?);
        Some(Self { kind, inode: number(8)?, number: number(16)?, payload_bytes })
    }
}
