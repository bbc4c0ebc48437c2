//! `hfctl status`: the node that answers.

use clap::Args;

use crate::client::Client;
use crate::failure::Failure;
use crate::render::{self, Format, cell};

#[derive(Debug, Args)]
pub(crate) struct Status {}

impl Status {
    #[expect(clippy::unused_self, reason = "a verb is called with itself, whether or not it has arguments")]
    pub(crate) fn run(&self, client: &mut Client, format: Format) -> Result<String, Failure> {
        let node = client.get("/v1/status")?.body;
        if format != Format::Table {
            return Ok(render::value(&node, format));
        }
        let words = ["cluster", "node_id", "name", "role", "leader", "term", "revision", "digest", "version"];
        Ok(words.iter().map(|name| format!("{name:9} {}\n", cell(&node[*name]))).collect())
    }
}
