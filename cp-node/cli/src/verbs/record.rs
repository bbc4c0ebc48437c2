//! `hfctl record`, `hfctl record release|off`

use clap::{Args, Subcommand};
use ureq::http::Method;

use crate::client::Client;
use crate::failure::Failure;
use crate::render::{self, Format, cell};

#[derive(Debug, Args)]
pub(crate) struct Record {
    #[command(subcommand)]
    change: Option<Change>,
}

#[derive(Debug, Subcommand)]
enum Change {
    /// Shows how the record is doing, as the node that answers knows it.
    Status,
    /// Lets another PostgreSQL system with the same content take the record's place.
    Release,
    /// Says that the cluster has no record any more: changes are no longer kept for it.
    Off,
}

impl Record {
    pub(crate) fn run(&self, client: &mut Client, format: Format) -> Result<String, Failure> {
        let (path, done) = match &self.change {
            None | Some(Change::Status) => return show(client, format),
            Some(Change::Release) => ("/v1/record/release", "the record may be on another PostgreSQL system now\n"),
            Some(Change::Off) => ("/v1/record/off", "the cluster has no record any more\n"),
        };
        client.send(&Method::POST, path, &[], None)?;
        Ok(done.to_owned())
    }
}

fn show(client: &mut Client, format: Format) -> Result<String, Failure> {
    let record = client.get("/v1/record")?.body;
    if format != Format::Table {
        return Ok(render::value(&record, format));
    }
    let names =
        ["state", "reason", "message", "recorded_revision", "lag_changes", "lag_bytes", "lag_age_ms", "timeline"];
    Ok(names.iter().map(|name| format!("{name:18} {}\n", cell(&record[*name]))).collect())
}
