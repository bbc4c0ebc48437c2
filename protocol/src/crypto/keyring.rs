//! Seals secrets into the tokens of [`crate::seal`], and opens them.

use std::collections::BTreeMap;
use std::fmt;

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

use super::key_bytes;
use crate::entry::Claim;
use crate::key::ResourceKey;
use crate::report::Path;
use crate::seal::{SealedToken, TokenError, is_key_id};
use crate::seam::Random;
use crate::text::Text;

/// Keys that seal secrets: the newest seals, all of them open. It is rotated by adding a key and sealing again.
#[derive(Clone, Debug)]
pub struct Keyring {
    newest: Text,
    keys: BTreeMap<Text, DataKey>,
}

/// One key of a keyring: AES-256 for secrets, and a key drawn from it for claims.
#[derive(Clone)]
pub struct DataKey([u8; 32]);

/// Why a keyring cannot be made.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SealKeyError {
    /// There is no key.
    #[error("a keyring needs at least one key")]
    Empty,
    /// A line is no key.
    #[error(
        "line {line}: a key is `<id> <64 hexadecimal digits>`, the id of 1 to 64 letters, digits, '-', '_' and '.'"
    )]
    Line {
        /// Which line, from 1.
        line: usize,
    },
    /// Two keys share an id.
    #[error("line {line}: the key id {id:?} stands there twice")]
    Twice {
        /// Which line, from 1.
        line: usize,
        /// The id.
        id: Text,
    },
}

/// Why a token cannot be opened.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum OpenError {
    /// It is no token.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// The key that sealed it is not on the keyring.
    #[error("sealed with key {0:?}, which is not on the keyring")]
    UnknownKey(Text),
    /// The token was changed, or moved to another place.
    #[error("the token does not belong to this place, or was changed")]
    Wrong,
}

impl Keyring {
    /// A keyring from a file's text: a line `<id> <64 hexadecimal digits>` for each key, the newest first. Empty lines
    /// and lines that begin with `#` are passed over.
    ///
    /// # Errors
    /// [`SealKeyError`] with the line.
    pub fn parse(text: &str) -> Result<Self, SealKeyError> {
        let mut newest = None;
        let mut keys = BTreeMap::new();
        for (number, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let number = number + 1;
            let parts = line.split_once(char::is_whitespace).filter(|(id, _)| is_key_id(id));
            let Some((id, key)) = parts.and_then(|(id, hex)| Some((id, key_bytes(hex)?))) else {
                return Err(SealKeyError::Line { line: number });
            };
            let id = Text::from(id);
            newest.get_or_insert_with(|| id.clone());
            if keys.insert(id.clone(), DataKey(key)).is_some() {
                return Err(SealKeyError::Twice { line: number, id });
            }
        }
        newest.map(|newest| Self { newest, keys }).ok_or(SealKeyError::Empty)
    }

    /// A keyring of one key.
    #[must_use]
    pub fn of(id: Text, key: DataKey) -> Self {
        Self { newest: id.clone(), keys: BTreeMap::from([(id, key)]) }
    }

    /// The key that seals.
    #[must_use]
    pub fn newest(&self) -> &Text {
        &self.newest
    }

    /// Seals a secret for one place in one resource: the token opens nowhere else.
    #[must_use]
    pub fn seal(&self, resource: &ResourceKey, path: &Path, secret: &[u8], random: &dyn Random) -> SealedToken {
        let [nonce @ .., _, _, _, _] = random.bytes16();
        let mut ciphertext = secret.to_vec();
        let place = Aad::from(SealedToken::additional_data(resource, path));
        let nonce_of = Nonce::assume_unique_for_key(nonce);
        self.keys[&self.newest]
            .cipher()
            .seal_in_place_append_tag(nonce_of, place, &mut ciphertext)
            .expect("a secret is shorter than the bound of AES-GCM, 64 GiB");
        SealedToken { key_id: self.newest.clone(), nonce, ciphertext }
    }

    /// The token of a secret: the one that stands in its place already, when it is of the newest key and holds the same, so
    /// that the same body twice is the same bytes; else a new one.
    #[must_use]
    pub fn seal_again(
        &self,
        resource: &ResourceKey,
        path: &Path,
        secret: &str,
        current: Option<&str>,
        random: &dyn Random,
    ) -> String {
        let holds_it = |text: &&str| {
            let token = text.parse::<SealedToken>().ok().filter(|token| token.key_id == self.newest);
            token.is_some_and(|token| self.open(resource, path, &token).is_ok_and(|held| held == secret.as_bytes()))
        };
        match current.filter(holds_it) {
            Some(token) => token.to_owned(),
            None => self.seal(resource, path, secret.as_bytes(), random).to_string(),
        }
    }

    /// Opens a token that stands at this place.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(&self, resource: &ResourceKey, path: &Path, token: &SealedToken) -> Result<Vec<u8>, OpenError> {
        let key = self.keys.get(&token.key_id).ok_or_else(|| OpenError::UnknownKey(token.key_id.clone()))?;
        let mut bytes = token.ciphertext.clone();
        let place = Aad::from(SealedToken::additional_data(resource, path));
        let nonce = Nonce::assume_unique_for_key(token.nonce);
        let secret = key.cipher().open_in_place(nonce, place, &mut bytes).map_err(|_| OpenError::Wrong)?;
        Ok(secret.to_vec())
    }

    /// The claim that `value` makes in a space: equal values make equal claims under one key, and tell nothing else.
    #[must_use]
    pub fn claim(&self, space: &str, value: &[u8]) -> Claim {
        self.keys[&self.newest].claim(space, value)
    }

    /// The same under every key on the keyring, sorted: a value that was claimed before a key was added is still found.
    #[must_use]
    pub fn claims(&self, space: &str, value: &[u8]) -> Vec<Claim> {
        let mut claims: Vec<_> = self.keys.values().map(|key| key.claim(space, value)).collect();
        claims.sort();
        claims
    }
}

impl DataKey {
    fn claim(&self, space: &str, value: &[u8]) -> Claim {
        let key = self.derived(b"holdfast claim key v1");
        let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("HMAC takes a key of any length");
        mac.update(space.as_bytes());
        mac.update(&[0]);
        mac.update(value);
        Claim { space: space.into(), hash: mac.finalize().into_bytes().into() }
    }

    /// A key of these bytes.
    #[must_use]
    pub fn new(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    fn cipher(&self) -> LessSafeKey {
        LessSafeKey::new(UnboundKey::new(&AES_256_GCM, &self.0).expect("a key of 32 bytes fits AES-256"))
    }

    fn derived(&self, purpose: &[u8]) -> [u8; 32] {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes a key of any length");
        mac.update(purpose);
        mac.finalize().into_bytes().into()
    }
}

/// Keys are not printed.
impl fmt::Debug for DataKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DataKey(***)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Fixed(u64);

    impl Random for Fixed {
        fn next(&self) -> u64 {
            self.0
        }
    }

    fn place() -> (ResourceKey, Path) {
        (ResourceKey::new("ssls", "a"), Path::default().property("key"))
    }

    fn ring(text: &str) -> Keyring {
        Keyring::parse(text).unwrap()
    }

    const ONE: &str = "k1 1111111111111111111111111111111111111111111111111111111111111111";
    const TWO: &str = "k2 2222222222222222222222222222222222222222222222222222222222222222";

    #[test]
    fn what_is_sealed_opens_at_its_place_and_nowhere_else() {
        let (key, path) = place();
        let ring = ring(ONE);
        let token = ring.seal(&key, &path, b"secret", &Fixed(7));
        assert_eq!(ring.open(&key, &path, &token).unwrap(), b"secret");
        let elsewhere = ResourceKey::new("ssls", "b");
        assert_eq!(ring.open(&elsewhere, &path, &token), Err(OpenError::Wrong));
        assert_eq!(ring.open(&key, &path.item(0), &token), Err(OpenError::Wrong));
        let mut changed = token.clone();
        changed.ciphertext[0] ^= 1;
        assert_eq!(ring.open(&key, &path, &changed), Err(OpenError::Wrong));
    }

    #[test]
    fn the_same_secret_keeps_its_token_until_the_key_is_another() {
        let (key, path) = place();
        let (ring, random) = (ring(ONE), Fixed(7));
        let token = ring.seal(&key, &path, b"secret", &Fixed(1)).to_string();
        assert_eq!(ring.seal_again(&key, &path, "secret", Some(&token), &random), token);
        assert_ne!(ring.seal_again(&key, &path, "other", Some(&token), &random), token);
        assert_ne!(ring.seal_again(&key, &path, "secret", None, &random), token);
        let rotated = self::ring(&format!("{TWO}\n{ONE}\n"));
        assert!(rotated.seal_again(&key, &path, "secret", Some(&token), &random).starts_with("$sealed$1$k2$"));
    }

    #[test]
    fn the_cipher_is_frozen() {
        let (key, path) = place();
        let token = ring(ONE).seal(&key, &path, b"secret", &Fixed(7));
        assert_eq!(token.to_string(), "$sealed$1$k1$BwAAAAAAAAAHAAAAE8KdjYGpkNHRW_GLqSdgAMQQhPP0bg");
        let claim = ring(ONE).claim("key-auth", b"value");
        assert_eq!(crate::Digest(claim.hash).to_string()[..16], *"38f3e0dc2eac232f");
    }

    #[test]
    fn a_keyring_is_rotated_by_a_new_first_line() {
        let (key, path) = place();
        let old = ring(ONE).seal(&key, &path, b"secret", &Fixed(7));
        let both = ring(&format!("# newest first\n{TWO}\n\n{ONE}\n"));
        assert_eq!(both.newest(), "k2");
        assert_eq!(both.open(&key, &path, &old).unwrap(), b"secret");
        let new = both.seal(&key, &path, b"secret", &Fixed(8));
        assert_eq!(ring(ONE).open(&key, &path, &new), Err(OpenError::UnknownKey("k2".into())));
        assert_ne!(both.claim("s", b"v"), ring(ONE).claim("s", b"v"));
        assert!(both.claims("s", b"v").contains(&ring(ONE).claim("s", b"v")), "what was claimed before is found");
    }

    #[test]
    fn a_bad_file_is_named_by_line() {
        for (text, expected) in [
            ("", SealKeyError::Empty),
            ("# nothing\n", SealKeyError::Empty),
            ("k1 123", SealKeyError::Line { line: 1 }),
            ("\nno key", SealKeyError::Line { line: 2 }),
            (&format!("k/1 {}", &ONE[3..]), SealKeyError::Line { line: 1 }),
            (&format!("{ONE}\n{ONE}"), SealKeyError::Twice { line: 2, id: "k1".into() }),
        ] {
            assert_eq!(Keyring::parse(text).unwrap_err(), expected, "{text}");
        }
        assert_eq!(format!("{:?}", DataKey([7; 32])), "DataKey(***)");
    }
}
