//! A client's connection as the HTTP parser sees it, with its deadlines.
//!
//! ```text
//!   Idle --first byte--> Head --parsed--> Request --answered--> Idle
//! ```
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

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::head_scan::HeadScan;
use super::tls::Session;
use crate::proxy::account::Account;
use crate::proxy::figures::Rows;
use crate::proxy::tunnel::Tunnel;
use crate::proxy::wheel::{Alarm, Wheel};

/// What a connection is doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// Waiting for the first byte of a head.
    Idle,
    /// Reading a head.
    Head,
    /// A request is under way.
    Request,
}

/// How long a client may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientLimits {
    pub(crate) idle: Duration,
    pub(crate) head: Duration,
    pub(crate) body: Duration,
    pub(crate) send: Duration,
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
    /// Whether this is a connection of many streams: then its bytes are no heads.
    multiplexed: Cell<bool>,
    /// Requests under way on its streams.
    open: Cell<usize>,
    phase: Cell<Phase>,
    /// For whatever is read: idling, a head, or a body.
    reading: Alarm,
    writing: Alarm,
    scan: RefCell<HeadScan>,
    /// Bytes that came and went and were not counted yet.
    received: Cell<u64>,
    sent: Cell<u64>,
    /// For whom the bytes that go are counted.
    egress: RefCell<Option<Rc<Rows>>>,
    /// Requests so far.
    requests: Cell<u64>,
    /// Whether a head was cut off by its deadline.
    late_head: Cell<bool>,
    /// Whether more of the last request's body is to come.
    body_open: Cell<bool>,
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
            multiplexed: Cell::new(false),
            open: Cell::new(0),
            phase: Cell::new(Phase::Idle),
            reading: wheel.alarm(),
            writing: wheel.alarm(),
            scan: RefCell::default(),
            received: Cell::new(0),
            sent: Cell::new(0),
            egress: RefCell::default(),
            requests: Cell::new(0),
            late_head: Cell::new(false),
            body_open: Cell::new(false),
            tunnel: RefCell::default(),
        }
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
    pub(crate) fn begin_request(&self, has_body: bool) -> u64 {
        self.phase.set(Phase::Request);
        self.reading.clear();
        self.body_open.set(has_body);
        let counted = match &self.of {
            Some(connection) => {
                connection.open.set(connection.open.get() + 1);
                connection.phase.set(Phase::Request);
                connection.reading.clear();
                connection
            }
            None => self,
        };
        counted.requests.set(counted.requests.get() + 1);
        counted.requests.get()
    }

    /// The connection turns out to carry many streams.
    pub(crate) fn multiplex(&self) {
        self.multiplexed.set(true);
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

    /// The request was answered, or given up.
    pub(crate) fn end_request(&self) {
        let Some(connection) = &self.of else {
            self.phase.set(Phase::Idle);
            self.reading.set(self.limits.idle);
            return;
        };
        self.reading.clear();
        self.settle_egress();
        let left = connection.open.get() - 1;
        connection.open.set(left);
        if left == 0 {
            connection.phase.set(Phase::Idle);
            connection.reading.set(self.limits.idle);
        }
    }

    /// The request's body has come to its end.
    pub(crate) fn body_ended(&self) {
        self.body_open.set(false);
    }

    /// Whether the head of the request that is under way frames its body in two ways.
    pub(crate) fn is_framed_twice(&self) -> bool {
        self.scan.borrow().is_framed_twice()
    }

    /// Whether a head was cut off by its deadline: the client should hear of it.
    pub(crate) fn has_late_head(&self) -> bool {
        self.late_head.get()
    }

    /// Whether something of the last request is still to come from the client.
    pub(crate) fn has_unread(&self) -> bool {
        self.body_open.get()
    }

    /// The deadline of a body's next read.
    pub(crate) fn body_late(&self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.reading.is_set() {
            self.reading.set(self.limits.body);
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

    fn poll_deadline(&self, cx: &mut Context<'_>) -> Poll<io::Error> {
        match self.phase.get() {
            Phase::Idle | Phase::Head => {
                ready!(self.reading.poll(cx));
                self.late_head.set(self.phase.get() == Phase::Head);
                Poll::Ready(io::ErrorKind::TimedOut.into())
            }
            // A request that is under way is read from only to notice that the client is gone.
            Phase::Request => Poll::Pending,
        }
    }

    fn came(&self, bytes: &[u8]) {
        self.received.set(self.received.get() + bytes.len() as u64);
        match self.phase.get() {
            _ if self.multiplexed.get() => {}
            Phase::Idle if !bytes.is_empty() => {
                self.phase.set(Phase::Head);
                self.reading.set(self.limits.head);
                let mut scan = self.scan.borrow_mut();
                scan.begin();
                scan.take(bytes);
            }
            Phase::Head => self.scan.borrow_mut().take(bytes),
            Phase::Idle | Phase::Request => {}
        }
    }
}

/// The connection itself.
#[derive(Debug)]
pub(crate) struct ClientStream<S> {
    stream: S,
    client: Rc<Client>,
}

impl<S> ClientStream<S> {
    pub(crate) fn new(stream: S, client: Rc<Client>) -> Self {
        Self { stream, client }
    }

    pub(crate) fn into_inner(self) -> S {
        self.stream
    }

    /// Notes how a write went, and gives up on a client that takes nothing.
    fn wrote<T: Wrote>(&self, cx: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match result {
            Poll::Ready(result) => {
                self.client.writing.clear();
                if let Ok(bytes) = &result {
                    self.client.sent.set(self.client.sent.get() + bytes.bytes());
                }
                Poll::Ready(result)
            }
            Poll::Pending => {
                if !self.client.writing.is_set() {
                    self.client.writing.set(self.client.limits.send);
                }
                ready!(self.client.writing.poll(cx));
                Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
            }
        }
    }
}

/// What a write gives.
trait Wrote {
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
        let before = buffer.filled().len();
        match Pin::new(&mut self.stream).poll_read(cx, buffer) {
            Poll::Ready(Ok(())) => {
                self.client.came(&buffer.filled()[before..]);
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(e)) => Poll::Ready(Err(e)),
            Poll::Pending => self.client.poll_deadline(cx).map(Err),
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for ClientStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(cx, result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        self.wrote(cx, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A TCP socket has no buffer of its own, TLS has.
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.wrote(cx, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
