//! Writes a history while it happens: in memory for the checkers, on disk for whoever comes later.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use anyhow::{Context, Result};

use super::{Call, Event, Micros, Op, Outcome, Saw};
use crate::scenario::Sometimes;

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

    /// Begins an operation on a node.
    #[must_use]
    pub fn invoked(&self, client: &str, node: u16, call: Call) -> Invoked {
        let (invoked, outcome) = (self.now(), Outcome::Unknown { why: String::new() });
        let op = Op { client: client.to_owned(), node, invoked, returned: invoked, call, outcome };
        Invoked { recorder: self.clone(), op, noted: false }
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

    /// Notes that something was seen which a scenario may have to see.
    pub fn saw(&self, what: Sometimes) {
        self.note(Event::Saw(Saw { at: self.now(), what }));
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

/// An operation that was asked for. When this is dropped before its outcome was learned (whoever asked was stopped), it is
/// noted as unknown: it may have been carried out, and others may see it.
#[derive(Debug)]
pub struct Invoked {
    recorder: Recorder,
    op: Op,
    noted: bool,
}

impl Invoked {
    /// It is over for whoever asked.
    pub fn returned(mut self, outcome: Outcome) {
        self.note(outcome);
    }

    fn note(&mut self, outcome: Outcome) {
        self.noted = true;
        self.recorder.note(Event::Op(Op { returned: self.recorder.now(), outcome, ..self.op.clone() }));
    }
}

impl Drop for Invoked {
    fn drop(&mut self) {
        if !self.noted {
            self.note(Outcome::Unknown { why: "its client was stopped".to_owned() });
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_operation_whose_client_is_stopped_may_have_been_carried_out() {
        let dir = tempfile::tempdir().unwrap();
        let recorder = Recorder::create(&dir.path().join("history.jsonl")).unwrap();
        let writes = |value| vec![("k".to_owned(), Some(value))];
        let call = |value| Call::Write { writes: writes(value), if_match: None, request: None, patch: false };
        recorder.invoked("a", 1, call(1)).returned(Outcome::Fail { status: 503 });
        let mut clients = tokio::task::JoinSet::new();
        let under_way = recorder.invoked("b", 2, call(2));
        clients.spawn(async move {
            std::future::pending::<()>().await;
            under_way.returned(Outcome::Fail { status: 0 });
        });
        clients.shutdown().await;
        let events = recorder.events().unwrap();
        let outcomes: Vec<&Outcome> = super::super::ops(&events).map(|op| &op.outcome).collect();
        assert!(matches!(outcomes[..], [Outcome::Fail { status: 503 }, Outcome::Unknown { .. }]), "{outcomes:?}");
    }
}
