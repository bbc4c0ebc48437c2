//! What this node serves to proxies: one stream each, from leader, follower or learner alike.
//!
//! A stream is a reader of the feed with a bounded channel behind it. A proxy that does not take what it is sent holds up
//! its own stream and nothing else; when it takes again, it gets one step over everything that it missed.

pub(crate) mod capability;
mod fleet;
mod full;
mod service;
mod stream;

use fleet::Link;
pub(crate) use fleet::{DpStatus, Fleet, serves};
pub(crate) use full::FullStates;
pub(crate) use service::FeedService;

use bytes::Bytes;
use protocol::codec;
use protocol::grpc::{FeedDown, Payload, feed_down, payload};

/// How much of a payload goes into one message.
const PART_BYTES: usize = 256 << 10;

/// A larger payload is compressed. What is compressed already (a full state) is not compressed again.
const COMPRESS_OVER_BYTES: usize = 64 << 10;

/// Something encoded, cut into messages. A clone shares the bytes.
#[derive(Clone, Debug)]
struct Parts {
    kind: payload::Kind,
    bytes: Bytes,
    zstd: bool,
    raw_bytes: usize,
}

impl Parts {
    /// A payload that is sent as it is.
    fn plain(kind: payload::Kind, bytes: Bytes) -> Self {
        Self { kind, raw_bytes: bytes.len(), bytes, zstd: false }
    }

    /// A payload that is compressed when it is large.
    fn new(kind: payload::Kind, bytes: Bytes) -> Self {
        if bytes.len() <= COMPRESS_OVER_BYTES {
            return Self::plain(kind, bytes);
        }
        Self { kind, raw_bytes: bytes.len(), bytes: codec::compress(&bytes).into(), zstd: true }
    }

    fn messages(self) -> impl Iterator<Item = FeedDown> + Send {
        let total = self.bytes.len();
        let mut sent = 0;
        std::iter::from_fn(move || {
            if sent >= total {
                return None;
            }
            let end = (sent + PART_BYTES).min(total);
            let part = self.bytes.slice(sent..end);
            sent = end;
            Some(FeedDown {
                kind: Some(feed_down::Kind::Payload(Payload {
                    kind: self.kind.into(),
                    total_bytes: total as u64,
                    zstd: self.zstd,
                    raw_bytes: self.raw_bytes as u64,
                    part,
                    last: end == total,
                })),
            })
        })
    }
}
