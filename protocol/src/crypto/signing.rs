//! Ed25519: who vouches for what lies in the archive or is handed over as a file.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use sha2::{Digest as _, Sha256};

use super::key_bytes;
use crate::digest::write_hex;
use crate::snapshot::{Seal, SealError, Sealer, Verifier};
use crate::text::Text;

/// What every signed message begins with, so that a signature made here is good for nothing else.
const CONTEXT: &[u8] = b"holdfast archive v1\0";

/// The digits of a key's id.
const KEY_ID_DIGITS: usize = 16;

/// A key that signs.
pub struct SigningKey {
    pair: Ed25519KeyPair,
    public: VerifyingKey,
}

/// A public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VerifyingKey([u8; 32]);

/// The public keys whose signatures count.
#[derive(Clone, Default, PartialEq, Eq, Debug)]
pub struct TrustedKeys(BTreeMap<Text, VerifyingKey>);

/// A text that is no key.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("an Ed25519 key is 64 hexadecimal digits")]
pub struct BadKey;

impl SigningKey {
    /// The key with this seed (RFC 8032, §5.1.5).
    #[must_use]
    pub fn from_seed(seed: [u8; 32]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).expect("any 32 bytes are a seed");
        let mut public = [0; 32];
        public.copy_from_slice(pair.public_key().as_ref());
        Self { pair, public: VerifyingKey(public) }
    }

    /// The key whose seed is this text: 64 hexadecimal digits.
    ///
    /// # Errors
    /// [`BadKey`].
    pub fn parse(seed: &str) -> Result<Self, BadKey> {
        key_bytes(seed).map(Self::from_seed).ok_or(BadKey)
    }

    /// The public half.
    #[must_use]
    pub fn public(&self) -> VerifyingKey {
        self.public
    }
}

impl VerifyingKey {
    /// The key of these bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Its short name: the first 16 hexadecimal digits of its SHA-256.
    #[must_use]
    pub fn id(&self) -> Text {
        let mut hex = crate::Digest(Sha256::digest(self.0).into()).to_string();
        hex.truncate(KEY_ID_DIGITS);
        hex.as_str().into()
    }
}

impl TrustedKeys {
    /// These keys and no others.
    #[must_use]
    pub fn new(keys: impl IntoIterator<Item = VerifyingKey>) -> Self {
        Self(keys.into_iter().map(|key| (key.id(), key)).collect())
    }

    /// Whether no signature counts.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

fn message(sha256: &[u8; 32]) -> Vec<u8> {
    [CONTEXT, sha256].concat()
}

impl Sealer for SigningKey {
    fn seal(&self, sha256: &[u8; 32]) -> Seal {
        let mut signature = [0; 64];
        signature.copy_from_slice(self.pair.sign(&message(sha256)).as_ref());
        Seal::Signature { key_id: self.public.id(), signature }
    }
}

impl Verifier for TrustedKeys {
    fn verify(&self, sha256: &[u8; 32], seal: &Seal) -> Result<(), SealError> {
        let Seal::Signature { key_id, signature } = seal else { return Err(SealError::Missing) };
        let key = self.0.get(key_id).ok_or_else(|| SealError::UnknownKey(key_id.clone()))?;
        let key = UnparsedPublicKey::new(&ED25519, key.0);
        key.verify(&message(sha256), signature).map_err(|_| SealError::Wrong)
    }
}

/// The public half is printed.
impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey(*** of {})", self.public)
    }
}

impl fmt::Display for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_hex(f, &self.0)
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for VerifyingKey {
    type Err = BadKey;
    fn from_str(s: &str) -> Result<Self, BadKey> {
        key_bytes(s).map(Self).ok_or(BadKey)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_pair_is_the_one_of_rfc_8032() {
        // RFC 8032, §7.1, test 1.
        let seed = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
        let public = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
        let key = SigningKey::parse(seed).unwrap();
        assert_eq!(key.public().to_string(), public);
        assert_eq!(public.parse(), Ok(key.public()));
        assert_eq!("zz".parse::<VerifyingKey>(), Err(BadKey));
        assert!(!format!("{key:?}").contains("9d61"));
    }

    #[test]
    fn only_what_a_trusted_key_has_signed_counts() {
        let (ours, other) = (SigningKey::from_seed([1; 32]), SigningKey::from_seed([2; 32]));
        let trusted = TrustedKeys::new([ours.public()]);
        let seal = ours.seal(&[7; 32]);
        assert_eq!(trusted.verify(&[7; 32], &seal), Ok(()));
        assert_eq!(trusted.verify(&[8; 32], &seal), Err(SealError::Wrong));
        assert_eq!(trusted.verify(&[7; 32], &Seal::None), Err(SealError::Missing));
        assert_eq!(trusted.verify(&[7; 32], &Seal::Mac { tag: [0; 32] }), Err(SealError::Missing));
        assert_eq!(trusted.verify(&[7; 32], &other.seal(&[7; 32])), Err(SealError::UnknownKey(other.public().id())));
        // Another key under a trusted name is no use.
        let Seal::Signature { signature, .. } = other.seal(&[7; 32]) else { unreachable!() };
        let forged = Seal::Signature { key_id: ours.public().id(), signature };
        assert_eq!(trusted.verify(&[7; 32], &forged), Err(SealError::Wrong));
        assert!(TrustedKeys::default().is_empty());
    }
}
