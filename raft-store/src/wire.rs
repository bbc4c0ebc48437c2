//! Raft's own records, on disk and between nodes.
//!
//! They are spelled out here rather than derived by the consensus library, so that their bytes stay what they are when
//! the library changes a struct.

use std::collections::{BTreeMap, BTreeSet};

use bincode::{Decode, Encode};
use openraft::EntryPayload;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse};
use protocol::codec::Record;
use protocol::command::LOG_ENTRY_BYTES_MAX;

use crate::types::{
    Entry, LogId, LogPayload, Member, Membership, NodeId, SnapshotMeta, StoredMembership, TypeConfig, Vote,
};

/// Who led when an entry was proposed, and its index.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct LogIdRecord {
    /// The leader's term.
    pub term: u64,
    /// The leader.
    pub leader: NodeId,
    /// The entry's index.
    pub index: u64,
}

/// What a node has promised or won.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct VoteRecord {
    /// The term.
    pub term: u64,
    /// The candidate or leader.
    pub node: NodeId,
    /// Whether it won.
    pub committed: bool,
}

/// A log entry.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct EntryRecord {
    /// Its id.
    pub id: LogIdRecord,
    /// What it carries.
    pub payload: PayloadRecord,
}

/// What a log entry carries.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum PayloadRecord {
    /// Nothing: a new leader's first entry.
    Blank,
    /// A record `btch`.
    Commands(std::sync::Arc<[u8]>),
    /// Who votes and who learns.
    Membership(MembershipRecord),
}

/// Who votes (two sets while the membership changes) and who the nodes are.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct MembershipRecord {
    /// One set of voters, or two while changing from the first to the second.
    pub voters: Vec<Vec<NodeId>>,
    /// All nodes, learners too.
    pub nodes: Vec<(NodeId, Member)>,
}

/// What Raft knows of a snapshot: stands in the snapshot's section `RAFT` and goes ahead of it to other nodes.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct SnapshotMetaRecord {
    /// The last entry in it.
    pub last: Option<LogIdRecord>,
    /// The entry of the membership in it.
    pub membership_id: Option<LogIdRecord>,
    /// The membership in it.
    pub membership: MembershipRecord,
    /// Its name.
    pub name: String,
}

/// Entries to append, or a heartbeat without any.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct AppendRecord {
    vote: VoteRecord,
    prev: Option<LogIdRecord>,
    leader_commit: Option<LogIdRecord>,
    entries: Vec<EntryRecord>,
}

/// The answer to [`AppendRecord`].
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum AppendReplyRecord {
    /// All entries are on the follower's disk.
    Success,
    /// Those up to here are.
    Partial(Option<LogIdRecord>),
    /// The entry before them differs.
    Conflict,
    /// Somebody else leads or stands for election.
    HigherVote(VoteRecord),
}

/// A candidate asks for a vote.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct VoteRequestRecord {
    vote: VoteRecord,
    last: Option<LogIdRecord>,
}

/// The answer to [`VoteRequestRecord`].
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct VoteReplyRecord {
    vote: VoteRecord,
    granted: bool,
    last: Option<LogIdRecord>,
}

/// What goes ahead of a snapshot.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct SnapshotOfferRecord {
    /// The leader.
    pub vote: VoteRecord,
    /// The snapshot.
    pub meta: SnapshotMetaRecord,
    /// Its size in bytes.
    pub bytes: u64,
}

/// The answer to a snapshot: who leads as far as the receiver knows.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct SnapshotReplyRecord {
    vote: VoteRecord,
}

/// The most bytes of entries in one [`AppendRecord`]. A call must be answered within a heartbeat; at 20 Mbit/s so much
/// takes 26 ms. A single larger entry goes alone.
pub const APPEND_BYTES_MAX: usize = 64 << 10;

impl Record for EntryRecord {
    const TAG: [u8; 4] = *b"rent";
    const VERSION: u16 = 1;
    const PAYLOAD_BYTES_MAX: usize = LOG_ENTRY_BYTES_MAX + 4096;
}

impl Record for VoteRecord {
    const TAG: [u8; 4] = *b"vote";
    const VERSION: u16 = 1;
    const PAYLOAD_BYTES_MAX: usize = 256;
}

impl Record for LogIdRecord {
    const TAG: [u8; 4] = *b"lgid";
    const VERSION: u16 = 1;
    const PAYLOAD_BYTES_MAX: usize = 256;
}

impl Record for SnapshotMetaRecord {
    const TAG: [u8; 4] = *b"smet";
    const VERSION: u16 = 1;
    const PAYLOAD_BYTES_MAX: usize = 1 << 20;
}

impl Record for AppendRecord {
    const TAG: [u8; 4] = *b"apnd";
    const VERSION: u16 = 1;
    const PAYLOAD_BYTES_MAX: usize = APPEND_BYTES_MAX + LOG_ENTRY_BYTES_MAX + 4096;
}

impl Record for AppendReplyRecord {
    const TAG: [u8; 4] = *b"aprp";
    const VERSION: u16 = 1;
    const PAYLOAD_BYTES_MAX: usize = 256;
}

impl Record for VoteRequestRecord {
    const TAG: [u8; 4] = *b"vreq";
    const VERSION: u16 = 1;
    const PAYLOAD_BYTES_MAX: usize = 256;
}

impl Record for VoteReplyRecord {
    const TAG: [u8; 4] = *b"vrep";
    const VERSION: u16 = 1;
    const PAYLOAD_BYTES_MAX: usize = 256;
}

impl Record for SnapshotOfferRecord {
    const TAG: [u8; 4] = *b"soff";
    const VERSION: u16 = 1;
    const PAYLOAD_BYTES_MAX: usize = 1 << 20;
}

impl Record for SnapshotReplyRecord {
    const TAG: [u8; 4] = *b"srep";
    const VERSION: u16 = 1;
    const PAYLOAD_BYTES_MAX: usize = 256;
}

impl From<LogId> for LogIdRecord {
    fn from(id: LogId) -> Self {
        Self { term: id.leader_id.term, leader: id.leader_id.node_id, index: id.index }
    }
}

impl From<LogIdRecord> for LogId {
    fn from(id: LogIdRecord) -> Self {
        Self::new(openraft::CommittedLeaderId::new(id.term, id.leader), id.index)
    }
}

impl From<Vote> for VoteRecord {
    fn from(vote: Vote) -> Self {
        Self { term: vote.leader_id.term, node: vote.leader_id.node_id, committed: vote.committed }
    }
}

impl From<VoteRecord> for Vote {
    fn from(vote: VoteRecord) -> Self {
        if vote.committed { Self::new_committed(vote.term, vote.node) } else { Self::new(vote.term, vote.node) }
    }
}

impl From<&Membership> for MembershipRecord {
    fn from(membership: &Membership) -> Self {
        Self {
            voters: membership.get_joint_config().iter().map(|set| set.iter().copied().collect()).collect(),
            nodes: membership.nodes().map(|(id, member)| (*id, member.clone())).collect(),
        }
    }
}

impl From<MembershipRecord> for Membership {
    fn from(record: MembershipRecord) -> Self {
        let voters: Vec<BTreeSet<NodeId>> = record.voters.into_iter().map(BTreeSet::from_iter).collect();
        let nodes: BTreeMap<NodeId, Member> = record.nodes.into_iter().collect();
        Self::new(voters, nodes)
    }
}

impl From<&Entry> for EntryRecord {
    fn from(entry: &Entry) -> Self {
        let payload = match &entry.payload {
            EntryPayload::Blank => PayloadRecord::Blank,
            EntryPayload::Normal(LogPayload(bytes)) => PayloadRecord::Commands(bytes.clone()),
            EntryPayload::Membership(membership) => PayloadRecord::Membership(membership.into()),
        };
        Self { id: entry.log_id.into(), payload }
    }
}

impl From<EntryRecord> for Entry {
    fn from(record: EntryRecord) -> Self {
        let payload = match record.payload {
            PayloadRecord::Blank => EntryPayload::Blank,
            PayloadRecord::Commands(bytes) => EntryPayload::Normal(LogPayload(bytes)),
            PayloadRecord::Membership(membership) => EntryPayload::Membership(membership.into()),
        };
        Self { log_id: record.id.into(), payload }
    }
}

impl From<&SnapshotMeta> for SnapshotMetaRecord {
    fn from(meta: &SnapshotMeta) -> Self {
        Self {
            last: meta.last_log_id.map(Into::into),
            membership_id: meta.last_membership.log_id().map(Into::into),
            membership: meta.last_membership.membership().into(),
            name: meta.snapshot_id.clone(),
        }
    }
}

impl From<SnapshotMetaRecord> for SnapshotMeta {
    fn from(record: SnapshotMetaRecord) -> Self {
        Self {
            last_log_id: record.last.map(Into::into),
            last_membership: StoredMembership::new(record.membership_id.map(Into::into), record.membership.into()),
            snapshot_id: record.name,
        }
    }
}

impl From<&AppendEntriesRequest<TypeConfig>> for AppendRecord {
    fn from(request: &AppendEntriesRequest<TypeConfig>) -> Self {
        Self {
            vote: request.vote.into(),
            prev: request.prev_log_id.map(Into::into),
            leader_commit: request.leader_commit.map(Into::into),
            entries: request.entries.iter().map(Into::into).collect(),
        }
    }
}

impl From<AppendRecord> for AppendEntriesRequest<TypeConfig> {
    fn from(record: AppendRecord) -> Self {
        Self {
            vote: record.vote.into(),
            prev_log_id: record.prev.map(Into::into),
            leader_commit: record.leader_commit.map(Into::into),
            entries: record.entries.into_iter().map(Into::into).collect(),
        }
    }
}

impl From<AppendEntriesResponse<NodeId>> for AppendReplyRecord {
    fn from(reply: AppendEntriesResponse<NodeId>) -> Self {
        match reply {
            AppendEntriesResponse::Success => Self::Success,
            AppendEntriesResponse::PartialSuccess(upto) => Self::Partial(upto.map(Into::into)),
            AppendEntriesResponse::Conflict => Self::Conflict,
            AppendEntriesResponse::HigherVote(vote) => Self::HigherVote(vote.into()),
        }
    }
}

impl From<AppendReplyRecord> for AppendEntriesResponse<NodeId> {
    fn from(record: AppendReplyRecord) -> Self {
        match record {
            AppendReplyRecord::Success => Self::Success,
            AppendReplyRecord::Partial(upto) => Self::PartialSuccess(upto.map(Into::into)),
            AppendReplyRecord::Conflict => Self::Conflict,
            AppendReplyRecord::HigherVote(vote) => Self::HigherVote(vote.into()),
        }
    }
}

impl From<&VoteRequest<NodeId>> for VoteRequestRecord {
    fn from(request: &VoteRequest<NodeId>) -> Self {
        Self { vote: request.vote.into(), last: request.last_log_id.map(Into::into) }
    }
}

impl From<VoteRequestRecord> for VoteRequest<NodeId> {
    fn from(record: VoteRequestRecord) -> Self {
        Self { vote: record.vote.into(), last_log_id: record.last.map(Into::into) }
    }
}

impl From<&VoteResponse<NodeId>> for VoteReplyRecord {
    fn from(reply: &VoteResponse<NodeId>) -> Self {
        Self { vote: reply.vote.into(), granted: reply.vote_granted, last: reply.last_log_id.map(Into::into) }
    }
}

impl From<VoteReplyRecord> for VoteResponse<NodeId> {
    fn from(record: VoteReplyRecord) -> Self {
        Self { vote: record.vote.into(), vote_granted: record.granted, last_log_id: record.last.map(Into::into) }
    }
}

impl From<&SnapshotResponse<NodeId>> for SnapshotReplyRecord {
    fn from(reply: &SnapshotResponse<NodeId>) -> Self {
        Self { vote: reply.vote.into() }
    }
}

impl From<SnapshotReplyRecord> for SnapshotResponse<NodeId> {
    fn from(record: SnapshotReplyRecord) -> Self {
        Self { vote: record.vote.into() }
    }
}
