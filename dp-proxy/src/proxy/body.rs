//! The body of an answer: made here, or streamed from an upstream. It carries what must happen when the answer is over.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::{Body, Frame, SizeHint};
use protocol::resource::KeepalivePool;
use tracing::warn;

use super::account::Account;
use super::balance::UnderWay;
use super::compress::Compressor;
use super::error::UpstreamError;
use super::upstream::exchange::{self as http1, Cut};
use super::upstream::http2::exchange as http2;
use super::upstream::pool::Pools;
use crate::table::Ticket;

/// The body of an answer.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    kind: Kind,
    /// What it goes through on its way out.
    gzip: Option<Box<Gzip>>,
    /// Settled when this is dropped: at the end of the answer, or when it is given up.
    account: Option<Box<Account>>,
}

#[derive(Debug)]
enum Kind {
    Full(Option<Bytes>),
    Upstream(Option<Box<Streaming>>),
}

#[derive(Debug)]
struct Gzip {
    compressor: Compressor,
    /// What comes behind the body.
    trailers: Option<HeaderMap>,
    is_finished: bool,
}

/// A body on its way from a node.
#[derive(Debug)]
pub(crate) enum Receiving {
    Http1(http1::Receiving),
    Http2(http2::Receiving),
}

/// A response that is streamed, and where its connection goes afterwards.
#[derive(Debug)]
pub(crate) struct Streaming {
    pub(crate) receiving: Receiving,
    pub(crate) pools: Rc<Pools>,
    pub(crate) endpoint: Ticket,
    pub(crate) keepalive: KeepalivePool,
    /// Counts at the node until the answer is over.
    pub(crate) _under_way: Option<UnderWay>,
}

impl ResponseBody {
    pub(crate) fn full(bytes: Bytes) -> Self {
        Self { kind: Kind::Full((!bytes.is_empty()).then_some(bytes)), gzip: None, account: None }
    }

    pub(crate) fn streaming(streaming: Box<Streaming>) -> Self {
        let mut body = Self { kind: Kind::Upstream(Some(streaming)), gzip: None, account: None };
        // Without a body the connection is free at once.
        body.release_if_ended();
        body
    }

    /// Lets `account` be settled when the answer is over.
    pub(crate) fn with_account(mut self, account: Account) -> Self {
        self.account = Some(Box::new(account));
        self
    }

    /// The same, compressed as it goes.
    pub(crate) fn compressed(mut self, level: u32) -> Self {
        let compressor = Compressor::new(level);
        self.gzip = Some(Box::new(Gzip { compressor, trailers: None, is_finished: false }));
        self
    }

    fn release_if_ended(&mut self) {
        let Kind::Upstream(slot) = &mut self.kind else { return };
        let Some(streaming) = slot.take_if(|streaming| streaming.receiving.is_ended()) else { return };
        let Streaming { receiving, pools, endpoint, keepalive, .. } = *streaming;
        if let Receiving::Http1(receiving) = receiving
            && let Some(connection) = receiving.into_connection()
        {
            pools.put(endpoint, connection, &keepalive);
        }
    }
}

impl Receiving {
    fn is_ended(&self) -> bool {
        match self {
            Self::Http1(receiving) => receiving.is_ended(),
            Self::Http2(receiving) => receiving.is_ended(),
        }
    }

    /// How much of the body is left, where that is known.
    fn left(&self) -> Option<u64> {
        match self {
            Self::Http1(receiving) => receiving.left(),
            Self::Http2(_) => None,
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        match self {
            Self::Http1(receiving) => receiving.poll_next(cx),
            Self::Http2(receiving) => receiving.poll_next(cx),
        }
    }

    fn take_trailers(&mut self) -> Option<HeaderMap> {
        match self {
            Self::Http1(receiving) => receiving.take_trailers(),
            Self::Http2(receiving) => receiving.take_trailers(),
        }
    }
}

type Next = Option<Result<Frame<Bytes>, Cut>>;

impl ResponseBody {
    /// The next of it as it is.
    fn poll_plain(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        let streaming = match &mut self.kind {
            Kind::Full(bytes) => return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Kind::Upstream(None) => return Poll::Ready(None),
            Kind::Upstream(Some(streaming)) => streaming,
        };
        let Poll::Ready(next) = streaming.receiving.poll_next(cx) else { return Poll::Pending };
        let trailers = if next.is_none() { streaming.receiving.take_trailers() } else { None };
        if let (Some(Err(e)), Some(account)) = (&next, &mut self.account) {
            warn!(reason = %e, "a response was cut off");
            account.upstream_failed(UpstreamError::CutBody);
        }
        self.release_if_ended();
        Poll::Ready(match trailers {
            Some(trailers) => Some(Ok(Frame::trailers(trailers))),
            None => next.map(|next| next.map(Frame::data)),
        })
    }

    /// The next of it, compressed. A client that waits for what comes slowly gets all that came.
    fn poll_compressed(&mut self, gzip: &mut Gzip, cx: &mut Context<'_>) -> Poll<Next> {
        let data = |bytes| Some(Ok(Frame::data(bytes)));
        while !gzip.is_finished {
            let frame = match self.poll_plain(cx) {
                Poll::Pending => {
                    return gzip.compressor.flush().map_or(Poll::Pending, |bytes| Poll::Ready(data(bytes)));
                }
                Poll::Ready(Some(Err(e))) => return Poll::Ready(Some(Err(e))),
                Poll::Ready(Some(Ok(frame))) => frame.into_data(),
                Poll::Ready(None) => Err(Frame::trailers(HeaderMap::new())),
            };
            let out = match frame {
                Ok(plain) => gzip.compressor.write(&plain),
                Err(last) => {
                    gzip.is_finished = true;
                    gzip.trailers = last.into_trailers().ok().filter(|trailers| !trailers.is_empty());
                    gzip.compressor.finish()
                }
            };
            if let Some(bytes) = out {
                return Poll::Ready(data(bytes));
            }
        }
        Poll::Ready(gzip.trailers.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Next> {
        if let Some(account) = &self.account {
            account.more_asked();
        }
        let next = match self.gzip.take() {
            None => self.poll_plain(cx),
            Some(mut gzip) => {
                let next = self.poll_compressed(&mut gzip, cx);
                self.gzip = Some(gzip);
                next
            }
        };
        if let (Poll::Ready(Some(Ok(frame))), Some(account)) = (&next, &self.account)
            && let Some(data) = frame.data_ref()
        {
            account.goes(data.len());
        }
        next
    }

    fn is_end_stream(&self) -> bool {
        match &self.gzip {
            Some(gzip) => gzip.is_finished && gzip.trailers.is_none(),
            None => matches!(self.kind, Kind::Full(None) | Kind::Upstream(None)),
        }
    }

    fn size_hint(&self) -> SizeHint {
        if self.gzip.is_some() {
            return SizeHint::default();
        }
        let exact = match &self.kind {
            Kind::Full(bytes) => Some(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Kind::Upstream(None) => Some(0),
            Kind::Upstream(Some(streaming)) => streaming.receiving.left(),
        };
        exact.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
