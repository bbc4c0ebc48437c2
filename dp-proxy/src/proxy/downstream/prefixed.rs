//! A connection of which the first bytes were looked at already.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

/// The connection, as if nothing had been read of it.
#[derive(Debug)]
pub(crate) struct Prefixed {
    stream: TcpStream,
    seen: Vec<u8>,
    at: usize,
}

/// Most first heads are not longer: they come with one read.
const HEAD_BYTES_USUAL: usize = 1024;

/// What a client of HTTP/2 begins with (RFC 9113 §3.4), as far as no request of HTTP/1 can.
const PREFACE: &[u8] = b"PRI * HTTP/2.0";

impl Prefixed {
    pub(crate) fn new(stream: TcpStream) -> Self {
        Self { stream, seen: Vec::with_capacity(HEAD_BYTES_USUAL), at: 0 }
    }

    /// The connection, and what came of it already.
    pub(crate) fn into_parts(self) -> (TcpStream, BytesMut) {
        (self.stream, BytesMut::from(&self.seen[self.at..]))
    }

    /// Whether the client begins as one of HTTP/2 does. Waits until that is certain.
    ///
    /// # Errors
    /// Those of the operating system; the end of the connection is one.
    pub(crate) async fn starts_as_http2(&mut self) -> io::Result<bool> {
        loop {
            let common = self.seen.len().min(PREFACE.len());
            if self.seen[..common] != PREFACE[..common] {
                return Ok(false);
            }
            if common == PREFACE.len() {
                return Ok(true);
            }
            if self.stream.read_buf(&mut self.seen).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

impl AsyncRead for Prefixed {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.at < self.seen.len() {
            let length = buffer.remaining().min(self.seen.len() - self.at);
            buffer.put_slice(&self.seen[self.at..self.at + length]);
            self.at += length;
            if self.at == self.seen.len() {
                (self.seen, self.at) = (Vec::new(), 0);
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Prefixed {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
