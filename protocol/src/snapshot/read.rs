//! The reader.

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::sync::Arc;

use bincode::Decode;
use sha2::{Digest as _, Sha256};

use super::block::{self, SECTION_FIRST};
use super::{ClusterId, Footer, Header, MAGIC, SealError, Verifier, ViewRecord};
use crate::codec::{self, CodecError, HEADER_BYTES, LAYOUT, Record};
use crate::digest::Digest;
use crate::entry::Entry;
use crate::key::ResourceKey;
use crate::position::Revision;
use crate::state::ConfigState;

/// What a reader insists on.
#[derive(Clone, Debug, Default)]
pub struct Expected {
    /// The cluster; `None`: any.
    pub cluster: Option<ClusterId>,
    /// The view, where one is followed; `None`: the whole.
    pub view: Option<crate::Text>,
}

/// A snapshot that was read and found good.
#[derive(Debug)]
pub struct Loaded {
    /// Its header.
    pub header: Header,
    /// The state in it.
    pub state: ConfigState,
    /// Sections that this crate does not read.
    pub sections: BTreeMap<u8, Vec<u8>>,
    /// The hash of its bytes.
    pub sha256: [u8; 32],
}

/// Why a snapshot is refused. Every reader puts the file or peer in front.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Reading failed.
    #[error("reading failed: {0}")]
    Io(#[source] io::Error),
    /// It ends too early.
    #[error("it is cut short")]
    Short,
    /// It does not start as a snapshot.
    #[error("it is no holdfast snapshot")]
    Magic,
    /// A newer version of Holdfast wrote it.
    #[error("its format {0:?} is newer than this version of holdfast knows")]
    Newer(String),
    /// Header or footer do not decode.
    #[error("its {0}: {1}")]
    Record(&'static str, #[source] CodecError),
    /// Its content is not as it was written.
    #[error("it is damaged: {0}")]
    Damaged(&'static str),
    /// It is of another cluster.
    #[error("it is of cluster {found}, this is {wanted}")]
    Cluster {
        /// Its cluster.
        found: ClusterId,
        /// The cluster asked for.
        wanted: ClusterId,
    },
    /// It is of another view.
    #[error("it holds the view {found:?}, {wanted:?} is needed")]
    View {
        /// Its view.
        found: Option<crate::Text>,
        /// The view asked for.
        wanted: Option<crate::Text>,
    },
    /// It would unpack to more than is taken.
    #[error("it unpacks to more than {max} bytes")]
    TooLarge {
        /// The bound.
        max: u64,
    },
    /// Nobody that counts vouches for it.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The entries are not those that the header speaks of.
    #[error("its entries have the digest {found}, its header says {wanted}")]
    Digest {
        /// Over the entries found.
        found: Digest,
        /// As the header says.
        wanted: Digest,
    },
}

impl SnapshotError {
    pub(super) fn io(e: io::Error) -> Self {
        if e.kind() == io::ErrorKind::UnexpectedEof { Self::Short } else { Self::Io(e) }
    }
}

/// Reads a snapshot to its end, builds its state and checks everything.
///
/// `base` is [`ConfigState::serving`] or [`ConfigState::following`].
///
/// # Errors
/// [`SnapshotError`], with the reason.
pub fn read(
    input: &mut impl Read,
    base: ConfigState,
    expected: &Expected,
    verifier: &impl Verifier,
) -> Result<Loaded, SnapshotError> {
    let mut input = Hashing { input, hash: Sha256::new(), bytes: 0 };
    let header = read_header(&mut input)?;
    check_header(&header, expected)?;
    let mut content = Content::default();
    let mut blocks = 0;
    loop {
        let (kind, raw) = block::read(&mut input)?;
        if kind == block::END {
            break;
        }
        blocks += 1;
        content.take(kind, raw, header.entries)?;
    }
    let Footer { sha256, .. } = check_footer(input, blocks, verifier)?;
    let (state, sections) = content.finish(base, &header)?;
    Ok(Loaded { header, state, sections, sha256 })
}

/// Reads the footer and what must not be behind it.
fn check_footer<R: Read>(
    input: Hashing<'_, R>,
    blocks: u64,
    verifier: &impl Verifier,
) -> Result<Footer, SnapshotError> {
    let (sha256, bytes): ([u8; 32], _) = (input.hash.finalize().into(), input.bytes);
    let footer: Footer = read_record(input.input).map_err(|e| in_record("footer", e))?;
    if footer.sha256 != sha256 || footer.bytes != bytes || footer.blocks != blocks {
        return Err(SnapshotError::Damaged("its footer speaks of other content"));
    }
    verifier.verify(&sha256, &footer.seal)?;
    let mut trailing = [0; 1];
    if input.input.read(&mut trailing).map_err(SnapshotError::io)? != 0 {
        return Err(SnapshotError::Damaged("there is something behind its footer"));
    }
    Ok(footer)
}

/// What can be said of a snapshot that was not unpacked.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Examined {
    /// Its header.
    pub header: Header,
    /// Its footer.
    pub footer: Footer,
    /// What it unpacks to.
    pub raw_bytes: u64,
}

/// Reads a snapshot to its end and unpacks nothing: whoever did not make it is found out before a byte of it is
/// believed, and what would unpack to more than `raw_bytes_max` is refused before any memory is set aside.
///
/// # Errors
/// [`SnapshotError`], with the reason.
pub fn examine(
    input: &mut impl Read,
    expected: &Expected,
    verifier: &impl Verifier,
    raw_bytes_max: u64,
) -> Result<Examined, SnapshotError> {
    let examined = inspect(input, verifier)?;
    check_header(&examined.header, expected)?;
    if examined.raw_bytes > raw_bytes_max {
        return Err(SnapshotError::TooLarge { max: raw_bytes_max });
    }
    Ok(examined)
}

/// As [`examine`], of whatever cluster and view.
///
/// # Errors
/// [`SnapshotError`], with the reason.
pub fn inspect(input: &mut impl Read, verifier: &impl Verifier) -> Result<Examined, SnapshotError> {
    let mut input = Hashing { input, hash: Sha256::new(), bytes: 0 };
    let header = read_header(&mut input)?;
    let (mut blocks, mut raw_bytes) = (0, 0);
    loop {
        let packed = block::read_packed(&mut input)?;
        if packed.kind == block::END {
            break;
        }
        blocks += 1;
        raw_bytes += packed.raw_bytes as u64;
    }
    let footer = check_footer(input, blocks, verifier)?;
    Ok(Examined { header, footer, raw_bytes })
}

/// Reads no more than the magic and the header.
///
/// # Errors
/// [`SnapshotError`] when these are not good.
pub fn read_header(input: &mut impl Read) -> Result<Header, SnapshotError> {
    let mut magic = [0; 8];
    input.read_exact(&mut magic).map_err(SnapshotError::io)?;
    if magic != MAGIC {
        let ours = magic[..6] == MAGIC[..6];
        return Err(if ours {
            SnapshotError::Newer(String::from_utf8_lossy(&magic).into_owned())
        } else {
            SnapshotError::Magic
        });
    }
    read_record(input).map_err(|e| in_record("header", e))
}

fn check_header(header: &Header, expected: &Expected) -> Result<(), SnapshotError> {
    if let Some(wanted) = expected.cluster.filter(|wanted| *wanted != header.cluster) {
        return Err(SnapshotError::Cluster { found: header.cluster, wanted });
    }
    if header.view != expected.view {
        return Err(SnapshotError::View { found: header.view.clone(), wanted: expected.view.clone() });
    }
    Ok(())
}

/// What the blocks gave so far. Items of one kind form a stream over its blocks; a block may end inside an item.
#[derive(Default)]
struct Content {
    entries: Vec<(ResourceKey, Arc<Entry>)>,
    pending_entries: Vec<u8>,
    views: Vec<(ViewRecord, Vec<(ResourceKey, Revision)>)>,
    pending_tombstones: Vec<u8>,
    sections: BTreeMap<u8, Vec<u8>>,
}

impl Content {
    fn take(&mut self, kind: u8, raw: Vec<u8>, entries_max: u64) -> Result<(), SnapshotError> {
        if kind != block::TOMBSTONES && !self.pending_tombstones.is_empty() {
            return Err(SnapshotError::Damaged("a tombstone is cut"));
        }
        match kind {
            block::ENTRIES => {
                self.pending_entries.extend_from_slice(&raw);
                drain(&mut self.pending_entries, &mut self.entries)?;
                if self.entries.len() as u64 > entries_max {
                    return Err(SnapshotError::Damaged("it holds more entries than its header says"));
                }
            }
            block::VIEW => {
                let (view, used) = bincode::decode_from_slice(&raw, LAYOUT.with_limit::<0x1_0000>())
                    .map_err(|_| SnapshotError::Damaged("a view does not decode"))?;
                if used != raw.len() {
                    return Err(SnapshotError::Damaged("a view does not decode"));
                }
                self.views.push((view, Vec::new()));
            }
            block::TOMBSTONES => {
                let Some((_, tombstones)) = self.views.last_mut() else {
                    return Err(SnapshotError::Damaged("tombstones stand before any view"));
                };
                self.pending_tombstones.extend_from_slice(&raw);
                drain(&mut self.pending_tombstones, tombstones)?;
            }
            SECTION_FIRST.. => self.sections.entry(kind).or_default().extend_from_slice(&raw),
            _ => return Err(SnapshotError::Damaged("a block of a kind that this version does not know")),
        }
        Ok(())
    }

    fn finish(self, base: ConfigState, header: &Header) -> Result<(ConfigState, BTreeMap<u8, Vec<u8>>), SnapshotError> {
        if !self.pending_entries.is_empty() || !self.pending_tombstones.is_empty() {
            return Err(SnapshotError::Damaged("its last entry is cut"));
        }
        let chain = header.chain.unwrap_or_default();
        let mut state = ConfigState::from_entries(base, header.position, header.changed_at, chain, self.entries);
        if state.digest() != header.digest || state.len() as u64 != header.entries {
            return Err(SnapshotError::Digest { found: state.digest(), wanted: header.digest });
        }
        for (view, tombstones) in self.views {
            state.restore_view(&view.group, view.changed_at, view.horizon, tombstones);
        }
        Ok((state, self.sections))
    }
}

/// The largest encoded entry that is believed: a body of the largest size with room for its names.
pub(super) const ITEM_BYTES_MAX: usize = 8 << 20;

/// Moves every whole item out of `pending`.
fn drain<T: Decode<()>>(pending: &mut Vec<u8>, items: &mut Vec<T>) -> Result<(), SnapshotError> {
    let mut at = 0;
    while at < pending.len() {
        match bincode::decode_from_slice::<T, _>(&pending[at..], LAYOUT.with_limit::<{ 4 * ITEM_BYTES_MAX }>()) {
            Ok((item, used)) => {
                items.push(item);
                at += used;
            }
            Err(bincode::error::DecodeError::UnexpectedEnd { .. }) if pending.len() - at < ITEM_BYTES_MAX => break,
            Err(_) => return Err(SnapshotError::Damaged("an entry does not decode")),
        }
    }
    pending.drain(..at);
    Ok(())
}

fn read_record<T: Record>(input: &mut impl Read) -> Result<T, Result<CodecError, io::Error>> {
    let mut frame = vec![0; HEADER_BYTES];
    input.read_exact(&mut frame).map_err(Err)?;
    let payload_bytes = u32::from_le_bytes([frame[8], frame[9], frame[10], frame[11]]) as usize;
    if payload_bytes > T::PAYLOAD_BYTES_MAX {
        return Err(Ok(CodecError::TooLarge { bytes: payload_bytes, max: T::PAYLOAD_BYTES_MAX }));
    }
    frame.resize(HEADER_BYTES + payload_bytes, 0);
    input.read_exact(&mut frame[HEADER_BYTES..]).map_err(Err)?;
    codec::open(&frame).map_err(Ok)
}

fn in_record(which: &'static str, e: Result<CodecError, io::Error>) -> SnapshotError {
    match e {
        Ok(codec) => SnapshotError::Record(which, codec),
        Err(io) => SnapshotError::io(io),
    }
}

struct Hashing<'i, R> {
    input: &'i mut R,
    hash: Sha256,
    bytes: u64,
}

impl<R: Read> Read for Hashing<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.hash.update(&buffer[..read]);
        self.bytes += read as u64;
        Ok(read)
    }
}
