//! A cluster of real programs: control-plane nodes, proxies, and what is known of them.

mod api;
mod arming;
mod cp;
mod dp;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

pub use api::{Api, NodeView};
pub use arming::Arming;
pub use cp::Cp;
pub use dp::{Dp, ProxyView};

use crate::layout::Layout;
use crate::leftovers;
use crate::namespaces::Namespaces;
use crate::patience::until;
use crate::wires::End;

/// How long a cluster may take to have a leader, and a node to be ready, on a busy machine.
pub const READY_MAX: Duration = Duration::from_secs(30);

/// The key of the Admin API.
pub const KEY: &str = "chaos-admin-key-0001";

/// Control-plane nodes and proxies on this machine. They are killed, and their files removed, when this is dropped.
#[derive(Debug)]
pub struct Cluster {
    /// Who gets which addresses.
    pub layout: Layout,
    /// Control-plane nodes; number `n` is at `n - 1`.
    pub cps: Vec<Cp>,
    /// Proxies; number `n` is at `n - 1`.
    pub dps: Vec<Dp>,
    /// What runs as nodes and as proxies; nothing: what this build made.
    programs: Option<(PathBuf, PathBuf)>,
    /// Where each of them has a network of its own.
    namespaces: Option<Arc<Namespaces>>,
    dir: TempDir,
}

impl Cluster {
    /// A cluster without members.
    ///
    /// # Errors
    /// When there is no room for its files.
    pub fn new(layout: Layout) -> Result<Self> {
        Self::within(layout, None)
    }

    /// The same, where each member will have a network of its own.
    ///
    /// # Errors
    /// When there is no room for its files.
    pub fn within(layout: Layout, namespaces: Option<Arc<Namespaces>>) -> Result<Self> {
        let dir = leftovers::directory("").context("no directory for a cluster")?;
        Ok(Self { layout, cps: Vec::new(), dps: Vec::new(), programs: None, namespaces, dir })
    }

    /// Runs other programs as the nodes and proxies that are added from now on.
    pub fn programs(&mut self, cp: PathBuf, dp: PathBuf) {
        self.programs = Some((cp, dp));
    }

    /// A cluster of `cps` voters and `dps` proxies that follow all of them. `settings` are lines `key=value` for every
    /// control-plane node.
    ///
    /// # Errors
    /// What did not start.
    pub async fn start(layout: Layout, cps: u16, dps: u16, settings: &[&str]) -> Result<Self> {
        let mut cluster = Self::new(layout)?;
        for number in 1..=cps {
            cluster.add_cp(number, settings).await?;
        }
        for number in 1..=dps {
            cluster.add_dp(number).await?;
        }
        Ok(cluster)
    }

    /// Founds the cluster with its first node, or has another one join it as a voter; waits until it is ready.
    ///
    /// # Errors
    /// What did not start.
    pub async fn add_cp(&mut self, number: u16, settings: &[&str]) -> Result<&mut Cp> {
        let mut cp = Cp::new(number, self.layout.cp(number), self.dir.path());
        if let Some((program, _)) = &self.programs {
            cp.program(program.clone());
        }
        cp.set(settings);
        if let Some(namespaces) = &self.namespaces {
            cp.enter(namespaces.add(End::Node(number)).await?);
        }
        match self.cps.is_empty() {
            true => cp.init().await?,
            false => cp.join(&self.cps.iter().map(|cp| cp.addresses.peer.clone()).collect::<Vec<_>>()),
        }
        cp.run()?;
        cp.ready().await?;
        let mut api = cp.api();
        if self.cps.is_empty() && settings.iter().any(|setting| setting.starts_with("record.dsn=")) {
            // A change from before would stand in the record as what that began with, and not as a change.
            until("changes are kept for the record", READY_MAX, async || {
                let record = api.call("GET", "/v1/record", &[], String::new()).await?.expect(&[200])?.json()?;
                ensure!(record["kept"] == true, "{record}");
                Ok(())
            })
            .await?;
        }
        if !self.cps.is_empty() && cp.wants_vote() {
            until(&format!("{} becomes a voter", cp.name()), READY_MAX, async || {
                let own = api.status().await?;
                let members = api.members().await?;
                let voter = members.iter().any(|member| member.node_id == own.node_id && member.voter);
                ensure!(voter, "it is a {}", own.role);
                Ok(())
            })
            .await?;
        }
        self.cps.push(cp);
        Ok(self.cps.last_mut().expect("it was just added"))
    }

    /// Makes room for `cps` nodes that are members already, and `dps` proxies that follow them, and starts none of them:
    /// their disks are still to be put in their places.
    pub fn place(&mut self, cps: u16, dps: u16, settings: &[&str]) {
        for number in 1..=cps {
            let mut cp = Cp::new(number, self.layout.cp(number), self.dir.path());
            cp.set(settings);
            self.cps.push(cp);
        }
        let endpoints = self.feeds();
        for number in 1..=dps {
            self.dps.push(Dp::new(number, self.layout.dp(number), self.dir.path(), &endpoints));
        }
    }

    /// Starts a proxy that follows all control-plane nodes there are; waits until it runs, not until it has a
    /// configuration.
    ///
    /// # Errors
    /// What did not start.
    pub async fn add_dp(&mut self, number: u16) -> Result<&mut Dp> {
        self.add_dp_with(number, &[]).await
    }

    /// The same with settings, as lines `key=value`.
    ///
    /// # Errors
    /// What did not start.
    pub async fn add_dp_with(&mut self, number: u16, settings: &[&str]) -> Result<&mut Dp> {
        let mut dp = Dp::new(number, self.layout.dp(number), self.dir.path(), &self.feeds());
        if let Some((_, program)) = &self.programs {
            dp.program(program.clone());
        }
        dp.set(settings);
        if let Some(namespaces) = &self.namespaces {
            dp.enter(namespaces.add(End::Proxy(number)).await?);
        }
        dp.run()?;
        dp.answers().await?;
        self.dps.push(dp);
        Ok(self.dps.last_mut().expect("it was just added"))
    }

    fn feeds(&self) -> Vec<String> {
        self.cps.iter().map(|cp| cp.addresses.feed.clone()).collect()
    }

    /// Where its files are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Control-plane node `number`.
    pub fn cp(&mut self, number: u16) -> &mut Cp {
        &mut self.cps[usize::from(number) - 1]
    }

    /// Proxy `number`.
    pub fn dp(&mut self, number: u16) -> &mut Dp {
        &mut self.dps[usize::from(number) - 1]
    }

    /// The number of the running node with this id.
    ///
    /// # Errors
    /// When there is none.
    pub async fn number_of(&self, node_id: u64) -> Result<u16> {
        for cp in self.cps.iter().filter(|cp| cp.is_running()) {
            if cp.api().status().await?.node_id == node_id {
                return Ok(cp.number);
            }
        }
        anyhow::bail!("no running node has the id {node_id}")
    }

    /// The number of the node that leads, once all that run agree on it.
    ///
    /// # Errors
    /// When they do not within [`READY_MAX`].
    pub async fn leader(&self) -> Result<u16> {
        until("a leader that all agree on", READY_MAX, async || {
            let mut seen = Vec::new();
            for cp in self.cps.iter().filter(|cp| cp.is_running()) {
                let status = cp.api().status().await?;
                seen.push((cp.number, status));
            }
            let leader = seen.first().and_then(|(_, status)| status.leader);
            ensure!(
                leader.is_some() && seen.iter().all(|(_, status)| status.leader == leader),
                "they disagree: {seen:?}"
            );
            let number = seen.iter().find(|(_, status)| Some(status.node_id) == leader).map(|(number, _)| *number);
            number.context("the leader does not run")
        })
        .await
    }

    /// Waits until every running node and proxy stands at one position with one digest; gives them.
    ///
    /// # Errors
    /// Where they stand, when they do not agree in time.
    pub async fn agree(&self, within: Duration) -> Result<(String, String)> {
        until("one position and one digest everywhere", within, async || {
            let mut stands: Vec<(String, String, String)> = Vec::new();
            for cp in self.cps.iter().filter(|cp| cp.is_running()) {
                let status = cp.api().status().await?;
                stands.push((cp.name(), format!("{}-{}", status.epoch, status.revision), status.digest));
            }
            for dp in self.dps.iter().filter(|dp| dp.is_running()) {
                let view = dp.view().await?;
                stands.push((dp.name(), format!("{}-{}", view.epoch, view.revision), view.digest));
            }
            let (_, position, digest) = stands.first().cloned().context("nobody runs")?;
            ensure!(stands.iter().all(|(_, p, d)| (p, d) == (&position, &digest)), "they stand at {stands:?}");
            Ok((position, digest))
        })
        .await
    }
}

/// A command line: a subcommand, and settings as lines `key=value`.
fn args(subcommand: &[&str], settings: &[String]) -> Vec<String> {
    let flags = settings.iter().map(|setting| format!("--set={setting}"));
    subcommand.iter().map(|word| (*word).to_owned()).chain(flags).collect()
}

fn folder(dir: &Path, name: &str) -> PathBuf {
    dir.join(name)
}
