//! `GET /status/config`: what is served, from whom, and what could not be.

use serde_json::{Value, json};

use super::Sources;
use crate::standing::Source;

pub(super) fn render(sources: &Sources) -> Value {
    let standing = sources.board.read();
    let connected = standing.connected.as_ref();
    let rejected: Vec<Value> = standing
        .rejected
        .iter()
        .map(|(key, rejected)| {
            json!({
                "kind": key.kind.as_str(), "id": key.id.as_str(),
                "reason": rejected.reason, "last_good": rejected.last_good,
            })
        })
        .collect();
    let last_good: Vec<String> =
        standing.rejected.iter().filter(|(_, rejected)| rejected.last_good).map(|(key, _)| key.to_string()).collect();
    let position = standing.position;
    json!({
        "node": sources.node.name,
        "group": sources.node.group,
        "cluster": standing.cluster.map(|cluster| cluster.to_string()),
        "position": position.to_string(),
        "epoch": position.epoch.number,
        "restore_id": position.epoch.restore.to_string(),
        "revision": position.revision,
        "changed_at": standing.changed_at.to_string(),
        "digest": standing.digest.to_string(),
        "resources": standing.resources,
        "source": match standing.source {
            Source::None => "none",
            Source::Disk => "disk",
            Source::Archive => "archive",
            Source::File => "file",
            Source::ControlPlane => "control_plane",
        },
        "volatile": standing.volatile,
        "control_plane": {
            "connected": connected.is_some(),
            "endpoint": connected.map(|c| &c.endpoint),
            "node_id": connected.map(|c| c.node.id),
            "node_name": connected.map(|c| &c.node.name),
            "region": connected.map(|c| &c.node.region),
            "version": connected.map(|c| &c.node.version),
            "leader_contact_age_ms": connected.and_then(|c| c.leader_contact_age).map(|age| age.as_millis()),
        },
        "archive": {
            "place": sources.board.archive.place(),
            "refused": sources.board.archive.last_refused(),
        },
        "file": {
            "path": sources.board.file.path(),
            "refused": sources.board.file.problems(),
        },
        "rejected": rejected,
        "secrets": standing.secrets.iter().map(|secret| json!({
            "place": secret.place,
            "known": secret.known,
            "read_ago_ms": secret.read.map(|read| read.elapsed().as_millis()),
            "failure": secret.failure,
        })).collect::<Vec<Value>>(),
        "last_good": last_good,
    })
}
