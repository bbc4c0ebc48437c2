//! What other nodes ask of this one.

use std::io::{self, Read};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes};
use daemon::blocking;
use protocol::codec::{self, Record};
use protocol::command::Command;
use protocol::grpc::peer_server::Peer;
use protocol::grpc::{
    self, ChangeMembersReply, ChangeMembersRequest, DescribeReply, DescribeRequest, FleetReply, FleetRequest,
    JoinReply, JoinRequest, NotProposed, PreVoteReply, ProposeReply, ProposeRequest, ProposeResult, RaftMessage,
    ReadIndexReply, ReadIndexRequest, SnapshotPart, TakeOverReply, TakeOverRequest, propose_result, read_index_reply,
};
use raft_store::receive_snapshot;
use raft_store::snapshots::SnapshotStore;
use raft_store::types::{Raft, Snapshot, SnapshotMeta};
use raft_store::wire::{
    AppendRecord, AppendReplyRecord, SnapshotOfferRecord, SnapshotReplyRecord, VoteReplyRecord, VoteRequestRecord,
};
use tokio::sync::mpsc;
use tonic::{Request, Response, Status, Streaming};

use super::client::PART_WAIT_MAX;
use super::contact::LeaderContact;
use super::election::Elections;
use super::peering::Peering;
use crate::members::Members;
use crate::net::OtherEnd;
use crate::propose::{Batcher, Undecided};
use crate::read;
use crate::status::Describe;

/// The longest that a question about the fleet is held back.
const FLEET_WAIT_MAX: Duration = Duration::from_secs(2);

/// Parts of one snapshot that are held at once where nothing may block: a simulation's snapshots are small.
const PARTS_INLINE_MAX: usize = 4096;

/// The peer service of a node.
pub(crate) struct PeerService {
    pub(crate) peering: Peering,
    pub(crate) raft: Raft,
    pub(crate) contact: LeaderContact,
    pub(crate) elections: Elections,
    pub(crate) snapshots: Arc<dyn SnapshotStore>,
    pub(crate) batcher: Batcher,
    pub(crate) members: Members,
    pub(crate) describe: Describe,
}

impl PeerService {
    fn record<T: Record>(&self, message: &RaftMessage) -> Result<T, Status> {
        self.peering.check(message.route.as_ref())?;
        codec::open(&message.record).map_err(|e| Status::invalid_argument(e.to_string()))
    }

    fn message(&self, record: &impl Record) -> Result<Response<RaftMessage>, Status> {
        let record = codec::seal(record).map_err(|e| Status::internal(e.to_string()))?;
        Ok(Response::new(RaftMessage { route: Some(self.peering.route(0)), record: record.into() }))
    }

    async fn receive(&self, mut parts: Streaming<SnapshotPart>) -> Result<SnapshotReplyRecord, Status> {
        let first = parts.message().await?.ok_or_else(|| Status::invalid_argument("a snapshot without parts"))?;
        self.peering.check(first.route.as_ref())?;
        let offer: SnapshotOfferRecord =
            codec::open(&first.record).map_err(|e| Status::invalid_argument(e.to_string()))?;
        let meta = SnapshotMeta::from(offer.meta);
        // Parts go to a thread that may block; the channel between bounds what is in memory.
        let (bytes, received) = mpsc::channel(if blocking::is_inline() { PARTS_INLINE_MAX } else { 4 });
        let (cluster, store, checked) = (self.peering.cluster, self.snapshots.clone(), meta.clone());
        let store = move || {
            let mut input = Received { parts: received, current: Bytes::new() };
            receive_snapshot(&mut input, cluster, &checked, &*store)
        };
        // Without a thread that may block it cannot wait for parts: there it begins when all are here.
        let (mut storing, mut later) = (None, Some(store));
        if !blocking::is_inline() {
            storing = later.take().map(blocking::spawn);
        }
        loop {
            let part = tokio::time::timeout(PART_WAIT_MAX, parts.message())
                .await
                .map_err(|_| Status::deadline_exceeded("the sender sends no more of the snapshot"))??;
            let Some(part) = part else { break };
            self.contact.heard();
            if bytes.send(part.bytes).await.is_err() {
                break; // The snapshot was refused; the reason comes below.
            }
        }
        drop(bytes);
        let storing = storing.or_else(|| later.map(blocking::spawn)).expect("it began before, or begins now");
        let handle = storing
            .await
            .map_err(|e| Status::internal(e.to_string()))?
            .map_err(|e| Status::data_loss(format!("the snapshot is refused: {e}")))?;
        let snapshot = Snapshot { meta, snapshot: Box::new(handle) };
        let reply = self.raft.install_full_snapshot(offer.vote.into(), snapshot).await;
        reply.map(|reply| (&reply).into()).map_err(|e| Status::unavailable(e.to_string()))
    }
}

#[tonic::async_trait]
impl Peer for PeerService {
    async fn append(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let record: AppendRecord = self.record(request.get_ref())?;
        let reply = self.raft.append_entries(record.into()).await.map_err(|e| Status::unavailable(e.to_string()))?;
        let reply = AppendReplyRecord::from(reply);
        if !matches!(reply, AppendReplyRecord::HigherVote(_)) {
            self.contact.heard();
        }
        self.message(&reply)
    }

    async fn vote(&self, request: Request<RaftMessage>) -> Result<Response<RaftMessage>, Status> {
        let record: VoteRequestRecord = self.record(request.get_ref())?;
        let reply = self.raft.vote(record.into()).await.map_err(|e| Status::unavailable(e.to_string()))?;
        self.message(&VoteReplyRecord::from(&reply))
    }

    async fn pre_vote(&self, request: Request<RaftMessage>) -> Result<Response<PreVoteReply>, Status> {
        let record: VoteRequestRecord = self.record(request.get_ref())?;
        let reply = self.elections.answer(record).await.map_err(|e| Status::unavailable(e.to_string()))?;
        Ok(Response::new(reply))
    }

    async fn snapshot(&self, request: Request<Streaming<SnapshotPart>>) -> Result<Response<RaftMessage>, Status> {
        let reply = self.receive(request.into_inner()).await?;
        self.message(&reply)
    }

    async fn propose(&self, request: Request<ProposeRequest>) -> Result<Response<ProposeReply>, Status> {
        let request = request.into_inner();
        self.peering.check(request.route.as_ref())?;
        let mut answers = Vec::with_capacity(request.commands.len());
        for frame in &request.commands {
            let command: Command = codec::open(frame).map_err(|e| Status::invalid_argument(e.to_string()))?;
            answers.push(self.batcher.submit(command));
        }
        let mut results = Vec::with_capacity(answers.len());
        for answer in answers {
            let kind = match answer.await {
                Ok(outcome) => {
                    let frame = codec::seal(&outcome).map_err(|e| Status::internal(e.to_string()))?;
                    propose_result::Kind::Outcome(frame.into())
                }
                Err(Undecided::NotProposed { reason, leader }) => {
                    propose_result::Kind::NotProposed(NotProposed { reason, leader: leader.unwrap_or(0) })
                }
                Err(Undecided::Unknown(reason)) => propose_result::Kind::Unknown(reason),
            };
            results.push(ProposeResult { kind: Some(kind) });
        }
        Ok(Response::new(ProposeReply { results }))
    }

    async fn read_index(&self, request: Request<ReadIndexRequest>) -> Result<Response<ReadIndexReply>, Status> {
        self.peering.check(request.get_ref().route.as_ref())?;
        let kind = match read::leader_index(&self.raft).await {
            Ok(index) => read_index_reply::Kind::LogIndex(index),
            Err(not_leader) => read_index_reply::Kind::NotLeader(NotProposed {
                reason: not_leader.reason,
                leader: not_leader.leader.unwrap_or(0),
            }),
        };
        Ok(Response::new(ReadIndexReply { kind: Some(kind) }))
    }

    async fn describe(&self, request: Request<DescribeRequest>) -> Result<Response<DescribeReply>, Status> {
        self.peering.check(request.get_ref().route.as_ref())?;
        Ok(Response::new(self.describe.reply()))
    }

    async fn join(&self, request: Request<JoinRequest>) -> Result<Response<JoinReply>, Status> {
        let party = request.extensions().get::<OtherEnd>().and_then(|other| other.party.clone());
        let request = request.into_inner();
        if let Some(party) = party.filter(|party| !party.is_called(&request.name)) {
            let reason = format!("a node that calls itself {:?} has the certificate of {party}", request.name);
            return Err(Status::permission_denied(reason));
        }
        self.members.join(request).await.map(Response::new)
    }

    async fn change_members(
        &self,
        request: Request<ChangeMembersRequest>,
    ) -> Result<Response<ChangeMembersReply>, Status> {
        let request = request.into_inner();
        self.peering.check(request.route.as_ref())?;
        self.members.change(request).await.map(|()| Response::new(ChangeMembersReply {}))
    }

    async fn take_over(&self, request: Request<TakeOverRequest>) -> Result<Response<TakeOverReply>, Status> {
        self.peering.check(request.get_ref().route.as_ref())?;
        self.raft.trigger().elect().await.map_err(|e| Status::unavailable(e.to_string()))?;
        Ok(Response::new(TakeOverReply {}))
    }

    async fn fleet(&self, request: Request<FleetRequest>) -> Result<Response<FleetReply>, Status> {
        let request = request.into_inner();
        self.peering.check(request.route.as_ref())?;
        let serving =
            grpc::position(request.serving, "serving").map_err(|e| Status::invalid_argument(e.to_string()))?;
        let wait = Duration::from_millis(request.wait_ms).min(FLEET_WAIT_MAX);
        Ok(Response::new(self.describe.fleet.look(self.peering.node, serving, request.seen, wait).await))
    }
}

/// The received parts as one stream of bytes, for a thread that may block.
struct Received {
    parts: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl Read for Received {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            // Without a thread that may block, all parts are here already.
            let next = if blocking::is_inline() { self.parts.try_recv().ok() } else { self.parts.blocking_recv() };
            match next {
                Some(part) => self.current = part,
                None => return Ok(0),
            }
        }
        let count = self.current.len().min(buffer.len());
        self.current.split_to(count).copy_to_slice(&mut buffer[..count]);
        Ok(count)
    }
}
