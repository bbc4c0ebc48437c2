//! Becoming somebody: founding a cluster, joining one, and leaving it.

use std::collections::BTreeMap;
use std::time::Duration;

use daemon::failpoint;
use protocol::Epoch;
use protocol::grpc::{ChangeMembersRequest, Route, change_members_request};
use protocol::position::RestoreId;
use protocol::snapshot::ClusterId;
use raft_store::disk::{DataDir, Identity};
use raft_store::types::{Member, Raft};

use super::start::{Storage, open_storage};
use super::{NodeError, Seams};
use crate::links::Links;
use crate::members::join_request;
use crate::raft::{self, Channels, LinkClass, Network, Peering, Reach, Silence, Transfers};
use crate::settings::Settings;

/// How long founding may take: one election among one, and one write.
const FOUND_MAX: Duration = Duration::from_secs(30);

/// How long one node may take to answer a request to join or leave.
const ASK_MAX: Duration = Duration::from_secs(15);

/// How often the named nodes are asked before joining is given up, and the pause between.
const JOIN_ROUNDS: u32 = 20;
const JOIN_PAUSE: Duration = Duration::from_millis(500);

/// Founds a cluster with this node as its only voter. Once, and explicitly: two nodes that both found have two clusters.
///
/// # Errors
/// [`NodeError`]; [`raft_store::disk::DiskError::Taken`] when the directory is somebody's already.
pub async fn found(settings: &Settings, seams: &Seams) -> Result<Identity, NodeError> {
    let cluster = ClusterId(seams.random.bytes16());
    let epoch = Epoch { number: 1, restore: RestoreId(seams.random.bytes16()) };
    found_as(settings, seams, cluster, epoch, async |_| Ok(())).await
}

/// Founds a cluster that has a name already, and does something with it before it is anybody's. What fails there leaves
/// the directory nobody's.
///
/// # Errors
/// [`NodeError`], also that of `then`.
pub(crate) async fn found_as(
    settings: &Settings,
    seams: &Seams,
    cluster: ClusterId,
    epoch: Epoch,
    then: impl AsyncFnOnce(&Raft) -> Result<(), NodeError>,
) -> Result<Identity, NodeError> {
    settings.check()?;
    let links = Links::load(settings, seams.net.clone())?;
    let data = DataDir::open(&settings.data_dir.0)?;
    let identity = Identity {
        cluster,
        epoch,
        node: 1,
        uuid: seams.random.bytes16(),
        name: settings.node_name().into(),
        left: false,
    };
    data.check_unclaimed()?;
    // What an unfinished founding has left behind is nobody's.
    data.clear()?;
    let Storage { log, replica, .. } = open_storage(&data, &identity, settings, seams).await?;
    let network = Network {
        peering: Peering::new(&identity, replica.feed()),
        channels: Channels::new(links),
        durability: log.durability().clone(),
        transfers: Transfers::default(),
        reach: Reach::default(),
        silence: Silence::default(),
    };
    let failed = |e: &dyn std::fmt::Display| NodeError::Consensus(e.to_string());
    let raft = Raft::new(identity.node, raft::config(&settings.raft), network, log.clone(), replica)
        .await
        .map_err(|e| failed(&e))?;
    let members = BTreeMap::from([(identity.node, member(settings, identity.uuid))]);
    failpoint!("found::before_initialize");
    raft.initialize(members).await.map_err(|e| failed(&e))?;
    let leads = raft.wait(Some(FOUND_MAX)).applied_index_at_least(Some(1), "the founder leads").await;
    leads.map_err(|e| failed(&e))?;
    failpoint!("found::after_initialize");
    let done = then(&raft).await;
    raft.shutdown().await.map_err(|e| failed(&e))?;
    log.close().await;
    done?;
    failpoint!("found::before_claim");
    // Last of all: before this the directory is nobody's, and founding can begin again.
    data.claim(&identity)?;
    failpoint!("found::after_claim");
    Ok(identity)
}

/// Joins the cluster of one of the named nodes; they are asked in turn, for a while.
///
/// # Errors
/// [`NodeError`]; [`raft_store::disk::DiskError::Taken`] when the directory is somebody's already.
pub async fn join(settings: &Settings, seams: &Seams) -> Result<Identity, NodeError> {
    settings.check()?;
    let links = Links::load(settings, seams.net.clone())?;
    let data = DataDir::open(&settings.data_dir.0)?;
    data.check_unclaimed()?;
    join_from(&data, settings, seams, links).await
}

pub(super) async fn join_from(
    data: &DataDir,
    settings: &Settings,
    seams: &Seams,
    links: Links,
) -> Result<Identity, NodeError> {
    data.clear()?;
    // The same name for every attempt, also after a crash: asking twice gives one id.
    let uuid = data.joining_as(seams.random.bytes16())?;
    failpoint!("join::before_ask");
    let member = member(settings, uuid);
    let channels = Channels::new(links);
    let mut refusals = Vec::new();
    for round in 0..JOIN_ROUNDS {
        if round > 0 {
            tokio::time::sleep(JOIN_PAUSE).await;
        }
        refusals.clear();
        for address in &settings.cluster.join {
            match ask_to_join(&channels, address, &member).await {
                Ok(identity) => {
                    let identity = Identity { uuid, name: settings.node_name().into(), ..identity };
                    failpoint!("join::before_claim");
                    data.claim(&identity)?;
                    failpoint!("join::after_claim");
                    tracing::info!(node_id = identity.node, cluster = %identity.cluster, via = address, "this node has joined a cluster");
                    return Ok(identity);
                }
                Err(reason) => refusals.push(format!("{address}: {reason}")),
            }
        }
    }
    Err(NodeError::Join(refusals))
}

async fn ask_to_join(channels: &Channels, address: &str, member: &Member) -> Result<Identity, String> {
    let mut client = channels.peer(address, LinkClass::Bulk);
    let reply = tokio::time::timeout(ASK_MAX, client.join(join_request(member)))
        .await
        .map_err(|_| format!("no answer within {ASK_MAX:?}"))?
        .map_err(|status| status.message().to_owned())?
        .into_inner();
    let restore: [u8; 16] = reply.restore_id[..].try_into().map_err(|_| "its answer is malformed".to_owned())?;
    Ok(Identity {
        cluster: reply.cluster.parse().map_err(|_| "its answer is malformed".to_owned())?,
        epoch: Epoch { number: reply.epoch, restore: RestoreId(restore) },
        node: reply.node_id,
        uuid: member.uuid,
        name: member.name.clone(),
        left: false,
    })
}

/// Asks the node that runs with these settings to leave its cluster. It then stops by itself.
///
/// # Errors
/// [`NodeError`].
pub async fn leave(settings: &Settings, seams: &Seams) -> Result<u64, NodeError> {
    let identity =
        DataDir::peek_identity(&settings.data_dir.0)?.ok_or_else(|| NodeError::Nobody(settings.data_dir.0.clone()))?;
    let links = Links::load(settings, seams.net.clone())?;
    let address = settings.peer_address().to_owned();
    let failed = |reason: String| NodeError::Leave { node: identity.node, address: address.clone(), reason };
    let route = Route { to: identity.node, ..raft::route_of(identity.cluster, identity.epoch.restore, identity.node) };
    let change = Some(change_members_request::Change::Remove(identity.node));
    let mut client = Channels::new(links).peer(&address, LinkClass::Bulk);
    let asked = client.change_members(ChangeMembersRequest { route: Some(route), change });
    tokio::time::timeout(ASK_MAX, asked)
        .await
        .map_err(|_| failed(format!("no answer within {ASK_MAX:?}")))?
        .map_err(|status| failed(status.message().to_owned()))?;
    Ok(identity.node)
}

/// The node with these settings, as the membership is to have it.
pub(super) fn member(settings: &Settings, uuid: [u8; 16]) -> Member {
    Member {
        uuid,
        name: settings.node_name().into(),
        region: settings.node.region.as_str().into(),
        peer_address: settings.peer_address().into(),
        admin_address: settings.admin_address().into(),
        feed_address: settings.feed_address().into(),
        wants_vote: settings.cluster.voter,
    }
}
