//! The feed's thread: stays with a node while it is of use, and puts to use what it sends.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use archive::{ArchiveSettings, Found};
use bytes::Bytes;
use daemon::planted;
use protocol::grpc::feed_down::Kind as Down;
use protocol::grpc::feed_up::Kind as Up;
use protocol::grpc::{Ack, FeedDown, FeedUp, Hello, RejectedResource};
use protocol::resource::KINDS;
use protocol::seam::Random;
use protocol::{ConfigState, Position};
use tokio::sync::{oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until, timeout};
use tracing::{debug, error, info, info_span, warn};

use super::choice::Choice;
use super::link::{Link, LinkError};
use super::session::{Bounds, Event, Holding, Keep, Leave, Moved, Node, Session};
use crate::archive::{self as archived, Interest};
use crate::disk::{DiskError, Image, Opened, Recovered, Store};
use crate::net::Dial;
use crate::settings::{ControlPlane, Endpoint, NodeSettings};
use crate::standing::{Board, Connected, Source, Standing};
use crate::table::{Compiler, Publisher, Rejected, Router, TableCell, TlsTerms};

/// How long a step waits for the disk before it is served all the same: a disk that hangs must not hold a change up.
const DISK_WAIT_MAX: Duration = Duration::from_secs(2);
/// How often the clock is looked at.
const TICK: Duration = Duration::from_millis(200);
/// While something is not on the disk, how often it is tried again.
const DISK_RETRY: Duration = Duration::from_secs(1);
/// Messages that are taken together, compiled, kept with one sync, and published at once.
const BURST_MAX: usize = 256;
/// Rejected resources that one ack names; the rest is on the status page.
const ACK_REJECTED_MAX: usize = 1000;

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
    /// What ssls are compiled with.
    pub tls: Arc<TlsTerms>,
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
    let (live_sender, live) = watch::channel(false);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let run = move || {
        runtime.block_on(async {
            tokio::select! {
                () = follow(start, live_sender) => {}
                _ = stopped => {}
            }
        });
    };
    let thread = thread::Builder::new().name("feed".into()).spawn(run)?;
    Ok(Feed { stop: Some(stop), thread: Some(thread), live })
}

/// The feed as a task of the current runtime, for ever: what the thread runs, and what a simulation runs in its place.
/// `live` turns true when the first table was published.
pub async fn follow(mut start: Start, live: watch::Sender<bool>) {
    let archive = start.archive.take();
    let mut feed = Follower::boot(start, live);
    feed.archive = archive.map(|settings| {
        let (group, board) = (&feed.identity.node.group, feed.board.archive.clone());
        archived::start(settings, group, board, feed.random.clone(), feed.interest())
    });
    feed.follow().await;
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
}

impl Follower {
    fn boot(start: Start, live: watch::Sender<bool>) -> Self {
        let Start { identity, control_plane, archive: _, tls, router, mut disk, cell, board, dial, random } = start;
        let mut recovered = std::mem::take(&mut disk.recovered);
        if planted!("proxy-forgets-its-disk") {
            recovered = Recovered::default();
        }
        let compiler = Compiler::watching(cell.health().clone()).on_terms(tls).routed_by(router);
        let (compiler, state) = compile_recovered(&recovered, compiler);
        let found = recovered.base.is_some();
        let damaged = !recovered.findings.is_empty();
        let mut follower = Self {
            holding: Holding { cluster: recovered.cluster, state },
            served: ConfigState::following(),
            publisher: Publisher::new(cell),
            // What was damaged is not written to any more: the first thing that is kept is a new base.
            volatile: found && (damaged || disk.store.is_none()),
            store: disk.store,
            late: None,
            disk_tried: Instant::now(),
            source: if found { Source::Disk } else { Source::None },
            connected: None,
            rejected: Arc::default(),
            need_full: false,
            archive: None,
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
        if endpoints.is_empty() {
            warn!("control_plane.endpoints is empty: no change will arrive but from the archive, where there is one");
        }
        let ControlPlane { reconnect_min, reconnect_max, .. } = self.control_plane;
        let mut choice = Choice::new(endpoints.len(), reconnect_min, reconnect_max, &*self.random);
        loop {
            let pause = if endpoints.is_empty() { Duration::MAX } else { choice.pause(&*self.random) };
            self.wait(pause).await;
            let endpoint = &endpoints[choice.current()];
            let span = info_span!("stream", %endpoint);
            let opened =
                Link::open(self.dial.clone(), endpoint, self.hello(), self.control_plane.connect_timeout).await;
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
            span.in_scope(|| self.after(over, &mut choice));
        }
    }

    /// Learns from the end of a stream.
    fn after(&mut self, over: Over, choice: &mut Choice) {
        match over {
            Over::Left(leave) => {
                match &leave {
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
            Over::Link(e) => {
                warn!(reason = %e, "no stream from the control plane's node");
                choice.bad();
            }
        }
    }

    /// Waits, and keeps house meanwhile.
    async fn wait(&mut self, pause: Duration) {
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
                () = end => return,
                found = next_found(&mut self.archive) => self.take_archived(*found).await,
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

    /// Asks another node how fresh it is, beside the stream that is served.
    fn probe(&self, node: usize, endpoint: &Endpoint) -> Probe {
        let within = self.control_plane.connect_timeout;
        let (dial, endpoint, hello) = (self.dial.clone(), endpoint.clone(), self.hello());
        Box::pin(async move {
            let ask = async {
                let mut link = Link::open(dial, &endpoint, hello, within).await.map_err(|e| e.to_string())?;
                let mut said = Vec::new();
                loop {
                    let message = link.next().await.map_err(|e| e.to_string())?;
                    let leader_age = match &message.kind {
                        Some(Down::Heartbeat(beat)) => Some(Some(Duration::from_millis(beat.leader_contact_age_ms))),
                        Some(Down::Payload(_)) => Some(None),
                        Some(Down::Behind(_)) => return Err("it is behind".to_owned()),
                        Some(Down::Refused(refused)) => return Err(format!("it refuses: {}", refused.reason)),
                        Some(Down::Welcome(_)) | None => None,
                    };
                    said.push(message);
                    if let Some(leader_age) = leader_age {
                        link.put_back(said);
                        return Ok(Candidate { link, leader_age });
                    }
                }
            };
            let answer = timeout(within, ask).await;
            (node, answer.unwrap_or_else(|_| Err(format!("no answer within {within:?}"))))
        })
    }

    /// Takes a message and all that came with it, and puts everything to use at once.
    async fn take_burst(
        &mut self,
        active: &mut Active,
        first: Result<FeedDown, LinkError>,
        endpoint: &Endpoint,
        choice: &mut Choice,
    ) -> Result<(), Over> {
        let arrived = Instant::now();
        let mut burst = Vec::new();
        let mut over = None;
        let (mut answer, mut current) = (false, false);
        let mut taken = 0;
        let mut next = Some(first);
        while let Some(message) = next.take() {
            taken += 1;
            let event = match message {
                Ok(message) => active.session.take(&mut self.holding, message, arrived).map_err(Over::Left),
                Err(e) => Err(Over::Link(e)),
            };
            match event {
                Ok(None) => {}
                Ok(Some(Event::Welcomed(node))) => {
                    self.welcomed(node, endpoint);
                    answer = true;
                }
                Ok(Some(Event::Moved(moved))) => burst.push(*moved),
                Ok(Some(Event::Current)) => current = true,
                Ok(Some(Event::Mend(mend))) => {
                    warn!(position = %self.holding.state.position(), "what is held differs from the control plane's, asking for the differing parts");
                    self.board.mends.fetch_add(1, Ordering::Relaxed);
                    if let Err(e) = active.link.send(*mend) {
                        over = Some(Over::Link(e));
                    }
                }
                Err(e) => over = Some(e),
            }
            // Looked at before the next is taken: what is taken must be put to use.
            if over.is_some() || taken == BURST_MAX {
                break;
            }
            next = now_or_never(active.link.next());
        }
        if !burst.is_empty() {
            self.put_to_use(burst, arrived).await;
            (answer, current) = (true, true);
        }
        if current {
            choice.good();
            self.confirmed(active.session.leader_age());
        }
        if answer && over.is_none() {
            over = self.ack(&active.link).err().map(Over::Link);
        }
        over.map_or(Ok(()), Err)
    }

    fn welcomed(&mut self, node: Node, endpoint: &Endpoint) {
        info!(%endpoint, node_id = node.id, node = node.name, position = %self.holding.state.position(), "following");
        if let (Some(cluster), Some(store)) = (node.first_contact, &self.store) {
            info!(%cluster, "first contact: from now on only this cluster is followed");
            // Its answer is not waited for: what is kept next waits behind it on the disk's thread.
            drop(store.pin(cluster));
        }
        self.connected = Some(Connected { endpoint: endpoint.to_string(), node, leader_contact_age: None });
        self.post();
    }

    /// The node has what is held.
    fn confirmed(&mut self, leader_age: Option<Duration>) {
        self.source = Source::ControlPlane;
        self.need_full = false;
        if let Some(connected) = &mut self.connected {
            connected.leader_contact_age = leader_age;
        }
        self.post();
    }

    /// Takes what was found in the archive, if it leads forward.
    async fn take_archived(&mut self, found: Found) {
        let (theirs, ours) = (found.state.position(), self.holding.state.position());
        if let Some(cluster) = self.holding.cluster.filter(|cluster| *cluster != found.cluster) {
            error!(theirs = %found.cluster, ours = %cluster, "what the archive has is another cluster's");
            return;
        }
        match theirs.compare(&ours) {
            Ok(std::cmp::Ordering::Greater) => {}
            // A control plane was faster.
            Ok(_) => return,
            Err(conflict) => {
                error!(reason = %conflict, "what the archive has is refused");
                return;
            }
        }
        let arrived = Instant::now();
        let follows = |steps: &Vec<(protocol::Delta, Bytes)>| matches!(&steps[..], [(first, _), ..] if first.prev == self.holding.state.changed_at());
        let burst = match found.steps.filter(follows) {
            Some(steps) => {
                let mut burst = Vec::with_capacity(steps.len());
                for (delta, frame) in steps {
                    let before = self.holding.state.clone();
                    if let Err(e) = self.holding.state.evolve(&delta) {
                        error!(reason = %e, "a step from the archive does not fit");
                        break;
                    }
                    let position = delta.position;
                    burst.push(Moved { before, changes: delta.changes, keep: Keep::Frame(frame), position });
                }
                burst
            }
            None => {
                let before = std::mem::replace(&mut self.holding.state, found.state);
                let changes = self.holding.state.changes_since(&before);
                vec![Moved { before, changes, keep: Keep::Base, position: theirs }]
            }
        };
        if self.holding.cluster.replace(found.cluster).is_none()
            && let Some(store) = &self.store
        {
            info!(cluster = %found.cluster, "first contact: from now on only this cluster is followed");
            drop(store.pin(found.cluster));
        }
        info!(from = %ours, position = %self.holding.state.position(), "serving what the archive has");
        self.put_to_use(burst, arrived).await;
        self.source = Source::Archive;
        self.board.archive.taken.fetch_add(1, Ordering::Relaxed);
        self.post();
    }

    fn interest(&self) -> Interest {
        Interest {
            cluster: self.holding.cluster,
            state: self.holding.state.clone(),
            followed: self.connected.is_some() && self.source == Source::ControlPlane,
        }
    }

    /// Compiles steps, keeps them, and puts the table in force: in this order, so that nothing is served that a restart
    /// would take back.
    async fn put_to_use(&mut self, burst: Vec<Moved>, arrived: Instant) {
        let steps = burst.len() as u64;
        let mut frames = Some(Vec::with_capacity(burst.len()));
        for moved in burst {
            debug!(
                prev = %moved.before.changed_at(), position = %moved.position, changes = moved.changes.len(), "a step"
            );
            if moved.changes.is_empty() {
                self.compiler.bookmark(moved.position);
            } else {
                self.compiler.apply(&moved.before, moved.position, &moved.changes);
            }
            match moved.keep {
                Keep::Frame(frame) => frames = frames.map(|frames| pushed(frames, frame)),
                Keep::Mark => frames = frames.map(|frames| pushed(frames, crate::disk::mark(moved.position))),
                Keep::Base => frames = None,
            }
        }
        self.keep(frames).await;
        self.publish();
        self.board.updates.fetch_add(steps, Ordering::Relaxed);
        self.board.update_time.observe_since(arrived);
    }

    fn publish(&mut self) {
        self.publisher.publish(self.compiler.table());
        self.served = self.holding.state.clone();
        self.board.retained_tables.store(self.publisher.retained() as u64, Ordering::Relaxed);
        self.board.has_table.store(true, Ordering::Release);
        self.live.send_if_modified(|live| !std::mem::replace(live, true));
        if *self.rejected != *self.compiler.rejected() {
            self.rejected = Arc::new(self.compiler.rejected().clone());
            warn!(rejected = self.rejected.len(), "the set of resources that cannot be served has changed");
        }
    }

    /// Keeps what is held: as frames behind the others, or (`None`) as a new base. Sets whether it is kept.
    async fn keep(&mut self, frames: Option<Vec<Bytes>>) {
        let Some(store) = &self.store else {
            self.volatile = true;
            return;
        };
        self.disk_tried = Instant::now();
        if let Some(late) = &mut self.late {
            match late.try_recv() {
                // The disk still hangs. Nothing more is put before it: it would only wait there.
                Err(oneshot::error::TryRecvError::Empty) => {
                    self.board.disk_misses.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Ok(_) | Err(oneshot::error::TryRecvError::Closed) => self.late = None,
            }
        }
        let image = Image { state: self.holding.state.clone(), last_good: self.compiler.last_good().clone() };
        let mut answer = match frames {
            Some(frames) if !self.volatile => store.append(frames, image),
            // What was missed is not on the disk: only a base closes the gap.
            _ => store.rebase(image),
        };
        let kept = match timeout(DISK_WAIT_MAX, &mut answer).await {
            Ok(Ok(Ok(()))) => true,
            Ok(Ok(Err(_)) | Err(_)) => false,
            Err(_) => {
                error!(waited = ?DISK_WAIT_MAX, "the disk does not answer, serving what it has not taken");
                self.late = Some(answer);
                false
            }
        };
        if !kept {
            self.board.disk_misses.fetch_add(1, Ordering::Relaxed);
        }
        if self.volatile == kept {
            match kept {
                true => info!(position = %self.holding.state.position(), "the position is on the disk again"),
                false => {
                    error!(position = %self.holding.state.position(), "the position is not on the disk: a restart would take it back")
                }
            }
        }
        self.volatile = !kept;
    }

    /// What is due from time to time. True when the control plane should hear of it.
    async fn keep_house(&mut self) -> bool {
        self.publisher.reclaim();
        self.board.retained_tables.store(self.publisher.retained() as u64, Ordering::Relaxed);
        if !self.volatile || self.store.is_none() || self.disk_tried.elapsed() < DISK_RETRY {
            return false;
        }
        self.keep(None).await;
        self.post();
        !self.volatile
    }

    fn hello(&self) -> FeedUp {
        let Identity { node, instance } = &self.identity;
        let state = &self.holding.state;
        // One who needs everything says that it has nothing.
        let (position, changed_at, digest) = match self.need_full || planted!("proxy-goes-back") {
            true => (Position::default(), Position::default(), ConfigState::following().digest()),
            false => (state.position(), state.changed_at(), state.digest()),
        };
        let kinds = KINDS.iter().map(|kind| format!("kind/{}", kind.name));
        let capabilities = kinds.chain(plugins::PLUGINS.iter().map(|plugin| format!("plugin/{}", plugin.name)));
        let hello = Hello {
            cluster: self.holding.cluster.map(|cluster| cluster.to_string()).unwrap_or_default(),
            name: node.name.clone(),
            instance: instance.to_vec().into(),
            version: daemon::build::VERSION.to_owned(),
            capabilities: capabilities.collect(),
            labels: node.labels.clone().into_iter().collect(),
            region: node.region.clone(),
            group: node.group.clone(),
            position: Some(position.into()),
            changed_at: Some(changed_at.into()),
            digest: digest.0.to_vec().into(),
        };
        FeedUp { kind: Some(Up::Hello(hello)) }
    }

    fn ack(&self, link: &Link) -> Result<(), LinkError> {
        let state = &self.holding.state;
        let rejected = self.compiler.rejected().iter().take(ACK_REJECTED_MAX).map(|(key, rejected)| RejectedResource {
            kind: key.kind.to_string(),
            id: key.id.to_string(),
            reason: rejected.reason.clone(),
            last_good: rejected.last_good,
        });
        let ack = Ack {
            position: Some(state.position().into()),
            digest: state.digest().0.to_vec().into(),
            rejected: rejected.collect(),
            volatile: self.volatile,
        };
        link.send(FeedUp { kind: Some(Up::Ack(ack)) })
    }

    fn post(&self) {
        if let Some(archive) = &self.archive {
            archive.interest.send_replace(self.interest());
        }
        let state = &self.served;
        self.board.write(Standing {
            position: state.position(),
            changed_at: state.changed_at(),
            digest: state.digest(),
            resources: state.len(),
            cluster: self.holding.cluster,
            source: self.source,
            connected: self.connected.clone(),
            volatile: self.volatile,
            rejected: self.rejected.clone(),
            state: Some(state.clone()),
        });
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

fn pushed(mut frames: Vec<Bytes>, frame: Bytes) -> Vec<Bytes> {
    frames.push(frame);
    frames
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

/// What is there already, without waiting.
fn now_or_never<F: Future>(future: F) -> Option<F::Output> {
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match std::pin::pin!(future).poll(&mut context) {
        std::task::Poll::Ready(output) => Some(output),
        std::task::Poll::Pending => None,
    }
}
