//! Journals: what changed since a base, record by record.
//!
//! ```text
//!   record "jrnl" (whose, from which position) | tag      tag = MAC(key, "journal" | record)
//!   record "delt" or "mark"                    | tag      tag = MAC(key, the tag before | record)
//!   …
//! ```
//!
//! Every record has a frame of its own with length and checksum, and a tag that binds it to everything before it: a
//! record that was moved, left out or taken from another journal does not pass. A tail that a crash cut short is told
//! apart from nothing: what stands before it counts.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use bincode::{Decode, Encode};
use daemon::{durable, failpoint};
use protocol::codec::{self, CodecError, Record};
use protocol::snapshot::{ClusterId, MacKey};
use protocol::{ConfigState, Delta, Digest, Position, Text};

use super::base::Owner;

/// From where a journal starts.
#[derive(Clone, PartialEq, Eq, Encode, Decode, Debug)]
pub(super) struct JournalHeader {
    pub(super) cluster: ClusterId,
    pub(super) group: Text,
    pub(super) position: Position,
    pub(super) changed_at: Position,
    pub(super) digest: Digest,
}

impl Record for JournalHeader {
    const TAG: [u8; 4] = *b"jrnl";
    const VERSION: u16 = 1;
    const PAYLOAD_BYTES_MAX: usize = 4096;
}

/// Nothing changed up to this position.
#[derive(Clone, Copy, PartialEq, Eq, Encode, Decode, Debug)]
pub(super) struct Mark {
    pub(super) position: Position,
}

impl Record for Mark {
    const TAG: [u8; 4] = *b"mark";
    const VERSION: u16 = 1;
    const PAYLOAD_BYTES_MAX: usize = 256;
}

const TAG_BYTES: usize = 32;

/// What the first tag is made over, so that no other code of this key can stand for it.
const DOMAIN: &[u8] = b"journal";

impl JournalHeader {
    pub(super) fn of(state: &ConfigState, owner: &Owner) -> Self {
        Self {
            cluster: owner.cluster,
            group: owner.group.clone(),
            position: state.position(),
            changed_at: state.changed_at(),
            digest: state.digest(),
        }
    }
}

// === writing ===

/// A journal that is being written.
#[derive(Debug)]
pub(super) struct Writer {
    file: File,
    path: PathBuf,
    key: MacKey,
    tag: [u8; TAG_BYTES],
    bytes: u64,
}

impl Writer {
    /// Begins a journal that starts from `state`. When this returns, it is there after any crash.
    ///
    /// # Errors
    /// Those of the file system, with the path.
    pub(super) fn begin(path: &Path, state: &ConfigState, owner: &Owner) -> io::Result<Self> {
        let header = codec::seal(&JournalHeader::of(state, owner)).map_err(io::Error::other)?;
        let tag = owner.key.tag(&[DOMAIN, &header]);
        let open = || {
            let mut file = OpenOptions::new().write(true).create(true).truncate(true).open(path)?;
            file.write_all(&header)?;
            file.write_all(&tag)?;
            failpoint!("dp::journal::begin_before_sync", |_| Err(io::Error::other("injected")));
            file.sync_all()?;
            Ok(file)
        };
        let file = open().map_err(|e| durable::at(path, e))?;
        durable::sync_directory(path.parent().unwrap_or(Path::new(".")))?;
        failpoint!("dp::journal::begun");
        let bytes = (header.len() + TAG_BYTES) as u64;
        Ok(Self { file, path: path.to_owned(), key: owner.key.clone(), tag, bytes })
    }

    /// Appends records (their frames) and syncs once. When this returns, they are there after any crash; when it fails,
    /// nobody knows, and the journal must not be written to again.
    ///
    /// # Errors
    /// Those of the file system, with the path.
    pub(super) fn append(&mut self, frames: &[bytes::Bytes]) -> io::Result<()> {
        let mut out = Vec::with_capacity(frames.iter().map(|frame| frame.len() + TAG_BYTES).sum());
        for frame in frames {
            self.tag = self.key.tag(&[&self.tag, frame]);
            out.extend_from_slice(frame);
            out.extend_from_slice(&self.tag);
        }
        let mut write = || {
            failpoint!("dp::journal::before_write", |_| Err(io::Error::other("injected")));
            self.file.write_all(&out)?;
            failpoint!("dp::journal::before_sync", |_| Err(io::Error::other("injected")));
            self.file.sync_data()
        };
        write().map_err(|e| durable::at(&self.path, e))?;
        failpoint!("dp::journal::after_sync");
        self.bytes += out.len() as u64;
        Ok(())
    }

    /// Its size.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }
}

// === reading ===

/// A journal as far as it can be believed.
#[derive(Debug)]
pub(super) struct Journal {
    pub(super) header: JournalHeader,
    /// With the offset of each.
    pub(super) records: Vec<(u64, JournalRecord)>,
    /// Where and why believing ends, unless at the end of the file.
    pub(super) broken: Option<Broken>,
    pub(super) bytes: u64,
}

/// One record.
#[derive(Debug)]
pub(super) enum JournalRecord {
    Delta(Delta),
    Mark(Mark),
}

/// Where and why a journal cannot be believed any further.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Broken {
    pub(super) offset: u64,
    pub(super) reason: String,
}

/// Reads a journal.
///
/// # Errors
/// [`Broken`] when not even its beginning can be believed.
pub(super) fn read(bytes: &[u8], key: &MacKey) -> Result<Journal, Broken> {
    let at = |offset: usize, reason: String| Broken { offset: offset as u64, reason };
    let (header, used) = codec::open_prefix::<JournalHeader>(bytes).map_err(|e| at(0, e.to_string()))?;
    let mut tag = check_tag(bytes, used, key, &[DOMAIN, &bytes[..used]]).map_err(|reason| at(used, reason))?;
    let mut journal = Journal { header, records: Vec::new(), broken: None, bytes: bytes.len() as u64 };
    let mut offset = used + TAG_BYTES;
    while offset < bytes.len() {
        let rest = &bytes[offset..];
        let next = read_record(rest).map_err(|e| e.to_string()).and_then(|(record, used)| {
            let tag = check_tag(rest, used, key, &[&tag, &rest[..used]])?;
            Ok((record, used, tag))
        });
        match next {
            Ok((record, used, next_tag)) => {
                journal.records.push((offset as u64, record));
                tag = next_tag;
                offset += used + TAG_BYTES;
            }
            Err(reason) => {
                journal.broken = Some(at(offset, reason));
                break;
            }
        }
    }
    Ok(journal)
}

fn read_record(bytes: &[u8]) -> Result<(JournalRecord, usize), CodecError> {
    match codec::open_prefix::<Delta>(bytes) {
        Err(CodecError::Tag { .. }) => {
            codec::open_prefix::<Mark>(bytes).map(|(mark, used)| (JournalRecord::Mark(mark), used))
        }
        delta => delta.map(|(delta, used)| (JournalRecord::Delta(delta), used)),
    }
}

/// Checks the tag behind a frame of `used` bytes.
fn check_tag(bytes: &[u8], used: usize, key: &MacKey, parts: &[&[u8]]) -> Result<[u8; TAG_BYTES], String> {
    let tag: [u8; TAG_BYTES] = bytes
        .get(used..used + TAG_BYTES)
        .and_then(|tag| tag.try_into().ok())
        .ok_or_else(|| "the record's seal is cut short".to_owned())?;
    if key.fits(parts, &tag) { Ok(tag) } else { Err("the record's seal does not fit".to_owned()) }
}
