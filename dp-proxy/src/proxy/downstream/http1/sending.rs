//! An answer on its way to the client: its head with the first piece of its body, then piece by piece, as fast as the
//! client takes them.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf, Bytes};
use hyper::body::{Body, Frame as Piece};

use super::response_head::Encoding;
use super::wire::Wire;
use crate::proxy::body::ResponseBody;
use crate::proxy::head::write_trailers;
use crate::proxy::upstream::exchange::Cut;

/// Data up to here is copied behind the head that it goes with: one write costs less than one of a list.
const COPY_BYTES_MAX: usize = 4 << 10;

/// An answer that is being sent.
#[derive(Debug)]
pub(crate) struct Sending<'w> {
    wire: &'w Wire,
    /// Until all of it was taken: then what hangs on it is settled.
    body: Option<ResponseBody>,
    encoding: Encoding,
    /// The head, and what frames a chunk.
    out: Vec<u8>,
    out_sent: usize,
    data: Bytes,
    tail: &'static [u8],
    takes_trailers: bool,
    /// Whether it is what its head said, as far as that is known.
    whole: bool,
}

impl<'w> Sending<'w> {
    /// `head` is written already. What comes behind the body goes only to a client that `takes_trailers` (RFC 9110 §6.5.1).
    pub(crate) fn new(
        wire: &'w Wire,
        head: Vec<u8>,
        encoding: Encoding,
        takes_trailers: bool,
        body: ResponseBody,
    ) -> Self {
        let body = (encoding != Encoding::None && !body.is_end_stream()).then_some(body);
        let whole = body.is_some() || matches!(encoding, Encoding::None | Encoding::Length(0) | Encoding::UntilClose);
        let mut sending =
            Self { wire, body, encoding, out: head, out_sent: 0, data: Bytes::new(), tail: b"", takes_trailers, whole };
        if sending.body.is_none() && encoding == Encoding::Chunked {
            (sending.tail, sending.whole) = (b"0\r\n\r\n", true);
        }
        sending
    }

    /// Sends all of it. Gives whether it was whole, so that another answer may follow.
    ///
    /// # Errors
    /// The client is gone, or takes nothing any more.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<bool>> {
        loop {
            self.fill(cx);
            if self.has_bytes() {
                ready!(self.poll_write(cx))?;
            } else if self.body.is_none() {
                ready!(self.wire.poll_flush(cx))?;
                return Poll::Ready(Ok(self.whole));
            } else {
                // The next piece is waited for, and what was written may still wait in TLS.
                if let Poll::Ready(Err(e)) = self.wire.poll_flush(cx) {
                    return Poll::Ready(Err(e));
                }
                ready!(self.wire.poll_gone(cx));
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
        }
    }

    /// The buffer of the head, to be used again.
    pub(crate) fn into_buffer(self) -> Vec<u8> {
        self.out
    }

    fn has_bytes(&self) -> bool {
        self.out_sent < self.out.len() || !self.data.is_empty() || !self.tail.is_empty()
    }

    /// Takes the next piece, where there is room for one.
    fn fill(&mut self, cx: &mut Context<'_>) {
        while self.data.is_empty()
            && self.tail.is_empty()
            && let Some(body) = &mut self.body
        {
            let Poll::Ready(piece) = Pin::new(&mut *body).poll_frame(cx) else { return };
            let is_last = piece.is_none() || body.is_end_stream();
            self.take(piece, is_last);
        }
    }

    fn take(&mut self, piece: Option<Result<Piece<Bytes>, Cut>>, is_last: bool) {
        let (data, trailers) = match piece {
            Some(Ok(piece)) => match piece.into_data() {
                Ok(data) => (data, None),
                Err(piece) => (Bytes::new(), piece.into_trailers().ok()),
            },
            // Why is written where it was noticed. The client notices by the frame, which stays open.
            Some(Err(_)) => return self.end(false),
            None => (Bytes::new(), None),
        };
        // Nothing follows what comes behind a body.
        let is_last = is_last || trailers.is_some();
        self.data = data;
        match &mut self.encoding {
            Encoding::Length(left) => match left.checked_sub(self.data.len() as u64) {
                Some(rest) => *left = rest,
                // More than was announced: nothing can follow that could be told from it.
                None => {
                    self.data.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
                    return self.end(false);
                }
            },
            Encoding::Chunked => {
                if self.out_sent == self.out.len() {
                    self.out.clear();
                    self.out_sent = 0;
                }
                if !self.data.is_empty() {
                    hexadecimal(&mut self.out, self.data.len());
                    self.out.extend_from_slice(b"\r\n");
                    self.tail = b"\r\n";
                }
                if let Some(trailers) = trailers.filter(|_| self.takes_trailers) {
                    write_trailers(&mut self.out, &trailers);
                } else if is_last {
                    self.tail = if self.data.is_empty() { b"0\r\n\r\n" } else { b"\r\n0\r\n\r\n" };
                }
            }
            Encoding::None | Encoding::UntilClose => {}
        }
        if self.out_sent < self.out.len() && self.data.len() <= COPY_BYTES_MAX {
            self.out.extend_from_slice(&self.data);
            self.out.extend_from_slice(self.tail);
            (self.data, self.tail) = (Bytes::new(), b"");
        }
        if is_last {
            self.end(matches!(self.encoding, Encoding::Length(0) | Encoding::Chunked | Encoding::UntilClose));
        }
    }

    fn end(&mut self, whole: bool) {
        self.body = None;
        self.whole = whole;
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let out = &self.out[self.out_sent..];
        let written = match (out.is_empty(), self.data.is_empty(), self.tail.is_empty()) {
            (false, true, true) => self.wire.poll_write(cx, &[IoSlice::new(out)]),
            (true, false, true) => self.wire.poll_write(cx, &[IoSlice::new(&self.data)]),
            _ => {
                let slices = [IoSlice::new(out), IoSlice::new(&self.data), IoSlice::new(self.tail)];
                self.wire.poll_write(cx, &slices)
            }
        };
        let written = ready!(written)?;
        let from_out = written.min(out.len());
        self.out_sent += from_out;
        let from_data = (written - from_out).min(self.data.len());
        self.data.advance(from_data);
        self.tail = &self.tail[written - from_out - from_data..];
        Poll::Ready(Ok(()))
    }
}

/// Appends a chunk's size.
fn hexadecimal(out: &mut Vec<u8>, size: usize) {
    let digits = (usize::BITS - size.leading_zeros()).div_ceil(4).max(1);
    for place in (0..digits).rev() {
        out.push(b"0123456789abcdef"[size >> (4 * place) & 15]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_of_chunks() {
        for size in [0, 1, 9, 15, 16, 255, 256, 65_535, 65_536, usize::MAX] {
            let mut out = Vec::new();
            hexadecimal(&mut out, size);
            assert_eq!(String::from_utf8(out).unwrap(), format!("{size:x}"));
        }
    }
}
