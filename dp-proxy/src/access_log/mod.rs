//! The access log: one line for every request, when it is over.
//!
//! ```text
//!   worker --line--> bounded queue --> writer (thread) --> file
//! ```
//!
//! No request ever waits for a disk: what does not fit into the queue is dropped, and counted.

mod format;
mod writer;

use std::fmt;
use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{self, Receiver, SyncSender, TrySendError};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use protocol::seam::WallClock;

pub use format::{BadFormat, Format};
pub(crate) use format::{Draft, Outcome, RequestFacts};

/// How long a stopping proxy waits for the last lines to be written.
const FLUSH_TIME: Duration = Duration::from_secs(2);

/// What became of lines.
#[derive(Debug, Default)]
pub struct LogStats {
    /// Lines that were written.
    pub written: AtomicU64,
    /// Lines that found the queue full.
    pub dropped: AtomicU64,
    /// Lines that could not be written.
    pub failed: AtomicU64,
}

/// The way to the log, for whoever answers requests.
#[derive(Clone)]
pub(crate) struct AccessLog {
    format: Arc<Format>,
    queue: SyncSender<Message>,
    stats: Arc<LogStats>,
    clock: Arc<dyn WallClock>,
}

/// What the writer is told.
#[derive(Debug)]
enum Message {
    /// Write this line, which has its line break.
    Line(Vec<u8>),
    /// Open the file of that name anew.
    Reopen,
}

/// The log as a whole. When this is dropped the lines that are queued are written, if that takes no longer than
/// [`FLUSH_TIME`].
#[derive(Debug)]
pub(crate) struct OpenLog {
    log: Option<AccessLog>,
    /// Ends when the writer does.
    ended: Mutex<Receiver<()>>,
}

impl fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessLog").field("format", &self.format).finish_non_exhaustive()
    }
}

impl OpenLog {
    /// Opens the file, and starts the thread that writes. `queue_lines` is how many lines may wait for it.
    ///
    /// # Errors
    /// Those of the operating system, with the file.
    pub(crate) fn open(
        path: PathBuf,
        format: Arc<Format>,
        queue_lines: usize,
        stats: Arc<LogStats>,
        clock: Arc<dyn WallClock>,
    ) -> io::Result<Self> {
        let file: File = writer::open(&path)?;
        let (queue, messages) = mpsc::sync_channel(queue_lines);
        let (alive, ended) = mpsc::channel();
        let shared = stats.clone();
        thread::Builder::new().name("access-log".to_owned()).spawn(move || {
            let _alive = alive;
            writer::run(path, file, &messages, &shared);
        })?;
        Ok(Self { log: Some(AccessLog { format, queue, stats, clock }), ended: Mutex::new(ended) })
    }

    /// The way to it.
    pub(crate) fn handle(&self) -> AccessLog {
        self.log.clone().expect("it is there until this is dropped")
    }

    /// Lets the file of that name be opened anew: somebody has moved the old one away.
    pub(crate) fn reopen(&self) {
        // A full queue has a writer that is behind; it looks at the name by itself soon.
        let _ = self.log.as_ref().map(|log| log.queue.try_send(Message::Reopen));
    }
}

impl Drop for OpenLog {
    fn drop(&mut self) {
        self.log = None;
        // The writer ends when nobody can send any more, and this channel with it.
        let ended = self.ended.get_mut().unwrap_or_else(PoisonError::into_inner);
        let _ = ended.recv_timeout(FLUSH_TIME);
    }
}

impl AccessLog {
    /// Notes what the log tells of a request itself.
    pub(crate) fn note(&self, request: &RequestFacts<'_>) -> Draft {
        self.format.note(request)
    }

    /// Writes the line of a request that is over.
    pub(crate) fn write(&self, draft: &Draft, outcome: &Outcome<'_>) {
        let line = self.format.line(draft, outcome, self.clock.now());
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) = self.queue.try_send(Message::Line(line)) {
            self.stats.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}
