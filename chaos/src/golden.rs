//! Data directories of a cluster as an earlier build has left them, in `tests/golden`: three nodes, each with a snapshot and a log
//! that goes on behind it, and a proxy. Its members know each other by the addresses of [`Layout::Golden`].

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::net::TcpListener;

use crate::layout::Layout;
use crate::patience::until;

/// The data directories of the golden cluster.
pub const CLUSTER: &str = "cluster.v1.tar.gz";
/// Nodes and proxies that there are.
pub const CPS: u16 = 3;
/// See [`CPS`].
pub const DPS: u16 = 1;
/// No upstream has this number: who listens there has the turn.
const TURN: u16 = 99;
/// How long others may have it.
const TURN_MAX: Duration = Duration::from_secs(60);
/// Settings of its nodes: with these a node has a snapshot, and a log that was cut off and goes on behind it, after few
/// changes.
pub const SETTINGS: &[&str] = &["raft.snapshot_entries=40", "raft.keep_entries=20"];

/// Waits until nobody else has a golden cluster: there is room for one, until what this gives is dropped.
///
/// # Errors
/// When somebody has it for too long.
pub async fn turn() -> Result<TcpListener> {
    let at = Layout::Golden.upstream(TURN);
    until("it is our turn", TURN_MAX, async || Ok(TcpListener::bind(&at).await?)).await
}

/// A golden file.
#[must_use]
pub fn file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(name)
}

/// Puts what is in a golden archive into this directory.
///
/// # Errors
/// What `tar` said.
pub fn unpack(name: &str, into: &Path) -> Result<()> {
    tar(Command::new("tar").arg("-xzf").arg(file(name)).arg("-C").arg(into))
}

/// Packs these of a directory's contents into a golden archive.
///
/// # Errors
/// What `tar` said.
pub fn pack(name: &str, from: &Path, members: &[&str]) -> Result<()> {
    // A proxy that has ended leaves the socket of its hot restart, which no copy can hold.
    let options = ["--sort=name", "--owner=0", "--group=0", "--numeric-owner", "--exclude=*.sock", "-czf"];
    tar(Command::new("tar").args(options).arg(file(name)).arg("-C").arg(from).args(members))
}

fn tar(command: &mut Command) -> Result<()> {
    let done = command.output().context("tar")?;
    ensure!(done.status.success(), "{command:?}: {}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}
