//! What is written to a client of HTTP/2, gathered.
//!
//! The parser of HTTP/2 asks for every piece of data to be written and flushed by itself: each answer would cost a system
//! call, and a TLS record, of its own. Small pieces wait here instead until the connection's task has written all that it
//! has, and go together then ([`Gathered::poll_deliver`]); large ones take along what waits. Nothing waits longer than that
//! turn of the task, and a connection that waits for its client holds no room.

use std::cell::RefCell;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use smallvec::SmallVec;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// How much waits at most: a TLS record's worth.
const GATHER_BYTES_MAX: usize = 16 << 10;

/// A buffer that the connections of a worker use one after the other.
pub(crate) type Scratch = Rc<RefCell<Vec<u8>>>;

/// One end of a connection; clones are the same end.
#[derive(Debug)]
pub(crate) struct Gathered<S>(Rc<RefCell<Inner<S>>>);

#[derive(Debug)]
struct Inner<S> {
    stream: S,
    /// What waits, from `at` on.
    out: Vec<u8>,
    at: usize,
    scratch: Scratch,
}

impl<S> Clone for Gathered<S> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

impl<S> Gathered<S> {
    pub(crate) fn new(stream: S, scratch: Scratch) -> Self {
        Self(Rc::new(RefCell::new(Inner { stream, out: Vec::new(), at: 0, scratch })))
    }
}

impl<S: AsyncWrite + Unpin> Gathered<S> {
    /// Sends all that waits.
    ///
    /// # Errors
    /// Those of the connection.
    pub(crate) fn poll_deliver(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        ready!(inner.poll_out(cx))?;
        Pin::new(&mut inner.stream).poll_flush(cx)
    }
}

impl<S: AsyncWrite + Unpin> Inner<S> {
    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.at < self.out.len() {
            match ready!(Pin::new(&mut self.stream).poll_write(cx, &self.out[self.at..]))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.at += written,
            }
        }
        self.rest();
        Poll::Ready(Ok(()))
    }

    /// Gives the buffer back, of which everything went.
    fn rest(&mut self) {
        self.at = 0;
        if self.out.capacity() > 0 {
            self.out.clear();
            self.scratch.replace(std::mem::take(&mut self.out));
        }
    }

    fn gather(&mut self, slices: &[IoSlice<'_>]) {
        if self.out.is_empty() {
            self.out = self.scratch.take();
            self.out.clear();
        } else if self.at >= GATHER_BYTES_MAX {
            self.out.drain(..std::mem::take(&mut self.at));
        }
        for slice in slices {
            self.out.extend_from_slice(slice);
        }
    }

    /// Writes what waits and what comes behind it: how much of the latter went.
    fn poll_through(&mut self, cx: &mut Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        while self.at < self.out.len() {
            let waiting = self.out.len() - self.at;
            let mut all: SmallVec<[IoSlice<'_>; 4]> = SmallVec::new();
            all.push(IoSlice::new(&self.out[self.at..]));
            all.extend(slices.iter().map(|slice| IoSlice::new(slice)));
            let written = ready!(Pin::new(&mut self.stream).poll_write_vectored(cx, &all))?;
            drop(all);
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            let of_waiting = written.min(waiting);
            self.at += of_waiting;
            if written > of_waiting {
                self.rest();
                return Poll::Ready(Ok(written - of_waiting));
            }
        }
        self.rest();
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Gathered<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0.borrow_mut().stream).poll_read(cx, buffer)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Gathered<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let inner = &mut *self.0.borrow_mut();
        let bytes = slices.iter().map(|slice| slice.len()).sum();
        if inner.out.len() - inner.at + bytes > GATHER_BYTES_MAX {
            return inner.poll_through(cx, slices);
        }
        inner.gather(slices);
        Poll::Ready(Ok(bytes))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// Only asked for between pieces here: see [`Gathered::poll_deliver`].
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let inner = &mut *self.0.borrow_mut();
        ready!(inner.poll_out(cx))?;
        Pin::new(&mut inner.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// A socket that takes so many bytes, and then no more until there is room.
    #[derive(Debug, Default)]
    struct Socket {
        taken: Vec<u8>,
        room: usize,
        writes: usize,
        is_shut: bool,
    }

    impl AsyncWrite for Socket {
        fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
            self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
        }

        fn poll_write_vectored(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            slices: &[IoSlice<'_>],
        ) -> Poll<io::Result<usize>> {
            if self.room == 0 {
                return Poll::Pending;
            }
            let all: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).collect();
            let taken = all.len().min(self.room);
            self.taken.extend_from_slice(&all[..taken]);
            self.room -= taken;
            self.writes += 1;
            Poll::Ready(Ok(taken))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.is_shut = true;
            Poll::Ready(Ok(()))
        }
    }

    fn with_room(room: usize) -> Gathered<Socket> {
        Gathered::new(Socket { room, ..Socket::default() }, Scratch::default())
    }

    fn write(gathered: &Gathered<Socket>, slices: &[&[u8]]) -> Poll<usize> {
        let mut context = Context::from_waker(Waker::noop());
        let slices: Vec<_> = slices.iter().map(|slice| IoSlice::new(slice)).collect();
        let mut end = gathered.clone();
        let written = Pin::new(&mut end).poll_write_vectored(&mut context, &slices).map(Result::unwrap);
        assert!(Pin::new(&mut end).poll_flush(&mut context).is_ready());
        written
    }

    fn deliver(gathered: &Gathered<Socket>) -> Poll<()> {
        gathered.poll_deliver(&mut Context::from_waker(Waker::noop())).map(Result::unwrap)
    }

    #[test]
    fn small_pieces_go_together_when_they_are_delivered() {
        let gathered = with_room(usize::MAX);
        assert_eq!(write(&gathered, &[b"head", b"body"]), Poll::Ready(8));
        assert_eq!(write(&gathered, &[b"more"]), Poll::Ready(4));
        assert_eq!(gathered.0.borrow().stream.writes, 0);
        assert_eq!(deliver(&gathered), Poll::Ready(()));
        let inner = gathered.0.borrow();
        assert_eq!((inner.stream.writes, &inner.stream.taken[..]), (1, &b"headbodymore"[..]));
        assert_eq!(inner.out.capacity(), 0, "a connection that waits holds no room");
        assert!(inner.scratch.borrow().capacity() > 0);
    }

    #[test]
    fn large_pieces_take_along_what_waits() {
        let gathered = with_room(usize::MAX);
        let large = vec![b'x'; GATHER_BYTES_MAX];
        assert_eq!(write(&gathered, &[b"head"]), Poll::Ready(4));
        assert_eq!(write(&gathered, &[b"frame", &large]), Poll::Ready(5 + GATHER_BYTES_MAX));
        let inner = gathered.0.borrow();
        assert_eq!((inner.stream.writes, inner.stream.taken.len()), (1, 9 + GATHER_BYTES_MAX));
        assert!(inner.stream.taken.starts_with(b"headframexx"));
    }

    #[test]
    fn a_client_that_takes_nothing_fills_no_more_than_the_bound_and_loses_nothing() {
        let gathered = with_room(0);
        let piece = [b'p'; 1000];
        let mut expected = Vec::new();
        while write(&gathered, &[&piece]).is_ready() {
            expected.extend_from_slice(&piece);
            assert!(expected.len() <= GATHER_BYTES_MAX);
        }
        assert_eq!(expected.len(), GATHER_BYTES_MAX / piece.len() * piece.len());
        assert!(deliver(&gathered).is_pending());
        // Room comes little by little, and ends within what waits as well as within what comes behind it.
        for turn in 0..20_000_usize {
            gathered.0.borrow_mut().stream.room = 1 + turn % 13;
            let piece = [u8::try_from(turn % 251).unwrap(); 5];
            if let Poll::Ready(written) = write(&gathered, &[&piece[..2], &piece[2..]]) {
                expected.extend_from_slice(&piece[..written]);
            }
            assert!(gathered.0.borrow().out.len() <= 2 * GATHER_BYTES_MAX);
        }
        while deliver(&gathered).is_pending() {
            gathered.0.borrow_mut().stream.room = 999;
        }
        assert_eq!(gathered.0.borrow().stream.taken, expected);
    }

    #[test]
    fn what_waits_goes_before_the_end() {
        let gathered = with_room(4);
        assert_eq!(write(&gathered, &[b"goodbye"]), Poll::Ready(7));
        let mut context = Context::from_waker(Waker::noop());
        assert!(Pin::new(&mut gathered.clone()).poll_shutdown(&mut context).is_pending());
        assert!(!gathered.0.borrow().stream.is_shut);
        gathered.0.borrow_mut().stream.room = 9;
        assert!(Pin::new(&mut gathered.clone()).poll_shutdown(&mut context).is_ready());
        let inner = gathered.0.borrow();
        assert_eq!((&inner.stream.taken[..], inner.stream.is_shut), (&b"goodbye"[..], true));
    }
}
