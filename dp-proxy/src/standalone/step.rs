//! What a file changes: decided from what is held and what the file has.

use std::collections::BTreeMap;
use std::sync::Arc;

use plugins::CATALOG;
use protocol::crypto::Keyring;
use protocol::delta::Change;
use protocol::entry::{Stamp, UnixMillis};
use protocol::json::{self, Value};
use protocol::resource;
use protocol::seal;
use protocol::seam::Random;
use protocol::{ConfigState, Delta, Entry, ResourceKey, Text};

use super::read::{Configuration, Draft};

/// What new entries are made with.
pub(crate) struct Stamping<'s> {
    pub(crate) group: Text,
    pub(crate) keyring: &'s Keyring,
    pub(crate) random: &'s dyn Random,
    pub(crate) now: UnixMillis,
}

/// The step from a state to what a file has; `None` when it has just that. An entry that says the same is not touched,
/// whatever else changes.
pub(crate) fn step(state: &ConfigState, configuration: Configuration, stamping: &Stamping<'_>) -> Option<Delta> {
    let position = state.position().next();
    let stamp = Stamp { revision: position.revision, time: stamping.now };
    let mut changes: BTreeMap<ResourceKey, Option<Arc<Entry>>> = state
        .iter()
        .filter(|(key, _)| !configuration.resources.contains_key(*key))
        .map(|(key, _)| (key.clone(), None))
        .collect();
    for (key, draft) in configuration.resources {
        let current = state.get(&key);
        let body = sealed(&key, &draft, current.map(|entry| &*entry.body), stamping);
        let entry = Entry {
            body: body.into(),
            references: draft.references,
            claims: draft.claims,
            groups: vec![stamping.group.clone()],
            created: current.map_or(stamp, |entry| entry.created),
            modified: current.map_or(stamp, |entry| entry.modified),
            ttl_seconds: None,
        };
        if current.is_none_or(|current| **current != entry) {
            changes.insert(key, Some(Arc::new(Entry { modified: stamp, ..entry })));
        }
    }
    if changes.is_empty() {
        return None;
    }
    let changes: Vec<_> = changes.into_iter().map(|(key, entry)| Change { key, entry }).collect();
    let digest = state.digest_after(&changes);
    Some(Delta { prev: state.changed_at(), position, changes, digest, cause: None })
}

/// The body with every secret sealed for its place. A token that the file has is left: it was sealed with a keyring that is
/// set, or cannot be opened, which the table tells.
fn sealed(key: &ResourceKey, draft: &Draft, current: Option<&str>, stamping: &Stamping<'_>) -> String {
    if !draft.has_secrets {
        return draft.body.clone();
    }
    let kind = key.kind.as_str();
    let parsed = |body: &str| -> Value { serde_json::from_str(body).expect("an admitted body is JSON") };
    let (mut body, mut before) = (parsed(&draft.body), current.map(parsed).unwrap_or_default());
    let before = resource::secrets(&CATALOG, kind, &mut before);
    for (path, secret) in resource::secrets(&CATALOG, kind, &mut body) {
        let Some(text) = secret.as_str().filter(|text| !text.starts_with(seal::PREFIX)) else { continue };
        let same = before.iter().find(|(place, _)| *place == path).and_then(|(_, value)| value.as_str());
        *secret = Value::String(stamping.keyring.seal_again(key, &path, text, same, stamping.random));
    }
    json::canonical(&body)
}

#[cfg(test)]
mod tests {
    use daemon::seams::SystemRandom;

    use super::*;

    fn stepped(state: &mut ConfigState, text: &str) -> Vec<String> {
        let keyring = Keyring::parse(&format!("k {}", "11".repeat(32))).unwrap();
        let stamping = Stamping { group: "default".into(), keyring: &keyring, random: &SystemRandom, now: 7 };
        let configuration = Configuration::read(text, false, |_| None).unwrap();
        let Some(delta) = step(state, configuration, &stamping) else { return Vec::new() };
        state.evolve(&delta).unwrap();
        let said = |change: &Change| format!("{}{}", if change.entry.is_some() { '+' } else { '-' }, change.key);
        delta.changes.iter().map(said).collect()
    }

    #[test]
    fn only_what_differs_is_changed() {
        let mut state = ConfigState::following();
        let consumer = "consumers:\n- {username: a, plugins: {key-auth: {key: secret-value}}}\n";
        let first = format!(
            "{consumer}routes:\n- {{id: a, uri: /a, upstream: {{nodes: {{}}}}}}\n- {{id: b, uri: /b, upstream: {{nodes: {{}}}}}}\n#END"
        );
        assert_eq!(stepped(&mut state, &first), ["+consumers/a", "+routes/a", "+routes/b"]);
        assert!(stepped(&mut state, &first).is_empty(), "sealed anew, it would be another consumer");
        let stored = state.get(&ResourceKey::new("consumers", "a")).unwrap();
        assert!(!stored.body.contains("secret-value"), "{}", stored.body);
        let second = first.replace("/b", "/c").replace("id: a", "id: z");
        assert_eq!(stepped(&mut state, &second), ["-routes/a", "+routes/b", "+routes/z"]);
        assert_eq!((state.position().revision, state.position().epoch.number), (2, 0));
        let kept = state.get(&ResourceKey::new("routes", "b")).unwrap();
        assert_eq!((kept.created.revision, kept.modified.revision), (1, 2));
    }
}
