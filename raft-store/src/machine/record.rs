//! The control plane's own state as it stands in a snapshot: a section each for [`ControlState`], for the outbox and for
//! a restore that is under way; the last two only where there is something in them.

use std::sync::Arc;

use bincode::{Decode, Encode};
use imbl::OrdMap;
use protocol::codec::{self, CodecError, Record};
use protocol::command::StageId;
use protocol::{Chain, Delta, Digest, Entry, Epoch, Outcome, Position, Revision, Text};

use super::control::{ControlState, Proposals, Request, Stage};
use super::outbox::{Base, Kept, Marked, Outbox, OutboxItem};
use super::restore::Restoring;
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
            let (fingerprint, time, age, outcome) = (request.fingerprint, request.time, request.age, request.outcome);
            state.hold_request(key, Request { fingerprint, time, age, outcome });
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

/// The first record of the outbox' section. An [`ItemRecord`] for each change follows.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
struct OutboxRecord {
    base: Position,
    base_chain: Chain,
    mark: Option<MarkedRecord>,
    marks: Vec<(Revision, u64)>,
    items: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
struct MarkedRecord {
    revision: Revision,
    chain: Chain,
    system: Option<u64>,
    timeline: u32,
    term: u64,
}

/// One change of the outbox.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
struct ItemRecord {
    delta: Delta,
    before: Vec<Option<Arc<Entry>>>,
    chain: Chain,
}

/// The first record of a restore's section. A [`PartRecord`] for each part follows.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
struct RestoringRecord {
    epoch: Epoch,
    parts: u64,
}

#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
struct PartRecord {
    part: u32,
    bytes: Arc<[u8]>,
}

impl Record for OutboxRecord {
    const TAG: [u8; 4] = *b"obox";
    const VERSION: u16 = 1;
    const PAYLOAD_BYTES_MAX: usize = 16 << 20;
}

impl Record for ItemRecord {
    const TAG: [u8; 4] = *b"obxi";
    const VERSION: u16 = 1;
    /// A transaction may replace a whole configuration by another.
    const PAYLOAD_BYTES_MAX: usize = 1 << 30;
}

impl Record for RestoringRecord {
    const TAG: [u8; 4] = *b"rest";
    const VERSION: u16 = 1;
    const PAYLOAD_BYTES_MAX: usize = 4096;
}

impl Record for PartRecord {
    const TAG: [u8; 4] = *b"resp";
    const VERSION: u16 = 1;
    const PAYLOAD_BYTES_MAX: usize = 1 << 20;
}

/// The outbox as a section of a snapshot; `None` where the cluster has no record.
///
/// # Errors
/// [`CodecError::TooLarge`] when a change is over its bound.
pub fn outbox_section(outbox: &Outbox) -> Result<Option<Vec<u8>>, CodecError> {
    let Some(kept) = outbox.kept() else { return Ok(None) };
    let mark = |mark: Marked| MarkedRecord {
        revision: mark.revision,
        chain: mark.chain,
        system: mark.system,
        timeline: mark.timeline,
        term: mark.term,
    };
    let head = OutboxRecord {
        base: kept.base.position,
        base_chain: kept.base.chain,
        mark: kept.mark.map(mark),
        marks: kept.marks.iter().copied().collect(),
        items: kept.items.len() as u64,
    };
    let mut bytes = codec::seal(&head)?;
    for item in kept.items.values() {
        let record = ItemRecord { delta: item.delta.clone(), before: item.before.clone(), chain: item.chain };
        codec::seal_into(&record, &mut bytes)?;
    }
    Ok(Some(bytes))
}

/// Reads [`outbox_section`] back.
///
/// # Errors
/// [`CodecError`].
pub fn read_outbox(section: Option<&[u8]>) -> Result<Outbox, CodecError> {
    let Some(section) = section else { return Ok(Outbox::default()) };
    let (head, used) = codec::open_prefix::<OutboxRecord>(section)?;
    let mut rest = &section[used..];
    let mut kept = Kept::new(Base { position: head.base, chain: head.base_chain });
    kept.mark = head.mark.map(|mark| Marked {
        revision: mark.revision,
        chain: mark.chain,
        system: mark.system,
        timeline: mark.timeline,
        term: mark.term,
    });
    kept.marks = head.marks.into_iter().collect();
    let recorded = kept.recorded();
    for _ in 0..head.items {
        let (item, used) = codec::open_prefix::<ItemRecord>(rest)?;
        rest = &rest[used..];
        let item = OutboxItem::new(item.delta, item.before, item.chain);
        let revision = item.delta.position.revision;
        kept.bytes += item.bytes;
        if revision > recorded {
            kept.backlog_bytes += item.bytes;
        }
        kept.items.insert(revision, Arc::new(item));
    }
    end_of_section(rest)?;
    Ok(Outbox::from_kept(Some(kept)))
}

/// A restore under way as a section of a snapshot; `None` where there is none.
///
/// # Errors
/// [`CodecError::TooLarge`] when a part is over its bound, which it never is.
pub fn restoring_section(restoring: Option<&Restoring>) -> Result<Option<Vec<u8>>, CodecError> {
    let Some(restoring) = restoring else { return Ok(None) };
    let head = RestoringRecord { epoch: restoring.epoch, parts: restoring.parts.len() as u64 };
    let mut bytes = codec::seal(&head)?;
    for (part, held) in &restoring.parts {
        codec::seal_into(&PartRecord { part: *part, bytes: held.clone() }, &mut bytes)?;
    }
    Ok(Some(bytes))
}

/// Reads [`restoring_section`] back.
///
/// # Errors
/// [`CodecError`].
pub fn read_restoring(section: Option<&[u8]>) -> Result<Option<Restoring>, CodecError> {
    let Some(section) = section else { return Ok(None) };
    let (head, used) = codec::open_prefix::<RestoringRecord>(section)?;
    let mut rest = &section[used..];
    let mut restoring = Restoring { epoch: head.epoch, bytes: 0, parts: OrdMap::new() };
    for _ in 0..head.parts {
        let (part, used) = codec::open_prefix::<PartRecord>(rest)?;
        rest = &rest[used..];
        restoring.bytes += part.bytes.len() as u64;
        restoring.parts.insert(part.part, part.bytes);
    }
    end_of_section(rest)?;
    Ok(Some(restoring))
}

fn end_of_section(rest: &[u8]) -> Result<(), CodecError> {
    match rest.len() {
        0 => Ok(()),
        more => Err(CodecError::Payload(format!("{more} bytes behind the section's last record"))),
    }
}

impl State {
    /// A digest of everything that only the control plane holds. Equal on every node at the same log entry.
    #[must_use]
    pub fn control_digest(&self) -> Digest {
        let control = ControlRecord::from(&self.control);
        let sections = (outbox_section(&self.outbox), restoring_section(self.restoring.as_ref()));
        match sections {
            (Ok(None), Ok(None)) => Digest::of(&control),
            (outbox, restoring) => Digest::of(&(control, outbox.ok(), restoring.ok())),
        }
    }
}
