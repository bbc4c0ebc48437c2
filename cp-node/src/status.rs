//! How this node is doing: for peers, for probes, for operators.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use mtls::Credentials;
use openraft::ServerState;
use protocol::Position;
use protocol::grpc::DescribeReply;
use raft_store::Applied;
use raft_store::feed::Feed;
use raft_store::log::LogStore;
use raft_store::types::{NodeId, Raft};
use serde::Serialize;
use tokio::sync::watch;

use crate::archiver::{ArchiveStatus, Archiver};
use crate::feed::Fleet;
use crate::raft::{LeaderContact, Peering, Reach};
use crate::record::{Record, RecordStatus};

/// Everything that a description of this node is made from. Clones share it.
#[derive(Clone)]
pub(crate) struct Describe {
    pub(crate) peering: Peering,
    pub(crate) name: String,
    pub(crate) region: String,
    pub(crate) raft: Raft,
    pub(crate) log: LogStore,
    pub(crate) applied: watch::Receiver<Applied>,
    pub(crate) feed: Feed,
    pub(crate) fleet: Fleet,
    pub(crate) contact: LeaderContact,
    pub(crate) reach: Reach,
    /// Set when the node is on its way down.
    pub(crate) draining: Arc<AtomicBool>,
    /// The archiver, once it has started, where there is an archive.
    pub(crate) archiver: Arc<OnceLock<Archiver>>,
    pub(crate) record: Record,
    /// Who this node is, where it has a certificate.
    pub(crate) credentials: Option<Credentials>,
}

/// A node as `/status` and the Admin API show it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct NodeStatus {
    pub(crate) cluster: String,
    pub(crate) node_id: NodeId,
    pub(crate) name: String,
    pub(crate) region: String,
    pub(crate) version: String,
    /// leader, follower, learner, candidate, stopped
    pub(crate) role: String,
    pub(crate) leader: Option<NodeId>,
    pub(crate) term: u64,
    pub(crate) last_log_index: u64,
    pub(crate) applied_index: u64,
    pub(crate) epoch: u64,
    pub(crate) revision: u64,
    pub(crate) digest: String,
    /// Bytes of the log on disk.
    pub(crate) disk_bytes: u64,
    /// Proxies connected to it.
    pub(crate) streams: u64,
    /// The archive, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) archive: Option<ArchiveStatus>,
    /// The durable record.
    pub(crate) record: RecordStatus,
}

impl Describe {
    /// This node, as a peer sees it.
    pub(crate) fn reply(&self) -> DescribeReply {
        let status = self.status();
        let config = self.feed.config();
        DescribeReply {
            cluster: status.cluster,
            node_id: status.node_id,
            name: status.name,
            region: status.region,
            version: status.version,
            role: status.role,
            leader: status.leader.unwrap_or(0),
            term: status.term,
            last_log_index: status.last_log_index,
            applied_index: status.applied_index,
            position: Some(config.position().into()),
            digest: config.digest().0.to_vec().into(),
            disk_bytes: status.disk_bytes,
            streams: status.streams,
            members: self.raft.metrics().borrow().membership_config.nodes().map(|(id, _)| *id).collect(),
        }
    }

    /// This node.
    pub(crate) fn status(&self) -> NodeStatus {
        let (role, leader, term, last_log_index, running) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            let running = metrics.running_state.is_ok();
            (metrics.state, metrics.current_leader, metrics.current_term, metrics.last_log_index, running)
        };
        let role = match role {
            _ if !running => "stopped",
            ServerState::Leader => "leader",
            ServerState::Follower => "follower",
            ServerState::Learner => "learner",
            ServerState::Candidate => "candidate",
            ServerState::Shutdown => "stopped",
        };
        let config = self.feed.config();
        let Position { epoch, revision } = config.position();
        NodeStatus {
            cluster: self.peering.cluster.to_string(),
            node_id: self.peering.node,
            name: self.name.clone(),
            region: self.region.clone(),
            version: daemon::build::VERSION.to_owned(),
            role: role.to_owned(),
            leader,
            term,
            last_log_index: last_log_index.unwrap_or(0),
            applied_index: self.applied.borrow().log_id.map_or(0, |id| id.index),
            epoch: epoch.number,
            revision,
            digest: config.digest().to_string(),
            disk_bytes: self.log.disk_bytes(),
            streams: self.fleet.connected() as u64,
            archive: self.archiver.get().map(|archiver| archiver.report().status()),
            record: self.record.status(),
        }
    }

    /// Whether this node can serve writes and linearizable reads: otherwise why not. A load balancer in front of the Admin
    /// API asks this; proxies and traffic never depend on it.
    pub(crate) fn ready(&self) -> Result<(), String> {
        if self.draining.load(Ordering::Relaxed) {
            return Err("this node is stopping".to_owned());
        }
        let (leader, quorum_age, running) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            let running = metrics.running_state.as_ref().map_err(ToString::to_string).copied();
            (metrics.current_leader, metrics.millis_since_quorum_ack, running)
        };
        running.map_err(|e| format!("consensus has stopped: {e}"))?;
        let Some(leader) = leader else { return Err("no leader is known".to_owned()) };
        let (age, of) = match quorum_age {
            Some(age) if leader == self.peering.node => (Duration::from_millis(age), "a quorum"),
            // A leader that has just been elected has a quorum's word.
            None if leader == self.peering.node => (Duration::ZERO, "a quorum"),
            _ => (self.contact.age(), "the leader"),
        };
        if age > Duration::from_millis(2 * self.raft.config().election_timeout_max) {
            return Err(format!("no contact with {of} for {} ms", age.as_millis()));
        }
        Ok(())
    }
}
