//! The types that consensus is declared over.

use std::fmt;
use std::sync::Arc;

use bincode::{Decode, Encode};
use protocol::{Outcome, Text};

use crate::snapshots::SnapshotHandle;

/// A node's id: given by the log, never given twice.
pub type NodeId = u64;

openraft::declare_raft_types!(
    /// Consensus as Holdfast uses it.
    pub TypeConfig:
        D = LogPayload,
        R = Outcomes,
        NodeId = NodeId,
        Node = Member,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = SnapshotHandle,
        AsyncRuntime = crate::runtime::Runtime,
);

/// A log entry.
pub type Entry = openraft::Entry<TypeConfig>;
/// The id of a log entry.
pub type LogId = openraft::LogId<NodeId>;
/// What a node has promised or won.
pub type Vote = openraft::Vote<NodeId>;
/// Who votes, who learns, and where they are.
pub type Membership = openraft::Membership<NodeId, Member>;
/// A membership with the log entry that made it so.
pub type StoredMembership = openraft::StoredMembership<NodeId, Member>;
/// What is known of a snapshot without reading it.
pub type SnapshotMeta = openraft::SnapshotMeta<NodeId, Member>;
/// A snapshot and what is known of it.
pub type Snapshot = openraft::Snapshot<TypeConfig>;
/// A failure of storage, which stops the node.
pub type StorageError = openraft::StorageError<NodeId>;
/// The handle of a running consensus node.
pub type Raft = openraft::Raft<TypeConfig>;

/// What a normal log entry carries: a record `btch`, kept encoded. Consensus does not look inside.
#[derive(Clone, PartialEq, Eq)]
pub struct LogPayload(pub Arc<[u8]>);

/// What became of each command of a log entry, in its order. Empty for entries without commands.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outcomes(pub Vec<Outcome>);

/// Who a member of the cluster is and where it is reached.
#[derive(Clone, PartialEq, Eq, Debug, Default, Encode, Decode)]
pub struct Member {
    /// Its own random name, beside the id on its disk.
    pub uuid: [u8; 16],
    /// Its name, for people.
    pub name: Text,
    /// Its region.
    pub region: Text,
    /// Where other nodes reach it, `host:port`.
    pub peer_address: Text,
    /// Where it serves the Admin API.
    pub admin_address: Text,
    /// Where it serves proxies.
    pub feed_address: Text,
    /// Whether it is to vote once it has caught up.
    pub wants_vote: bool,
}

impl fmt::Debug for LogPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "LogPayload({} bytes)", self.0.len())
    }
}

impl fmt::Display for LogPayload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at {}", self.name, self.peer_address)
    }
}
