//! Who this node is to other nodes, and whose messages it takes: those of its cluster, in the same life of it.
//!
//! A cluster that an operator has brought back (see `bootstrap`) keeps its name and begins a new log. Nodes that still have
//! the old log must neither vote in the new one nor be given its entries: indexes and terms mean something else there. So
//! every message names the life its log belongs to, and how high the sender's epoch is: of two nodes of different lives, the
//! one with the lower epoch has been superseded, whichever of them asked, and it ends.

use std::sync::Arc;

use protocol::grpc::Route;
use protocol::position::RestoreId;
use protocol::snapshot::ClusterId;
use raft_store::disk::Identity;
use raft_store::feed::Feed;
use raft_store::types::NodeId;
use tokio::sync::watch;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};

/// Where a refusal names the epoch of who refuses.
const EPOCH: &str = "holdfast-epoch";

/// What a node is to its peers. Clones share what they have heard.
#[derive(Clone)]
pub(crate) struct Peering {
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    life: RestoreId,
    feed: Feed,
    superseded: Arc<watch::Sender<Option<Superseded>>>,
}

/// The cluster has been brought back without this node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Superseded {
    /// The number of the epoch that this node has.
    pub epoch: u64,
    /// The higher one, of which it has heard.
    pub by: u64,
}

impl std::fmt::Display for Superseded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { epoch, by } = self;
        write!(
            f,
            "this node's disk is of epoch {epoch}, and its cluster has been brought back as epoch {by} without it: move its data directory away, and let it join with an empty one"
        )
    }
}

impl Peering {
    pub(crate) fn new(identity: &Identity, feed: Feed) -> Self {
        Self {
            cluster: identity.cluster,
            node: identity.node,
            life: identity.epoch.restore,
            feed,
            superseded: Arc::new(watch::Sender::new(None)),
        }
    }

    fn epoch(&self) -> u64 {
        self.feed.position().epoch.number
    }

    /// What a message to a node begins with; 0 is whoever answers.
    pub(crate) fn route(&self, to: NodeId) -> Route {
        Route { epoch: self.epoch(), to, ..route_of(self.cluster, self.life, self.node) }
    }

    /// Refuses what is meant for another node, or comes from another cluster or another life of this one.
    pub(crate) fn check(&self, route: Option<&Route>) -> Result<(), Status> {
        let Some(route) = route else { return Err(Status::invalid_argument("a message without a route")) };
        let Self { cluster, node, .. } = self;
        if route.cluster != cluster.to_string() {
            return Err(Status::failed_precondition(format!(
                "this is node {node} of cluster {cluster}, the message is of cluster {}",
                route.cluster
            )));
        }
        if route.life != self.life.0[..] {
            return Err(self.of_another_life(route));
        }
        if route.to != 0 && route.to != *node {
            return Err(Status::failed_precondition(format!("this is node {node}, not node {}", route.to)));
        }
        Ok(())
    }

    fn of_another_life(&self, route: &Route) -> Status {
        let epoch = self.epoch();
        self.heard_of(route.epoch);
        let reason = format!(
            "node {} of epoch {} has another log than node {} of epoch {epoch}: the cluster was brought back in between",
            route.from, route.epoch, self.node
        );
        let mut metadata = MetadataMap::new();
        metadata.insert(EPOCH, epoch.into());
        Status::with_metadata(Code::FailedPrecondition, reason, metadata)
    }

    /// Takes note of why a peer has refused a message.
    pub(crate) fn refused(&self, status: &Status) {
        let epoch = status.metadata().get(EPOCH).and_then(|value| value.to_str().ok()?.parse().ok());
        self.heard_of(epoch.unwrap_or(0));
    }

    fn heard_of(&self, by: u64) {
        let epoch = self.epoch();
        if by > epoch {
            self.superseded.send_replace(Some(Superseded { epoch, by }));
        }
    }

    /// Resolves when the cluster goes on in a later life without this node. Cancel-safe.
    pub(crate) async fn superseded(&self) -> Superseded {
        let mut superseded = self.superseded.subscribe();
        let heard = superseded.wait_for(Option::is_some).await.ok().and_then(|heard| heard.clone());
        heard.expect("this holds the sender, and waited for it")
    }
}

/// What a message of a node begins with that says nothing of its epoch.
pub(crate) fn route_of(cluster: ClusterId, life: RestoreId, node: NodeId) -> Route {
    Route { cluster: cluster.to_string(), from: node, to: 0, life: life.0.to_vec().into(), epoch: 0 }
}

#[cfg(test)]
mod tests {
    use protocol::state::ConfigState;
    use protocol::{Chain, Epoch, Position};

    use super::*;

    fn node(number: NodeId, life: u8, epoch: u64) -> Peering {
        let restore = RestoreId([life; 16]);
        let identity = Identity {
            cluster: ClusterId([1; 16]),
            epoch: Epoch { number: 1, restore },
            node: number,
            uuid: [0; 16],
            name: "n".into(),
            left: false,
        };
        let position = Position { epoch: Epoch { number: epoch, restore }, revision: 7 };
        Peering::new(
            &identity,
            Feed::new(ConfigState::from_entries(ConfigState::serving(), position, position, Chain::default(), [])),
        )
    }

    fn hears(peering: &Peering) -> Option<Superseded> {
        peering.superseded.borrow().clone()
    }

    #[test]
    fn nodes_of_one_life_talk_whatever_their_epochs() {
        let (one, two) = (node(1, 5, 1), node(2, 5, 2));
        one.check(Some(&two.route(1))).unwrap();
        two.check(Some(&one.route(0))).unwrap();
        assert_eq!(two.check(Some(&one.route(3))).unwrap_err().message(), "this is node 2, not node 3");
        assert_eq!((hears(&one), hears(&two)), (None, None));
    }

    #[test]
    fn of_two_lives_the_lower_epoch_is_superseded_whichever_asks() {
        let (old, new) = (node(1, 5, 1), node(1, 6, 2));
        // The old one asks.
        let refusal = new.check(Some(&old.route(1))).unwrap_err();
        assert_eq!(refusal.code(), Code::FailedPrecondition);
        old.refused(&refusal);
        assert_eq!(hears(&old), Some(Superseded { epoch: 1, by: 2 }));
        assert_eq!(hears(&new), None);
        // The new one asks.
        let old = node(1, 5, 1);
        new.refused(&old.check(Some(&new.route(1))).unwrap_err());
        assert_eq!(hears(&old), Some(Superseded { epoch: 1, by: 2 }));
        assert_eq!(hears(&new), None);
    }

    #[test]
    fn another_cluster_and_other_refusals_supersede_nobody() {
        let one = node(1, 5, 1);
        let route = Route { cluster: ClusterId([9; 16]).to_string(), ..node(2, 6, 9).route(1) };
        one.refused(&one.check(Some(&route)).unwrap_err());
        one.refused(&Status::unavailable("gone"));
        assert_eq!(hears(&one), None);
        assert_eq!(one.check(None).unwrap_err().code(), Code::InvalidArgument);
    }
}
