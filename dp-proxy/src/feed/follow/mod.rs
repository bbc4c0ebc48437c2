//! The feed's thread: stays with a node while it is of use, and puts to use what it sends.

mod adopt;
mod aside;
mod elsewhere;
mod keeping;
mod services;
mod stream;
mod telling;

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use archive::{ArchiveSettings, Found, OpenStore};
use daemon::planted;
use protocol::ConfigState;
use protocol::seam::Random;
use protocol::snapshot::ClusterId;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};
use tracing::{error, info, info_span, warn};

use super::choice::Choice;
use super::link::{Link, LinkError};
use super::session::{Bounds, Holding, Leave, Session};
use crate::archive::{self as archived, Interest};
use crate::discovery::Searches;
use crate::disk::{DiskError, DiskStats, Opened, Place, Recovered, Store};
use crate::dns::Resolver;
use crate::net::Dial;
use crate::secrets::{Errands, SecretTerms};
use crate::settings::{ControlPlane, Endpoint, NodeSettings};
use crate::standalone::{self, Configuration, Standalone};
use crate::standing::{Board, Connected, Source};
use crate::table::{Compiler, Publisher, Rejected, Router, TableCell, TlsTerms};
use aside::Wish;
pub(crate) use aside::{Aside, Stander};
use elsewhere::Kept;

/// How often the clock is looked at.
const TICK: Duration = Duration::from_millis(200);

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

/// A stream that is being served.
struct Active {
    link: Link,
    session: Session,
}

/// Another node that was asked how fresh it is.
struct Candidate {
    /// What it said so far is put back.
    link: Link,
    /// How long ago it heard from its leader; `None`: it has something newer.
    leader_age: Option<Duration>,
}

type Probe = Pin<Box<dyn Future<Output = (usize, Result<Candidate, String>)> + Send>>;

/// Why a stream is over.
enum Over {
    Left(Leave),
    Link(LinkError),
    /// Somebody wants the feed to stand aside.
    Wished(Wish),
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

    /// Follows one node after the other, for ever.
    async fn follow(&mut self) {
        let endpoints = self.control_plane.endpoints.clone();
        if endpoints.is_empty() && self.file.is_none() {
            warn!("control_plane.endpoints is empty: no change will arrive but from the archive, where there is one");
        }
        let ControlPlane { reconnect_min, reconnect_max, .. } = self.control_plane;
        let mut choice = Choice::new(endpoints.len(), reconnect_min, reconnect_max, &*self.random);
        loop {
            let pause = if endpoints.is_empty() { Duration::MAX } else { choice.pause(&*self.random) };
            if let Some(wish) = self.wait(pause).await {
                self.stand_aside(wish).await;
                continue;
            }
            let endpoint = &endpoints[choice.current()];
            let span = info_span!("stream", %endpoint);
            let opening = Link::open(self.dial.clone(), endpoint, self.hello(), self.control_plane.connect_timeout);
            let opened = tokio::select! {
                opened = opening => opened,
                Some(wish) = self.wishes.recv() => {
                    self.stand_aside(wish).await;
                    continue;
                }
                // A node that does not answer keeps nobody from what the archive has; it is told where that led.
                found = next_found(&mut self.archive) => {
                    self.take_archived(*found).await;
                    continue;
                }
            };
            let over = match opened {
                Ok(link) => self.serve(link, &endpoints, &mut choice).await,
                Err(e) => Over::Link(e),
            };
            self.board.disconnects.fetch_add(1, Ordering::Relaxed);
            self.connected = None;
            if planted!("proxy-without-a-node-serves-nothing") {
                self.holding.state = ConfigState::following();
                self.publish();
            }
            self.post();
            if let Over::Wished(wish) = over {
                self.stand_aside(wish).await;
                continue;
            }
            span.in_scope(|| self.after(over, &mut choice));
        }
    }

    /// Learns from the end of a stream.
    fn after(&mut self, over: Over, choice: &mut Choice) {
        match over {
            Over::Left(leave) => {
                match &leave {
                    _ if !choice.is_news(&leave.to_string()) => {}
                    Leave::OtherCluster { .. } | Leave::Refused(_) | Leave::Conflict(_) => {
                        error!(reason = %leave, "left the control plane's node");
                    }
                    _ => warn!(reason = %leave, "left the control plane's node"),
                }
                match leave {
                    Leave::Gap { .. } => choice.again(),
                    Leave::NeedFull(_) => {
                        self.need_full = true;
                        choice.again();
                    }
                    _ => choice.bad(),
                }
            }
            Over::Wished(_) => {}
            Over::Link(e) => {
                if choice.is_news(&e.to_string()) {
                    warn!(reason = %e, "no stream from the control plane's node");
                }
                choice.bad();
            }
        }
    }

    /// Waits, and keeps house meanwhile. Ends early when somebody wants the feed to stand aside.
    async fn wait(&mut self, pause: Duration) -> Option<Wish> {
        let until = Instant::now().checked_add(pause);
        let mut ticks = ticks();
        loop {
            let end = async {
                match until {
                    Some(until) => sleep_until(until).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = end => return None,
                Some(wish) = self.wishes.recv() => return Some(wish),
                found = next_found(&mut self.archive) => self.take_archived(*found).await,
                configuration = next_configuration(&mut self.file) => self.take_configuration(*configuration).await,
                _ = ticks.tick() => {
                    self.keep_house().await;
                }
            }
        }
    }

    /// Serves one stream until it is of no use any more.
    async fn serve(&mut self, link: Link, endpoints: &[Endpoint], choice: &mut Choice) -> Over {
        self.board.connects.fetch_add(1, Ordering::Relaxed);
        let mut active = Active { link, session: self.session() };
        let mut ticks = ticks();
        let mut probe: Option<Probe> = None;
        let mut probes = 0;
        let mut next_probe = Instant::now();
        loop {
            let endpoint = &endpoints[choice.current()];
            tokio::select! {
                message = active.link.next() => {
                    if let Err(over) = self.take_burst(&mut active, message, endpoint, choice).await {
                        return over;
                    }
                }
                Some(wish) = self.wishes.recv() => return Over::Wished(wish),
                (node, candidate) = poll_probe(&mut probe) => {
                    probe = None;
                    match candidate {
                        Ok(candidate) if candidate.leader_age.is_none_or(|age| age < self.control_plane.stale_after) => {
                            info!(
                                from = %endpoint, to = %endpoints[node],
                                leader_contact_age = ?active.session.leader_age(), "moving to a fresher node"
                            );
                            choice.switch_to(node);
                            self.board.connects.fetch_add(1, Ordering::Relaxed);
                            self.board.disconnects.fetch_add(1, Ordering::Relaxed);
                            active = Active { link: candidate.link, session: self.session() };
                        }
                        Ok(candidate) => {
                            info!(node = %endpoints[node], leader_contact_age = ?candidate.leader_age, "no fresher node");
                        }
                        Err(reason) => info!(node = %endpoints[node], reason, "no fresher node"),
                    }
                }
                _ = ticks.tick() => {
                    let now = Instant::now();
                    if let Err(leave) = active.session.tick(now) {
                        return Over::Left(leave);
                    }
                    if self.keep_house().await
                        && let Err(e) = self.ack(&active.link)
                    {
                        return Over::Link(e);
                    }
                    let is_stale = active.session.leader_age().is_some_and(|age| age > self.control_plane.stale_after);
                    if is_stale && probe.is_none() && now >= next_probe
                        && let Some(other) = choice.other(probes)
                    {
                        probes += 1;
                        next_probe = now + self.control_plane.reconnect_max.min(self.control_plane.stale_after);
                        probe = Some(self.probe(other, &endpoints[other]));
                    }
                }
            }
        }
    }

    fn session(&self) -> Session {
        let bounds = Bounds {
            payload_bytes_max: self.control_plane.payload_bytes_max,
            silence_max: self.control_plane.silence_max,
        };
        Session::new(self.identity.node.group.as_str().into(), bounds, Instant::now())
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

fn ticks() -> tokio::time::Interval {
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

async fn poll_probe(probe: &mut Option<Probe>) -> (usize, Result<Candidate, String>) {
    match probe {
        Some(probe) => probe.await,
        None => std::future::pending().await,
    }
}

async fn next_found(archive: &mut Option<archived::Source>) -> Box<Found> {
    if let Some(source) = archive
        && let Some(found) = source.found.recv().await
    {
        return found;
    }
    std::future::pending().await
}

async fn next_configuration(file: &mut Option<FileSource>) -> Box<Configuration> {
    if let Some(source) = file
        && let Some(configuration) = source.found.recv().await
    {
        return configuration;
    }
    std::future::pending().await
}

/// What is there already, without waiting.
fn now_or_never<F: Future>(future: F) -> Option<F::Output> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}
