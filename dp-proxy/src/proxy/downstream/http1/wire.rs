//! The bytes of a client's connection: what was read and not used yet, and where in a request's body that stands.
//!
//! The connection's task owns it together with the body of the request that is under way, which is read by whoever sends it
//! on ([`super::Incoming`]). They never read at the same time: the task reads heads when no body is open, and looks for
//! the client's end when the body has come.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWrite;
use tokio_util::io::poll_read_buf;

use super::request_head::{self, BadHead, Read};
use crate::proxy::downstream::body::Piece;
use crate::proxy::downstream::client::Client;
use crate::proxy::framing::{BadBody, Decoded, Decoder, Framing};
use crate::proxy::link::Link;
use crate::proxy::upstream::response_head::HeadLimits;

/// What a read asks for as long as they are small.
const READ_BYTES_MIN: usize = 16 << 10;
/// What a read asks for once a body has filled the smaller ones.
const READ_BYTES_MAX: usize = 64 << 10;
/// The least that a read of the arena asks for: most heads fit.
const ARENA_ROOM_MIN: usize = 4 << 10;

const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The room that a worker's connections read into, one after the other: what came is cut off and goes with the request, so
/// that a connection that waits needs none of its own.
#[derive(Debug, Default)]
pub(crate) struct Arena(RefCell<BytesMut>);

/// A client's connection.
#[derive(Debug)]
pub(crate) struct Wire {
    client: Rc<Client>,
    arena: Rc<Arena>,
    inner: RefCell<Inner>,
    /// Whether nobody will read what is left of the body.
    abandoned: Cell<bool>,
}

#[derive(Debug)]
struct Inner {
    link: Link,
    /// Bytes that came and were not used yet.
    input: BytesMut,
    /// How much of `input` was looked at without finding the end of a head.
    seen: usize,
    read_bytes: usize,
    /// Of the body that is under way.
    decoder: Decoder,
    /// What is left to be said before the client sends a body.
    interim: &'static [u8],
    /// Whether anything of it was said.
    interim_begun: bool,
}

impl Wire {
    /// `early` came already.
    pub(crate) fn new(link: Link, early: BytesMut, client: Rc<Client>, arena: Rc<Arena>) -> Rc<Self> {
        let inner = Inner {
            link,
            input: early,
            seen: 0,
            read_bytes: READ_BYTES_MIN,
            decoder: Decoder::new(Framing::None),
            interim: b"",
            interim_begun: false,
        };
        Rc::new(Self { client, arena, inner: RefCell::new(inner), abandoned: Cell::new(false) })
    }

    /// What a tunnel carries: the connection, and what came and was not used.
    pub(crate) fn into_parts(self) -> (Link, Bytes) {
        let Inner { link, input, .. } = self.inner.into_inner();
        (link, input.freeze())
    }

    /// Reads more; 0 at the end of the connection.
    pub(crate) fn poll_read(&self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        let read = ready!(self.inner.borrow_mut().poll_read(cx, &self.arena))?;
        self.client.came(read);
        Poll::Ready(Ok(read))
    }

    // === heads ===

    /// The head of a request, if it is there as a whole.
    pub(crate) fn take_head(&self, limits: HeadLimits) -> Result<Read, BadHead> {
        let mut inner = self.inner.borrow_mut();
        let seen = inner.seen;
        let result = request_head::read(&mut inner.input, seen, limits);
        inner.seen = if let Ok(Read::More) = result { inner.input.len() } else { 0 };
        result
    }

    /// Whether nothing waits here to be read.
    pub(crate) fn is_empty(&self) -> bool {
        self.inner.borrow().input.is_empty()
    }

    /// Gives back what a connection that waits does not need: all of its room, and of the arena what a part of a head holds
    /// of it.
    pub(crate) fn rest(&self) {
        let inner = &mut *self.inner.borrow_mut();
        inner.read_bytes = READ_BYTES_MIN;
        inner.input = BytesMut::from(&inner.input[..]);
    }

    // === bodies ===

    /// A body begins.
    pub(crate) fn begin_body(&self, framing: Framing, expects_continue: bool) {
        let inner = &mut *self.inner.borrow_mut();
        inner.decoder = Decoder::new(framing);
        inner.interim = if expects_continue && !inner.decoder.is_ended() { CONTINUE } else { b"" };
        inner.interim_begun = false;
        self.abandoned.set(false);
    }

    /// How much of the body is left, where that is known.
    pub(crate) fn body_left(&self) -> Option<u64> {
        self.inner.borrow().decoder.left()
    }

    /// Nobody reads what is left of the body.
    pub(crate) fn abandon_body(&self) {
        self.abandoned.set(true);
    }

    /// The next piece of the body, or what comes behind it; `None` at its end. A client that waits to be asked for it is asked.
    ///
    /// # Errors
    /// It is malformed, or the connection has ended or broken before it has.
    pub(crate) fn poll_body(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Piece, BadBody>>> {
        loop {
            {
                let inner = &mut *self.inner.borrow_mut();
                match inner.decoder.decode(&mut inner.input) {
                    Ok(Decoded::Data(data)) => return Poll::Ready(Some(Ok(Piece::Data(data)))),
                    Ok(Decoded::Trailers(trailers)) => return Poll::Ready(Some(Ok(Piece::Trailers(Some(trailers))))),
                    Ok(Decoded::End) => return Poll::Ready(None),
                    Ok(Decoded::More) => {}
                    Err(e) => return Poll::Ready(Some(Err(e))),
                }
                if ready!(self.poll_interim(inner, cx)).is_err() {
                    return Poll::Ready(Some(Err(BadBody::Short)));
                }
            }
            match ready!(self.poll_read(cx)) {
                Ok(1..) => {}
                Ok(0) | Err(_) => return Poll::Ready(Some(Err(BadBody::Short))),
            }
        }
    }

    /// Whether the next request can follow behind the body: it has ended, or nobody reads it and all of it is here already.
    pub(crate) fn finish_body(&self) -> bool {
        let inner = &mut *self.inner.borrow_mut();
        if self.abandoned.get() {
            while let Ok(Decoded::Data(_)) = inner.decoder.decode(&mut inner.input) {}
        }
        inner.decoder.is_ended()
    }

    /// Whether more of the body will be read.
    pub(crate) fn is_body_wanted(&self) -> bool {
        !self.abandoned.get()
    }

    // === answers ===

    /// The answer begins: the client is not asked for its body any more. What it is being told already is told first.
    pub(crate) fn poll_begin_answer(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.inner.borrow_mut();
        if !inner.interim_begun {
            inner.interim = b"";
        }
        self.poll_interim(inner, cx)
    }

    /// Sends what is to be told before the answer, as far as the client takes it.
    ///
    /// # Errors
    /// The client is gone.
    pub(crate) fn poll_before(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.client.before().borrow().is_empty() {
            return Poll::Ready(Ok(()));
        }
        let inner = &mut *self.inner.borrow_mut();
        // That the body may come is for whoever reads it to say.
        if inner.interim_begun {
            ready!(inner.poll_continue(cx))?;
        }
        self.poll_told(inner, cx)
    }

    /// Writes some of the slices.
    pub(crate) fn poll_write(&self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let result = self.inner.borrow_mut().poll_write(cx, slices);
        self.client.wrote(cx, result)
    }

    /// Sends what was written and still waits here: a TCP socket has no buffer of its own, TLS has.
    pub(crate) fn poll_flush(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.inner.borrow_mut().link).poll_flush(cx);
        self.client.wrote(cx, result)
    }

    /// Tells a client of TLS that nothing follows. That a plain connection is closed says so by itself.
    pub(crate) fn poll_say_end(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.inner.borrow_mut().link {
            Link::Plain(_) => Poll::Ready(Ok(())),
            Link::Tls(stream) => {
                // Once, however often this is asked. Within TLS all is said: that the socket is closed follows.
                stream.get_mut().1.send_close_notify();
                Pin::new(stream).poll_flush(cx)
            }
        }
    }

    pub(crate) fn poll_shutdown(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner.borrow_mut().link).poll_shutdown(cx)
    }

    /// Ready when the client is gone. Whoever ends its side is taken for gone, as nginx does. Looked for only when nothing
    /// else is to come before the next request.
    pub(crate) fn poll_gone(&self, cx: &mut Context<'_>) -> Poll<()> {
        {
            let inner = self.inner.borrow();
            if !(inner.decoder.is_ended() && inner.input.is_empty()) {
                return Poll::Pending;
            }
        }
        match ready!(self.poll_read(cx)) {
            Ok(1..) => {
                // The next request waits until this one is answered.
                self.rest();
                Poll::Pending
            }
            Ok(0) | Err(_) => Poll::Ready(()),
        }
    }

    /// Drops what has come, and what comes: how many bytes; 0 at the end of the connection.
    pub(crate) fn poll_discard(&self, cx: &mut Context<'_>) -> Poll<usize> {
        let inner = &mut *self.inner.borrow_mut();
        let waiting = std::mem::take(&mut inner.input).len();
        if waiting > 0 {
            return Poll::Ready(waiting);
        }
        inner.poll_read(cx, &self.arena).map(|read| read.unwrap_or(0))
    }
}

impl Wire {
    /// Sends all that comes before the answer. What was begun comes to its end first.
    fn poll_interim(&self, inner: &mut Inner, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if inner.interim_begun {
            ready!(inner.poll_continue(cx))?;
        }
        ready!(self.poll_told(inner, cx))?;
        inner.poll_continue(cx)
    }

    /// Sends what the node says before its answer.
    fn poll_told(&self, inner: &mut Inner, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut before = self.client.before().borrow_mut();
        if before.is_empty() {
            return Poll::Ready(Ok(()));
        }
        while !before.is_empty() {
            let result = inner.poll_write(cx, &[IoSlice::new(&before)]);
            let written = ready!(self.client.wrote(cx, result))?;
            before.drain(..written);
        }
        // A connection that waits holds no buffer.
        *before = Vec::new();
        let _ = Pin::new(&mut inner.link).poll_flush(cx)?;
        Poll::Ready(Ok(()))
    }
}

impl Inner {
    fn poll_read(&mut self, cx: &mut Context<'_>, arena: &Arena) -> Poll<io::Result<usize>> {
        if self.input.is_empty() && self.read_bytes == READ_BYTES_MIN {
            // An empty rest would keep the arena from being used anew.
            self.input = BytesMut::new();
            let mut arena = arena.0.borrow_mut();
            if arena.capacity() < ARENA_ROOM_MIN && !arena.try_reclaim(READ_BYTES_MIN) {
                *arena = BytesMut::with_capacity(READ_BYTES_MIN);
            }
            let room = arena.capacity();
            let read = ready!(poll_read_buf(Pin::new(&mut self.link), cx, &mut *arena))?;
            self.input = arena.split();
            self.grow(read, room);
            return Poll::Ready(Ok(read));
        }
        // To grow an empty buffer would copy what was in it.
        if self.input.is_empty() && !self.input.try_reclaim(self.read_bytes) {
            self.input = BytesMut::with_capacity(self.read_bytes);
        }
        let asked = if self.read_bytes == READ_BYTES_MIN { ARENA_ROOM_MIN } else { self.read_bytes };
        self.input.reserve(asked);
        let read = ready!(poll_read_buf(Pin::new(&mut self.link), cx, &mut self.input))?;
        self.grow(read, asked);
        Poll::Ready(Ok(read))
    }

    /// A body that fills what is asked for is asked for more at once.
    fn grow(&mut self, read: usize, asked: usize) {
        if read >= asked && !self.decoder.is_ended() {
            self.read_bytes = (self.read_bytes * 2).min(READ_BYTES_MAX);
        }
    }

    fn poll_continue(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.interim.is_empty() {
            let written = ready!(self.poll_write(cx, &[IoSlice::new(self.interim)]))?;
            self.interim_begun = true;
            self.interim = &self.interim[written..];
            if self.interim.is_empty() {
                let _ = Pin::new(&mut self.link).poll_flush(cx)?;
            }
        }
        Poll::Ready(Ok(()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let written = match slices {
            // A plain write costs less than one of a list.
            [one] => ready!(Pin::new(&mut self.link).poll_write(cx, one))?,
            many => ready!(Pin::new(&mut self.link).poll_write_vectored(cx, many))?,
        };
        if written == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        Poll::Ready(Ok(written))
    }
}
