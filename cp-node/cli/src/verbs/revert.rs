//! `hfctl revert`

use clap::Args;
use serde_json::{Value, json};
use ureq::http::Method;

use super::resource_of;
use crate::client::Client;
use crate::failure::Failure;
use crate::fleet::Waiting;
use crate::render::{self, Format, cell};

/// Takes a change back, by a new change.
#[derive(Debug, Args)]
pub(crate) struct Revert {
    /// The revision of the change.
    revision: u64,
    /// Also where a resource was changed again since.
    #[arg(long)]
    force: bool,
    #[command(flatten)]
    waiting: Waiting,
}

impl Revert {
    pub(crate) fn run(&self, client: &mut Client, format: Format) -> Result<String, Failure> {
        let body = json!({ "revision": self.revision, "force": self.force }).to_string();
        let answer = client.send(&Method::POST, "/v1/revert", &[], Some(&body))?;
        let paths = answer.body["keys"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let keys: Vec<String> = paths.filter_map(resource_of).collect();
        let waited = self.waiting.follow(client, &answer, &keys)?;
        if format != Format::Table {
            return Ok(render::value(&answer.body, format));
        }
        let revision = cell(&answer.body["revision"]);
        Ok(format!("revision {revision} takes back revision {}\n{waited}", self.revision))
    }
}
