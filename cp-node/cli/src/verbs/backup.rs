//! `hfctl backup <file>`

use std::fs::{File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::client::Client;
use crate::failure::Failure;
use crate::progress::Progress;
use crate::render::{self, Format};

#[derive(Debug, Args)]
pub(crate) struct Backup {
    /// Where it is written; a file that is there already stays, and the command fails.
    file: PathBuf,
    /// What the node that answers has, without asking the others: when too few of them are left.
    #[arg(long)]
    stale: bool,
}

impl Backup {
    pub(crate) fn run(&self, client: &mut Client, format: Format) -> Result<String, Failure> {
        let fetching = Progress::of("fetching everything that is configured");
        let consistency = if self.stale { "?consistency=stale" } else { "" };
        let (position, bytes) = client.download(&format!("/v1/backup{consistency}"))?;
        drop(fetching);
        // It holds everything that is configured: only its owner may read it.
        let write = || -> std::io::Result<()> {
            let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&self.file)?;
            file.write_all(&bytes)?;
            file.sync_all()
        };
        write().map_err(|e| Failure::file(&self.file, &e))?;
        let path = self.file.display().to_string();
        if format != Format::Table {
            return Ok(render::value(&json!({ "file": path, "position": position, "bytes": bytes.len() }), format));
        }
        Ok(format!("{path}: everything at {} ({} bytes)\n", position.unwrap_or_default(), bytes.len()))
    }
}
