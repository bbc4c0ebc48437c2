//! What runs on the simulated machines: control-plane nodes and proxies, from the product's own parts.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use archive::{ArchiveSettings, AsSet, OpenStore};
use cp_node::node::{self, Disks, Ended, Inside, Node, NodeError, Seams};
use cp_node::record::Hosts;
use cp_node::settings::{AdminKey, RaftSettings, Role, Settings};
use daemon::settings::units::Span;
use dp_proxy::feed::{self, Identity as ProxyIdentity, Start};
use dp_proxy::settings::{ControlPlane, NodeSettings};
use dp_proxy::standing::Board;
use dp_proxy::table::TableCell;
use protocol::seam::Random;
use raft_store::disk::{DataDir, Identity};
use raft_store::log::memory::{MemoryDisk, MemoryLog};
use raft_store::log::{LogBackend, LogError, LogStore, Recovered, WriteOp, WriterDriver};
use raft_store::snapshots::{SnapshotMemory, SnapshotStore};
use tokio::runtime::Handle;
use tokio::sync::watch;

use crate::client::Event;
use crate::network::SimNet;
use crate::outside::{Outside, bucket, postgres};
use crate::plan::{self, Mutant, Plan};
use crate::random::{SimClock, SimRandom, below, stream};
use crate::tally::Tally;

/// The key that clients use.
pub(crate) const KEY: &str = "a-key-of-the-simulation";

/// What the world shows to the checker. One thread is everything.
#[derive(Default)]
pub(crate) struct World {
    /// The nodes that run, by number.
    pub(crate) nodes: BTreeMap<u64, Inside>,
    /// The proxies that run.
    pub(crate) proxies: BTreeMap<u64, Proxy>,
    /// Nodes that are asked to stop in order.
    pub(crate) stopping: BTreeSet<u64>,
    /// Machines that a new node has been given since the last step.
    pub(crate) replaced: Vec<u64>,
    /// What clients have seen since the last step.
    pub(crate) events: Vec<Event>,
    /// What should not have happened.
    pub(crate) problems: Vec<String>,
    /// What happened.
    pub(crate) tally: Tally,
}

pub(crate) type Shared = Rc<RefCell<World>>;

/// A proxy that runs.
#[derive(Clone)]
pub(crate) struct Proxy {
    pub(crate) board: Arc<Board>,
    pub(crate) cell: TableCell,
}

/// The machine of one node: its disk outlives the node.
#[derive(Clone)]
pub(crate) struct Machine {
    pub(crate) number: u64,
    pub(crate) plan: Plan,
    /// Identity and boot counter: real files.
    pub(crate) dir: PathBuf,
    pub(crate) platters: Rc<RefCell<Platters>>,
    pub(crate) outside: Outside,
    /// How often it has booted.
    pub(crate) boots: Rc<RefCell<u64>>,
}

/// What a node has written: all of it goes when the machine is given to a new one.
#[derive(Clone, Default)]
pub(crate) struct Platters {
    pub(crate) disk: MemoryDisk,
    snapshots: SnapshotMemory,
}

/// The models of disks, as a node opens them.
struct SimDisks {
    platters: Platters,
    sync_takes: Duration,
    mutant: Option<Mutant>,
}

impl Disks for SimDisks {
    fn log(&self, _: &DataDir, identity: &Identity, _: &RaftSettings) -> io::Result<Result<LogStore, LogError>> {
        let driver = WriterDriver::Task(self.sync_takes);
        let disk = Lying { disk: self.platters.disk.mount(), mutant: self.mutant, vote: Vec::new() };
        Ok(LogStore::open(identity.node, disk, driver))
    }

    fn snapshots(&self, _: &DataDir) -> io::Result<Arc<dyn SnapshotStore>> {
        Ok(Arc::new(self.platters.snapshots.clone()))
    }
}

/// A disk that lies where a planted bug asks for it, and is honest otherwise.
struct Lying {
    disk: MemoryLog,
    mutant: Option<Mutant>,
    /// A vote that is said to be on the disk and is not.
    vote: Vec<WriteOp>,
}

impl LogBackend for Lying {
    fn recover(&mut self) -> Result<Recovered, LogError> {
        self.disk.recover()
    }

    fn write(&mut self, ops: &[WriteOp]) -> Result<(), LogError> {
        if self.mutant != Some(Mutant::UnsyncedVote) {
            return self.disk.write(ops);
        }
        let mut now = std::mem::take(&mut self.vote);
        for op in ops {
            if matches!(op, WriteOp::Vote(_)) { self.vote.push(op.clone()) } else { now.push(op.clone()) }
        }
        self.disk.write(&now)
    }

    fn sync(&mut self) -> Result<(), LogError> {
        if self.mutant == Some(Mutant::UnsyncedLog) { Ok(()) } else { self.disk.sync() }
    }

    fn disk_bytes(&self) -> u64 {
        0
    }
}

/// Where a node is reached.
pub(crate) fn address(number: u64, port: u16) -> String {
    format!("cp{number}:{port}")
}

/// The file with the key that signs the archive, beside the nodes' directories.
pub(crate) const SIGNING_KEY_FILE: &str = "archive.key";

/// How both programs are told of the archive.
fn archive_settings(plan: &plan::Archive) -> ArchiveSettings {
    ArchiveSettings {
        directory: "/a/model".into(),
        trusted_keys: vec![bucket::signing_key().public().to_string()],
        interval: Span(plan.interval),
        changes: plan.changes,
        keep_bases: plan.keep_bases,
        segments: plan.segments,
        poll: Span(Duration::from_millis(400)),
        ..ArchiveSettings::default()
    }
}

fn stores(outside: &Outside, mutant: Option<Mutant>) -> Arc<dyn OpenStore> {
    match &outside.bucket {
        Some(server) => Arc::new(bucket::Client { server: server.clone(), mutant }),
        None => Arc::new(AsSet),
    }
}

impl Machine {
    fn settings(&self) -> Settings {
        let mut settings = Settings::default();
        settings.node.name = format!("cp{}", self.number);
        settings.data_dir.0.clone_from(&self.dir);
        settings.peer.listen = "0.0.0.0:9190".into();
        settings.peer.advertise = address(self.number, 9190);
        settings.admin.listen = "0.0.0.0:9180".into();
        settings.admin.advertise = address(self.number, 9180);
        settings.feed.listen = "0.0.0.0:9191".into();
        settings.feed.advertise = address(self.number, 9191);
        settings.status.listen = String::new();
        settings.feed.heartbeat = Span(Duration::from_millis(300));
        let others = (1..=self.plan.nodes).filter(|number| *number != self.number);
        settings.cluster.join = others.map(|number| address(number, 9190)).collect();
        let key = AdminKey { name: "client".into(), key: KEY.into(), key_file: None, role: Role::Admin };
        // Its history would be a real file.
        settings.record.embedded_changes = 0;
        settings.admin.keys = vec![key];
        if let Some(backlog) = self.plan.record.filter(|_| self.plan.mutant != Some(Mutant::BoundlessBacklog)) {
            settings.record.backlog_changes = backlog;
        }
        if let Some(archive) = &self.plan.archive {
            settings.archive = archive_settings(archive);
            settings.archive.signing_key_file = Some(self.dir.with_file_name(SIGNING_KEY_FILE));
        }
        settings.raft.heartbeat = Span(self.plan.heartbeat);
        settings.raft.election_min = Span(self.plan.heartbeat * 3);
        settings.raft.election_max = Span(self.plan.heartbeat * 6);
        settings.raft.snapshot_entries = self.plan.snapshot_entries;
        settings.raft.keep_entries = self.plan.keep_entries;
        settings
    }

    /// One life of the machine, from boot to its end. A node that was taken out of the cluster leaves it to a new one.
    pub(crate) async fn run(self, shared: Shared) -> turmoil::Result {
        while let After::New = self.live(&shared).await? {
            // Nothing may be there yet.
            let _ = std::fs::remove_dir_all(&self.dir);
            *self.platters.borrow_mut() = Platters::default();
            shared.borrow_mut().replaced.push(self.number);
            shared.borrow_mut().tally.count("replaced_nodes");
        }
        Ok(())
    }

    /// One life of a node.
    async fn live(&self, shared: &Shared) -> turmoil::Result<After> {
        let boot = {
            let mut boots = self.boots.borrow_mut();
            *boots += 1;
            *boots
        };
        let seams = self.seams(boot);
        let settings = self.settings();
        if self.number == 1 && boot == 1 {
            Box::pin(node::found(&settings, &seams)).await.map_err(|e| format!("founding: {e}"))?;
        }
        let node = loop {
            match Box::pin(Node::start(settings.clone(), seams.clone(), &Handle::current())).await {
                Ok(node) => break node,
                Err(NodeError::Join(_)) => {}
                Err(NodeError::Left { .. }) => return Ok(After::New),
                Err(e) => {
                    shared.borrow_mut().problems.push(format!("cp{} cannot start: {e}", self.number));
                    return Ok(After::Nothing);
                }
            }
        };
        shared.borrow_mut().nodes.insert(self.number, node.inside());
        shared.borrow_mut().tally.count("boots");
        let asked = async {
            while !shared.borrow().stopping.contains(&self.number) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let ended = tokio::select! {
            biased;
            ended = node.ended() => Some(ended),
            () = asked => None,
        };
        let after = match ended {
            Some(Ended::Failed(reason)) => {
                shared.borrow_mut().problems.push(format!("cp{} has ended: {reason}", self.number));
                After::Nothing
            }
            Some(Ended::Superseded(why)) => {
                shared.borrow_mut().problems.push(format!("cp{} has ended: {why}", self.number));
                After::Nothing
            }
            Some(Ended::Left) => {
                Box::pin(node.stop()).await;
                After::New
            }
            None => {
                Box::pin(node.stop()).await;
                After::Nothing
            }
        };
        shared.borrow_mut().nodes.remove(&self.number);
        Ok(after)
    }

    fn seams(&self, boot: u64) -> Seams {
        let part = 1_000 * self.number + 1_000_000 * boot;
        let rng = &mut stream(self.plan.seed, part);
        let sync_takes = Duration::from_millis([0, 1, 5, 40][usize::try_from(below(rng, 4)).expect("it is below 4")]);
        let disks = SimDisks { platters: self.platters.borrow().clone(), sync_takes, mutant: self.plan.mutant };
        let record = |server| Arc::new(postgres::Client(server)) as Arc<dyn Hosts>;
        Seams {
            net: Arc::new(SimNet),
            clock: Arc::new(SimClock { skew_millis: 700 * self.number }),
            random: Arc::new(SimRandom::new(self.plan.seed, part + 1)),
            stores: stores(&self.outside, self.plan.mutant),
            record: self.outside.postgres.clone().map(record),
            disks: Arc::new(disks),
        }
    }
}

/// What becomes of a machine when its node has ended.
enum After {
    /// It stands still until it is started again.
    Nothing,
    /// A new node begins on it, with nothing.
    New,
}

/// The machine of one proxy.
#[derive(Clone)]
pub(crate) struct ProxyMachine {
    pub(crate) number: u64,
    pub(crate) plan: Plan,
    pub(crate) dir: PathBuf,
    pub(crate) outside: Outside,
    pub(crate) boots: Rc<RefCell<u64>>,
}

impl ProxyMachine {
    /// One life of the proxy's feed, until it is killed.
    pub(crate) async fn run(self, shared: Shared) -> turmoil::Result {
        let boot = {
            let mut boots = self.boots.borrow_mut();
            *boots += 1;
            *boots
        };
        if self.plan.mutant == Some(Mutant::ForgetfulProxy) {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
        let random = Arc::new(SimRandom::new(self.plan.seed, 500 + 1_000 * self.number + 1_000_000 * boot));
        let clock = Arc::new(SimClock { skew_millis: 90 * self.number });
        let mut disk = dp_proxy::disk::open(&self.dir, &"default".into(), clock, &*random)?;
        let _lock = disk.take_lock();
        let proxy = Proxy { board: Arc::new(Board::default()), cell: TableCell::default() };
        let endpoints = (1..=self.plan.nodes).map(|number| address(number, 9191).parse());
        let has_archive = self.plan.mutant != Some(Mutant::NoArchiveForProxies);
        let start = Start {
            identity: ProxyIdentity {
                node: NodeSettings { name: format!("dp{}", self.number), ..NodeSettings::default() },
                instance: random.bytes16(),
            },
            control_plane: ControlPlane {
                endpoints: endpoints.collect::<Result<_, _>>()?,
                connect_timeout: Duration::from_secs(2),
                reconnect_min: Duration::from_millis(50),
                reconnect_max: Duration::from_secs(1),
                silence_max: Duration::from_secs(3),
                stale_after: Duration::from_secs(1),
                first_wait: Duration::from_millis(500),
                payload_bytes_max: 16 << 20,
            },
            archive: has_archive.then(|| self.plan.archive.as_ref().map(archive_settings)).flatten(),
            stores: stores(&self.outside, self.plan.mutant),
            standalone: None,
            router: dp_proxy::table::Router::default(),
            tls: Arc::default(),
            secrets: dp_proxy::secrets::SecretTerms::default(),
            // Nobody is there to be asked, and nothing to ask for.
            resolver: Arc::default(),
            disk,
            cell: proxy.cell.clone(),
            board: proxy.board.clone(),
            dial: Arc::new(SimNet),
            random,
        };
        let (live, _) = watch::channel(false);
        shared.borrow_mut().tally.count("proxy_boots");
        shared.borrow_mut().proxies.insert(self.number, proxy);
        Box::pin(feed::follow(start, live)).await;
        Ok(())
    }
}
