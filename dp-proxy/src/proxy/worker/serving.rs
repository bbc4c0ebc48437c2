//! A connection, served by what it speaks.

use std::cell::RefCell;
use std::convert::Infallible;
use std::error::Error;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use bytes::BytesMut;
use http::{HeaderValue, Request, header};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::spawn_local;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::admission::Shaking;
use super::{Door, Worker};
use crate::proxy::downstream::client::{Client, ClientStream};
use crate::proxy::downstream::gather::Gathered;
use crate::proxy::downstream::prefixed::Prefixed;
use crate::proxy::downstream::proxy_protocol::Ends;
use crate::proxy::downstream::tls::{self, HandshakeError, Shaken};
use crate::proxy::downstream::{body, http1};
use crate::proxy::link::Link;
use crate::proxy::request::answer;
use crate::proxy::stream::{self as streams, Shown};

impl Worker {
    pub(super) async fn serve(self: Rc<Self>, stream: TcpStream, Ends { client: peer, local }: Ends) {
        let client = Client::new(peer, local, None, self.limits.client, &self.wheel);
        if self.h2c {
            return self.serve_any(stream, client).await;
        }
        http1::serve(self, client, Link::Plain(stream), BytesMut::new()).await;
    }

    /// Makes a handshake, then serves what was agreed on.
    pub(super) async fn serve_tls(self: Rc<Self>, stream: TcpStream, ends: Ends, door: Door, shaking: Shaking) {
        let Ends { client: peer, local } = ends;
        // What a handshake needs is not to be kept as long as the connection lasts.
        let shake = Box::pin(tls::shake(stream, self.table(), &self.fallback_sni, door.stream));
        let shaken = timeout(self.handshake_timeout, shake).await;
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
            return Box::pin(streams::serve(self, stream, ends, Some(Shown { name, session }))).await;
        }
        let client = Client::new(peer, local, Some(Rc::new(session)), self.limits.client, &self.wheel);
        if http2 {
            Box::pin(self.serve_http2(stream, client)).await;
        } else {
            http1::serve(self, client, Link::Tls(Box::new(stream.into())), BytesMut::new()).await;
        }
    }

    /// Serves a client that may speak either without having said so.
    async fn serve_any(self: Rc<Self>, stream: TcpStream, client: Rc<Client>) {
        let mut stream = Prefixed::new(stream);
        let starts = timeout(self.limits.client.idle, stream.starts_as_http2()).await;
        match starts {
            Ok(Ok(true)) => Box::pin(self.serve_http2(stream, client)).await,
            Ok(Ok(false)) => {
                let (stream, early) = stream.into_parts();
                http1::serve(self, client, Link::Plain(stream), early).await;
            }
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
        let stream = Gathered::new(ClientStream::new(stream, client.clone()), self.scratch.clone());
        let io = TokioIo::new(stream.clone());
        let (worker, same) = (self.clone(), client.clone());
        let service = service_fn(move |mut request| {
            join_cookies(&mut request);
            let (parts, incoming) = request.into_parts();
            let client = same.stream(&worker.wheel);
            worker.here.begun.replace(Some(client.clone()));
            // Moved once: on its way into a task of its own it would be copied five times.
            let answer = Box::pin(answer(worker.clone(), client, parts, body::Incoming::Http2(incoming)));
            async move { Ok::<http::Response<_>, Infallible>(answer.await.into()) }
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
            let polled = connection.as_mut().poll(cx);
            match stream.poll_deliver(cx) {
                Poll::Ready(Err(e)) if polled.is_pending() => Poll::Ready(Err(e.into())),
                _ => polled.map_err(Box::<dyn Error>::from),
            }
        })
        .await;
        // What it says at its end is still to go.
        let _ = poll_fn(|cx| stream.poll_deliver(cx)).await;
        let Err(e) = result else { return };
        if is_flood(&*e) {
            self.figures.http2_floods.add(1);
            if self.may_speak() {
                warn!(peer = %client.peer, "a connection is ended: its client floods it");
            }
        }
        debug!(peer = %client.peer, error = %e, "a connection ended");
    }
}

/// Whether a connection was ended here for what its client sent, within the protocol and without measure: resets, errors, or
/// pieces of a head (RFC 9113 §10.5).
fn is_flood(error: &(dyn Error + 'static)) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref::<h2::Error>());
    cause.is_some_and(|cause| cause.is_library() && cause.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM))
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

/// Runs the requests of HTTP/2 connections beside them, on the worker's thread.
#[derive(Clone, Debug, Default)]
pub(super) struct Here {
    /// Whose request hyper has just begun: what it hands over next is to run that.
    begun: Rc<RefCell<Option<Rc<Client>>>>,
}

impl<F> hyper::rt::Executor<F> for Here
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, future: F) {
        let client = self.begun.take();
        spawn_local(async move {
            let mut request = pin!(future);
            // hyper waits for a stream's window without an end. To be dropped resets the stream, and frees what it holds.
            poll_fn(|cx| match (request.as_mut().poll(cx), &client) {
                (Poll::Pending, Some(client)) => client.poll_untaken(cx),
                (polled, _) => polled,
            })
            .await;
        });
    }
}
