//! Where a scenario takes place: a cluster whose nodes are joined by wires of ours, with what else it needs.

use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::archive::Archive;
use crate::clock::Clock;
use crate::cluster::Cluster;
use crate::fault::Whom;
use crate::golden;
use crate::herd::Herd;
use crate::history::{Down, Event, Recorder};
use crate::layout::Layout;
use crate::luck::Luck;
use crate::mutants;
use crate::namespaces::Namespaces;
use crate::network::Network;
use crate::postgres::Postgres;
use crate::power_cut::{Disk, Forgets, Journal, watched};
use crate::process::Process;
use crate::rewinds;
use crate::scenario::Sometimes;
use crate::wires::{End, Wires};
use crate::workload::Size;

/// How long a node may take to stop.
const STOP_MAX: Duration = Duration::from_secs(20);

/// What a scenario needs.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// Control-plane nodes.
    pub cps: u16,
    /// Proxies.
    pub dps: u16,
    /// A PostgreSQL that is the record.
    pub postgres: bool,
    /// A standby of it.
    pub standby: bool,
    /// An archive in S3.
    pub archive: bool,
    /// Proxies read from the archive.
    pub archived_proxies: bool,
    /// Clocks of nodes that can be set.
    pub clocks: bool,
    /// Disks of nodes whose power can be cut.
    pub watched_disks: bool,
    /// Wires between proxies and nodes.
    pub feed_wires: bool,
    /// The data directories that an earlier build has left: three nodes, of which the last is started under load, and one
    /// proxy, at the addresses that are in them. Nothing of the above goes with it.
    pub golden: bool,
    /// Wires between nodes and what they write to, the record and the archive, and between proxies and the archive.
    pub outside_wires: bool,
    /// Light subscribers beside the proxies.
    pub subscribers: usize,
    /// How much goes on.
    pub size: Size,
    /// Programs that have failpoints.
    pub failpoints: bool,
    /// Settings of control-plane nodes.
    pub settings: &'static [&'static str],
}

/// Programs with something planted in them.
#[derive(Clone, Debug)]
pub struct Planted {
    /// What it is called on the command line.
    pub name: &'static str,
    /// The control-plane node.
    pub cp: PathBuf,
    /// The proxy.
    pub dp: PathBuf,
    /// What plants it; without it they are as they should be.
    pub environment: Option<(OsString, OsString)>,
}

/// All of it. Everything in it ends when this is dropped.
#[derive(Debug)]
pub struct Arena {
    /// Nodes and proxies.
    pub cluster: Cluster,
    /// Between nodes.
    pub wires: Wires,
    /// The record.
    pub postgres: Option<Postgres>,
    /// What follows the record's server.
    pub standby: Option<Postgres>,
    /// The archive.
    pub archive: Option<Archive>,
    /// Of each node, where they can be set.
    pub clocks: Vec<Clock>,
    /// Disk and journal of each node, where they are watched.
    pub disks: Vec<(Disk, Journal)>,
    /// Light subscribers, in a process of their own.
    pub herd: Option<Arc<Herd>>,
    /// Where faults note what they have seen.
    pub recorder: Option<Recorder>,
    /// Who looks into a node's system calls.
    pub tracer: Option<Process>,
    /// Whether the reader of the first node's feed is to stay away.
    pub away: watch::Sender<bool>,
    /// Nodes that are not started before there is load.
    pub late: Vec<u16>,
    /// Addresses that are always the same are ours while we have it. Dropped after all that listens there.
    _turn: Option<TcpListener>,
}

impl Arena {
    /// Starts all of it.
    ///
    /// # Errors
    /// What did not start.
    pub async fn start(layout: Layout, needs: Needs, planted: Option<&Planted>) -> Result<Self> {
        if needs.golden {
            ensure!(planted.is_none(), "nothing is planted in a golden cluster");
            return Self::golden(needs).await;
        }
        let namespaces = match Network::of(layout) {
            Network::Sockets => None,
            Network::Namespaces => Some(Arc::new(Namespaces::start().await?)),
        };
        let postgres = match needs.postgres {
            true => Some(Postgres::primary("pg-1", &layout.postgres(1)).await?),
            false => None,
        };
        let standby = match &postgres {
            Some(primary) if needs.standby => Some(Postgres::standby_of(primary, "pg-2", &layout.postgres(2)).await?),
            _ => None,
        };
        let archive = if needs.archive { Some(Archive::start(&layout.archive())?) } else { None };
        let mut wires = namespaces.clone().map_or_else(Wires::of_sockets, Wires::of_namespaces);
        let mut cluster = Cluster::within(layout, namespaces)?;
        let servers: Vec<&Postgres> = postgres.iter().chain(&standby).collect();
        let outside = if needs.outside_wires {
            wire_outside(layout, &mut wires, &servers, archive.as_ref()).await?
        } else {
            outside_settings(servers.iter().map(|server| server.address()), archive.as_ref())
        };
        let planted = match planted {
            None if needs.failpoints => Some(mutants::programs(mutants::NOTHING)?),
            planted => planted.cloned(),
        };
        // A bug is planted when everything has begun well: what is no bug runs from the first.
        let (from_the_first, later) = match planted {
            Some(planted) if planted.environment.is_none() => (Some(planted), None),
            planted => (None, planted),
        };
        if let Some(Planted { cp, dp, .. }) = from_the_first {
            cluster.programs(cp, dp);
        }
        for number in 1..=needs.cps {
            let advertised = layout.link(number);
            wires.add(End::Node(number), &advertised, &layout.cp(number).peer).await?;
            let advertise = format!("peer.advertise={advertised}");
            let mut settings = vec![&*advertise];
            settings.extend(needs.settings);
            settings.extend(outside.iter().map(String::as_str));
            cluster.add_cp(number, &settings).await?;
        }
        let mut arena = Self { postgres, standby, archive, ..Self::of(cluster, wires) };
        if needs.clocks {
            arena.take_clocks().await?;
        }
        if needs.watched_disks {
            arena.watch_disks().await?;
        }
        let mut sources = if needs.feed_wires { arena.wire_feeds(layout, needs.cps).await? } else { Vec::new() };
        if let Some(archive) = arena.archive.as_ref().filter(|_| needs.archived_proxies) {
            sources.extend(archive.readers());
            sources.extend(needs.outside_wires.then(|| archive_through_wires(layout)));
        }
        let sources: Vec<&str> = sources.iter().map(String::as_str).collect();
        for number in 1..=needs.dps {
            arena.cluster.add_dp_with(number, &sources).await?;
        }
        if let Some(planted) = later {
            arena.plant(&planted).await?;
        }
        if let Some(postgres) = &arena.postgres {
            rewinds::watch(postgres).await?;
        }
        if needs.subscribers > 0 {
            let endpoints: Vec<String> = arena.cluster.cps.iter().map(|cp| cp.addresses.feed.clone()).collect();
            arena.herd = Some(Arc::new(Herd::start(needs.subscribers, &endpoints)?));
        }
        Ok(arena)
    }

    /// Nodes and wires, and nothing else yet.
    fn of(cluster: Cluster, wires: Wires) -> Self {
        Self {
            cluster,
            wires,
            postgres: None,
            standby: None,
            archive: None,
            clocks: Vec::new(),
            disks: Vec::new(),
            herd: None,
            recorder: None,
            tracer: None,
            away: watch::Sender::new(false),
            late: Vec::new(),
            _turn: None,
        }
    }

    /// What an earlier build has left, all but the last node started.
    async fn golden(needs: Needs) -> Result<Self> {
        let turn = golden::turn().await?;
        let mut cluster = Cluster::new(Layout::Golden)?;
        cluster.place(needs.cps, needs.dps, golden::SETTINGS);
        golden::unpack(golden::CLUSTER, cluster.dir())?;
        let mut arena = Self { late: vec![needs.cps], _turn: Some(turn), ..Self::of(cluster, Wires::of_sockets()) };
        // The proxy has its own disk until there is a quorum.
        for dp in &mut arena.cluster.dps {
            dp.run()?;
            dp.ready().await?;
        }
        let first: Vec<u16> = (1..needs.cps).collect();
        arena.run_again(&first).await?;
        Ok(arena)
    }

    /// Makes wires to every node's feed; gives the settings of proxies that use them.
    async fn wire_feeds(&mut self, layout: Layout, cps: u16) -> Result<Vec<String>> {
        let mut links = Vec::new();
        for number in 1..=cps {
            let link = layout.feed_link(number);
            self.wires.add(End::Feed(number), &link, &layout.cp(number).feed).await?;
            links.push(link);
        }
        Ok(vec![format!("control_plane.endpoints=[{}]", links.join(", "))])
    }

    /// From here on it is known what each node's disk would keep of what it has written.
    async fn watch_disks(&mut self) -> Result<()> {
        for cp in &mut self.cluster.cps {
            cp.terminate(STOP_MAX).await?;
        }
        for cp in &mut self.cluster.cps {
            let journal = cp.data_dir().with_extension("journal");
            self.disks.push((Disk::of(cp.data_dir(), Forgets::default())?, Journal::at(&journal)));
            let mut command = std::process::Command::new("true");
            watched(&mut command, cp.data_dir(), &journal)?;
            let set = command.get_envs().filter_map(|(key, value)| Some((key.to_owned(), value?.to_owned())));
            cp.environment(set.collect::<Vec<_>>());
        }
        let all: Vec<u16> = self.cluster.cps.iter().map(|cp| cp.number).collect();
        self.run_again(&all).await
    }

    /// From here on each node goes by a clock that can be set.
    async fn take_clocks(&mut self) -> Result<()> {
        for cp in &mut self.cluster.cps {
            cp.terminate(STOP_MAX).await?;
        }
        for cp in &mut self.cluster.cps {
            let clock = Clock::new(&cp.data_dir().with_extension("clock"))?;
            cp.environment(clock.environment()?);
            self.clocks.push(clock);
        }
        let all: Vec<u16> = self.cluster.cps.iter().map(|cp| cp.number).collect();
        self.run_again(&all).await
    }

    /// Puts other programs in the place of those that run.
    async fn plant(&mut self, planted: &Planted) -> Result<()> {
        for cp in &mut self.cluster.cps {
            cp.terminate(STOP_MAX).await?;
            cp.program(planted.cp.clone());
            cp.environment(planted.environment.clone());
        }
        let all: Vec<u16> = self.cluster.cps.iter().map(|cp| cp.number).collect();
        self.run_again(&all).await?;
        for dp in &mut self.cluster.dps {
            dp.terminate(STOP_MAX).await?;
            dp.program(planted.dp.clone());
            dp.environment(planted.environment.clone());
            dp.run()?;
            dp.answers().await?;
        }
        Ok(())
    }

    /// Notes that something was seen which a scenario may have to see.
    pub fn saw(&self, what: Sometimes) {
        if let Some(recorder) = &self.recorder {
            recorder.saw(what);
        }
    }

    /// Notes that the harness takes proxy `number` down, or that it serves again; `emptied`: its disk is thrown away.
    pub fn down(&self, number: u16, begins: bool, emptied: bool) {
        if let Some(recorder) = &self.recorder {
            let (at, dp) = (recorder.now(), format!("dp-{number}"));
            recorder.note(Event::Down(Down { at, dp, begins, emptied }));
        }
    }

    /// The nodes that a fault is about.
    ///
    /// # Errors
    /// When nobody leads.
    pub async fn chosen(&self, whom: Whom, luck: &mut Luck) -> Result<Vec<u16>> {
        let all: Vec<u16> = self.cluster.cps.iter().map(|cp| cp.number).collect();
        if whom == Whom::All {
            return Ok(all);
        }
        let leader = self.cluster.leader().await?;
        if whom == Whom::Leader {
            return Ok(vec![leader]);
        }
        let followers: Vec<u16> = all.into_iter().filter(|number| *number != leader).collect();
        let at = usize::try_from(luck.below(followers.len() as u64))?;
        Ok(vec![*followers.get(at).context("a follower")?])
    }

    /// Starts nodes again, all before any is waited for: none may be ready without the others.
    ///
    /// # Errors
    /// Which did not come back.
    pub async fn run_again(&mut self, numbers: &[u16]) -> Result<()> {
        for number in numbers {
            self.cluster.cp(*number).run()?;
        }
        for number in numbers {
            self.cluster.cp(*number).ready().await?;
        }
        Ok(())
    }
}

/// Makes wires to the servers of the record and to the archive; gives the settings of nodes that use them.
async fn wire_outside(
    layout: Layout,
    wires: &mut Wires,
    servers: &[&Postgres],
    archive: Option<&Archive>,
) -> Result<Vec<String>> {
    let mut links = Vec::new();
    for (number, server) in (1..).zip(servers) {
        let (link, (host, port)) = (layout.record_link(number), server.address());
        wires.add(End::Record(number), &link, &format!("{host}:{port}")).await?;
        links.push(link);
    }
    let addresses = links.iter().map(|link| link.rsplit_once(':').expect("an address has a port"));
    let mut settings = outside_settings(addresses, archive);
    if let Some(archive) = archive {
        wires.add(End::Archive, &layout.archive_link(), archive.s3.address()).await?;
        settings.push(archive_through_wires(layout));
    }
    Ok(settings)
}

/// The setting of whoever reaches the archive through wires.
fn archive_through_wires(layout: Layout) -> String {
    format!("archive.s3.endpoint=http://{}", layout.archive_link())
}

/// The settings of nodes that write to these servers, and to this archive.
fn outside_settings<'a>(servers: impl Iterator<Item = (&'a str, &'a str)>, archive: Option<&Archive>) -> Vec<String> {
    let (servers, mut settings): (Vec<_>, _) = (servers.collect(), Vec::new());
    if !servers.is_empty() {
        settings.push(Postgres::dsn(&servers));
        settings.extend(["record.connect_timeout=1s", "record.statement_timeout=2s"].map(str::to_owned));
    }
    settings.extend(archive.map(Archive::writers).unwrap_or_default());
    settings
}
