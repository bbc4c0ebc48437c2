//! What a plugin remembers by key: shared by all workers of a proxy, behind locks of which each guards a part of the keys.

use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::sync::{Mutex, PoisonError};

/// Locks among which keys are spread.
const SHARDS: usize = 16;
/// Keys that one lock guards. When there are more at once, what is not over is forgotten too: it bounds the memory, and
/// whoever comes with so many keys has found a way around the limit anyway.
const SHARD_KEYS_MAX: usize = 8192;

/// See the module.
#[derive(Debug)]
pub(crate) struct Keyed<T> {
    hasher: RandomState,
    shards: [Mutex<HashMap<Box<[u8]>, T>>; SHARDS],
}

impl<T> Default for Keyed<T> {
    fn default() -> Self {
        Self { hasher: RandomState::new(), shards: std::array::from_fn(|_| Mutex::default()) }
    }
}

impl<T: Default> Keyed<T> {
    /// Works on what is remembered under a key. What `is_over` goes first when there are too many keys.
    pub(crate) fn with<R>(&self, key: &[u8], is_over: impl Fn(&T) -> bool, work: impl FnOnce(&mut T) -> R) -> R {
        #[expect(clippy::cast_possible_truncation, reason = "any few bits of a hash are as good as others")]
        let shard = &self.shards[self.hasher.hash_one(key) as usize % SHARDS];
        // What is remembered is whole after every step: a panic elsewhere cannot have left half of it.
        let mut known = shard.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = known.get_mut(key) {
            return work(value);
        }
        if known.len() >= SHARD_KEYS_MAX {
            known.retain(|_, value| !is_over(value));
            if known.len() >= SHARD_KEYS_MAX {
                known.clear();
            }
        }
        work(known.entry(key.into()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_never_come_again_do_not_pile_up() {
        for all_over in [false, true] {
            let keyed = Keyed::<u64>::default();
            for n in 0..(SHARDS * SHARD_KEYS_MAX * 2) as u64 {
                keyed.with(&n.to_le_bytes(), |_| all_over, |value| *value = n);
            }
            let kept: usize = keyed.shards.iter().map(|shard| shard.lock().unwrap().len()).sum();
            assert!(kept <= SHARDS * SHARD_KEYS_MAX, "{kept}");
        }
    }
}
