//! Compiles plugins, and the kinds that are made of them: plugin configs, consumer groups, global rules, consumers,
//! credentials.

use std::collections::HashMap;

use plugins::{CATALOG, Chain, Identity, Plugin, Proof};
use protocol::crypto::Keyring;
use protocol::resource::{self, Consumer as ConsumerModel, Model, plugin_place};
use protocol::seal::{self, SealedToken};
use protocol::{ResourceKey, Text};
use serde_json::{Map, Value};

use super::super::access::{Access, Consumer, Known, Layer};
use super::plan::one_line;
use crate::secrets::Secrets;

/// What became of the plugins of a resource.
#[derive(Debug)]
pub(super) struct ReadyPlugins {
    /// What is run.
    pub(super) chain: Chain,
    /// How its consumer is known: plugin, key, proof.
    logins: Vec<(&'static str, Box<str>, Proof)>,
}

/// What secrets are opened with.
#[derive(Clone, Copy)]
pub(super) struct Opening<'o> {
    /// Opens those that are sealed.
    pub(super) keyring: Option<&'o Keyring>,
    /// Knows those that are kept elsewhere.
    pub(super) secrets: &'o Secrets,
}

/// The keys under which each consumer and credential is known, by the resource that says so.
#[derive(Debug, Default)]
pub(super) struct Logins(HashMap<Text, Vec<(&'static str, Box<str>)>>);

/// Compiles the plugins of a resource. `before` is what it had: what is configured alike is taken over.
///
/// # Errors
/// Why they cannot be run.
pub(super) fn compile(
    key: &ResourceKey,
    stored: &Map<String, Value>,
    opening: Opening<'_>,
    before: &Chain,
) -> Result<ReadyPlugins, String> {
    if stored.is_empty() {
        return Ok(ReadyPlugins { chain: Chain::default(), logins: Vec::new() });
    }
    let mut open = opened(key, stored, opening)?;
    let mut logins = Vec::new();
    let kind = key.kind.as_str();
    for plugin in plugins::PLUGINS.iter().filter(|plugin| is_login(kind, plugin)) {
        let Some(configuration) = open.remove(plugin.name) else { continue };
        let credential = plugin.credential(&configuration);
        let credential =
            credential.map_err(|report| one_line(&report.within(&plugin_place(plugin.name), "").to_string()))?;
        logins.push((plugin.name, credential.identity, credential.proof));
    }
    let chain =
        Chain::compile(&key.to_string(), &open, stored, before).map_err(|report| one_line(&report.to_string()))?;
    Ok(ReadyPlugins { chain, logins })
}

/// Whether a plugin's configuration in this kind says how a consumer is known.
fn is_login(kind: &str, plugin: &Plugin) -> bool {
    matches!(kind, "consumers" | "credentials") && plugin.authenticates()
}

/// The same plugins with secrets opened.
fn opened(key: &ResourceKey, stored: &Map<String, Value>, opening: Opening<'_>) -> Result<Map<String, Value>, String> {
    let mut body = Value::Object(Map::from_iter([("plugins".to_owned(), Value::Object(stored.clone()))]));
    opening.open(key, &mut body)?;
    match body.get_mut("plugins").map(Value::take) {
        Some(Value::Object(open)) => Ok(open),
        _ => Ok(Map::new()),
    }
}

impl Opening<'_> {
    /// Puts every secret of a body in the place of its token or its reference.
    ///
    /// # Errors
    /// Which of them cannot be had, with its place and why.
    pub(super) fn open(self, key: &ResourceKey, body: &mut Value) -> Result<(), String> {
        unseal(key, body, self.keyring)?;
        self.secrets.resolve(key.kind.as_str(), body)
    }
}

fn unseal(key: &ResourceKey, body: &mut Value, keyring: Option<&Keyring>) -> Result<(), String> {
    for (path, value) in resource::secrets(&CATALOG, key.kind.as_str(), body) {
        let Some(text) = value.as_str().filter(|text| text.starts_with(seal::PREFIX)) else {
            return Err(format!("{path}: a secret that is not sealed is not served"));
        };
        let keyring = keyring.ok_or_else(|| format!("{path}: there is no keyring to open it with"))?;
        let token: SealedToken = text.parse().map_err(|e| format!("{path}: {e}"))?;
        let secret = keyring.open(key, &path, &token).map_err(|e| format!("{path}: {e}"))?;
        let secret = String::from_utf8(secret).map_err(|_| format!("{path}: the sealed secret is no text"))?;
        *value = Value::String(secret);
    }
    Ok(())
}

impl Access {
    /// The plugins that a resource has now.
    pub(super) fn before(&self, key: &ResourceKey) -> Chain {
        let of = |layer: Option<&Layer>| match layer {
            Some(Layer::Ready(chain)) => chain.clone(),
            Some(Layer::Sealed(_)) | None => Chain::default(),
        };
        match key.kind.as_str() {
            "consumers" => self.consumers.get(&key.id).map(|consumer| consumer.plugins.clone()).unwrap_or_default(),
            "global_rules" => self.global_rules.get(&key.id).cloned().unwrap_or_default(),
            "plugin_configs" => of(self.plugin_configs.get(&key.id)),
            "consumer_groups" => of(self.consumer_groups.get(&key.id)),
            _ => Chain::default(),
        }
    }

    /// Takes a resource in.
    pub(super) fn put(&mut self, key: &ResourceKey, model: &Model, ready: ReadyPlugins, logins: &mut Logins) {
        let id = &key.id;
        match model {
            Model::GlobalRule(_) => drop(self.global_rules.insert(id.clone(), ready.chain)),
            Model::PluginConfig(_) => drop(self.plugin_configs.insert(id.clone(), Layer::Ready(ready.chain))),
            Model::ConsumerGroup(_) => drop(self.consumer_groups.insert(id.clone(), Layer::Ready(ready.chain))),
            Model::Consumer(consumer) => {
                let identity = identity(consumer);
                self.consumers.insert(id.clone(), Consumer { identity, plugins: ready.chain });
                self.learn_all(key, id, None, ready.logins, logins);
            }
            Model::Credential(_) => {
                if let Some((consumer, credential)) = id.split_once('/') {
                    self.learn_all(key, &consumer.into(), Some(credential.into()), ready.logins, logins);
                }
            }
            _ => {}
        }
    }

    /// Takes in that a resource cannot be served: it makes nobody known, and what needs its plugins is answered 503.
    pub(super) fn seal(&mut self, key: &ResourceKey, reason: &str, logins: &mut Logins) {
        self.remove(key, logins);
        let sealed = || Layer::Sealed(reason.into());
        match key.kind.as_str() {
            "plugin_configs" => drop(self.plugin_configs.insert(key.id.clone(), sealed())),
            "consumer_groups" => drop(self.consumer_groups.insert(key.id.clone(), sealed())),
            _ => {}
        }
    }

    /// Takes a resource out.
    pub(super) fn remove(&mut self, key: &ResourceKey, logins: &mut Logins) {
        let id = &key.id;
        match key.kind.as_str() {
            "global_rules" => drop(self.global_rules.remove(id)),
            "plugin_configs" => drop(self.plugin_configs.remove(id)),
            "consumer_groups" => drop(self.consumer_groups.remove(id)),
            "consumers" => drop(self.consumers.remove(id)),
            _ => {}
        }
        let by = by(key);
        for (plugin, known_by) in logins.0.remove(&by).unwrap_or_default() {
            self.forget(plugin, &known_by, &by);
        }
    }

    fn learn_all(
        &mut self,
        key: &ResourceKey,
        consumer: &Text,
        credential: Option<Text>,
        ready: Vec<(&'static str, Box<str>, Proof)>,
        logins: &mut Logins,
    ) {
        let by = by(key);
        for (plugin, known_by) in logins.0.remove(&by).unwrap_or_default() {
            self.forget(plugin, &known_by, &by);
        }
        for (plugin, known_by, proof) in ready {
            logins.0.entry(by.clone()).or_default().push((plugin, known_by.clone()));
            let known = Known { consumer: consumer.clone(), credential: credential.clone(), proof };
            self.learn(plugin, known_by, &by, known);
        }
    }
}

fn by(key: &ResourceKey) -> Text {
    key.to_string().as_str().into()
}

fn identity(consumer: &ConsumerModel) -> Identity {
    Identity {
        consumer: consumer.username.clone(),
        credential: None,
        custom_id: consumer.custom_id.clone(),
        group: consumer.group_id.as_ref().map(|key| key.id.clone()),
    }
}
