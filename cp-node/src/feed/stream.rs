//! One proxy's stream.

use std::time::Duration;

use daemon::{failpoint, planted};
use protocol::Text;
use protocol::codec;
use protocol::grpc::{self, Behind, FeedDown, FeedUp, Heartbeat, KeepAlive, Mend, feed_down, feed_up, payload};
use raft_store::feed::{Item, Reader};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};
use tonic::{Status, Streaming};

use super::service::FeedService;
use super::{Link, Parts};

/// How long a proxy may leave a message lying: it would have left a node long ago that is silent for so long.
const STALL_MAX: Duration = Duration::from_secs(30);

/// How many heartbeats a proxy waits, that is ahead, for this node to come up with it. A node that has just started knows
/// of its last entries whether they count only once there is a leader; turned away, all of its proxies would come again at
/// once, and again, while it is about to elect one. Below the silence after which they leave by themselves.
const AHEAD_HEARTBEATS: u32 = 3;

/// A proxy that is connected.
pub(super) struct Stream<'s> {
    pub(super) reader: Reader,
    pub(super) group: Text,
    pub(super) down: mpsc::Sender<Result<FeedDown, Status>>,
    pub(super) link: Link,
    pub(super) service: &'s FeedService,
}

impl Stream<'_> {
    /// Serves it until one side has enough; says why it ended.
    pub(super) async fn run(mut self, mut up: Streaming<FeedUp>) -> String {
        let mut stopping = self.service.stopping.clone();
        let stopped = async move { drop(stopping.wait_for(|stopping| *stopping).await) };
        let mut stopped = std::pin::pin!(stopped);
        tokio::select! {
            () = self.service.feed.reached(self.reader.position()) => {}
            () = tokio::time::sleep(self.service.heartbeat * AHEAD_HEARTBEATS) => {}
            () = self.down.closed() => return End::gone().0,
            () = &mut stopped => return STOPPING.to_owned(),
        }
        // From now on: the reader's first item comes at once, and a heartbeat before it would tell a proxy that is still
        // ahead that everything up to its position was sent.
        let mut heartbeat = tokio::time::interval_at(Instant::now() + self.service.heartbeat, self.service.heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let sent = tokio::select! {
                item = self.reader.next() => match item {
                    Some(item) => self.send_item(item).await,
                    None => return STOPPING.to_owned(),
                },
                message = up.message() => match message {
                    Ok(Some(message)) => self.take(message).await,
                    Ok(None) => return "it has hung up".to_owned(),
                    Err(status) => return format!("its connection is lost: {}", status.message()),
                },
                _ = heartbeat.tick() => self.send_heartbeat().await,
                () = &mut stopped => return STOPPING.to_owned(),
            };
            if let Err(End(why)) = sent {
                return why;
            }
        }
    }

    async fn send_item(&mut self, item: Item) -> Result<(), End> {
        match item {
            Item::Step(step) => {
                let frame = bytes::Bytes::from_owner(step.frame.clone());
                failpoint!("feed::before_send");
                let sent = self.send_parts(Parts::new(payload::Kind::Delta, frame)).await;
                failpoint!("feed::after_send");
                sent
            }
            Item::Bookmark { .. } => self.send_heartbeat().await,
            Item::Full(config) => {
                let FeedService { full, heartbeat, .. } = self.service;
                let encoding = async {
                    let turn = full.turn().await;
                    (turn, full.encode(&self.group, *config).await)
                };
                let (_turn, parts) = alive_while(&self.down, *heartbeat, encoding).await?;
                self.send_parts(parts.map_err(|e| End(format!("its state could not be encoded: {e}")))?).await
            }
            Item::Behind { position } => {
                let behind = Behind { position: Some(position.into()) };
                self.send(feed_down::Kind::Behind(behind)).await?;
                Err(End("it is ahead of this node".to_owned()))
            }
        }
    }

    async fn take(&mut self, message: FeedUp) -> Result<(), End> {
        match message.kind {
            Some(feed_up::Kind::Ack(ack)) => {
                failpoint!("feed::before_ack");
                self.link.acked(ack);
                Ok(())
            }
            Some(feed_up::Kind::Mend(mend)) => self.mend(&mend).await,
            Some(feed_up::Kind::Hello(_)) => Err(End("it said hello twice".to_owned())),
            // A message of a newer version; what it asks for is not known here.
            None => Ok(()),
        }
    }

    /// Its digest is not what it should be: it gets the buckets that differ.
    async fn mend(&mut self, mend: &Mend) -> Result<(), End> {
        let theirs = grpc::buckets_from_bytes(&mend.buckets).map_err(|e| End(e.to_string()))?;
        let config = self.reader.config();
        let group = self.group.clone();
        let gathering = daemon::blocking::spawn(move || {
            let contents = config.bucket_contents(&group, &theirs);
            codec::seal(&contents).map(|frame| (contents, frame))
        });
        let gathered = gathering.await.map_err(|e| End(e.to_string()))?;
        let (contents, frame) = gathered.map_err(|e| End(e.to_string()))?;
        let (position, changed_at, digest) = (contents.position, contents.changed_at, contents.digest);
        tracing::warn!(buckets = contents.buckets.len(), %position, "a proxy's digest differs, it is mended");
        self.reader.stands_at(position, changed_at, digest);
        self.send_parts(Parts::new(payload::Kind::Buckets, frame.into())).await
    }

    async fn send_heartbeat(&mut self) -> Result<(), End> {
        let position = match planted!("bookmark-runs-ahead") {
            true => self.reader.position().next(),
            false => self.reader.position(),
        };
        let heartbeat = Heartbeat {
            position: Some(position.into()),
            changed_at: Some(self.reader.changed_at().into()),
            digest: self.reader.digest().0.to_vec().into(),
            leader_contact_age_ms: u64::try_from(self.service.leader_contact_age().as_millis()).unwrap_or(u64::MAX),
        };
        self.send(feed_down::Kind::Heartbeat(heartbeat)).await
    }

    async fn send_parts(&mut self, parts: Parts) -> Result<(), End> {
        for message in parts.messages() {
            self.put(message).await?;
        }
        Ok(())
    }

    async fn send(&mut self, kind: feed_down::Kind) -> Result<(), End> {
        self.put(FeedDown { kind: Some(kind) }).await
    }

    /// Whoever takes nothing is let go: others wait for its turn.
    async fn put(&mut self, message: FeedDown) -> Result<(), End> {
        match tokio::time::timeout(STALL_MAX, self.down.send(Ok(message))).await {
            Ok(sent) => sent.map_err(|_| End::gone()),
            Err(_) => Err(End(format!("it has taken nothing for {STALL_MAX:?}"))),
        }
    }
}

/// Does something that takes its time, and lets the proxy know meanwhile that this node is there. A heartbeat would say that
/// everything was sent.
async fn alive_while<T>(
    down: &mpsc::Sender<Result<FeedDown, Status>>,
    every: Duration,
    work: impl Future<Output = T>,
) -> Result<T, End> {
    let mut work = std::pin::pin!(work);
    loop {
        tokio::select! {
            done = &mut work => return Ok(done),
            () = down.closed() => return Err(End::gone()),
            () = tokio::time::sleep(every) => {
                // Where messages wait for the proxy already, it is no silence.
                let _ = down.try_send(Ok(FeedDown { kind: Some(feed_down::Kind::KeepAlive(KeepAlive {})) }));
            }
        }
    }
}

/// Why streams end at last.
const STOPPING: &str = "this node is stopping";

/// The stream is over, and why.
struct End(String);

impl End {
    fn gone() -> Self {
        Self("it has hung up".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_proxy_that_waits_hears_that_the_node_is_there_and_one_that_has_gone_is_let_go() {
        let second = Duration::from_secs(1);
        let (down, mut heard) = mpsc::channel(8);
        let waited = alive_while(&down, second, async {
            tokio::time::sleep(second * 3 + second / 2).await;
            7
        });
        assert_eq!(waited.await.ok(), Some(7));
        for _ in 0..3 {
            let message = heard.try_recv().unwrap().unwrap();
            assert!(matches!(message.kind, Some(feed_down::Kind::KeepAlive(_))), "{message:?}");
        }
        assert!(heard.try_recv().is_err(), "and nothing else");
        drop(heard);
        assert!(alive_while(&down, second, std::future::pending::<()>()).await.is_err());
    }
}
