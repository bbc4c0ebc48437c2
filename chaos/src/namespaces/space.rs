//! One namespace, and how programs come into it.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::AsyncReadExt;
use tokio::process::{Child, Command};

use super::tool;

/// How long it may take to be made, on a busy machine.
const MADE_MAX: Duration = Duration::from_secs(10);

/// A network namespace without a name. It is kept by a process that ends with this one, however that ends.
#[derive(Debug)]
pub struct Namespace {
    /// Waits in it until its input is closed.
    keeper: Child,
}

impl Namespace {
    /// An empty one.
    pub(super) async fn new() -> Result<Self> {
        let mut command = Command::new(tool("unshare")?);
        command.args(["--net", "--", "/bin/sh", "-c", "echo; exec cat >/dev/null"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::inherit()).kill_on_drop(true);
        let mut keeper = command.spawn().context("unshare")?;
        let mut said = keeper.stdout.take().context("its output is piped")?;
        // It says something as soon as it is in there.
        match tokio::time::timeout(MADE_MAX, said.read_u8()).await {
            Ok(Ok(_)) => Ok(Self { keeper }),
            Ok(Err(_)) => bail!("unshare --net: {}", keeper.wait().await?),
            Err(_) => bail!("unshare --net has not come in there within {MADE_MAX:?}"),
        }
    }

    /// The process that keeps it.
    pub(super) fn pid(&self) -> Result<u32> {
        self.keeper.id().context("the keeper of a namespace has ended")
    }

    /// The file that names it.
    pub(super) fn entrance(&self) -> PathBuf {
        // It is not waited for before this is dropped, so that the id is its own.
        PathBuf::from(format!("/proc/{}/ns/net", self.keeper.id().unwrap_or_default()))
    }

    /// The command line by which a program runs in it, as the same process. Its environment is set in there alone: libraries to
    /// preload are for the program.
    ///
    /// # Errors
    /// When what it takes is missing.
    pub fn command(
        &self,
        program: &Path,
        args: &[impl AsRef<OsStr>],
        environment: &[(OsString, OsString)],
    ) -> Result<(PathBuf, Vec<OsString>)> {
        let entrance = format!("--net={}", self.entrance().display());
        let mut words: Vec<OsString> = [&*entrance, "--", "/usr/bin/env", "--"].map(OsString::from).into();
        words.extend(environment.iter().map(|(key, value)| {
            let parts = [key.as_os_str(), OsStr::new("="), value.as_os_str()];
            parts.into_iter().collect::<OsString>()
        }));
        words.push(program.into());
        words.extend(args.iter().map(|arg| arg.as_ref().to_owned()));
        Ok((tool("nsenter")?, words))
    }
}
