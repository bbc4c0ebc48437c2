//! What the control listener tells of the nodes' health, in the shape of APISIX's Control API.

use serde_json::{Value, json};

use super::Sources;
use crate::table::Upstream;

/// Every upstream whose nodes are checked.
pub(super) fn all(sources: &Sources) -> Value {
    sources.cell.load().upstreams().filter(|upstream| upstream.is_watched).map(|upstream| tell(upstream)).collect()
}

/// The upstream of that name (`upstreams/<id>`, `routes/<id>`, `services/<id>`), if its nodes are checked.
pub(super) fn one(sources: &Sources, name: &str) -> Option<Value> {
    let table = sources.cell.load();
    table.upstreams().find(|upstream| upstream.is_watched && upstream.label == name).map(|upstream| tell(upstream))
}

fn tell(upstream: &Upstream) -> Value {
    let watched = upstream.nodes.iter().filter_map(|node| Some((node, node.watch.0.as_ref()?)));
    let kind = watched.clone().next().map(|(_, monitor)| monitor.checks.active.kind);
    let nodes: Vec<Value> = watched
        .map(|(node, monitor)| {
            let counts = monitor.counts();
            let host = node.host.to_string();
            json!({
                "ip": host,
                "hostname": host,
                "port": node.port,
                "status": if monitor.is_up() { "healthy" } else { "unhealthy" },
                "counter": {
                    "success": counts.successes,
                    "http_failure": counts.http_failures,
                    "tcp_failure": counts.tcp_failures,
                    "timeout_failure": counts.timeouts,
                },
            })
        })
        .collect();
    let kind = kind.map(|kind| format!("{kind:?}").to_ascii_lowercase());
    json!({"name": format!("/apisix/{}", upstream.label), "type": kind, "nodes": nodes})
}
