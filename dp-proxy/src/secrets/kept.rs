//! What vaults said last, on this proxy's disk: a JSON array of `{manager, path, fields}`, each `fields` a token that the
//! keyring has sealed for its place.

use std::fs;
use std::io;
use std::path::Path;

use daemon::durable;
use protocol::ResourceKey;
use protocol::crypto::Keyring;
use protocol::report::Path as Place;
use protocol::resource::VaultPlace;
use protocol::seal::SealedToken;
use protocol::seam::Random;
use serde_json::{Value, json};

use super::{FieldsOf, Secrets};

impl Secrets {
    /// What is known, sealed.
    pub(crate) fn sealed(&self, keyring: &Keyring, random: &dyn Random) -> Vec<u8> {
        let entry = |(place, fields): (&VaultPlace, &FieldsOf)| {
            let fields = serde_json::to_vec(&fields.0).expect("texts by name are JSON");
            let token = keyring.seal(&resource(place), &at(place), &fields, random);
            json!({"manager": place.manager.as_str(), "path": place.path.as_str(), "fields": token.to_string()})
        };
        let all: Vec<Value> = self.known().map(entry).collect();
        let mut text = Value::Array(all).to_string().into_bytes();
        text.push(b'\n');
        text
    }

    /// Takes in what is kept in a file. Returns how many places could not be read: sealed by a key that is not on the
    /// keyring any more, or damaged.
    ///
    /// # Errors
    /// Those of the file system, with the path. No file is no error.
    pub(crate) fn recall_from(&mut self, file: &Path, keyring: &Keyring) -> io::Result<usize> {
        let bytes = match fs::read(file) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(e) => return Err(durable::at(file, e)),
        };
        let Ok(Value::Array(entries)) = serde_json::from_slice(&bytes) else { return Ok(1) };
        let mut unreadable = 0;
        for entry in &entries {
            match open(entry, keyring) {
                Some((place, fields)) => self.recall(place, fields),
                None => unreadable += 1,
            }
        }
        Ok(unreadable)
    }
}

fn open(entry: &Value, keyring: &Keyring) -> Option<(VaultPlace, FieldsOf)> {
    let text = |name: &str| entry.get(name).and_then(Value::as_str);
    let place = VaultPlace { manager: text("manager")?.into(), path: text("path")?.into() };
    let token: SealedToken = text("fields")?.parse().ok()?;
    let fields = keyring.open(&resource(&place), &at(&place), &token).ok()?;
    Some((place, FieldsOf(serde_json::from_slice(&fields).ok()?)))
}

/// What a token is sealed for: no resource of a configuration has such a place.
fn resource(place: &VaultPlace) -> ResourceKey {
    ResourceKey::new("secrets", &place.manager)
}

fn at(place: &VaultPlace) -> Place {
    Place::default().property("kept").member(&place.path)
}

#[cfg(test)]
mod tests {
    use daemon::seams::SystemRandom;

    use super::*;

    #[test]
    fn what_a_vault_said_is_kept_sealed_and_found_again() {
        let keyring = |digits: &str| Keyring::parse(&format!("k {}", digits.repeat(32))).unwrap();
        let place = |path: &str| VaultPlace { manager: "vault/1".into(), path: path.into() };
        let fields = FieldsOf([("key".to_owned(), "hush".to_owned())].into());
        let mut secrets = Secrets::default();
        secrets.recall(place("a"), fields.clone());
        secrets.recall(place("b"), FieldsOf::default());
        let bytes = secrets.sealed(&keyring("11"), &SystemRandom);
        assert!(!String::from_utf8_lossy(&bytes).contains("hush"));
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("secrets");
        let mut again = Secrets::default();
        assert_eq!(again.recall_from(&file, &keyring("11")).unwrap(), 0, "there is no file");
        fs::write(&file, &bytes).unwrap();
        assert_eq!(again.recall_from(&file, &keyring("11")).unwrap(), 0);
        assert!(again.known().eq(secrets.known()));
        // Another key opens nothing, a token in another's place neither, and rubbish is no panic.
        let mut other = Secrets::default();
        assert_eq!(other.recall_from(&file, &keyring("22")).unwrap(), 2);
        let moved = String::from_utf8(bytes).unwrap().replace("\"path\":\"a\"", "\"path\":\"c\"");
        fs::write(&file, moved).unwrap();
        assert_eq!(other.recall_from(&file, &keyring("11")).unwrap(), 1);
        fs::write(&file, b"\xff\x00").unwrap();
        assert_eq!(other.recall_from(&file, &keyring("11")).unwrap(), 1);
    }
}
