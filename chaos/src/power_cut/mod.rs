//! Cuts the power of a process: what it has not synced is lost.
//!
//! ```text
//!   process + libpower_cut.so --> journal --> Disk: what is there, and what of it would survive --> cut --> Tree
//! ```
//!
//! A process is started [`watched`], and ended in any way, as often as a scenario likes. Then [`Disk`] tells what a cut
//! leaves, as harshly as POSIX allows: of everything since a file's or directory's last sync any part may be there or
//! not, in pieces of a sector, in any order; and a synced file whose directory was not synced may have no name.

mod disk;
mod journal;
#[path = "../../power-cut/src/record.rs"]
pub mod record;
mod tree;

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

pub use disk::{Cut, Disk, Forgets};
pub use journal::Journal;
pub use tree::{Node, Tree, copy_tree};

use crate::binaries;

/// Lets a program that is about to be started note in `journal` what it does to the files below `directory`.
///
/// # Errors
/// When the library is not built, or a path cannot be found.
pub fn watched(command: &mut Command, directory: &Path, journal: &Path) -> Result<()> {
    let library = binaries::find("libpower_cut.so")
        .context("the library that cuts the power is missing: build it with `cargo build -p power-cut`")?;
    let directory = directory.canonicalize().with_context(|| directory.display().to_string())?;
    command.env("LD_PRELOAD", library).env(record::DIRECTORY, directory).env(record::JOURNAL, journal);
    Ok(())
}
