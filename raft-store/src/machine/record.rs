//! The control plane's own state as it stands in a snapshot.

use std::sync::Arc;

use bincode::{Decode, Encode};
use imbl::OrdMap;
use protocol::codec::Record;
use protocol::command::StageId;
use protocol::{Digest, Outcome, Text};

use super::control::{ControlState, Proposals, Request, Stage};
use super::{LEVEL_MAX, State};

/// [`ControlState`], stored.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct ControlRecord {
    level: u32,
    time: u64,
    next_node: u64,
    nodes: Vec<([u8; 16], u64)>,
    proposals: Vec<ProposalsRecord>,
    requests: Vec<RequestRecord>,
    next_age: u64,
    stages: Vec<StageRecord>,
}

#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
struct ProposalsRecord {
    node: u64,
    boot: u64,
    forgotten_below: u64,
    outcomes: Vec<(u64, Arc<Outcome>)>,
}

#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
struct RequestRecord {
    author: Text,
    key: Text,
    fingerprint: [u8; 32],
    time: u64,
    age: u64,
    outcome: Arc<Outcome>,
}

#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
struct StageRecord {
    id: StageId,
    time: u64,
    parts: Vec<(u32, Arc<[u8]>)>,
}

impl Record for ControlRecord {
    const TAG: [u8; 4] = *b"ctrl";
    const VERSION: u16 = 1;
    const PAYLOAD_BYTES_MAX: usize = 1 << 30;
}

/// A control state that this build must not work on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum RecordError {
    /// The cluster has been raised to a level that this build does not know.
    #[error("the cluster is at level {found}, this version of holdfast knows up to {LEVEL_MAX}")]
    Level {
        /// The cluster's level.
        found: u32,
    },
}

impl From<&ControlState> for ControlRecord {
    fn from(state: &ControlState) -> Self {
        let proposals = |(node, proposals): (&u64, &Proposals)| ProposalsRecord {
            node: *node,
            boot: proposals.boot,
            forgotten_below: proposals.forgotten_below,
            outcomes: proposals.outcomes.iter().map(|(sequence, outcome)| (*sequence, outcome.clone())).collect(),
        };
        let request = |((author, key), request): (&(Text, Text), &Request)| RequestRecord {
            author: author.clone(),
            key: key.clone(),
            fingerprint: request.fingerprint,
            time: request.time,
            age: request.age,
            outcome: request.outcome.clone(),
        };
        let stage = |(id, stage): (&StageId, &Stage)| StageRecord {
            id: *id,
            time: stage.time,
            parts: stage.parts.iter().map(|(part, bytes)| (*part, bytes.clone())).collect(),
        };
        Self {
            level: state.level,
            time: state.time,
            next_node: state.next_node,
            nodes: state.nodes.iter().map(|(uuid, node)| (*uuid, *node)).collect(),
            proposals: state.proposals.iter().map(proposals).collect(),
            requests: state.requests.iter().map(request).collect(),
            next_age: state.next_age,
            stages: state.stages.iter().map(stage).collect(),
        }
    }
}

impl TryFrom<ControlRecord> for ControlState {
    type Error = RecordError;

    fn try_from(record: ControlRecord) -> Result<Self, RecordError> {
        if record.level > LEVEL_MAX {
            return Err(RecordError::Level { found: record.level });
        }
        let mut state = Self {
            level: record.level,
            time: record.time,
            next_node: record.next_node,
            nodes: record.nodes.into_iter().collect(),
            next_age: record.next_age,
            ..Self::default()
        };
        for proposals in record.proposals {
            let outcomes: OrdMap<_, _> = proposals.outcomes.into_iter().collect();
            let (boot, forgotten_below) = (proposals.boot, proposals.forgotten_below);
            state.proposals.insert(proposals.node, Proposals { boot, forgotten_below, outcomes });
        }
        for request in record.requests {
            let key = (request.author, request.key);
            state.requests_by_age.insert(request.age, key.clone());
            let (fingerprint, time, age, outcome) = (request.fingerprint, request.time, request.age, request.outcome);
            state.requests.insert(key, Request { fingerprint, time, age, outcome });
        }
        for stage in record.stages {
            let parts: OrdMap<_, _> = stage.parts.into_iter().collect();
            let bytes = parts.values().map(|part: &Arc<[u8]>| part.len() as u64).sum();
            state.staged_bytes += bytes;
            state.stages.insert(stage.id, Stage { time: stage.time, bytes, parts });
        }
        Ok(state)
    }
}

impl State {
    /// A digest of everything that only the control plane holds. Equal on every node at the same log entry.
    #[must_use]
    pub fn control_digest(&self) -> Digest {
        Digest::of(&ControlRecord::from(&self.control))
    }
}
