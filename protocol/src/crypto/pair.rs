//! Whether a private key belongs to a certificate.

use aws_lc_rs::rsa;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, ECDSA_P521_SHA512_ASN1_SIGNING, EcdsaKeyPair,
    Ed25519KeyPair, KeyPair as _,
};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

/// Why a key is no good for a certificate.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadPair {
    /// It is no private key in PEM.
    #[error("failed to parse key: PEM_read_bio_PrivateKey() failed")]
    NoKey,
    /// It is one that cannot be used.
    #[error(
        "failed to parse key: only RSA of 2048 bits and more, ECDSA on P-256, P-384 or P-521, and Ed25519 are served"
    )]
    Unknown,
    /// It is another one's.
    #[error("the key does not belong to the certificate")]
    Foreign,
}

/// Checks that a private key in PEM is the one of a public key, given as the bits of a certificate.
///
/// # Errors
/// [`BadPair`].
pub fn check_pair(public_key: &[u8], private_key: &str) -> Result<(), BadPair> {
    let key = PrivateKeyDer::from_pem_slice(private_key.as_bytes()).map_err(|_| BadPair::NoKey)?;
    let public = public_key_of(&key).ok_or(BadPair::Unknown)?;
    if public == public_key { Ok(()) } else { Err(BadPair::Foreign) }
}

fn public_key_of(key: &PrivateKeyDer<'_>) -> Option<Vec<u8>> {
    let der = key.secret_der();
    let of_rsa = |pair: rsa::KeyPair| pair.public_key().as_ref().to_vec();
    let rsa = match key {
        PrivateKeyDer::Pkcs1(_) => rsa::KeyPair::from_der(der).ok(),
        PrivateKeyDer::Pkcs8(_) => rsa::KeyPair::from_pkcs8(der).ok(),
        _ => None,
    };
    if let Some(pair) = rsa {
        return Some(of_rsa(pair));
    }
    for curve in [&ECDSA_P256_SHA256_ASN1_SIGNING, &ECDSA_P384_SHA384_ASN1_SIGNING, &ECDSA_P521_SHA512_ASN1_SIGNING] {
        if let Ok(pair) = EcdsaKeyPair::from_private_key_der(curve, der) {
            return Some(pair.public_key().as_ref().to_vec());
        }
    }
    Ed25519KeyPair::from_pkcs8_maybe_unchecked(der).ok().map(|pair| pair.public_key().as_ref().to_vec())
}

#[cfg(test)]
mod tests {
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PublicKeyData};

    use super::*;

    #[test]
    fn keys_of_all_kinds_belong_to_their_public_halves_only() {
        let kinds = [&PKCS_ECDSA_P256_SHA256, &PKCS_ECDSA_P384_SHA384, &PKCS_ED25519];
        let pairs = kinds.map(|kind| KeyPair::generate_for(kind).unwrap());
        for (i, one) in pairs.iter().enumerate() {
            for (j, other) in pairs.iter().enumerate() {
                let expected = if i == j { Ok(()) } else { Err(BadPair::Foreign) };
                assert_eq!(check_pair(one.der_bytes(), &other.serialize_pem()), expected, "{i} {j}");
            }
        }
        assert_eq!(check_pair(&[], "x"), Err(BadPair::NoKey));
    }
}
