//! Reads the journal that the library writes.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

use super::record::{HEADER_BYTES, Header};

/// A journal, read bit by bit as it grows.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    read_bytes: u64,
}

impl Journal {
    /// The journal at `path`, which need not exist yet.
    #[must_use]
    pub fn at(path: &Path) -> Self {
        Self { path: path.to_owned(), read_bytes: 0 }
    }

    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives each whole record since the last time to `take`. Call it when no process writes it: what is not whole was
    /// being written when its process died, and is dropped.
    ///
    /// # Errors
    /// Those of the file and of `take`.
    pub fn read(&mut self, mut take: impl FnMut(Header, &[u8]) -> Result<()>) -> Result<()> {
        let place = || self.path.display().to_string();
        let mut file = File::options().read(true).write(true).open(&self.path).with_context(place)?;
        file.seek(SeekFrom::Start(self.read_bytes))?;
        let mut input = BufReader::with_capacity(1 << 20, &file);
        let mut payload = Vec::new();
        let mut header = [0; HEADER_BYTES];
        while whole(&mut input, &mut header)? {
            let header = Header::decode(&header).with_context(|| format!("{}: no record", place()))?;
            payload.resize(usize::try_from(header.payload_bytes)?, 0);
            if !whole(&mut input, &mut payload)? {
                break;
            }
            self.read_bytes += (HEADER_BYTES + payload.len()) as u64;
            take(header, &payload)?;
        }
        drop(input);
        // What the next process appends must not follow half a record.
        Ok(file.set_len(self.read_bytes)?)
    }
}

/// Fills `bytes`; false at the end of the file, or within them.
fn whole(input: &mut impl Read, bytes: &mut [u8]) -> Result<bool> {
    match input.read_exact(bytes) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::UnexpectedEof => Ok(false),
        Err(e) => Err(e.into()),
    }
}
