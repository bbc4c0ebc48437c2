//! `hfctl fleet`: every proxy of the cluster, whichever node it follows.

use clap::Args;
use serde_json::Value;

use crate::client::Client;
use crate::failure::Failure;
use crate::render::{self, Format, cell};

#[derive(Debug, Args)]
pub(crate) struct FleetVerb {}

impl FleetVerb {
    #[expect(clippy::unused_self, reason = "a verb is called with itself, whether or not it has arguments")]
    pub(crate) fn run(&self, client: &mut Client, format: Format) -> Result<String, Failure> {
        let fleet = client.get("/v1/fleet")?.body;
        Ok(if format == Format::Table { show(&fleet) } else { render::value(&fleet, format) })
    }
}

fn show(fleet: &Value) -> String {
    let proxies: Vec<&Value> = fleet["proxies"].as_array().into_iter().flatten().collect();
    let mut text = match proxies.is_empty() {
        true => "no proxy is known\n".to_owned(),
        false => {
            let rows: Vec<Vec<String>> = proxies.iter().map(|proxy| row(proxy)).collect();
            let head = ["PROXY", "REGION", "ADDRESS", "NODE", "POSITION", "SEEN (S AGO)", "VERSION", "REMARKS"];
            render::table(&head, &rows)
        }
    };
    for node in fleet["nodes"].as_array().into_iter().flatten() {
        text.push_str(&format!("node {} was not heard: {}\n", cell(&node["node_id"]), cell(&node["error"])));
    }
    for (proxy, rejected) in proxies.iter().flat_map(|proxy| {
        let rejected = proxy["rejected"].as_array().into_iter().flatten();
        rejected.map(|rejected| (cell(&proxy["name"]), rejected))
    }) {
        let part = |name: &str| cell(&rejected[name]);
        text.push_str(&format!("{proxy} rejects {}/{}: {}\n", part("kind"), part("id"), part("reason")));
    }
    text
}

fn row(proxy: &Value) -> Vec<String> {
    let columns = ["name", "region", "address", "node_id", "position", "last_seen_seconds", "version"];
    let mut row: Vec<String> = columns.iter().map(|name| cell(&proxy[*name])).collect();
    let mut remarks = Vec::new();
    if let Some(seconds) = proxy["lost_seconds"].as_u64() {
        remarks.push(format!("lost {seconds} s ago"));
    }
    if proxy["volatile"] == true {
        remarks.push("volatile".to_owned());
    }
    match proxy["rejected"].as_array().map_or(0, Vec::len) {
        0 => {}
        count => remarks.push(format!("rejects {count}")),
    }
    row.push(if remarks.is_empty() { "-".to_owned() } else { remarks.join(", ") });
    row
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn what_is_odd_about_a_proxy_and_who_was_not_heard_is_said() {
        let proxy = json!({
            "node_id": 2, "name": "dp-1", "region": "eu", "address": "10.0.0.1:9", "position": "1-7",
            "last_seen_seconds": 0, "version": "0.1.0", "lost_seconds": 4, "volatile": true,
            "rejected": [{"kind": "routes", "id": "r1", "reason": "no such plugin", "last_good": true}],
        });
        let text = show(&json!({ "proxies": [proxy], "nodes": [{"node_id": 3, "error": "no answer"}] }));
        for words in [
            "lost 4 s ago, volatile, rejects 1",
            "node 3 was not heard: no answer",
            "dp-1 rejects routes/r1: no such plugin",
        ] {
            assert!(text.contains(words), "{words} is missing in\n{text}");
        }
        assert_eq!(show(&json!({ "proxies": [], "nodes": [] })), "no proxy is known\n");
    }
}
