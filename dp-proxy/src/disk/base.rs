//! Bases: snapshots sealed with the node's key.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::Path;
use std::sync::Arc;

use bincode::{Decode, Encode};
use daemon::durable::{self, Replacement};
use daemon::failpoint;
use protocol::codec::{self, Record};
use protocol::entry::UnixMillis;
use protocol::snapshot::{self, ClusterId, Expected, Header, Loaded, MacKey, SectionTag, SnapshotError};
use protocol::{ConfigState, Entry, ResourceKey, Text};

use super::Image;

/// The section of last good entries.
#[derive(Encode, Decode, PartialEq, Debug)]
pub(super) struct LastGoodRecord {
    pub(super) entries: Vec<(ResourceKey, Arc<Entry>)>,
}

impl Record for LastGoodRecord {
    const TAG: [u8; 4] = *b"good";
    const VERSION: u16 = 1;
    /// As for a delta: it may be the whole configuration that this build cannot serve.
    const PAYLOAD_BYTES_MAX: usize = 512 << 20;
}

/// Whose configuration is kept, and who vouches for it.
#[derive(Clone, Debug)]
pub(super) struct Owner {
    pub(super) cluster: ClusterId,
    pub(super) group: Text,
    pub(super) key: MacKey,
}

/// Reading a base goes through a buffer of this size.
const BUFFER_BYTES: usize = 256 << 10;

/// Writes an image under `path`; returns its size. When this returns, it is there after any crash.
///
/// # Errors
/// Those of the file system, with the path.
pub(super) fn write(path: &Path, image: &Image, owner: &Owner, now: UnixMillis) -> io::Result<u64> {
    let state = &image.state;
    let header = Header {
        cluster: owner.cluster,
        view: Some(owner.group.clone()),
        position: state.position(),
        changed_at: state.changed_at(),
        chain: None,
        digest: state.digest(),
        entries: state.len() as u64,
        // A proxy decides nothing, so no level binds it.
        level: 0,
        created: now,
    };
    let entries: Vec<_> = image.last_good.iter().map(|(key, entry)| (key.clone(), entry.clone())).collect();
    let last_good = match entries.is_empty() {
        true => Vec::new(),
        false => codec::seal(&LastGoodRecord { entries }).map_err(io::Error::other)?,
    };
    let sections = [(SectionTag::LAST_GOOD, last_good.as_slice())];
    let mut out = BufWriter::with_capacity(BUFFER_BYTES, Replacement::begin(path)?);
    failpoint!("dp::base::before_write", |_| Err(durable::at(path, io::Error::other("injected"))));
    let summary = snapshot::write(&mut out, &header, state, &sections, &owner.key).map_err(|e| durable::at(path, e))?;
    out.flush().map_err(|e| durable::at(path, e))?;
    out.into_inner().map_err(|e| durable::at(path, e.into_error()))?.commit()?;
    failpoint!("dp::base::after_commit");
    Ok(summary.bytes)
}

/// A base that was read and found good.
#[derive(Debug)]
pub(super) struct Base {
    pub(super) cluster: ClusterId,
    pub(super) image: Image,
    pub(super) bytes: u64,
}

/// Why a base is refused, and how far reading had come.
#[derive(Debug)]
pub(super) struct BadBase {
    pub(super) offset: u64,
    pub(super) reason: String,
}

/// Reads a base and checks everything about it.
pub(super) fn read(path: &Path, cluster: Option<ClusterId>, group: &Text, key: &MacKey) -> Result<Base, BadBase> {
    let bad = |offset, reason: String| BadBase { offset, reason };
    let file = File::open(path).map_err(|e| bad(0, e.to_string()))?;
    let mut input = Counting { input: BufReader::with_capacity(BUFFER_BYTES, file), bytes: 0 };
    let expected = Expected { cluster, view: Some(group.clone()) };
    let loaded: Result<Loaded, SnapshotError> = snapshot::read(&mut input, ConfigState::following(), &expected, key);
    let loaded = loaded.map_err(|e| bad(input.bytes, e.to_string()))?;
    let last_good = match loaded.sections.get(&SectionTag::LAST_GOOD.0) {
        None => Vec::new(),
        Some(bytes) => {
            let record = codec::open::<LastGoodRecord>(bytes);
            record.map_err(|e| bad(input.bytes, format!("its last good entries: {e}")))?.entries
        }
    };
    let image = Image { state: loaded.state, last_good: last_good.into_iter().collect() };
    Ok(Base { cluster: loaded.header.cluster, image, bytes: input.bytes })
}

/// Counts what was read, so that a refusal can name the place.
struct Counting<R> {
    input: R,
    bytes: u64,
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.input.read(buffer)?;
        self.bytes += read as u64;
        Ok(read)
    }
}
