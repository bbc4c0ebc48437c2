//! `hfctl revert`

use clap::Args;
use serde_json::json;
use ureq::http::Method;

use crate::client::Client;
use crate::failure::Failure;
use crate::render::cell;

/// Takes a change back, by a new change.
#[derive(Debug, Args)]
pub(crate) struct Revert {
    /// The revision of the change.
    revision: u64,
    /// Also where a resource was changed again since.
    #[arg(long)]
    force: bool,
}

impl Revert {
    pub(crate) fn run(&self, client: &mut Client) -> Result<String, Failure> {
        let body = json!({ "revision": self.revision, "force": self.force }).to_string();
        let answer = client.send(&Method::POST, "/v1/revert", &[], Some(&body))?.body;
        Ok(format!("revision {} takes back revision {}\n", cell(&answer["revision"]), self.revision))
    }
}
