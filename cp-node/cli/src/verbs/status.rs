//! `hfctl status`

use clap::Args;
use serde_json::{Value, json};

use crate::client::Client;
use crate::failure::Failure;
use crate::render::{self, Format, cell};

#[derive(Debug, Args)]
pub(crate) struct Status {}

impl Status {
    #[expect(clippy::unused_self, reason = "a verb is called with itself, whether or not it has arguments")]
    pub(crate) fn run(&self, client: &mut Client, format: Format) -> Result<String, Failure> {
        let node = client.get("/v1/status")?.body;
        let fleet = client.get("/v1/fleet")?.body;
        if format != Format::Table {
            return Ok(render::value(&json!({"node": node, "proxies": fleet["proxies"]}), format));
        }
        let mut text = String::new();
        for name in ["cluster", "node_id", "name", "role", "leader", "term", "revision", "digest", "version"] {
            text.push_str(&format!("{name:9} {}\n", cell(&node[name])));
        }
        let proxies: Vec<&Value> = fleet["proxies"].as_array().into_iter().flatten().collect();
        if proxies.is_empty() {
            text.push_str("no proxy follows this node\n");
            return Ok(text);
        }
        let rows: Vec<Vec<String>> = proxies
            .iter()
            .map(|proxy| {
                let rejected = proxy["rejected"].as_array().map_or(0, Vec::len);
                let columns = ["name", "region", "address", "position", "last_seen_seconds", "version"];
                let mut row: Vec<String> = columns.iter().map(|name| cell(&proxy[*name])).collect();
                row.push(rejected.to_string());
                row
            })
            .collect();
        let head = ["PROXY", "REGION", "ADDRESS", "POSITION", "SEEN (S AGO)", "VERSION", "REJECTED"];
        text.push('\n');
        text.push_str(&render::table(&head, &rows));
        Ok(text)
    }
}
