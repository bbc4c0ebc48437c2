//! One control-plane node.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::{Api, Arming, KEY, READY_MAX, args, folder};
use crate::binaries;
use crate::http::Client;
use crate::layout::CpAddresses;
use crate::namespaces::Namespace;
use crate::patience::until;
use crate::process::Process;

/// A control-plane node: its place on disk and network, and its process while it runs.
#[derive(Debug)]
pub struct Cp {
    /// Its number in this cluster; its node id is the cluster's to give.
    pub number: u16,
    /// Where it listens.
    pub addresses: CpAddresses,
    settings: Vec<String>,
    data_dir: PathBuf,
    dir: PathBuf,
    program: PathBuf,
    environment: Vec<(OsString, OsString)>,
    arming: Option<Arming>,
    namespace: Option<Namespace>,
    process: Option<Process>,
}

impl Cp {
    pub(super) fn new(number: u16, addresses: CpAddresses, dir: &Path) -> Self {
        let data_dir = folder(dir, &format!("cp-{number}"));
        let settings = vec![
            format!("node.name=cp-{number}"),
            format!("data_dir={}", data_dir.display()),
            format!("peer.listen={}", addresses.peer),
            format!("feed.listen={}", addresses.feed),
            format!("admin.listen={}", addresses.admin),
            format!("status.listen={}", addresses.status),
            format!("admin.keys=[{{name: admin, key: {KEY}, role: admin}}]"),
        ];
        Self {
            number,
            addresses,
            settings,
            data_dir,
            dir: dir.to_owned(),
            program: PathBuf::new(),
            environment: Vec::new(),
            arming: None,
            namespace: None,
            process: None,
        }
    }

    /// Adds settings, as lines `key=value`; a later one wins.
    pub fn set(&mut self, settings: &[&str]) {
        self.settings.extend(settings.iter().map(|setting| (*setting).to_owned()));
    }

    /// Runs another program in its place from the next start on.
    pub fn program(&mut self, program: PathBuf) {
        self.program = program;
    }

    pub(super) fn enter(&mut self, namespace: Namespace) {
        self.namespace = Some(namespace);
    }

    /// Adds variables of its environment from the next start on.
    pub fn environment(&mut self, variables: impl IntoIterator<Item = (OsString, OsString)>) {
        self.environment.extend(variables);
    }

    /// Has it end at a failpoint from the next start on; `None`: at none any more. Its program must have failpoints.
    pub fn arm(&mut self, arming: Option<Arming>) {
        self.arming = arming;
    }

    pub(super) fn wants_vote(&self) -> bool {
        !self.settings.iter().any(|setting| setting == "cluster.voter=false")
    }

    /// Whom it asks to be taken in, while its disk is nobody's.
    pub fn join(&mut self, peers: &[String]) {
        self.settings.push(format!("cluster.join=[{}]", peers.join(", ")));
    }

    /// Founds a cluster with it.
    ///
    /// # Errors
    /// What it said.
    pub async fn init(&mut self) -> Result<()> {
        self.execute(&["init"]).await.map(drop)
    }

    /// Brings a lost cluster back with it, and gives what it said.
    ///
    /// # Errors
    /// What it said.
    pub async fn bootstrap(&mut self, flags: &[&str]) -> Result<String> {
        let mut words = vec!["bootstrap"];
        words.extend_from_slice(flags);
        self.execute(&words).await
    }

    /// Runs another of its program's commands with its settings, and gives what it said.
    ///
    /// # Errors
    /// What it said.
    pub async fn execute(&mut self, words: &[&str]) -> Result<String> {
        let status = self.status_of(words).await?;
        let printed = self.printed();
        ensure!(status.success(), "cp-node {}: {status}: {printed}", words[0]);
        Ok(printed)
    }

    /// The same, and gives how it ended.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn status_of(&mut self, words: &[&str]) -> Result<ExitStatus> {
        self.spawn(words)?.ended(READY_MAX).await
    }

    /// Takes it out of its cluster while it runs; its process then ends by itself.
    ///
    /// # Errors
    /// What `cp-node leave` said.
    pub async fn leave(&self) -> Result<()> {
        let program = binaries::find("cp-node")?;
        let name = format!("{}-leave", self.name());
        let (words, namespace) = (args(&["leave"], &self.settings), self.namespace.as_ref());
        let mut process = Process::spawn_with(&name, &program, &words, &self.dir, &[], namespace)?;
        let status = process.ended(READY_MAX).await?;
        ensure!(status.success(), "cp-node leave: {status}: {}", process.printed());
        Ok(())
    }

    /// Starts it.
    ///
    /// # Errors
    /// Why it cannot be started.
    pub fn run(&mut self) -> Result<()> {
        self.process = Some(self.spawn(&["run"])?);
        Ok(())
    }

    fn spawn(&self, subcommand: &[&str]) -> Result<Process> {
        let program = if self.program.as_os_str().is_empty() { &binaries::find("cp-node")? } else { &self.program };
        let (words, namespace) = (args(subcommand, &self.settings), self.namespace.as_ref());
        let environment = Arming::with(self.arming.as_ref(), &self.environment);
        Process::spawn_with(&self.name(), program, &words, &self.dir, &environment, namespace)
    }

    /// Waits until it can serve writes.
    ///
    /// # Errors
    /// Why it is not ready, when it has ended or the time is up; with the end of its log.
    pub async fn ready(&mut self) -> Result<()> {
        let mut probe = Client::new(&self.addresses.status);
        let process = self.process.as_mut().context("it does not run")?;
        let ready = until("it is ready", READY_MAX, async || {
            if !process.runs() {
                return Ok(false);
            }
            probe.get("/status/ready").await?.expect(&[200])?;
            Ok(true)
        })
        .await;
        match ready {
            Ok(true) => Ok(()),
            Ok(false) => anyhow::bail!("{} has ended:\n{}", self.name(), self.log_end()),
            Err(why) => Err(why.context(format!("{}:\n{}", self.name(), self.log_end()))),
        }
    }

    /// The end of what it has printed.
    #[must_use]
    pub fn log_end(&self) -> String {
        let printed = self.printed();
        let lines: Vec<&str> = printed.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    /// What it has printed in all its lives.
    #[must_use]
    pub fn printed(&self) -> String {
        std::fs::read_to_string(self.dir.join(format!("{}.log", self.name()))).unwrap_or_default()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> String {
        format!("cp-{}", self.number)
    }

    /// Its disk.
    #[must_use]
    pub fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    /// Whether it was started and not ended since.
    #[must_use]
    pub fn is_running(&self) -> bool {
        self.process.is_some()
    }

    /// Its process.
    ///
    /// # Errors
    /// When it does not run.
    pub fn process(&mut self) -> Result<&mut Process> {
        self.process.as_mut().context("it does not run")
    }

    /// A client of its Admin API.
    #[must_use]
    pub fn api(&self) -> Api {
        Api::at(&self.addresses.admin)
    }

    /// Ends it as a crash does.
    ///
    /// # Errors
    /// When it does not run.
    pub async fn kill(&mut self) -> Result<()> {
        self.process.take().context("it does not run")?.kill().await
    }

    /// Ends it in order.
    ///
    /// # Errors
    /// When it does not run, or takes too long.
    pub async fn terminate(&mut self, within: Duration) -> Result<ExitStatus> {
        self.process.take().context("it does not run")?.terminate(within).await
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// When it does not run, or goes on for too long.
    pub async fn ended(&mut self, within: Duration) -> Result<ExitStatus> {
        let status = self.process()?.ended(within).await?;
        self.process = None;
        Ok(status)
    }

    /// Throws its disk away.
    ///
    /// # Errors
    /// When it runs, or the disk cannot be emptied.
    pub fn wipe(&mut self) -> Result<()> {
        ensure!(self.process.is_none(), "a running node's disk is not wiped");
        Ok(std::fs::remove_dir_all(&self.data_dir)?)
    }
}
