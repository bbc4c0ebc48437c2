//! The writer.

use std::io::{self, Write};

use bincode::Encode;
use sha2::{Digest as _, Sha256};

use super::block::{self, RAW_BYTES_MAX};
use super::read::ITEM_BYTES_MAX;
use super::{Footer, Header, MAGIC, Sealer, SectionTag, ViewRecord};
use crate::codec::{self, LAYOUT};
use crate::state::ConfigState;

/// What was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Summary {
    /// The size of the whole.
    pub bytes: u64,
    /// The hash that the seal covers.
    pub sha256: [u8; 32],
}

/// Writes a snapshot of `state`, which `header` describes, with some sections that this crate does not read.
///
/// Where the state serves views, what they remember is written too, so that a reader can serve deltas at once.
///
/// # Errors
/// Those of `out`, and a resource that no reader would take, by its key.
pub fn write(
    out: &mut impl Write,
    header: &Header,
    state: &ConfigState,
    sections: &[(SectionTag, &[u8])],
    sealer: &impl Sealer,
) -> io::Result<Summary> {
    let mut out = Hashing { out, hash: Sha256::new(), bytes: 0 };
    out.write_all(&MAGIC)?;
    out.write_all(&codec::seal(header).map_err(io::Error::other)?)?;
    let mut blocks = Blocks { out: &mut out, raw: Vec::with_capacity(RAW_BYTES_MAX), count: 0 };
    for item in state.iter() {
        let named = |e| io::Error::other(format!("{}: {e}", item.0));
        blocks.push(block::ENTRIES, &item).map_err(named)?;
    }
    blocks.flush(block::ENTRIES)?;
    for group in state.groups() {
        let view = state.view(group);
        let record = ViewRecord { group: group.clone(), changed_at: view.changed_at(), horizon: view.horizon() };
        blocks.push(block::VIEW, &record)?;
        blocks.flush(block::VIEW)?;
        for item in view.tombstones() {
            blocks.push(block::TOMBSTONES, &item)?;
        }
        blocks.flush(block::TOMBSTONES)?;
    }
    for (tag, bytes) in sections {
        for part in bytes.chunks(RAW_BYTES_MAX) {
            blocks.raw.extend_from_slice(part);
            blocks.flush(tag.0)?;
        }
    }
    let count = blocks.count;
    block::write(&mut out, block::END, &[])?;
    let sha256: [u8; 32] = out.hash.finalize().into();
    let footer = Footer { blocks: count, bytes: out.bytes, sha256, seal: sealer.seal(&sha256) };
    let footer = codec::seal(&footer).map_err(io::Error::other)?;
    out.out.write_all(&footer)?;
    Ok(Summary { bytes: out.bytes + footer.len() as u64, sha256 })
}

/// Gathers items into blocks.
struct Blocks<'o, W> {
    out: &'o mut W,
    raw: Vec<u8>,
    count: u64,
}

impl<W: Write> Blocks<'_, W> {
    /// Appends one item; a full block is written first. An item larger than a block is cut: items of a kind form one
    /// stream over its blocks.
    fn push<T: Encode>(&mut self, kind: u8, item: &T) -> io::Result<()> {
        let encoded = bincode::encode_to_vec(item, LAYOUT).map_err(io::Error::other)?;
        if encoded.len() > ITEM_BYTES_MAX {
            let bytes = encoded.len();
            return Err(io::Error::other(format!("{bytes} bytes, and no reader takes more than {ITEM_BYTES_MAX}")));
        }
        let mut rest = encoded.as_slice();
        while !rest.is_empty() {
            let room = RAW_BYTES_MAX - self.raw.len();
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.raw.extend_from_slice(now);
            rest = later;
            if self.raw.len() == RAW_BYTES_MAX {
                self.flush(kind)?;
            }
        }
        Ok(())
    }

    fn flush(&mut self, kind: u8) -> io::Result<()> {
        if self.raw.is_empty() {
            return Ok(());
        }
        block::write(self.out, kind, &self.raw)?;
        self.raw.clear();
        self.count += 1;
        Ok(())
    }
}

struct Hashing<'o, W> {
    out: &'o mut W,
    hash: Sha256,
    bytes: u64,
}

impl<W: Write> Write for Hashing<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.out.write(bytes)?;
        self.hash.update(&bytes[..written]);
        self.bytes += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
