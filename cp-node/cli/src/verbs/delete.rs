//! `hfctl delete <kind> <id>`

use clap::Args;
use serde_json::json;
use ureq::http::Method;

use super::path;
use crate::client::Client;
use crate::document;
use crate::failure::Failure;
use crate::fleet::Waiting;
use crate::render::{self, Format};

#[derive(Debug, Args)]
pub(crate) struct Delete {
    /// The kind: routes, services, upstreams, …
    kind: String,
    /// The resource's id.
    id: String,
    /// Only if its last change was under this revision.
    #[arg(long, value_name = "REVISION")]
    if_match: Option<u64>,
    /// Even while others refer to it.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    waiting: Waiting,
}

impl Delete {
    pub(crate) fn run(&self, client: &mut Client, format: Format) -> Result<String, Failure> {
        let kind = document::kind(&self.kind)?;
        let force = if self.force { "?force=true" } else { "" };
        let if_match = self.if_match.map(|revision| ("if-match", format!("\"{revision}\"")));
        let headers: Vec<_> = if_match.into_iter().collect();
        let path = format!("{}{force}", path(kind.name, Some(&self.id)));
        let answer = client.send(&Method::DELETE, &path, &headers, None)?;
        let key = format!("{}/{}", kind.name, self.id);
        let waited = self.waiting.follow(client, &answer, std::slice::from_ref(&key))?;
        if format != Format::Table {
            return Ok(render::value(&json!({"key": key, "result": "deleted", "position": answer.position}), format));
        }
        Ok(format!("{key} deleted at {}\n{waited}", answer.position.unwrap_or_default()))
    }
}
