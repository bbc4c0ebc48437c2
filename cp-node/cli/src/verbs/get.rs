//! `hfctl get <kind> <id>`

use clap::Args;

use super::path;
use crate::client::Client;
use crate::document;
use crate::failure::Failure;
use crate::render::{self, Format};

#[derive(Debug, Args)]
pub(crate) struct Get {
    /// The kind: routes, services, upstreams, …
    kind: String,
    /// The resource's id.
    id: String,
}

impl Get {
    pub(crate) fn run(&self, client: &mut Client, format: Format) -> Result<String, Failure> {
        let kind = document::kind(&self.kind)?;
        let answer = client.get(&path(kind.name, Some(&self.id)))?;
        Ok(render::value(&answer.body["value"], format))
    }
}
