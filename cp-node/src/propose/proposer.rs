//! A node's own proposals: named, sent to whoever leads, and tried again until their deadline.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use protocol::codec;
use protocol::command::{Command, LOG_ENTRY_BYTES_MAX, Origin};
use protocol::grpc::{ProposeRequest, propose_result};
use protocol::seam::Random;
use protocol::{Outcome, Rejection};
use raft_store::types::{NodeId, Raft};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::{Batcher, ProposeError, Undecided};
use crate::links;
use crate::node::Tasks;
use crate::raft::{Channels, LinkClass, Peering};

/// Commands of this node that may be under way at once. More are refused: the log remembers the outcome of each.
const UNDER_WAY_MAX: usize = 4096;

/// Commands that go to the leader in one message, at most; together they stay below an entry's bound.
const FORWARD_COMMANDS_MAX: usize = 256;

/// Messages to the leader under way at once.
const FORWARDS_UNDER_WAY_MAX: usize = 4;

/// How long one message to the leader may take.
const FORWARD_MAX: Duration = Duration::from_millis(1500);

/// Between attempts, at first and at most; the real pause is a random part of it.
const PAUSE_FIRST: Duration = Duration::from_millis(20);
const PAUSE_MAX: Duration = Duration::from_millis(200);

/// A node's own proposals. Clones share them.
#[derive(Clone)]
pub(crate) struct Proposer {
    shared: Arc<Shared>,
}

struct Shared {
    node: NodeId,
    boot: u64,
    raft: Raft,
    batcher: Batcher,
    forwards: mpsc::Sender<Forward>,
    random: Arc<dyn Random>,
    names: Mutex<Names>,
    retries: AtomicU64,
    forwarded: Arc<AtomicU64>,
}

/// The names given to commands since this boot.
#[derive(Default)]
struct Names {
    next: u64,
    under_way: BTreeSet<u64>,
    /// Set when this node is stopping.
    closed: bool,
}

/// A command on its way to the leader.
struct Forward {
    command: Command,
    answer: oneshot::Sender<Result<Outcome, Undecided>>,
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ProposerReport {
    /// Commands under way.
    pub(crate) under_way: u64,
    /// Attempts after the first.
    pub(crate) retries: u64,
    /// Commands sent to another node.
    pub(crate) forwarded: u64,
}

impl Proposer {
    /// Starts on the current runtime.
    pub(crate) fn start(
        tasks: &Tasks,
        peering: Peering,
        boot: u64,
        raft: Raft,
        batcher: Batcher,
        channels: Channels,
        random: Arc<dyn Random>,
    ) -> Self {
        let (forwards, queue) = mpsc::channel(UNDER_WAY_MAX);
        let forwarded = Arc::new(AtomicU64::new(0));
        let node = peering.node;
        let forwarder = Forwarder { peering, raft: raft.clone(), channels, forwarded: forwarded.clone() };
        tasks.spawn("forwarder", forwarder.run(queue));
        let shared = Shared {
            node,
            boot,
            raft,
            batcher,
            forwards,
            random,
            names: Mutex::default(),
            retries: AtomicU64::new(0),
            forwarded,
        };
        Self { shared: Arc::new(shared) }
    }

    /// The outcome of a command, at the latest at `deadline`. The command fits into a log entry ([`Self::fits`]).
    ///
    /// # Errors
    /// [`ProposeError`]; its variant says whether the command may still be carried out.
    pub(crate) async fn propose(&self, mut command: Command, deadline: Instant) -> Result<Outcome, ProposeError> {
        let name = self.take_name()?;
        let mut unknown = None;
        let mut pause = PAUSE_FIRST;
        loop {
            command.origin = Some(name.origin());
            let attempt = tokio::time::timeout_at(deadline, self.attempt(command.clone())).await;
            match attempt {
                // The log has forgotten what it came to. That can only be when it was carried out by an earlier attempt.
                Ok(Ok(Outcome::Refused { rejection: Rejection::Forgotten, .. })) => {
                    return Err(ProposeError::Unknown("its outcome is no longer remembered".to_owned()));
                }
                Ok(Ok(outcome)) => return Ok(outcome),
                Ok(Err(Undecided::NotProposed { reason, .. })) if Instant::now() + pause >= deadline => {
                    return Err(unknown.unwrap_or(ProposeError::NotProposed(reason)));
                }
                Ok(Err(Undecided::NotProposed { .. })) => {}
                Ok(Err(Undecided::Unknown(reason))) => unknown = Some(ProposeError::Unknown(reason)),
                Err(_) => {
                    return Err(ProposeError::Unknown("it was not decided before the request's deadline".to_owned()));
                }
            }
            if self.names().closed || Instant::now() >= deadline {
                let stopping = || ProposeError::NotProposed("this node is stopping".to_owned());
                return Err(unknown.unwrap_or_else(stopping));
            }
            self.shared.retries.fetch_add(1, Ordering::Relaxed);
            self.wait_for_leader(pause, deadline).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Whether a command fits into a log entry; if not, it must be staged.
    pub(crate) fn fits(command: &Command) -> bool {
        // Room for the name that it gets on its way.
        codec::encoded_bytes(command) + 64 <= LOG_ENTRY_BYTES_MAX
    }

    /// No new proposals; those under way may end.
    pub(crate) fn close(&self) {
        self.names().closed = true;
    }

    pub(crate) fn report(&self) -> ProposerReport {
        ProposerReport {
            under_way: self.names().under_way.len() as u64,
            retries: self.shared.retries.load(Ordering::Relaxed),
            forwarded: self.shared.forwarded.load(Ordering::Relaxed),
        }
    }

    /// The number of this node's boot: part of the names of its stages.
    pub(crate) fn boot(&self) -> (NodeId, u64) {
        (self.shared.node, self.shared.boot)
    }

    async fn attempt(&self, command: Command) -> Result<Outcome, Undecided> {
        let leader = self.shared.raft.metrics().borrow().current_leader;
        match leader {
            Some(leader) if leader == self.shared.node => self.shared.batcher.submit(command).await,
            Some(_) => {
                let (answer, wait) = oneshot::channel();
                let stopping = || Undecided::NotProposed { reason: "this node is stopping".to_owned(), leader: None };
                self.shared.forwards.send(Forward { command, answer }).await.map_err(|_| stopping())?;
                wait.await.unwrap_or_else(|_| Err(Undecided::Unknown("this node is stopping".to_owned())))
            }
            None => Err(Undecided::NotProposed { reason: "no leader is known".to_owned(), leader: None }),
        }
    }

    /// Waits a random part of `pause`, or until another leader is known.
    async fn wait_for_leader(&self, pause: Duration, deadline: Instant) {
        let micros = u64::try_from(pause.as_micros()).unwrap_or(u64::MAX);
        let until = Instant::now() + pause / 2 + Duration::from_micros(self.shared.random.below(micros / 2 + 1));
        let mut metrics = self.shared.raft.server_metrics();
        let before = metrics.borrow_and_update().current_leader;
        let other_leader = metrics.wait_for(|now| now.current_leader.is_some() && now.current_leader != before);
        // Either way it is time to try again.
        let _ = tokio::time::timeout_at(until.min(deadline), other_leader).await;
    }

    fn take_name(&self) -> Result<Name, ProposeError> {
        let mut names = self.names();
        if names.closed {
            return Err(ProposeError::NotProposed("this node is stopping".to_owned()));
        }
        if names.under_way.len() >= UNDER_WAY_MAX {
            return Err(ProposeError::NotProposed("too many changes are under way at this node".to_owned()));
        }
        let sequence = names.next;
        names.next += 1;
        names.under_way.insert(sequence);
        Ok(Name { proposer: self.clone(), sequence })
    }

    fn names(&self) -> MutexGuard<'_, Names> {
        self.shared.names.lock().expect("no code panics while it holds the names")
    }
}

/// A name that is under way until it is dropped.
struct Name {
    proposer: Proposer,
    sequence: u64,
}

impl Name {
    fn origin(&self) -> Origin {
        let answered_below = self.proposer.names().under_way.first().copied().unwrap_or(self.sequence);
        let (node, boot) = self.proposer.boot();
        Origin { node, boot, sequence: self.sequence, answered_below }
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        self.proposer.names().under_way.remove(&self.sequence);
    }
}

/// Carries commands to the leader, many in a message.
struct Forwarder {
    peering: Peering,
    raft: Raft,
    channels: Channels,
    forwarded: Arc<AtomicU64>,
}

impl Forwarder {
    async fn run(self, mut queue: mpsc::Receiver<Forward>) {
        let this = Arc::new(self);
        let mut under_way = tokio::task::JoinSet::new();
        let mut carried = None;
        loop {
            let first = match carried.take() {
                Some(forward) => forward,
                None => match queue.recv().await {
                    Some(forward) => forward,
                    None => return,
                },
            };
            while under_way.len() >= FORWARDS_UNDER_WAY_MAX {
                let _ = under_way.join_next().await;
            }
            while under_way.try_join_next().is_some() {}
            let mut bytes = codec::encoded_bytes(&first.command);
            let mut group = vec![first];
            while group.len() < FORWARD_COMMANDS_MAX
                && let Ok(forward) = queue.try_recv()
            {
                bytes += codec::encoded_bytes(&forward.command);
                if bytes > LOG_ENTRY_BYTES_MAX {
                    carried = Some(forward);
                    break;
                }
                group.push(forward);
            }
            let this = this.clone();
            under_way.spawn(async move { this.send(group).await });
        }
    }

    async fn send(&self, group: Vec<Forward>) {
        let leader = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            metrics.current_leader.and_then(|leader| {
                let member = metrics.membership_config.nodes().find(|(id, _)| **id == leader)?.1;
                Some((leader, member.peer_address.clone()))
            })
        };
        let answer_all = |group: Vec<Forward>, undecided: Undecided| {
            group.into_iter().for_each(|forward| drop(forward.answer.send(Err(undecided.clone()))));
        };
        let Some((leader, address)) = leader else {
            return answer_all(group, Undecided::NotProposed { reason: "no leader is known".to_owned(), leader: None });
        };
        let frames: Result<Vec<_>, _> = group.iter().map(|f| codec::seal(&f.command).map(Into::into)).collect();
        let commands = match frames {
            Ok(commands) => commands,
            Err(e) => {
                return answer_all(group, Undecided::NotProposed { reason: e.to_string(), leader: None });
            }
        };
        self.forwarded.fetch_add(group.len() as u64, Ordering::Relaxed);
        let route = self.peering.route(leader);
        let mut client = self.channels.peer(&address, LinkClass::Bulk);
        let call = client.propose(ProposeRequest { route: Some(route), commands });
        let results = match tokio::time::timeout(FORWARD_MAX, call).await {
            Ok(Ok(reply)) => reply.into_inner().results,
            Ok(Err(status)) if links::was_never_sent(&status) => {
                let reason = format!("node {leader}: {}", status.message());
                return answer_all(group, Undecided::NotProposed { reason, leader: None });
            }
            // The message may have arrived before the connection was lost.
            Ok(Err(status)) => {
                return answer_all(group, Undecided::Unknown(format!("node {leader}: {}", status.message())));
            }
            Err(_) => {
                return answer_all(
                    group,
                    Undecided::Unknown(format!("node {leader} did not answer within {FORWARD_MAX:?}")),
                );
            }
        };
        let mut results = results.into_iter();
        for forward in group {
            let result = match results.next().and_then(|result| result.kind) {
                Some(propose_result::Kind::Outcome(frame)) => codec::open(&frame).map_err(|e| {
                    Undecided::Unknown(format!("node {leader} sent an outcome that does not decode: {e}"))
                }),
                Some(propose_result::Kind::NotProposed(not)) => Err(Undecided::NotProposed {
                    reason: format!("node {leader}: {}", not.reason),
                    leader: Some(not.leader).filter(|leader| *leader != 0),
                }),
                Some(propose_result::Kind::Unknown(reason)) => Err(Undecided::Unknown(reason)),
                None => Err(Undecided::Unknown(format!("node {leader} left a command unanswered"))),
            };
            // Whoever has stopped waiting does not need to know.
            drop(forward.answer.send(result));
        }
    }
}
