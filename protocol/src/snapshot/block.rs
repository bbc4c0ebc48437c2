//! Blocks: bounded, compressed, checksummed.

use std::io::{self, Read, Write};

use super::SnapshotError;

/// The most that one block holds, uncompressed: what a reader has to allocate for bytes it does not trust yet.
pub(super) const RAW_BYTES_MAX: usize = 1 << 20;

const HEADER_BYTES: usize = 13;

/// zstd's fastest level that still shrinks JSON about tenfold.
const LEVEL: i32 = 1;

/// Kinds of blocks. From 128 on they are [`super::SectionTag`]s.
pub(super) const END: u8 = 0;
pub(super) const ENTRIES: u8 = 1;
pub(super) const VIEW: u8 = 2;
pub(super) const TOMBSTONES: u8 = 3;
pub(super) const SECTION_FIRST: u8 = 128;

pub(super) fn write(out: &mut impl Write, kind: u8, raw: &[u8]) -> io::Result<()> {
    debug_assert!(raw.len() <= RAW_BYTES_MAX, "the caller cuts blocks");
    let stored = zstd::bulk::compress(raw, LEVEL)?;
    let mut header = [0; HEADER_BYTES];
    header[0] = kind;
    header[1..5].copy_from_slice(&u32::try_from(raw.len()).map_err(io::Error::other)?.to_le_bytes());
    header[5..9].copy_from_slice(&u32::try_from(stored.len()).map_err(io::Error::other)?.to_le_bytes());
    let crc = crc32c::crc32c_append(crc32c::crc32c(&header[..9]), &stored);
    header[9..].copy_from_slice(&crc.to_le_bytes());
    out.write_all(&header)?;
    out.write_all(&stored)
}

/// Reads the next block: its kind and its content. At most a few MiB are allocated, whatever the bytes say.
pub(super) fn read(input: &mut impl Read) -> Result<(u8, Vec<u8>), SnapshotError> {
    let Packed { kind, raw_bytes, stored } = read_packed(input)?;
    let raw = zstd::bulk::decompress(&stored, raw_bytes)
        .map_err(|_| SnapshotError::Damaged("a block does not decompress to its announced size"))?;
    if raw.len() != raw_bytes {
        return Err(SnapshotError::Damaged("a block does not decompress to its announced size"));
    }
    Ok((kind, raw))
}

/// A block as it stands in the file.
pub(super) struct Packed {
    pub(super) kind: u8,
    /// What it announces to unpack to.
    pub(super) raw_bytes: usize,
    stored: Vec<u8>,
}

/// Reads the next block and does not unpack it.
pub(super) fn read_packed(input: &mut impl Read) -> Result<Packed, SnapshotError> {
    let mut header = [0; HEADER_BYTES];
    input.read_exact(&mut header).map_err(SnapshotError::io)?;
    let word = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    let (raw_bytes, stored_bytes, crc) = (word(1) as usize, word(5) as usize, word(9));
    if raw_bytes > RAW_BYTES_MAX || stored_bytes > zstd::zstd_safe::compress_bound(RAW_BYTES_MAX) {
        return Err(SnapshotError::Damaged("a block is larger than any writer makes it"));
    }
    let mut stored = vec![0; stored_bytes];
    input.read_exact(&mut stored).map_err(SnapshotError::io)?;
    if crc32c::crc32c_append(crc32c::crc32c(&header[..9]), &stored) != crc {
        return Err(SnapshotError::Damaged("a block's checksum does not match"));
    }
    Ok(Packed { kind: header[0], raw_bytes, stored })
}
