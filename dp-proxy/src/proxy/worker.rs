//! One worker: a thread with its own listeners, connections, turns and figures. It shares nothing that it writes.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use http::HeaderValue;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use super::balance::{Balancer, Loads};
use super::downstream::client::{Client, ClientLimits, ClientStream};
use super::error::Refusal;
use super::figures::{Figures, Ledger};
use super::request::answer;
use super::upstream::names::Names;
use super::upstream::pool::Pools;
use super::upstream::response_head::HeadLimits;
use super::wheel::Wheel;
use crate::net;
use crate::settings::ProxySettings;
use crate::table::{Generation, Reader, TableCell};

/// What a worker is made of.
pub(super) struct Setup {
    pub(super) index: usize,
    pub(super) count: usize,
    pub(super) settings: ProxySettings,
    pub(super) cell: TableCell,
    pub(super) figures: Arc<Figures>,
    /// Bound, not listening.
    pub(super) sockets: Vec<TcpSocket>,
}

/// What a worker is told.
#[derive(Debug)]
pub(super) enum Command {
    /// There is a table: listen. Answered when connections are accepted.
    Listen(oneshot::Sender<io::Result<()>>),
    /// Take no more connections, and end those that are open after the request that is under way. Answered when none is
    /// left.
    Drain(oneshot::Sender<()>),
}

/// Everything that the worker's connections share.
pub(crate) struct Worker {
    table: RefCell<Reader>,
    pub(crate) wheel: Rc<Wheel>,
    pub(crate) pools: Rc<Pools>,
    pub(crate) names: Rc<Names>,
    pub(crate) balancer: RefCell<Balancer>,
    pub(crate) loads: Rc<Loads>,
    pub(crate) figures: Arc<Figures>,
    pub(crate) ledger: RefCell<Ledger>,
    pub(crate) limits: Limits,
    pub(crate) head_limits: HeadLimits,
    pub(crate) server_header: Option<HeaderValue>,
    /// 0: without a bound.
    pub(crate) requests_per_connection_max: u64,
    http: http1::Builder,
    draining: Cell<bool>,
    /// Told when draining begins, and whenever a connection ends while it lasts.
    drain: Notify,
    connections: Cell<usize>,
    /// Lines about failed requests in the current second.
    spoken: Cell<(u64, u32)>,
    begun: Instant,
}

/// Bounds on clients.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) body_bytes_max: u64,
    client: ClientLimits,
    connections_max: usize,
}

/// Lines about failed requests that a worker writes per second: an upstream that is down must not fill the disk.
const LINES_PER_SECOND: u32 = 5;
/// What is read, and for how long, of a request that was answered before it was read: a connection that is closed with
/// unread bytes is reset, and the client may never see the answer.
const LINGER_BYTES: usize = 1 << 20;
const LINGER_TIME: Duration = Duration::from_secs(2);
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
    spawn_local(worker.pools.clone().sweep(worker.figures.clone()));
    let mut sockets = Some(sockets);
    let mut accepting = Vec::new();
    while let Some(command) = commands.recv().await {
        match command {
            Command::Listen(answer) => {
                let listeners: io::Result<Vec<TcpListener>> =
                    sockets.take().unwrap_or_default().into_iter().map(net::listen).collect();
                let result = listeners.map(|listeners| {
                    accepting.extend(listeners.into_iter().map(|l| spawn_local(worker.clone().accept(l))));
                });
                let _ = answer.send(result);
            }
            Command::Drain(answer) => {
                // Sockets that never listened are closed as well.
                sockets = None;
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
        let Setup { index, count, settings, cell, figures, .. } = setup;
        let limits = &settings.limits;
        let loads = Rc::<Loads>::default();
        let head_bytes = usize::try_from(limits.header_bytes_max.0).expect("at most a MiB, by the settings' check");
        let mut http = http1::Builder::new();
        // Deadlines are ours: the parser's own would cost a timer per request.
        http.header_read_timeout(None).max_buf_size(head_bytes).max_header_size(head_bytes).half_close(false);
        if limits.headers_max != PARSER_HEADERS {
            http.max_headers(limits.headers_max);
        }
        Rc::new(Self {
            table: RefCell::new(cell.reader()),
            wheel: Wheel::new(),
            pools: Rc::default(),
            names: Rc::new(Names::new(settings.dns_ttl.0)),
            balancer: RefCell::new(Balancer::new(index, loads.clone())),
            loads,
            ledger: RefCell::new(Ledger::new(figures.clone())),
            figures,
            limits: Limits {
                body_bytes_max: limits.body_bytes_max.0,
                client: ClientLimits {
                    idle: limits.idle_timeout.0,
                    head: limits.header_read_timeout.0,
                    body: limits.body_read_timeout.0,
                    send: limits.send_timeout.0,
                },
                connections_max: limits.connections_max.div_ceil(count),
            },
            head_limits: HeadLimits { bytes: head_bytes, headers: limits.headers_max },
            server_header: HeaderValue::from_str(&settings.server_header).ok().filter(|value| !value.is_empty()),
            requests_per_connection_max: limits.requests_per_connection_max,
            http,
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

    async fn accept(self: Rc<Self>, listener: TcpListener) {
        let mut drained = pin!(self.drain.notified());
        drained.as_mut().enable();
        while !self.draining.get() {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => self.admit(stream, peer),
                    Err(e) => {
                        warn!(error = %e, "no connection could be accepted");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                () = &mut drained => {}
            }
        }
        // Clients that are connected already wait in this socket: closing it would reset them.
        while let Some(Ok((stream, peer))) = poll_fn(|cx| match listener.poll_accept(cx) {
            std::task::Poll::Ready(accepted) => std::task::Poll::Ready(Some(accepted)),
            std::task::Poll::Pending => std::task::Poll::Ready(None),
        })
        .await
        {
            self.admit(stream, peer);
        }
    }

    fn admit(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr) {
        if self.connections.get() >= self.limits.connections_max {
            self.figures.refused.add(1);
            if self.may_speak() {
                warn!(%peer, "a connection is refused: there are too many");
            }
            return;
        }
        self.figures.accepted.add(1);
        self.spawn(self.clone().serve(stream, peer));
    }

    /// Runs a connection. A panic ends it and nothing else: the runtime catches it, the hook has written what happened
    /// and where, and here it is counted.
    fn spawn(self: &Rc<Self>, connection: impl Future<Output = ()> + 'static) {
        let held = Held::new(self.clone());
        spawn_local(async move {
            connection.await;
            held.done();
        });
    }

    async fn serve(self: Rc<Self>, stream: TcpStream, peer: SocketAddr) {
        let Ok(local) = stream.local_addr() else { return };
        if let Err(e) = stream.set_nodelay(true) {
            debug!(%peer, error = %e, "a connection ended before it began");
            return;
        }
        let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
        let client = Client::new(peer, local, self.limits.client, &self.wheel);
        let io = TokioIo::new(ClientStream::new(stream, client.clone()));
        let (worker, same) = (self.clone(), client.clone());
        let service = service_fn(move |request| answer(worker.clone(), same.clone(), request));
        let mut connection = self.http.serve_connection(io, service);
        let mut drained = pin!(self.drain.notified());
        // Before the first look at `draining`: what begins from now on is heard.
        drained.as_mut().enable();
        let (mut asked, mut told) = (false, false);
        let result = poll_fn(|cx| {
            // The task's waker stays the same: asking once is enough to be woken.
            if !std::mem::replace(&mut asked, true) {
                let _ = drained.as_mut().poll(cx);
            }
            if self.draining.get() && !std::mem::replace(&mut told, true) {
                Pin::new(&mut connection).graceful_shutdown();
            }
            Pin::new(&mut connection).poll(cx)
        })
        .await;
        client.settle_egress();
        let stream = connection.into_parts().io.into_inner().into_inner();
        self.part(stream, &client, result).await;
    }

    /// Ends a connection so that the client gets what was sent.
    async fn part(&self, mut stream: TcpStream, client: &Client, result: hyper::Result<()>) {
        let malformed = result.as_ref().is_err_and(hyper::Error::is_parse);
        if let Err(e) = &result {
            debug!(peer = %client.peer, error = %e, "a connection ended");
        }
        if client.has_late_head() {
            // Whatever of it cannot be written at once is not worth waiting for.
            let _ = stream.try_write(&Refusal::LateHead.raw());
        } else if !(malformed || result.is_ok() && client.has_unread()) {
            return;
        }
        let linger = async {
            let _ = stream.shutdown().await;
            let mut scratch = [0; 4096];
            let mut left = LINGER_BYTES;
            while let Ok(read @ 1..) = stream.read(&mut scratch).await {
                let Some(rest) = left.checked_sub(read) else { break };
                left = rest;
            }
        };
        let _ = timeout(LINGER_TIME, linger).await;
    }

    /// Ends everything in order; returns when no connection is left.
    async fn drain(self: Rc<Self>, accepting: Vec<tokio::task::JoinHandle<()>>) {
        self.draining.set(true);
        self.drain.notify_waiters();
        for listener in accepting {
            let _ = listener.await;
        }
        self.pools.clear();
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

/// Headers that hyper parses without an allocation; setting any number costs one per request.
const PARSER_HEADERS: usize = 100;

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
    use super::*;

    #[test]
    fn a_panic_ends_its_connection_and_nothing_else() {
        let setup = Setup {
            index: 0,
            count: 1,
            settings: ProxySettings::default(),
            cell: TableCell::default(),
            figures: Arc::default(),
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
