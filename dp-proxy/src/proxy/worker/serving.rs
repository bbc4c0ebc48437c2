//! A connection, served by what it speaks.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::time::Duration;

use http::{HeaderValue, Request, StatusCode, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::admission::Shaking;
use super::{Door, Worker};
use crate::proxy::account::Account;
use crate::proxy::downstream::client::{Client, ClientStream};
use crate::proxy::downstream::prefixed::Prefixed;
use crate::proxy::downstream::proxy_protocol::Ends;
use crate::proxy::downstream::tls::{self, HandshakeError, Shaken};
use crate::proxy::error::Refusal;
use crate::proxy::request::answer;
use crate::proxy::stream::{self as streams, Shown};

/// What is read, and for how long, of a request that was answered before it was read: a connection that is closed with
/// unread bytes is reset, and the client may never see the answer.
const LINGER_BYTES: usize = 1 << 20;
const LINGER_TIME: Duration = Duration::from_secs(2);

impl Worker {
    pub(super) async fn serve(self: Rc<Self>, stream: TcpStream, Ends { client: peer, local }: Ends) {
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
    pub(super) async fn serve_tls(self: Rc<Self>, stream: TcpStream, ends: Ends, door: Door, shaking: Shaking) {
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
            return streams::serve(self, stream, ends, Some(Shown { name, session })).await;
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
pub(super) struct Here;

impl<F> hyper::rt::Executor<F> for Here
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, future: F) {
        spawn_local(future);
    }
}
