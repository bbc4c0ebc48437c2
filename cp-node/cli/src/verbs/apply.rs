//! `hfctl apply -f <file or directory>`: what differs from what the cluster has is shown and written in one transaction; a
//! second time, nothing.

use std::path::PathBuf;

use clap::Args;
use serde_json::{Value, json};
use ureq::http::Method;

use crate::client::Client;
use crate::document;
use crate::failure::Failure;
use crate::fleet::Waiting;
use crate::plan::{self, How, Label};
use crate::progress::Progress;
use crate::render::{self, Format, cell};

#[derive(Debug, Args)]
pub(crate) struct Apply {
    /// A file of lists of resources by kind, or a directory of such files; `-` is standard input. Repeatable.
    #[arg(long, short, required = true)]
    file: Vec<PathBuf>,
    /// Only say what would be done, what it would break, and which routes would take others' requests.
    #[arg(long)]
    dry_run: bool,
    /// Delete resources that have this label and stand in no file: <name> or <name>=<value>.
    #[arg(long, value_name = "LABEL")]
    prune: Option<Label>,
    /// Do not ask before writing. Without a terminal nothing is asked.
    #[arg(long, short)]
    yes: bool,
    /// The files are APISIX's: they end in #END, may hold ${{VARIABLES}}, and resources may go without an id.
    #[arg(long)]
    apisix: bool,
    #[command(flatten)]
    waiting: Waiting,
}

impl Apply {
    pub(crate) fn run(&self, client: &mut Client, format: Format) -> Result<String, Failure> {
        let wanted = document::resources(&self.file, self.apisix)?;
        let changes = plan::make(client, &wanted, self.prune.as_ref())?;
        let operations: Vec<Value> = changes.iter().filter_map(plan::Change::operation).collect();
        let count = operations.len();
        let shown = plan::show(&changes);
        let mut closing = String::new();
        let mut consequences = Value::Null;
        if count == 0 {
            closing.push_str("nothing to change\n");
        } else if self.dry_run {
            consequences = plan::dry_run(client, &operations)?;
            closing = plan::consequences(&consequences);
            closing.push_str(&format!("{count} to change; this was a dry run\n"));
        } else {
            plan::confirm(self.yes, &shown, count)?;
            let writing = Progress::of(&format!("writing {count} changes"));
            let body = json!({ "operations": operations }).to_string();
            let answer = client.send(&Method::POST, "/v1/transactions", &[], Some(&body)).map_err(raced)?;
            drop(writing);
            if let Some(warning) = &answer.warning {
                eprintln!("hfctl: warning: {warning}");
            }
            closing = format!("{count} changed at {}\n", answer.position.clone().unwrap_or_default());
            let changed = changes.iter().filter(|change| change.how != How::Unchanged);
            let keys: Vec<String> = changed.map(plan::Change::key).collect();
            closing.push_str(&self.waiting.follow(client, &answer, &keys)?);
        }
        let accepted = consequences["accepted"] != false;
        let text = if format == Format::Table {
            format!("{shown}{closing}")
        } else {
            let result = |change: &plan::Change| json!({"key": change.key(), "result": change.how.word()});
            let results: Vec<Value> = changes.iter().map(result).collect();
            let mut answer = json!({"results": results, "changed": count, "dry_run": self.dry_run});
            if !consequences.is_null() {
                answer["consequences"] = consequences.clone();
            }
            render::value(&answer, format)
        };
        if accepted {
            return Ok(text);
        }
        print!("{text}");
        Err(Failure::Refused(format!("it would be refused: {}", cell(&consequences["error_msg"]))))
    }
}

/// Somebody else was faster than the plan.
fn raced(failure: Failure) -> Failure {
    match failure {
        Failure::Refused(why) if why.starts_with("412") || why.starts_with("409") => Failure::Refused(format!(
            "{why}\nsomebody else has changed it since it was looked at: run the command again to see what differs now"
        )),
        other => other,
    }
}
