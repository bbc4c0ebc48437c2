//! Who vouches for a snapshot.

use bincode::{Decode, Encode};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use crate::text::Text;

/// What vouches for a snapshot's hash.
#[derive(Clone, PartialEq, Eq, Debug, Encode, Decode)]
pub enum Seal {
    /// Nothing: the way it came vouches for it (a Raft peer on an authenticated link).
    None,
    /// HMAC-SHA256 under a key of this node: a proxy's own disk.
    Mac {
        /// The code.
        tag: [u8; 32],
    },
    /// An Ed25519 signature: the archive, and files that are handed over.
    Signature {
        /// Which key signed.
        key_id: Text,
        /// The signature.
        signature: [u8; 64],
    },
}

/// Seals a snapshot's hash.
pub trait Sealer {
    /// The seal for this hash.
    fn seal(&self, sha256: &[u8; 32]) -> Seal;
}

/// Decides whether a seal is good enough.
pub trait Verifier {
    /// Checks a seal.
    ///
    /// # Errors
    /// Why it does not count.
    fn verify(&self, sha256: &[u8; 32], seal: &Seal) -> Result<(), SealError>;
}

/// Why a seal does not count.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SealError {
    /// Another kind of seal is required.
    #[error("it is not sealed as required here")]
    Missing,
    /// The seal does not fit the content.
    #[error("its seal does not fit its content")]
    Wrong,
    /// The key that signed it is not trusted.
    #[error("it is signed with key {0:?}, which is not trusted")]
    UnknownKey(Text),
}

/// No seal is made, and none is required.
#[derive(Clone, Copy, Debug)]
pub struct Unsealed;

impl Sealer for Unsealed {
    fn seal(&self, _: &[u8; 32]) -> Seal {
        Seal::None
    }
}

impl Verifier for Unsealed {
    fn verify(&self, _: &[u8; 32], _: &Seal) -> Result<(), SealError> {
        Ok(())
    }
}

/// A key of one node, for what it keeps on its own disk.
#[derive(Clone)]
pub struct MacKey(pub [u8; 32]);

impl MacKey {
    /// HMAC-SHA256 of the parts, one after the other.
    #[must_use]
    pub fn tag(&self, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        for part in parts {
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }

    /// Whether `tag` is the code of the parts, compared in constant time.
    #[must_use]
    pub fn fits(&self, parts: &[&[u8]], tag: &[u8; 32]) -> bool {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        for part in parts {
            mac.update(part);
        }
        mac.verify_slice(tag).is_ok()
    }
}

impl Sealer for MacKey {
    fn seal(&self, sha256: &[u8; 32]) -> Seal {
        Seal::Mac { tag: self.tag(&[sha256]) }
    }
}

impl Verifier for MacKey {
    fn verify(&self, sha256: &[u8; 32], seal: &Seal) -> Result<(), SealError> {
        let Seal::Mac { tag } = seal else { return Err(SealError::Missing) };
        if self.fits(&[sha256], tag) { Ok(()) } else { Err(SealError::Wrong) }
    }
}

/// Keys are not printed.
impl std::fmt::Debug for MacKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("MacKey(***)")
    }
}
