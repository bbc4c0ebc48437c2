//! What only the control plane needs to remember: proposals and requests already answered, staged parts, node ids, the
//! level. It is replicated and stands in Raft's snapshots, and in no proxy's.

use std::sync::Arc;

use daemon::planted;
use imbl::OrdMap;
use protocol::codec::{self, Record};
use protocol::command::{Idempotency, Origin, STAGE_PART_BYTES_MAX, StageId, Transaction};
use protocol::{Outcome, Position, Rejection, Text};
use sha2::{Digest, Sha256};

use super::LEVEL_MAX;

/// How long a client's `Idempotency-Key` is remembered, in the log's own time: 24 hours.
pub const IDEMPOTENCY_MILLIS: u64 = 24 * 3600 * 1000;

/// How many of them are remembered; the oldest go first.
pub const IDEMPOTENCY_KEYS_MAX: usize = 100_000;

/// How many bytes they and what came of their requests may have; the oldest go first. A transaction's outcome names each
/// resource that it wrote.
pub const IDEMPOTENCY_BYTES_MAX: u64 = 64 << 20;

/// How long staged parts wait for their commit, in the log's own time, since the last part: 10 minutes.
pub const STAGE_MILLIS: u64 = 10 * 60 * 1000;

/// How many bytes may be staged at once, over all stages: what a replica keeps in memory and in every snapshot.
pub const STAGED_BYTES_MAX: u64 = 256 << 20;

/// How many outcomes of one node's proposals are remembered. A node has far fewer under way; this only bounds what a
/// node that never says what it has heard can make the others keep.
const PROPOSALS_MAX: usize = 65_536;

/// See the module.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ControlState {
    pub(super) level: u32,
    /// The log's own time, in milliseconds since the cluster began: the sum of what the batches say has passed.
    pub(super) time: u64,
    pub(super) next_node: u64,
    pub(super) nodes: OrdMap<[u8; 16], u64>,
    pub(super) proposals: OrdMap<u64, Proposals>,
    /// By author and key.
    pub(super) requests: OrdMap<(Text, Text), Request>,
    /// Author and key of every request, by age.
    pub(super) requests_by_age: OrdMap<u64, (Text, Text)>,
    pub(super) next_age: u64,
    pub(super) requests_bytes: u64,
    pub(super) stages: OrdMap<StageId, Stage>,
    pub(super) staged_bytes: u64,
}

/// What one node's proposals came to.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Proposals {
    /// The node's latest boot. An earlier boot's proposals are forgotten as a whole.
    pub(super) boot: u64,
    /// Everything below has been answered and is forgotten.
    pub(super) forgotten_below: u64,
    pub(super) outcomes: OrdMap<u64, Arc<Outcome>>,
}

/// A client's request that was carried out.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Request {
    pub(super) fingerprint: [u8; 32],
    pub(super) time: u64,
    pub(super) age: u64,
    pub(super) outcome: Arc<Outcome>,
}

impl Request {
    /// What it takes, with its author and key, as it is stored.
    fn bytes(&self, (author, key): &(Text, Text)) -> u64 {
        (author.len() + key.len() + self.fingerprint.len() + codec::encoded_bytes(&*self.outcome)) as u64
    }
}

/// Parts of a transaction.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Stage {
    /// When the last part came.
    pub(super) time: u64,
    pub(super) bytes: u64,
    pub(super) parts: OrdMap<u32, Arc<[u8]>>,
}

impl Default for ControlState {
    fn default() -> Self {
        Self {
            level: 1,
            time: 0,
            next_node: 2, // The node that founds a cluster is node 1.
            nodes: OrdMap::new(),
            proposals: OrdMap::new(),
            requests: OrdMap::new(),
            requests_by_age: OrdMap::new(),
            next_age: 0,
            requests_bytes: 0,
            stages: OrdMap::new(),
            staged_bytes: 0,
        }
    }
}

impl ControlState {
    /// The level of the cluster.
    #[must_use]
    pub fn level(&self) -> u32 {
        self.level
    }

    /// The log's own time, in milliseconds since the cluster began.
    #[must_use]
    pub fn time_millis(&self) -> u64 {
        self.time
    }

    /// How many bytes are staged.
    #[must_use]
    pub fn staged_bytes(&self) -> u64 {
        self.staged_bytes
    }

    /// How many bytes the remembered client requests have.
    #[must_use]
    pub fn remembered_bytes(&self) -> u64 {
        self.requests_bytes
    }

    /// How many client requests are remembered.
    #[must_use]
    pub fn remembered_requests(&self) -> usize {
        self.requests.len()
    }

    /// The log's time goes on, and what is too old is forgotten.
    pub(super) fn advance(&mut self, millis: u64) {
        self.time = self.time.saturating_add(millis);
        let too_old = |time: u64, limit: u64| self.time.saturating_sub(time) > limit;
        let mut expired = 0;
        for (_, key) in &self.requests_by_age {
            match self.requests.get(key) {
                Some(request) if !too_old(request.time, IDEMPOTENCY_MILLIS) => break,
                _ => expired += 1,
            }
        }
        let abandoned: Vec<StageId> =
            self.stages.iter().filter(|(_, stage)| too_old(stage.time, STAGE_MILLIS)).map(|(id, _)| *id).collect();
        for _ in 0..expired {
            self.forget_oldest_request();
        }
        for stage in abandoned {
            self.drop_stage(stage);
        }
    }

    /// The outcome of a proposal that was applied before; a refusal when that can no longer be known.
    pub(super) fn recall_proposal(&self, origin: &Origin, position: Position) -> Option<Outcome> {
        if planted!("retry-carried-out-again") {
            return None;
        }
        let proposals = self.proposals.get(&origin.node)?;
        let forgotten = || Some(Outcome::Refused { position, rejection: Rejection::Forgotten });
        if origin.boot != proposals.boot {
            return if origin.boot < proposals.boot { forgotten() } else { None };
        }
        if origin.sequence < proposals.forgotten_below {
            return forgotten();
        }
        proposals.outcomes.get(&origin.sequence).map(|outcome| (**outcome).clone())
    }

    pub(super) fn remember_proposal(&mut self, origin: &Origin, outcome: &Outcome) {
        let proposals = self.proposals.entry(origin.node).or_default();
        if proposals.boot != origin.boot {
            *proposals = Proposals { boot: origin.boot, ..Proposals::default() };
        }
        proposals.outcomes.insert(origin.sequence, Arc::new(outcome.clone()));
        proposals.forgotten_below = proposals.forgotten_below.max(origin.answered_below);
        while let Some(oldest) = proposals.outcomes.get_min().map(|(oldest, _)| *oldest) {
            let over = proposals.outcomes.len() > PROPOSALS_MAX;
            if oldest >= proposals.forgotten_below && !over {
                break;
            }
            proposals.outcomes.remove(&oldest);
            proposals.forgotten_below = proposals.forgotten_below.max(oldest + 1);
        }
    }

    /// What a client's request came to when it was carried out before.
    pub(super) fn recall_request(
        &self,
        author: &Text,
        idempotency: &Idempotency,
    ) -> Option<Result<Outcome, Rejection>> {
        if planted!("request-id-forgotten") {
            return None;
        }
        let request = self.requests.get(&(author.clone(), idempotency.key.clone()))?;
        Some(if request.fingerprint == idempotency.fingerprint {
            Ok((*request.outcome).clone())
        } else {
            Err(Rejection::KeyReused { key: idempotency.key.clone() })
        })
    }

    pub(super) fn remember_request(&mut self, author: &Text, idempotency: &Idempotency, outcome: &Outcome) {
        let key = (author.clone(), idempotency.key.clone());
        let age = self.next_age;
        self.next_age += 1;
        let outcome = Arc::new(outcome.clone());
        self.hold_request(key, Request { fingerprint: idempotency.fingerprint, time: self.time, age, outcome });
        let too_many =
            |state: &Self| state.requests.len() > IDEMPOTENCY_KEYS_MAX || state.requests_bytes > IDEMPOTENCY_BYTES_MAX;
        while too_many(self) && self.requests.len() > 1 {
            self.forget_oldest_request();
        }
    }

    /// Holds a request that is not held.
    pub(super) fn hold_request(&mut self, key: (Text, Text), request: Request) {
        self.requests_bytes += request.bytes(&key);
        self.requests_by_age.insert(request.age, key.clone());
        self.requests.insert(key, request);
    }

    fn forget_oldest_request(&mut self) {
        if let Some((age, key)) = self.requests_by_age.get_min().cloned() {
            self.requests_by_age.remove(&age);
            if let Some(request) = self.requests.remove(&key) {
                self.requests_bytes -= request.bytes(&key);
            }
        }
    }

    /// Holds a part. The same part again is no harm.
    pub(super) fn stage(&mut self, id: StageId, part: u32, bytes: &[u8]) -> Result<(), Rejection> {
        let refused = |why: &str| Err(Rejection::Stage { why: why.into() });
        if bytes.len() > STAGE_PART_BYTES_MAX {
            return refused("a part is larger than its bound");
        }
        if let Some(held) = self.stages.get(&id).and_then(|stage| stage.parts.get(&part)) {
            return if **held == *bytes { Ok(()) } else { refused("a part came twice with other bytes") };
        }
        let added = bytes.len() as u64;
        if self.staged_bytes + added > STAGED_BYTES_MAX {
            return refused("there is no room for more parts");
        }
        self.staged_bytes += added;
        let time = self.time;
        let stage = self.stages.entry(id).or_default();
        stage.bytes += added;
        stage.time = time;
        stage.parts.insert(part, bytes.into());
        Ok(())
    }

    /// Puts a stage's parts together. Whatever comes of it, the parts are gone.
    pub(super) fn take_stage(
        &mut self,
        id: StageId,
        parts: u32,
        raw_bytes: u64,
        sha256: &[u8; 32],
    ) -> Result<Transaction, Rejection> {
        let refused = |why: String| Rejection::Stage { why: why.into() };
        let Some(stage) = self.stages.get(&id).cloned() else {
            return Err(refused("its parts are gone".to_owned()));
        };
        self.drop_stage(id);
        if !stage.parts.keys().copied().eq(0..parts) {
            return Err(refused(format!("{} of {parts} parts are there", stage.parts.len())));
        }
        let mut whole = Vec::with_capacity(usize::try_from(stage.bytes).unwrap_or_default());
        for part in stage.parts.values() {
            whole.extend_from_slice(part);
        }
        if Sha256::digest(&whole)[..] != sha256[..] {
            return Err(refused("its parts are not those that were sent".to_owned()));
        }
        let max = Transaction::PAYLOAD_BYTES_MAX + codec::HEADER_BYTES;
        let raw = codec::decompress(&whole, usize::try_from(raw_bytes).unwrap_or(usize::MAX), max)
            .map_err(|e| refused(e.to_string()))?;
        codec::open(&raw).map_err(|e| refused(e.to_string()))
    }

    pub(super) fn drop_stage(&mut self, id: StageId) {
        if let Some(stage) = self.stages.remove(&id) {
            self.staged_bytes -= stage.bytes;
        }
    }

    /// The id of the node with this name of its own; a new one when it has none.
    pub(super) fn enrol(&mut self, uuid: [u8; 16]) -> u64 {
        if let Some(node) = self.nodes.get(&uuid) {
            return *node;
        }
        let node = self.next_node;
        self.next_node += 1;
        self.nodes.insert(uuid, node);
        node
    }

    /// A restore has begun a new life of the cluster: what was answered before it is forgotten.
    pub(super) fn begin_life(&mut self, level: u32) {
        self.proposals = OrdMap::new();
        self.requests = OrdMap::new();
        self.requests_by_age = OrdMap::new();
        self.requests_bytes = 0;
        self.stages = OrdMap::new();
        self.staged_bytes = 0;
        self.level = self.level.max(level);
    }

    pub(super) fn raise_level(&mut self, to: u32) -> Result<u32, Rejection> {
        if to < self.level {
            return Err(Rejection::Level { wanted: to, level: self.level, supported: LEVEL_MAX });
        }
        self.level = to;
        Ok(self.level)
    }
}
