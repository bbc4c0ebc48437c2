//! Where the programs under test are.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

/// A program that the same build made as this one.
///
/// # Errors
/// Where it was looked for, and how it is built.
pub fn find(program: &str) -> Result<PathBuf> {
    look(program, "cargo build --workspace")
}

/// A program with failpoints; see `chaos/failing`.
///
/// # Errors
/// Where it was looked for, and how it is built.
pub fn failing(program: &str) -> Result<PathBuf> {
    look(program, "make failing")
}

fn look(program: &str, built_by: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("this program's own file cannot be found")?;
    // `target/<profile>/chaos`, or `target/<profile>/deps/it-…` for a test.
    let mut folder = own.parent().context("this program's file has no folder")?;
    if folder.ends_with("deps") {
        folder = folder.parent().context("deps has no folder above it")?;
    }
    let path = folder.join(program);
    ensure!(path.is_file(), "{} is missing: build it first with `{built_by}`", path.display());
    Ok(path)
}
