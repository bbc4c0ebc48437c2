//! The gRPC side: says hello, and hands the stream on.

use std::time::Duration;

use daemon::failpoint;
use mtls::Party;
use protocol::entry::SYSTEM_GROUP;
use protocol::grpc::feed_server::Feed as FeedRpc;
use protocol::grpc::{self, FeedDown, FeedUp, Hello, Refused, Welcome, feed_down, feed_up};
use protocol::snapshot::ClusterId;
use protocol::{Position, Text};
use raft_store::feed::Feed;
use raft_store::types::{NodeId, Raft};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::stream::Stream;
use super::{Fleet, FullStates};
use crate::net::OtherEnd;
use crate::raft::LeaderContact;
use crate::read::{NoQuorum, ReadIndex};

/// How long a proxy may take to say who it is.
const HELLO_MAX: Duration = Duration::from_secs(5);

/// How long a node without any change may take to learn that there is none.
const BEGUN_MAX: Duration = Duration::from_secs(2);

/// Messages that wait for a proxy to take them. Behind them its reader waits, and skips what is overtaken meanwhile.
const MESSAGES_WAITING_MAX: usize = 8;

/// Silence for so many heartbeats means that the stream is dead.
const SILENT_HEARTBEATS: u32 = 4;

/// Serves the feed to proxies.
#[derive(Clone)]
pub(crate) struct FeedService {
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    pub(crate) name: String,
    pub(crate) region: String,
    pub(crate) raft: Raft,
    pub(crate) reads: ReadIndex,
    pub(crate) contact: LeaderContact,
    pub(crate) feed: Feed,
    pub(crate) fleet: Fleet,
    pub(crate) full: FullStates,
    pub(crate) streams_max: usize,
    pub(crate) heartbeat: Duration,
    /// Becomes true when this node is stopping: streams end, and proxies go elsewhere.
    pub(crate) stopping: watch::Receiver<bool>,
}

#[tonic::async_trait]
impl FeedRpc for FeedService {
    type SubscribeStream = ReceiverStream<Result<FeedDown, Status>>;

    async fn subscribe(&self, request: Request<Streaming<FeedUp>>) -> Result<Response<Self::SubscribeStream>, Status> {
        let other = request.extensions().get::<OtherEnd>().cloned();
        let (down, stream) = mpsc::channel(MESSAGES_WAITING_MAX);
        // The answer's headers go out at once: a proxy sends its hello on an open stream.
        tokio::spawn(self.clone().serve(request.into_inner(), down, other));
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl FeedService {
    async fn serve(
        self,
        mut up: Streaming<FeedUp>,
        down: mpsc::Sender<Result<FeedDown, Status>>,
        other: Option<OtherEnd>,
    ) {
        let address = other.as_ref().map_or_else(String::new, |other| other.address.to_string());
        let party = other.and_then(|other| other.party);
        let hello = match tokio::time::timeout(HELLO_MAX, up.message()).await {
            Ok(Ok(Some(FeedUp { kind: Some(feed_up::Kind::Hello(hello)) }))) => hello,
            Ok(Ok(_)) => return refuse(&down, "the first message must be a hello").await,
            Ok(Err(_)) => return,
            Err(_) => return refuse(&down, "no hello came").await,
        };
        let (group, position, changed_at) = match self.check(&hello, party.as_deref()) {
            Ok(standing) => standing,
            Err(reason) => {
                tracing::warn!(dp = hello.name, address, reason, "a proxy was refused");
                return refuse(&down, &reason).await;
            }
        };
        if let Err(NoQuorum(reason)) = self.has_begun().await {
            return refuse(&down, &format!("this node has no configuration yet: {reason}")).await;
        }
        let Some(link) = self.fleet.connect(&hello, &address, self.streams_max) else {
            return refuse(&down, "this node serves as many proxies as it may").await;
        };
        let welcome = Welcome {
            cluster: self.cluster.to_string(),
            node_id: self.node,
            node_name: self.name.clone(),
            region: self.region.clone(),
            version: daemon::build::VERSION.to_owned(),
            silence_ms_max: u64::try_from((self.heartbeat * SILENT_HEARTBEATS).as_millis()).unwrap_or(u64::MAX),
        };
        let welcome = FeedDown { kind: Some(feed_down::Kind::Welcome(welcome)) };
        failpoint!("feed::before_welcome");
        if down.send(Ok(welcome)).await.is_err() {
            return;
        }
        tracing::info!(dp = hello.name, address, %position, region = hello.region, "a proxy has connected");
        let why =
            Stream { reader: self.feed.read(group.clone(), position, changed_at), group, down, link, service: &self }
                .run(up)
                .await;
        tracing::info!(dp = hello.name, address, reason = why, "a proxy has gone");
    }

    /// Who it is and where it stands; otherwise why it is refused.
    fn check(&self, hello: &Hello, party: Option<&Party>) -> Result<(Text, Position, Position), String> {
        if hello.name.is_empty() {
            return Err("a proxy needs a name".to_owned());
        }
        if let Some(party) = party.filter(|party| !party.is_called(&hello.name)) {
            return Err(format!("a proxy that calls itself {:?} has the certificate of {party}", hello.name));
        }
        if hello.group.is_empty() {
            return Err("a proxy needs a gateway group".to_owned());
        }
        if hello.group == SYSTEM_GROUP {
            return Err(format!("the gateway group {SYSTEM_GROUP} is the control plane's own"));
        }
        let ours = self.cluster.to_string();
        if !hello.cluster.is_empty() && hello.cluster != ours {
            return Err(format!(
                "this is cluster {ours}, the proxy holds the configuration of cluster {}",
                hello.cluster
            ));
        }
        let position = grpc::position(hello.position.clone(), "position").map_err(|e| e.to_string())?;
        let changed_at = grpc::position(hello.changed_at.clone(), "changed_at").map_err(|e| e.to_string())?;
        Ok((hello.group.as_str().into(), position, changed_at))
    }

    /// A node that has no change yet has just joined, or reads its log again: an empty state is no configuration to serve
    /// before the leader has said that it is all there is.
    async fn has_begun(&self) -> Result<(), NoQuorum> {
        match self.feed.position().revision {
            0 => self.reads.linearizable(Instant::now() + BEGUN_MAX).await,
            _ => Ok(()),
        }
    }

    /// How long ago this node last heard from its leader; on a leader, from a quorum.
    pub(super) fn leader_contact_age(&self) -> Duration {
        let (leader, quorum_age) = {
            let metrics = self.raft.metrics();
            let metrics = metrics.borrow();
            (metrics.current_leader, metrics.millis_since_quorum_ack)
        };
        match quorum_age {
            Some(age) if leader == Some(self.node) => Duration::from_millis(age),
            _ => self.contact.age(),
        }
    }
}

async fn refuse(down: &mpsc::Sender<Result<FeedDown, Status>>, reason: &str) {
    let refused = Refused { reason: reason.to_owned() };
    // A proxy that has gone already does not need to know.
    let _ = down.send(Ok(FeedDown { kind: Some(feed_down::Kind::Refused(refused)) })).await;
}
