//! The leader's batcher: everything that waits goes into one log entry.
//!
//! There is no timer: while some entries are under way, commands gather; the next entry takes them all. Under one client
//! an entry carries one command at once; under many it carries many.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use openraft::error::{ClientWriteError, RaftError};
use protocol::Outcome;
use protocol::codec;
use protocol::command::{Batch, Command, LOG_ENTRY_BYTES_MAX};
use raft_store::types::{LogPayload, NodeId, Outcomes, Raft};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::Undecided;
use crate::node::Tasks;

/// Entries under way at once. More keep the disk and the network busy at the same time; too many make entries small.
const ENTRIES_UNDER_WAY_MAX: usize = 4;

/// Commands that wait for an entry, at most. Beyond it they are refused, not proposed.
const QUEUE_MAX: usize = 8192;

/// How long consensus may take over one entry. It may never answer when a purge takes the entry away from under it.
const ENTRY_MAX: Duration = Duration::from_secs(10);

/// How often a batcher that waits looks whether it still may propose.
const STANDING_CHECK: Duration = Duration::from_millis(50);

/// A handle to the batcher. Clones share it.
#[derive(Clone)]
pub(crate) struct Batcher {
    queue: mpsc::Sender<Job>,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    commands: AtomicU64,
    entries: AtomicU64,
    /// Set when this node is handing its leadership over.
    closed: AtomicBool,
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct BatcherReport {
    /// Commands that were put into entries.
    pub(crate) commands: u64,
    /// Entries proposed.
    pub(crate) entries: u64,
    /// Commands waiting.
    pub(crate) waiting: u64,
}

struct Job {
    command: Command,
    answer: oneshot::Sender<Result<Outcome, Undecided>>,
}

impl Batcher {
    /// Starts the batcher on the current runtime. It ends with the last handle.
    ///
    /// `quorum_age_max` is how long ago a leader may have heard from a quorum and still take commands.
    pub(crate) fn start(tasks: &Tasks, node: NodeId, raft: Raft, quorum_age_max: Duration) -> Self {
        let (queue, jobs) = mpsc::channel(QUEUE_MAX);
        let shared = Arc::new(Shared::default());
        let worker =
            Worker { node, raft, quorum_age_max, shared: shared.clone(), last_entry: None, under_way: JoinSet::new() };
        tasks.spawn("batcher", worker.run(jobs));
        Self { queue, shared }
    }

    /// Hands a command in. It is proposed in the order of these calls; the returned future only waits.
    pub(crate) fn submit(&self, command: Command) -> impl Future<Output = Result<Outcome, Undecided>> + Send + 'static {
        let (answer, wait) = oneshot::channel();
        let sent = self.queue.try_send(Job { command, answer });
        async move {
            if let Err(e) = sent {
                let reason = match e {
                    mpsc::error::TrySendError::Full(_) => "too many commands wait to be proposed",
                    mpsc::error::TrySendError::Closed(_) => "this node is stopping",
                };
                return Err(Undecided::NotProposed { reason: reason.to_owned(), leader: None });
            }
            wait.await.unwrap_or_else(|_| Err(Undecided::Unknown("this node is stopping".to_owned())))
        }
    }

    /// Proposes nothing more, for nobody: what still comes is refused, and may go to the next leader.
    pub(crate) fn close(&self) {
        self.shared.closed.store(true, Ordering::Relaxed);
    }

    /// Takes commands again.
    pub(crate) fn open(&self) {
        self.shared.closed.store(false, Ordering::Relaxed);
    }

    pub(crate) fn report(&self) -> BatcherReport {
        BatcherReport {
            commands: self.shared.commands.load(Ordering::Relaxed),
            entries: self.shared.entries.load(Ordering::Relaxed),
            waiting: (QUEUE_MAX - self.queue.capacity()) as u64,
        }
    }
}

struct Worker {
    node: NodeId,
    raft: Raft,
    quorum_age_max: Duration,
    shared: Arc<Shared>,
    /// The term and time of this leader's last entry: what the log's own time goes on by.
    last_entry: Option<(u64, Instant)>,
    under_way: JoinSet<()>,
}

/// What stands behind a proposal: whether this node may propose at all.
struct Standing {
    term: u64,
}

impl Worker {
    async fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut carried = None;
        loop {
            let first = match carried.take() {
                Some(job) => job,
                None => match jobs.recv().await {
                    Some(job) => job,
                    None => break,
                },
            };
            self.wait_for_room().await;
            let mut group = Group::default();
            carried = group.fill(first, &mut jobs);
            self.propose(group);
        }
        self.under_way.join_all().await;
    }

    /// Waits until another entry may go out. Without a quorum those under way do not end: then there is nothing to wait
    /// for, and what waits is refused at once.
    async fn wait_for_room(&mut self) {
        while self.under_way.len() >= ENTRIES_UNDER_WAY_MAX && self.standing().is_ok() {
            let _ = tokio::time::timeout(STANDING_CHECK, self.under_way.join_next()).await;
        }
        while self.under_way.try_join_next().is_some() {}
    }

    fn propose(&mut self, group: Group) {
        let standing = match self.standing() {
            Ok(standing) => standing,
            Err(undecided) => return group.answer_all(&Err(undecided)),
        };
        let now = Instant::now();
        let elapsed = match self.last_entry {
            Some((term, at)) if term == standing.term => now.duration_since(at),
            _ => Duration::ZERO,
        };
        self.last_entry = Some((standing.term, now));
        self.shared.commands.fetch_add(group.commands.len() as u64, Ordering::Relaxed);
        self.shared.entries.fetch_add(1, Ordering::Relaxed);
        let batch =
            Batch { elapsed_millis: u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX), commands: group.commands };
        let answers = group.answers;
        let payload = match codec::seal(&batch) {
            Ok(frame) => LogPayload(frame.into()),
            Err(e) => {
                let undecided = Undecided::NotProposed { reason: e.to_string(), leader: None };
                return answers.into_iter().for_each(|answer| drop(answer.send(Err(undecided.clone()))));
            }
        };
        let raft = self.raft.clone();
        self.under_way.spawn(async move {
            match write(&raft, payload).await {
                Ok(Outcomes(outcomes)) => {
                    // Whoever has stopped waiting does not need to know.
                    for (answer, outcome) in answers.into_iter().zip(outcomes) {
                        drop(answer.send(Ok(outcome)));
                    }
                }
                Err(undecided) => answers.into_iter().for_each(|answer| drop(answer.send(Err(undecided.clone())))),
            }
        });
    }

    /// Whether this node leads and has heard from a quorum lately: a proposal without one would hang.
    fn standing(&self) -> Result<Standing, Undecided> {
        if self.shared.closed.load(Ordering::Relaxed) {
            let reason = "this node is handing its leadership over".to_owned();
            return Err(Undecided::NotProposed { reason, leader: None });
        }
        let (leader, term, quorum_age) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            (metrics.current_leader, metrics.current_term, metrics.millis_since_quorum_ack)
        };
        if leader != Some(self.node) {
            return Err(Undecided::NotProposed { reason: "this node does not lead".to_owned(), leader });
        }
        match quorum_age.map(Duration::from_millis) {
            Some(age) if age > self.quorum_age_max => Err(Undecided::NotProposed {
                reason: format!("no contact with a quorum for {} ms", age.as_millis()),
                leader: None,
            }),
            _ => Ok(Standing { term }),
        }
    }
}

async fn write(raft: &Raft, payload: LogPayload) -> Result<Outcomes, Undecided> {
    let written = tokio::time::timeout(ENTRY_MAX, raft.client_write(payload)).await;
    match written {
        Ok(Ok(written)) => Ok(written.data),
        // Either it was never appended, or it was taken back from this node's log by a leader that does not have it.
        Ok(Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward)))) => {
            Err(Undecided::NotProposed { reason: "this node does not lead".to_owned(), leader: forward.leader_id })
        }
        Ok(Err(e)) => Err(Undecided::Unknown(e.to_string())),
        Err(_) => Err(Undecided::Unknown(format!("consensus did not answer within {ENTRY_MAX:?}"))),
    }
}

/// Commands that go into one entry.
#[derive(Default)]
struct Group {
    commands: Vec<Command>,
    answers: Vec<oneshot::Sender<Result<Outcome, Undecided>>>,
}

impl Group {
    /// Takes the first job and everything that waits behind it, up to the bound of an entry; a job that no longer fits is
    /// given back.
    fn fill(&mut self, first: Job, jobs: &mut mpsc::Receiver<Job>) -> Option<Job> {
        let mut bytes = codec::encoded_bytes(&first.command);
        self.push(first);
        while let Ok(job) = jobs.try_recv() {
            bytes += codec::encoded_bytes(&job.command);
            if bytes > LOG_ENTRY_BYTES_MAX {
                return Some(job);
            }
            self.push(job);
        }
        None
    }

    fn push(&mut self, job: Job) {
        self.commands.push(job.command);
        self.answers.push(job.answer);
    }

    fn answer_all(self, result: &Result<Outcome, Undecided>) {
        self.answers.into_iter().for_each(|answer| drop(answer.send(result.clone())));
    }
}
