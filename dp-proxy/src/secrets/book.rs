//! What is known of the secrets that references name, and what is to be asked. Does nothing by itself.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::env;
use std::sync::Arc;
use std::time::Duration;

use protocol::resource::{SecretReference, Vault, VaultPlace, secret_references};
use protocol::{ResourceKey, Text};
use serde_json::Value;
use tokio::time::Instant;

use super::{DEFAULT_REFRESH, FieldsOf};

/// How soon a vault that could not be asked is asked again.
const RETRY: Duration = Duration::from_secs(5);

/// The secrets of a configuration.
#[derive(Debug)]
pub(crate) struct Secrets {
    managers: Managers,
    places: BTreeMap<VaultPlace, Known>,
    /// Which places each resource refers to.
    used: HashMap<ResourceKey, BTreeSet<VaultPlace>>,
    /// Set when a place may not be used any more.
    untidy: bool,
    refresh: Duration,
}

/// What is known of a place.
#[derive(Clone, Debug, Default)]
struct Known {
    /// What it held when it was last read.
    fields: Option<Arc<FieldsOf>>,
    /// When that was; `None`: in another life of this proxy, or never.
    read: Option<Instant>,
    /// Why it could not be read since.
    failure: Option<String>,
    /// When it is to be read; `None`: now.
    due: Option<Instant>,
    /// Whether somebody is reading it.
    asked: bool,
    /// Whether its first answer has been waited for in vain.
    given_up: bool,
}

/// Places of one manager that are to be read.
#[derive(Clone, Debug)]
pub(crate) struct Order {
    pub(crate) manager: Text,
    pub(crate) vault: Arc<Vault>,
    pub(crate) paths: Vec<Text>,
}

/// What came of reading a place.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) place: VaultPlace,
    /// By which it was read.
    pub(crate) vault: Arc<Vault>,
    pub(crate) fields: Result<FieldsOf, String>,
}

/// How a place stands, for whoever looks at the proxy.
#[derive(Clone, Debug)]
pub struct SecretStanding {
    /// As a reference without its key.
    pub place: String,
    /// Whether there is a value.
    pub known: bool,
    /// When it was last read in this life of the proxy.
    pub read: Option<Instant>,
    /// Why it could not be read since.
    pub failure: Option<String>,
}

impl Default for Secrets {
    fn default() -> Self {
        Self {
            managers: BTreeMap::new(),
            places: BTreeMap::new(),
            used: HashMap::new(),
            untidy: false,
            refresh: DEFAULT_REFRESH,
        }
    }
}

impl Secrets {
    pub(crate) fn set_refresh(&mut self, refresh: Duration) {
        self.refresh = refresh;
    }

    // === what the compiler asks ===

    /// Learns that a resource has this body: the places to which it refers are read from now on.
    pub(crate) fn note(&mut self, key: &ResourceKey, body: &str) {
        if !SecretReference::may_be_in(body) {
            return;
        }
        let Ok(mut body) = serde_json::from_str(body) else { return };
        for (_, text) in secret_references(key.kind.as_str(), &mut body) {
            if let Ok(Some(SecretReference::Vault(place, _))) =
                SecretReference::parse(text.as_str().unwrap_or_default())
            {
                self.places.entry(place.clone()).or_default();
                self.used.entry(key.clone()).or_default().insert(place);
            }
        }
    }

    /// Learns that a resource does not have the bodies any more that were noted for it.
    pub(crate) fn forget(&mut self, key: &ResourceKey) {
        // Mostly nobody uses any: then a key need not be hashed.
        self.untidy |= !self.used.is_empty() && self.used.remove(key).is_some();
    }

    /// Puts what references name into their places in a body of this kind, in which everything sealed was opened.
    ///
    /// # Errors
    /// Which reference cannot be resolved, with its place and why.
    pub(crate) fn resolve(&self, kind: &str, body: &mut Value) -> Result<(), String> {
        for (path, value) in secret_references(kind, body) {
            let reference = SecretReference::parse(value.as_str().unwrap_or_default());
            let Some(reference) = reference.map_err(|e| format!("{path}: {e}"))? else { continue };
            let secret = match &reference {
                SecretReference::Environment { name, key } => of_environment(name, key.as_deref()),
                SecretReference::Vault(place, key) => self.of_vault(place, key),
            };
            *value = Value::String(secret.map_err(|why| format!("{path}: {reference}: {why}"))?);
        }
        Ok(())
    }

    fn of_vault(&self, place: &VaultPlace, key: &str) -> Result<String, String> {
        let known = self.places.get(place);
        match known.and_then(|known| known.fields.as_ref()) {
            Some(fields) => {
                fields.0.get(key).cloned().ok_or_else(|| format!("there is no field {key:?} in what the vault has"))
            }
            None => {
                manager(&self.managers, &place.manager)?;
                Err(known.and_then(|known| known.failure.clone()).unwrap_or_else(|| "it is not read yet".to_owned()))
            }
        }
    }

    /// Learns how a secret manager is reached; `None`: there is none of that id any more.
    pub(crate) fn set_manager(&mut self, id: &Text, vault: Option<Result<Vault, String>>) {
        let before = match vault {
            Some(vault) => self.managers.insert(id.clone(), vault.map(Arc::new)),
            None => self.managers.remove(id),
        };
        if before.as_ref() == self.managers.get(id) {
            // Answers that are under way stay good.
            if let Some(before) = before {
                self.managers.insert(id.clone(), before);
            }
            return;
        }
        for (_, known) in self.places.iter_mut().filter(|(place, _)| place.manager == *id) {
            known.due = None;
        }
    }

    // === what the feed asks ===

    /// What is due to be read. Whatever is handed out counts as asked until [`Self::learn`] hears of it.
    pub(crate) fn take_orders(&mut self, now: Instant) -> Vec<Order> {
        self.tidy();
        let mut orders: BTreeMap<Text, Order> = BTreeMap::new();
        for (place, known) in &mut self.places {
            if known.asked || known.due.is_some_and(|due| due > now) {
                continue;
            }
            match manager(&self.managers, &place.manager) {
                Ok(vault) => {
                    known.asked = true;
                    let order = || Order { manager: place.manager.clone(), vault: vault.clone(), paths: Vec::new() };
                    orders.entry(place.manager.clone()).or_insert_with(order).paths.push(place.path.clone());
                }
                // It is looked at again when the manager changes, and now and then.
                Err(why) => {
                    known.failure = Some(why);
                    known.due = Some(now + RETRY);
                }
            }
        }
        orders.into_values().collect()
    }

    /// Takes in what came of an order. True when references mean something else from now on.
    pub(crate) fn learn(&mut self, now: Instant, fetched: Fetched) -> bool {
        let Fetched { place, vault, fields } = fetched;
        let is_current =
            self.managers.get(&place.manager).is_some_and(|it| it.as_ref().is_ok_and(|it| Arc::ptr_eq(it, &vault)));
        let Some(known) = self.places.get_mut(&place) else { return false };
        known.asked = false;
        if !is_current {
            known.due = None;
            return false;
        }
        match fields {
            Ok(fields) => {
                known.failure = None;
                known.read = Some(now);
                known.due = Some(now + self.refresh);
                let is_new = known.fields.as_deref() != Some(&fields);
                known.fields = Some(Arc::new(fields));
                is_new
            }
            Err(why) => {
                known.due = Some(now + RETRY);
                let is_new = known.fields.is_none() && known.failure.as_ref() != Some(&why);
                known.failure = Some(why);
                is_new
            }
        }
    }

    /// Whether an answer is still to come that it is worth to wait for: the first of a place.
    pub(crate) fn awaits_first(&self) -> bool {
        self.places.values().any(|known| known.asked && known.fields.is_none() && !known.given_up)
    }

    /// Nobody waits any more for the answers that are to come.
    pub(crate) fn give_up(&mut self) {
        self.places.values_mut().filter(|known| known.asked).for_each(|known| known.given_up = true);
    }

    /// The resources that refer to a place.
    pub(crate) fn users(&self, place: &VaultPlace) -> Vec<ResourceKey> {
        self.used.iter().filter(|(_, places)| places.contains(place)).map(|(key, _)| key.clone()).collect()
    }

    /// How every place stands.
    pub(crate) fn standing(&self) -> Vec<SecretStanding> {
        let standing = |(place, known): (&VaultPlace, &Known)| SecretStanding {
            place: place.to_string(),
            known: known.fields.is_some(),
            read: known.read,
            failure: known.failure.clone(),
        };
        self.places.iter().map(standing).collect()
    }

    /// What was read of every place.
    pub(super) fn known(&self) -> impl Iterator<Item = (&VaultPlace, &FieldsOf)> {
        self.places.iter().filter_map(|(place, known)| Some((place, &**known.fields.as_ref()?)))
    }

    /// Takes in what another life of this proxy has read. It is read again at once.
    pub(super) fn recall(&mut self, place: VaultPlace, fields: FieldsOf) {
        self.places.entry(place).or_default().fields.get_or_insert_with(|| Arc::new(fields));
        self.untidy = true;
    }

    fn tidy(&mut self) {
        if std::mem::take(&mut self.untidy) {
            let used: BTreeSet<&VaultPlace> = self.used.values().flatten().collect();
            self.places.retain(|place, _| used.contains(place));
        }
    }
}

type Managers = BTreeMap<Text, Result<Arc<Vault>, String>>;

/// The vault of that id; else why there is none.
fn manager<'m>(managers: &'m Managers, id: &Text) -> Result<&'m Arc<Vault>, String> {
    match managers.get(id) {
        Some(Ok(vault)) => Ok(vault),
        Some(Err(why)) => Err(format!("secrets/{id} cannot be used: {why}")),
        None => Err(format!("there is no secret manager secrets/{id}")),
    }
}

fn of_environment(name: &str, key: Option<&str>) -> Result<String, String> {
    let value = env::var(name).map_err(|e| match e {
        env::VarError::NotPresent => "the environment of this proxy has no such variable".to_owned(),
        env::VarError::NotUnicode(_) => "the variable is no text".to_owned(),
    })?;
    match key {
        None => Ok(value),
        Some(key) => field(&value, key),
    }
}

/// A field of a JSON object.
fn field(json: &str, key: &str) -> Result<String, String> {
    let value: Value = serde_json::from_str(json).map_err(|_| "the variable is no JSON object".to_owned())?;
    value.get(key).map(text).ok_or_else(|| format!("the variable has no field {key:?}"))
}

/// A value as the text that takes the place of a reference.
pub(super) fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(kind: &str, id: &str) -> ResourceKey {
        ResourceKey::new(kind, id)
    }

    fn vault(token: &str) -> Vault {
        Vault { uri: "http://127.0.0.1:1".into(), prefix: "kv".into(), token: token.into(), namespace: None }
    }

    fn fields(pairs: &[(&str, &str)]) -> FieldsOf {
        FieldsOf(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    fn resolved(secrets: &Secrets, text: &str) -> Result<String, String> {
        let mut body = json!({"plugins": {"p": {"a": [text]}}});
        secrets.resolve("routes", &mut body)?;
        Ok(body["plugins"]["p"]["a"][0].as_str().unwrap().to_owned())
    }

    const PLACE: &str = "$secret://vault/1/jack";

    fn answer(secrets: &mut Secrets, now: Instant, fields: Result<FieldsOf, String>) -> bool {
        let [order] = &secrets.take_orders(now)[..] else { panic!("one order") };
        let place = VaultPlace { manager: order.manager.clone(), path: order.paths[0].clone() };
        let vault = order.vault.clone();
        secrets.learn(now, Fetched { place, vault, fields })
    }

    #[test]
    fn what_the_environment_has_takes_the_place_of_its_reference() {
        let secrets = Secrets::default();
        // Set by cargo for every test.
        assert_eq!(resolved(&secrets, "$env://CARGO_PKG_NAME").as_deref(), Ok("dp-proxy"));
        let why = "$.plugins.p.a[0]: $env://HOLDFAST_NOSUCH: the environment of this proxy has no such variable";
        assert_eq!(resolved(&secrets, "$ENV://HOLDFAST_NOSUCH"), Err(why.to_owned()));
        assert_eq!(field("{\"a\": \"x\", \"b\": 7}", "a").as_deref(), Ok("x"));
        assert_eq!(field("{\"a\": \"x\", \"b\": 7}", "b").as_deref(), Ok("7"));
        assert!(field("{}", "a").unwrap_err().contains("no field") && field("x", "a").unwrap_err().contains("no JSON"));
    }

    #[test]
    fn a_vault_is_asked_once_and_again_when_it_is_due() {
        let (mut secrets, start) = (Secrets::default(), Instant::now());
        let route = key("routes", "r");
        secrets.note(&route, &json!({"plugins": {"p": {"a": format!("{PLACE}/key")}}}).to_string());
        assert!(secrets.take_orders(start).is_empty(), "there is no such manager");
        assert!(
            resolved(&secrets, &format!("{PLACE}/key")).unwrap_err().ends_with("no secret manager secrets/vault/1")
        );
        secrets.set_manager(&"vault/1".into(), Some(Ok(vault("t"))));
        assert!(answer(&mut secrets, start, Ok(fields(&[("key", "one")]))));
        assert_eq!(resolved(&secrets, &format!("{PLACE}/key")).as_deref(), Ok("one"));
        assert!(resolved(&secrets, &format!("{PLACE}/other")).unwrap_err().contains("no field \"other\""));
        assert!(secrets.take_orders(start + DEFAULT_REFRESH - RETRY).is_empty());
        let later = start + DEFAULT_REFRESH;
        // It is gone: what it said last holds, and it is asked again soon.
        assert!(!answer(&mut secrets, later, Err("nobody there".into())));
        assert_eq!(resolved(&secrets, &format!("{PLACE}/key")).as_deref(), Ok("one"));
        assert_eq!(secrets.standing()[0].failure.as_deref(), Some("nobody there"));
        assert!(answer(&mut secrets, later + RETRY, Ok(fields(&[("key", "two")]))));
        assert!(secrets.users(&VaultPlace { manager: "vault/1".into(), path: "jack".into() }) == [route.clone()]);
        // Whoever used it is gone.
        secrets.forget(&route);
        assert!(secrets.take_orders(later + DEFAULT_REFRESH * 2).is_empty() && secrets.standing().is_empty());
    }

    #[test]
    fn an_answer_by_a_manager_of_before_does_not_count() {
        let (mut secrets, now) = (Secrets::default(), Instant::now());
        let id: Text = "vault/1".into();
        secrets.set_manager(&id, Some(Ok(vault("old"))));
        secrets.note(&key("routes", "r"), &json!({"plugins": {"p": {"a": format!("{PLACE}/key")}}}).to_string());
        let order = secrets.take_orders(now).remove(0);
        assert!(secrets.awaits_first());
        secrets.set_manager(&id, Some(Ok(vault("new"))));
        let place = VaultPlace { manager: id.clone(), path: "jack".into() };
        let stale = Fetched { place, vault: order.vault, fields: Ok(fields(&[("key", "old")])) };
        assert!(!secrets.learn(now, stale));
        assert!(answer(&mut secrets, now, Ok(fields(&[("key", "new")]))), "it is asked again at once");
        // The same manager written again changes nothing.
        secrets.set_manager(&id, Some(Ok(vault("new"))));
        assert!(secrets.take_orders(now).is_empty());
    }

    #[test]
    fn fuzz_references_mean_what_they_are_written_as() {
        let seeds: [&[u8]; 4] =
            [b"$secret://vault/1/teams/jack/key", b"$ENV://NAME/key", b"$env://N=", b"$Secret://vault/1//../a?b/key"];
        fuzz::hammer(1, &seeds, |bytes| {
            let Ok(text) = str::from_utf8(bytes) else { return };
            let read = SecretReference::parse(text);
            assert_eq!(SecretReference::is_meant(text), read != Ok(None), "{text}");
            let Ok(Some(reference)) = read else { return };
            assert!(SecretReference::may_be_in(text));
            assert_eq!(SecretReference::parse(&reference.to_string()), Ok(Some(reference)));
        });
    }
}
