//! Signatures of tokens by public keys (RFC 7518 §3.3 to §3.5, RFC 8037).

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ECDSA_P521_SHA512_FIXED, ED25519, ParsedPublicKey,
    RSA_PKCS1_2048_8192_SHA256, RSA_PKCS1_2048_8192_SHA384, RSA_PKCS1_2048_8192_SHA512, RSA_PSS_2048_8192_SHA256,
    RSA_PSS_2048_8192_SHA384, RSA_PSS_2048_8192_SHA512, VerificationAlgorithm,
};
use rustls_pki_types::SubjectPublicKeyInfoDer;
use rustls_pki_types::pem::PemObject;

/// How a token is signed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(missing_docs, reason = "the names are those of RFC 7518 and RFC 8037")]
pub enum TokenAlgorithm {
    Rs256,
    Rs384,
    Rs512,
    Ps256,
    Ps384,
    Ps512,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

/// A public key, for one algorithm.
#[derive(Clone)]
pub struct TokenKey {
    algorithm: TokenAlgorithm,
    der: Box<[u8]>,
    parsed: Arc<ParsedPublicKey>,
}

/// Why a text is no public key for an algorithm.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadTokenKey {
    /// It is no public key in PEM.
    #[error("it is no PEM text of a public key (BEGIN PUBLIC KEY)")]
    NoKey,
    /// It is one of another kind, or too short.
    #[error(
        "it is no key for this algorithm: RSA needs 2048 to 8192 bits, ES256, ES384 and ES512 their own curve each"
    )]
    Unfit,
}

impl TokenAlgorithm {
    fn verification(self) -> &'static dyn VerificationAlgorithm {
        match self {
            Self::Rs256 => &RSA_PKCS1_2048_8192_SHA256,
            Self::Rs384 => &RSA_PKCS1_2048_8192_SHA384,
            Self::Rs512 => &RSA_PKCS1_2048_8192_SHA512,
            Self::Ps256 => &RSA_PSS_2048_8192_SHA256,
            Self::Ps384 => &RSA_PSS_2048_8192_SHA384,
            Self::Ps512 => &RSA_PSS_2048_8192_SHA512,
            Self::Es256 => &ECDSA_P256_SHA256_FIXED,
            Self::Es384 => &ECDSA_P384_SHA384_FIXED,
            Self::Es512 => &ECDSA_P521_SHA512_FIXED,
            Self::EdDsa => &ED25519,
        }
    }
}

impl TokenKey {
    /// Reads a public key in PEM.
    ///
    /// # Errors
    /// [`BadTokenKey`].
    pub fn parse(algorithm: TokenAlgorithm, pem: &str) -> Result<Self, BadTokenKey> {
        let der = SubjectPublicKeyInfoDer::from_pem_slice(pem.as_bytes()).map_err(|_| BadTokenKey::NoKey)?;
        let parsed = ParsedPublicKey::new(algorithm.verification(), &der).map_err(|_| BadTokenKey::Unfit)?;
        Ok(Self { algorithm, der: der.as_ref().into(), parsed: Arc::new(parsed) })
    }

    /// The algorithm that it is for.
    #[must_use]
    pub fn algorithm(&self) -> TokenAlgorithm {
        self.algorithm
    }

    /// Whether its private half has signed this text.
    #[must_use]
    pub fn verifies(&self, text: &[u8], signature: &[u8]) -> bool {
        self.parsed.verify_sig(text, signature).is_ok()
    }
}

impl PartialEq for TokenKey {
    fn eq(&self, other: &Self) -> bool {
        (self.algorithm, &self.der) == (other.algorithm, &other.der)
    }
}

impl fmt::Debug for TokenKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("TokenKey").field(&self.algorithm).finish()
    }
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::rand::SystemRandom;
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _, RSA_PSS_SHA256, RsaKeyPair,
    };
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ED25519, PublicKeyData};

    use super::*;

    #[test]
    fn a_key_is_for_one_algorithm_and_verifies_what_its_other_half_signed() {
        let random = SystemRandom::new();
        let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
        let key = TokenKey::parse(TokenAlgorithm::Es256, &pair.public_key_pem()).unwrap();
        let signer = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, &pair.serialize_der()).unwrap();
        assert_eq!(signer.public_key().as_ref(), pair.der_bytes());
        let signature = signer.sign(&random, b"text").unwrap();
        assert!(key.verifies(b"text", signature.as_ref()) && !key.verifies(b"another", signature.as_ref()));
        assert!(!key.verifies(b"text", &[]) && !key.verifies(b"text", &[0; 64]));
        let other = KeyPair::generate_for(&PKCS_ED25519).unwrap().public_key_pem();
        assert!(TokenKey::parse(TokenAlgorithm::EdDsa, &other).is_ok());
        for (algorithm, pem, why) in [
            (TokenAlgorithm::Es256, other.as_str(), BadTokenKey::Unfit),
            (TokenAlgorithm::Es384, &pair.public_key_pem(), BadTokenKey::Unfit),
            (TokenAlgorithm::Rs256, &pair.public_key_pem(), BadTokenKey::Unfit),
            (TokenAlgorithm::Es256, "x", BadTokenKey::NoKey),
            (TokenAlgorithm::Es256, &pair.serialize_pem(), BadTokenKey::NoKey),
        ] {
            assert_eq!(TokenKey::parse(algorithm, pem).unwrap_err(), why, "{algorithm:?}");
        }
    }

    #[test]
    fn rsa_with_both_paddings() {
        let random = SystemRandom::new();
        let pair = KeyPair::generate_rsa_for(&rcgen::PKCS_RSA_SHA256, rcgen::RsaKeySize::_2048).unwrap();
        let signer = RsaKeyPair::from_pkcs8(&pair.serialize_der()).unwrap();
        for (algorithm, padding) in [
            (TokenAlgorithm::Rs256, &aws_lc_rs::signature::RSA_PKCS1_SHA256 as &dyn aws_lc_rs::signature::RsaEncoding),
            (TokenAlgorithm::Ps256, &RSA_PSS_SHA256),
        ] {
            let mut signature = vec![0; signer.public_modulus_len()];
            signer.sign(padding, &random, b"text", &mut signature).unwrap();
            let key = TokenKey::parse(algorithm, &pair.public_key_pem()).unwrap();
            assert!(key.verifies(b"text", &signature) && !key.verifies(b"more", &signature), "{algorithm:?}");
        }
    }
}
