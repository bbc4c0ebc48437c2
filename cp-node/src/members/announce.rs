//! A node that is somewhere else than before tells its cluster so.

use std::time::Duration;

use protocol::grpc::JoinRequest;
use raft_store::types::{Member, NodeId};
use tokio::time::MissedTickBehavior;

use super::Members;
use crate::raft::LinkClass;

/// How often it is tried while it has not come about.
const RETRY: Duration = Duration::from_secs(1);

/// How long one node may take to pass it on.
const ASK_MAX: Duration = Duration::from_secs(10);

impl Members {
    /// Sees to it that the membership has this node's name, region and addresses as its settings have them: they may have
    /// changed while it was stopped. Whether it votes stays as it is, that is for operators to say. Ends when they agree.
    ///
    /// The others cannot reach a node whose address has changed, but it reaches them: it asks one after the other to pass
    /// it on to the leader.
    pub(crate) async fn announce(self, own: Member) {
        let mut ticks = tokio::time::interval(RETRY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut said = String::new();
        loop {
            ticks.tick().await;
            let members = self.members();
            let Some((_, known)) = members.iter().find(|(id, _)| *id == self.peering.node) else { continue };
            let wanted = Member { wants_vote: known.wants_vote, ..own.clone() };
            if *known == wanted {
                return;
            }
            if let Err(reason) = self.tell(&wanted, &members).await
                && said != reason
            {
                tracing::warn!(reason, "the cluster could not be told of this node's new addresses");
                said = reason;
            }
        }
    }

    /// Tells whoever takes it.
    async fn tell(&self, own: &Member, members: &[(NodeId, Member)]) -> Result<(), String> {
        let request = join_request(own);
        let mut refusals = Vec::new();
        match self.join(request.clone()).await {
            Ok(_) => return Ok(()),
            Err(status) => refusals.push(status.message().to_owned()),
        }
        for (id, member) in members.iter().filter(|(id, _)| *id != self.peering.node) {
            let mut client = self.channels.peer(&member.peer_address, LinkClass::Bulk);
            match tokio::time::timeout(ASK_MAX, client.join(request.clone())).await {
                Ok(Ok(_)) => return Ok(()),
                Ok(Err(status)) => refusals.push(format!("node {id}: {}", status.message())),
                Err(_) => refusals.push(format!("node {id}: no answer within {ASK_MAX:?}")),
            }
        }
        Err(refusals.join("; "))
    }
}

/// What a node says of itself when it asks to be taken in.
pub(crate) fn join_request(member: &Member) -> JoinRequest {
    JoinRequest {
        uuid: member.uuid.to_vec().into(),
        name: member.name.to_string(),
        region: member.region.to_string(),
        peer_address: member.peer_address.to_string(),
        admin_address: member.admin_address.to_string(),
        feed_address: member.feed_address.to_string(),
        version: daemon::build::VERSION.to_owned(),
        voter: member.wants_vote,
    }
}
