//! Snapshots as files: `snapshot.<last log index, 20 digits>`.

use std::fs::{self, File};
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use daemon::durable::{self, Replacement};

use super::{SnapshotHandle, SnapshotSource, SnapshotStore, SnapshotWriter};

const PREFIX: &str = "snapshot.";
const BUFFER_BYTES: usize = 256 << 10;

/// Snapshots in a directory.
#[derive(Debug)]
pub struct SnapshotFiles {
    dir: PathBuf,
    /// Numbers unfinished files apart.
    next: AtomicU64,
}

impl SnapshotFiles {
    /// Uses `dir`, which is made if it is missing, and clears away what a crash left unfinished in it.
    ///
    /// # Errors
    /// Those of the file system, with the path.
    pub fn open(dir: &Path) -> io::Result<Self> {
        durable::create_directory(dir)?;
        for item in fs::read_dir(dir).map_err(|e| durable::at(dir, e))? {
            let path = item?.path();
            if path.extension().is_some_and(|extension| extension == durable::TEMPORARY) {
                // A crash left it; it was never a snapshot.
                durable::remove(&path)?;
            }
        }
        Ok(Self { dir: dir.to_owned(), next: AtomicU64::new(0) })
    }
}

impl SnapshotStore for SnapshotFiles {
    fn begin(&self) -> io::Result<Box<dyn SnapshotWriter>> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let unfinished = Replacement::begin(&self.dir.join(format!("unfinished.{number}")))?;
        Ok(Box::new(Unfinished { dir: self.dir.clone(), file: BufWriter::with_capacity(BUFFER_BYTES, unfinished) }))
    }

    fn list(&self) -> io::Result<Vec<SnapshotHandle>> {
        let mut found = Vec::new();
        for item in fs::read_dir(&self.dir).map_err(|e| durable::at(&self.dir, e))? {
            let item = item?;
            let name = item.file_name();
            let Some(index) = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.parse().ok()) else { continue };
            found.push(SnapshotFile { path: item.path(), last_index: index, bytes: item.metadata()?.len() });
        }
        found.sort_by_key(|snapshot| std::cmp::Reverse(snapshot.last_index));
        Ok(found.into_iter().map(SnapshotHandle::new).collect())
    }

    fn retain(&self, keep: usize) -> io::Result<()> {
        for old in self.list()?.into_iter().skip(keep) {
            durable::remove(Path::new(&old.name()))?;
        }
        Ok(())
    }
}

struct Unfinished {
    dir: PathBuf,
    file: BufWriter<Replacement>,
}

impl Write for Unfinished {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl SnapshotWriter for Unfinished {
    fn commit(self: Box<Self>, last_index: u64) -> io::Result<SnapshotHandle> {
        let path = self.dir.join(format!("{PREFIX}{last_index:020}"));
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.commit_as(&path)?;
        let bytes = fs::metadata(&path).map_err(|e| durable::at(&path, e))?.len();
        Ok(SnapshotHandle::new(SnapshotFile { path, last_index, bytes }))
    }
}

#[derive(Debug)]
struct SnapshotFile {
    path: PathBuf,
    last_index: u64,
    bytes: u64,
}

impl SnapshotSource for SnapshotFile {
    fn name(&self) -> String {
        self.path.display().to_string()
    }

    fn last_index(&self) -> u64 {
        self.last_index
    }

    fn bytes(&self) -> u64 {
        self.bytes
    }

    fn open(&self) -> io::Result<Box<dyn Read + Send>> {
        let file = File::open(&self.path).map_err(|e| durable::at(&self.path, e))?;
        Ok(Box::new(BufReader::with_capacity(BUFFER_BYTES, file)))
    }
}
