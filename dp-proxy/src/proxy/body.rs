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
use super::error::UpstreamError;
use super::upstream::exchange::{self as http1, Cut};
use super::upstream::http2::exchange as http2;
use super::upstream::pool::Pools;
use crate::table::Ticket;

/// The body of an answer.
#[derive(Debug)]
pub(crate) struct ResponseBody {
    kind: Kind,
    /// Settled when this is dropped: at the end of the answer, or when it is given up.
    account: Option<Box<Account>>,
}

#[derive(Debug)]
enum Kind {
    Full(Option<Bytes>),
    Upstream(Option<Box<Streaming>>),
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
        Self { kind: Kind::Full((!bytes.is_empty()).then_some(bytes)), account: None }
    }

    pub(crate) fn streaming(streaming: Box<Streaming>) -> Self {
        let mut body = Self { kind: Kind::Upstream(Some(streaming)), account: None };
        // Without a body the connection is free at once.
        body.release_if_ended();
        body
    }

    /// Lets `account` be settled when the answer is over.
    pub(crate) fn with_account(mut self, account: Account) -> Self {
        self.account = Some(Box::new(account));
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

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let streaming = match &mut self.kind {
            Kind::Full(bytes) => {
                let bytes = bytes.take();
                if let (Some(bytes), Some(account)) = (&bytes, &self.account) {
                    account.goes(bytes.len());
                }
                return Poll::Ready(bytes.map(|bytes| Ok(Frame::data(bytes))));
            }
            Kind::Upstream(None) => return Poll::Ready(None),
            Kind::Upstream(Some(streaming)) => streaming,
        };
        let Poll::Ready(next) = streaming.receiving.poll_next(cx) else { return Poll::Pending };
        let trailers = if next.is_none() { streaming.receiving.take_trailers() } else { None };
        if let Some(account) = &mut self.account {
            match &next {
                Some(Ok(data)) => account.goes(data.len()),
                Some(Err(e)) => {
                    warn!(reason = %e, "a response was cut off");
                    account.upstream_failed(UpstreamError::CutBody);
                }
                None => {}
            }
        }
        self.release_if_ended();
        Poll::Ready(match trailers {
            Some(trailers) => Some(Ok(Frame::trailers(trailers))),
            None => next.map(|next| next.map(Frame::data)),
        })
    }

    fn is_end_stream(&self) -> bool {
        matches!(self.kind, Kind::Full(None) | Kind::Upstream(None))
    }

    fn size_hint(&self) -> SizeHint {
        let exact = match &self.kind {
            Kind::Full(bytes) => Some(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Kind::Upstream(None) => Some(0),
            Kind::Upstream(Some(streaming)) => streaming.receiving.left(),
        };
        exact.map_or_else(SizeHint::default, SizeHint::with_exact)
    }
}
