//! What a plugin remembers by key: shared by all workers of a proxy, behind locks of which each guards a part of the keys.
//!
//! Clients choose keys, and how long they are: what is kept of one is a hash of 128 bits, whose secret a client does not
//! know, and how many are kept is bounded.

use std::hash::{BuildHasher, Hash, RandomState};
use std::sync::{Mutex, PoisonError};

use lru::LruCache;

/// Locks among which keys are spread.
const SHARDS: usize = 16;
/// Keys that one lock guards. When one more comes, the key is forgotten that was not asked for the longest.
const SHARD_KEYS_MAX: usize = 8192;

/// See the module.
#[derive(Debug)]
pub(crate) struct Keyed<T> {
    hashers: [RandomState; 2],
    shards: [Mutex<LruCache<u128, T, RandomState>>; SHARDS],
}

impl<T> Default for Keyed<T> {
    fn default() -> Self {
        Self {
            hashers: std::array::from_fn(|_| RandomState::new()),
            // It takes memory as keys come, not all of it at once.
            shards: std::array::from_fn(|_| Mutex::new(LruCache::unbounded_with_hasher(RandomState::new()))),
        }
    }
}

impl<T> Keyed<T> {
    /// Works on what is remembered under a key; `None`: nothing is.
    pub(crate) fn look<R>(&self, key: impl Hash, work: impl FnOnce(&T) -> R) -> Option<R> {
        let key = self.hash(key);
        self.shard(key, |known| known.get(&key).map(work))
    }

    /// Works on what is remembered under a key, which is something from then on.
    pub(crate) fn with<R>(&self, key: impl Hash, work: impl FnOnce(&mut T) -> R) -> R
    where
        T: Default,
    {
        let key = self.hash(key);
        self.shard(key, |known| {
            if !known.contains(&key) && known.len() >= SHARD_KEYS_MAX {
                known.pop_lru();
            }
            work(known.get_or_insert_mut(key, T::default))
        })
    }

    fn hash(&self, key: impl Hash) -> u128 {
        let [high, low] = &self.hashers;
        (u128::from(high.hash_one(&key)) << 64) | u128::from(low.hash_one(&key))
    }

    fn shard<R>(&self, key: u128, work: impl FnOnce(&mut LruCache<u128, T, RandomState>) -> R) -> R {
        let shard = &self.shards[key as usize % SHARDS];
        // What is remembered is whole after every step: a panic elsewhere cannot have left half of it.
        work(&mut shard.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_never_come_again_do_not_pile_up_and_push_out_none_that_does() {
        let keyed = Keyed::<u64>::default();
        keyed.with("often", |value| *value = 7);
        for n in 0..(SHARDS * SHARD_KEYS_MAX * 2) as u64 {
            keyed.with(n, |value| *value = n);
            assert_eq!(keyed.look("often", |value| *value), Some(7), "after {n}");
        }
        let kept: usize = keyed.shards.iter().map(|shard| shard.lock().unwrap().len()).sum();
        assert_eq!(kept, SHARDS * SHARD_KEYS_MAX);
        assert_eq!(keyed.look(0_u64, |value| *value), None, "the oldest has gone");
    }

    #[test]
    fn to_look_remembers_nothing() {
        let keyed = Keyed::<u64>::default();
        assert_eq!(keyed.look("a", |value| *value), None);
        assert!(keyed.shards.iter().all(|shard| shard.lock().unwrap().is_empty()));
    }
}
