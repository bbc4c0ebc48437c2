//! A view: what one reader may see, with its digest, and, where deltas are served, what changed when.

use imbl::{OrdMap, OrdSet};

use super::Stored;
use crate::digest::BucketedDigest;
use crate::key::ResourceKey;
use crate::position::{Position, Revision};

/// How many removals a view remembers. A reader from before the oldest of them gets the full state.
pub const TOMBSTONES_MAX: usize = 65_536;

/// The bookkeeping of a set of entries. The entries themselves stand in the state.
#[derive(Clone, Default, Debug)]
pub struct View {
    changed_at: Position,
    entries: u64,
    digest: BucketedDigest,
    index: Option<Box<Index>>,
}

/// What changed when.
#[derive(Clone, Default, Debug)]
pub(super) struct Index {
    /// The last change of every key in the view or among the tombstones.
    pub(super) by_revision: OrdSet<(Revision, ResourceKey)>,
    /// Keys that were in the view and are no longer, with the revision at which they left.
    pub(super) tombstones: OrdMap<ResourceKey, Revision>,
    /// The same, by revision.
    buried: OrdSet<(Revision, ResourceKey)>,
    /// Tombstones up to this revision may have been forgotten.
    pub(super) horizon: Revision,
}

impl View {
    /// An empty view from which deltas can be served.
    pub(super) fn indexed() -> Self {
        Self { index: Some(Box::default()), ..Self::default() }
    }

    /// The position of its last change.
    #[must_use]
    pub fn changed_at(&self) -> Position {
        self.changed_at
    }

    /// How many entries it has.
    #[must_use]
    pub fn entries(&self) -> u64 {
        self.entries
    }

    /// Its digest.
    #[must_use]
    pub fn digest(&self) -> &BucketedDigest {
        &self.digest
    }

    /// A reader that stands at a lower revision cannot be caught up by a delta.
    #[must_use]
    pub fn horizon(&self) -> Revision {
        self.index.as_ref().map_or(0, |index| index.horizon)
    }

    /// Keys that left it, with the revision at which they did, by key.
    pub fn tombstones(&self) -> impl Iterator<Item = (&ResourceKey, Revision)> {
        self.index.iter().flat_map(|index| index.tombstones.iter().map(|(key, revision)| (key, *revision)))
    }

    pub(super) fn index(&self) -> Option<&Index> {
        self.index.as_deref()
    }

    pub(super) fn touch(&mut self, position: Position) {
        self.changed_at = position;
    }

    /// A key's entry in the view changes from `old` to `new`.
    pub(super) fn change(&mut self, key: &ResourceKey, old: Option<&Stored>, new: Option<&Stored>, position: Position) {
        if let Some(old) = old {
            self.digest.sub(key, &old.value);
            self.entries -= 1;
        }
        if let Some(new) = new {
            self.digest.add(key, &new.value);
            self.entries += 1;
        }
        let Some(index) = &mut self.index else { return };
        match old {
            Some(old) => {
                index.by_revision.remove(&(old.entry.modified.revision, key.clone()));
            }
            None => index.unbury(key),
        }
        match new {
            Some(new) => {
                index.by_revision.insert((new.entry.modified.revision, key.clone()));
            }
            None if old.is_some() => index.bury(key, position.revision),
            None => {}
        }
    }

    pub(super) fn restore(
        &mut self,
        changed_at: Position,
        horizon: Revision,
        tombstones: impl IntoIterator<Item = (ResourceKey, Revision)>,
    ) {
        self.changed_at = changed_at;
        let index = self.index.get_or_insert_default();
        for (key, revision) in tombstones {
            index.bury(&key, revision);
        }
        index.horizon = index.horizon.max(horizon);
    }
}

impl Index {
    fn bury(&mut self, key: &ResourceKey, revision: Revision) {
        self.tombstones.insert(key.clone(), revision);
        self.buried.insert((revision, key.clone()));
        self.by_revision.insert((revision, key.clone()));
        while self.tombstones.len() > TOMBSTONES_MAX {
            let Some((revision, key)) = self.buried.get_min().cloned() else { return };
            self.unbury(&key);
            self.horizon = self.horizon.max(revision);
        }
    }

    fn unbury(&mut self, key: &ResourceKey) {
        if let Some(revision) = self.tombstones.remove(key) {
            let item = (revision, key.clone());
            self.buried.remove(&item);
            self.by_revision.remove(&item);
        }
    }
}
