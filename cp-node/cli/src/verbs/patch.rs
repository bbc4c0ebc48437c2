//! `hfctl patch <kind> <id> [-p <json> | -f <file>]`

use std::path::PathBuf;

use clap::Args;
use protocol::json;
use ureq::http::Method;

use super::path;
use crate::client::Client;
use crate::document;
use crate::failure::Failure;
use crate::fleet::Waiting;
use crate::render::{self, Format};

#[derive(Debug, Args)]
pub(crate) struct Patch {
    /// The kind: routes, services, upstreams, …
    kind: String,
    /// The resource's id.
    id: String,
    /// The change, as JSON: objects are merged, null removes a field, everything else replaces.
    #[arg(long, short, conflicts_with = "file", required_unless_present = "file")]
    patch: Option<String>,
    /// The change in a file, as YAML or JSON; `-` is standard input.
    #[arg(long, short)]
    file: Option<PathBuf>,
    /// A place inside the resource, for example nodes: the value there is replaced.
    #[arg(long, value_name = "PATH")]
    at: Option<String>,
    /// Only if its last change was under this revision.
    #[arg(long, value_name = "REVISION")]
    if_match: Option<u64>,
    #[command(flatten)]
    waiting: Waiting,
}

impl Patch {
    pub(crate) fn run(&self, client: &mut Client, format: Format) -> Result<String, Failure> {
        let kind = document::kind(&self.kind)?;
        let body = match (&self.patch, &self.file) {
            (Some(text), _) => {
                json::parse(text.as_bytes()).map_err(|e| Failure::Usage(format!("--patch: {e}")))?;
                text.clone()
            }
            (None, Some(file)) => document::value(file)?.to_string(),
            (None, None) => return Err(Failure::Usage("a change is needed: --patch or --file".to_owned())),
        };
        let if_match = self.if_match.map(|revision| ("if-match", format!("\"{revision}\"")));
        let headers: Vec<_> = if_match.into_iter().collect();
        let at = self.at.as_ref().map_or(String::new(), |at| format!("/{}", at.trim_matches('/')));
        let path = format!("{}{at}", path(kind.name, Some(&self.id)));
        let answer = client.send(&Method::PATCH, &path, &headers, Some(&body))?;
        if let Some(warning) = &answer.warning {
            eprintln!("hfctl: warning: {warning}");
        }
        let key = format!("{}/{}", kind.name, self.id);
        let waited = self.waiting.follow(client, &answer, std::slice::from_ref(&key))?;
        if format != Format::Table {
            return Ok(render::value(&answer.body["value"], format));
        }
        Ok(format!("{key} patched at {}\n{waited}", answer.position.unwrap_or_default()))
    }
}
