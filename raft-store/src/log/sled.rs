//! The log on sled, made durable.
//!
//! What sled 0.34 does not do by itself is done here, and each of these was measured, not guessed:
//!
//! - its `flush` neither waits for the disk's cache nor syncs metadata: after it, the database file is synced through a
//!   descriptor of our own;
//! - values of 16 KiB and more go to files that are never synced: records are cut into chunks of 4 KiB, and a directory
//!   of such files that is not empty is refused;
//! - after damage to its file it may come back, without a word, with an older state: every write carries a counter, the
//!   counter is noted in a file beside it ([`HighWater`]), and coming back with a lower one is refused;
//! - the names of its own snapshots are never synced: [`sled_names`] keeps them from being lost;
//! - its file grows: when it is far larger than what it holds, it is rewritten.
//!
//! ```text
//!   <dir>/log.<n>/          sled; the highest n counts, anything else is left over from a rewrite
//!   <dir>/log.<n>.count     two copies of the counter
//!
//!   keys in sled            m/count  m/vote  m/committed  m/purged       e <index, 8 bytes BE> <chunk, 4 bytes BE>
//! ```

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use daemon::{durable, failpoint, planted};
use protocol::codec::{self, Record};

use super::backend::{LogBackend, LogError, Recovered, WriteOp};
use super::sled_names;
use crate::wire::{EntryRecord, LogIdRecord, VoteRecord};

/// Sled puts values of four pages and more into files of their own; this stays well below.
pub(crate) const CHUNK_BYTES: usize = 4096;

/// How long sled may take to let go of a database that this process has just closed.
const LOCK_MAX: Duration = Duration::from_secs(5);

/// How often it is looked whether it has.
const LOCK_LOOK: Duration = Duration::from_millis(2);

const COUNT: &[u8] = b"m/count";
const VOTE: &[u8] = b"m/vote";
const COMMITTED: &[u8] = b"m/committed";
const PURGED: &[u8] = b"m/purged";
const ENTRY: u8 = b'e';

/// How sled is used.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SledLogSettings {
    /// Memory for sled's own cache. The live log is in memory anyway; it is read from sled only at the start.
    pub cache_bytes: u64,
    /// The file is rewritten when it is larger than this and larger than [`Self::rewrite_factor`] times what it holds.
    pub rewrite_bytes: u64,
    /// See [`Self::rewrite_bytes`].
    pub rewrite_factor: u64,
}

impl Default for SledLogSettings {
    fn default() -> Self {
        Self { cache_bytes: 32 << 20, rewrite_bytes: 64 << 20, rewrite_factor: 5 }
    }
}

/// The log on sled.
#[derive(Debug)]
pub struct SledLog {
    dir: PathBuf,
    settings: SledLogSettings,
    store: Store,
    count: u64,
    /// How many chunks each stored entry has.
    chunks: BTreeMap<u64, u32>,
}

/// One generation of sled with its counter file.
#[derive(Debug)]
struct Store {
    generation: u64,
    path: PathBuf,
    db: sled::Db,
    /// A descriptor of our own to sled's file: syncing it is what makes a write durable.
    data: File,
    high_water: HighWater,
}

impl SledLog {
    /// Opens the log in `dir`, which exists; makes an empty one when there is none.
    ///
    /// # Errors
    /// [`LogError`] when it cannot be opened or is damaged.
    pub fn open(dir: &Path, settings: SledLogSettings) -> Result<Self, LogError> {
        let mut generations = generations(dir).map_err(|e| LogError::io(dir.display().to_string(), e))?;
        let store = match generations.pop() {
            Some(newest) => Store::open(dir, newest, &settings)?,
            None => Store::create(dir, 1, &settings, None, 0)?,
        };
        for older in generations {
            remove_generation(dir, older).map_err(|e| LogError::io(dir.display().to_string(), e))?;
        }
        Ok(Self { dir: dir.to_owned(), settings, store, count: 0, chunks: BTreeMap::new() })
    }

    /// Turns operations into one atomic batch of sled.
    fn batch(&mut self, ops: &[WriteOp]) -> Result<sled::Batch, LogError> {
        let mut batch = sled::Batch::default();
        for op in ops {
            match op {
                WriteOp::Append(record) => self.put_entry(&mut batch, record)?,
                WriteOp::TruncateFrom(index) => {
                    let removed = self.chunks.split_off(index);
                    remove_chunks(&mut batch, &removed);
                }
                WriteOp::PurgeTo(id) => {
                    let kept = self.chunks.split_off(&(id.index + 1));
                    let removed = std::mem::replace(&mut self.chunks, kept);
                    remove_chunks(&mut batch, &removed);
                    batch.insert(PURGED, self.seal("purged", id)?);
                }
                WriteOp::Vote(vote) => batch.insert(VOTE, self.seal("vote", vote)?),
                WriteOp::Committed(Some(id)) => batch.insert(COMMITTED, self.seal("committed", id)?),
                WriteOp::Committed(None) => batch.remove(COMMITTED),
            }
        }
        self.count += 1;
        batch.insert(COUNT, self.count.to_be_bytes().to_vec());
        Ok(batch)
    }

    fn put_entry(&mut self, batch: &mut sled::Batch, record: &EntryRecord) -> Result<(), LogError> {
        let frame = self.seal("entry", record)?;
        let mut count = 0;
        for (number, chunk) in (0u32..).zip(frame.chunks(CHUNK_BYTES)) {
            batch.insert(&entry_key(record.id.index, number), chunk);
            count = number + 1;
        }
        // One that stood there before may have been longer.
        if let Some(before) = self.chunks.insert(record.id.index, count) {
            for number in count..before {
                batch.remove(&entry_key(record.id.index, number));
            }
        }
        Ok(())
    }

    fn seal<T: Record>(&self, what: &str, record: &T) -> Result<Vec<u8>, LogError> {
        codec::seal(record).map_err(|e| LogError::io(self.store.place(), format!("{what}: {e}")))
    }

    /// What the file would take if it held only what is live, near enough.
    fn live_bytes(&self) -> u64 {
        self.chunks.values().map(|count| u64::from(*count) * CHUNK_BYTES as u64).sum()
    }

    /// Copies what is live into a new generation when the file has grown far beyond it.
    fn rewrite_if_bloated(&mut self) -> Result<(), LogError> {
        let (disk, live) = (self.disk_bytes(), self.live_bytes());
        if disk <= self.settings.rewrite_bytes || disk <= live.saturating_mul(self.settings.rewrite_factor) {
            return Ok(());
        }
        let next = self.store.generation + 1;
        let rewritten = Store::create(&self.dir, next, &self.settings, Some(&self.store.db), self.count)?;
        let old = std::mem::replace(&mut self.store, rewritten);
        let (generation, place) = (old.generation, old.place());
        drop(old);
        remove_generation(&self.dir, generation).map_err(|e| LogError::io(place, e))?;
        tracing::info!(
            disk_bytes = disk,
            live_bytes = live,
            now_bytes = self.disk_bytes(),
            "the log's file was rewritten"
        );
        Ok(())
    }
}

impl LogBackend for SledLog {
    fn recover(&mut self) -> Result<Recovered, LogError> {
        let store = &self.store;
        let count = match store.get(COUNT)? {
            Some(bytes) => u64::from_be_bytes(bytes.as_ref().try_into().map_err(|_| store.damaged("m/count"))?),
            None => 0,
        };
        store.high_water.check(count, &store.place())?;
        let mut recovered = Recovered {
            vote: store.record::<VoteRecord>(VOTE)?.map(Into::into),
            committed: store.record::<LogIdRecord>(COMMITTED)?.map(Into::into),
            purged: store.record::<LogIdRecord>(PURGED)?.map(Into::into),
            entries: Vec::new(),
        };
        let mut chunks = BTreeMap::new();
        let mut frame = Vec::new();
        let mut current: Option<(u64, u32)> = None;
        let mut finish = |index: u64, count: u32, frame: &mut Vec<u8>| {
            let place = || format!("{} entry {index}", store.place());
            let record: EntryRecord =
                codec::open(frame).map_err(|e| LogError::Damaged { place: place(), reason: e.to_string() })?;
            if record.id.index != index {
                let reason = format!("it holds entry {}", record.id.index);
                return Err(LogError::Damaged { place: place(), reason });
            }
            recovered.entries.push(record.into());
            chunks.insert(index, count);
            frame.clear();
            Ok(())
        };
        for item in store.db.scan_prefix([ENTRY]) {
            let (key, chunk) = item.map_err(|e| LogError::io(store.place(), e))?;
            let (index, number) = parse_entry_key(&key).ok_or_else(|| store.damaged("a key"))?;
            match current {
                Some((open, count)) if open == index && count == number => {}
                _ if number != 0 => return Err(store.damaged(&format!("entry {index}"))),
                Some((open, count)) => finish(open, count, &mut frame)?,
                None => {}
            }
            frame.extend_from_slice(&chunk);
            current = Some((index, number + 1));
        }
        if let Some((open, count)) = current {
            finish(open, count, &mut frame)?;
        }
        self.count = count;
        self.chunks = chunks;
        self.rewrite_if_bloated()?;
        Ok(recovered)
    }

    fn write(&mut self, ops: &[WriteOp]) -> Result<(), LogError> {
        let batch = self.batch(ops)?;
        self.store.db.apply_batch(batch).map_err(|e| LogError::io(self.store.place(), e))?;
        failpoint!("log::before_flush", |_| Err(LogError::io("log", "injected")));
        self.store.db.flush().map_err(|e| LogError::io(self.store.place(), e))?;
        Ok(())
    }

    fn sync(&mut self) -> Result<(), LogError> {
        // The negative control of the power-cut test: it must find what this sync is for.
        let skip = planted!("log-not-synced");
        if !skip {
            self.store.data.sync_data().map_err(|e| LogError::io(self.store.place(), e))?;
        }
        self.store.high_water.raise(self.count).map_err(|e| LogError::io(self.store.place(), e))?;
        self.rewrite_if_bloated()
    }

    fn disk_bytes(&self) -> u64 {
        self.store.data.metadata().map_or(0, |metadata| metadata.len())
    }
}

impl Store {
    /// Makes a generation that holds what another holds, or nothing. It counts only once its directory has its name.
    fn create(
        dir: &Path,
        generation: u64,
        settings: &SledLogSettings,
        from: Option<&sled::Db>,
        count: u64,
    ) -> Result<Self, LogError> {
        let temporary = dir.join(format!("log.{generation}.{}", durable::TEMPORARY));
        let place = temporary.display().to_string();
        let io = |e: io::Error| LogError::io(place.clone(), e);
        let sled = |e: sled::Error| LogError::io(place.clone(), e);
        remove_tree(&temporary).map_err(io)?;
        {
            let db = open_sled(&temporary, settings.cache_bytes)?;
            for item in from.iter().flat_map(|from| from.iter()) {
                let (key, value) = item.map_err(sled)?;
                db.insert(key, value).map_err(sled)?;
            }
            db.flush().map_err(sled)?;
        }
        sync_files(&temporary).map_err(io)?;
        let high_water = HighWater::create(&count_path(dir, generation)).map_err(io)?;
        failpoint!("log::rewrite_before_rename");
        std::fs::rename(&temporary, store_path(dir, generation)).map_err(io)?;
        durable::sync_directory(dir).map_err(io)?;
        failpoint!("log::rewrite_after_rename");
        let store = Self::open_over(dir, generation, settings, high_water)?;
        store.high_water.raise(count).map_err(io)?;
        Ok(store)
    }

    fn open(dir: &Path, generation: u64, settings: &SledLogSettings) -> Result<Self, LogError> {
        let path = count_path(dir, generation);
        let high_water =
            HighWater::open(&path).map_err(|reason| LogError::Damaged { place: path.display().to_string(), reason })?;
        Self::open_over(dir, generation, settings, high_water)
    }

    fn open_over(
        dir: &Path,
        generation: u64,
        settings: &SledLogSettings,
        high_water: HighWater,
    ) -> Result<Self, LogError> {
        let path = store_path(dir, generation);
        let blobs = path.join("blobs");
        if std::fs::read_dir(&blobs).is_ok_and(|mut files| files.next().is_some()) {
            let reason = "sled keeps large values there, which are never synced; holdfast never writes any".to_owned();
            return Err(LogError::Damaged { place: blobs.display().to_string(), reason });
        }
        let db = open_sled(&path, settings.cache_bytes)?;
        let data = path.join("db");
        let data =
            OpenOptions::new().read(true).open(&data).map_err(|e| LogError::io(data.display().to_string(), e))?;
        Ok(Self { generation, path, db, data, high_water })
    }

    fn place(&self) -> String {
        self.path.display().to_string()
    }

    fn damaged(&self, what: &str) -> LogError {
        LogError::Damaged { place: self.place(), reason: format!("{what} does not decode") }
    }

    fn get(&self, key: &[u8]) -> Result<Option<sled::IVec>, LogError> {
        self.db.get(key).map_err(|e| LogError::io(self.place(), e))
    }

    fn record<T: Record>(&self, key: &[u8]) -> Result<Option<T>, LogError> {
        let name = || format!("{} {}", self.place(), String::from_utf8_lossy(key));
        let open = |bytes: sled::IVec| {
            codec::open(&bytes).map_err(|e| LogError::Damaged { place: name(), reason: e.to_string() })
        };
        self.get(key)?.map(open).transpose()
    }
}

/// A lower bound, beside sled, of how many writes sled has acknowledged.
///
/// It is raised after each sync without a sync of its own: it may lag after a power cut, and then proves less; it is
/// never ahead. Two copies in two sectors are written in turn, so that a torn write leaves one.
#[derive(Debug)]
struct HighWater {
    file: File,
}

impl HighWater {
    const SECTOR_BYTES: u64 = 512;

    fn create(path: &Path) -> io::Result<Self> {
        let slot = Self::slot(0);
        let mut bytes = vec![0; 2 * 512];
        bytes[..12].copy_from_slice(&slot);
        bytes[512..524].copy_from_slice(&slot);
        durable::write(path, &bytes)?;
        Ok(Self { file: OpenOptions::new().read(true).write(true).open(path)? })
    }

    fn open(path: &Path) -> Result<Self, String> {
        let file = OpenOptions::new().read(true).write(true).open(path).map_err(|e| e.to_string())?;
        let high_water = Self { file };
        high_water.read().ok_or("neither copy of the write counter is whole")?;
        Ok(high_water)
    }

    fn check(&self, found: u64, place: &str) -> Result<(), LogError> {
        let high_water = self.read().unwrap_or_default();
        if found < high_water {
            return Err(LogError::LostWrites { place: place.to_owned(), high_water, found });
        }
        Ok(())
    }

    fn raise(&self, count: u64) -> io::Result<()> {
        self.file.write_all_at(&Self::slot(count), (count % 2) * Self::SECTOR_BYTES)
    }

    /// The higher of the copies that are whole.
    fn read(&self) -> Option<u64> {
        (0..2)
            .filter_map(|sector| {
                let mut slot = [0; 12];
                self.file.read_exact_at(&mut slot, sector * Self::SECTOR_BYTES).ok()?;
                let count = u64::from_le_bytes(slot[..8].try_into().ok()?);
                (slot == Self::slot(count)).then_some(count)
            })
            .max()
    }

    fn slot(count: u64) -> [u8; 12] {
        let mut slot = [0; 12];
        slot[..8].copy_from_slice(&count.to_le_bytes());
        // Any function of the number does that all zeroes, or half of each of two numbers, are unlikely to satisfy.
        let check = u32::try_from(count.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32).unwrap_or_default();
        slot[8..].copy_from_slice(&check.to_le_bytes());
        slot
    }
}

/// Opens or makes a database of sled's; nothing is flushed until it is asked for.
pub(crate) fn open_sled(path: &Path, cache_bytes: u64) -> Result<sled::Db, LogError> {
    let io = |e| LogError::io(path.display().to_string(), e);
    sled_names::before_opening(path).map_err(io)?;
    let db = open_sled_alone(path, cache_bytes)?;
    sled_names::after_opening(path).map_err(io)?;
    Ok(db)
}

/// The same without what a power cut needs: see [`sled_names`].
pub(super) fn open_sled_alone(path: &Path, cache_bytes: u64) -> Result<sled::Db, LogError> {
    let place = || path.join("db").display().to_string();
    let config = sled::Config::new()
        .path(path)
        .cache_capacity(cache_bytes)
        .flush_every_ms(None)
        .mode(sled::Mode::HighThroughput);
    // Sled panics on some kinds of damage; for an operator that is one more error with a place.
    let open = || catch_unwind(AssertUnwindSafe(|| config.open()));
    // A database that was closed lets go of its lock on a thread of sled's own, a moment later. Two processes never get
    // here: the data directory has a lock of its own.
    let mut opened = open();
    let mut waited = Duration::ZERO;
    while matches!(&opened, Ok(Err(sled::Error::Io(e))) if e.to_string().contains("could not acquire lock")) {
        if waited >= LOCK_MAX {
            break;
        }
        std::thread::sleep(LOCK_LOOK);
        waited += LOCK_LOOK;
        opened = open();
    }
    match opened {
        Ok(Ok(db)) => Ok(db),
        Ok(Err(sled::Error::Corruption { .. })) => {
            Err(LogError::Damaged { place: place(), reason: "sled finds it corrupted".to_owned() })
        }
        Ok(Err(e)) => Err(LogError::io(place(), e)),
        Err(_) => Err(LogError::Damaged { place: place(), reason: "sled cannot read it".to_owned() }),
    }
}

fn entry_key(index: u64, chunk: u32) -> [u8; 13] {
    let mut key = [ENTRY; 13];
    key[1..9].copy_from_slice(&index.to_be_bytes());
    key[9..].copy_from_slice(&chunk.to_be_bytes());
    key
}

fn parse_entry_key(key: &[u8]) -> Option<(u64, u32)> {
    let key: [u8; 13] = key.try_into().ok()?;
    let index = u64::from_be_bytes(key[1..9].try_into().ok()?);
    Some((index, u32::from_be_bytes(key[9..].try_into().ok()?)))
}

fn remove_chunks(batch: &mut sled::Batch, removed: &BTreeMap<u64, u32>) {
    for (index, count) in removed {
        for chunk in 0..*count {
            batch.remove(&entry_key(*index, chunk));
        }
    }
}

fn store_path(dir: &Path, generation: u64) -> PathBuf {
    dir.join(format!("log.{generation}"))
}

fn count_path(dir: &Path, generation: u64) -> PathBuf {
    dir.join(format!("log.{generation}.count"))
}

/// The generations in a directory, ascending; unfinished ones are removed.
fn generations(dir: &Path) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for item in std::fs::read_dir(dir)? {
        let item = item?;
        let name = item.file_name();
        let Some(rest) = name.to_str().and_then(|name| name.strip_prefix("log.")) else { continue };
        if rest.ends_with(durable::TEMPORARY) {
            remove_tree(&item.path())?;
        } else if let Ok(generation) = rest.parse() {
            found.push(generation);
        }
    }
    found.sort_unstable();
    Ok(found)
}

fn remove_generation(dir: &Path, generation: u64) -> io::Result<()> {
    remove_tree(&store_path(dir, generation))?;
    durable::remove(&count_path(dir, generation))
}

pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(metadata) if metadata.is_dir() => std::fs::remove_dir_all(path),
        _ => std::fs::remove_file(path),
    }
}

/// Syncs every file in a directory, and the directory.
pub(crate) fn sync_files(dir: &Path) -> io::Result<()> {
    for item in std::fs::read_dir(dir)? {
        let item = item?;
        if item.file_type()?.is_dir() {
            sync_files(&item.path())?;
        } else {
            File::open(item.path())?.sync_all()?;
        }
    }
    durable::sync_directory(dir)
}
