//! Who belongs to the cluster: nodes join as learners, become voters when they have caught up, and go for good.
//!
//! The leader changes the membership, one change at a time; any other node passes a request on to it. Ids come from the
//! log and are never given twice; a node whose disk is wiped comes back under a new one.

mod announce;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use daemon::failpoint;
use openraft::ChangeMembers;
use openraft::error::{ClientWriteError, RaftError};
use protocol::command::{Action, Command};
use protocol::grpc::{
    ChangeMembersRequest, DescribeReply, DescribeRequest, JoinReply, JoinRequest, change_members_request,
};
use protocol::seam::WallClock;
use protocol::{Epoch, Outcome};
use raft_store::types::{Member, NodeId, Raft};
use tokio::sync::{Mutex, watch};
use tokio::time::Instant;
use tonic::Status;

pub(crate) use announce::join_request;

use crate::propose::{Batcher, ProposeError, Proposer};
use crate::raft::{Channels, Handover, LeaderContact, LinkClass, Peering};

/// How long whoever asks for a change of the membership waits for it.
const CHANGE_MAX: Duration = Duration::from_secs(10);

/// How long a change is kept at. Consensus makes most changes in two steps; one that is given up between them is finished
/// by [`Members::keep_in_order`].
const CHANGE_ABANDONED_AFTER: Duration = Duration::from_secs(60);

/// How long a node may take to say that it is there, before a voter is taken away.
const ANSWER_MAX: Duration = Duration::from_secs(1);

/// How often the leader looks whether a learner has caught up, or a change was left half made.
const LOOK: Duration = Duration::from_millis(200);

/// Between two attempts of a leader without a vote to hand over.
const HAND_OVER_PAUSE: Duration = Duration::from_secs(10);

/// A learner that is no more than so many entries behind has caught up.
const CAUGHT_UP_ENTRIES: u64 = 100;

/// The membership. Clones share it.
#[derive(Clone)]
pub(crate) struct Members {
    pub(crate) peering: Peering,
    pub(crate) epoch: Epoch,
    pub(crate) raft: Raft,
    pub(crate) proposer: Proposer,
    pub(crate) batcher: Batcher,
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
    /// Gives a node its id and takes it in as a learner. Asking again, under the same name of its own, gives the same id,
    /// and takes its addresses as it then says them.
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
        let members = self.clone();
        self.in_turn(async move { members.take_in(uuid, request).await }).await
    }

    async fn take_in(&self, uuid: [u8; 16], request: JoinRequest) -> Result<JoinReply, Status> {
        failpoint!("members::before_enrol");
        let node = self.enrol(uuid, &request.name).await?;
        failpoint!("members::after_enrol");
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
        match known {
            None => {
                self.wait(self.raft.add_learner(node, member, false)).await?;
                failpoint!("members::after_learner");
                tracing::info!(
                    node_id = node,
                    name = request.name,
                    address = request.peer_address,
                    "a node has joined"
                );
            }
            Some((_, known)) if known != member => {
                // Its own name shows that it is the same node, and nobody else is reached under its id: a message to another
                // node is refused there.
                self.wait(self.raft.change_membership(ChangeMembers::SetNodes([(node, member)].into()), true)).await?;
                tracing::info!(node_id = node, name = request.name, address = request.peer_address, "a node has moved");
            }
            Some(_) => {}
        }
        Ok(JoinReply {
            cluster: self.peering.cluster.to_string(),
            node_id: node,
            epoch: self.epoch.number,
            restore_id: self.epoch.restore.0.to_vec().into(),
        })
    }

    /// Promotes, demotes or removes a node.
    pub(crate) async fn change(&self, request: ChangeMembersRequest) -> Result<(), Status> {
        let leaves = request.change == Some(change_members_request::Change::Remove(self.peering.node));
        self.change_others(request).await?;
        if leaves {
            self.left.send_replace(true);
        }
        Ok(())
    }

    async fn change_others(&self, request: ChangeMembersRequest) -> Result<(), Status> {
        let Some(change) = request.change else { return Err(Status::invalid_argument("no change is asked for")) };
        if let Leader::At(leader, address) = self.leader()? {
            let route = self.peering.route(leader);
            let passed_on = ChangeMembersRequest { route: Some(route), change: Some(change) };
            let mut client = self.channels.peer(&address, LinkClass::Bulk);
            let passed_on = tokio::time::timeout(CHANGE_MAX, client.change_members(passed_on)).await;
            return passed_on.map_err(|_| not_in_time(leader))?.map(drop);
        }
        let members = self.clone();
        self.in_turn(async move { members.make(change).await }).await
    }

    /// Makes a change on the leader, in its turn.
    async fn make(&self, change: change_members_request::Change) -> Result<(), Status> {
        use change_members_request::Change;
        // Between the two steps of a change both its old and its new voters vote. Who asks for a vote that he is about to
        // lose would be told that he has it, and then lose his place with it.
        if let Some((voters, retain)) = self.half_made() {
            tracing::warn!(?voters, "a change of the membership was left half made, it is finished before the next");
            self.change_voters(voters, retain).await?;
        }
        let voters = self.voters();
        let (Change::Promote(id) | Change::Demote(id) | Change::Remove(id)) = change;
        if !self.members().iter().any(|(known, _)| *known == id) {
            return Err(Status::not_found(format!("there is no node {id}")));
        }
        if matches!(change, Change::Demote(_)) && !voters.contains(&id) {
            return Err(Status::failed_precondition(format!("node {id} is no voter")));
        }
        if !matches!(change, Change::Promote(_)) && voters.contains(&id) {
            self.check_quorum_without(id, &voters).await?;
        }
        match change {
            Change::Promote(id) => self.set_vote(id, true).await,
            Change::Demote(id) => self.set_vote(id, false).await,
            Change::Remove(id) => self.remove(id, voters.contains(&id)).await,
        }
    }

    /// Refuses to take a voter away when too few of the others answer: the cluster would be without a quorum at once.
    async fn check_quorum_without(&self, id: NodeId, voters: &BTreeSet<NodeId>) -> Result<(), Status> {
        let left: BTreeSet<NodeId> = voters.iter().copied().filter(|voter| *voter != id).collect();
        if left.is_empty() {
            return Err(Status::failed_precondition("the last voter cannot be taken away"));
        }
        let mut asking = tokio::task::JoinSet::new();
        for (other, member) in
            self.members().into_iter().filter(|(other, _)| left.contains(other) && *other != self.peering.node)
        {
            let route = self.peering.route(other);
            let mut client = self.channels.peer(&member.peer_address, LinkClass::Bulk);
            asking.spawn(async move {
                let asked = client.describe(DescribeRequest { route: Some(route) });
                matches!(tokio::time::timeout(ANSWER_MAX, asked).await, Ok(Ok(_))).then_some(other)
            });
        }
        let mut there: BTreeSet<NodeId> = asking.join_all().await.into_iter().flatten().collect();
        if left.contains(&self.peering.node) {
            there.insert(self.peering.node);
        }
        if there.len() > left.len() / 2 {
            return Ok(());
        }
        let silent: Vec<String> = left.difference(&there).map(ToString::to_string).collect();
        Err(Status::failed_precondition(format!(
            "without node {id} there would be no quorum: of the voters that are left, node {} does not answer; bring it back or take it out first",
            silent.join(", node ")
        )))
    }

    /// Makes a change when its turn comes, on a task of its own: whoever asked may stop waiting, the change goes on.
    async fn in_turn<T: Send + 'static>(
        &self,
        change: impl Future<Output = Result<T, Status>> + Send + 'static,
    ) -> Result<T, Status> {
        let turn = tokio::time::timeout(CHANGE_MAX, self.one_at_a_time.clone().lock_owned()).await;
        let turn =
            turn.map_err(|_| Status::unavailable("another change of the membership is under way and does not end"))?;
        // The change before may have taken this node out.
        if !self.is_in_charge() {
            return Err(Status::unavailable("this node leads no more: ask again"));
        }
        let changing = tokio::spawn(async move {
            let changed = change.await;
            drop(turn);
            changed
        });
        match tokio::time::timeout(CHANGE_MAX, changing).await {
            Ok(Ok(changed)) => changed,
            Ok(Err(e)) => Err(Status::internal(e.to_string())),
            Err(_) => Err(Status::deadline_exceeded(format!(
                "the change was not made within {CHANGE_MAX:?}, and may still be: look at the members before you ask again"
            ))),
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

    /// Whether the membership stands between two steps of a change: quorums of the old voters and of the new are needed.
    pub(crate) fn is_changing(&self) -> bool {
        self.raft.metrics().borrow().membership_config.membership().get_joint_config().len() > 1
    }

    /// On the leader: makes voters of learners that asked for it, once they have caught up, and finishes a change that
    /// somebody else (an earlier leader, an abandoned request) has left half made. Hands over when it has no vote itself.
    pub(crate) async fn keep_in_order(self) {
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut tried: Option<Instant> = None;
        loop {
            ticks.tick().await;
            // Whoever has the turn is at it.
            let Ok(_turn) = self.one_at_a_time.clone().try_lock_owned() else { continue };
            if !self.is_in_charge() {
                continue;
            }
            if let Some((voters, retain)) = self.half_made() {
                tracing::warn!(?voters, "a change of the membership was left half made, it is finished");
                self.report(self.change_voters(voters, retain).await);
            } else if let Some(ready) = self.ready_learner()
                && self.report(self.set_vote(ready, true).await)
            {
                tracing::info!(node_id = ready, "a learner has caught up and votes now");
            } else if self.leads_without_a_vote() && tried.is_none_or(|tried| tried.elapsed() > HAND_OVER_PAUSE) {
                // Nothing is written meanwhile: where it does not come about, writes go on for a while before the next try.
                tried = Some(Instant::now());
                tracing::info!("this leader has no vote any more: it hands its leadership over");
                self.batcher.close();
                Handover { peering: &self.peering, raft: &self.raft, channels: &self.channels }.run().await;
                self.batcher.open();
            }
        }
    }

    fn report(&self, made: Result<(), Status>) -> bool {
        if let Err(status) = &made {
            tracing::warn!(reason = status.message(), "the membership could not be changed");
        }
        made.is_ok()
    }

    /// Whether this node leads, and is a member. A leader that was taken out leads on until the others know; a change of
    /// the membership is not its to make any more, and consensus would panic over it in a debug build.
    fn is_in_charge(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let is_member = metrics.membership_config.nodes().any(|(id, _)| *id == self.peering.node);
        metrics.current_leader == Some(self.peering.node) && is_member
    }

    /// Whether this node leads although it was made a learner, and everybody knows: consensus would leave it so for good,
    /// and a learner is where nobody wants a leader.
    fn leads_without_a_vote(&self) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let membership = &metrics.membership_config;
        let is_settled = membership.membership().get_joint_config().len() == 1
            && metrics.last_applied.as_ref() >= membership.log_id().as_ref();
        let votes = membership.voter_ids().any(|id| id == self.peering.node);
        metrics.current_leader == Some(self.peering.node) && is_settled && !votes
    }

    /// Where a change that was left half made leads, and whether those who lose their vote stay as learners.
    fn half_made(&self) -> Option<(BTreeSet<NodeId>, bool)> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        if metrics.current_leader != Some(self.peering.node) {
            return None;
        }
        let [old, .., new] = &metrics.membership_config.membership().get_joint_config()[..] else { return None };
        // Whoever was demoted no longer wants a vote; whoever is taken out never was asked.
        let stays = |id: &NodeId| metrics.membership_config.membership().get_node(id).is_some_and(|m| !m.wants_vote);
        Some((new.clone(), old.difference(new).all(stays)))
    }

    /// On a node that hears nothing from a leader: asks the others whether it still belongs to them. A node that was taken
    /// out while it could not be reached would otherwise stand for election for ever.
    pub(crate) async fn notice_removal(self, contact: LeaderContact) {
        let patience = Duration::from_millis(3 * self.raft.config().election_timeout_max);
        let mut ticks = tokio::time::interval(patience);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let leads = self.raft.metrics().borrow().current_leader == Some(self.peering.node);
            if leads || contact.age() < patience {
                continue;
            }
            // Whoever has not come as far as the change that took this node in knows nothing of it.
            let own = self.raft.metrics().borrow().membership_config.log_id().map_or(0, |id| id.index);
            let mut furthest: Option<DescribeReply> = None;
            for (_, member) in self.members().into_iter().filter(|(id, _)| *id != self.peering.node) {
                // Whoever is there now: all that this node knows may have been replaced by others at their addresses.
                let route = self.peering.route(0);
                let mut client = self.channels.peer(&member.peer_address, LinkClass::Bulk);
                let asked = client.describe(DescribeRequest { route: Some(route) });
                let reply = match tokio::time::timeout(patience, asked).await {
                    Ok(Ok(reply)) => reply.into_inner(),
                    Ok(Err(status)) => {
                        self.peering.refused(&status);
                        continue;
                    }
                    Err(_) => continue,
                };
                // Only a node with a leader speaks for the cluster, and of several the one that has come furthest.
                let speaks = reply.leader != 0 && !reply.members.is_empty() && reply.applied_index >= own;
                if speaks && furthest.as_ref().is_none_or(|known| known.applied_index < reply.applied_index) {
                    furthest = Some(reply);
                }
            }
            if let Some(reply) = furthest.filter(|reply| !reply.members.contains(&self.peering.node)) {
                tracing::warn!(said_by = reply.node_id, "this node was taken out of the cluster");
                self.left.send_replace(true);
                return;
            }
        }
    }

    fn ready_learner(&self) -> Option<NodeId> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        if metrics.current_leader != Some(self.peering.node) {
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
        self.change_voters(voters, true).await
    }

    async fn change_voters(&self, voters: BTreeSet<NodeId>, retain: bool) -> Result<(), Status> {
        failpoint!("members::before_voters");
        let change = self.raft.change_membership(ChangeMembers::ReplaceAllVoters(voters), retain);
        let changed = self.wait(change).await;
        failpoint!("members::after_voters");
        changed
    }

    async fn remove(&self, id: NodeId, is_voter: bool) -> Result<(), Status> {
        if is_voter {
            let mut voters = self.voters();
            voters.remove(&id);
            // Not kept as a learner: it is gone in the same change.
            self.change_voters(voters, false).await?;
        } else {
            failpoint!("members::before_remove");
            self.wait(self.raft.change_membership(ChangeMembers::RemoveNodes([id].into()), false)).await?;
            failpoint!("members::after_remove");
        }
        tracing::info!(node_id = id, "a node was taken out of the cluster");
        Ok(())
    }

    async fn wait<T>(
        &self,
        change: impl Future<Output = Result<T, RaftError<NodeId, ClientWriteError<NodeId, Member>>>>,
    ) -> Result<(), Status> {
        match tokio::time::timeout(CHANGE_ABANDONED_AFTER, change).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(e)))) => {
                Err(Status::failed_precondition(e.to_string()))
            }
            Ok(Err(e)) => Err(Status::unavailable(e.to_string())),
            Err(_) => Err(Status::deadline_exceeded("the change was given up")),
        }
    }

    fn leader(&self) -> Result<Leader, Status> {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let leader = metrics.current_leader.ok_or_else(|| Status::unavailable("no leader is known"))?;
        if leader == self.peering.node {
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
