//! `hfctl restore <file>`: what `hfctl backup` wrote becomes the configuration again, in one transaction.

use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use super::resource_of;
use crate::client::Client;
use crate::failure::Failure;
use crate::fleet::Waiting;
use crate::plan;
use crate::progress::Progress;
use crate::render::{self, Format, cell};

#[derive(Debug, Args)]
pub(crate) struct Restore {
    /// The file, as `hfctl backup` wrote it on this cluster.
    file: PathBuf,
    /// Only say what would be done, what it would break, and which routes would take others' requests.
    #[arg(long)]
    dry_run: bool,
    /// Do not ask before writing. Without a terminal nothing is asked.
    #[arg(long, short)]
    yes: bool,
    #[command(flatten)]
    waiting: Waiting,
}

impl Restore {
    pub(crate) fn run(&self, client: &mut Client, format: Format) -> Result<String, Failure> {
        let backup = std::fs::read(&self.file).map_err(|e| Failure::file(&self.file, &e))?;
        let trying = Progress::of("looking at what differs from the backup");
        let tried = client.upload("/v1/restore?dry_run=true", &backup)?.body;
        drop(trying);
        let count = tried["results"].as_array().map_or(0, Vec::len);
        let shown = format!("{}{}", plan::show_dry_run(&tried), plan::consequences(&tried));
        if count == 0 || self.dry_run {
            if format != Format::Table {
                return Ok(render::value(&tried, format));
            }
            return Ok(match count {
                0 => "nothing to change\n".to_owned(),
                _ => format!("{shown}{count} to change; this was a dry run\n"),
            });
        }
        plan::confirm(self.yes, &shown, count)?;
        let writing = Progress::of(&format!("writing {count} changes"));
        let answer = client.upload("/v1/restore", &backup)?;
        drop(writing);
        let paths = answer.body["keys"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let keys: Vec<String> = paths.filter_map(resource_of).collect();
        let waited = self.waiting.follow(client, &answer, &keys)?;
        if format != Format::Table {
            return Ok(render::value(&answer.body, format));
        }
        let restored = cell(&answer.body["restored"]);
        let position = answer.position.clone().unwrap_or_default();
        Ok(format!("{shown}{} changed at {position}: everything is as it was at {restored}\n{waited}", keys.len()))
    }
}
