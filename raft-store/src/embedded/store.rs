//! The embedded record's rows on sled.
//!
//! ```text
//!   <dir>/rows.<n>/     sled; the highest n counts, anything else is left over from a rewrite
//!
//!   m                                                                       the head: how far it reaches, and what lacks
//!   h <epoch> <revision> <seq> <chunk, 4 bytes BE>                          a row, cut into chunks (see the log on sled)
//!   k <kind, length first> <id, length first> <epoch> <revision> <seq>     finds the rows of a resource
//! ```
//!
//! A step is one atomic batch: its rows and the head that counts them. What was not synced before a crash is lost, and
//! the head with it, so that the follower begins where the rows end.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bincode::{Decode, Encode};
use daemon::durable;
use protocol::codec::{self, Record};
use protocol::entry::UnixMillis;
use protocol::{Chain, Entry, Position, ResourceKey, Text};

use super::{EmbeddedSettings, Gap};
use crate::log::sled::{CHUNK_BYTES, open_sled, remove_tree, sync_files};
use crate::machine::{Base, ChangeRow, Op, OutboxItem};

/// Memory for sled's own cache: rows are written once and read seldom.
const CACHE_BYTES: u64 = 8 << 20;

/// The file is rewritten when it is larger than this, and than [`REWRITE_FACTOR`] times what it holds.
const REWRITE_BYTES: u64 = if cfg!(test) { 4 << 20 } else { 64 << 20 };

/// See [`REWRITE_BYTES`].
const REWRITE_FACTOR: u64 = 5;

/// How many gaps are told apart. Beyond it the two oldest are told as one, with what lies between them.
pub(super) const GAPS_MAX: usize = 64;

/// Changes that are let go of in one batch.
const PRUNE_CHANGES: usize = 256;

const HEAD: &[u8] = b"m";
const ROW: u8 = b'h';
const INDEX: u8 = b'k';

/// Which row: epoch, revision, and which of the change's resources.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct RowId {
    /// The number of the epoch.
    pub epoch: u64,
    /// The revision.
    pub revision: u64,
    /// Counted from 0 within the revision.
    pub seq: u32,
}

impl RowId {
    const BYTES: usize = 20;

    fn encode(self, key: &mut Vec<u8>) {
        key.extend_from_slice(&self.epoch.to_be_bytes());
        key.extend_from_slice(&self.revision.to_be_bytes());
        key.extend_from_slice(&self.seq.to_be_bytes());
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        Some(Self {
            epoch: u64::from_be_bytes(bytes.get(..8)?.try_into().ok()?),
            revision: u64::from_be_bytes(bytes.get(8..16)?.try_into().ok()?),
            seq: u32::from_be_bytes(bytes.get(16..20)?.try_into().ok()?),
        })
    }
}

/// What a change did to a resource, stored.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Row {
    /// The resource.
    pub key: ResourceKey,
    /// What was there before.
    pub before: Option<Arc<Entry>>,
    /// What was there after.
    pub entry: Option<Arc<Entry>>,
    /// Who changed it.
    pub author: Text,
    /// On behalf of which request.
    pub request: Text,
    /// The proposer's wall clock.
    pub time: UnixMillis,
    /// The chain after the whole change.
    pub chain: Chain,
}

impl Record for Row {
    const TAG: [u8; 4] = *b"hrow";
    const VERSION: u16 = 1;
    /// Two entries.
    const PAYLOAD_BYTES_MAX: usize = 512 << 20;
}

impl Row {
    pub(super) fn of(row: &ChangeRow<'_>) -> Self {
        Self {
            key: row.key.clone(),
            before: row.before.cloned(),
            entry: row.entry.cloned(),
            author: row.author.into(),
            request: row.request.into(),
            time: row.time,
            chain: *row.chain,
        }
    }

    /// What was done to the resource.
    #[must_use]
    pub fn op(&self) -> Op {
        Op::of(self.before.is_some(), self.entry.is_some())
    }
}

/// How far the rows reach.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub(super) struct Head {
    /// Everything up to here was taken in.
    pub(super) position: Position,
    pub(super) chain: Chain,
    /// Nothing is known of changes up to here.
    pub(super) since: Position,
    /// What lacks after that, oldest first.
    pub(super) gaps: Vec<Gap>,
    pub(super) rows: u64,
    /// What the rows take.
    pub(super) bytes: u64,
}

impl Record for Head {
    const TAG: [u8; 4] = *b"hhed";
    const VERSION: u16 = 1;
    const PAYLOAD_BYTES_MAX: usize = 64 << 10;
}

impl Head {
    fn at(base: Base) -> Self {
        let position = base.position;
        Self { position, chain: base.chain, since: position, gaps: Vec::new(), rows: 0, bytes: 0 }
    }
}

/// Why the rows cannot be read or written. The record can always begin anew: it is a projection.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system or sled failed.
    #[error("{place}: {reason}")]
    Io {
        /// Where.
        place: String,
        /// What was said.
        reason: String,
    },
    /// What is there does not decode.
    #[error("{place}: {reason}")]
    Damaged {
        /// Where.
        place: String,
        /// What is wrong.
        reason: String,
    },
}

/// The rows.
#[derive(Debug)]
pub(super) struct Store {
    dir: PathBuf,
    generation: u64,
    db: sled::Db,
    /// A descriptor of our own to sled's file: syncing it is what makes a write durable.
    data: File,
    head: Option<Head>,
}

impl Store {
    /// Opens what is in `dir`, or makes it.
    pub(super) fn open(dir: &Path) -> Result<Self, StoreError> {
        let io = |e: io::Error| StoreError::Io { place: dir.display().to_string(), reason: e.to_string() };
        durable::create_directory(dir).map_err(io)?;
        let mut generations = generations(dir).map_err(io)?;
        let generation = generations.pop().unwrap_or(1);
        for older in generations {
            remove_tree(&path_of(dir, older)).map_err(io)?;
        }
        let (db, data) = open_generation(&path_of(dir, generation))?;
        let mut store = Self { dir: dir.to_owned(), generation, db, data, head: None };
        store.head = match store.get(HEAD)? {
            Some(bytes) => Some(codec::open(&bytes).map_err(|e| store.damaged("the head", &e.to_string()))?),
            None => None,
        };
        Ok(store)
    }

    /// Takes everything away that is in `dir`.
    pub(super) fn wipe(dir: &Path) -> Result<(), StoreError> {
        remove_tree(dir).map_err(|e| StoreError::Io { place: dir.display().to_string(), reason: e.to_string() })
    }

    pub(super) fn head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    /// Begins where nothing was taken in before.
    pub(super) fn begin(&mut self, base: Base) -> Result<(), StoreError> {
        self.put_head(Head::at(base), sled::Batch::default())
    }

    /// Notes that what follows is not known up to `base`.
    pub(super) fn skip_to(&mut self, base: Base) -> Result<(), StoreError> {
        let Some(mut head) = self.head.clone() else { return self.begin(base) };
        if head.rows == 0 {
            // There is nothing before the gap that it could part from what follows.
            head.since = base.position;
            head.gaps.clear();
        } else {
            head.gaps.push(Gap { after: head.position, upto: base.position });
        }
        (head.position, head.chain) = (base.position, base.chain);
        while head.gaps.len() > GAPS_MAX {
            let second = head.gaps.remove(1);
            head.gaps[0].upto = second.upto;
        }
        self.put_head(head, sled::Batch::default())
    }

    /// Takes changes in, and lets go of the oldest that are over a bound.
    pub(super) fn take(&mut self, items: &[Arc<OutboxItem>], settings: &EmbeddedSettings) -> Result<(), StoreError> {
        let (Some(mut head), Some(last)) = (self.head.clone(), items.last()) else { return Ok(()) };
        let mut batch = sled::Batch::default();
        for item in items {
            for row in item.rows() {
                let id = RowId { epoch: row.position.epoch.number, revision: row.position.revision, seq: row.seq };
                let frame = codec::seal(&Row::of(&row)).map_err(|e| self.damaged("a row", &e.to_string()))?;
                for (number, chunk) in (0u32..).zip(frame.chunks(CHUNK_BYTES)) {
                    batch.insert(chunk_key(id, number), chunk);
                }
                batch.insert(index_key(row.key, id), sled::IVec::default());
                head.rows += 1;
                head.bytes += frame.len() as u64;
            }
        }
        (head.position, head.chain) = (last.delta.position, last.chain);
        self.put_head(head, batch)?;
        while self
            .head()
            .is_some_and(|head| (head.rows > settings.rows_max || head.bytes > settings.bytes_max) && head.rows > 0)
        {
            if !self.drop_oldest()? {
                break;
            }
        }
        Ok(())
    }

    /// Lets go of the oldest changes, each whole; `false` when only the newest is left.
    fn drop_oldest(&mut self) -> Result<bool, StoreError> {
        let Some(mut head) = self.head.clone() else { return Ok(false) };
        let newest = (head.position.epoch.number, head.position.revision);
        let mut batch = sled::Batch::default();
        let mut dropped = Vec::new();
        for found in self.rows_from(RowId { epoch: 0, revision: 0, seq: 0 }) {
            let (id, row, frame) = found?;
            let of = (id.epoch, id.revision);
            if of == newest || (dropped.last() != Some(&of) && dropped.len() == PRUNE_CHANGES) {
                break;
            }
            if dropped.last() != Some(&of) {
                dropped.push(of);
            }
            for number in 0..frame.len().div_ceil(CHUNK_BYTES) {
                batch.remove(chunk_key(id, u32::try_from(number).unwrap_or(u32::MAX)));
            }
            batch.remove(index_key(&row.key, id));
            head.rows -= 1;
            head.bytes -= frame.len() as u64;
        }
        if dropped.is_empty() {
            return Ok(false);
        }
        let (epoch, revision) = dropped.last().copied().unwrap_or_default();
        head.since = self.position_of(&head, epoch, revision);
        // What lacks at the beginning is no gap any more.
        let since = head.since;
        let key = |position: Position| (position.epoch.number, position.revision);
        while let Some(first) = head.gaps.first().copied().filter(|gap| key(gap.after) <= key(since)) {
            if key(first.upto) > key(head.since) {
                head.since = first.upto;
            }
            head.gaps.remove(0);
        }
        self.put_head(head, batch)?;
        Ok(true)
    }

    /// A position with its epoch in full. Of a life that nothing is left of but its number, the number is enough.
    fn position_of(&self, head: &Head, epoch: u64, revision: u64) -> Position {
        let known = [head.position, head.since].into_iter().chain(head.gaps.iter().flat_map(|g| [g.after, g.upto]));
        let mut epoch_known = head.position.epoch;
        epoch_known.number = epoch;
        let found = known.map(|position| position.epoch).find(|known| known.number == epoch).unwrap_or(epoch_known);
        Position { epoch: found, revision }
    }

    fn put_head(&mut self, head: Head, mut batch: sled::Batch) -> Result<(), StoreError> {
        batch.insert(HEAD, codec::seal(&head).map_err(|e| self.damaged("the head", &e.to_string()))?);
        self.db.apply_batch(batch).map_err(|e| self.failed(&e))?;
        self.head = Some(head);
        Ok(())
    }

    /// Makes everything durable that was taken in.
    pub(super) fn sync(&mut self) -> Result<(), StoreError> {
        self.db.flush().map_err(|e| self.failed(&e))?;
        self.data.sync_data().map_err(|e| self.failed(&e))?;
        self.rewrite_if_bloated()
    }

    fn rewrite_if_bloated(&mut self) -> Result<(), StoreError> {
        let disk = self.data.metadata().map_or(0, |metadata| metadata.len());
        let head = self.head.as_ref().map_or((0, 0), |head| (head.bytes, head.rows));
        let live = head.0 + head.1 * CHUNK_BYTES as u64;
        if disk <= REWRITE_BYTES || disk <= live.saturating_mul(REWRITE_FACTOR) {
            return Ok(());
        }
        let next = self.generation + 1;
        let temporary = self.dir.join(format!("rows.{next}.{}", durable::TEMPORARY));
        let io = |e: io::Error| StoreError::Io { place: temporary.display().to_string(), reason: e.to_string() };
        remove_tree(&temporary).map_err(io)?;
        {
            let (db, _) = open_generation(&temporary)?;
            for item in self.db.iter() {
                let (key, value) = item.map_err(|e| self.failed(&e))?;
                db.insert(key, value).map_err(|e| self.failed(&e))?;
            }
            db.flush().map_err(|e| self.failed(&e))?;
        }
        sync_files(&temporary).map_err(io)?;
        std::fs::rename(&temporary, path_of(&self.dir, next)).map_err(io)?;
        durable::sync_directory(&self.dir).map_err(io)?;
        let (db, data) = open_generation(&path_of(&self.dir, next))?;
        let old = self.generation;
        (self.db, self.data, self.generation) = (db, data, next);
        remove_tree(&path_of(&self.dir, old)).map_err(io)?;
        tracing::info!(disk_bytes = disk, live_bytes = live, "the embedded record's file was rewritten");
        Ok(())
    }

    // === reading ===

    /// Rows from one on, oldest first, with what each takes in its frame.
    pub(super) fn rows_from(&self, from: RowId) -> impl Iterator<Item = Result<(RowId, Row, Vec<u8>), StoreError>> {
        let mut chunks = self.db.range(chunk_key(from, 0)..vec![ROW + 1]).peekable();
        std::iter::from_fn(move || {
            let mut frame = Vec::new();
            let mut open: Option<RowId> = None;
            loop {
                let belongs = match chunks.peek() {
                    Some(Ok((key, _))) => {
                        let id = key.get(1..).and_then(RowId::decode);
                        open.is_none() || id == open
                    }
                    Some(Err(_)) => true,
                    None => false,
                };
                if !belongs {
                    break;
                }
                match chunks.next()? {
                    Ok((key, chunk)) => {
                        open = open.or_else(|| RowId::decode(key.get(1..)?));
                        frame.extend_from_slice(&chunk);
                    }
                    Err(e) => return Some(Err(self.failed(&e))),
                }
            }
            let id = open?;
            Some(self.decode(id, &frame).map(|row| (id, row, frame)))
        })
    }

    /// Rows before one, newest first; all where it is `None`.
    pub(super) fn rows_before(&self, before: Option<RowId>, max: usize) -> Result<Vec<(RowId, Row)>, StoreError> {
        let upto = before.map_or(vec![ROW + 1], |id| chunk_key(id, 0));
        let mut ids: Vec<RowId> = Vec::new();
        for key in self.db.range(vec![ROW]..upto).keys().rev() {
            let key = key.map_err(|e| self.failed(&e))?;
            let id = key.get(1..).and_then(RowId::decode).ok_or_else(|| self.damaged("a key", "it is too short"))?;
            if ids.last() != Some(&id) {
                if ids.len() == max {
                    break;
                }
                ids.push(id);
            }
        }
        ids.into_iter().map(|id| Ok((id, self.row(id)?))).collect()
    }

    /// The rows of a resource before one, newest first.
    pub(super) fn rows_of(
        &self,
        key: &ResourceKey,
        before: Option<RowId>,
        max: usize,
    ) -> Result<Vec<(RowId, Row)>, StoreError> {
        let prefix = index_prefix(key);
        let from = index_key(key, RowId { epoch: 0, revision: 0, seq: 0 });
        let all = RowId { epoch: u64::MAX, revision: u64::MAX, seq: u32::MAX };
        let upto = index_key(key, before.unwrap_or(all));
        let ids = self.db.range(from..upto).keys().rev().take(max).map(|found| {
            let found = found.map_err(|e| self.failed(&e))?;
            RowId::decode(&found[prefix.len()..]).ok_or_else(|| self.damaged("a key", "it is too short"))
        });
        ids.map(|id| id.and_then(|id| Ok((id, self.row(id)?)))).collect()
    }

    /// The first row of a resource after a revision of an epoch.
    pub(super) fn first_after(
        &self,
        key: &ResourceKey,
        epoch: u64,
        revision: u64,
    ) -> Result<Option<(RowId, Row)>, StoreError> {
        let from = index_key(key, RowId { epoch, revision: revision.saturating_add(1), seq: 0 });
        let upto = index_key(key, RowId { epoch: epoch.saturating_add(1), revision: 0, seq: 0 });
        let Some(found) = self.db.range(from..upto).keys().next() else { return Ok(None) };
        let found = found.map_err(|e| self.failed(&e))?;
        let at = found.len() - RowId::BYTES;
        let id = RowId::decode(&found[at..]).ok_or_else(|| self.damaged("a key", "it is too short"))?;
        Ok(Some((id, self.row(id)?)))
    }

    fn row(&self, id: RowId) -> Result<Row, StoreError> {
        let mut frame = Vec::new();
        let mut prefix = vec![ROW];
        id.encode(&mut prefix);
        for chunk in self.db.scan_prefix(prefix).values() {
            frame.extend_from_slice(&chunk.map_err(|e| self.failed(&e))?);
        }
        self.decode(id, &frame)
    }

    fn decode(&self, id: RowId, frame: &[u8]) -> Result<Row, StoreError> {
        codec::open(frame)
            .map_err(|e| self.damaged(&format!("row {}-{}-{}", id.epoch, id.revision, id.seq), &e.to_string()))
    }

    fn get(&self, key: &[u8]) -> Result<Option<sled::IVec>, StoreError> {
        self.db.get(key).map_err(|e| self.failed(&e))
    }

    fn failed(&self, e: &dyn std::fmt::Display) -> StoreError {
        StoreError::Io { place: path_of(&self.dir, self.generation).display().to_string(), reason: e.to_string() }
    }

    fn damaged(&self, what: &str, reason: &str) -> StoreError {
        let place = format!("{} {what}", path_of(&self.dir, self.generation).display());
        StoreError::Damaged { place, reason: reason.to_owned() }
    }
}

fn open_generation(path: &Path) -> Result<(sled::Db, File), StoreError> {
    let db = open_sled(path, CACHE_BYTES).map_err(|e| match e {
        crate::log::LogError::Damaged { place, reason } => StoreError::Damaged { place, reason },
        other => StoreError::Io { place: path.display().to_string(), reason: other.to_string() },
    })?;
    let file = path.join("db");
    let data = OpenOptions::new().read(true).open(&file);
    let data = data.map_err(|e| StoreError::Io { place: file.display().to_string(), reason: e.to_string() })?;
    Ok((db, data))
}

fn chunk_key(id: RowId, chunk: u32) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + RowId::BYTES + 4);
    key.push(ROW);
    id.encode(&mut key);
    key.extend_from_slice(&chunk.to_be_bytes());
    key
}

fn index_prefix(key: &ResourceKey) -> Vec<u8> {
    let mut bytes = vec![INDEX];
    for part in [key.kind.as_str(), key.id.as_str()] {
        bytes.extend_from_slice(&u32::try_from(part.len()).unwrap_or(u32::MAX).to_be_bytes());
        bytes.extend_from_slice(part.as_bytes());
    }
    bytes
}

fn index_key(key: &ResourceKey, id: RowId) -> Vec<u8> {
    let mut bytes = index_prefix(key);
    id.encode(&mut bytes);
    bytes
}

fn path_of(dir: &Path, generation: u64) -> PathBuf {
    dir.join(format!("rows.{generation}"))
}

/// The generations in a directory, ascending; unfinished ones are removed.
fn generations(dir: &Path) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for item in std::fs::read_dir(dir)? {
        let item = item?;
        let name = item.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix("rows.")) else { continue };
        if rest.ends_with(durable::TEMPORARY) {
            remove_tree(&item.path())?;
        } else if let Ok(generation) = rest.parse() {
            found.push(generation);
        }
    }
    found.sort_unstable();
    Ok(found)
}
