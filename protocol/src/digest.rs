//! Digests: cheap proofs that two holders of one position hold the same thing.
//!
//! A state's digest is a sum, so that one change costs one subtraction and one addition however much there is. It
//! guards against faults, not against forgers (sums of hashes can be forged with effort); snapshots are sealed for that.

use std::fmt;

use bincode::{Decode, Encode};
use sha2::{Digest as _, Sha256};

use crate::entry::Entry;
use crate::key::ResourceKey;
use crate::position::Position;

/// How many parts a state's digest is kept in. A mismatch is then repaired by sending the parts that differ.
pub const BUCKETS: usize = 256;

/// A number modulo 2^256, little endian: one SHA-256 value, or the sum of many.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Digest(pub [u8; 32]);

/// A hash of the whole history of full deltas up to a revision. Two holders with one revision and different chains are
/// different; one with a lower revision and a chain that the other also passed through is only behind.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub struct Chain(pub [u8; 32]);

impl Digest {
    /// The value of one entry under its key.
    #[must_use]
    pub fn of_entry(key: &ResourceKey, entry: &Entry) -> Self {
        let mut hash = Sha256::new();
        hash_into(&mut hash, key);
        hash_into(&mut hash, entry);
        Self(hash.finalize().into())
    }

    /// The value of any encodable thing.
    #[must_use]
    pub fn of<T: Encode>(value: &T) -> Self {
        let mut hash = Sha256::new();
        hash_into(&mut hash, value);
        Self(hash.finalize().into())
    }

    /// Adds `other` modulo 2^256.
    pub fn add(&mut self, other: &Self) {
        let mut carry = false;
        for (a, b) in self.limbs_mut().zip(other.limbs()) {
            let (sum, c1) = read(a).overflowing_add(b);
            let (sum, c2) = sum.overflowing_add(u64::from(carry));
            a.copy_from_slice(&sum.to_le_bytes());
            carry = c1 | c2;
        }
    }

    /// Subtracts `other` modulo 2^256.
    pub fn sub(&mut self, other: &Self) {
        let mut borrow = false;
        for (a, b) in self.limbs_mut().zip(other.limbs()) {
            let (diff, b1) = read(a).overflowing_sub(b);
            let (diff, b2) = diff.overflowing_sub(u64::from(borrow));
            a.copy_from_slice(&diff.to_le_bytes());
            borrow = b1 | b2;
        }
    }

    fn limbs(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.chunks_exact(8).map(read)
    }

    fn limbs_mut(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.0.chunks_exact_mut(8)
    }
}

fn read(limb: &[u8]) -> u64 {
    u64::from_le_bytes(limb.try_into().expect("a limb has eight bytes"))
}

impl Chain {
    /// The chain after a full delta, of which `what` is everything that the record keeps: cause and changes.
    #[must_use]
    pub fn next<T: Encode>(&self, position: &Position, what: &T) -> Self {
        let mut hash = Sha256::new();
        hash.update(self.0);
        hash_into(&mut hash, position);
        hash_into(&mut hash, what);
        Self(hash.finalize().into())
    }
}

/// The digest of a set of entries, kept by bucket and in total.
///
/// The buckets are behind an `Arc`, so that a clone of a state costs nothing; the first change after a clone copies 8 KiB.
#[derive(Clone, PartialEq, Eq)]
pub struct BucketedDigest {
    total: Digest,
    buckets: std::sync::Arc<[Digest; BUCKETS]>,
}

impl Default for BucketedDigest {
    fn default() -> Self {
        Self { total: Digest::default(), buckets: std::sync::Arc::new([Digest::default(); BUCKETS]) }
    }
}

impl BucketedDigest {
    /// Counts an entry's value in.
    pub fn add(&mut self, key: &ResourceKey, value: &Digest) {
        self.total.add(value);
        std::sync::Arc::make_mut(&mut self.buckets)[bucket_of(key)].add(value);
    }

    /// Counts an entry's value out.
    pub fn sub(&mut self, key: &ResourceKey, value: &Digest) {
        self.total.sub(value);
        std::sync::Arc::make_mut(&mut self.buckets)[bucket_of(key)].sub(value);
    }

    /// The sum over all entries.
    #[must_use]
    pub fn total(&self) -> Digest {
        self.total
    }

    /// The sums by bucket.
    #[must_use]
    pub fn buckets(&self) -> &[Digest; BUCKETS] {
        &self.buckets
    }
}

/// The bucket that a key belongs to: the first byte of the SHA-256 of the encoded key, below [`BUCKETS`].
#[must_use]
pub fn bucket_of(key: &ResourceKey) -> usize {
    let mut hash = Sha256::new();
    hash_into(&mut hash, key);
    usize::from(hash.finalize()[0])
}

/// Feeds the stored form of `value` into a hash without building it in memory.
fn hash_into<T: Encode>(hash: &mut Sha256, value: &T) {
    struct Sink<'a>(&'a mut Sha256);
    impl bincode::enc::write::Writer for Sink<'_> {
        fn write(&mut self, bytes: &[u8]) -> Result<(), bincode::error::EncodeError> {
            self.0.update(bytes);
            Ok(())
        }
    }
    bincode::encode_into_writer(value, Sink(hash), crate::codec::LAYOUT)
        .expect("hashing has no IO to fail, and every type here encodes");
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Display for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for Chain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for BucketedDigest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BucketedDigest").field("total", &self.total).finish_non_exhaustive()
    }
}

/// Writes bytes as lower-case hexadecimal digits.
pub(crate) fn write_hex(f: &mut fmt::Formatter<'_>, bytes: &[u8]) -> fmt::Result {
    bytes.iter().try_for_each(|b| write!(f, "{b:02x}"))
}

/// Reads exactly `N` bytes from `2 * N` hexadecimal digits.
pub(crate) fn parse_hex<const N: usize>(s: &str) -> Option<[u8; N]> {
    let s = s.as_bytes();
    if s.len() != 2 * N {
        return None;
    }
    let digit = |c: u8| char::from(c).to_digit(16).and_then(|d| u8::try_from(d).ok());
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(s.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_sum_forgets_the_order_and_undoes(values in prop::collection::vec(any::<[u8; 32]>(), 0..8)) {
            let mut forward = Digest::default();
            let mut backward = Digest::default();
            for v in &values { forward.add(&Digest(*v)); }
            for v in values.iter().rev() { backward.add(&Digest(*v)); }
            prop_assert_eq!(forward, backward);
            for v in &values { forward.sub(&Digest(*v)); }
            prop_assert_eq!(forward, Digest::default());
        }
    }

    #[test]
    fn carries_and_borrows_cross_limbs() {
        let mut one = [0; 32];
        one[0] = 1;
        let mut d = Digest([0xff; 32]);
        d.add(&Digest(one));
        assert_eq!(d, Digest::default(), "2^256 - 1 + 1 wraps to 0");
        d.sub(&Digest(one));
        assert_eq!(d, Digest([0xff; 32]), "0 - 1 wraps to 2^256 - 1");
    }

    #[test]
    fn the_chain_depends_on_every_step() {
        let at = |revision| Position { revision, ..Position::default() };
        let a = Chain::default().next(&at(1), &"x").next(&at(2), &"y");
        let b = Chain::default().next(&at(1), &"y").next(&at(2), &"x");
        assert_ne!(a, b);
    }
}
