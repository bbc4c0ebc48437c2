//! Seals what is secret in a body before anything is proposed: the log, the snapshots, the record and the archive hold
//! tokens, and only who has the keyring can open them.

use std::borrow::Cow;
use std::sync::Arc;

use daemon::secret_file;
use plugins::CATALOG;
use protocol::crypto::{Keyring, check_pair};
use protocol::json::{self, Value};
use protocol::report::{Path, Problem};
use protocol::resource::{self, Admitted, Certificate, KindInfo, Model, admit};
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
            let text = secret_file::read(path).map_err(|e| bad(format!("{}: {e}", path.display())))?;
            Keyring::parse(&text).map_err(|e| bad(format!("{}: {e}", path.display())))
        };
        Ok(Self { keyring: settings.keyring_file.as_ref().map(load).transpose()?, random, clock })
    }

    /// Seals the secrets of an admitted body that is to stand under `key`, and claims the values that nobody else may
    /// have. `current` is what stands there now, as far as this node knows: a secret that it holds already keeps its token,
    /// so that the same body twice is the same bytes.
    ///
    /// # Errors
    /// A [`Report`]: there is no keyring, or a token in the body was not sealed for this place, or what it holds is not
    /// good there.
    pub(super) fn seal(
        &self,
        key: &ResourceKey,
        admitted: &mut Admitted,
        current: Option<&Entry>,
    ) -> Result<(), Report> {
        if !admitted.has_secrets {
            return Ok(());
        }
        let kind = key.kind.as_str();
        let mut body = parsed(&admitted.body);
        let mut opened = body.clone();
        let mut before = current.map(|entry| parsed(&entry.body)).unwrap_or_default();
        let before = resource::secrets(&CATALOG, kind, &mut before);
        let (mut changed, mut brings_tokens) = (false, false);
        let places = resource::secrets(&CATALOG, kind, &mut body);
        for ((path, value), (_, open_value)) in places.into_iter().zip(resource::secrets(&CATALOG, kind, &mut opened)) {
            let Some(text) = value.as_str() else { continue };
            let keyring = self.keyring.as_ref().ok_or_else(|| Report::of(without_keyring(kind, path.clone())))?;
            if text.starts_with(seal::PREFIX) {
                let secret =
                    open(keyring, key, &path, text).map_err(|why| Report::of(Problem::rule(path.clone(), why)))?;
                self.check(kind, &admitted.body, &path, &secret)?;
                *open_value = Value::String(secret);
                brings_tokens = true;
                continue;
            }
            let same = before.iter().find(|(place, _)| *place == path).and_then(|(_, value)| value.as_str());
            let token = keyring.seal_again(key, &path, text, same, &*self.random);
            *value = Value::String(token);
            changed = true;
        }
        if let Some(Ok(Model::Ssl(ssl))) = KindInfo::find(kind).map(|kind| kind.read(&body)) {
            admitted.warnings.extend(ssl.validity_warnings(self.clock.now()));
        } else if let Some(kind) = KindInfo::find(kind).filter(|_| brings_tokens) {
            // What stands beside a token could only be looked at in part as long as it was closed.
            admit(&CATALOG, kind, Some(&key.id), opened.clone())?;
        }
        let uniques = resource::uniques(&CATALOG, kind, &opened);
        if !uniques.is_empty() {
            let keyring = self.keyring.as_ref().ok_or_else(|| {
                let sentence = "a key that nobody else may have is compared by keyed hashes, and this node has no \
                    keyring: set secrets.keyring_file";
                Report::of(Problem::rule(Path::default().property("plugins"), sentence))
            })?;
            let claims = uniques.iter().flat_map(|(plugin, value)| keyring.claims(plugin, value.as_bytes()));
            admitted.claims.extend(claims);
            admitted.claims.sort();
            admitted.claims.dedup();
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

/// How much of a resource a reader gets to see.
#[derive(Clone, Copy)]
pub(super) enum View<'s> {
    /// Secrets as `***`.
    Masked,
    /// Secrets as they were written, as far as this node can open them.
    Open(&'s Secrets),
}

/// What is shown in place of a secret.
const MASK: &str = "***";

impl View<'_> {
    /// A body as it can be put back. Who sees secrets gets private keys too, as the tokens that they are stored as: such a
    /// token is good for its place only, and means "as it is".
    pub(super) fn to_put_back<'b>(self, key: &ResourceKey, body: &'b str) -> Cow<'b, str> {
        match self {
            View::Open(_) if key.kind.as_str() == "ssls" => Cow::Borrowed(body),
            _ => self.of(key, body),
        }
    }

    /// A body as it is shown. Private keys are shown to nobody, as in APISIX.
    pub(super) fn of<'b>(self, key: &ResourceKey, body: &'b str) -> Cow<'b, str> {
        let kind = key.kind.as_str();
        if kind != "ssls" && !body.contains(seal::PREFIX) {
            return Cow::Borrowed(body);
        }
        let Ok(mut value) = serde_json::from_str(body) else { return Cow::Borrowed("{}") };
        resource::conceal(kind, &mut value);
        for (path, secret) in resource::secrets(&CATALOG, kind, &mut value) {
            let keyring = match self {
                View::Masked => None,
                View::Open(secrets) => secrets.keyring.as_ref(),
            };
            let opened = keyring.zip(secret.as_str()).and_then(|(ring, token)| open(ring, key, &path, token).ok());
            *secret = Value::String(opened.unwrap_or_else(|| MASK.to_owned()));
        }
        Cow::Owned(json::canonical(&value))
    }
}

/// Whether two bodies of a resource, as they are stored, hold other secrets. One that was sealed anew counts as another:
/// only who has the keyring could tell.
pub(super) fn differ(kind: &str, old: &str, new: &str) -> bool {
    if ![old, new].iter().any(|body| body.contains(seal::PREFIX)) {
        return false;
    }
    let sealed = |body: &str| {
        let mut body = serde_json::from_str(body).unwrap_or_default();
        let secrets = resource::secrets(&CATALOG, kind, &mut body).into_iter();
        secrets.map(|(path, secret)| (path, secret.clone())).collect::<Vec<_>>()
    };
    sealed(old) != sealed(new)
}

fn without_keyring(kind: &str, path: Path) -> Problem {
    let what = if kind == "ssls" { "a private key" } else { "a secret" };
    let sentence = format!("{what} is stored sealed only, and this node has no keyring: set secrets.keyring_file");
    Problem::rule(path, sentence)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_secrets_are_told_apart_without_being_shown() {
        let ssl = |key: &str, sni: &str| format!(r#"{{"cert":"c","key":"$sealed$1$k1${key}","sni":"{sni}"}}"#);
        let jack =
            |key: &str| format!(r#"{{"plugins":{{"key-auth":{{"key":"$sealed$1$k1${key}"}}}},"username":"jack"}}"#);
        assert!(differ("ssls", &ssl("a", "x"), &ssl("b", "x")));
        assert!(!differ("ssls", &ssl("a", "x"), &ssl("a", "y")));
        assert!(differ("consumers", &jack("a"), &jack("b")));
        assert!(!differ("consumers", &jack("a"), &jack("a")));
        assert!(differ("consumers", &jack("a"), r#"{"username":"jack"}"#));
        assert!(!differ("routes", r#"{"uri":"/a"}"#, r#"{"uri":"/b"}"#));
    }
}
