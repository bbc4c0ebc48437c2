//! The outbox: changes that the durable record may not have yet.
//!
//! It is replicated, so that any later leader can write what the leaders before it have not, and stands in Raft's
//! snapshots, so that a purge of the log loses none of it. It is kept only while the cluster has a record.
//!
//! ```text
//!     base           mark (what the record is known to hold)          head
//!      |-- recorded: kept for a while, --|-- not recorded: kept, --|
//!          since a failover of the record    up to a bound at which
//!          can take back what it confirmed   changes are refused
//! ```

use std::sync::Arc;

use imbl::{OrdMap, Vector};
use protocol::command::RecordMark;
use protocol::entry::UnixMillis;
use protocol::{Chain, Delta, Entry, Position, Rejection, ResourceKey, Revision, codec};

/// How long a change is kept after it was recorded, in the log's own time: a failover of the record may take back what
/// was confirmed up to then. Longer than any replication lag that a standby which is fit for promotion has: 10 minutes.
pub const REGRESSION_MILLIS: u64 = 10 * 60 * 1000;

/// How many recorded changes are kept at most for that.
pub const REGRESSION_CHANGES_MAX: u64 = 100_000;

/// How many bytes they may take; they stand in every snapshot.
pub const REGRESSION_BYTES_MAX: u64 = 64 << 20;

/// How many changes may wait for the record. Beyond it a change is refused, on every replica alike. A node's own settings
/// refuse earlier, before anything is proposed.
pub const BACKLOG_CHANGES_MAX: u64 = 1_000_000;

/// How many bytes they may take: what each replica keeps in memory and in every snapshot. One more change than fits is
/// taken, so that a large one is not refused for ever.
pub const BACKLOG_BYTES_MAX: u64 = 512 << 20;

/// Changes by revision; see the module. A clone is cheap.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Outbox {
    /// `None`: there is no record, and nothing is kept.
    kept: Option<Kept>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Kept {
    /// Where the first item starts.
    pub(super) base: Base,
    pub(super) items: OrdMap<Revision, Arc<OutboxItem>>,
    /// What all items take.
    pub(super) bytes: u64,
    /// What those take that are not recorded.
    pub(super) backlog_bytes: u64,
    pub(super) mark: Option<Marked>,
    /// Marks of the last while, oldest first: revision, and when it was set in the log's own time.
    pub(super) marks: Vector<(Revision, u64)>,
}

/// A place in the history of full deltas.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Base {
    /// The position.
    pub position: Position,
    /// The chain there.
    pub chain: Chain,
}

/// What is known of the record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Marked {
    /// Everything up to here is in the record.
    pub revision: Revision,
    /// The chain there.
    pub chain: Chain,
    /// PostgreSQL's system identifier; `None`: released, any will do.
    pub system: Option<u64>,
    /// PostgreSQL's timeline.
    pub timeline: u32,
    /// The term of the leader that said so.
    pub term: u64,
}

/// One change as the record wants it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct OutboxItem {
    /// All of the change, with its cause.
    pub delta: Delta,
    /// What each of its changes replaces, in their order.
    pub before: Vec<Option<Arc<Entry>>>,
    /// The chain after it.
    pub chain: Chain,
    /// What it takes, in bytes.
    pub bytes: u64,
}

/// What one change did to one resource, as a record keeps it: a row of its history.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ChangeRow<'i> {
    /// The position of the change.
    pub position: Position,
    /// Which of the change's resources, counted from 0.
    pub seq: u32,
    /// The resource.
    pub key: &'i ResourceKey,
    /// What was done to it.
    pub op: Op,
    /// What was there before.
    pub before: Option<&'i Arc<Entry>>,
    /// What is there now.
    pub entry: Option<&'i Arc<Entry>>,
    /// Who caused it; empty where nobody is named.
    pub author: &'i str,
    /// On behalf of which request.
    pub request: &'i str,
    /// The proposer's wall clock.
    pub time: UnixMillis,
    /// The chain after the whole change.
    pub chain: &'i Chain,
}

/// What a change does to a resource.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Op {
    /// It came to be.
    Create,
    /// It got another body, or other metadata.
    Update,
    /// It is gone.
    Delete,
}

impl Op {
    /// What leads from one state of a resource to another.
    #[must_use]
    pub fn of(before: bool, after: bool) -> Self {
        match (before, after) {
            (_, false) => Self::Delete,
            (false, true) => Self::Create,
            (true, true) => Self::Update,
        }
    }

    /// A word for programs.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Self::Create => "create",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

impl OutboxItem {
    /// What it did to each resource: what every record of the history keeps.
    pub fn rows(&self) -> impl Iterator<Item = ChangeRow<'_>> {
        let cause = self.delta.cause.as_ref();
        (0..).zip(&self.delta.changes).zip(&self.before).map(move |((seq, change), before)| ChangeRow {
            position: self.delta.position,
            seq,
            key: &change.key,
            op: Op::of(before.is_some(), change.entry.is_some()),
            before: before.as_ref(),
            entry: change.entry.as_ref(),
            author: cause.map_or("", |cause| cause.author.as_str()),
            request: cause.map_or("", |cause| cause.request.as_str()),
            time: cause.map_or(0, |cause| cause.time),
            chain: &self.chain,
        })
    }

    /// An item, measured.
    #[must_use]
    pub fn new(delta: Delta, before: Vec<Option<Arc<Entry>>>, chain: Chain) -> Self {
        let old: usize = before.iter().map(codec::encoded_bytes).sum();
        let bytes = (codec::encoded_bytes(&delta) + old) as u64;
        Self { delta, before, chain, bytes }
    }
}

impl Outbox {
    /// Whether the cluster has a record.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.kept.is_some()
    }

    /// What is known of the record; `None` before anything was recorded.
    #[must_use]
    pub fn mark(&self) -> Option<&Marked> {
        self.kept.as_ref()?.mark.as_ref()
    }

    /// Where the oldest change that is kept starts; `None` where there is no record.
    #[must_use]
    pub fn base(&self) -> Option<Base> {
        self.kept.as_ref().map(|kept| kept.base)
    }

    /// How many changes the record is not known to hold.
    #[must_use]
    pub fn backlog_changes(&self) -> u64 {
        self.kept.as_ref().map_or(0, |kept| kept.head().saturating_sub(kept.recorded()))
    }

    /// What these take, in bytes.
    #[must_use]
    pub fn backlog_bytes(&self) -> u64 {
        self.kept.as_ref().map_or(0, |kept| kept.backlog_bytes)
    }

    /// What everything that is kept takes, in bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.kept.as_ref().map_or(0, |kept| kept.bytes)
    }

    /// The oldest change that the record is not known to hold.
    #[must_use]
    pub fn oldest_unrecorded(&self) -> Option<&Arc<OutboxItem>> {
        let kept = self.kept.as_ref()?;
        self.after(kept.recorded()).next()
    }

    /// The changes after a revision, in order. Complete only from [`Self::base`] on.
    pub fn after(&self, revision: Revision) -> impl Iterator<Item = &Arc<OutboxItem>> {
        self.kept.iter().flat_map(move |kept| kept.items.range(revision + 1..).map(|(_, item)| item))
    }

    /// All changes that are kept, newest first.
    pub fn newest_first(&self) -> impl Iterator<Item = &Arc<OutboxItem>> {
        self.kept.iter().flat_map(|kept| kept.items.iter().rev().map(|(_, item)| item))
    }

    /// The chain at a revision, where that is still known.
    #[must_use]
    pub fn chain_at(&self, revision: Revision) -> Option<Chain> {
        let kept = self.kept.as_ref()?;
        if revision == kept.base.position.revision {
            return Some(kept.base.chain);
        }
        kept.items.get(&revision).map(|item| item.chain)
    }

    /// Begins to keep changes, from here on. Where they are kept already, nothing happens.
    pub(super) fn turn_on(&mut self, base: Base) {
        self.kept.get_or_insert_with(|| Kept::new(base));
    }

    pub(super) fn turn_off(&mut self) {
        self.kept = None;
    }

    /// The history begins anew here (a restore).
    pub(super) fn restart(&mut self, base: Base) {
        if let Some(kept) = &mut self.kept {
            *kept = Kept::new(base);
        }
    }

    /// Whether one more change can be kept.
    pub(super) fn check_room(&self) -> Result<(), Rejection> {
        let (changes, bytes) = (self.backlog_changes(), self.backlog_bytes());
        if changes >= BACKLOG_CHANGES_MAX || bytes >= BACKLOG_BYTES_MAX {
            return Err(Rejection::RecordBehind { changes, bytes });
        }
        Ok(())
    }

    pub(super) fn push(&mut self, item: impl FnOnce() -> OutboxItem) {
        if let Some(kept) = &mut self.kept {
            let item = item();
            kept.bytes += item.bytes;
            kept.backlog_bytes += item.bytes;
            kept.items.insert(item.delta.position.revision, Arc::new(item));
        }
    }

    /// Takes note of what the record holds: exactly this, also when it is less than before.
    pub(super) fn recorded(&mut self, mark: &RecordMark, time: u64) -> Result<(), Rejection> {
        let refused = |why: String| Err(Rejection::Record { why: why.into() });
        let chain = self.chain_at(mark.revision);
        let Some(kept) = &mut self.kept else { return refused("the cluster has none".to_owned()) };
        if chain != Some(mark.chain) {
            return refused(format!("revision {} is not known with this chain", mark.revision));
        }
        if let Some(known) = &kept.mark {
            if mark.term < known.term {
                return refused(format!("the leader of term {} knows better", known.term));
            }
            if known.system.is_some_and(|system| system != mark.system) {
                return refused("it is on another PostgreSQL system".to_owned());
            }
            if known.system.is_some() && mark.timeline < known.timeline {
                return refused(format!("its timeline {} is older than {}", mark.timeline, known.timeline));
            }
        }
        let before = kept.recorded();
        let (low, high) = (before.min(mark.revision), before.max(mark.revision));
        let between: u64 = kept.items.range(low + 1..=high).map(|(_, item)| item.bytes).sum();
        if mark.revision >= before {
            kept.backlog_bytes -= between;
        } else {
            kept.backlog_bytes += between;
            // What was confirmed and taken back counts as recorded only when it is confirmed again.
            while kept.marks.back().is_some_and(|(revision, _)| *revision > mark.revision) {
                kept.marks.pop_back();
            }
        }
        kept.mark = Some(Marked {
            revision: mark.revision,
            chain: mark.chain,
            system: Some(mark.system),
            timeline: mark.timeline,
            term: mark.term,
        });
        if kept.marks.back().is_none_or(|(revision, _)| *revision < mark.revision) {
            kept.marks.push_back((mark.revision, time));
        }
        kept.prune(time);
        Ok(())
    }

    pub(super) fn release(&mut self) -> Result<(), Rejection> {
        match &mut self.kept {
            Some(kept) => {
                kept.mark.iter_mut().for_each(|mark| mark.system = None);
                Ok(())
            }
            None => Err(Rejection::Record { why: "the cluster has none".into() }),
        }
    }

    /// The log's time has gone on.
    pub(super) fn advance(&mut self, time: u64) {
        if let Some(kept) = &mut self.kept {
            kept.prune(time);
        }
    }

    pub(super) fn kept(&self) -> Option<&Kept> {
        self.kept.as_ref()
    }

    pub(super) fn from_kept(kept: Option<Kept>) -> Self {
        Self { kept }
    }
}

impl Kept {
    pub(super) fn new(base: Base) -> Self {
        Self { base, items: OrdMap::new(), bytes: 0, backlog_bytes: 0, mark: None, marks: Vector::new() }
    }

    fn head(&self) -> Revision {
        self.items.get_max().map_or(self.base.position.revision, |(revision, _)| *revision)
    }

    /// Up to where the record is known to be; at the base when nothing was recorded yet.
    pub(super) fn recorded(&self) -> Revision {
        self.mark.map_or(self.base.position.revision, |mark| mark.revision)
    }

    /// Lets go of what was recorded long enough ago, and of the oldest recorded changes beyond the bounds.
    fn prune(&mut self, time: u64) {
        let mut upto = self.base.position.revision;
        while let Some((revision, set)) = self.marks.front().copied() {
            if time.saturating_sub(set) <= REGRESSION_MILLIS {
                break;
            }
            upto = upto.max(revision);
            self.marks.pop_front();
        }
        let recorded = self.recorded();
        let mut recorded_bytes = self.bytes - self.backlog_bytes;
        while let Some((revision, item)) = self.items.get_min().cloned() {
            let over = recorded_bytes > REGRESSION_BYTES_MAX
                || recorded.saturating_sub(self.base.position.revision) > REGRESSION_CHANGES_MAX;
            if revision > recorded || (revision > upto && !over) {
                break;
            }
            self.items.remove(&revision);
            self.bytes -= item.bytes;
            recorded_bytes -= item.bytes;
            self.base = Base { position: item.delta.position, chain: item.chain };
        }
    }
}
