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
use tokio::net::TcpStream;

use super::head_scan::HeadScan;
use crate::proxy::figures::Rows;
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
    limits: ClientLimits,
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
}

impl Client {
    pub(crate) fn new(peer: SocketAddr, local: SocketAddr, limits: ClientLimits, wheel: &Rc<Wheel>) -> Rc<Self> {
        let client = Self {
            peer,
            local,
            limits,
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
        };
        // The first head must begin as soon as any other would have to come.
        client.reading.set(limits.head);
        Rc::new(client)
    }

    /// A request was parsed. Gives its number on this connection.
    pub(crate) fn begin_request(&self, has_body: bool) -> u64 {
        self.phase.set(Phase::Request);
        self.reading.clear();
        self.body_open.set(has_body);
        self.requests.set(self.requests.get() + 1);
        self.requests.get()
    }

    /// The request was answered, or given up.
    pub(crate) fn end_request(&self) {
        self.phase.set(Phase::Idle);
        self.reading.set(self.limits.idle);
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
pub(crate) struct ClientStream {
    stream: TcpStream,
    client: Rc<Client>,
}

impl ClientStream {
    pub(crate) fn new(stream: TcpStream, client: Rc<Client>) -> Self {
        Self { stream, client }
    }

    pub(crate) fn into_inner(self) -> TcpStream {
        self.stream
    }

    /// Notes how a write went, and gives up on a client that takes nothing.
    fn wrote(&self, cx: &mut Context<'_>, result: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        match result {
            Poll::Ready(result) => {
                self.client.writing.clear();
                if let Ok(bytes) = result {
                    self.client.sent.set(self.client.sent.get() + bytes as u64);
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

impl AsyncRead for ClientStream {
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

impl AsyncWrite for ClientStream {
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
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A TCP socket has no buffer of its own.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
