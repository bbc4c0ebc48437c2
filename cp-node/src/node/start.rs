//! Putting a node together.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use mtls::ServerTls;
use openraft::storage::RaftLogStorage;
use protocol::grpc::feed_server::FeedServer;
use protocol::grpc::peer_server::PeerServer;
use raft_store::disk::{DataDir, Identity};
use raft_store::embedded::{Embedded, EmbeddedSettings};
use raft_store::feed::Feed;
use raft_store::log::LogStore;
use raft_store::snapshots::SnapshotStore;
use raft_store::types::{NodeId, Raft};
use raft_store::{Applied, Replica, ReplicaStart};
use tokio::runtime::Handle;
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::task::JoinHandle;
use tonic::transport::Server;

use super::{NodeError, Seams, Tasks, found};
use crate::admin::{self, Desk, Keys, Secrets};
use crate::archiver::{self, Archiver};
use crate::escrow::{self, Escrow};
use crate::feed::{FeedService, Fleet, FullStates};
use crate::links::{self, Links};
use crate::maintenance;
use crate::members::Members;
use crate::metrics::Metrics;
use crate::net::{Listener, Stream};
use crate::probes::{self, Probes};
use crate::propose::{Batcher, Proposer};
use crate::raft::{
    self, Channels, Elections, LeaderContact, MESSAGE_BYTES_MAX, Network, PeerService, Peering, Reach, Silence,
    Transfers,
};
use crate::read::ReadIndex;
use crate::record::{self, Record, Writer};
use crate::settings::Settings;
use crate::status::Describe;

/// A node that runs. [`Self::stop`] ends it in order; dropping it does not.
pub struct Node {
    pub(super) identity: Identity,
    pub(super) data: DataDir,
    pub(super) raft: Raft,
    pub(super) log: LogStore,
    pub(super) feed: Feed,
    pub(super) applied: watch::Receiver<Applied>,
    pub(super) proposer: Proposer,
    pub(super) batcher: Batcher,
    pub(super) channels: Channels,
    pub(super) members: Members,
    pub(super) draining: Arc<AtomicBool>,
    pub(super) stop_admin: watch::Sender<bool>,
    pub(super) stop_feed: watch::Sender<bool>,
    pub(super) stop_peer: watch::Sender<bool>,
    pub(super) admin: JoinHandle<()>,
    pub(super) feed_server: JoinHandle<()>,
    pub(super) peer_server: JoinHandle<()>,
    pub(super) probes: Option<JoinHandle<()>>,
    pub(super) upkeep: Vec<JoinHandle<()>>,
    pub(super) tasks: Tasks,
    pub(super) archiver: Option<Archiver>,
    /// Writes the embedded record; ends with consensus.
    pub(super) history: Option<JoinHandle<()>>,
    /// Where it listens: peer, admin, feed, status.
    pub addresses: Addresses,
}

/// What a checker that stands beside a node may look at.
#[derive(Clone)]
pub struct Inside {
    /// Its id.
    pub node: NodeId,
    /// Consensus, with its metrics.
    pub raft: Raft,
    /// The live log.
    pub log: LogStore,
    /// What it serves.
    pub feed: Feed,
    /// How far it has applied.
    pub applied: watch::Receiver<Applied>,
}

/// Where a node listens.
#[derive(Clone, Debug)]
pub struct Addresses {
    /// For other nodes.
    pub peer: String,
    /// The Admin API.
    pub admin: String,
    /// For proxies.
    pub feed: String,
    /// Probes and metrics.
    pub status: Option<String>,
}

/// What consensus stands on.
pub(super) struct Storage {
    pub(super) log: LogStore,
    pub(super) replica: Replica,
    pub(super) snapshots: Arc<dyn SnapshotStore>,
}

/// Opens what consensus stands on.
pub(super) async fn open_storage(
    data: &DataDir,
    identity: &Identity,
    settings: &Settings,
    seams: &Seams,
) -> Result<Storage, NodeError> {
    let path = data.path().to_owned();
    let lost = |e| NodeError::Log(e, path.clone());
    let disk = |e: std::io::Error| NodeError::Disk(e.into());
    let mut log = seams.disks.log(data, identity, &settings.raft).map_err(disk)?.map_err(lost)?;
    let snapshots = seams.disks.snapshots(data).map_err(disk)?;
    let replica = Replica::open(ReplicaStart {
        cluster: identity.cluster,
        epoch: identity.epoch,
        durability: log.durability().clone(),
        snapshots: snapshots.clone(),
        clock: seams.clock.clone(),
    })
    .map_err(|e| NodeError::Snapshot(e, path.clone()))?;
    let state = log.get_log_state().await.map_err(|e| NodeError::Consensus(e.to_string()))?;
    let (purged, applied) = (state.last_purged_log_id, replica.last_applied());
    if let Some(purged) = purged.filter(|purged| applied.is_none_or(|applied| applied.index < purged.index)) {
        let snapshot = applied.map_or(0, |applied| applied.index);
        return Err(NodeError::Hole { snapshot, purged: purged.index, data_dir: path });
    }
    Ok(Storage { log, replica, snapshots })
}

/// The parts that run on consensus' own runtime.
struct Core {
    raft: Raft,
    batcher: Batcher,
    proposer: Proposer,
    reads: ReadIndex,
    members: Members,
    describe: Describe,
    upkeep: Vec<JoinHandle<()>>,
    peer_server: JoinHandle<()>,
}

struct CoreStart {
    identity: Identity,
    boot: u64,
    settings: Settings,
    seams: Seams,
    storage: Storage,
    channels: Channels,
    fleet: Fleet,
    draining: Arc<AtomicBool>,
    record: Record,
    listener: Box<dyn Listener>,
    tasks: Tasks,
    stopping: watch::Receiver<bool>,
}

impl Node {
    /// Starts a node whose data directory is somebody's, or that is told whom to join. Consensus and its listener run on
    /// `raft_runtime`, everything else on the current one.
    ///
    /// # Errors
    /// [`NodeError`]; nothing is left running.
    pub async fn start(settings: Settings, seams: Seams, raft_runtime: &Handle) -> Result<Self, NodeError> {
        settings.check()?;
        let keys = Keys::load(&settings.admin.keys)?;
        escrow::check_present(&settings)?;
        let secrets = Secrets::load(&settings.secrets, seams.random.clone(), seams.clock.clone())?;
        let escrow = Escrow::load(&settings, seams.random.clone())?;
        let archive = Box::pin(archiver::open(&settings.archive, &*seams.stores)).await.map_err(NodeError::archive)?;
        let link = record::Link::new(&settings.record, seams.net.clone())?;
        let hosts = seams.record.clone().or_else(|| link.clone().map(|link| Arc::new(link) as Arc<dyn record::Hosts>));
        let links = Links::load(&settings, seams.net.clone())?;
        let admin_tls = ServerTls::load(&settings.admin.tls)?;
        let data = DataDir::open(&settings.data_dir.0)?;
        let identity = match data.identity()? {
            Some(identity) => identity,
            None if settings.cluster.join.is_empty() => return Err(NodeError::Nobody(data.path().to_owned())),
            None => found::join_from(&data, &settings, &seams, links.clone()).await?,
        };
        if identity.left {
            return Err(NodeError::Left { node: identity.node, data_dir: data.path().to_owned() });
        }
        let listen = |address: &str| seams.net.listen(address.to_owned());
        let peer = listen(&settings.peer.listen).await.map_err(NodeError::Listen)?;
        let admin = listen(&settings.admin.listen).await.map_err(NodeError::Listen)?;
        let feed = listen(&settings.feed.listen).await.map_err(NodeError::Listen)?;
        let status = match settings.status.listen.as_str() {
            "" => None,
            address => Some(listen(address).await.map_err(NodeError::Listen)?),
        };
        let addresses = Addresses {
            peer: peer.address(),
            admin: admin.address(),
            feed: feed.address(),
            status: status.as_ref().map(|listener| listener.address()),
        };
        if links.credentials().is_none() {
            warn_of_open_links(&settings);
        }
        let boot = data.count_boot()?;
        let mut storage = open_storage(&data, &identity, &settings, &seams).await?;
        let tasks = Tasks::new();
        let log = storage.log.clone();
        let (feed_reader, applied) = (storage.replica.feed(), storage.replica.applied());
        let (feed_inside, applied_inside) = (feed_reader.clone(), applied.clone());
        let wants_embedded = link.is_none() && settings.record.embedded_changes > 0;
        let embedded = wants_embedded.then(|| {
            let bounds = EmbeddedSettings {
                rows_max: settings.record.embedded_changes,
                bytes_max: settings.record.embedded_bytes.0,
            };
            (Embedded::new(&data.history(), bounds), storage.replica.tail())
        });
        let history = embedded.as_ref().map(|(embedded, _)| embedded.clone());
        let record = Record::new(identity.cluster, settings.record.clone(), link, history, storage.replica.backlog());
        let history = embedded.map(|(embedded, tail)| tasks.spawn("embedded record", embedded.follow(tail)));
        let channels = Channels::new(links.clone());
        let fleet = Fleet::new(settings.feed.lost_after.0, boot > 1);
        let draining = Arc::new(AtomicBool::new(false));
        let (stop_admin, stopping_admin) = watch::channel(false);
        let (stop_feed, stopping_feed) = watch::channel(false);
        let (stop_peer, stopping_peer) = watch::channel(false);
        let start = CoreStart {
            identity: identity.clone(),
            boot,
            settings: settings.clone(),
            seams: seams.clone(),
            storage,
            channels: channels.clone(),
            fleet: fleet.clone(),
            draining: draining.clone(),
            record: record.clone(),
            listener: peer,
            tasks: tasks.clone(),
            stopping: stopping_peer,
        };
        let contact = LeaderContact::new();
        let core = raft_runtime.spawn(Core::start(start, contact.clone(), applied, feed_reader.clone()));
        let mut core = core.await.map_err(|e| NodeError::Consensus(e.to_string()))??;
        let archiver = archive.map(|archive| {
            let (archiver, task) = Archiver::start(
                &tasks,
                archiver::Start {
                    archive,
                    interval: settings.archive.interval.0,
                    changes: settings.archive.changes,
                    cluster: identity.cluster,
                    node: identity.node,
                    raft: core.raft.clone(),
                    feed: feed_reader.clone(),
                    applied: core.describe.applied.clone(),
                    clock: seams.clock.clone(),
                },
            );
            core.upkeep.push(task);
            // Nobody else sets it.
            let _ = core.describe.archiver.set(archiver.clone());
            archiver
        });
        let metrics = Metrics::new(core.describe.clone(), core.batcher.clone(), core.proposer.clone());
        let full = FullStates::new(identity.cluster, seams.clock.clone(), settings.feed.full_sends_max);
        let service = FeedService {
            cluster: identity.cluster,
            node: identity.node,
            name: settings.node_name(),
            region: settings.node.region.clone(),
            raft: core.raft.clone(),
            reads: core.reads.clone(),
            contact,
            feed: feed_reader.clone(),
            fleet: fleet.clone(),
            full,
            streams_max: usize::try_from(settings.feed.streams_max).unwrap_or(usize::MAX),
            heartbeat: settings.feed.heartbeat.0,
            stopping: stopping_feed.clone(),
        };
        let desk = Desk {
            settings: settings.admin.clone(),
            server_header: server_header(&settings),
            keys,
            secrets: Arc::new(secrets),
            proposer: core.proposer.clone(),
            record: record.clone(),
            reads: core.reads.clone(),
            feed: feed_reader,
            fleet,
            members: core.members.clone(),
            describe: core.describe.clone(),
            channels: channels.clone(),
            metrics: metrics.admin.clone(),
            clock: seams.clock.clone(),
            random: seams.random.clone(),
            waiting: Arc::new(Semaphore::new(admin::WAITS_MAX)),
        };
        // Beside consensus, not on its runtime: PostgreSQL can be as slow as it likes.
        let writer = Writer {
            cluster: identity.cluster,
            node: identity.node,
            raft: core.raft.clone(),
            reads: core.reads,
            proposer: core.proposer.clone(),
            clock: seams.clock.clone(),
            random: seams.random.clone(),
            record,
            hosts,
        };
        let mut upkeep = core.upkeep;
        if let Some(credentials) = links.credentials() {
            upkeep.push(tasks.spawn("renewal of the certificate", credentials.clone().keep_fresh()));
        }
        upkeep.push(tasks.spawn("writer of the record", writer.run()));
        if let Some(escrow) = escrow {
            let (raft, feed, proposer) = (core.raft.clone(), feed_inside.clone(), core.proposer.clone());
            let keep = escrow.keep(identity.node, raft, feed, proposer, seams.clock.clone());
            upkeep.push(tasks.spawn("escrow of the keys", keep));
        }
        let admin = match admin_tls {
            None => admin,
            Some(tls) => {
                upkeep.push(tasks.spawn("renewal of the Admin API's certificate", tls.clone().keep_fresh()));
                links::shaking(admin, move |stream: Stream| {
                    let (tls, address) = (tls.clone(), stream.address().clone());
                    async move { Ok(Stream::new(tls.accept(stream).await?, &address)) }
                })
            }
        };
        let serving = admin::serve(admin, Arc::new(desk), stopping_admin.clone());
        let admin = tasks.serve("Admin API", serving, stopping_admin);
        let serving = serve_feed(links.incoming(feed, mtls::Role::Proxy), service, stopping_feed.clone());
        let feed_server = tasks.serve("feed", serving, stopping_feed);
        let probes = Probes { describe: core.describe, metrics };
        let probes = status.map(|listener| tasks.spawn("probes", probes::serve(listener, probes, seams.clock.clone())));
        tracing::info!(
            node_id = identity.node,
            cluster = %identity.cluster,
            boot,
            peer = addresses.peer,
            admin = addresses.admin,
            feed = addresses.feed,
            "the node runs"
        );
        Ok(Self {
            identity,
            data,
            raft: core.raft,
            log,
            feed: feed_inside,
            applied: applied_inside,
            proposer: core.proposer,
            batcher: core.batcher,
            channels,
            members: core.members,
            draining,
            stop_admin,
            stop_feed,
            stop_peer,
            admin,
            feed_server,
            peer_server: core.peer_server,
            probes,
            upkeep,
            tasks,
            archiver,
            history,
            addresses,
        })
    }
}

impl Node {
    /// Its inside, for whoever checks it while it runs.
    #[must_use]
    pub fn inside(&self) -> Inside {
        Inside {
            node: self.identity.node,
            raft: self.raft.clone(),
            log: self.log.clone(),
            feed: self.feed.clone(),
            applied: self.applied.clone(),
        }
    }
}

impl Core {
    async fn start(
        start: CoreStart,
        contact: LeaderContact,
        applied: watch::Receiver<Applied>,
        feed: Feed,
    ) -> Result<Self, NodeError> {
        let CoreStart {
            identity,
            boot,
            settings,
            seams,
            storage,
            channels,
            fleet,
            draining,
            record,
            listener,
            tasks,
            stopping,
        } = start;
        let Storage { log, replica, snapshots } = storage;
        let node = identity.node;
        let peering = Peering::new(&identity, feed.clone());
        let (transfers, reach, silence) = (Transfers::default(), Reach::default(), Silence::default());
        let network = Network {
            peering: peering.clone(),
            channels: channels.clone(),
            durability: log.durability().clone(),
            transfers: transfers.clone(),
            reach: reach.clone(),
            silence: silence.clone(),
        };
        let config = raft::config(&settings.raft);
        let raft = Raft::new(node, config, network, log.clone(), replica)
            .await
            .map_err(|e| NodeError::Consensus(e.to_string()))?;
        let elections = Elections {
            peering: peering.clone(),
            raft: raft.clone(),
            channels: channels.clone(),
            random: seams.random.clone(),
            silence,
        };
        let batcher = Batcher::start(&tasks, node, raft.clone(), settings.raft.election_max.0);
        let proposer = Proposer::start(
            &tasks,
            peering.clone(),
            boot,
            raft.clone(),
            batcher.clone(),
            channels.clone(),
            seams.random.clone(),
        );
        let reads = ReadIndex::start(&tasks, peering.clone(), raft.clone(), channels.clone(), applied.clone());
        let members = Members {
            peering: peering.clone(),
            epoch: identity.epoch,
            raft: raft.clone(),
            proposer: proposer.clone(),
            batcher: batcher.clone(),
            channels: channels.clone(),
            clock: seams.clock.clone(),
            one_at_a_time: Arc::new(Mutex::new(())),
            left: Arc::new(watch::Sender::new(false)),
        };
        let describe = Describe {
            peering: peering.clone(),
            name: settings.node_name(),
            region: settings.node.region.clone(),
            raft: raft.clone(),
            log: log.clone(),
            applied: applied.clone(),
            feed: feed.clone(),
            fleet,
            contact: contact.clone(),
            reach,
            draining,
            archiver: Arc::default(),
            record,
            credentials: channels.links().credentials().cloned(),
        };
        let service = PeerService {
            peering,
            raft: raft.clone(),
            contact: contact.clone(),
            elections: elections.clone(),
            snapshots,
            batcher: batcher.clone(),
            members: members.clone(),
            describe: describe.clone(),
        };
        let incoming = channels.links().incoming(listener, mtls::Role::ControlPlane);
        let peer_server = tasks.serve("peer listener", serve_peers(incoming, service, stopping.clone()), stopping);
        let compact = maintenance::compact(raft.clone(), log, applied, transfers, settings.raft.clone());
        let expire = maintenance::expire(node, raft.clone(), feed, proposer.clone(), seams.clock.clone());
        let own = found::member(&settings, identity.uuid);
        let upkeep = vec![
            tasks.spawn("upkeep of the log", compact),
            tasks.spawn("expiry", expire),
            tasks.spawn("watch over consensus", raft::watch(raft.clone())),
            tasks.spawn("elections", elections.run()),
            tasks.spawn("upkeep of the members", members.clone().keep_in_order()),
            tasks.spawn("watch over the members", members.clone().notice_removal(contact)),
            tasks.spawn("announcement of this node's addresses", members.clone().announce(own)),
        ];
        Ok(Self { raft, batcher, proposer, reads, members, describe, upkeep, peer_server })
    }
}

/// Connections that were taken.
trait Incoming: futures_util::Stream<Item = std::io::Result<Stream>> + Send {}
impl<T: futures_util::Stream<Item = std::io::Result<Stream>> + Send> Incoming for T {}

async fn serve_peers(incoming: impl Incoming, service: PeerService, mut stopping: watch::Receiver<bool>) {
    let service = PeerServer::new(service)
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .max_encoding_message_size(MESSAGE_BYTES_MAX);
    let stopped = async move {
        let _ = stopping.wait_for(|stopping| *stopping).await;
    };
    let server = grpc_server().add_service(service).serve_with_incoming_shutdown(incoming, stopped);
    if let Err(error) = server.await {
        tracing::error!(%error, "the peer listener has stopped");
    }
}

async fn serve_feed(incoming: impl Incoming, service: FeedService, mut stopping: watch::Receiver<bool>) {
    let stopped = async move {
        let _ = stopping.wait_for(|stopping| *stopping).await;
    };
    let server = grpc_server().add_service(FeedServer::new(service)).serve_with_incoming_shutdown(incoming, stopped);
    if let Err(error) = server.await {
        tracing::error!(%error, "the feed listener has stopped");
    }
}

/// Half-open connections give no error by themselves: both listeners ask whether the other end is still there.
pub(crate) fn grpc_server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(Duration::from_secs(10)))
        .http2_keepalive_timeout(Some(Duration::from_secs(5)))
        .tcp_nodelay(true)
}

/// APISIX's clients read its version from the header `Server`.
fn server_header(settings: &Settings) -> String {
    match settings.admin.server_header.as_str() {
        "" => format!("APISIX/3.18.0 Holdfast/{}", daemon::build::VERSION),
        header => header.to_owned(),
    }
}

fn warn_of_open_links(settings: &Settings) {
    for (what, address) in [("peer", &settings.peer.listen), ("feed", &settings.feed.listen)] {
        let host = address.rsplit_once(':').map_or(address.as_str(), |(host, _)| host);
        let is_loopback = host == "localhost"
            || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if !is_loopback {
            tracing::warn!(
                listener = what,
                address,
                "this listener is neither encrypted nor authenticated: set mtls, or keep it on a network of its own"
            );
        }
    }
}
