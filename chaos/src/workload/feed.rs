//! A client of one node's feed that keeps its state as a proxy does, resumes where it was, and notes every frame. It goes
//! to its node only: what another one would hide is seen here.

use std::cmp::Ordering as Order;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use protocol::delta::{Change, Delta};
use protocol::grpc::feed_client::FeedClient;
use protocol::grpc::payload::Kind;
use protocol::grpc::{self, Ack, FeedUp, Hello, Payload, feed_down, feed_up};
use protocol::snapshot::{self, ClusterId, Expected, Unsealed};
use protocol::state::{ConfigState, EvolveError};
use protocol::{Entry, Position, ResourceKey, codec};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;

use super::Shared;
use super::admin::{is_clients, value_of};
use crate::history::{At, Event, Found, Frame, FrameKind, Recorder};

/// A stream that says nothing for so long is left.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// The pause before another attempt.
const PAUSE: Duration = Duration::from_millis(100);
/// The largest payload that is taken.
const PAYLOAD_BYTES_MAX: usize = 64 << 20;
/// Acks that wait.
const UP_QUEUE: usize = 64;

pub(super) struct Reader {
    node: u16,
    address: String,
    recorder: Recorder,
    state: ConfigState,
    cluster: Option<ClusterId>,
}

impl Reader {
    pub(super) fn new(node: u16, address: &str, recorder: &Recorder) -> Self {
        let (address, recorder) = (address.to_owned(), recorder.clone());
        Self { node, address, recorder, state: ConfigState::following(), cluster: None }
    }

    pub(super) async fn run(mut self, stop: Arc<AtomicBool>, shared: Arc<Shared>) {
        while !stop.load(Ordering::Relaxed) {
            let Err(why) = self.follow(&stop, &shared).await else { return };
            self.note(FrameKind::Ended { why: format!("{why:#}") });
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn note(&self, kind: FrameKind) {
        self.recorder.note(Event::Frame(Frame { node: self.node, at: self.recorder.now(), kind }));
    }

    async fn follow(&mut self, stop: &AtomicBool, shared: &Shared) -> Result<()> {
        let (up, queue) = mpsc::channel(UP_QUEUE);
        up.send(self.hello()).await?;
        let target = Endpoint::from_shared(format!("http://{}", self.address))?.connect_timeout(SILENCE_MAX);
        let mut client = FeedClient::new(target.connect().await?).max_decoding_message_size(PAYLOAD_BYTES_MAX);
        let subscribe = client.subscribe(ReceiverStream::new(queue));
        let mut down = tokio::time::timeout(SILENCE_MAX, subscribe).await.context("no answer")??.into_inner();
        self.note(FrameKind::Opened { position: at(self.state.position()), changed_at: at(self.state.changed_at()) });
        let mut parts: Vec<u8> = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let message = tokio::time::timeout(SILENCE_MAX, down.message()).await.context("silence")??;
            match message.context("it ended the stream")?.kind {
                Some(feed_down::Kind::Welcome(welcome)) => {
                    let cluster: ClusterId = welcome.cluster.parse().ok().context("a cluster that is none")?;
                    ensure!(*self.cluster.get_or_insert(cluster) == cluster, "another cluster");
                }
                Some(feed_down::Kind::Behind(behind)) => {
                    bail!("it is behind at {}", at(grpc::position(behind.position, "behind")?));
                }
                Some(feed_down::Kind::Refused(refused)) => bail!("refused: {}", refused.reason),
                Some(feed_down::Kind::Heartbeat(beat)) => {
                    let position = grpc::position(beat.position, "heartbeat.position")?;
                    let changed_at = grpc::position(beat.changed_at, "heartbeat.changed_at")?;
                    let digest = grpc::digest(&beat.digest, "heartbeat.digest")?;
                    self.note(FrameKind::Heartbeat {
                        position: at(position),
                        changed_at: at(changed_at),
                        digest: digest.to_string(),
                    });
                    if position.compare(&self.state.position()) == Ok(Order::Greater) {
                        self.state.bookmark(position)?;
                    }
                }
                Some(feed_down::Kind::Payload(part)) => {
                    parts.extend_from_slice(&part.part);
                    if part.last {
                        let whole = std::mem::take(&mut parts);
                        self.take(&part, &whole, shared)?;
                        let (position, digest) = (self.state.position(), self.state.digest());
                        let digest = digest.0.to_vec().into();
                        let ack = Ack { position: Some(position.into()), digest, rejected: Vec::new(), volatile: true };
                        up.send(FeedUp { kind: Some(feed_up::Kind::Ack(ack)) }).await?;
                    }
                }
                None => {}
            }
        }
        Ok(())
    }

    fn hello(&self) -> FeedUp {
        let hello = Hello {
            cluster: self.cluster.map(|cluster| cluster.to_string()).unwrap_or_default(),
            name: format!("watcher-{}", self.node),
            instance: vec![u8::try_from(self.node).unwrap_or_default(); 16].into(),
            version: "chaos".to_owned(),
            group: "default".to_owned(),
            position: Some(self.state.position().into()),
            changed_at: Some(self.state.changed_at().into()),
            digest: self.state.digest().0.to_vec().into(),
            ..Hello::default()
        };
        FeedUp { kind: Some(feed_up::Kind::Hello(hello)) }
    }

    fn take(&mut self, part: &Payload, whole: &[u8], shared: &Shared) -> Result<()> {
        let size = usize::try_from(part.raw_bytes)?;
        let bytes = if part.zstd { codec::decompress(whole, size, PAYLOAD_BYTES_MAX)? } else { whole.to_vec() };
        match Kind::try_from(part.kind)? {
            Kind::Delta => {
                let delta: Delta = codec::open(&bytes)?;
                let mut next = self.state.clone();
                let evolved = next.evolve(&delta);
                // What does not fit is noted as it came: the checkers say what is wrong with it.
                let reached = if let Err(EvolveError::Gap { .. }) = evolved { delta.digest } else { next.digest() };
                self.note(FrameKind::Delta {
                    prev: at(delta.prev),
                    position: at(delta.position),
                    changes: delta.changes.iter().filter_map(seen).collect(),
                    digest: delta.digest.to_string(),
                    reached: reached.to_string(),
                });
                evolved?;
                self.state = next;
            }
            Kind::Full => {
                let expected = Expected { cluster: self.cluster, view: Some("default".into()) };
                let loaded = snapshot::read(&mut &bytes[..], ConfigState::following(), &expected, &Unsealed)?;
                shared.fulls.fetch_add(1, Ordering::Relaxed);
                self.state = loaded.state;
                let held = self.state.iter().filter_map(|(key, entry)| Some((name(key)?, found(entry)?)));
                self.note(FrameKind::Full {
                    position: at(self.state.position()),
                    changed_at: at(self.state.changed_at()),
                    state: held.collect(),
                    digest: self.state.digest().to_string(),
                });
            }
            Kind::Buckets | Kind::Unspecified => bail!("a payload that nobody asked for"),
        }
        Ok(())
    }
}

fn at(position: Position) -> At {
    At(position.epoch.number, position.revision)
}

fn name(key: &ResourceKey) -> Option<String> {
    let (kind, id) = (key.kind.as_str(), key.id.as_str());
    is_clients(kind, id).then(|| format!("{kind}/{id}"))
}

fn found(entry: &Entry) -> Option<Found> {
    let value = value_of(&serde_json::from_str(&entry.body).ok()?)?;
    Some(Found { value, modified: entry.modified.revision })
}

fn seen(change: &Change) -> Option<(String, Option<Found>)> {
    let name = name(&change.key)?;
    Some((name, change.entry.as_ref().and_then(|entry| found(entry))))
}
