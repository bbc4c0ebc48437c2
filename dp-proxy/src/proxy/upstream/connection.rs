//! One connection to a node.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use tokio::io::AsyncWrite;
use tokio_util::io::poll_read_buf;

use crate::proxy::link::{Link, Secured};
use crate::proxy::wheel::{Alarm, Wheel};

/// The first read of a response asks for so much: enough for most responses as a whole.
const READ_BYTES_MIN: usize = 16 << 10;
/// What a read asks for once a body has filled a smaller one.
const READ_BYTES_MAX: usize = 64 << 10;

/// A connection to a node: in use, or waiting for use.
#[derive(Debug)]
pub(crate) struct Connection {
    link: Link,
    /// How TLS was made, where it was.
    pub(crate) secured: Option<Secured>,
    /// Bytes that came and were not used yet.
    pub(crate) input: BytesMut,
    /// Where heads are written before they are sent.
    pub(crate) out: Vec<u8>,
    read_bytes: usize,
    alarm: Alarm,
    /// Requests that it was given so far.
    pub(crate) requests: u32,
}

impl Connection {
    pub(crate) fn new(link: Link, secured: Option<Secured>, wheel: &Rc<Wheel>) -> Self {
        Self {
            link,
            secured,
            input: BytesMut::new(),
            out: Vec::new(),
            read_bytes: READ_BYTES_MIN,
            alarm: wheel.alarm(),
            requests: 0,
        }
    }

    /// Reads more into `input`; 0 at the end of the connection.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // To grow an empty buffer would copy what was in it.
        if self.input.is_empty() && !self.input.try_reclaim(self.read_bytes) {
            self.input = BytesMut::with_capacity(self.read_bytes);
        }
        self.input.reserve(self.read_bytes);
        let read = ready!(poll_read_buf(Pin::new(&mut self.link), cx, &mut self.input))?;
        self.alarm.clear();
        if read >= self.read_bytes {
            self.read_bytes = READ_BYTES_MAX;
        }
        Poll::Ready(Ok(read))
    }

    /// Writes some of the slices.
    pub(crate) fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = match slices {
            // A plain write costs less than one of a list.
            [one] => ready!(Pin::new(&mut self.link).poll_write(cx, one))?,
            many => ready!(Pin::new(&mut self.link).poll_write_vectored(cx, many))?,
        };
        self.alarm.clear();
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        Poll::Ready(Ok(written))
    }

    /// Sends what was written and still waits here.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.link).poll_flush(cx)
    }

    /// What was written has gone out: the next wait begins now.
    pub(crate) fn moved(&mut self) {
        self.alarm.clear();
    }

    /// Ready when nothing was read or written for `limit`.
    pub(crate) fn poll_late(&self, cx: &mut Context<'_>, limit: Duration) -> Poll<()> {
        if !self.alarm.is_set() {
            self.alarm.set(limit);
        }
        self.alarm.poll(cx)
    }

    /// Nothing is awaited of the node for now.
    pub(crate) fn rest(&mut self) {
        self.alarm.clear();
        self.read_bytes = READ_BYTES_MIN;
        if self.input.capacity() > READ_BYTES_MAX {
            self.input = BytesMut::new();
        }
    }

    /// See [`Link::is_open`].
    pub(crate) fn is_open(&mut self) -> bool {
        self.link.is_open()
    }

    /// The bytes of the connection, and those that came and were not used.
    pub(crate) fn into_parts(self) -> (Link, BytesMut) {
        (self.link, self.input)
    }
}
