//! The one writer of a log: drains its queue into one write and one sync, then tells everybody in order.
//!
//! While it syncs, the next group gathers. So the cost of a sync is shared by all that wait, and there is no timer.
//! A failed write or sync poisons it: nothing is acknowledged afterwards, and nothing is tried again.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use daemon::{failpoint, planted};
use openraft::storage::LogFlushed;
use tokio::sync::{oneshot, watch};
use tokio::time::Instant;

use super::backend::{LogBackend, LogError, WriteOp};
use super::durability::Durability;
use crate::types::TypeConfig;
use crate::wire::EntryRecord;

/// How long operations that nobody waits for may lie in memory while nothing else is written.
const RIDE_ALONG_MAX: Duration = Duration::from_millis(200);

/// The most operations in one write, so that a long queue is acknowledged bit by bit.
const GROUP_OPS_MAX: usize = 4096;

/// Where the writer runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriterDriver {
    /// On a thread of its own, which may block: production.
    Thread,
    /// As a task of the current runtime, each sync taking this long by the runtime's clock: simulations, in which one
    /// thread is everything.
    #[cfg(any(test, feature = "test-util"))]
    Task(Duration),
}

/// How the writer is doing. Counters since the start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WriterReport {
    /// Operations that wait.
    pub queued: u64,
    /// Syncs.
    pub syncs: u64,
    /// Operations written.
    pub ops: u64,
    /// Time in write and sync together, in microseconds.
    pub busy_micros: u64,
    /// The longest write and sync since the last report, in microseconds.
    pub slowest_micros: u64,
    /// What the log takes on disk, in bytes.
    pub disk_bytes: u64,
}

/// A handle to the writer. Clones share it; it ends when it is closed, or when the last is gone and its queue is empty.
#[derive(Clone, Debug)]
pub(super) struct Writer {
    queue: Queue,
    shared: Arc<Shared>,
}

#[derive(Clone, Debug)]
enum Queue {
    Thread(mpsc::Sender<Job>),
    #[cfg(any(test, feature = "test-util"))]
    Task(tokio::sync::mpsc::UnboundedSender<Job>),
}

#[derive(Debug)]
struct Shared {
    queued: AtomicU64,
    syncs: AtomicU64,
    ops: AtomicU64,
    busy_micros: AtomicU64,
    slowest_micros: AtomicU64,
    disk_bytes: AtomicU64,
    failure: watch::Sender<Option<String>>,
}

struct Job {
    ops: Vec<WriteOp>,
    done: Done,
}

/// Who is told when a job is on disk.
enum Done {
    Consensus(LogFlushed<TypeConfig>),
    Durability(u64),
    Caller(oneshot::Sender<Result<(), LogError>>),
    Nobody,
    /// Ends the writer: told when everything before it is on disk or has failed, and the backend has been let go.
    End(oneshot::Sender<()>),
}

impl Writer {
    pub(super) fn start(backend: Box<dyn LogBackend>, driver: WriterDriver, durability: Durability) -> Self {
        let shared = Arc::new(Shared {
            queued: AtomicU64::new(0),
            syncs: AtomicU64::new(0),
            ops: AtomicU64::new(0),
            busy_micros: AtomicU64::new(0),
            slowest_micros: AtomicU64::new(0),
            disk_bytes: AtomicU64::new(backend.disk_bytes()),
            failure: watch::Sender::new(None),
        });
        let group = Group { backend, durability, shared: shared.clone(), riders: Vec::new() };
        let queue = match driver {
            WriterDriver::Thread => {
                let (queue, jobs) = mpsc::channel();
                std::thread::Builder::new()
                    .name("log-writer".into())
                    .spawn(move || group.run_guarded(&jobs))
                    .expect("a process that starts has room for a thread");
                Queue::Thread(queue)
            }
            #[cfg(any(test, feature = "test-util"))]
            WriterDriver::Task(sync_takes) => {
                let (queue, jobs) = tokio::sync::mpsc::unbounded_channel();
                tokio::spawn(group.run_task(jobs, sync_takes));
                Queue::Task(queue)
            }
        };
        Self { queue, shared }
    }

    /// Entries of another leader: consensus hears of them when they are on disk.
    pub(super) fn append(&self, entries: Vec<EntryRecord>, callback: LogFlushed<TypeConfig>) {
        self.push(entries.into_iter().map(WriteOp::Append).collect(), Done::Consensus(callback));
    }

    /// Entries of this leader: the account of what is safe hears of them when they are on disk.
    pub(super) fn append_unsafe(&self, entries: Vec<EntryRecord>, ticket: u64) {
        self.push(entries.into_iter().map(WriteOp::Append).collect(), Done::Durability(ticket));
    }

    /// Something that rides along with the next write.
    pub(super) fn write_later(&self, op: WriteOp) {
        self.push(vec![op], Done::Nobody);
    }

    /// Something that the caller waits for.
    pub(super) async fn write_and_wait(&self, op: WriteOp) -> Result<(), LogError> {
        let (done, wait) = oneshot::channel();
        self.push(vec![op], Done::Caller(done));
        wait.await.unwrap_or_else(|_| Err(LogError::Poisoned("the log writer has ended".into())))
    }

    /// Ends the writer once everything pushed so far is on disk or has failed, and lets the backend go, whoever still
    /// holds a handle. What is pushed later is refused.
    pub(super) async fn close(&self) {
        let (done, wait) = oneshot::channel();
        self.push(Vec::new(), Done::End(done));
        // An error says that it has ended already.
        let _ = wait.await;
    }

    pub(super) async fn failed(&self) -> String {
        let mut failure = self.shared.failure.subscribe();
        match failure.wait_for(Option::is_some).await {
            Ok(reason) => reason.clone().unwrap_or_default(),
            Err(_) => std::future::pending().await,
        }
    }

    pub(super) fn disk_bytes(&self) -> u64 {
        self.shared.disk_bytes.load(Ordering::Relaxed)
    }

    pub(super) fn report(&self) -> WriterReport {
        let shared = &self.shared;
        WriterReport {
            queued: shared.queued.load(Ordering::Relaxed),
            syncs: shared.syncs.load(Ordering::Relaxed),
            ops: shared.ops.load(Ordering::Relaxed),
            busy_micros: shared.busy_micros.load(Ordering::Relaxed),
            slowest_micros: shared.slowest_micros.swap(0, Ordering::Relaxed),
            disk_bytes: self.disk_bytes(),
        }
    }

    fn push(&self, ops: Vec<WriteOp>, done: Done) {
        self.shared.queued.fetch_add(ops.len() as u64, Ordering::Relaxed);
        let job = Job { ops, done };
        // The writer ends early only after a failure, of which everybody hears; a job that comes later is dropped.
        match &self.queue {
            Queue::Thread(queue) => drop(queue.send(job)),
            #[cfg(any(test, feature = "test-util"))]
            Queue::Task(queue) => drop(queue.send(job)),
        }
    }
}

/// The writer itself.
struct Group {
    backend: Box<dyn LogBackend>,
    durability: Durability,
    shared: Arc<Shared>,
    /// Operations that nobody waits for, not written yet.
    riders: Vec<WriteOp>,
}

/// What is written together.
#[derive(Default)]
struct Gathered {
    jobs: Vec<Job>,
    ops: usize,
    /// The last job was an [`Done::End`].
    end: Option<oneshot::Sender<()>>,
}

impl Gathered {
    /// Takes the first job, if any, and whatever has queued up behind it.
    fn gather(first: Option<Job>, mut next: impl FnMut() -> Option<Job>) -> Self {
        let mut gathered = Self::default();
        let mut job = first;
        while let Some(taken) = job.or_else(&mut next) {
            job = None;
            gathered.ops += taken.ops.len();
            match taken.done {
                Done::End(done) => {
                    gathered.end = Some(done);
                    break;
                }
                _ => gathered.jobs.push(taken),
            }
            if gathered.ops >= GROUP_OPS_MAX {
                break;
            }
        }
        gathered
    }
}

impl Group {
    /// A panic (sled has some) is a failed disk: nobody may wait for ever for a writer that is gone.
    fn run_guarded(self, jobs: &mpsc::Receiver<Job>) {
        let (durability, shared) = (self.durability.clone(), self.shared.clone());
        let run = AssertUnwindSafe(|| self.run_thread(jobs));
        if catch_unwind(run).is_err() {
            let reason = "the log's writer has panicked, see above";
            tracing::error!(reason, "the log's disk has failed, this node stops");
            durability.fail();
            shared.failure.send_replace(Some(reason.to_owned()));
        }
    }

    fn run_thread(mut self, jobs: &mpsc::Receiver<Job>) {
        loop {
            let job = if self.riders.is_empty() {
                jobs.recv().map_err(|_| mpsc::RecvTimeoutError::Disconnected)
            } else {
                jobs.recv_timeout(RIDE_ALONG_MAX)
            };
            let first = match job {
                Ok(job) => Some(job),
                Err(mpsc::RecvTimeoutError::Timeout) => None,
                Err(mpsc::RecvTimeoutError::Disconnected) => break,
            };
            let alone = first.is_none();
            let Gathered { jobs: group, end, .. } = Gathered::gather(first, || jobs.try_recv().ok());
            if self.write_group(group, alone || end.is_some()).is_err() {
                self.tell_the_rest(jobs.iter());
                return;
            }
            if let Some(end) = end {
                self.end(end);
                return;
            }
        }
        // Every handle is gone: an orderly end. A failure is in the log, and nobody is left to tell.
        let _ = self.write_group(Vec::new(), true);
    }

    #[cfg(any(test, feature = "test-util"))]
    async fn run_task(mut self, mut jobs: tokio::sync::mpsc::UnboundedReceiver<Job>, sync_takes: Duration) {
        loop {
            let job = if self.riders.is_empty() {
                Ok(jobs.recv().await)
            } else {
                tokio::time::timeout(RIDE_ALONG_MAX, jobs.recv()).await
            };
            let first = match job {
                Ok(Some(job)) => Some(job),
                Ok(None) => break,
                Err(_) => None,
            };
            let alone = first.is_none();
            tokio::time::sleep(sync_takes).await;
            let Gathered { jobs: group, end, .. } = Gathered::gather(first, || jobs.try_recv().ok());
            if self.write_group(group, alone || end.is_some()).is_err() {
                jobs.close();
                self.tell_the_rest(std::iter::from_fn(|| jobs.try_recv().ok()));
                return;
            }
            if let Some(end) = end {
                self.end(end);
                return;
            }
        }
        let _ = self.write_group(Vec::new(), true);
    }

    /// Lets the backend go, then says so.
    fn end(self, done: oneshot::Sender<()>) {
        drop(self);
        let _ = done.send(());
    }

    /// Writes a group and tells everybody in it. Operations that nobody waits for are put off while they are alone,
    /// unless `now`.
    fn write_group(&mut self, group: Vec<Job>, now: bool) -> Result<(), ()> {
        let somebody_waits = group.iter().any(|job| !matches!(job.done, Done::Nobody));
        let mut ops = std::mem::take(&mut self.riders);
        let mut waiting = Vec::with_capacity(group.len());
        for job in group {
            self.shared.queued.fetch_sub(job.ops.len() as u64, Ordering::Relaxed);
            ops.extend(job.ops);
            waiting.push(job.done);
        }
        if !somebody_waits && !now {
            self.riders = ops;
            return Ok(());
        }
        let began = Instant::now();
        let mut result = if ops.is_empty() { Ok(()) } else { self.write_and_sync(&ops) };
        if result.is_err() && planted!("failed-sync-tried-again") {
            result = self.write_and_sync(&ops);
        }
        if let Err(error) = result {
            tracing::error!(%error, "the log's disk has failed, this node stops");
            self.durability.fail();
            for done in waiting {
                done.tell(&self.durability, Err(error.clone()));
            }
            self.shared.failure.send_replace(Some(error.to_string()));
            return Err(());
        }
        let micros = u64::try_from(began.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.shared.syncs.fetch_add(1, Ordering::Relaxed);
        self.shared.ops.fetch_add(ops.len() as u64, Ordering::Relaxed);
        self.shared.busy_micros.fetch_add(micros, Ordering::Relaxed);
        self.shared.slowest_micros.fetch_max(micros, Ordering::Relaxed);
        self.shared.disk_bytes.store(self.backend.disk_bytes(), Ordering::Relaxed);
        failpoint!("log::before_tell");
        for done in waiting {
            done.tell(&self.durability, Ok(()));
        }
        failpoint!("log::after_tell");
        Ok(())
    }

    fn write_and_sync(&mut self, ops: &[WriteOp]) -> Result<(), LogError> {
        failpoint!("log::before_write", |_| Err(LogError::io("log", "injected")));
        self.backend.write(ops)?;
        failpoint!("log::before_sync", |_| Err(LogError::io("log", "injected")));
        self.backend.sync()?;
        failpoint!("log::after_sync");
        Ok(())
    }

    /// After a failure: whoever still comes hears that nothing was written.
    fn tell_the_rest(&self, jobs: impl Iterator<Item = Job>) {
        let reason = self.shared.failure.borrow().clone().unwrap_or_default();
        for job in jobs {
            job.done.tell(&self.durability, Err(LogError::Poisoned(reason.clone())));
        }
    }
}

impl Done {
    fn tell(self, durability: &Durability, result: Result<(), LogError>) {
        match self {
            Self::Consensus(callback) => callback.log_io_completed(result.map_err(Into::into)),
            Self::Durability(ticket) => {
                if result.is_ok() {
                    durability.synced(ticket);
                }
            }
            // Whoever has stopped waiting does not need to know.
            Self::Caller(done) => drop(done.send(result)),
            Self::Nobody => {}
            // It comes here only after a failure; in order, the writer says it itself.
            Self::End(done) => drop(done.send(())),
        }
    }
}
