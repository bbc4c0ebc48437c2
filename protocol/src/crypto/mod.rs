//! The keys of a cluster at work: secrets are sealed and opened, snapshots are signed and verified.
//!
//! Knows no files and no randomness: keys come in as bytes, nonces from the caller. One provider does the arithmetic in
//! the whole workspace (aws-lc-rs, the one that TLS uses too).

mod keyring;
mod pair;
mod signing;
mod token;

pub use keyring::{DataKey, Keyring, OpenError, SealKeyError};
pub use pair::{BadPair, check_pair};
pub use signing::{BadKey, SigningKey, TrustedKeys, VerifyingKey};
pub use token::{BadTokenKey, TokenAlgorithm, TokenKey};

/// Thirty-two bytes from 64 hexadecimal digits: how keys stand in files and settings.
fn key_bytes(hex: &str) -> Option<[u8; 32]> {
    crate::digest::parse_hex(hex.trim())
}
