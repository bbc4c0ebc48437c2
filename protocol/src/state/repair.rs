//! Mending a state whose digest is not the sender's: the buckets that differ are replaced, nothing restarts.

use std::sync::Arc;

use bincode::{Decode, Encode};

use super::ConfigState;
use crate::codec::Record;
use crate::delta::Change;
use crate::digest::{BUCKETS, Digest, bucket_of};
use crate::entry::Entry;
use crate::key::ResourceKey;
use crate::position::Position;

/// Everything that some buckets of a view hold at one position.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub struct BucketContents {
    /// The position.
    pub position: Position,
    /// The view's last change then.
    pub changed_at: Position,
    /// The view's digest then.
    pub digest: Digest,
    /// Which buckets, ascending.
    pub buckets: Vec<u16>,
    /// All their entries, by key.
    pub entries: Vec<(ResourceKey, Arc<Entry>)>,
}

impl Record for BucketContents {
    const TAG: [u8; 4] = *b"bckt";
    const VERSION: u16 = 1;
    const PAYLOAD_BYTES_MAX: usize = 512 << 20;
}

/// Replacing buckets did not lead to the sender's digest: only the full state helps.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("after the repair to {position} the digest is {here}, it should be {there}")]
pub struct RepairError {
    /// The position of the repair.
    pub position: Position,
    /// The digest here.
    pub here: Digest,
    /// The digest that the repair names.
    pub there: Digest,
}

impl ConfigState {
    /// The buckets of a view in which the reader's sums differ, with everything in them.
    #[must_use]
    pub fn bucket_contents(&self, group: &str, theirs: &[Digest; BUCKETS]) -> BucketContents {
        let view = self.view(group);
        let ours = view.digest().buckets();
        let differs: [bool; BUCKETS] = std::array::from_fn(|bucket| ours[bucket] != theirs[bucket]);
        let buckets = (0u16..).zip(differs).filter(|(_, differs)| *differs).map(|(bucket, _)| bucket).collect();
        let entries = self
            .iter()
            .filter(|(key, entry)| entry.is_in(group) && differs[bucket_of(key)])
            .map(|(key, entry)| (key.clone(), entry.clone()))
            .collect();
        BucketContents {
            position: self.position(),
            changed_at: view.changed_at(),
            digest: view.digest().total(),
            buckets,
            entries,
        }
    }

    /// Replaces some buckets; returns what that changed, sorted by key.
    ///
    /// # Errors
    /// [`RepairError`] when the result is not what the sender has; the state is then as before.
    pub fn repair(&mut self, repair: &BucketContents) -> Result<Vec<Change>, RepairError> {
        let mut replaced = [false; BUCKETS];
        for bucket in repair.buckets.iter().map(|bucket| usize::from(*bucket)).filter(|bucket| *bucket < BUCKETS) {
            replaced[bucket] = true;
        }
        let kept = self.iter().filter(|(key, _)| !replaced[bucket_of(key)]).map(|(k, e)| (k.clone(), e.clone()));
        let entries = kept.chain(repair.entries.iter().cloned());
        let mended = Self::from_entries(Self::following(), repair.position, repair.changed_at, self.chain(), entries);
        if mended.digest() != repair.digest {
            return Err(RepairError { position: repair.position, here: mended.digest(), there: repair.digest });
        }
        let changes = mended.changes_since(self);
        *self = mended;
        Ok(changes)
    }
}
