//! A client's connection as whatever serves its requests shares it: who it is, its deadlines, and what is counted of it.
//!
//! Between requests a connection may idle for a while; a head must come within a fixed time from its first byte on,
//! however it trickles; a body's reads are timed where they are asked for ([`super::body`]); and a client that takes
//! nothing of an answer for too long is left.

use std::cell::{Cell, RefCell};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http::StatusCode;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::http1;
use super::tls::Session;
use crate::proxy::account::Account;
use crate::proxy::fields::Fields;
use crate::proxy::figures::Rows;
use crate::proxy::tunnel::Tunnel;
use crate::proxy::wheel::{Alarm, Wheel};

/// What waits to be told a client before its answer, beside one last head.
const BEFORE_BYTES_MAX: usize = 16 << 10;

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientLimits {
    pub(crate) idle: Duration,
    pub(crate) head: Duration,
    pub(crate) body: Duration,
    /// Bytes a second that a body must come with; 0: no bound.
    pub(crate) body_rate: u64,
    pub(crate) send: Duration,
}

impl ClientLimits {
    /// How long a body may be waited for altogether once so many bytes of it have come: as long as for one read, and a
    /// second more for every [`body_rate`](Self::body_rate) bytes (as Apache's `MinRate`).
    pub(crate) fn body_wait(&self, came: u64) -> Duration {
        if self.body_rate == 0 {
            return Duration::MAX;
        }
        let earned = Duration::from_nanos(came.saturating_mul(1_000_000_000) / self.body_rate);
        self.body.saturating_add(earned)
    }
}

/// What everything that serves one connection shares.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    /// What a TLS handshake settled.
    pub(crate) tls: Option<Rc<Session>>,
    limits: ClientLimits,
    /// The connection, when this is one stream of many on it (HTTP/2).
    of: Option<Rc<Client>>,
    /// Requests under way on its streams.
    open: Cell<usize>,
    /// For whatever is read: idling, a head, or a body.
    reading: Alarm,
    writing: Alarm,
    /// Bytes that came and went and were not counted yet.
    received: Cell<u64>,
    sent: Cell<u64>,
    /// For whom the bytes that go are counted.
    egress: RefCell<Option<Rc<Rows>>>,
    /// Requests so far.
    requests: Cell<u64>,
    /// What is to be told before the answer.
    before: RefCell<Vec<u8>>,
    /// What becomes of the connection when the 101 is written.
    tunnel: RefCell<Option<Box<Tunnel>>>,
}

impl Client {
    pub(crate) fn new(
        peer: SocketAddr,
        local: SocketAddr,
        tls: Option<Rc<Session>>,
        limits: ClientLimits,
        wheel: &Rc<Wheel>,
    ) -> Rc<Self> {
        let client = Self::made(peer, local, tls, limits, wheel);
        // The first head must begin as soon as any other would have to come.
        client.reading.set(limits.head);
        Rc::new(client)
    }

    /// One stream of this connection, for one request.
    pub(crate) fn stream(self: &Rc<Self>, wheel: &Rc<Wheel>) -> Rc<Self> {
        let stream = Self::made(self.peer, self.local, self.tls.clone(), self.limits, wheel);
        Rc::new(Self { of: Some(self.clone()), ..stream })
    }

    fn made(
        peer: SocketAddr,
        local: SocketAddr,
        tls: Option<Rc<Session>>,
        limits: ClientLimits,
        wheel: &Rc<Wheel>,
    ) -> Self {
        Self {
            peer,
            local,
            tls,
            limits,
            of: None,
            open: Cell::new(0),
            reading: wheel.alarm(),
            writing: wheel.alarm(),
            received: Cell::new(0),
            sent: Cell::new(0),
            egress: RefCell::default(),
            requests: Cell::new(0),
            before: RefCell::default(),
            tunnel: RefCell::default(),
        }
    }

    /// Lets a client of HTTP/1.1 be told this before its answer (RFC 9110 §15.2). Past [`BEFORE_BYTES_MAX`] that wait to be
    /// sent it is left out: all of it is optional.
    pub(crate) fn tell_before(&self, status: StatusCode, fields: &Fields) {
        let mut before = self.before.borrow_mut();
        if before.len() < BEFORE_BYTES_MAX {
            http1::write_interim(&mut before, status, fields);
        }
    }

    /// What is to be told before the answer and was not yet.
    pub(super) fn before(&self) -> &RefCell<Vec<u8>> {
        &self.before
    }

    /// From its answer on, which is a 101, the connection is a tunnel.
    pub(crate) fn open_tunnel(&self, tunnel: Tunnel) {
        *self.tunnel.borrow_mut() = Some(Box::new(tunnel));
    }

    /// The request lasts as long as its tunnel.
    pub(crate) fn account_tunnel(&self, account: Account) {
        if let Some(tunnel) = &mut *self.tunnel.borrow_mut() {
            tunnel.account = Some(account);
        }
    }

    /// What the connection is to become.
    pub(crate) fn take_tunnel(&self) -> Option<Box<Tunnel>> {
        self.tunnel.borrow_mut().take()
    }

    /// A request was parsed. Gives its number on this connection.
    pub(crate) fn begin_request(&self) -> u64 {
        self.reading.clear();
        let counted = match &self.of {
            Some(connection) => {
                connection.open.set(connection.open.get() + 1);
                connection.reading.clear();
                connection
            }
            None => self,
        };
        counted.requests.set(counted.requests.get() + 1);
        counted.requests.get()
    }

    /// Requests so far.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.get()
    }

    /// Counts bytes of a body that came, or went, on a stream of its own.
    pub(crate) fn count_in(&self, bytes: usize) {
        if self.of.is_some() {
            self.received.set(self.received.get() + bytes as u64);
        }
    }

    /// See [`Self::count_in`].
    pub(crate) fn count_out(&self, bytes: usize) {
        if self.of.is_some() {
            self.sent.set(self.sent.get() + bytes as u64);
        }
    }

    /// A piece of the answer is given to a stream of its own: until it is [taken](Self::takes), the client lets wait.
    pub(crate) fn gives(&self) {
        if self.of.is_some() {
            self.writing.set(self.limits.send);
        }
    }

    /// The next piece is asked for.
    pub(crate) fn takes(&self) {
        if self.of.is_some() {
            self.writing.clear();
        }
    }

    /// Ready when the client of a stream has opened no window (RFC 9113 §5.2) for what it was given, for too long: its
    /// connection may be written to all the same.
    pub(crate) fn poll_untaken(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.writing.poll(cx)
    }

    /// The request was answered, or given up.
    pub(crate) fn end_request(&self) {
        self.reading.clear();
        let Some(connection) = &self.of else { return };
        self.settle_egress();
        let left = connection.open.get() - 1;
        connection.open.set(left);
        if left == 0 {
            connection.begin_idling();
        }
    }

    /// The next request is waited for.
    pub(crate) fn begin_idling(&self) {
        self.reading.set(self.limits.idle);
    }

    /// A head begins to come.
    pub(crate) fn begin_head(&self) {
        self.reading.set(self.limits.head);
    }

    /// Ready when what is waited for has not come in time.
    pub(crate) fn poll_late(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.reading.poll(cx)
    }

    /// How long a client may take.
    pub(crate) fn limits(&self) -> &ClientLimits {
        &self.limits
    }

    /// Ready when a body's next read has taken `limit`, counted from when it was first asked for.
    pub(crate) fn body_late(&self, cx: &mut Context<'_>, limit: Duration) -> Poll<()> {
        if !self.reading.is_set() {
            self.reading.set(limit);
        }
        self.reading.poll(cx)
    }

    /// Something of a body came.
    pub(crate) fn body_came(&self) {
        self.reading.clear();
    }

    /// Bytes that came since the last time.
    pub(crate) fn settle_ingress(&self) -> u64 {
        self.received.take()
    }

    /// Counts the bytes that went since the last time.
    pub(crate) fn settle_egress(&self) {
        let sent = self.sent.take();
        if let Some(row) = self.egress.borrow_mut().take() {
            row.count_egress(sent);
        }
    }

    /// What goes from now on, and went since the last time, is counted here.
    pub(crate) fn owes_egress_to(&self, row: Rc<Rows>) {
        *self.egress.borrow_mut() = Some(row);
    }

    /// Bytes came.
    pub(crate) fn came(&self, bytes: usize) {
        self.received.set(self.received.get() + bytes as u64);
    }

    /// Notes how a write went, and gives up on a client that takes nothing.
    pub(crate) fn wrote<T: Wrote>(&self, cx: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match result {
            Poll::Ready(result) => {
                self.writing.clear();
                if let Ok(bytes) = &result {
                    self.sent.set(self.sent.get() + bytes.bytes());
                }
                Poll::Ready(result)
            }
            Poll::Pending => {
                if !self.writing.is_set() {
                    self.writing.set(self.limits.send);
                }
                ready!(self.writing.poll(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

/// A connection that speaks HTTP/2, as its parser sees it.
#[derive(Debug)]
pub(crate) struct ClientStream<S> {
    stream: S,
    client: Rc<Client>,
}

impl<S> ClientStream<S> {
    pub(crate) fn new(stream: S, client: Rc<Client>) -> Self {
        Self { stream, client }
    }
}

/// What a write gives.
pub(crate) trait Wrote {
    /// Bytes that went.
    fn bytes(&self) -> u64;
}

impl Wrote for usize {
    fn bytes(&self) -> u64 {
        *self as u64
    }
}

impl Wrote for () {
    fn bytes(&self) -> u64 {
        0
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for ClientStream<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if let Poll::Ready(result) = Pin::new(&mut self.stream).poll_read(cx, buffer) {
            return Poll::Ready(result);
        }
        // While a request is under way it is read from only to notice that the client is gone.
        if self.client.open.get() > 0 {
            return Poll::Pending;
        }
        self.client.poll_late(cx).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ClientStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.client.wrote(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.client.wrote(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A TCP socket has no buffer of its own, TLS has.
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.client.wrote(cx, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
