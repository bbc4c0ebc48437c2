//! The table of kinds: one line each. Paths, methods, ids and models of the Admin API follow from it.

use serde_json::{Map, Value};

use super::scope::check;
use super::{
    Consumer, Credential, PluginSet, Proto, Route, SecretManager, Service, Ssl, StreamRoute, USERNAME_CHARS_MAX,
    Upstream,
};
use crate::key::ResourceKey;
use crate::report::{Path, Problem, Report};

/// What is fixed about a kind of resource.
#[derive(Debug)]
pub struct KindInfo {
    /// Its name in paths and keys.
    pub name: &'static str,
    /// Its name in sentences.
    pub singular: &'static str,
    /// Which ids it takes.
    pub id_rule: IdRule,
    /// Whether POST (the server chooses the id) is offered.
    pub post: bool,
    /// Whether PATCH is offered.
    pub patch: bool,
    /// How a body becomes a model.
    model: ReadModel,
}

/// How a body (without its id) becomes a model.
type ReadModel = fn(&Value) -> Result<Model, Report>;

/// Which ids a kind takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum IdRule {
    /// 1 to 64 of letters, digits, `-`, `_` and `.`.
    Plain,
    /// A consumer's name: letters, digits, `-` and `_`.
    Username,
    /// `<username>/<plain id>`.
    UnderConsumer,
    /// A plugin's name.
    Plugin,
    /// `<manager>/<plain id>`.
    UnderManager,
}

/// A resource as the data plane sees it.
#[derive(Clone, PartialEq, Debug)]
pub enum Model {
    /// A consumer.
    Consumer(Box<Consumer>),
    /// What is run on the requests of its consumers.
    ConsumerGroup(PluginSet),
    /// One more way in which a consumer can prove who it is.
    Credential(Credential),
    /// What is run on every request.
    GlobalRule(PluginSet),
    /// What is run on the requests of the routes that name it.
    PluginConfig(PluginSet),
    /// What holds wherever a plugin is run.
    PluginMetadata(Map<String, Value>),
    /// A Protobuf definition.
    Proto(Proto),
    /// A route.
    Route(Box<Route>),
    /// Where secrets are kept elsewhere.
    SecretManager(SecretManager),
    /// A service.
    Service(Box<Service>),
    /// Certificates with their keys.
    Ssl(Box<Ssl>),
    /// A stream route.
    StreamRoute(Box<StreamRoute>),
    /// An upstream.
    Upstream(Box<Upstream>),
}

/// Every kind, sorted by name.
#[rustfmt::skip]
pub static KINDS: &[KindInfo] = &[
    KindInfo { name: "consumer_groups", singular: "consumer group",  id_rule: IdRule::Plain,         post: false, patch: true,  model: |v| Ok(Model::ConsumerGroup(check(v, PluginSet::read)?)) },
    KindInfo { name: "consumers",       singular: "consumer",        id_rule: IdRule::Username,      post: false, patch: false, model: |v| Ok(Model::Consumer(Box::new(check(v, Consumer::read)?))) },
    KindInfo { name: "credentials",     singular: "credential",      id_rule: IdRule::UnderConsumer, post: false, patch: false, model: |v| Ok(Model::Credential(check(v, Credential::read)?)) },
    KindInfo { name: "global_rules",    singular: "global rule",     id_rule: IdRule::Plain,         post: false, patch: true,  model: |v| Ok(Model::GlobalRule(check(v, PluginSet::read_rule)?)) },
    KindInfo { name: "plugin_configs",  singular: "plugin config",   id_rule: IdRule::Plain,         post: false, patch: true,  model: |v| Ok(Model::PluginConfig(check(v, PluginSet::read)?)) },
    KindInfo { name: "plugin_metadata", singular: "plugin_metadata", id_rule: IdRule::Plugin,        post: false, patch: false, model: |v| Ok(Model::PluginMetadata(check(v, |s| { s.object()?; s.value.as_object().cloned() })?)) },
    KindInfo { name: "protos",          singular: "proto",           id_rule: IdRule::Plain,         post: true,  patch: false, model: |v| Ok(Model::Proto(check(v, Proto::read)?)) },
    KindInfo { name: "routes",          singular: "route",           id_rule: IdRule::Plain,         post: true,  patch: true,  model: |v| Ok(Model::Route(Box::new(check(v, Route::read)?))) },
    KindInfo { name: "secrets",         singular: "secret",          id_rule: IdRule::UnderManager,  post: false, patch: true,  model: |v| Ok(Model::SecretManager(check(v, SecretManager::read)?)) },
    KindInfo { name: "services",        singular: "service",         id_rule: IdRule::Plain,         post: true,  patch: true,  model: |v| Ok(Model::Service(Box::new(check(v, Service::read)?))) },
    KindInfo { name: "ssls",            singular: "ssl",             id_rule: IdRule::Plain,         post: true,  patch: true,  model: |v| Ok(Model::Ssl(Box::new(check(v, Ssl::read)?))) },
    KindInfo { name: "stream_routes",   singular: "stream route",    id_rule: IdRule::Plain,         post: true,  patch: false, model: |v| Ok(Model::StreamRoute(Box::new(check(v, StreamRoute::read)?))) },
    KindInfo { name: "upstreams",       singular: "upstream",        id_rule: IdRule::Plain,         post: true,  patch: true,  model: |v| Ok(Model::Upstream(Box::new(check(v, Upstream::read)?))) },
];

/// The longest id, in bytes.
pub const ID_BYTES_MAX: usize = 64;

impl KindInfo {
    /// The kind of that name, if there is one.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Self> {
        KINDS.binary_search_by(|kind| kind.name.cmp(name)).ok().map(|i| &KINDS[i])
    }

    /// Builds the model of a body (without its id).
    ///
    /// # Errors
    /// A [`Report`] of everything that is wrong.
    pub fn read(&self, body: &Value) -> Result<Model, Report> {
        (self.model)(body)
    }

    /// The same from the text of a body, where it is plain that nothing is wrong with it: in a fraction of the time. `None`
    /// says nothing about the body: [`Self::read`] is to be asked.
    #[must_use]
    pub fn read_plain(&self, body: &str) -> Option<Model> {
        match self.name {
            "routes" => Route::read_plain(body).map(|route| Model::Route(Box::new(route))),
            _ => None,
        }
    }
}

impl Model {
    /// The resources it refers to, in no order, perhaps twice.
    #[must_use]
    pub fn references(&self) -> Vec<ResourceKey> {
        match self {
            Self::Consumer(consumer) => consumer.group_id.iter().cloned().collect(),
            Self::Route(route) => route.references(),
            Self::Service(service) => service.references(),
            Self::StreamRoute(route) => route.references(),
            Self::Upstream(upstream) => upstream.references(),
            // A credential's consumer stands in its id.
            Self::Credential(_)
            | Self::ConsumerGroup(_)
            | Self::GlobalRule(_)
            | Self::PluginConfig(_)
            | Self::PluginMetadata(_)
            | Self::Proto(_)
            | Self::SecretManager(_)
            | Self::Ssl(_) => Vec::new(),
        }
    }

    /// Its plugins by name; `None` for a kind that has none.
    #[must_use]
    pub fn plugins(&self) -> Option<&Map<String, Value>> {
        match self {
            Self::Consumer(consumer) => Some(&consumer.plugins),
            Self::Credential(credential) => Some(&credential.plugins),
            Self::ConsumerGroup(set) | Self::GlobalRule(set) | Self::PluginConfig(set) => Some(&set.plugins),
            Self::Route(route) => Some(&route.plugins),
            Self::Service(service) => Some(&service.plugins),
            Self::StreamRoute(route) => Some(&route.plugins),
            Self::PluginMetadata(_) | Self::Proto(_) | Self::SecretManager(_) | Self::Ssl(_) | Self::Upstream(_) => {
                None
            }
        }
    }
}

impl IdRule {
    /// Checks an id.
    ///
    /// # Errors
    /// The problem, at the place `$.id`.
    pub fn check(self, id: &str) -> Result<(), Problem> {
        let plain = |s: &str| {
            (1..=ID_BYTES_MAX).contains(&s.len())
                && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
        };
        let username = |s: &str| {
            (1..=USERNAME_CHARS_MAX).contains(&s.len())
                && s.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
        };
        let good = match self {
            Self::Plain | Self::Plugin => plain(id),
            Self::Username => username(id),
            Self::UnderConsumer => id.split_once('/').is_some_and(|(user, id)| username(user) && plain(id)),
            Self::UnderManager => id.split_once('/').is_some_and(|(manager, id)| plain(manager) && plain(id)),
        };
        if good {
            return Ok(());
        }
        let path = Path::default().property("id");
        let message = format!("{id:?} is no id: 1 to {ID_BYTES_MAX} of letters, digits, '-', '_' and '.' are");
        Err(Problem::known_as(path.clone(), "object matches none of the required", path, message))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_sorted_and_found_by_name() {
        assert!(KINDS.is_sorted_by(|a, b| a.name < b.name));
        for kind in KINDS {
            assert_eq!(KindInfo::find(kind.name).map(|k| k.singular), Some(kind.singular));
        }
        assert!(KindInfo::find("nosuch").is_none());
    }

    #[test]
    fn ids() {
        for (rule, id, good) in [
            (IdRule::Plain, "ok.id_1-x", true),
            (IdRule::Plain, "1", true),
            (IdRule::Plain, "", false),
            (IdRule::Plain, "bad id", false),
            (IdRule::Plain, "a:b", false),
            (IdRule::Plain, "a/b", false),
            (IdRule::Plain, "é", false),
            (IdRule::Plain, &"a".repeat(64), true),
            (IdRule::Plain, &"a".repeat(65), false),
            (IdRule::Username, "jack", true),
            (IdRule::Username, "ja.ck", false),
            (IdRule::UnderConsumer, "jack/c.1", true),
            (IdRule::UnderConsumer, "jack", false),
            (IdRule::UnderManager, "vault/1", true),
            (IdRule::UnderManager, "vault/a/b", false),
        ] {
            assert_eq!(rule.check(id).is_ok(), good, "{rule:?} {id:?}");
        }
        let problem = IdRule::Plain.check("a b").unwrap_err();
        assert_eq!(
            problem.summary,
            "invalid configuration: property \"id\" validation failed: object matches none of the required"
        );
    }
}
