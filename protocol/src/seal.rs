//! The text form of a sealed secret.
//!
//! A private key or credential never stands in a body in the clear: the proposer replaces it by a token before the
//! command is built, and the log, the record, the archive and every disk hold the token. The format is fixed here; who
//! may open a token is the keyring's business.
//!
//! ```text
//!   $sealed$1$<key id>$<base64url, no padding: nonce (12 bytes) | ciphertext | tag (16 bytes)>
//! ```
//!
//! `1` is AES-256-GCM. The additional data is [`SealedToken::additional_data`]: a token moved to another resource or
//! another field does not open.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use crate::key::ResourceKey;
use crate::report::Path;
use crate::text::Text;

/// What every token starts with. No user's value may: admission would take it for one of ours.
pub const PREFIX: &str = "$sealed$";

const NONCE_BYTES: usize = 12;
const TAG_BYTES: usize = 16;
const KEY_ID_BYTES_MAX: usize = 64;

/// A sealed secret.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SealedToken {
    /// Which key of the keyring seals it: 1 to 64 of letters, digits, `-`, `_` and `.`.
    pub key_id: Text,
    /// The nonce, never used twice under one key.
    pub nonce: [u8; NONCE_BYTES],
    /// The ciphertext with its tag.
    pub ciphertext: Vec<u8>,
}

/// Why a text is no sealed token.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum TokenError {
    /// It does not start as one.
    #[error("not a sealed token")]
    NotSealed,
    /// Sealed by an algorithm that this version does not know.
    #[error("sealed by an algorithm that this version of holdfast does not know")]
    Algorithm,
    /// Cut short or changed.
    #[error("a damaged sealed token")]
    Damaged,
}

/// Whether a text can name a key: 1 to 64 of letters, digits, `-`, `_` and `.`.
#[must_use]
pub fn is_key_id(text: &str) -> bool {
    (1..=KEY_ID_BYTES_MAX).contains(&text.len())
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

impl SealedToken {
    /// What is authenticated beside the secret: the place where the token stands.
    #[must_use]
    pub fn additional_data(key: &ResourceKey, path: &Path) -> Vec<u8> {
        format!("{}\0{}\0{path}", key.kind, key.id).into_bytes()
    }
}

impl fmt::Display for SealedToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = self.nonce.to_vec();
        bytes.extend_from_slice(&self.ciphertext);
        write!(f, "{PREFIX}1${}${}", self.key_id, URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for SealedToken {
    type Err = TokenError;

    fn from_str(s: &str) -> Result<Self, TokenError> {
        let rest = s.strip_prefix(PREFIX).ok_or(TokenError::NotSealed)?;
        let (algorithm, rest) = rest.split_once('$').ok_or(TokenError::Damaged)?;
        if algorithm != "1" {
            return Err(TokenError::Algorithm);
        }
        let (key_id, sealed) = rest.split_once('$').ok_or(TokenError::Damaged)?;
        let bytes = URL_SAFE_NO_PAD.decode(sealed).map_err(|_| TokenError::Damaged)?;
        let (nonce, ciphertext) = bytes.split_first_chunk::<NONCE_BYTES>().ok_or(TokenError::Damaged)?;
        if !is_key_id(key_id) || ciphertext.len() < TAG_BYTES {
            return Err(TokenError::Damaged);
        }
        Ok(Self { key_id: key_id.into(), nonce: *nonce, ciphertext: ciphertext.to_vec() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Golden: tokens are stored for years.
    const TOKEN: &str = "$sealed$1$default.2026-11$AAECAwQFBgcICQoLAQIDBAUGBwgJCgsMDQ4PEBES";

    #[test]
    fn the_format_is_frozen() {
        let token = SealedToken {
            key_id: "default.2026-11".into(),
            nonce: std::array::from_fn(|i| u8::try_from(i).unwrap()),
            ciphertext: (1..=18).collect(),
        };
        assert_eq!(token.to_string(), TOKEN);
        assert_eq!(TOKEN.parse(), Ok(token));
        let place = SealedToken::additional_data(&ResourceKey::new("ssls", "a"), &Path::default().property("key"));
        assert_eq!(place, b"ssls\0a\0$.key");
    }

    #[test]
    fn what_is_no_token_says_why() {
        for (text, error) in [
            ("secret", TokenError::NotSealed),
            ("$sealed$2$k$AAECAwQFBgcICQoLAQIDBAUGBwgJCgsMDQ4PEBES", TokenError::Algorithm),
            ("$sealed$1$k", TokenError::Damaged),
            ("$sealed$1$$AAECAwQFBgcICQoLAQIDBAUGBwgJCgsMDQ4PEBES", TokenError::Damaged),
            ("$sealed$1$k$AAECAwQFBgcICQoL", TokenError::Damaged),
            ("$sealed$1$k$AAECAwQFBgcICQoLAQIDBAUGBwgJCgsMDQ4PEBES=", TokenError::Damaged),
            ("$sealed$1$k k$AAECAwQFBgcICQoLAQIDBAUGBwgJCgsMDQ4PEBES", TokenError::Damaged),
        ] {
            assert_eq!(text.parse::<SealedToken>(), Err(error), "{text}");
        }
    }
}
