//! Leadership goes from this node to another one.

use std::time::Duration;

use daemon::failpoint;
use protocol::grpc::TakeOverRequest;
use raft_store::types::{NodeId, Raft};
use tokio::time::Instant;

use super::{Channels, LinkClass, Peering};

/// How long another node may take to become the leader in this one's place.
const HAND_OVER_MAX: Duration = Duration::from_secs(2);

/// How often it is looked how far it is.
const LOOK: Duration = Duration::from_millis(10);

/// Gives leadership to the follower that has everything.
///
/// A follower votes for nobody within the lease of a leader that it has heard, and a candidate that is refused costs
/// everybody another election timeout. So this leader proposes nothing more, falls silent, lets the lease run out, and
/// only then asks its heir to stand: one election, that it wins at once.
pub(crate) struct Handover<'n> {
    pub(crate) peering: &'n Peering,
    pub(crate) raft: &'n Raft,
    pub(crate) channels: &'n Channels,
}

impl Handover<'_> {
    /// Tries it, for a while. The caller proposes nothing meanwhile. Whatever comes of it, this node may lead again.
    pub(crate) async fn run(self) {
        self.hand_over().await;
        self.raft.runtime_config().heartbeat(true);
    }

    async fn hand_over(&self) {
        let deadline = Instant::now() + HAND_OVER_MAX;
        let lease = Duration::from_millis(self.raft.config().election_timeout_max);
        let mut silent_since = None;
        let mut asked = None;
        while Instant::now() < deadline {
            let (leader, heir) = self.look();
            if leader != Some(self.peering.node) {
                return;
            }
            match heir {
                Heir::Nobody => return,
                Heir::None => {}
                Heir::Ready(id, address) => {
                    let since = *silent_since.get_or_insert_with(|| {
                        failpoint!("handover::before_silence");
                        self.raft.runtime_config().heartbeat(false);
                        Instant::now()
                    });
                    if since.elapsed() > lease + LOOK && asked != Some(id) {
                        asked = Some(id);
                        self.ask(id, &address).await;
                    }
                }
            }
            tokio::time::sleep(LOOK).await;
        }
        tracing::warn!("leadership could not be handed over in time, the others will elect a leader");
    }

    async fn ask(&self, id: NodeId, address: &str) {
        let route = self.peering.route(id);
        let mut client = self.channels.peer(address, LinkClass::Consensus);
        failpoint!("handover::before_ask");
        let taking = client.take_over(TakeOverRequest { route: Some(route) });
        match tokio::time::timeout(HAND_OVER_MAX, taking).await {
            Ok(Ok(_)) => tracing::info!(to = id, "leadership is being handed over"),
            Ok(Err(status)) => tracing::warn!(to = id, reason = status.message(), "leadership was not taken over"),
            Err(_) => tracing::warn!(to = id, "leadership was not taken over in time"),
        }
        failpoint!("handover::after_ask");
    }

    /// Who leads, and who could.
    fn look(&self) -> (Option<NodeId>, Heir) {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        let voters: Vec<NodeId> = metrics.membership_config.voter_ids().filter(|id| *id != self.peering.node).collect();
        if voters.is_empty() {
            return (metrics.current_leader, Heir::Nobody);
        }
        let last = metrics.last_log_index;
        let ready = metrics
            .replication
            .iter()
            .flatten()
            .find(|(id, matched)| voters.contains(id) && matched.map(|matched| matched.index) == last);
        let heir = ready.and_then(|(id, _)| {
            let (_, member) = metrics.membership_config.nodes().find(|(known, _)| *known == id)?;
            Some(Heir::Ready(*id, member.peer_address.to_string()))
        });
        (metrics.current_leader, heir.unwrap_or(Heir::None))
    }
}

enum Heir {
    /// There is no other voter.
    Nobody,
    /// Nobody has everything yet.
    None,
    /// This one has.
    Ready(NodeId, String),
}
