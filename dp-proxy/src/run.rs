//! A whole proxy: put together, started, drained, succeeded by another process.

mod opening;

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use daemon::seams::{SystemClock, SystemRandom};
use protocol::seam::{Random, WallClock};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::access_log::{LogStats, OpenLog};
use crate::disk::{self, OpenError};
use crate::dns::Resolver;
use crate::feed::{self, Feed, Identity};
use crate::handover::{Estate, Leaving};
use crate::health;
use crate::net::{self, Dial, Proved, Tcp};
use crate::proxy::Workers;
use crate::secrets::SecretTerms;
use crate::settings::{AccessLogSettings, Checked, DrainSettings, Handover, StandaloneSettings};
use crate::standalone::{self, Standalone};
use crate::standing::Board;
use crate::status::{Readiness, Site, Sources};
use crate::table::{ClientTls, TableCell, TlsTerms};
use opening::{Opening, Servers, Sites, end_all};

/// What a proxy takes from the outside world beside its settings.
#[expect(missing_debug_implementations, reason = "clocks and sources of randomness have nothing to print")]
#[derive(Clone)]
pub struct Seams {
    /// The wall clock.
    pub clock: Arc<dyn WallClock>,
    /// Randomness.
    pub random: Arc<dyn Random>,
    /// How the control plane is reached.
    pub dial: Arc<dyn Dial>,
}

impl Default for Seams {
    fn default() -> Self {
        Self { clock: Arc::new(SystemClock), random: Arc::new(SystemRandom), dial: Arc::new(Tcp) }
    }
}

/// Why a proxy cannot start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// Its disk.
    #[error(transparent)]
    Disk(#[from] OpenError),
    /// An address that cannot be listened on, or a thread that cannot be had.
    #[error("{what}: {error}")]
    System {
        /// What was asked for, as the settings call it.
        what: &'static str,
        /// Why it is not to be had.
        error: io::Error,
    },
}

/// How far a proxy has come.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Life {
    /// There is nothing to serve yet.
    Starting,
    /// It accepts.
    Serving,
    /// A process with this id serves in its place: it is time for [`Proxy::leave`].
    Succeeded(Option<u32>),
    /// It cannot serve, for this reason.
    Failed(String),
}

/// A running proxy. When this is dropped it ends at once, with whatever is under way.
#[derive(Debug)]
pub struct Proxy {
    workers: Workers,
    /// Dropped after the workers, which write to it until the end.
    access_log: Option<OpenLog>,
    readiness: Arc<Readiness>,
    board: Arc<Board>,
    status: SocketAddr,
    metrics: SocketAddr,
    control: SocketAddr,
    drain: DrainSettings,
    handover: Handover,
    life: watch::Receiver<Life>,
    /// Listens when the first table is there, then waits for a successor.
    opening: JoinHandle<()>,
    /// Probes of nodes, and what keeps certificates fresh.
    upkeep: Vec<JoinHandle<()>>,
    servers: Servers,
    feed: Option<Feed>,
    lock: Option<Arc<File>>,
}

impl Proxy {
    /// Starts a proxy. Everything that can fail for good fails here: the disk, the addresses. Must be called within a
    /// runtime, on which status and metrics are served.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(settings: Checked, seams: Seams) -> Result<Self, StartError> {
        Self::start_with(settings, seams, Estate::default()).await
    }

    /// The same with what another process has handed over ([`take_over`](crate::handover::take_over)). It serves once a
    /// table is compiled; until then the other one does.
    ///
    /// # Errors
    /// [`StartError`]: then the other process goes on.
    pub async fn start_with(settings: Checked, seams: Seams, mut estate: Estate) -> Result<Self, StartError> {
        let system = |what| move |error| StartError::System { what, error };
        let mut disk = open_disk(&settings, &seams, estate.take_lock())?;
        let lock = disk.take_lock().map(Arc::new);
        let mut open = |address, what| -> Result<Arc<TcpListener>, StartError> {
            let entrance = net::open(address, estate.take(address));
            entrance.and_then(net::Entrance::listen).map(Arc::new).map_err(system(what))
        };
        let status = open(settings.status, "status.listen")?;
        let metrics = open(settings.metrics, "metrics.listen")?;
        let control = open(settings.control, "control.listen")?;
        let cell = TableCell::default();
        let board = Arc::new(Board::default());
        let readiness = Arc::new(Readiness::new(board.clone()));
        let log_stats = Arc::<LogStats>::default();
        let access_log = open_access_log(&settings.proxy.access_log, &log_stats, &seams)?;
        let log = access_log.as_ref().map(OpenLog::handle);
        let workers = Workers::start(&settings.proxy, settings.workers, &cell, log.as_ref(), &mut estate);
        let workers = workers.map_err(system("proxy.listen"))?;
        let link = estate.take_link();
        // What is left are sockets at addresses that are not wanted any more.
        drop(estate);
        let sources = Arc::new(Sources {
            node: settings.node.clone(),
            readiness: readiness.clone(),
            board: board.clone(),
            disk: disk.stats.clone(),
            cell: cell.clone(),
            figures: workers.figures(),
            buffers: workers.buffers(),
            access_log: log_stats,
            credentials: settings.credentials.clone(),
        });
        let addresses = (status.local_addr(), metrics.local_addr(), control.local_addr());
        let resolver = Resolver::set_by(&settings.proxy.dns).map(Arc::new);
        let mut upkeep = vec![tokio::spawn(health::run(cell.health().clone(), seams.random.clone(), resolver.clone()))];
        let sites =
            Sites { listeners: [(status, Site::Status), (metrics, Site::Metrics), (control, Site::Control)], sources };
        let standalone = standalone(&settings, &seams, &disk)?;
        // What came from a file is sealed with this node's own keys where no others are set.
        let keyring = settings.keyring.or_else(|| standalone.as_ref().map(|standalone| standalone.keyring.clone()));
        let dial: Arc<dyn Dial> = match settings.credentials {
            None => seams.dial,
            Some(credentials) => {
                upkeep.push(tokio::spawn(credentials.clone().keep_fresh()));
                Arc::new(Proved { by: seams.dial, credentials })
            }
        };
        let feed = feed::start(feed::Start {
            identity: Identity { node: settings.node, instance: seams.random.bytes16() },
            control_plane: settings.control_plane,
            archive: settings.archive,
            stores: Arc::new(archive::AsSet),
            standalone,
            tls: Arc::new(TlsTerms {
                keyring,
                http2: settings.proxy.http2.enabled,
                anonymous: Arc::new(ClientTls::anonymous(settings.trust.clone())),
                trust: settings.trust,
            }),
            secrets: SecretTerms { refresh: settings.secrets_refresh, kept: Some(settings.data_dir.join("secrets")) },
            resolver: resolver.unwrap_or_else(|| Arc::new(Resolver::of_machine())),
            router: settings.proxy.router,
            disk,
            cell,
            board: board.clone(),
            dial,
            random: seams.random,
        });
        let feed = feed.map_err(system("feed"))?;
        let (life, watched) = watch::channel(Life::Starting);
        let servers = Servers::default();
        // While a predecessor serves, it also answers how it stands.
        if link.is_none() {
            sites.serve(&servers);
        }
        let leaving = lock.as_ref().map(|lock| Leaving {
            lock: Arc::downgrade(lock),
            feed: feed.stander(),
            workers: workers.lender(),
            sites: sites.listeners.iter().map(|(listener, _)| listener.clone()).collect(),
        });
        let opening = Opening {
            listen: Box::pin(workers.listener()),
            leaving,
            shown: (workers.addresses().to_vec(), workers.tls_addresses().to_vec()),
            live: feed.live(),
            readiness: readiness.clone(),
            sites,
            servers: servers.clone(),
            handover: settings.handover.clone(),
            link,
            life,
        };
        Ok(Self {
            opening: tokio::spawn(opening.run()),
            workers,
            access_log,
            readiness,
            board,
            status: addresses.0.map_err(system("status.listen"))?,
            metrics: addresses.1.map_err(system("metrics.listen"))?,
            control: addresses.2.map_err(system("control.listen"))?,
            drain: settings.proxy.drain,
            handover: settings.handover,
            life: watched,
            upkeep,
            servers,
            feed: Some(feed),
            lock,
        })
    }

    /// Where clients connect.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        self.workers.addresses()
    }

    /// Where clients connect by TLS.
    #[must_use]
    pub fn tls_addresses(&self) -> &[SocketAddr] {
        self.workers.tls_addresses()
    }

    /// Where TCP connections are carried; those with TLS come last.
    #[must_use]
    pub fn stream_addresses(&self) -> &[SocketAddr] {
        self.workers.stream_addresses()
    }

    /// Where probes are answered.
    #[must_use]
    pub fn status_address(&self) -> SocketAddr {
        self.status
    }

    /// Where metrics are answered.
    #[must_use]
    pub fn metrics_address(&self) -> SocketAddr {
        self.metrics
    }

    /// Where the health of nodes is told.
    #[must_use]
    pub fn control_address(&self) -> SocketAddr {
        self.control
    }

    /// Opens the access log's file anew, after somebody has moved it away.
    pub fn reopen_logs(&self) {
        if let Some(log) = &self.access_log {
            log.reopen();
        }
    }

    /// How it stands.
    #[must_use]
    pub fn board(&self) -> &Arc<Board> {
        &self.board
    }

    /// Whether it is ready.
    #[must_use]
    pub fn readiness(&self) -> &Arc<Readiness> {
        &self.readiness
    }

    /// How far it has come, and how much further it comes.
    #[must_use]
    pub fn life(&self) -> watch::Receiver<Life> {
        self.life.clone()
    }

    /// Waits until something has ended that never should: after that this process is not whole.
    pub async fn failed(&mut self) {
        self.workers.failed().await;
    }

    /// Goes away in order: not ready, wait for load balancers to notice, take no more connections, wait for requests
    /// that are under way. True when none was left over.
    pub async fn drain(&self) -> bool {
        self.readiness.set_draining();
        let DrainSettings { delay, timeout: limit } = &self.drain;
        info!(%delay, "draining: not ready any more, still serving");
        sleep(delay.0).await;
        self.opening.abort();
        info!(timeout = %limit, "draining: no more connections are taken");
        self.end_connections(limit.0).await
    }

    /// Goes away after another process has taken over ([`Life::Succeeded`]): nothing is accepted any more, clients are told
    /// to connect anew, and what is under way may end. True when nothing was cut off.
    pub async fn leave(&mut self) -> bool {
        self.readiness.set_draining();
        self.opening.abort();
        end_all(&self.servers);
        self.workers.leave();
        // The successor has the disk: should it have to start anew, this process must not be in its way.
        self.feed = None;
        self.lock = None;
        let delay = &self.drain.delay;
        info!(%delay, "succeeded: clients are told to connect anew");
        sleep(delay.0).await;
        let limit = self.handover.drain_timeout;
        info!(timeout = %limit, "succeeded: what is under way may end");
        self.end_connections(limit.0).await
    }

    async fn end_connections(&self, limit: Duration) -> bool {
        let clean = timeout(limit.max(Duration::from_millis(1)), self.workers.drain()).await.is_ok();
        if clean {
            info!("drained");
        } else {
            warn!("requests that were under way are cut off");
        }
        clean
    }
}

/// Opens the data directory, with the lock where another process has handed it over.
fn open_disk(settings: &Checked, seams: &Seams, lock: Option<File>) -> Result<disk::Opened, OpenError> {
    let (group, clock) = (settings.node.group.as_str().into(), seams.clock.clone());
    match lock {
        Some(lock) => disk::open_locked(&settings.data_dir, &group, clock, &*seams.random, lock),
        None => disk::open(&settings.data_dir, &group, clock, &*seams.random),
    }
}

/// How the file is read, where there is one.
fn standalone(settings: &Checked, seams: &Seams, disk: &disk::Opened) -> Result<Option<Standalone>, StartError> {
    let Some((StandaloneSettings { poll, .. }, file)) =
        settings.standalone.as_ref().and_then(|standalone| Some((standalone, standalone.file.clone()?)))
    else {
        return Ok(None);
    };
    let bad = |error| StartError::System { what: "standalone.file", error };
    let held = disk.recovered.state().map(protocol::ConfigState::position);
    if held.is_some_and(|position| position.epoch.number > 0) {
        let dir = settings.data_dir.display();
        let why = format!("{dir} has the configuration of a control plane: give a proxy without one another data_dir");
        return Err(bad(io::Error::other(why)));
    }
    let keyring = match &settings.keyring {
        Some(keyring) => keyring.clone(),
        None => standalone::own_keyring(&settings.data_dir, &*seams.random).map_err(bad)?,
    };
    Ok(Some(Standalone { file, poll: poll.0, keyring, clock: seams.clock.clone() }))
}

fn open_access_log(
    settings: &AccessLogSettings,
    stats: &Arc<LogStats>,
    seams: &Seams,
) -> Result<Option<OpenLog>, StartError> {
    let Some(file) = &settings.file else { return Ok(None) };
    let format = settings.lines().expect("the settings were checked");
    OpenLog::open(file.clone(), format, settings.queue_lines, stats.clone(), seams.clock.clone())
        .map(Some)
        .map_err(|error| StartError::System { what: "proxy.access_log.file", error })
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.opening.abort();
        self.upkeep.iter().for_each(JoinHandle::abort);
        end_all(&self.servers);
    }
}
