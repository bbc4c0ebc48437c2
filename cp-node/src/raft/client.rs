//! What consensus says to other nodes.

use std::future::Future;
use std::io::Read;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use openraft::error::{Fatal, NetworkError, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable};
use openraft::network::{Backoff, RPCOption, RaftNetwork, RaftNetworkFactory};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use openraft::{AnyError, OptionalSend, StorageIOError};
use protocol::codec::{self, Record};
use protocol::grpc::{RaftMessage, Route, SnapshotPart};
use raft_store::log::{Durability, SafeCommit};
use raft_store::snapshots::SnapshotHandle;
use raft_store::types::{Member, NodeId, Snapshot, TypeConfig, Vote};
use raft_store::wire::{
    AppendRecord, AppendReplyRecord, SnapshotOfferRecord, SnapshotReplyRecord, VoteReplyRecord, VoteRequestRecord,
};
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;

use super::channels::{Channels, LinkClass};
use super::election::Silence;
use super::peering::Peering;
use super::reach::Reach;
use super::transfers::Transfers;

/// Between attempts to reach a node that does not answer.
const BACKOFF: Duration = Duration::from_millis(100);

/// How much of a snapshot goes into one message.
const SNAPSHOT_PART_BYTES: usize = 256 << 10;

/// A snapshot transfer that moves nothing for so long is given up. Installing at the other end counts too.
const SNAPSHOT_STALL_MAX: Duration = Duration::from_secs(60);

/// How long the other end may take to install a snapshot of which it has all.
const SNAPSHOT_INSTALL_MAX: Duration = Duration::from_secs(300);

/// Makes consensus' links to other nodes.
#[derive(Clone)]
pub(crate) struct Network {
    pub(crate) peering: Peering,
    pub(crate) channels: Channels,
    pub(crate) durability: Durability,
    pub(crate) transfers: Transfers,
    pub(crate) reach: Reach,
    pub(crate) silence: Silence,
}

/// A leader without a quorum sends nothing that would keep its followers from electing another one.
#[derive(Debug, thiserror::Error)]
#[error("no quorum answers this leader, it keeps silent")]
struct KeepsSilent;

/// A link to one node.
pub(crate) struct Link {
    network: Network,
    target: NodeId,
    member: Member,
    commit: SafeCommit,
}

type Rpc<T> = Result<T, RPCError<NodeId, Member, RaftError<NodeId>>>;

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: NodeId, member: &Member) -> Link {
        let commit = SafeCommit::new(self.durability.clone());
        Link { network: self.clone(), target, member: member.clone(), commit }
    }
}

impl Link {
    fn message(&self, record: &impl Record) -> Result<RaftMessage, NetworkError> {
        let record = codec::seal(record).map_err(|e| NetworkError::new(&e))?;
        Ok(RaftMessage { route: Some(self.route()), record: record.into() })
    }

    fn route(&self) -> Route {
        self.network.peering.route(self.target)
    }

    /// Trying again at once is of no use, whatever the reason: the node is down, or somebody else answers at its address.
    fn failed(&self, status: &Status) -> Unreachable {
        self.network.peering.refused(status);
        self.network.reach.failed(self.target, &self.member, status.message());
        Unreachable::new(status)
    }

    fn answered(&self) {
        self.network.reach.answered(self.target, &self.member);
    }
}

fn reply<T: Record, E: From<NetworkError>>(message: &RaftMessage) -> Result<T, E> {
    codec::open(&message.record).map_err(|e| NetworkError::new(&e).into())
}

impl RaftNetwork<TypeConfig> for Link {
    async fn append_entries(
        &mut self,
        mut rpc: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Rpc<AppendEntriesResponse<NodeId>> {
        if self.network.silence.is_kept() {
            return Err(Unreachable::new(&KeepsSilent).into());
        }
        let has_entries = !rpc.entries.is_empty();
        let capped = self.commit.cap(rpc.leader_commit, has_entries).await;
        rpc.leader_commit = capped.map_err(|e| NetworkError::new(&e))?;
        let message = self.message(&AppendRecord::from(&rpc))?;
        let mut client = self.network.channels.peer(&self.member.peer_address, LinkClass::Consensus);
        let answer = client.append(message).await.map_err(|status| self.failed(&status))?;
        self.answered();
        Ok(reply::<AppendReplyRecord, RPCError<_, _, _>>(answer.get_ref())?.into())
    }

    async fn vote(&mut self, rpc: VoteRequest<NodeId>, _: RPCOption) -> Rpc<VoteResponse<NodeId>> {
        let message = self.message(&VoteRequestRecord::from(&rpc))?;
        let mut client = self.network.channels.peer(&self.member.peer_address, LinkClass::Consensus);
        let answer = client.vote(message).await.map_err(|status| self.failed(&status))?;
        self.answered();
        Ok(reply::<VoteReplyRecord, RPCError<_, _, _>>(answer.get_ref())?.into())
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<NodeId>, StreamingError<TypeConfig, Fatal<NodeId>>> {
        let offer =
            SnapshotOfferRecord { vote: vote.into(), meta: (&snapshot.meta).into(), bytes: snapshot.snapshot.bytes() };
        let first = SnapshotPart {
            route: Some(self.route()),
            record: codec::seal(&offer).map_err(|e| NetworkError::new(&e))?.into(),
            bytes: Bytes::new(),
        };
        tracing::info!(
            target_id = self.target,
            bytes = offer.bytes,
            snapshot = snapshot.snapshot.name(),
            "sending a snapshot"
        );
        let _transfer = self.network.transfers.begin(snapshot.snapshot.last_index());
        // The parts are read in a task of their own: the answer comes only after the last of them was taken.
        let (parts, stream) = mpsc::channel(4);
        let reading = AbortOnDrop(tokio::spawn(send_parts(first, *snapshot.snapshot, parts)));
        let mut client = self.network.channels.peer(&self.member.peer_address, LinkClass::Bulk);
        let call = client.snapshot(ReceiverStream::new(stream));
        let mut call = std::pin::pin!(call);
        let mut cancel = std::pin::pin!(cancel);
        // The receiver may end the call before it has taken all, and then its answer says why.
        let read = tokio::select! {
            answer = &mut call => Err(answer),
            read = reading => Ok(read),
            closed = &mut cancel => return Err(closed.into()),
        };
        let answer = match read {
            Err(answer) => answer,
            Ok(Ok(Ok(()))) => tokio::select! {
                answer = &mut call => answer,
                closed = &mut cancel => return Err(closed.into()),
                () = tokio::time::sleep(SNAPSHOT_INSTALL_MAX) => {
                    return Err(Unreachable::new(&NotSent::Unanswered).into());
                }
            },
            // What the other node does is no fault of this one's disk, which would end this node.
            Ok(Ok(Err(NotSent::Read(e)))) => {
                let signature = snapshot.meta.signature();
                let error = StorageIOError::read_snapshot(Some(signature), AnyError::new(&e));
                return Err(StreamingError::StorageError(error.into()));
            }
            Ok(Ok(Err(e))) => return Err(Unreachable::new(&e).into()),
            Ok(Err(e)) => return Err(NetworkError::new(&e).into()),
        };
        let answer = answer.map_err(|status| self.failed(&status))?;
        Ok(reply::<SnapshotReplyRecord, StreamingError<_, _>>(answer.get_ref())?.into())
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(BACKOFF))
    }
}

/// Why a snapshot was not sent.
#[derive(Debug, thiserror::Error)]
enum NotSent {
    #[error("the receiver takes no more of the snapshot")]
    Stalled,
    #[error("the receiver has all of the snapshot and does not answer")]
    Unanswered,
    /// A newer one has taken its place: that is sent next.
    #[error("the snapshot is there no more")]
    Replaced,
    #[error("{0}")]
    Read(std::io::Error),
}

impl From<std::io::Error> for NotSent {
    fn from(e: std::io::Error) -> Self {
        if e.kind() == std::io::ErrorKind::NotFound { Self::Replaced } else { Self::Read(e) }
    }
}

/// A task that nobody needs once nobody waits for it.
struct AbortOnDrop<T>(JoinHandle<T>);

impl<T> Future for AbortOnDrop<T> {
    type Output = Result<T, JoinError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.0).poll(cx)
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sends a snapshot part by part, as fast as they are taken.
async fn send_parts(
    first: SnapshotPart,
    snapshot: SnapshotHandle,
    parts: mpsc::Sender<SnapshotPart>,
) -> Result<(), NotSent> {
    let mut input = daemon::blocking::spawn(move || snapshot.open()).await.map_err(std::io::Error::other)??;
    let mut next = Some(first);
    while let Some(part) = next.take() {
        match tokio::time::timeout(SNAPSHOT_STALL_MAX, parts.send(part)).await {
            Err(_) => return Err(NotSent::Stalled),
            // The call has ended; its answer says why.
            Ok(Err(_)) => return Ok(()),
            Ok(Ok(())) => {}
        }
        let (back, read) = daemon::blocking::spawn(move || {
            let mut buffer = vec![0; SNAPSHOT_PART_BYTES];
            let read = input.read(&mut buffer).map(|read| {
                buffer.truncate(read);
                buffer
            });
            (input, read)
        })
        .await
        .map_err(std::io::Error::other)?;
        input = back;
        let bytes = read?;
        if !bytes.is_empty() {
            next = Some(SnapshotPart { route: None, record: Bytes::new(), bytes: bytes.into() });
        }
    }
    Ok(())
}

/// Kept beside the client so that the two ends agree: how long the receiver waits for the next part.
pub(super) const PART_WAIT_MAX: Duration = SNAPSHOT_STALL_MAX;
