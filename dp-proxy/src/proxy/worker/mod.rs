//! One worker: a thread with its own listeners, connections, turns and figures. It shares nothing that it writes.

mod admission;
mod serving;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use daemon::settings::units::ByteSize;
use http::HeaderValue;
use http::request::Parts;
use hyper::server::conn::http2;
use tokio::net::TcpListener;
use tokio::sync::futures::Notified;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::balance::{Balancer, Loads};
use super::buffers::Buffers;
use super::downstream::client::{Client, ClientLimits};
use super::downstream::gather::Scratch;
use super::downstream::http1::Arena;
use super::downstream::http1::date::Date;
use super::figures::{Figures, Ledger};
use super::real_ip::RealIp;
use super::upstream::http2::pool::Http2Pools;
use super::upstream::names::Names;
use super::upstream::pool::Pools;
use super::upstream::response_head::HeadLimits;
use super::wheel::Wheel;
use crate::access_log::AccessLog;
use crate::dns::Resolver;
use crate::net::Entrance;
use crate::settings::{ProxyHeader, ProxySettings};
use crate::table::{Generation, Reader, TableCell};
use serving::Here;

/// What a worker is made of.
pub(super) struct Setup {
    pub(super) index: usize,
    pub(super) count: usize,
    pub(super) settings: ProxySettings,
    pub(super) cell: TableCell,
    pub(super) figures: Arc<Figures>,
    pub(super) buffers: Arc<Buffers>,
    pub(super) access_log: Option<AccessLog>,
    /// Bound and not listening, or inherited.
    pub(super) sockets: Vec<(Entrance, Door)>,
}

/// What is spoken at a listener.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Door {
    pub(super) tls: bool,
    /// Whether every connection begins with who it is from.
    pub(super) proxy_protocol: bool,
    /// Whether bytes are carried unread; otherwise HTTP is spoken.
    pub(super) stream: bool,
}

/// What a worker is told.
#[derive(Debug)]
pub(super) enum Command {
    /// There is a table: listen. Answered when connections are accepted.
    Listen(oneshot::Sender<io::Result<()>>),
    /// Give copies of the listeners.
    Lend(oneshot::Sender<io::Result<Vec<OwnedFd>>>),
    /// Another process listens in this one's place: take no more connections, and tell clients to connect anew.
    Leave,
    /// Take no more connections, and end those that are open after the request that is under way. Answered when none is
    /// left.
    Drain(oneshot::Sender<()>),
}

/// Everything that the worker's connections share.
pub(crate) struct Worker {
    table: RefCell<Reader>,
    pub(crate) wheel: Rc<Wheel>,
    pub(crate) pools: Rc<Pools>,
    pub(crate) http2_pools: Http2Pools,
    pub(crate) names: Rc<Names>,
    pub(crate) balancer: RefCell<Balancer>,
    pub(crate) loads: Rc<Loads>,
    pub(crate) figures: Arc<Figures>,
    pub(crate) ledger: RefCell<Ledger>,
    /// What bodies share that are kept whole, with all workers.
    pub(crate) buffers: Arc<Buffers>,
    pub(crate) access_log: Option<AccessLog>,
    /// What its connections read into.
    pub(crate) arena: Rc<Arena>,
    /// What heads of answers are written into.
    pub(crate) scratch: Scratch,
    pub(crate) date: Date,
    real_ip: Option<RealIp>,
    pub(crate) limits: Limits,
    pub(crate) head_limits: HeadLimits,
    pub(crate) server_header: Option<HeaderValue>,
    pub(crate) stream: StreamTerms,
    /// 0: without a bound.
    pub(crate) requests_per_connection_max: u64,
    http2: http2::Builder<Here>,
    here: Here,
    h2c: bool,
    fallback_sni: String,
    handshake_timeout: Duration,
    handshakes_max: usize,
    handshakes: Cell<usize>,
    /// Another process listens here, or nobody: no connection is taken any more.
    leaving: Cell<bool>,
    /// Told when leaving begins.
    leave: Notify,
    draining: Cell<bool>,
    /// Told when draining begins, and whenever a connection ends while it lasts.
    drain: Notify,
    connections: Cell<usize>,
    /// Lines about failed requests in the current second.
    spoken: Cell<(u64, u32)>,
    begun: Instant,
}

/// What holds for all streams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct StreamTerms {
    /// What nodes are told first.
    pub(crate) to_upstream: ProxyHeader,
    /// How long nothing may move, where an upstream has no time limits of its own.
    pub(crate) idle: Duration,
}

/// Bounds on clients.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) body_bytes_max: u64,
    /// Of a body that a condition looks into.
    pub(crate) matched_body_bytes_max: u64,
    client: ClientLimits,
    connections_max: usize,
}

/// Lines about failed requests that a worker writes per second: an upstream that is down must not fill the disk.
const LINES_PER_SECOND: u32 = 5;
/// Bytes of answers that wait in one HTTP/2 stream for its client to take them.
const SEND_BYTES_MAX: usize = 64 << 10;
/// How often connections to nodes that wait are looked at.
const SWEEP: Duration = Duration::from_secs(1);
/// The pause after the system gave no connection (out of files or memory).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker").field("connections", &self.connections).finish_non_exhaustive()
    }
}

/// Runs a worker until nobody tells it anything any more.
pub(super) async fn run(mut setup: Setup, mut commands: mpsc::UnboundedReceiver<Command>) {
    let sockets = std::mem::take(&mut setup.sockets);
    let worker = Worker::new(setup);
    spawn_local(worker.wheel.clone().turn());
    spawn_local(worker.clone().sweep());
    let mut sockets = Some(sockets);
    let (mut listeners, mut accepting) = (Vec::new(), Vec::new());
    while let Some(command) = commands.recv().await {
        match command {
            Command::Listen(answer) => {
                let sockets = sockets.take().unwrap_or_default().into_iter();
                let opened: io::Result<Vec<(Rc<TcpListener>, Door)>> =
                    sockets.map(|(socket, door)| Ok((Rc::new(socket.listen()?), door))).collect();
                let result = opened.map(|opened| {
                    listeners.extend(opened.iter().map(|(listener, _)| listener.clone()));
                    let accept = |(listener, door)| spawn_local(worker.clone().accept(listener, door));
                    accepting.extend(opened.into_iter().map(accept));
                });
                let _ = answer.send(result);
            }
            Command::Lend(answer) => {
                let _ = answer.send(listeners.iter().map(|listener| listener.as_fd().try_clone_to_owned()).collect());
            }
            Command::Leave => {
                listeners.clear();
                worker.leave();
            }
            Command::Drain(answer) => {
                // Sockets that never listened are closed as well.
                sockets = None;
                listeners.clear();
                let (worker, accepting) = (worker.clone(), std::mem::take(&mut accepting));
                spawn_local(async move {
                    worker.drain(accepting).await;
                    let _ = answer.send(());
                });
            }
        }
    }
}

impl Worker {
    fn new(setup: Setup) -> Rc<Self> {
        let Setup { index, count, settings, cell, figures, buffers, access_log, .. } = setup;
        let limits = &settings.limits;
        let names = match Resolver::set_by(&settings.dns) {
            Some(resolver) => Names::of_servers(Arc::new(resolver)),
            None => Names::of_machine(settings.dns_ttl.0),
        };
        let loads = Rc::<Loads>::default();
        let head_limits = HeadLimits {
            bytes: usize::try_from(limits.header_bytes_max.0).expect("at most a MiB, by the settings' check"),
            headers: limits.headers_max,
            target: usize::try_from(limits.target_bytes_max.0).expect("at most 64 KiB, by the settings' check"),
        };
        let here = Here::default();
        let mut http2 = http2::Builder::new(here.clone());
        let window = |size: ByteSize| u32::try_from(size.0).expect("at most a GiB, by the settings' check");
        http2
            .max_concurrent_streams(settings.http2.streams_max)
            .max_pending_accept_reset_streams(settings.http2.resets_pending_max)
            .max_local_error_reset_streams(settings.http2.errors_max)
            .max_header_list_size(head_limits.header_list_max())
            .initial_stream_window_size(window(settings.http2.stream_window))
            .initial_connection_window_size(window(settings.http2.connection_window))
            .max_send_buf_size(SEND_BYTES_MAX);
        Rc::new(Self {
            table: RefCell::new(cell.reader()),
            wheel: Wheel::new(),
            pools: Rc::default(),
            http2_pools: Http2Pools::default(),
            names: Rc::new(names),
            balancer: RefCell::new(Balancer::new(index, loads.clone())),
            loads,
            ledger: RefCell::new(Ledger::new(figures.clone())),
            figures,
            buffers,
            access_log,
            arena: Rc::default(),
            scratch: Scratch::default(),
            date: Date::default(),
            real_ip: RealIp::new(&settings.real_ip),
            limits: Limits {
                body_bytes_max: limits.body_bytes_max.0,
                matched_body_bytes_max: limits.matched_body_bytes_max.0,
                client: ClientLimits {
                    idle: limits.idle_timeout.0,
                    head: limits.header_read_timeout.0,
                    body: limits.body_read_timeout.0,
                    body_rate: limits.body_rate_min.0,
                    send: limits.send_timeout.0,
                },
                connections_max: limits.connections_max.div_ceil(count),
            },
            head_limits,
            server_header: HeaderValue::from_str(&settings.server_header).ok().filter(|value| !value.is_empty()),
            stream: StreamTerms {
                to_upstream: settings.stream.proxy_protocol_to_upstream,
                idle: settings.stream.idle_timeout.0,
            },
            requests_per_connection_max: limits.requests_per_connection_max,
            http2,
            here,
            h2c: settings.h2c,
            fallback_sni: settings.tls.fallback_sni.to_ascii_lowercase(),
            handshake_timeout: settings.tls.handshake_timeout.0,
            handshakes_max: settings.tls.handshakes_max.div_ceil(count),
            handshakes: Cell::new(0),
            leaving: Cell::new(false),
            leave: Notify::new(),
            draining: Cell::new(false),
            drain: Notify::new(),
            connections: Cell::new(0),
            spoken: Cell::new((0, 0)),
            begun: Instant::now(),
        })
    }

    /// The table in force. Whoever holds it sees one generation.
    pub(crate) fn table(&self) -> Generation {
        self.table.borrow_mut().current()
    }

    /// Who a request is from: the client of the connection, or who a trusted one names in its place.
    pub(crate) fn real_peer(&self, client: &Client, parts: &Parts) -> SocketAddr {
        match &self.real_ip {
            None => client.peer,
            Some(real_ip) => real_ip.of(client.peer, &parts.headers),
        }
    }

    /// Whether what a client's connection says of the client behind it is believed: see [`RealIp`].
    pub(crate) fn believes(&self, client: &Client) -> bool {
        self.real_ip.as_ref().is_some_and(|real_ip| real_ip.trusts(client.peer.ip()))
    }

    /// Whether one more line about a failed request may be written now.
    pub(crate) fn may_speak(&self) -> bool {
        let now = self.begun.elapsed().as_secs();
        let (second, lines) = self.spoken.get();
        let lines = if second == now { lines + 1 } else { 1 };
        self.spoken.set((now, lines));
        if lines == LINES_PER_SECOND + 1 {
            warn!("more requests fail, their lines are left out for a second");
        }
        lines <= LINES_PER_SECOND
    }

    /// Lets go what nobody needs any more, for ever: connections to nodes that waited too long or were closed, rows of
    /// figures, and a table that was replaced while no request asked for one. Tells how many connections wait.
    async fn sweep(self: Rc<Self>) {
        loop {
            sleep(SWEEP).await;
            let now = Instant::now();
            drop(self.table());
            self.ledger.borrow_mut().tidy(now);
            self.figures.upstream_idle.set(self.pools.sweep(now) + self.http2_pools.sweep(now));
        }
    }

    /// Whether clients are to connect anew for their next request.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.get()
    }

    /// Whether connections end behind the request that is under way.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// Ready when draining begins.
    pub(crate) fn drained(&self) -> Notified<'_> {
        self.drain.notified()
    }

    /// Takes no more connections, and tells clients to connect anew: by HTTP/1 with their next answer, so that no request
    /// meets a connection that is being closed, by HTTP/2 at once.
    fn leave(&self) {
        self.leaving.set(true);
        self.leave.notify_waiters();
    }

    /// Ends everything in order; returns when no connection is left.
    async fn drain(self: Rc<Self>, accepting: Vec<tokio::task::JoinHandle<()>>) {
        self.leave();
        self.draining.set(true);
        self.drain.notify_waiters();
        for listener in accepting {
            let _ = listener.await;
        }
        self.pools.clear();
        self.http2_pools.clear();
        loop {
            let mut ended = pin!(self.drain.notified());
            ended.as_mut().enable();
            if self.connections.get() == 0 {
                return;
            }
            ended.await;
        }
    }
}

/// A client connection that counts.
struct Held {
    worker: Rc<Worker>,
    done: bool,
}

impl Held {
    fn new(worker: Rc<Worker>) -> Self {
        worker.connections.set(worker.connections.get() + 1);
        worker.figures.open.add(1);
        Self { worker, done: false }
    }

    fn done(mut self) {
        self.done = true;
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let left = self.worker.connections.get() - 1;
        self.worker.connections.set(left);
        self.worker.figures.open.sub(1);
        if !self.done && std::thread::panicking() {
            self.worker.figures.panics.add(1);
        }
        if left == 0 && self.worker.draining.get() {
            self.worker.drain.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpStream;

    use super::*;

    /// The size of the future that a function gives.
    fn future_bytes<A, F>(_: impl FnOnce(Rc<Worker>, TcpStream, A) -> F) -> usize {
        size_of::<F>()
    }

    #[test]
    fn what_lasts_as_long_as_a_connection_is_small() {
        let plain = future_bytes(|worker, stream, ends| worker.serve(stream, ends));
        let tls = future_bytes(|worker, stream, (ends, door, shaking)| worker.serve_tls(stream, ends, door, shaking));
        assert!(plain <= TASK_BYTES_MAX && tls <= TASK_BYTES_MAX, "{plain} {tls}");
    }

    /// Of the task of a connection, beside what it points to.
    const TASK_BYTES_MAX: usize = 1024;

    #[test]
    fn a_panic_ends_its_connection_and_nothing_else() {
        let setup = Setup {
            index: 0,
            count: 1,
            settings: ProxySettings::default(),
            cell: TableCell::default(),
            figures: Arc::default(),
            buffers: Buffers::new(0),
            access_log: None,
            sockets: Vec::new(),
        };
        let mut runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = runtime.enable_all().build_local(tokio::runtime::LocalOptions::default()).unwrap();
        runtime.block_on(async {
            let worker = Worker::new(setup);
            let (go, wait) = oneshot::channel::<()>();
            let finished = Rc::new(Cell::new(false));
            let set = finished.clone();
            worker.spawn(async { panic!("planted by a test") });
            worker.spawn(async move {
                let _ = wait.await;
                set.set(true);
            });
            tokio::task::yield_now().await;
            assert_eq!((worker.figures.panics.get(), worker.connections.get()), (1, 1));
            drop(go);
            worker.drain(Vec::new()).await;
            assert!(finished.get());
        });
    }
}
