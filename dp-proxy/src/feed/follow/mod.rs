//! The feed's thread: stays with a node while it is of use, and puts to use what it sends.

mod adopt;
mod aside;
mod elsewhere;
mod first;
mod keeping;
mod round;
mod services;
mod stream;
mod telling;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use archive::{ArchiveSettings, OpenStore};
use daemon::planted;
use protocol::ConfigState;
use protocol::seam::Random;
use protocol::snapshot::ClusterId;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tracing::info;

use super::session::Holding;
use crate::archive::{self as archived, Interest};
use crate::discovery::Searches;
use crate::disk::{DiskError, DiskStats, Opened, Place, Recovered, Store};
use crate::dns::Resolver;
use crate::net::Dial;
use crate::secrets::{Errands, SecretTerms};
use crate::settings::{ControlPlane, NodeSettings};
use crate::standalone::{self, Configuration, Standalone};
use crate::standing::{Board, Connected, Source};
use crate::table::{Compiler, Publisher, Rejected, Router, TableCell, TlsTerms};
use aside::Wish;
pub(crate) use aside::{Aside, Stander};
use elsewhere::Kept;
use first::First;

/// Who this proxy is, as the control plane sees it.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Name, region, group and labels.
    pub node: NodeSettings,
    /// Drawn anew at every start.
    pub instance: [u8; 16],
}

/// Everything that the feed needs.
#[expect(missing_debug_implementations, reason = "a source of randomness has nothing to print")]
pub struct Start {
    /// Who this proxy is.
    pub identity: Identity,
    /// Whom it follows.
    pub control_plane: ControlPlane,
    /// The archive, where there is one.
    pub archive: Option<ArchiveSettings>,
    /// Opens the archive's store.
    pub stores: Arc<dyn OpenStore>,
    /// The file in place of both, where there is one.
    pub standalone: Option<Standalone>,
    /// What ssls are compiled with.
    pub tls: Arc<TlsTerms>,
    /// How secrets that are kept elsewhere are fetched.
    pub secrets: SecretTerms,
    /// Who is asked for the nodes of services.
    pub resolver: Arc<Resolver>,
    /// In which order hosts and paths are asked.
    pub router: Router,
    /// Its disk, and what was found there.
    pub disk: Opened,
    /// Where tables are published.
    pub cell: TableCell,
    /// Where is written how the proxy stands.
    pub board: Arc<Board>,
    /// How nodes are reached.
    pub dial: Arc<dyn Dial>,
    /// Draws pauses and the first node.
    pub random: Arc<dyn Random>,
}

/// The running feed. When this is dropped, it ends.
#[derive(Debug)]
pub struct Feed {
    stop: Option<oneshot::Sender<()>>,
    wishes: mpsc::Sender<Wish>,
    thread: Option<JoinHandle<()>>,
    live: watch::Receiver<bool>,
}

impl Feed {
    /// Turns true when the first table was published.
    #[must_use]
    pub fn live(&self) -> watch::Receiver<bool> {
        self.live.clone()
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Starts the feed's thread. What the disk held is compiled and published first.
///
/// # Errors
/// Those of the operating system: no thread, or no runtime.
pub fn start(start: Start) -> io::Result<Feed> {
    let (stop, stopped) = oneshot::channel();
    let (wishes, wished) = mpsc::channel(1);
    let (live_sender, live) = watch::channel(false);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let run = move || {
        runtime.block_on(async {
            tokio::select! {
                () = follow_until_wished(start, live_sender, wished) => {}
                _ = stopped => {}
            }
        });
    };
    let thread = thread::Builder::new().name("feed".into()).spawn(run)?;
    Ok(Feed { stop: Some(stop), wishes, thread: Some(thread), live })
}

/// The feed as a task of the current runtime, for ever: what the thread runs, and what a simulation runs in its place.
/// `live` turns true when the first table was published.
pub async fn follow(start: Start, live: watch::Sender<bool>) {
    // Nobody will ask it to stand aside.
    let (_, wishes) = mpsc::channel(1);
    follow_until_wished(start, live, wishes).await;
}

async fn follow_until_wished(mut start: Start, live: watch::Sender<bool>, wishes: mpsc::Receiver<Wish>) {
    let archive = start.archive.take();
    let (standalone, stores) = (start.standalone.take(), start.stores.clone());
    let mut feed = Follower::boot(start, live, wishes).await;
    feed.archive = archive.map(|settings| {
        let (group, board) = (&feed.identity.node.group, feed.board.archive.clone());
        archived::start(settings, stores, group, board, feed.random.clone(), feed.interest())
    });
    feed.file = standalone.map(|standalone| {
        let found = standalone::start(standalone.clone(), feed.board.file.clone());
        FileSource { standalone, found }
    });
    feed.follow().await;
}

/// The file of a proxy without a control plane.
struct FileSource {
    standalone: Standalone,
    found: mpsc::Receiver<Box<Configuration>>,
}

/// What the thread holds.
struct Follower {
    identity: Identity,
    control_plane: ControlPlane,
    dial: Arc<dyn Dial>,
    random: Arc<dyn Random>,
    board: Arc<Board>,
    live: watch::Sender<bool>,
    holding: Holding,
    /// What is in force: what was held when the last table was published.
    served: ConfigState,
    compiler: Compiler,
    publisher: Publisher,
    store: Option<Store>,
    /// Where that is, should it be opened again.
    place: Place,
    disk: Arc<DiskStats>,
    /// Who wants it to stand aside.
    wishes: mpsc::Receiver<Wish>,
    /// An answer of the disk that did not come in time.
    late: Option<oneshot::Receiver<Result<(), DiskError>>>,
    /// Whether the position is not on the disk.
    volatile: bool,
    disk_tried: Instant,
    source: Source,
    connected: Option<Connected>,
    rejected: Arc<BTreeMap<protocol::ResourceKey, Rejected>>,
    /// Until something is served, where the archive's may not be the first.
    first: Option<First>,
    /// Set when nothing but the full configuration will do.
    need_full: bool,
    /// Where it is looked while no control plane is followed.
    archive: Option<archived::Source>,
    /// What is followed in place of a control plane.
    file: Option<FileSource>,
    /// Reads secrets that are kept elsewhere.
    errands: Errands,
    /// Asks for services.
    searches: Searches,
    /// Where what they brought is kept, and how it is sealed.
    kept: Option<Kept>,
}

impl Follower {
    async fn boot(start: Start, live: watch::Sender<bool>, wishes: mpsc::Receiver<Wish>) -> Self {
        let Start {
            identity,
            control_plane,
            archive: _,
            stores: _,
            standalone: _,
            tls,
            secrets,
            resolver,
            router,
            mut disk,
            cell,
            board,
            dial,
            random,
        } = start;
        let mut recovered = std::mem::take(&mut disk.recovered);
        if planted!("proxy-forgets-its-disk") {
            recovered = Recovered::default();
        }
        let errands = Errands::new(tls.anonymous.clone());
        let mut compiler = Compiler::watching(cell.health().clone()).on_terms(tls.clone()).routed_by(router);
        let kept = elsewhere::recall(&secrets, tls.keyring.clone(), compiler.secrets_mut());
        let (compiler, state) = compile_recovered(&recovered, compiler);
        let found = recovered.base.is_some();
        let damaged = !recovered.findings.is_empty();
        let mut follower = Self {
            // What came from a file is no cluster's.
            holding: Holding { cluster: recovered.cluster.filter(|cluster| *cluster != ClusterId::default()), state },
            served: ConfigState::following(),
            publisher: Publisher::new(cell),
            // What was damaged is not written to any more: the first thing that is kept is a new base.
            volatile: found && (damaged || disk.store.is_none()),
            store: disk.store,
            place: disk.place,
            disk: disk.stats,
            wishes,
            late: None,
            disk_tried: Instant::now(),
            source: if found { Source::Disk } else { Source::None },
            connected: None,
            rejected: Arc::default(),
            first: if found { None } else { First::of(&control_plane) },
            need_full: false,
            archive: None,
            file: None,
            errands,
            searches: Searches::new(resolver),
            kept,
            compiler,
            identity,
            control_plane,
            dial,
            random,
            board,
            live,
        };
        if found {
            info!(
                position = %follower.holding.state.position(),
                resources = follower.holding.state.len(),
                "serving the configuration on the disk"
            );
            follower.settle_secrets().await;
            follower.settle_services().await;
            follower.publish();
        } else {
            info!("there is no configuration on the disk");
        }
        follower.post();
        follower
    }

    fn interest(&self) -> Interest {
        Interest {
            cluster: self.holding.cluster,
            state: self.holding.state.clone(),
            followed: self.connected.is_some() && self.source == Source::ControlPlane,
        }
    }
}

/// Brings what the disk held into a table, step by step as it came: so it is known again what was served last in place
/// of what could not be.
fn compile_recovered(recovered: &Recovered, compiler: Compiler) -> (Compiler, ConfigState) {
    let Some(base) = &recovered.base else { return (compiler, ConfigState::following()) };
    let mut compiler = compiler.with(&base.state, &base.last_good);
    for step in &recovered.steps {
        compiler.apply(&step.before, step.after.position(), &step.changes);
    }
    let state = recovered.state().unwrap_or(&base.state);
    (compiler, state.clone())
}
