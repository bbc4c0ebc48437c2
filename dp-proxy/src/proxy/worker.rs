//! One worker: a thread with its own listeners, connections, turns and figures. It shares nothing that it writes.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use daemon::settings::units::ByteSize;
use http::HeaderValue;
use http::request::Parts;
use http::{Request, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};

use super::account::Account;
use super::balance::{Balancer, Loads};
use super::downstream::client::{Client, ClientLimits, ClientStream};
use super::downstream::prefixed::Prefixed;
use super::downstream::proxy_protocol::{self, BadHeader, Ends};
use super::downstream::tls::{self, HandshakeError, Shaken};
use super::error::Refusal;
use super::figures::{Figures, Ledger};
use super::real_ip::RealIp;
use super::request::answer;
use super::stream::Shown;
use super::upstream::http2::pool::Http2Pools;
use super::upstream::names::Names;
use super::upstream::pool::Pools;
use super::upstream::response_head::HeadLimits;
use super::wheel::Wheel;
use crate::access_log::AccessLog;
use crate::net::Entrance;
use crate::settings::{ProxyHeader, ProxySettings};
use crate::table::{Generation, Reader, TableCell};

/// What a worker is made of.
pub(super) struct Setup {
    pub(super) index: usize,
    pub(super) count: usize,
    pub(super) settings: ProxySettings,
    pub(super) cell: TableCell,
    pub(super) figures: Arc<Figures>,
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
    pub(crate) access_log: Option<AccessLog>,
    real_ip: Option<RealIp>,
    pub(crate) limits: Limits,
    pub(crate) head_limits: HeadLimits,
    pub(crate) server_header: Option<HeaderValue>,
    pub(crate) stream: StreamTerms,
    /// 0: without a bound.
    pub(crate) requests_per_connection_max: u64,
    http: http1::Builder,
    http2: http2::Builder<Here>,
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
    client: ClientLimits,
    connections_max: usize,
}

/// Lines about failed requests that a worker writes per second: an upstream that is down must not fill the disk.
const LINES_PER_SECOND: u32 = 5;
/// What is read, and for how long, of a request that was answered before it was read: a connection that is closed with
/// unread bytes is reset, and the client may never see the answer.
const LINGER_BYTES: usize = 1 << 20;
const LINGER_TIME: Duration = Duration::from_secs(2);
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
        let Setup { index, count, settings, cell, figures, access_log, .. } = setup;
        let limits = &settings.limits;
        let loads = Rc::<Loads>::default();
        let head_bytes = usize::try_from(limits.header_bytes_max.0).expect("at most a MiB, by the settings' check");
        let mut http = http1::Builder::new();
        // Deadlines are ours: the parser's own would cost a timer per request.
        http.header_read_timeout(None).max_buf_size(head_bytes).max_header_size(head_bytes).half_close(false);
        if limits.headers_max != PARSER_HEADERS {
            http.max_headers(limits.headers_max);
        }
        let mut http2 = http2::Builder::new(Here);
        let window = |size: ByteSize| u32::try_from(size.0).expect("at most a GiB, by the settings' check");
        http2
            .max_concurrent_streams(settings.http2.streams_max)
            .max_pending_accept_reset_streams(settings.http2.resets_pending_max)
            .max_local_error_reset_streams(settings.http2.errors_max)
            .max_header_list_size(u32::try_from(head_bytes).expect("at most a MiB"))
            .initial_stream_window_size(window(settings.http2.stream_window))
            .initial_connection_window_size(window(settings.http2.connection_window))
            .max_send_buf_size(SEND_BYTES_MAX);
        Rc::new(Self {
            table: RefCell::new(cell.reader()),
            wheel: Wheel::new(),
            pools: Rc::default(),
            http2_pools: Http2Pools::default(),
            names: Rc::new(Names::new(settings.dns_ttl.0)),
            balancer: RefCell::new(Balancer::new(index, loads.clone())),
            loads,
            ledger: RefCell::new(Ledger::new(figures.clone())),
            figures,
            access_log,
            real_ip: RealIp::new(&settings.real_ip),
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
            stream: StreamTerms {
                to_upstream: settings.stream.proxy_protocol_to_upstream,
                idle: settings.stream.idle_timeout.0,
            },
            requests_per_connection_max: limits.requests_per_connection_max,
            http,
            http2,
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

    /// Lets connections to nodes go that waited too long or were closed, for ever; tells how many wait.
    async fn sweep(self: Rc<Self>) {
        loop {
            sleep(SWEEP).await;
            let now = Instant::now();
            self.figures.upstream_idle.set(self.pools.sweep(now) + self.http2_pools.sweep(now));
        }
    }

    /// Whether clients are to connect anew for their next request.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.get()
    }

    async fn accept(self: Rc<Self>, listener: Rc<TcpListener>, door: Door) {
        let mut left = pin!(self.leave.notified());
        left.as_mut().enable();
        while !self.leaving.get() {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => self.admit(stream, peer, door),
                    Err(e) => {
                        warn!(error = %e, "no connection could be accepted");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                () = &mut left => {}
            }
        }
        // Clients that are connected already wait in this socket: closing it would reset them, if nobody else has it.
        while let Some(Ok((stream, peer))) = poll_fn(|cx| match listener.poll_accept(cx) {
            std::task::Poll::Ready(accepted) => std::task::Poll::Ready(Some(accepted)),
            std::task::Poll::Pending => std::task::Poll::Ready(None),
        })
        .await
        {
            self.admit(stream, peer, door);
        }
    }

    fn admit(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr, door: Door) {
        if self.connections.get() >= self.limits.connections_max {
            self.figures.refused.add(1);
            if self.may_speak() {
                warn!(%peer, "a connection is refused: there are too many");
            }
            return;
        }
        self.figures.accepted.add(1);
        if door.proxy_protocol {
            self.spawn(self.clone().serve_told(stream, peer, door));
        } else {
            self.begin(stream, peer, None, door);
        }
    }

    /// Learns from a load balancer who a connection is from, and serves it.
    async fn serve_told(self: Rc<Self>, mut stream: TcpStream, peer: SocketAddr, door: Door) {
        let told = timeout(self.limits.client.head, proxy_protocol::read(&mut stream)).await;
        match told.unwrap_or(Err(BadHeader::Late)) {
            Ok(ends) => self.begin(stream, peer, ends, door),
            Err(reason) => {
                self.figures.untold.add(1);
                if self.may_speak() {
                    warn!(%peer, %reason, "a connection is refused");
                }
            }
        }
    }

    fn begin(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr, told: Option<Ends>, door: Door) {
        let Ok(local) = stream.local_addr() else { return };
        let Ends { client, local } = told.unwrap_or(Ends { client: peer, local });
        let ends = Ends { client: SocketAddr::new(client.ip().to_canonical(), client.port()), local };
        if !door.tls && door.stream {
            let _ = stream.set_nodelay(true);
            self.spawn(super::stream::serve(self.clone(), stream, ends, None));
        } else if !door.tls {
            self.spawn(self.clone().serve(stream, ends));
        } else if self.handshakes.get() < self.handshakes_max {
            // Counted here, not when its task begins: many may be accepted before any does.
            let shaking = Shaking::new(self.clone());
            self.spawn(self.clone().serve_tls(stream, ends, door, shaking));
        } else {
            self.figures.tls_refused.add(1);
            if self.may_speak() {
                warn!(%peer, "a connection is refused: too many handshakes are under way");
            }
        }
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

    async fn serve(self: Rc<Self>, stream: TcpStream, Ends { client: peer, local }: Ends) {
        if let Err(e) = stream.set_nodelay(true) {
            debug!(%peer, error = %e, "a connection ended before it began");
            return;
        }
        let client = Client::new(peer, local, None, self.limits.client, &self.wheel);
        if self.h2c {
            return self.serve_any(stream, client).await;
        }
        self.serve_http1(stream, client).await;
    }

    /// Makes a handshake, then serves what was agreed on.
    async fn serve_tls(self: Rc<Self>, stream: TcpStream, ends: Ends, door: Door, shaking: Shaking) {
        let Ends { client: peer, local } = ends;
        let shaken = match stream.set_nodelay(true) {
            Ok(()) => {
                timeout(self.handshake_timeout, tls::shake(stream, self.table(), &self.fallback_sni, door.stream)).await
            }
            Err(e) => Ok(Err(e.into())),
        };
        drop(shaking);
        let Shaken { stream, name, session, resumed, http2 } = match shaken.unwrap_or(Err(HandshakeError::Late)) {
            Ok(shaken) => shaken,
            Err(e) => {
                self.figures.tls_failures[e.number()].add(1);
                let ours = matches!(e, HandshakeError::Sealed(_) | HandshakeError::NoCertificate(_));
                if ours && self.may_speak() {
                    warn!(%peer, reason = %e, "a handshake failed");
                } else {
                    debug!(%peer, reason = %e, "a handshake failed");
                }
                return;
            }
        };
        self.figures.tls_handshakes.add(1);
        self.figures.tls_resumed.add(u64::from(resumed));
        if door.stream {
            return super::stream::serve(self, stream, ends, Some(Shown { name, session })).await;
        }
        let client = Client::new(peer, local, Some(Rc::new(session)), self.limits.client, &self.wheel);
        if http2 {
            self.serve_http2(stream, client).await;
        } else {
            self.serve_http1(stream, client).await;
        }
    }

    /// Serves a client that may speak either without having said so.
    async fn serve_any(self: Rc<Self>, stream: TcpStream, client: Rc<Client>) {
        let mut stream = Prefixed::new(stream);
        let starts = timeout(self.limits.client.idle, stream.starts_as_http2()).await;
        match starts {
            Ok(Ok(true)) => self.serve_http2(stream, client).await,
            Ok(Ok(false)) => self.serve_http1(stream, client).await,
            Ok(Err(e)) => debug!(peer = %client.peer, error = %e, "a connection ended before it began"),
            Err(_) => debug!(peer = %client.peer, "a connection that says nothing is left"),
        }
    }

    /// HTTP/2: many requests at once, each answered as one of HTTP/1 is.
    async fn serve_http2<S>(self: Rc<Self>, stream: S, client: Rc<Client>)
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        self.figures.http2_connections.add(1);
        client.multiplex();
        let io = TokioIo::new(ClientStream::new(stream, client.clone()));
        let (worker, same) = (self.clone(), client.clone());
        let service = service_fn(move |mut request| {
            join_cookies(&mut request);
            answer(worker.clone(), same.stream(&worker.wheel), request)
        });
        let mut connection = pin!(self.http2.serve_connection(io, service));
        // A GOAWAY in time costs no request: there is no need to wait for the drain.
        let mut drained = pin!(self.leave.notified());
        drained.as_mut().enable();
        let (mut asked, mut told) = (false, false);
        let result = poll_fn(|cx| {
            if !std::mem::replace(&mut asked, true) {
                let _ = drained.as_mut().poll(cx);
            }
            let max = self.requests_per_connection_max;
            let is_over = self.leaving.get() || max > 0 && client.requests() >= max;
            if is_over && !std::mem::replace(&mut told, true) {
                connection.as_mut().graceful_shutdown();
            }
            connection.as_mut().poll(cx)
        })
        .await;
        if let Err(e) = result {
            debug!(peer = %client.peer, error = %e, "a connection ended");
        }
    }

    async fn serve_http1<S>(self: Rc<Self>, stream: S, client: Rc<Client>)
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
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
        let parts = connection.into_parts();
        let stream = parts.io.into_inner();
        if let Some(tunnel) = client.take_tunnel() {
            if result.is_ok() {
                tunnel.run(stream, parts.read_buf).await;
            }
            client.settle_egress();
            return;
        }
        client.settle_egress();
        self.part(stream.into_inner(), &client, result).await;
    }

    /// Ends a connection so that the client gets what was sent.
    async fn part<S>(self: &Rc<Self>, mut stream: S, client: &Rc<Client>, result: hyper::Result<()>)
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let malformed = result.as_ref().is_err_and(hyper::Error::is_parse);
        if let Err(e) = &result {
            debug!(peer = %client.peer, error = %e, "a connection ended");
        }
        let late = client.has_late_head();
        if late || malformed {
            let is_large = result.as_ref().is_err_and(hyper::Error::is_parse_too_large);
            let status = match (late, is_large) {
                (true, _) => StatusCode::REQUEST_TIMEOUT,
                (false, true) => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                (false, false) => StatusCode::BAD_REQUEST,
            };
            Account::unread(self, client, status);
        }
        if !(late || malformed || result.is_ok() && client.has_unread()) {
            return;
        }
        let linger = async {
            if late {
                let _ = stream.write_all(&Refusal::LateHead.raw()).await;
            }
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

/// RFC 9113 §8.2.3: a cookie that came in pieces is one header to whoever speaks HTTP/1.
fn join_cookies(request: &mut Request<Incoming>) {
    let headers = request.headers_mut();
    if headers.get_all(header::COOKIE).iter().nth(1).is_none() {
        return;
    }
    let pieces: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&pieces.join(&b"; "[..])) {
        headers.insert(header::COOKIE, joined);
    }
}

/// Runs the requests of an HTTP/2 connection beside it, on the worker's thread.
#[derive(Clone, Copy, Debug)]
struct Here;

impl<F> hyper::rt::Executor<F> for Here
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}

/// A handshake that counts.
struct Shaking(Rc<Worker>);

impl Shaking {
    fn new(worker: Rc<Worker>) -> Self {
        worker.handshakes.set(worker.handshakes.get() + 1);
        worker.figures.tls_pending.add(1);
        Self(worker)
    }
}

impl Drop for Shaking {
    fn drop(&mut self) {
        self.0.handshakes.set(self.0.handshakes.get() - 1);
        self.0.figures.tls_pending.sub(1);
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
