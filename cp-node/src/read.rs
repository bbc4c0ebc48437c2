//! Linearizable reads: a read index for all that wait.
//!
//! The leader asks a quorum whether it still leads, once for everybody who asked before it began; a follower asks the
//! leader. Then the reader waits until its own node has applied that far. There are no leases: no clock can make a read
//! stale.

use std::sync::Arc;
use std::time::Duration;

use daemon::planted;
use openraft::error::{CheckIsLeaderError, RaftError};
use protocol::grpc::{ReadIndexRequest, read_index_reply};
use raft_store::Applied;
use raft_store::types::{NodeId, Raft};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::node::Tasks;
use crate::raft::{Channels, LinkClass, Peering};

/// Reads that wait for one round, at most; more are refused.
const WAITING_MAX: usize = 8192;

/// Between rounds that failed, while somebody still waits.
const PAUSE: Duration = Duration::from_millis(30);

/// How long the leader may take to answer a follower.
const ASK_MAX: Duration = Duration::from_millis(500);

/// Why a read cannot be served.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct NoQuorum(pub(crate) String);

/// This node does not lead, or cannot show that it does.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct NotLeader {
    pub(crate) reason: String,
    pub(crate) leader: Option<NodeId>,
}

/// Serves read indexes. Clones share it.
#[derive(Clone)]
pub(crate) struct ReadIndex {
    waiting: mpsc::Sender<oneshot::Sender<u64>>,
    applied: watch::Receiver<Applied>,
    failure: Arc<std::sync::Mutex<String>>,
}

struct Rounds {
    peering: Peering,
    raft: Raft,
    channels: Channels,
    failure: Arc<std::sync::Mutex<String>>,
}

impl ReadIndex {
    /// Starts on the current runtime.
    pub(crate) fn start(
        tasks: &Tasks,
        peering: Peering,
        raft: Raft,
        channels: Channels,
        applied: watch::Receiver<Applied>,
    ) -> Self {
        let (waiting, queue) = mpsc::channel(WAITING_MAX);
        let failure = Arc::new(std::sync::Mutex::new("no leader is known".to_owned()));
        let rounds = Rounds { peering, raft, channels, failure: failure.clone() };
        tasks.spawn("read index", rounds.run(queue));
        Self { waiting, applied, failure }
    }

    /// Returns when this node has applied everything that was committed before the call.
    ///
    /// # Errors
    /// [`NoQuorum`] when that cannot be known before `deadline`.
    pub(crate) async fn linearizable(&self, deadline: Instant) -> Result<(), NoQuorum> {
        if planted!("read-without-index") {
            return Ok(());
        }
        let (tell, told) = oneshot::channel();
        self.waiting.try_send(tell).map_err(|_| NoQuorum("too many reads wait at this node".to_owned()))?;
        let index = match tokio::time::timeout_at(deadline, told).await {
            Ok(Ok(index)) => index,
            Ok(Err(_)) => return Err(NoQuorum("this node is stopping".to_owned())),
            Err(_) => return Err(NoQuorum(self.failure.lock().expect("no code panics while it holds it").clone())),
        };
        let mut applied = self.applied.clone();
        let reached = applied.wait_for(|applied| applied.log_id.map_or(0, |id| id.index + 1) >= index);
        match tokio::time::timeout_at(deadline, reached).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(NoQuorum("this node is stopping".to_owned())),
            Err(_) => Err(NoQuorum("this node lags behind its leader".to_owned())),
        }
    }
}

impl Rounds {
    async fn run(self, mut queue: mpsc::Receiver<oneshot::Sender<u64>>) {
        while let Some(first) = queue.recv().await {
            let mut group = vec![first];
            // Whoever comes while a round is under way waits for the next: its read began after the round did.
            while let Ok(more) = queue.try_recv() {
                group.push(more);
            }
            while !group.is_empty() {
                match self.round().await {
                    Ok(index) => {
                        for tell in group.drain(..) {
                            // Whoever has stopped waiting does not need to know.
                            let _ = tell.send(index);
                        }
                    }
                    Err(reason) => {
                        *self.failure.lock().expect("no code panics while it holds it") = reason;
                        tokio::time::sleep(PAUSE).await;
                        group.retain(|tell| !tell.is_closed());
                    }
                }
            }
        }
    }

    /// The number of log entries that must be applied.
    async fn round(&self) -> Result<u64, String> {
        let (leader, address) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            let leader = metrics.current_leader.ok_or("no leader is known")?;
            let member = metrics.membership_config.nodes().find(|(id, _)| **id == leader);
            (leader, member.map(|(_, member)| member.peer_address.clone()))
        };
        if leader == self.peering.node {
            return leader_index(&self.raft).await.map_err(|not_leader| not_leader.reason);
        }
        let address = address.ok_or("the leader is no member any more")?;
        let route = self.peering.route(leader);
        let mut client = self.channels.peer(&address, LinkClass::Consensus);
        let call = client.read_index(ReadIndexRequest { route: Some(route) });
        let reply = tokio::time::timeout(ASK_MAX, call)
            .await
            .map_err(|_| format!("the leader, node {leader}, did not answer within {ASK_MAX:?}"))?
            .map_err(|status| format!("the leader, node {leader}, cannot be reached: {}", status.message()))?;
        match reply.into_inner().kind {
            Some(read_index_reply::Kind::LogIndex(index)) => Ok(index),
            Some(read_index_reply::Kind::NotLeader(not)) => Err(format!("node {leader}: {}", not.reason)),
            None => Err(format!("node {leader} answered nothing")),
        }
    }
}

/// The number of log entries that a linearizable read must have seen, from this node as the leader.
pub(crate) async fn leader_index(raft: &Raft) -> Result<u64, NotLeader> {
    match raft.get_read_log_id().await {
        Ok((read, _)) => Ok(read.map_or(0, |id| id.index + 1)),
        Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(forward))) => {
            Err(NotLeader { reason: "this node does not lead".to_owned(), leader: forward.leader_id })
        }
        Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(_))) => {
            Err(NotLeader { reason: "no quorum confirms that this node leads".to_owned(), leader: None })
        }
        Err(RaftError::Fatal(e)) => Err(NotLeader { reason: e.to_string(), leader: None }),
    }
}
