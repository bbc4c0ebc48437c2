//! One request and its response on one connection.
//!
//! The request's body and the response are under way at the same time: an upstream may answer before it has read
//! everything. What came from one side waits until the other side takes it; nothing is buffered but the little of a body
//! that may have to be sent once more.

use std::future::poll_fn;
use std::io::{self, IoSlice};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::header::{self, HeaderValue};
use http::{HeaderMap, Method, StatusCode};

use super::AnswerHead;
use super::connection::Connection;
use super::replay::Replay;
use super::response_head::{self, BadHead, HeadLimits, Read, ResponseHead};
use crate::proxy::downstream::body::{BodyError, RequestBody};
use crate::proxy::framing::{BadBody, Decoded, Decoder};
use crate::proxy::head::write_trailers;
use crate::proxy::link::Link;

/// Responses of the kind that comes before the real one (1xx) that are waited through.
pub(super) const INTERIMS_MAX: u32 = 32;

/// A request on its way.
#[derive(Debug)]
pub(crate) struct Exchange<'r> {
    connection: Box<Connection>,
    upload: Upload,
    upgrade: Option<&'r HeaderValue>,
    limits: ExchangeLimits,
    /// Whether the node was sent anything of it.
    sent: bool,
    /// Whether anything of a response came.
    answered: bool,
}

/// What came before the response's head.
struct Before<P> {
    /// Bytes of the input that were looked at without finding the end of a head.
    seen: usize,
    interims: u32,
    /// Whether the connection may be used again, as far as they say.
    keep_alive: bool,
    pass: P,
}

/// How long the node may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ExchangeLimits {
    /// Between two writes.
    pub(crate) send: Duration,
    /// Between two reads, once the request was sent.
    pub(crate) read: Duration,
    pub(crate) head: HeadLimits,
}

/// A request that got no usable response.
#[derive(Debug)]
pub(crate) struct Failed {
    pub(crate) why: Failure,
    /// Whether the node can have acted on it.
    pub(crate) sent: bool,
    pub(crate) answered: bool,
    /// The body, if all of it is still there.
    pub(crate) body: Option<Box<RequestBody>>,
}

/// Why.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Client(#[from] BodyError),
    #[error("the upstream does not take the request")]
    SendTimeout,
    #[error("the upstream does not answer")]
    ReadTimeout,
    #[error("the upstream closed the connection before it answered")]
    Closed,
    #[error("the connection to the upstream broke: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Head(#[from] BadHead),
    #[error("the upstream sends one 1xx response after the other")]
    Interims,
    /// By HTTP/2, the node said so: it can be sent elsewhere, whatever it is.
    #[error("the upstream did not take the request: {0}")]
    NotTaken(#[source] h2::Error),
    #[error("the upstream ended the request: {0}")]
    Http2(#[source] h2::Error),
}

impl<'r> Exchange<'r> {
    /// A request whose head stands in the connection's buffer already. Where it `may_go_twice`, what is sent of its body is
    /// kept, if that is little. `upgrade` is the protocol to which it asks the node to switch.
    pub(crate) fn new(
        connection: Box<Connection>,
        body: Option<Box<RequestBody>>,
        chunked: bool,
        may_go_twice: bool,
        upgrade: Option<&'r HeaderValue>,
        limits: ExchangeLimits,
    ) -> Self {
        let replay = body.as_ref().filter(|_| may_go_twice).and_then(|body| Replay::of(body));
        Self { connection, upload: Upload::new(body, replay, chunked), upgrade, limits, sent: false, answered: false }
    }

    /// Sends the request and waits for the response's head. What comes before it (1xx) is handed to `pass`, but for what is
    /// about the request's body (100): the client's is asked for here.
    pub(crate) async fn head(
        mut self,
        method: &Method,
        pass: impl Fn(&ResponseHead),
    ) -> Result<(AnswerHead, Receiving), Failed> {
        let mut before = Before { seen: 0, interims: 0, keep_alive: true, pass };
        let result = poll_fn(|cx| self.poll_head(cx, method, &mut before)).await;
        match result {
            Ok(head) => {
                // Whatever comes of it, the request is not sent once more.
                self.upload.replay = None;
                let receiving = Receiving {
                    decoder: Decoder::new(head.framing),
                    keep_alive: head.keep_alive && before.keep_alive,
                    connection: self.connection,
                    upload: self.upload,
                    read: self.limits.read,
                    trailers: None,
                };
                Ok((AnswerHead { status: head.status, fields: head.fields }, receiving))
            }
            Err(why) => {
                let body = Replay::take_back(self.upload.replay, self.upload.body);
                Err(Failed { why, sent: self.sent, answered: self.answered, body })
            }
        }
    }

    /// Whether the node switches to what it was asked to switch to.
    fn agrees(&self, head: &ResponseHead) -> bool {
        let mut named = head.fields.get_all(&header::UPGRADE);
        match (self.upgrade, named.next(), named.next()) {
            (Some(asked), Some(named), None) => named.eq_ignore_ascii_case(asked.as_bytes()),
            _ => false,
        }
    }

    fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        method: &Method,
        before: &mut Before<impl Fn(&ResponseHead)>,
    ) -> Poll<Result<ResponseHead, Failure>> {
        if let Progress::Client(e) = self.upload.poll(cx, &mut self.connection) {
            return Poll::Ready(Err(e.into()));
        }
        self.sent |= self.upload.sent;
        loop {
            while self.connection.input.len() > before.seen {
                self.answered = true;
                match response_head::read(&mut self.connection.input, before.seen, method, self.limits.head)? {
                    Read::More => before.seen = self.connection.input.len(),
                    Read::Head(head) if head.status == StatusCode::SWITCHING_PROTOCOLS && !self.agrees(&head) => {
                        return Poll::Ready(Err(BadHead::Upgrade.into()));
                    }
                    Read::Head(head) => return Poll::Ready(Ok(head)),
                    Read::Interim(head) => {
                        before.seen = 0;
                        before.interims += 1;
                        before.keep_alive &= head.keep_alive;
                        if before.interims > INTERIMS_MAX {
                            return Poll::Ready(Err(Failure::Interims));
                        }
                        if head.status != StatusCode::CONTINUE {
                            (before.pass)(&head);
                        }
                    }
                }
            }
            match self.connection.poll_read(cx) {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(Err(self.upload.broken.take().map_or(Failure::Closed, Failure::Io)));
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(e)) => return Poll::Ready(Err(self.upload.broken.take().unwrap_or(e).into())),
                Poll::Pending => break,
            }
        }
        let (limit, late) = match self.upload.waits_for() {
            WaitsFor::Client => return Poll::Pending,
            WaitsFor::Upstream => (self.limits.send, Failure::SendTimeout),
            WaitsFor::Nobody => (self.limits.read, Failure::ReadTimeout),
        };
        self.connection.poll_late(cx, limit).map(|()| Err(late))
    }
}

// === the request's way up ===

/// What is still to be sent.
#[derive(Debug)]
struct Upload {
    body: Option<Box<RequestBody>>,
    /// What was sent of it, where it may have to be sent once more.
    replay: Option<Box<Replay>>,
    chunked: bool,
    /// Bytes of the connection's `out` that were sent.
    out_sent: usize,
    data: Bytes,
    tail: &'static [u8],
    sent: bool,
    ended: bool,
    blocked: bool,
    /// The node takes nothing more. It may have answered all the same.
    broken: Option<io::Error>,
}

enum Progress {
    /// All that can be sent now was sent.
    Fine,
    /// The client's body is of no use.
    Client(BodyError),
}

enum WaitsFor {
    Client,
    Upstream,
    Nobody,
}

impl Upload {
    fn new(body: Option<Box<RequestBody>>, replay: Option<Box<Replay>>, chunked: bool) -> Self {
        Self {
            body,
            replay,
            chunked,
            out_sent: 0,
            data: Bytes::new(),
            tail: b"",
            sent: false,
            ended: false,
            blocked: false,
            broken: None,
        }
    }

    fn waits_for(&self) -> WaitsFor {
        match (self.ended, self.blocked) {
            (true, _) => WaitsFor::Nobody,
            (false, true) => WaitsFor::Upstream,
            (false, false) => WaitsFor::Client,
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>, connection: &mut Connection) -> Progress {
        while !self.ended {
            match self.poll_flush(cx, connection) {
                // Whoever waited for the node to take more begins to wait for its answer now.
                Poll::Ready(Ok(())) if self.blocked => {
                    self.blocked = false;
                    connection.moved();
                }
                Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(e)) => {
                    self.broken = Some(e);
                    self.ended = true;
                    break;
                }
                Poll::Pending => {
                    self.blocked = true;
                    break;
                }
            }
            let Some(body) = &mut self.body else {
                self.ended = true;
                break;
            };
            match body.poll_next(cx) {
                Poll::Ready(Some(Ok(data))) => {
                    connection.out.clear();
                    self.out_sent = 0;
                    if self.chunked {
                        connection.out.extend_from_slice(format!("{:x}\r\n", data.len()).as_bytes());
                        self.tail = b"\r\n";
                    }
                    self.replay.take_if(|replay| !replay.keep(&data));
                    self.data = data;
                }
                Poll::Ready(Some(Err(e))) => return Progress::Client(e),
                Poll::Ready(None) => {
                    let body = self.body.take();
                    match body.as_ref().and_then(|body| body.trailers()) {
                        Some(trailers) if self.chunked => {
                            connection.out.clear();
                            self.out_sent = 0;
                            write_trailers(&mut connection.out, trailers);
                        }
                        _ if self.chunked => self.tail = b"0\r\n\r\n",
                        _ => {}
                    }
                    if let (Some(replay), Some(body)) = (&mut self.replay, body) {
                        replay.hold(body);
                    }
                }
                Poll::Pending => break,
            }
        }
        Progress::Fine
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>, connection: &mut Connection) -> Poll<io::Result<()>> {
        loop {
            let out = std::mem::take(&mut connection.out);
            let rest = &out[self.out_sent..];
            if rest.is_empty() && self.data.is_empty() && self.tail.is_empty() {
                connection.out = out;
                return connection.poll_flush(cx);
            }
            let slices = [IoSlice::new(rest), IoSlice::new(&self.data), IoSlice::new(self.tail)];
            let is_alone = self.data.is_empty() && self.tail.is_empty();
            let written = connection.poll_write(cx, if is_alone { &slices[..1] } else { &slices });
            let rest = rest.len();
            connection.out = out;
            let Poll::Ready(written) = written else { return Poll::Pending };
            let written = written?;
            self.sent = true;
            let from_out = written.min(rest);
            self.out_sent += from_out;
            let from_data = (written - from_out).min(self.data.len());
            self.data.advance(from_data);
            self.tail = &self.tail[written - from_out - from_data..];
        }
    }
}

// === the response's way down ===

/// A response whose body is under way, and perhaps still a request's.
#[derive(Debug)]
pub(crate) struct Receiving {
    connection: Box<Connection>,
    upload: Upload,
    decoder: Decoder,
    keep_alive: bool,
    read: Duration,
    trailers: Option<Box<HeaderMap>>,
}

/// A response that was cut off.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cut {
    #[error("the upstream's response is of no use: {0}")]
    Body(#[from] BadBody),
    #[error("the upstream does not go on")]
    Late,
    #[error("the connection to the upstream broke: {0}")]
    Io(#[from] io::Error),
    /// The client hears the same reason, where it speaks HTTP/2 too.
    #[error("the upstream ended its response: {0}")]
    Http2(#[source] h2::Error),
}

impl Receiving {
    /// How much of the body is left, where that is known.
    pub(crate) fn left(&self) -> Option<u64> {
        self.decoder.left()
    }

    pub(crate) fn is_ended(&self) -> bool {
        self.decoder.is_ended()
    }

    /// The next piece; `None` at the end.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        if let Progress::Client(_) = self.upload.poll(cx, &mut self.connection) {
            // The answer is there already: it is passed on, and the connection is not used again.
            self.upload.ended = true;
            self.keep_alive = false;
        }
        loop {
            match self.decoder.decode(&mut self.connection.input) {
                Ok(Decoded::Data(data)) => return Poll::Ready(Some(Ok(data))),
                Ok(Decoded::Trailers(trailers)) => {
                    self.trailers = Some(trailers);
                    return Poll::Ready(None);
                }
                Ok(Decoded::End) => return Poll::Ready(None),
                Ok(Decoded::More) => {}
                Err(e) => return Poll::Ready(Some(Err(e.into()))),
            }
            match self.connection.poll_read(cx) {
                Poll::Ready(Ok(0)) => {
                    return Poll::Ready(match self.decoder.close() {
                        Ok(()) => None,
                        Err(e) => Some(Err(e.into())),
                    });
                }
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(e)) => return Poll::Ready(Some(Err(e.into()))),
                Poll::Pending => {
                    return self.connection.poll_late(cx, self.read).map(|()| Some(Err(Cut::Late)));
                }
            }
        }
    }

    /// What came behind the body.
    pub(crate) fn take_trailers(&mut self) -> Option<HeaderMap> {
        self.trailers.take().map(|trailers| *trailers)
    }

    /// The connection after a 101: its bytes, and those that came already.
    pub(crate) fn into_tunnel(self) -> (Link, BytesMut) {
        self.connection.into_parts()
    }

    /// The connection, when the next request can use it: everything was sent and read, and nothing came beyond.
    pub(crate) fn into_connection(self) -> Option<Box<Connection>> {
        let clean = self.keep_alive
            && self.decoder.is_ended()
            && self.upload.ended
            && self.upload.broken.is_none()
            && self.upload.body.is_none()
            && self.connection.input.is_empty();
        clean.then_some(self.connection)
    }
}
