//! A subscriber of a node's feed that keeps its state as a proxy does, resumes where it was, and takes nothing that does not
//! follow from what it holds. What comes is told to a watcher, good or not.

use std::cmp::Ordering as Order;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use protocol::delta::Delta;
use protocol::grpc::feed_client::FeedClient;
use protocol::grpc::payload::Kind;
use protocol::grpc::{self, Ack, FeedUp, Hello, Payload, feed_down, feed_up};
use protocol::snapshot::{self, ClusterId, Expected, Unsealed};
use protocol::state::{ConfigState, EvolveError};
use protocol::{Digest, Position, codec};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

/// The largest payload that is taken.
const PAYLOAD_BYTES_MAX: usize = 64 << 20;
/// Acks that wait.
const UP_QUEUE: usize = 64;

/// What is told of a stream, before it is judged.
pub trait Watcher {
    /// The stream was opened by a subscriber that holds this.
    fn opened(&mut self, _held: &ConfigState) {}
    /// A heartbeat came.
    fn heartbeat(&mut self, _position: Position, _changed_at: Position, _digest: Digest) {}
    /// A step came, and leads to `reached` where it fits; where it does not, that is what it says itself.
    fn delta(&mut self, _delta: &Delta, _reached: Digest) {}
    /// A full state came.
    fn full(&mut self, _state: &ConfigState) {}
    /// After anything that was taken: what is held now.
    fn moved(&mut self, _held: &ConfigState) {}
}

/// A subscriber.
#[derive(Debug)]
pub struct Subscriber {
    name: String,
    instance: [u8; 16],
    silence_max: Duration,
    state: ConfigState,
    cluster: Option<ClusterId>,
}

impl Subscriber {
    /// One that has nothing yet. It leaves a stream that says nothing for `silence_max`.
    #[must_use]
    pub fn new(name: String, number: u64, silence_max: Duration) -> Self {
        let instance = (u128::from(number) + 1).to_be_bytes();
        Self { name, instance, silence_max, state: ConfigState::following(), cluster: None }
    }

    /// Follows the node at this address until it is told to stop.
    ///
    /// # Errors
    /// Why the stream ended. It may be followed again, from where it was.
    pub async fn follow(&mut self, address: &str, stop: &AtomicBool, watcher: &mut impl Watcher) -> Result<()> {
        let (up, queue) = mpsc::channel(UP_QUEUE);
        up.send(self.hello()).await?;
        let target = Endpoint::from_shared(format!("http://{address}"))?.connect_timeout(self.silence_max);
        let mut client = FeedClient::new(target.connect().await?).max_decoding_message_size(PAYLOAD_BYTES_MAX);
        let subscribe = client.subscribe(ReceiverStream::new(queue));
        let mut down = tokio::time::timeout(self.silence_max, subscribe).await.context("no answer")??.into_inner();
        watcher.opened(&self.state);
        let mut parts: Vec<u8> = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let message = tokio::time::timeout(self.silence_max, down.message()).await.context("silence")??;
            match message.context("it ended the stream")?.kind {
                Some(feed_down::Kind::Welcome(welcome)) => {
                    let cluster: ClusterId = welcome.cluster.parse().ok().context("a cluster that is none")?;
                    ensure!(*self.cluster.get_or_insert(cluster) == cluster, "another cluster");
                }
                Some(feed_down::Kind::Behind(behind)) => {
                    bail!("it is behind at {}", grpc::position(behind.position, "behind")?);
                }
                Some(feed_down::Kind::Refused(refused)) => bail!("refused: {}", refused.reason),
                Some(feed_down::Kind::Heartbeat(beat)) => {
                    let position = grpc::position(beat.position, "heartbeat.position")?;
                    let changed_at = grpc::position(beat.changed_at, "heartbeat.changed_at")?;
                    watcher.heartbeat(position, changed_at, grpc::digest(&beat.digest, "heartbeat.digest")?);
                    if position.compare(&self.state.position()) == Ok(Order::Greater) {
                        self.state.bookmark(position)?;
                    }
                    watcher.moved(&self.state);
                }
                Some(feed_down::Kind::Payload(part)) => {
                    parts.extend_from_slice(&part.part);
                    if part.last {
                        let whole = std::mem::take(&mut parts);
                        self.take(&part, &whole, watcher)?;
                        watcher.moved(&self.state);
                        up.send(self.ack()).await?;
                    }
                }
                Some(feed_down::Kind::KeepAlive(_)) | None => {}
            }
        }
        Ok(())
    }

    fn hello(&self) -> FeedUp {
        let hello = Hello {
            cluster: self.cluster.map(|cluster| cluster.to_string()).unwrap_or_default(),
            name: self.name.clone(),
            instance: self.instance.to_vec().into(),
            version: "chaos".to_owned(),
            group: "default".to_owned(),
            position: Some(self.state.position().into()),
            changed_at: Some(self.state.changed_at().into()),
            digest: self.state.digest().0.to_vec().into(),
            ..Hello::default()
        };
        FeedUp { kind: Some(feed_up::Kind::Hello(hello)) }
    }

    fn ack(&self) -> FeedUp {
        let (position, digest) = (Some(self.state.position().into()), self.state.digest().0.to_vec().into());
        FeedUp { kind: Some(feed_up::Kind::Ack(Ack { position, digest, rejected: Vec::new(), volatile: true })) }
    }

    fn take(&mut self, part: &Payload, whole: &[u8], watcher: &mut impl Watcher) -> Result<()> {
        let size = usize::try_from(part.raw_bytes)?;
        let bytes = if part.zstd { codec::decompress(whole, size, PAYLOAD_BYTES_MAX)? } else { whole.to_vec() };
        match Kind::try_from(part.kind)? {
            Kind::Delta => {
                let delta: Delta = codec::open(&bytes)?;
                let mut next = self.state.clone();
                let evolved = next.evolve(&delta);
                let reached = if let Err(EvolveError::Gap { .. }) = evolved { delta.digest } else { next.digest() };
                watcher.delta(&delta, reached);
                evolved?;
                self.state = next;
            }
            Kind::Full => {
                let expected = Expected { cluster: self.cluster, view: Some("default".into()) };
                let loaded = snapshot::read(&mut &bytes[..], ConfigState::following(), &expected, &Unsealed)?;
                self.state = loaded.state;
                watcher.full(&self.state);
            }
            Kind::Buckets | Kind::Unspecified => bail!("a payload that nobody asked for"),
        }
        Ok(())
    }
}
