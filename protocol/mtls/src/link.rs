//! A connection on which both ends have shown who they are.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::pki_types::UnixTime;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;
use tokio_rustls::TlsStream;

use crate::party::Party;

/// An encrypted connection. It ends with an error when the certificate at its other end expires.
#[derive(Debug)]
pub struct Link<S> {
    stream: TlsStream<S>,
    other: Party,
    expiry: Pin<Box<Sleep>>,
}

impl<S> Link<S> {
    /// A handshaken stream; `not_after` in seconds since 1970.
    pub(crate) fn new(stream: TlsStream<S>, other: Party, not_after: u64) -> Self {
        let left = not_after.saturating_sub(UnixTime::now().as_secs());
        Self { stream, other, expiry: Box::pin(tokio::time::sleep(Duration::from_secs(left))) }
    }

    /// Who is at the other end.
    pub fn other(&self) -> &Party {
        &self.other
    }

    /// Whoever reads learns it: both ends of a link always wait for something to read.
    fn check_expiry(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.expiry.as_mut().poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => Err(io::Error::new(
                io::ErrorKind::ConnectionAborted,
                format!("the certificate of {} expired", self.other),
            )),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Link<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.check_expiry(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Link<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
