//! Who belongs to the cluster: nodes join as learners, become voters when they have caught up, and go for good.
//!
//! The leader changes the membership, one change at a time; any other node passes a request on to it. Ids come from the
//! log and are never given twice; a node whose disk is wiped comes back under a new one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use openraft::ChangeMembers;
use openraft::error::{ClientWriteError, RaftError};
use protocol::command::{Action, Command};
use protocol::grpc::{ChangeMembersRequest, DescribeRequest, JoinReply, JoinRequest, Route, change_members_request};
use protocol::seam::WallClock;
use protocol::snapshot::ClusterId;
use protocol::{Epoch, Outcome};
use raft_store::types::{Member, NodeId, Raft};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use tonic::Status;

use crate::propose::{ProposeError, Proposer};
use crate::raft::{Channels, LeaderContact, LinkClass};

/// How long a change of the membership may take.
const CHANGE_MAX: Duration = Duration::from_secs(10);

/// How often the leader looks whether a learner has caught up.
const PROMOTION_CHECK: Duration = Duration::from_millis(200);

/// A learner that is no more than so many entries behind has caught up.
const CAUGHT_UP_ENTRIES: u64 = 100;

/// The membership. Clones share it.
#[derive(Clone)]
pub(crate) struct Members {
    pub(crate) cluster: ClusterId,
    pub(crate) epoch: Epoch,
    pub(crate) node: NodeId,
    pub(crate) raft: Raft,
    pub(crate) proposer: Proposer,
    pub(crate) channels: Channels,
    pub(crate) clock: Arc<dyn WallClock>,
    /// One change at a time: a second one would be refused by consensus while the first is under way.
    pub(crate) one_at_a_time: Arc<Mutex<()>>,
    /// Becomes true when this node has been taken out of the cluster.
    pub(crate) left: Arc<watch::Sender<bool>>,
}

/// The leader, from this node's sight.
enum Leader {
    Me,
    At(NodeId, String),
}

impl Members {
    /// Gives a node its id and takes it in as a learner. Asking again, under the same name of its own, gives the same id.
    pub(crate) async fn join(&self, request: JoinRequest) -> Result<JoinReply, Status> {
        let uuid: [u8; 16] =
            request.uuid[..].try_into().map_err(|_| Status::invalid_argument("uuid must be sixteen bytes"))?;
        if request.peer_address.is_empty() || request.name.is_empty() {
            return Err(Status::invalid_argument("name and peer_address are needed"));
        }
        if let Leader::At(leader, address) = self.leader()? {
            let mut client = self.channels.peer(&address, LinkClass::Bulk);
            let passed_on = tokio::time::timeout(CHANGE_MAX, client.join(request)).await;
            return passed_on.map_err(|_| not_in_time(leader))?.map(tonic::Response::into_inner);
        }
        let _guard = self.one_at_a_time.lock().await;
        let node = self.enrol(uuid, &request.name).await?;
        let member = Member {
            uuid,
            name: request.name.as_str().into(),
            region: request.region.as_str().into(),
            peer_address: request.peer_address.as_str().into(),
            admin_address: request.admin_address.as_str().into(),
            feed_address: request.feed_address.as_str().into(),
            wants_vote: request.voter,
        };
        let known = self.members().into_iter().find(|(id, _)| *id == node);
        if known.is_none_or(|(_, known)| known != member) {
            self.wait(self.raft.add_learner(node, member, false)).await?;
            tracing::info!(node_id = node, name = request.name, address = request.peer_address, "a node has joined");
        }
        Ok(JoinReply {
            cluster: self.cluster.to_string(),
            node_id: node,
            epoch: self.epoch.number,
            restore_id: self.epoch.restore.0.to_vec().into(),
        })
    }

    /// Promotes, demotes or removes a node.
    pub(crate) async fn change(&self, request: ChangeMembersRequest) -> Result<(), Status> {
        let leaves = request.change == Some(change_members_request::Change::Remove(self.node));
        self.change_others(request).await?;
        if leaves {
            self.left.send_replace(true);
        }
        Ok(())
    }

    async fn change_others(&self, request: ChangeMembersRequest) -> Result<(), Status> {
        let Some(change) = request.change else { return Err(Status::invalid_argument("no change is asked for")) };
        if let Leader::At(leader, address) = self.leader()? {
            let route = Route { cluster: self.cluster.to_string(), from: self.node, to: leader };
            let passed_on = ChangeMembersRequest { route: Some(route), change: Some(change) };
            let mut client = self.channels.peer(&address, LinkClass::Bulk);
            let passed_on = tokio::time::timeout(CHANGE_MAX, client.change_members(passed_on)).await;
            return passed_on.map_err(|_| not_in_time(leader))?.map(drop);
        }
        let _guard = self.one_at_a_time.lock().await;
        let voters = self.voters();
        let is_member = |id: NodeId| self.members().iter().any(|(known, _)| *known == id);
        match change {
            change_members_request::Change::Promote(id) => {
                if !is_member(id) {
                    return Err(Status::not_found(format!("there is no node {id}")));
                }
                self.set_vote(id, true).await
            }
            change_members_request::Change::Demote(id) => {
                if !voters.contains(&id) {
                    return Err(Status::failed_precondition(format!("node {id} is no voter")));
                }
                if voters.len() == 1 {
                    return Err(Status::failed_precondition("the last voter cannot be taken away"));
                }
                self.set_vote(id, false).await
            }
            change_members_request::Change::Remove(id) => {
                if !is_member(id) {
                    return Err(Status::not_found(format!("there is no node {id}")));
                }
                if voters.contains(&id) && voters.len() == 1 {
                    return Err(Status::failed_precondition("the last voter cannot be taken away"));
                }
                self.remove(id, voters.contains(&id)).await
            }
        }
    }

    /// Everybody, with what is known of them.
    pub(crate) fn members(&self) -> Vec<(NodeId, Member)> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        metrics.membership_config.nodes().map(|(id, member)| (*id, member.clone())).collect()
    }

    /// Who votes.
    pub(crate) fn voters(&self) -> BTreeSet<NodeId> {
        self.raft.metrics().borrow().membership_config.voter_ids().collect()
    }

    /// On the leader: makes voters of learners that asked for it, once they have caught up.
    pub(crate) async fn promote_learners(self) {
        let mut ticks = tokio::time::interval(PROMOTION_CHECK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let Some(ready) = self.ready_learner() else { continue };
            let _guard = self.one_at_a_time.lock().await;
            match self.set_vote(ready, true).await {
                Ok(()) => tracing::info!(node_id = ready, "a learner has caught up and votes now"),
                Err(status) => {
                    tracing::warn!(node_id = ready, reason = status.message(), "a learner could not be made a voter")
                }
            }
        }
    }

    /// On a node that hears nothing from a leader: asks the others whether it still belongs to them. A node that was taken
    /// out while it could not be reached would otherwise stand for election for ever.
    pub(crate) async fn notice_removal(self, contact: LeaderContact) {
        let patience = Duration::from_millis(3 * self.raft.config().election_timeout_max);
        let mut ticks = tokio::time::interval(patience);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let leads = self.raft.metrics().borrow().current_leader == Some(self.node);
            if leads || contact.age() < patience {
                continue;
            }
            for (id, member) in self.members().into_iter().filter(|(id, _)| *id != self.node) {
                let route = Route { cluster: self.cluster.to_string(), from: self.node, to: id };
                let mut client = self.channels.peer(&member.peer_address, LinkClass::Bulk);
                let asked = client.describe(DescribeRequest { route: Some(route) });
                let Ok(Ok(reply)) = tokio::time::timeout(patience, asked).await else { continue };
                let reply = reply.into_inner();
                // Only a node with a leader speaks for the cluster.
                if reply.leader != 0 && !reply.members.is_empty() && !reply.members.contains(&self.node) {
                    tracing::warn!(said_by = id, "this node was taken out of the cluster");
                    self.left.send_replace(true);
                    return;
                }
            }
        }
    }

    fn ready_learner(&self) -> Option<NodeId> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        if metrics.current_leader != Some(self.node) {
            return None;
        }
        let voters: BTreeSet<NodeId> = metrics.membership_config.voter_ids().collect();
        let progress = metrics.replication.as_ref()?;
        let last = metrics.last_log_index?;
        metrics
            .membership_config
            .nodes()
            .filter(|(id, member)| member.wants_vote && !voters.contains(id))
            .find(|(id, _)| {
                let matched = progress.get(id).copied().flatten();
                matched.is_some_and(|matched| matched.index + CAUGHT_UP_ENTRIES >= last)
            })
            .map(|(id, _)| *id)
    }

    async fn enrol(&self, uuid: [u8; 16], name: &str) -> Result<NodeId, Status> {
        let command = Command {
            origin: None,
            idempotency: None,
            request: format!("join {name}").into(),
            author: "system".into(),
            time: self.clock.now(),
            based_on: Vec::new(),
            action: Action::Enrol { uuid },
        };
        match self.proposer.propose(command, Instant::now() + CHANGE_MAX).await {
            Ok(Outcome::Enrolled { node }) => Ok(node),
            Ok(other) => Err(Status::internal(format!("asked for an id, was answered {other:?}"))),
            Err(ProposeError::NotProposed(reason) | ProposeError::Unknown(reason)) => Err(Status::unavailable(reason)),
        }
    }

    /// Moves a node between voters and learners, and keeps what it wants in step.
    async fn set_vote(&self, id: NodeId, votes: bool) -> Result<(), Status> {
        let Some((_, member)) = self.members().into_iter().find(|(known, _)| *known == id) else {
            return Err(Status::not_found(format!("there is no node {id}")));
        };
        if member.wants_vote != votes {
            let member = Member { wants_vote: votes, ..member };
            self.wait(self.raft.change_membership(ChangeMembers::SetNodes([(id, member)].into()), true)).await?;
        }
        let mut voters = self.voters();
        let changed = if votes { voters.insert(id) } else { voters.remove(&id) };
        if !changed {
            return Ok(());
        }
        self.wait(self.raft.change_membership(ChangeMembers::ReplaceAllVoters(voters), true)).await
    }

    async fn remove(&self, id: NodeId, is_voter: bool) -> Result<(), Status> {
        if is_voter {
            let mut voters = self.voters();
            voters.remove(&id);
            // Not kept as a learner: it is gone in the same change.
            self.wait(self.raft.change_membership(ChangeMembers::ReplaceAllVoters(voters), false)).await?;
        } else {
            self.wait(self.raft.change_membership(ChangeMembers::RemoveNodes([id].into()), false)).await?;
        }
        tracing::info!(node_id = id, "a node was taken out of the cluster");
        Ok(())
    }

    async fn wait<T>(
        &self,
        change: impl Future<Output = Result<T, RaftError<NodeId, ClientWriteError<NodeId, Member>>>>,
    ) -> Result<(), Status> {
        match tokio::time::timeout(CHANGE_MAX, change).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(e)))) => {
                Err(Status::failed_precondition(e.to_string()))
            }
            Ok(Err(e)) => Err(Status::unavailable(e.to_string())),
            Err(_) => Err(Status::deadline_exceeded(format!("the change was not made within {CHANGE_MAX:?}"))),
        }
    }

    fn leader(&self) -> Result<Leader, Status> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let leader = metrics.current_leader.ok_or_else(|| Status::unavailable("no leader is known"))?;
        if leader == self.node {
            return Ok(Leader::Me);
        }
        let member = metrics.membership_config.nodes().find(|(id, _)| **id == leader);
        let (_, member) = member.ok_or_else(|| Status::unavailable("the leader is no member any more"))?;
        Ok(Leader::At(leader, member.peer_address.to_string()))
    }
}

fn not_in_time(leader: NodeId) -> Status {
    Status::deadline_exceeded(format!("the leader, node {leader}, did not answer within {CHANGE_MAX:?}"))
}
