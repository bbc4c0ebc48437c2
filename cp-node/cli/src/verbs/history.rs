//! `hfctl history`

use clap::Args;
use serde_json::Value;

use crate::client::Client;
use crate::document;
use crate::failure::Failure;
use crate::render::{self, Format, cell};

/// Who changed what, when: newest first.
#[derive(Debug, Args)]
pub(crate) struct History {
    /// Only this kind, for example route.
    kind: Option<String>,
    /// Only this resource.
    id: Option<String>,
    /// Only this revision.
    #[arg(long)]
    revision: Option<u64>,
    /// Only changes by this author.
    #[arg(long)]
    author: Option<String>,
    /// At most so many changes.
    #[arg(long, default_value_t = 50)]
    limit: u32,
}

impl History {
    pub(crate) fn run(&self, client: &mut Client, format: Format) -> Result<String, Failure> {
        let mut path = format!("/v1/history?limit={}", self.limit);
        if let Some(kind) = &self.kind {
            path.push_str(&format!("&kind={}", document::kind(kind)?.name));
        }
        if let Some(id) = &self.id {
            path.push_str(&format!("&id={id}"));
        }
        if let Some(revision) = self.revision {
            path.push_str(&format!("&revision={revision}"));
        }
        if let Some(author) = &self.author {
            path.push_str(&format!("&author={author}"));
        }
        let answer = client.get(&path)?.body;
        if format != Format::Table {
            return Ok(render::value(&answer, format));
        }
        let row = |row: &Value| -> Vec<String> {
            ["revision", "op", "kind", "id", "author", "time_ms", "request"].map(|name| cell(&row[name])).to_vec()
        };
        let rows: Vec<_> = answer["list"].as_array().into_iter().flatten().map(row).collect();
        for gap in answer["gaps"].as_array().into_iter().flatten() {
            let (after, upto) = (cell(&gap["after"]), cell(&gap["upto"]));
            eprintln!("hfctl: warning: this node's own record lacks what came after {after} up to {upto}");
        }
        Ok(render::table(&["REVISION", "OP", "KIND", "ID", "AUTHOR", "TIME (MS)", "REQUEST"], &rows))
    }
}
