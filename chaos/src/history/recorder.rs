//! Writes a history while it happens: in memory for the checkers, on disk for whoever comes later.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Context, Result};

use super::{Event, Micros};

/// Shared by everything that takes part in a run.
#[derive(Clone, Debug)]
pub struct Recorder {
    began: Instant,
    book: Arc<Mutex<Book>>,
}

#[derive(Debug)]
struct Book {
    events: Vec<Event>,
    file: BufWriter<File>,
    /// The first thing that could not be written: the run is worth nothing then.
    trouble: Option<String>,
}

impl Recorder {
    /// Begins a run.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn create(path: &Path) -> Result<Self> {
        let file = BufWriter::new(File::create(path).with_context(|| path.display().to_string())?);
        let book = Book { events: Vec::new(), file, trouble: None };
        Ok(Self { began: Instant::now(), book: Arc::new(Mutex::new(book)) })
    }

    /// The time of the run.
    #[must_use]
    pub fn now(&self) -> Micros {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    /// Notes an event.
    pub fn note(&self, event: Event) {
        let mut book = self.book.lock().expect("nobody panics while he writes");
        let written = serde_json::to_writer(&mut book.file, &event).map_err(std::io::Error::from);
        if let Err(e) = written.and_then(|()| book.file.write_all(b"\n")) {
            book.trouble.get_or_insert(e.to_string());
        }
        book.events.push(event);
    }

    /// What was noted so far, safely on disk.
    ///
    /// # Errors
    /// When something of it could not be written.
    pub fn events(&self) -> Result<Vec<Event>> {
        let mut book = self.book.lock().expect("nobody panics while he writes");
        anyhow::ensure!(book.trouble.is_none(), "the history is not whole: {:?}", book.trouble);
        book.file.flush()?;
        book.file.get_ref().sync_all()?;
        Ok(book.events.clone())
    }
}

/// Reads a history again.
///
/// # Errors
/// With the line that is none.
pub fn read(path: &Path) -> Result<Vec<Event>> {
    let file = File::open(path).with_context(|| path.display().to_string())?;
    let parse = |(number, line): (usize, std::io::Result<String>)| {
        serde_json::from_str(&line?).with_context(|| format!("{}:{}", path.display(), number + 1))
    };
    BufReader::new(file).lines().enumerate().map(parse).collect()
}
