//! A whole proxy: put together, started, drained.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use daemon::seams::{SystemClock, SystemRandom};
use protocol::seam::{Random, WallClock};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tracing::{info, warn};

use crate::access_log::{LogStats, OpenLog};
use crate::disk::{self, OpenError};
use crate::feed::{self, Feed, Identity};
use crate::health;
use crate::net::{self, Dial, Proved, Tcp};
use crate::proxy::Workers;
use crate::settings::{AccessLogSettings, Checked, DrainSettings};
use crate::standing::Board;
use crate::status::{self, Readiness, Site, Sources};
use crate::table::{ClientTls, TableCell, TlsTerms};

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
    /// Listens when the first table is there.
    opening: JoinHandle<()>,
    servers: Vec<JoinHandle<()>>,
    _feed: Feed,
    _lock: Option<File>,
}

impl Proxy {
    /// Starts a proxy. Everything that can fail for good fails here: the disk, the addresses. Must be called within a
    /// runtime, on which status and metrics are served.
    ///
    /// # Errors
    /// [`StartError`].
    pub async fn start(settings: Checked, seams: Seams) -> Result<Self, StartError> {
        let system = |what| move |error| StartError::System { what, error };
        let mut disk =
            disk::open(&settings.data_dir, &settings.node.group.as_str().into(), seams.clock.clone(), &*seams.random)?;
        let lock = disk.take_lock();
        let status = net::bind(settings.status).and_then(net::listen).map_err(system("status.listen"))?;
        let metrics = net::bind(settings.metrics).and_then(net::listen).map_err(system("metrics.listen"))?;
        let control = net::bind(settings.control).and_then(net::listen).map_err(system("control.listen"))?;
        let cell = TableCell::default();
        let board = Arc::new(Board::default());
        let readiness = Arc::new(Readiness::new(board.clone()));
        let log_stats = Arc::<LogStats>::default();
        let access_log = open_access_log(&settings.proxy.access_log, &log_stats, &seams)?;
        let log = access_log.as_ref().map(OpenLog::handle);
        let workers = Workers::start(&settings.proxy, settings.workers, &cell, log.as_ref());
        let workers = workers.map_err(system("proxy.listen"))?;
        let sources = Arc::new(Sources {
            node: settings.node.clone(),
            readiness: readiness.clone(),
            board: board.clone(),
            disk: disk.stats.clone(),
            cell: cell.clone(),
            figures: workers.figures(),
            access_log: log_stats,
            credentials: settings.credentials.clone(),
        });
        let addresses = (status.local_addr(), metrics.local_addr(), control.local_addr());
        let mut servers = vec![
            tokio::spawn(health::run(cell.health().clone(), seams.random.clone())),
            tokio::spawn(status::serve(status, Site::Status, sources.clone())),
            tokio::spawn(status::serve(metrics, Site::Metrics, sources.clone())),
            tokio::spawn(status::serve(control, Site::Control, sources)),
        ];
        let dial: Arc<dyn Dial> = match settings.credentials {
            None => seams.dial,
            Some(credentials) => {
                servers.push(tokio::spawn(credentials.clone().keep_fresh()));
                Arc::new(Proved { by: seams.dial, credentials })
            }
        };
        let feed = feed::start(feed::Start {
            identity: Identity { node: settings.node, instance: seams.random.bytes16() },
            control_plane: settings.control_plane,
            archive: settings.archive,
            tls: Arc::new(TlsTerms {
                keyring: settings.keyring,
                http2: settings.proxy.http2.enabled,
                anonymous: Arc::new(ClientTls::anonymous(settings.trust.clone())),
                trust: settings.trust,
            }),
            router: settings.proxy.router,
            disk,
            cell,
            board: board.clone(),
            dial,
            random: seams.random,
        });
        let feed = feed.map_err(system("feed"))?;
        let mut live = feed.live();
        let opening = {
            let (ready, listen) = (readiness.clone(), workers.listener());
            let shown = (workers.addresses().to_vec(), workers.tls_addresses().to_vec());
            tokio::spawn(async move {
                if live.wait_for(|live| *live).await.is_err() {
                    return;
                }
                match listen.await {
                    Ok(()) => {
                        ready.set_listening();
                        info!(addresses = ?shown.0, tls_addresses = ?shown.1, "serving");
                    }
                    Err(e) => tracing::error!(error = %e, "the listeners cannot be opened"),
                }
            })
        };
        Ok(Self {
            workers,
            access_log,
            readiness,
            board,
            status: addresses.0.map_err(system("status.listen"))?,
            metrics: addresses.1.map_err(system("metrics.listen"))?,
            control: addresses.2.map_err(system("control.listen"))?,
            drain: settings.proxy.drain,
            opening,
            servers,
            _feed: feed,
            _lock: lock,
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
        let clean = timeout(limit.0.max(Duration::from_millis(1)), self.workers.drain()).await.is_ok();
        if clean {
            info!("drained");
        } else {
            warn!("requests that were under way are cut off");
        }
        clean
    }
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
        self.servers.iter().for_each(JoinHandle::abort);
    }
}
