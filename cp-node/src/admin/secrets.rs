//! Seals what is secret in a body before anything is proposed: the log, the snapshots, the record and the archive hold
//! tokens, and only who has the keyring can open them.

use std::fs;
use std::sync::Arc;

use protocol::crypto::{Keyring, check_pair};
use protocol::json::{self, Value};
use protocol::report::{Path, Problem};
use protocol::resource::{self, Admitted, Certificate, KindInfo, Model};
use protocol::seal::{self, SealedToken};
use protocol::seam::{Random, WallClock};
use protocol::{Entry, Report, ResourceKey};

use crate::settings::{BadSetting, SecretSettings};

/// What seals, and what it needs for that.
pub(crate) struct Secrets {
    keyring: Option<Keyring>,
    random: Arc<dyn Random>,
    clock: Arc<dyn WallClock>,
}

const KEYRING_FILE: &str = "secrets.keyring_file";

impl Secrets {
    /// Loads the keyring that the settings name, if they name one.
    pub(crate) fn load(
        settings: &SecretSettings,
        random: Arc<dyn Random>,
        clock: Arc<dyn WallClock>,
    ) -> Result<Self, BadSetting> {
        let bad = |problem: String| BadSetting { key: KEYRING_FILE.into(), problem };
        let load = |path: &std::path::PathBuf| {
            let text = fs::read_to_string(path).map_err(|e| bad(format!("{}: {e}", path.display())))?;
            Keyring::parse(&text).map_err(|e| bad(format!("{}: {e}", path.display())))
        };
        Ok(Self { keyring: settings.keyring_file.as_ref().map(load).transpose()?, random, clock })
    }

    /// Seals the secrets of an admitted body that is to stand under `key`. `current` is what stands there now, as far as
    /// this node knows: a secret that it holds already keeps its token, so that the same body twice is the same bytes.
    ///
    /// # Errors
    /// A [`Report`]: there is no keyring, or a token in the body was not sealed for this place.
    pub(super) fn seal(
        &self,
        key: &ResourceKey,
        admitted: &mut Admitted,
        current: Option<&Entry>,
    ) -> Result<(), Report> {
        let kind = key.kind.as_str();
        if !resource::has_secrets(kind) {
            return Ok(());
        }
        let mut body = parsed(&admitted.body);
        let mut before = current.map(|entry| parsed(&entry.body)).unwrap_or_default();
        let before = resource::secrets(kind, &mut before);
        let mut changed = false;
        for (path, value) in resource::secrets(kind, &mut body) {
            let Some(text) = value.as_str() else { continue };
            let Some(keyring) = &self.keyring else {
                let sentence =
                    "a private key is stored sealed only, and this node has no keyring: set secrets.keyring_file";
                return Err(Report::of(Problem::rule(path, sentence)));
            };
            if text.starts_with(seal::PREFIX) {
                let opened =
                    open(keyring, key, &path, text).map_err(|why| Report::of(Problem::rule(path.clone(), why)))?;
                self.check(kind, &admitted.body, &path, &opened)?;
                continue;
            }
            let same = before.iter().find(|(place, _)| *place == path).and_then(|(_, value)| value.as_str());
            let same = same.filter(|token| is_sealed_as(keyring, key, &path, token, text));
            let token = match same {
                Some(token) => token.to_owned(),
                None => keyring.seal(key, &path, text.as_bytes(), &*self.random).to_string(),
            };
            *value = Value::String(token);
            changed = true;
        }
        if let Some(Ok(Model::Ssl(ssl))) = KindInfo::find(kind).map(|kind| kind.read(&body)) {
            admitted.warnings.extend(ssl.validity_warnings(self.clock.now()));
        }
        if changed {
            admitted.body = json::canonical(&body);
        }
        Ok(())
    }

    /// Checks that an opened key belongs to the certificate beside it, which may be another one by now.
    fn check(&self, kind: &str, body: &str, path: &Path, key: &str) -> Result<(), Report> {
        let body = parsed(body);
        let certificate = match path.to_string().strip_prefix("$.keys[").map(|rest| rest.trim_end_matches(']')) {
            Some(index) => index.parse::<usize>().ok().and_then(|index| body["certs"].get(index)),
            None => body.get("cert"),
        };
        let chain = certificate.and_then(Value::as_str).and_then(|pem| Certificate::read_all(pem).ok());
        let Some(chain) = chain.filter(|_| kind == "ssls") else { return Ok(()) };
        check_pair(&chain[0].public_key, key).map_err(|e| Report::of(Problem::rule(path.clone(), e.to_string())))
    }
}

/// A canonical body, parsed again.
fn parsed(body: &str) -> Value {
    serde_json::from_str(body).expect("an admitted body is JSON")
}

fn open(keyring: &Keyring, key: &ResourceKey, path: &Path, token: &str) -> Result<String, String> {
    let token: SealedToken = token.parse().map_err(|e: seal::TokenError| e.to_string())?;
    let opened = keyring.open(key, path, &token).map_err(|e| e.to_string())?;
    String::from_utf8(opened).map_err(|_| "the sealed secret is no text".to_owned())
}

/// Whether a token is of the newest key, and holds this.
fn is_sealed_as(keyring: &Keyring, key: &ResourceKey, path: &Path, token: &str, secret: &str) -> bool {
    let newest = token.parse::<SealedToken>().is_ok_and(|token| token.key_id == *keyring.newest());
    newest && open(keyring, key, path, token).is_ok_and(|opened| opened == secret)
}
