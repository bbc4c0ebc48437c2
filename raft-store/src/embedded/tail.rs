//! The last changes in full, kept in memory for a reader on this node that is a little slow.
//!
//! Apply publishes and never waits. A reader that comes late finds that the oldest changes are gone, and is told where
//! what is left begins.

use std::cmp::Ordering;
use std::sync::Arc;

use imbl::Vector;
use protocol::{Chain, ConfigState, Position};
use tokio::sync::watch;

use crate::machine::{Base, OutboxItem};

/// How many changes are kept for a slow reader: some seconds of the most that a cluster can write.
pub const TAIL_CHANGES_MAX: usize = 16_384;

/// How many bytes they may have. One larger change alone is kept.
pub const TAIL_BYTES_MAX: u64 = 64 << 20;

/// The last changes, and where they lead.
#[derive(Clone, Debug)]
pub struct Tail {
    head: Position,
    /// Where the first change starts.
    base: Base,
    items: Vector<Arc<OutboxItem>>,
    bytes: u64,
}

/// What a reader that stands somewhere gets.
#[derive(Debug)]
pub(super) enum Next {
    /// It has everything, or more: the node reads its log again after a start.
    Nothing,
    /// What follows, oldest first.
    Items(Vec<Arc<OutboxItem>>),
    /// What follows is gone up to here.
    Gap(Base),
    /// The reader holds another history than this node.
    Other(Base),
}

impl Tail {
    /// Begins here, with nothing before it.
    pub(crate) fn new(config: &ConfigState) -> Self {
        let base = Base { position: config.position(), chain: config.chain() };
        Self { head: base.position, base, items: Vector::new(), bytes: 0 }
    }

    /// The same with some more changes.
    pub(crate) fn then(&self, items: impl IntoIterator<Item = Arc<OutboxItem>>) -> Self {
        let mut tail = self.clone();
        for item in items {
            tail.head = item.delta.position;
            tail.bytes += item.bytes;
            tail.items.push_back(item);
        }
        while tail.items.len() > TAIL_CHANGES_MAX || (tail.bytes > TAIL_BYTES_MAX && tail.items.len() > 1) {
            let Some(oldest) = tail.items.pop_front() else { break };
            tail.bytes -= oldest.bytes;
            tail.base = Base { position: oldest.delta.position, chain: oldest.chain };
        }
        tail
    }

    /// Where what is kept begins.
    pub(super) fn base(&self) -> Base {
        self.base
    }

    /// What follows a place in the history.
    pub(super) fn after(&self, position: Position, chain: Chain) -> Next {
        let head = self.head;
        // An epoch that cannot be compared is another cluster's life.
        let Ok(to_head) = head.compare(&position) else { return Next::Other(self.base) };
        let Ok(to_base) = position.compare(&self.base.position) else { return Next::Other(self.base) };
        match (to_head, to_base) {
            (Ordering::Less, _) => Next::Nothing,
            (_, Ordering::Less) => Next::Gap(self.base),
            _ => match self.chain_at(position) {
                Some(here) if here == chain => match to_head {
                    Ordering::Equal => Next::Nothing,
                    _ => Next::Items(self.items.iter().skip(self.index_after(position)).cloned().collect()),
                },
                _ => Next::Other(self.base),
            },
        }
    }

    /// How many changes lead up to a position.
    fn index_after(&self, position: Position) -> usize {
        let found = self.items.binary_search_by(|item| item.delta.position.revision.cmp(&position.revision));
        found.map_or_else(|at| at, |at| at + 1)
    }

    fn chain_at(&self, position: Position) -> Option<Chain> {
        if position == self.base.position {
            return Some(self.base.chain);
        }
        let item = self.items.get(self.index_after(position).checked_sub(1)?)?;
        (item.delta.position == position).then_some(item.chain)
    }
}

/// Where a reader takes it from.
#[derive(Clone, Debug)]
pub struct TailReader {
    newest: watch::Receiver<Arc<Tail>>,
}

impl TailReader {
    pub(crate) fn new(newest: watch::Receiver<Arc<Tail>>) -> Self {
        Self { newest }
    }

    pub(super) fn now(&mut self) -> Arc<Tail> {
        self.newest.borrow_and_update().clone()
    }

    /// Waits until something was applied since the last [`Self::now`]; `false` when the node has stopped. Cancel-safe.
    pub(super) async fn changed(&mut self) -> bool {
        self.newest.changed().await.is_ok()
    }
}
