//! The disk's own thread: it appends, syncs, and writes bases, so that nobody who serves ever waits for a disk.

use std::fmt;
use std::fs;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use bytes::Bytes;
use daemon::blocking;
use protocol::Position;
use protocol::codec;
use protocol::seam::WallClock;
use protocol::snapshot::ClusterId;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::base::{self, Owner};
use super::journal::{Mark, Writer};
use super::recover::Recovered;
use super::{BASE, Generation, Image, JOURNAL, Layout, identity};

/// Below this many bytes of journals no new base is written: a base costs two syncs of files and of their directory.
const JOURNAL_BYTES_MIN: u64 = 1 << 20;

/// After a failure the disk is left alone for so long before a new base is tried, then twice as long, up to the bound:
/// each attempt writes the whole configuration.
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);

/// The disk did not take something. What it holds is as before or unknown; a new base will say.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct DiskError(String);

/// Figures about the disk, for metrics.
#[derive(Debug, Default)]
pub struct DiskStats {
    /// Bytes of the journals since the newest base.
    pub journal_bytes: AtomicU64,
    /// Bytes of the newest base.
    pub base_bytes: AtomicU64,
    /// Bases written since the start.
    pub bases: AtomicU64,
    /// Failures since the start.
    pub errors: AtomicU64,
    /// Files that were found damaged, foreign or forged at the start.
    pub findings: AtomicU64,
}

/// Keeps what comes. Every method answers when the disk has: the answer may be awaited, or dropped.
#[derive(Debug)]
pub struct Store {
    desk: Desk,
}

/// Who works.
#[derive(Debug)]
enum Desk {
    /// A thread of its own, which may block: production.
    Thread { jobs: Sender<Job>, thread: Option<JoinHandle<()>> },
    /// Whoever asks, there and then: simulations, in which one thread is everything.
    Inline(Box<Mutex<Keeper>>),
}

type Answer = oneshot::Sender<Result<(), DiskError>>;

#[derive(Debug)]
enum Job {
    Append { frames: Vec<Bytes>, image: Image, answer: Answer },
    Rebase { image: Image, answer: Answer },
    Pin { cluster: ClusterId, answer: Answer },
    BaseWritten { generation: Generation, result: io::Result<u64> },
    Stop,
}

impl Store {
    /// Starts the thread, behind what was recovered.
    ///
    /// # Errors
    /// Those of the operating system: no thread.
    pub(super) fn start(
        layout: Layout,
        owner: Owner,
        clock: Arc<dyn WallClock>,
        stats: Arc<DiskStats>,
        recovered: &Recovered,
    ) -> io::Result<Self> {
        let (jobs, queue) = channel();
        let mut keeper = Keeper {
            layout,
            owner,
            clock,
            jobs: jobs.clone(),
            stats,
            journal: None,
            last: recovered.last,
            since_base: recovered.journal_bytes,
            base_bytes: recovered.base_bytes,
            writing_base: false,
            retry: None,
        };
        keeper.go_on_from(recovered);
        if blocking::is_inline() {
            return Ok(Self { desk: Desk::Inline(Box::new(Mutex::new(keeper))) });
        }
        let run = move || keeper.run(&queue);
        let thread = thread::Builder::new().name("disk".into()).spawn(run)?;
        Ok(Self { desk: Desk::Thread { jobs, thread: Some(thread) } })
    }

    /// Appends records to the journal: frames of deltas as they came. `image` is what stands after them.
    pub fn append(&self, frames: Vec<Bytes>, image: Image) -> oneshot::Receiver<Result<(), DiskError>> {
        self.ask(|answer| Job::Append { frames, image, answer })
    }

    /// Writes a new base, in place of everything before.
    pub fn rebase(&self, image: Image) -> oneshot::Receiver<Result<(), DiskError>> {
        self.ask(|answer| Job::Rebase { image, answer })
    }

    /// Remembers the cluster, before anything of it is kept.
    pub fn pin(&self, cluster: ClusterId) -> oneshot::Receiver<Result<(), DiskError>> {
        self.ask(|answer| Job::Pin { cluster, answer })
    }

    fn ask(&self, job: impl FnOnce(Answer) -> Job) -> oneshot::Receiver<Result<(), DiskError>> {
        let (answer, receiver) = oneshot::channel();
        match &self.desk {
            // Should the thread be gone, the answer's end closes, which says so.
            Desk::Thread { jobs, .. } => drop(jobs.send(job(answer))),
            Desk::Inline(keeper) => keeper.lock().expect("no code panics while it holds the keeper").take(job(answer)),
        }
        receiver
    }
}

/// The thread finishes what it was asked before.
impl Drop for Store {
    fn drop(&mut self) {
        if let Desk::Thread { jobs, thread } = &mut self.desk {
            let _ = jobs.send(Job::Stop);
            if let Some(thread) = thread.take() {
                let _ = thread.join();
            }
        }
    }
}

/// The frame that says that nothing changed up to a position.
#[must_use]
pub fn mark(position: Position) -> Bytes {
    codec::seal(&Mark { position }).expect("a position is small").into()
}

/// The thread's state.
struct Keeper {
    layout: Layout,
    owner: Owner,
    clock: Arc<dyn WallClock>,
    jobs: Sender<Job>,
    stats: Arc<DiskStats>,
    /// `None`: nothing can be appended before a new base stands.
    journal: Option<Writer>,
    /// The highest number of a file.
    last: Generation,
    /// Bytes of journals since the newest base.
    since_base: u64,
    base_bytes: u64,
    writing_base: bool,
    /// After a failure: when the next attempt may be made, and the pause before it.
    retry: Option<(Instant, Duration)>,
}

impl fmt::Debug for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keeper").field("last", &self.last).finish_non_exhaustive()
    }
}

impl Keeper {
    fn run(&mut self, queue: &Receiver<Job>) {
        while let Ok(job) = queue.recv() {
            if matches!(job, Job::Stop) {
                return;
            }
            self.take(job);
        }
    }

    fn take(&mut self, job: Job) {
        let (result, answer) = match job {
            Job::Append { frames, image, answer } => (self.append(&frames, image), answer),
            Job::Rebase { image, answer } => (self.rebase(&image), answer),
            Job::Pin { cluster, answer } => (self.pin(cluster), answer),
            Job::BaseWritten { generation, result } => return self.base_written(generation, result),
            Job::Stop => return,
        };
        let result = result.map_err(|e| {
            self.stats.errors.fetch_add(1, Ordering::Relaxed);
            DiskError(e.to_string())
        });
        let _ = answer.send(result);
    }

    /// Begins a journal behind what was recovered.
    fn go_on_from(&mut self, recovered: &Recovered) {
        let Some(state) = recovered.state() else { return };
        if !recovered.findings.is_empty() {
            // A new base will stand for what is damaged; until it does, nothing can be appended to it.
            return;
        }
        if let Err(e) = self.begin_journal(state) {
            warn!(error = %e, "no journal can be begun, a new base will be tried");
        }
    }

    fn begin_journal(&mut self, state: &protocol::ConfigState) -> io::Result<()> {
        self.last += 1;
        self.journal = Some(Writer::begin(&self.layout.journal(self.last), state, &self.owner)?);
        Ok(())
    }

    fn append(&mut self, frames: &[Bytes], image: Image) -> io::Result<()> {
        let Some(journal) = &mut self.journal else { return self.rebase(&image) };
        let before = journal.bytes();
        if let Err(e) = journal.append(frames) {
            // What of it is on the disk is unknown: nothing may be written behind it.
            self.journal = None;
            return Err(self.failed(e));
        }
        self.since_base += journal.bytes() - before;
        self.stats.journal_bytes.store(self.since_base, Ordering::Relaxed);
        if self.since_base > self.base_bytes.max(JOURNAL_BYTES_MIN) && !self.writing_base {
            self.write_base_aside(image);
        }
        Ok(())
    }

    /// Begins the next journal, and lets the base that it starts from be written beside it.
    fn write_base_aside(&mut self, image: Image) {
        if let Err(e) = self.begin_journal(&image.state) {
            self.journal = None;
            self.failed(e);
            return;
        }
        let generation = self.last;
        let (path, owner, now) = (self.layout.base(generation), self.owner.clone(), self.clock.now());
        if blocking::is_inline() {
            self.since_base = 0;
            self.base_written(generation, base::write(&path, &image, &owner, now));
            return;
        }
        let done = self.jobs.clone();
        let write = move || {
            let result = base::write(&path, &image, &owner, now);
            // Taking an old state apart may take a while as well: here it disturbs nobody.
            drop(image);
            let _ = done.send(Job::BaseWritten { generation, result });
        };
        match thread::Builder::new().name("base".into()).spawn(write) {
            Ok(_) => {
                self.writing_base = true;
                // What the new base covers counts no longer; should it fail, the next attempt waits for as much again.
                self.since_base = 0;
            }
            Err(e) => {
                self.failed(e);
            }
        }
    }

    fn base_written(&mut self, generation: Generation, result: io::Result<u64>) {
        self.writing_base = false;
        match result {
            Ok(bytes) => self.base_stands(generation, bytes),
            Err(e) => {
                self.stats.errors.fetch_add(1, Ordering::Relaxed);
                error!(error = %e, "no new base could be written, the old one and its journals stay");
            }
        }
    }

    fn base_stands(&mut self, generation: Generation, bytes: u64) {
        self.base_bytes = bytes;
        self.stats.base_bytes.store(bytes, Ordering::Relaxed);
        self.stats.journal_bytes.store(self.since_base, Ordering::Relaxed);
        self.stats.bases.fetch_add(1, Ordering::Relaxed);
        // The base before this one stays, with everything behind it.
        let previous = self.layout.generations(BASE).into_iter().rev().find(|base| *base < generation);
        let Some(oldest) = previous else { return };
        for (name, path) in [
            (BASE, Layout::base as fn(&Layout, Generation) -> std::path::PathBuf),
            (JOURNAL, Layout::journal as fn(&Layout, Generation) -> std::path::PathBuf),
        ] {
            for old in self.layout.generations(name).into_iter().filter(|old| *old < oldest) {
                let path = path(&self.layout, old);
                // A file that stays costs room only, and the next base tries again.
                if let Err(e) = fs::remove_file(&path) {
                    warn!(file = %path.display(), error = %e, "an old file stays");
                }
            }
        }
    }

    /// Writes a base and begins the journal behind it, here and now.
    fn rebase(&mut self, image: &Image) -> io::Result<()> {
        if let Some((not_before, _)) = self.retry
            && Instant::now() < not_before
        {
            return Err(io::Error::other("the disk failed, the next attempt waits"));
        }
        self.journal = None;
        let generation = self.last + 1;
        let result = base::write(&self.layout.base(generation), image, &self.owner, self.clock.now())
            .and_then(|bytes| self.begin_journal(&image.state).map(|()| bytes));
        match result {
            Ok(bytes) => {
                if self.retry.take().is_some() {
                    info!(position = %image.state.position(), "the disk takes the configuration again");
                }
                self.since_base = 0;
                self.base_stands(generation, bytes);
                Ok(())
            }
            Err(e) => Err(self.failed(e)),
        }
    }

    fn pin(&mut self, cluster: ClusterId) -> io::Result<()> {
        self.owner.cluster = cluster;
        // Nobody waits for it: until it stands, the configuration says whose it is.
        identity::pin_cluster(&self.layout.cluster(), cluster)
            .inspect_err(|e| error!(error = %e, "the cluster could not be written down"))
    }

    /// Counts a failure, and puts the next attempt off.
    fn failed(&mut self, e: io::Error) -> io::Error {
        let pause = self.retry.map_or(RETRY_MIN, |(_, pause)| (pause * 2).min(RETRY_MAX));
        self.retry = Some((Instant::now() + pause, pause));
        error!(error = %e, retry_in = ?pause, "the disk does not take the configuration");
        e
    }
}
