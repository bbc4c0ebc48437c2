//! `/v1/cluster`, `/v1/fleet`, `/v1/status`: the nodes, the proxies, and this node.

use std::time::Duration;

use axum::http::{Method, StatusCode};
use protocol::Position;
use protocol::grpc::{ChangeMembersRequest, DescribeReply, DescribeRequest, change_members_request};
use raft_store::types::{Member, NodeId};
use serde::Serialize;
use serde_json::json;
use tonic::Code;

use super::Desk;
use super::answer::Answer;
use super::request::Call;
use super::wait::{self, Whole};
use crate::feed::DpStatus;
use crate::raft::LinkClass;

/// How long another node may take to say how it is doing.
const DESCRIBE_MAX: Duration = Duration::from_millis(800);

/// A member of the cluster, with what it says of itself.
#[derive(Serialize)]
struct MemberStatus {
    node_id: NodeId,
    name: String,
    region: String,
    peer_address: String,
    admin_address: String,
    feed_address: String,
    voter: bool,
    wants_vote: bool,
    /// Why nothing more is known of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    said: Option<Said>,
}

/// What a member says of itself.
#[derive(Serialize)]
struct Said {
    version: String,
    role: String,
    leader: NodeId,
    term: u64,
    last_log_index: u64,
    applied_index: u64,
    epoch: u64,
    revision: u64,
    digest: String,
    disk_bytes: u64,
    streams: u64,
}

/// Serves a request on the cluster.
pub(super) async fn serve(desk: &Desk, call: Call) -> Result<Answer, Answer> {
    let path: Vec<&str> = call.path.iter().map(String::as_str).collect();
    match (&call.method, &path[..]) {
        (&Method::GET, ["status"]) => Ok(Answer::value(StatusCode::OK, &desk.describe.status())),
        (&Method::GET, ["fleet"]) => Ok(fleet(desk).await),
        (&Method::GET, ["cluster"]) => Ok(members(desk).await),
        (&Method::POST, ["cluster", "members", id, "promote"]) => {
            change(desk, change_members_request::Change::Promote(node_id(id)?)).await
        }
        (&Method::POST, ["cluster", "members", id, "demote"]) => {
            change(desk, change_members_request::Change::Demote(node_id(id)?)).await
        }
        (&Method::DELETE, ["cluster", "members", id]) => {
            change(desk, change_members_request::Change::Remove(node_id(id)?)).await
        }
        (_, ["status" | "fleet" | "cluster", ..]) if path.len() <= 4 => {
            Err(Answer::method_not_offered(call.method.as_str(), "this path"))
        }
        _ => Err(Answer::no_such_path()),
    }
}

fn node_id(text: &str) -> Result<NodeId, Answer> {
    let id = text.parse::<NodeId>().ok().filter(|id| *id > 0);
    id.ok_or_else(|| Answer::bad(&format!("{text:?} is no node id")))
}

/// Every proxy that follows a member, or did until a moment ago. Needs no leader.
async fn fleet(desk: &Desk) -> Answer {
    let Whole { proxies, unheard } = wait::whole(desk).await;
    let proxies: Vec<DpStatus> = proxies.into_iter().map(|(node, proxy)| DpStatus::of(node, proxy)).collect();
    let unheard: Vec<_> = unheard.into_iter().map(|(node, why)| json!({ "node_id": node, "error": why })).collect();
    let body = json!({
        "answered_by": desk.describe.peering.node,
        "proxies": proxies,
        "total": proxies.len(),
        "nodes": unheard,
    });
    Answer::value(StatusCode::OK, &body)
}

/// Asks every other member how it is doing, all at once. Needs no leader.
async fn members(desk: &Desk) -> Answer {
    let voters = desk.members.voters();
    let mut asking = tokio::task::JoinSet::new();
    let mut members = Vec::new();
    for (id, member) in desk.members.members() {
        if id == desk.describe.peering.node {
            members.push(member_status(id, &member, voters.contains(&id), Ok(desk.describe.reply())));
            continue;
        }
        let route = desk.describe.peering.route(id);
        let mut client = desk.channels.peer(&member.peer_address, LinkClass::Bulk);
        let voter = voters.contains(&id);
        asking.spawn(async move {
            let asked = client.describe(DescribeRequest { route: Some(route) });
            let said = match tokio::time::timeout(DESCRIBE_MAX, asked).await {
                Ok(Ok(reply)) => Ok(reply.into_inner()),
                Ok(Err(status)) => Err(status.message().to_owned()),
                Err(_) => Err(format!("no answer within {DESCRIBE_MAX:?}")),
            };
            member_status(id, &member, voter, said)
        });
    }
    members.extend(asking.join_all().await);
    members.sort_by_key(|member| member.node_id);
    let status = desk.describe.status();
    Answer::value(
        StatusCode::OK,
        &json!({
            "cluster": status.cluster,
            "answered_by": status.node_id,
            "leader": status.leader,
            "term": status.term,
            "epoch": status.epoch,
            "revision": status.revision,
            "changing": desk.members.is_changing(),
            "members": members,
        }),
    )
}

fn member_status(id: NodeId, member: &Member, voter: bool, said: Result<DescribeReply, String>) -> MemberStatus {
    let (said, error) = match said {
        Ok(reply) => (Some(said_by(reply)), None),
        Err(error) => (None, Some(error)),
    };
    MemberStatus {
        node_id: id,
        name: member.name.to_string(),
        region: member.region.to_string(),
        peer_address: member.peer_address.to_string(),
        admin_address: member.admin_address.to_string(),
        feed_address: member.feed_address.to_string(),
        voter,
        wants_vote: member.wants_vote,
        error,
        said,
    }
}

fn said_by(reply: DescribeReply) -> Said {
    let position = reply.position.and_then(|position| Position::try_from(position).ok()).unwrap_or_default();
    let digest = protocol::grpc::digest(&reply.digest, "digest").map(|digest| digest.to_string()).unwrap_or_default();
    Said {
        version: reply.version,
        role: reply.role,
        leader: reply.leader,
        term: reply.term,
        last_log_index: reply.last_log_index,
        applied_index: reply.applied_index,
        epoch: position.epoch.number,
        revision: position.revision,
        digest,
        disk_bytes: reply.disk_bytes,
        streams: reply.streams,
    }
}

async fn change(desk: &Desk, change: change_members_request::Change) -> Result<Answer, Answer> {
    let request = ChangeMembersRequest { route: None, change: Some(change) };
    match desk.members.change(request).await {
        Ok(()) => Ok(Answer::empty(StatusCode::NO_CONTENT)),
        Err(status) => Err(match status.code() {
            Code::NotFound => Answer::error(StatusCode::NOT_FOUND, status.message()),
            Code::FailedPrecondition | Code::InvalidArgument => Answer::error(StatusCode::CONFLICT, status.message()),
            Code::DeadlineExceeded => Answer::error(StatusCode::GATEWAY_TIMEOUT, status.message()),
            _ => Answer::not_applied(status.message()),
        }),
    }
}
