//! One proxy.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{Arming, READY_MAX, args, folder};
use crate::binaries;
use crate::http::Client;
use crate::layout::DpAddresses;
use crate::namespaces::Namespace;
use crate::patience::until;
use crate::process::Process;

/// A proxy: its place on disk and network, and its process while it runs.
#[derive(Debug)]
pub struct Dp {
    /// Its number in this cluster.
    pub number: u16,
    /// Where it listens.
    pub addresses: DpAddresses,
    settings: Vec<String>,
    data_dir: PathBuf,
    dir: PathBuf,
    program: PathBuf,
    environment: Vec<(OsString, OsString)>,
    arming: Option<Arming>,
    namespace: Option<Namespace>,
    process: Option<Process>,
}

/// Where a proxy stands, as it says itself.
#[derive(Clone, Debug)]
pub struct ProxyView {
    /// The epoch of its position.
    pub epoch: u64,
    /// The revision of its position.
    pub revision: u64,
    /// The digest of what it holds.
    pub digest: String,
    /// The control-plane node that it follows.
    pub follows: Option<u64>,
    /// Where it has that from: `disk`, `archive`, `control_plane`.
    pub source: String,
    /// Whether a restart would take it back: its disk has not what it serves.
    pub volatile: bool,
}

impl Dp {
    pub(super) fn new(number: u16, addresses: DpAddresses, dir: &Path, endpoints: &[String]) -> Self {
        let data_dir = folder(dir, &format!("dp-{number}"));
        let settings = vec![
            format!("node.name=dp-{number}"),
            format!("data_dir={}", data_dir.display()),
            format!("proxy.listen=[{}]", addresses.proxy),
            "proxy.workers=2".to_owned(),
            "proxy.tls.listen=[]".to_owned(),
            format!("status.listen={}", addresses.status),
            format!("metrics.listen={}", addresses.metrics),
            format!("control.listen={}", addresses.control),
            format!("control_plane.endpoints=[{}]", endpoints.join(", ")),
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

    /// Starts it.
    ///
    /// # Errors
    /// Why it cannot be started.
    pub fn run(&mut self) -> Result<()> {
        let program = if self.program.as_os_str().is_empty() { &binaries::find("dp-proxy")? } else { &self.program };
        let words = args(&["run"], &self.settings);
        let (environment, namespace) = (Arming::with(self.arming.as_ref(), &self.environment), self.namespace.as_ref());
        self.process = Some(Process::spawn_with(&self.name(), program, &words, &self.dir, &environment, namespace)?);
        Ok(())
    }

    /// Waits until its process answers.
    ///
    /// # Errors
    /// When it does not.
    pub async fn answers(&self) -> Result<()> {
        self.wait_for("/status").await
    }

    /// Waits until it has a configuration and serves it.
    ///
    /// # Errors
    /// When it does not.
    pub async fn ready(&self) -> Result<()> {
        self.wait_for("/status/ready").await
    }

    async fn wait_for(&self, path: &str) -> Result<()> {
        let mut probe = Client::new(&self.addresses.status);
        let answered = until(path, READY_MAX, async || probe.get(path).await?.expect(&[200])).await;
        answered.map(drop).with_context(|| format!("{}:\n{}", self.name(), self.printed()))
    }

    /// Where it stands.
    ///
    /// # Errors
    /// When it does not say so.
    pub async fn view(&self) -> Result<ProxyView> {
        let view = Client::new(&self.addresses.status).get("/status/config").await?.expect(&[200])?.json()?;
        Ok(ProxyView {
            epoch: view["epoch"].as_u64().context("no epoch")?,
            revision: view["revision"].as_u64().context("no revision")?,
            digest: view["digest"].as_str().context("no digest")?.to_owned(),
            follows: view["control_plane"]["node_id"].as_u64(),
            source: view["source"].as_str().context("no source")?.to_owned(),
            volatile: view["volatile"] == true,
        })
    }

    /// A client of its traffic port.
    #[must_use]
    pub fn client(&self) -> Client {
        Client::new(&self.addresses.proxy)
    }

    /// What it has printed in all its lives.
    #[must_use]
    pub fn printed(&self) -> String {
        std::fs::read_to_string(self.dir.join(format!("{}.log", self.name()))).unwrap_or_default()
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> String {
        format!("dp-{}", self.number)
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
}
