//! The configuration at one position, as everybody holds it.
//!
//! The maps are persistent: a clone costs a few reference counts, so a snapshot, a reader and a test keep the state they
//! saw while apply goes on. One change costs O(log n).

mod catch_up;
mod repair;
#[cfg(test)]
mod tests;
mod view;

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

pub use catch_up::CatchUp;
pub use repair::{BucketContents, RepairError};
pub use view::{TOMBSTONES_MAX, View};

use crate::delta::{Change, Delta};
use crate::digest::{Chain, Digest};
use crate::entry::{Claim, Entry};
use crate::key::{Kind, ResourceKey};
use crate::position::{EpochConflict, Position, Revision};
use crate::text::Text;

/// Everything that is configured at one position, with what is needed to look it up, to check it and to change it.
#[derive(Clone, Debug)]
pub struct ConfigState {
    position: Position,
    chain: Chain,
    entries: OrdMap<ResourceKey, Stored>,
    /// `(target, referrer)` for every reference.
    references: OrdSet<(ResourceKey, ResourceKey)>,
    claims: OrdMap<Claim, ResourceKey>,
    expiring: OrdSet<ResourceKey>,
    /// All entries that are held here.
    root: View,
    /// What each gateway group may see, where deltas are served; `None` where one view is followed.
    groups: Option<OrdMap<Text, View>>,
}

/// An entry with its value in the digest, so that it is hashed once.
#[derive(Clone, Debug)]
struct Stored {
    entry: Arc<Entry>,
    value: Digest,
}

/// The digest covers key and entry, so equal values mean equal entries.
impl PartialEq for Stored {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

/// Why a delta does not fit a state. The state is then as before.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum EvolveError {
    /// It starts from another change than the state's last.
    #[error("the delta starts from {prev}, the last change here is {changed_at}")]
    Gap {
        /// Where the delta starts.
        prev: Position,
        /// The state's last change.
        changed_at: Position,
    },
    /// It does not lead forward.
    #[error("the delta leads to {to}, the state is at {at} already")]
    NotNewer {
        /// Where the delta leads.
        to: Position,
        /// Where the state is.
        at: Position,
    },
    /// It belongs to another life of the cluster with the same number.
    #[error(transparent)]
    Epoch(#[from] EpochConflict),
    /// The result is not what the sender has.
    #[error("after the delta to {position} the digest is {here}, it should be {there}")]
    Digest {
        /// Where the delta leads.
        position: Position,
        /// The digest here.
        here: Digest,
        /// The digest that the delta names.
        there: Digest,
    },
}

impl ConfigState {
    /// The empty state of a control-plane node: it serves a view per gateway group.
    #[must_use]
    pub fn serving() -> Self {
        Self { groups: Some(OrdMap::new()), ..Self::following() }
    }

    /// The empty state of somebody who follows one view: a proxy, or the record.
    #[must_use]
    pub fn following() -> Self {
        Self {
            position: Position::default(),
            chain: Chain::default(),
            entries: OrdMap::new(),
            references: OrdSet::new(),
            claims: OrdMap::new(),
            expiring: OrdSet::new(),
            root: View::default(),
            groups: None,
        }
    }

    /// Where it is.
    #[must_use]
    pub fn position(&self) -> Position {
        self.position
    }

    /// The position of its last change: the same as [`Self::position`] for the whole, perhaps earlier for a view.
    #[must_use]
    pub fn changed_at(&self) -> Position {
        self.root.changed_at()
    }

    /// The chain over all full deltas so far; meaningless where a view is followed.
    #[must_use]
    pub fn chain(&self) -> Chain {
        self.chain
    }

    /// The digest of all entries held here.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.root.digest().total()
    }

    /// All entries held here, as a view.
    #[must_use]
    pub fn root(&self) -> &View {
        &self.root
    }

    /// What a gateway group may see. A group without a resource has an empty view.
    #[must_use]
    pub fn view(&self, group: &str) -> View {
        self.groups.as_ref().and_then(|groups| groups.get(group).cloned()).unwrap_or_default()
    }

    /// The gateway groups that ever had a resource.
    pub fn groups(&self) -> impl Iterator<Item = &Text> {
        self.groups.iter().flat_map(OrdMap::keys)
    }

    /// How many resources there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no resource.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The entry of a resource.
    #[must_use]
    pub fn get(&self, key: &ResourceKey) -> Option<&Arc<Entry>> {
        self.entries.get(key).map(|stored| &stored.entry)
    }

    /// A resource's last change.
    #[must_use]
    pub fn modified(&self, key: &ResourceKey) -> Option<Revision> {
        self.get(key).map(|entry| entry.modified.revision)
    }

    /// Every resource, by kind and id.
    pub fn iter(&self) -> impl Iterator<Item = (&ResourceKey, &Arc<Entry>)> {
        self.entries.iter().map(|(key, stored)| (key, &stored.entry))
    }

    /// The resources of one kind, by id.
    pub fn of_kind(&self, kind: &Kind) -> impl Iterator<Item = (&ResourceKey, &Arc<Entry>)> {
        let first = ResourceKey { kind: kind.clone(), id: Text::default() };
        let kind = kind.clone();
        self.entries
            .range(first..)
            .take_while(move |(key, _)| key.kind == kind)
            .map(|(key, stored)| (key, &stored.entry))
    }

    /// What refers to a resource, by key.
    pub fn referrers(&self, target: &ResourceKey) -> impl Iterator<Item = &ResourceKey> {
        let first = (target.clone(), ResourceKey::new("", ""));
        let target = target.clone();
        self.references.range(first..).take_while(move |(to, _)| *to == target).map(|(_, from)| from)
    }

    /// Who holds a value that must be unique.
    #[must_use]
    pub fn claimed_by(&self, claim: &Claim) -> Option<&ResourceKey> {
        self.claims.get(claim)
    }

    /// The resources that go away by themselves some time.
    pub fn expiring(&self) -> impl Iterator<Item = &ResourceKey> {
        self.expiring.iter()
    }

    /// The digest that the state would have after `changes`.
    #[must_use]
    pub fn digest_after(&self, changes: &[Change]) -> Digest {
        let values: Vec<Option<Digest>> = changes.iter().map(value_of).collect();
        self.digest_with(changes, &values)
    }

    fn digest_with(&self, changes: &[Change], values: &[Option<Digest>]) -> Digest {
        let mut digest = self.digest();
        for (change, value) in changes.iter().zip(values) {
            if let Some(stored) = self.entries.get(&change.key) {
                digest.sub(&stored.value);
            }
            if let Some(value) = value {
                digest.add(value);
            }
        }
        digest
    }

    /// Takes a step. This is the only way a state changes, on every kind of node.
    ///
    /// Where views are served, the step of every view that it touches is returned, by group.
    ///
    /// # Errors
    /// [`EvolveError`] when the delta does not start from the state's last change, does not lead forward, or ends in
    /// another digest than it names; the state is then as before.
    pub fn evolve(&mut self, delta: &Delta) -> Result<Vec<(Text, Delta)>, EvolveError> {
        if delta.prev != self.changed_at() {
            return Err(EvolveError::Gap { prev: delta.prev, changed_at: self.changed_at() });
        }
        if delta.position.compare(&self.position)? != Ordering::Greater {
            return Err(EvolveError::NotNewer { to: delta.position, at: self.position });
        }
        // Everything is checked before anything is changed, so that the change itself can be made in place.
        let values: Vec<Option<Digest>> = delta.changes.iter().map(value_of).collect();
        let digest = self.digest_with(&delta.changes, &values);
        if digest != delta.digest {
            return Err(EvolveError::Digest { position: delta.position, here: digest, there: delta.digest });
        }
        let mut touched = BTreeMap::new();
        for (change, value) in delta.changes.iter().zip(values) {
            self.change(change, value, delta.position, &mut touched);
        }
        self.position = delta.position;
        self.root.touch(delta.position);
        if let Some(cause) = &delta.cause {
            self.chain = self.chain.next(&delta.position, &(cause, &delta.changes));
        }
        Ok(touched
            .into_iter()
            .map(|(group, Touched { prev, changes })| {
                let digest = self.view(&group).digest().total();
                (group, Delta { prev, position: delta.position, changes, digest, cause: None })
            })
            .collect())
    }

    /// Learns that nothing changed in this view up to `position` (a heartbeat's truthful bookmark).
    ///
    /// # Errors
    /// [`EvolveError::NotNewer`] when that is behind, [`EvolveError::Epoch`] when it cannot be compared.
    pub fn bookmark(&mut self, position: Position) -> Result<(), EvolveError> {
        if position.compare(&self.position)? == Ordering::Less {
            return Err(EvolveError::NotNewer { to: position, at: self.position });
        }
        self.position = position;
        Ok(())
    }

    /// Names the life of the cluster that this (empty) state begins.
    pub fn begin_epoch(&mut self, epoch: crate::Epoch) {
        debug_assert!(self.is_empty() && self.position.revision == 0, "an epoch begins before the first change");
        self.position.epoch = epoch;
        self.root.touch(self.position);
    }

    /// A state with these entries, for example from a snapshot. `served` gives the tombstones of each group where deltas
    /// are served from it.
    #[must_use]
    pub fn from_entries(
        base: Self,
        position: Position,
        changed_at: Position,
        chain: Chain,
        entries: impl IntoIterator<Item = (ResourceKey, Arc<Entry>)>,
    ) -> Self {
        let mut state = Self { position, chain, ..base };
        for (key, entry) in entries {
            let change = Change { key, entry: Some(entry) };
            state.change(&change, value_of(&change), position, &mut BTreeMap::new());
        }
        state.root.touch(changed_at);
        state
    }

    /// Restores what a snapshot says of a group's view beyond its entries.
    pub(crate) fn restore_view(
        &mut self,
        group: &Text,
        changed_at: Position,
        horizon: Revision,
        tombstones: impl IntoIterator<Item = (ResourceKey, Revision)>,
    ) {
        let Some(groups) = &mut self.groups else { return };
        let mut view = groups.get(group).cloned().unwrap_or_else(View::indexed);
        view.restore(changed_at, horizon, tombstones);
        groups.insert(group.clone(), view);
    }

    /// What leads from `old` to this state, sorted by key.
    #[must_use]
    pub fn changes_since(&self, old: &Self) -> Vec<Change> {
        use imbl::ordmap::DiffItem;
        old.entries
            .diff(&self.entries)
            .map(|item| match item {
                DiffItem::Add(key, stored) | DiffItem::Update { new: (key, stored), .. } => {
                    Change { key: key.clone(), entry: Some(stored.entry.clone()) }
                }
                DiffItem::Remove(key, _) => Change { key: key.clone(), entry: None },
            })
            .collect()
    }

    fn change(
        &mut self,
        change: &Change,
        value: Option<Digest>,
        position: Position,
        touched: &mut BTreeMap<Text, Touched>,
    ) {
        let key = &change.key;
        let new = change.entry.clone().zip(value).map(|(entry, value)| Stored { entry, value });
        let old = match &new {
            Some(stored) => self.entries.insert(key.clone(), stored.clone()),
            None => self.entries.remove(key),
        };
        if let Some(old) = &old {
            for target in &old.entry.references {
                self.references.remove(&(target.clone(), key.clone()));
            }
            for claim in &old.entry.claims {
                // In one commit a value may pass from one resource to another, whichever stands first.
                if self.claims.get(claim) == Some(key) {
                    self.claims.remove(claim);
                }
            }
            if old.entry.ttl_seconds.is_some() {
                self.expiring.remove(key);
            }
        }
        if let Some(new) = &new {
            for target in &new.entry.references {
                self.references.insert((target.clone(), key.clone()));
            }
            for claim in &new.entry.claims {
                self.claims.insert(claim.clone(), key.clone());
            }
            if new.entry.ttl_seconds.is_some() {
                self.expiring.insert(key.clone());
            }
        }
        self.root.change(key, old.as_ref(), new.as_ref(), position);
        self.change_groups(key, old.as_ref(), new.as_ref(), position, touched);
    }

    fn change_groups(
        &mut self,
        key: &ResourceKey,
        old: Option<&Stored>,
        new: Option<&Stored>,
        position: Position,
        touched: &mut BTreeMap<Text, Touched>,
    ) {
        let Some(groups) = &mut self.groups else { return };
        let of = |stored: Option<&Stored>| stored.map(|s| s.entry.groups.clone()).unwrap_or_default();
        let (before, after) = (of(old), of(new));
        let mut concerned: Vec<&Text> = before.iter().chain(&after).collect();
        concerned.sort_unstable();
        concerned.dedup();
        for group in concerned {
            let view = groups.entry(group.clone()).or_insert_with(View::indexed);
            let old = old.filter(|_| before.contains(group));
            let new = new.filter(|_| after.contains(group));
            let step = touched
                .entry(group.clone())
                .or_insert_with(|| Touched { prev: view.changed_at(), changes: Vec::new() });
            step.changes.push(Change { key: key.clone(), entry: new.map(|new| new.entry.clone()) });
            view.change(key, old, new, position);
            view.touch(position);
        }
    }
}

/// What a step means for one view.
struct Touched {
    prev: Position,
    changes: Vec<Change>,
}

/// An entry's value in the digest.
fn value_of(change: &Change) -> Option<Digest> {
    change.entry.as_ref().map(|entry| Digest::of_entry(&change.key, entry))
}

impl Entry {
    /// Whether a gateway group may see it.
    #[must_use]
    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// Equal when everything that is stored is equal; indexes follow from it.
impl PartialEq for ConfigState {
    fn eq(&self, other: &Self) -> bool {
        self.position == other.position
            && self.chain == other.chain
            && self.digest() == other.digest()
            && self.entries.len() == other.entries.len()
            && self.iter().eq(other.iter())
    }
}
