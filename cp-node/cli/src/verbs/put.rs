//! `hfctl put <kind> <id> -f <file>`

use std::path::PathBuf;

use clap::Args;
use ureq::http::Method;

use super::path;
use crate::client::Client;
use crate::document;
use crate::failure::Failure;
use crate::fleet::Waiting;
use crate::render::{self, Format};

#[derive(Debug, Args)]
pub(crate) struct Put {
    /// The kind: routes, services, upstreams, …
    kind: String,
    /// The resource's id.
    id: String,
    /// Its body, as YAML or JSON; `-` is standard input.
    #[arg(long, short, default_value = "-")]
    file: PathBuf,
    /// Only if its last change was under this revision.
    #[arg(long, value_name = "REVISION")]
    if_match: Option<u64>,
    #[command(flatten)]
    waiting: Waiting,
}

impl Put {
    pub(crate) fn run(&self, client: &mut Client, format: Format) -> Result<String, Failure> {
        let kind = document::kind(&self.kind)?;
        let body = document::value(&self.file)?;
        document::check(&self.file.display().to_string(), kind, &self.id, &body)?;
        let if_match = self.if_match.map(|revision| ("if-match", format!("\"{revision}\"")));
        let headers: Vec<_> = if_match.into_iter().collect();
        let answer = client.send(&Method::PUT, &path(kind.name, Some(&self.id)), &headers, Some(&body.to_string()))?;
        if let Some(warning) = &answer.warning {
            eprintln!("hfctl: warning: {warning}");
        }
        let key = format!("{}/{}", kind.name, self.id);
        let waited = self.waiting.follow(client, &answer, std::slice::from_ref(&key))?;
        if format != Format::Table {
            return Ok(render::value(&answer.body["value"], format));
        }
        let how = if answer.status == 201 { "created" } else { "replaced" };
        Ok(format!("{key} {how} at {}\n{waited}", answer.position.unwrap_or_default()))
    }
}
