//! Serving a reader from wherever it stands: O(keys changed since), whatever the size of the state.

use super::ConfigState;
use crate::delta::{Change, Delta};
use crate::key::ResourceKey;
use crate::position::Position;

/// What brings a reader of a view up to date.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum CatchUp {
    /// Nothing changed in its view; its position moves.
    Current,
    /// This step, to the view's last change; after it the reader is [`CatchUp::Current`].
    Delta(Delta),
    /// Only the full state: it stands before the horizon, or in an earlier life of the cluster.
    Full,
    /// Nothing: it is ahead of this state, which must not be served to it.
    Behind,
}

impl ConfigState {
    /// What brings a reader of `group` from `position`, its last change being `changed_at`, to this state.
    ///
    /// The caller vouches that both are positions of this cluster's history. A reader whose epoch has this one's number
    /// and another restore id stands in another history; it is served the full state only by an operator's restore, so
    /// the answer is [`CatchUp::Behind`].
    #[must_use]
    pub fn catch_up(&self, group: &str, position: Position, changed_at: Position) -> CatchUp {
        use std::cmp::Ordering;
        match position.compare(&self.position) {
            Err(_) | Ok(Ordering::Greater) => return CatchUp::Behind,
            Ok(Ordering::Less | Ordering::Equal) => {}
        }
        let view = self.view(group);
        if view.changed_at() == changed_at {
            return CatchUp::Current;
        }
        let Some(index) = view.index() else { return CatchUp::Full };
        if position.epoch != self.position.epoch || position.revision < view.horizon() {
            return CatchUp::Full;
        }
        let first = (position.revision + 1, ResourceKey::new("", ""));
        let mut changes: Vec<Change> = index
            .by_revision
            .range(first..)
            .map(|(_, key)| {
                let entry = self.get(key).filter(|_| !index.tombstones.contains_key(key)).cloned();
                Change { key: key.clone(), entry }
            })
            .collect();
        changes.sort_unstable_by(|a, b| a.key.cmp(&b.key));
        CatchUp::Delta(Delta {
            prev: changed_at,
            position: view.changed_at(),
            changes,
            digest: view.digest().total(),
            cause: None,
        })
    }
}
