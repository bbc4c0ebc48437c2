//! The body of a request: as it comes, within its bounds.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::Body;
use tokio::time::Instant;

use super::client::Client;
use super::http1;
use crate::proxy::buffers::Buffers;
use crate::proxy::error::Refusal;
use crate::proxy::headers::trailers_passed_on;

/// The body of a request, as it comes by what the client speaks.
#[derive(Debug)]
pub(crate) enum Incoming {
    Http1(http1::Incoming),
    Http2(hyper::body::Incoming),
    /// It does not come: all of it is here.
    Nothing,
}

/// A piece of a body, or what came behind it.
#[derive(Debug)]
pub(crate) enum Piece {
    Data(Bytes),
    /// Those that may be passed on, if any.
    Trailers(Option<Box<HeaderMap>>),
}

/// A request's body that is passed on.
#[derive(Debug)]
pub(crate) struct RequestBody {
    incoming: Incoming,
    client: Rc<Client>,
    /// Bytes that may still come.
    left: u64,
    length: Option<u64>,
    touched: bool,
    ended: bool,
    /// Bytes that came, and how long they were waited for.
    came: u64,
    waited: Duration,
    waits_since: Option<Instant>,
    /// What came already and is to be sent once more.
    again: VecDeque<Bytes>,
    /// What came behind it (RFC 9110 §6.5).
    trailers: Option<Box<HeaderMap>>,
}

/// Why a client's body cannot be passed on to its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("the client's body is larger than allowed")]
    TooLarge,
    #[error("the client's body does not come")]
    Late,
    #[error("the client's body is cut short or malformed")]
    Broken,
    #[error("the bodies that are kept take all the memory that they may (proxy.limits.buffered_bytes_max)")]
    NoRoom,
}

impl RequestBody {
    /// A body without a bound.
    pub(crate) fn new(incoming: Incoming, client: Rc<Client>) -> Self {
        let length = incoming.length();
        let ended = length == Some(0);
        Self {
            incoming,
            client,
            left: u64::MAX,
            length,
            touched: false,
            ended,
            came: 0,
            waited: Duration::ZERO,
            waits_since: None,
            again: VecDeque::new(),
            trailers: None,
        }
    }

    /// A body that is here.
    pub(crate) fn of(bytes: Bytes, client: Rc<Client>) -> Self {
        let length = Some(bytes.len() as u64);
        Self { length, again: VecDeque::from([bytes]), ..Self::new(Incoming::Nothing, client) }
    }

    /// Lets at most `bytes_max` bytes of it be taken, those included that came (0: any).
    ///
    /// # Errors
    /// It is larger, as far as is known.
    pub(crate) fn bound(&mut self, bytes_max: u64) -> Result<(), BodyError> {
        let max = if bytes_max == 0 { u64::MAX } else { bytes_max };
        if self.length.is_some_and(|length| length > max) {
            return Err(BodyError::TooLarge);
        }
        self.left = max.checked_sub(self.came).ok_or(BodyError::TooLarge)?;
        Ok(())
    }

    /// All of it, which may be sent all the same: it is as it was. It is copied into one buffer: a piece by itself would hold
    /// the whole buffer that it was read into, be it one byte.
    ///
    /// # Errors
    /// It is larger than its bound, does not come to its end, or finds no room.
    pub(crate) async fn whole(&mut self, buffers: &Arc<Buffers>) -> Result<Bytes, BodyError> {
        if self.ended && self.again.len() <= 1 {
            return Ok(self.again.front().cloned().unwrap_or_default());
        }
        let mut whole = buffers.begin(self.length)?;
        while let Some(piece) = poll_fn(|cx| self.poll_next(cx)).await {
            whole.append(&piece?)?;
        }
        let whole = whole.freeze();
        self.put_back(if whole.is_empty() { Vec::new() } else { vec![whole.clone()] });
        Ok(whole)
    }

    /// Its announced length; `None`: it is chunked.
    pub(crate) fn length(&self) -> Option<u64> {
        self.length
    }

    /// Whether nothing more will come.
    pub(crate) fn is_ended(&self) -> bool {
        self.ended && self.again.is_empty()
    }

    /// Whether anything of it was asked for: it can then not be sent a second time.
    pub(crate) fn is_touched(&self) -> bool {
        self.touched
    }

    /// Puts back all that was taken of it since it was untouched: it is as it was. What was put back before and not taken
    /// since stays behind that.
    pub(crate) fn put_back(&mut self, came: Vec<Bytes>) {
        for piece in came.into_iter().rev() {
            self.again.push_front(piece);
        }
        self.touched = false;
    }

    /// What came behind it, once it has ended.
    pub(crate) fn trailers(&self) -> Option<&HeaderMap> {
        self.trailers.as_deref()
    }

    /// The next piece; `None` at its end.
    pub(crate) fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if let Some(data) = self.again.pop_front() {
            self.touched = true;
            return Poll::Ready(Some(Ok(data)));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        self.touched = true;
        loop {
            let Poll::Ready(piece) = self.incoming.poll_next(cx) else {
                ready!(self.poll_late(cx));
                return Poll::Ready(Some(Err(BodyError::Late)));
            };
            self.client.body_came();
            if let Some(since) = self.waits_since.take() {
                self.waited += since.elapsed();
            }
            let data = match piece {
                None => {
                    self.ended = true;
                    return Poll::Ready(None);
                }
                Some(Err(e)) => return Poll::Ready(Some(Err(e))),
                Some(Ok(Piece::Trailers(trailers))) => {
                    self.trailers = trailers;
                    continue;
                }
                Some(Ok(Piece::Data(data))) => data,
            };
            if data.is_empty() {
                continue;
            }
            self.client.count_in(data.len());
            self.came += data.len() as u64;
            let Some(left) = self.left.checked_sub(data.len() as u64) else {
                return Poll::Ready(Some(Err(BodyError::TooLarge)));
            };
            self.left = left;
            return Poll::Ready(Some(Ok(data)));
        }
    }

    /// Ready when the client lets wait too long: for the next piece, or for all of them together. Only time in which this
    /// proxy waits counts, never time in which a node takes nothing.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let limits = self.client.limits();
        let mut limit = limits.body;
        if limits.body_rate > 0 && self.waits_since.is_none() {
            self.waits_since = Some(Instant::now());
            limit = limit.min(limits.body_wait(self.came).saturating_sub(self.waited));
        }
        self.client.body_late(cx, limit)
    }
}

impl Incoming {
    /// # Errors
    /// Nobody can say where it ends.
    pub(crate) fn check(&self) -> Result<(), Refusal> {
        match self {
            Self::Http1(incoming) => Ok(incoming.check()?),
            Self::Http2(_) | Self::Nothing => Ok(()),
        }
    }

    /// Its length, where that is known before it has come.
    fn length(&self) -> Option<u64> {
        match self {
            Self::Http1(incoming) => incoming.left(),
            Self::Http2(incoming) => incoming.size_hint().exact(),
            Self::Nothing => Some(0),
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Piece, BodyError>>> {
        match self {
            Self::Http1(incoming) => {
                incoming.poll_next(cx).map(|next| next.map(|piece| piece.map_err(|_| BodyError::Broken)))
            }
            Self::Nothing => Poll::Ready(None),
            Self::Http2(incoming) => Pin::new(incoming).poll_frame(cx).map(|frame| {
                let frame = match frame? {
                    Ok(frame) => frame,
                    Err(_) => return Some(Err(BodyError::Broken)),
                };
                Some(Ok(frame.into_data().map_or_else(
                    |frame| Piece::Trailers(frame.into_trailers().ok().and_then(trailers_passed_on).map(Box::new)),
                    Piece::Data,
                )))
            }),
        }
    }
}
