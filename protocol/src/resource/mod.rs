//! What users configure: the kinds of resources, their models, and the one door through which a body becomes one.
//!
//! [`admit`] is the only validator: the Admin API, the command line, the proxy and the tests call it or the constructors
//! behind it. It collects every problem of a body, each with its JSON path.

mod certificate;
mod common;
mod consumer;
mod credential;
mod expression;
mod pending;
mod plugin;
mod plugin_set;
mod proto;
mod route;
mod schema;
pub mod scope;
mod secret;
mod secret_manager;
mod secret_reference;
mod service;
mod ssl;
mod stream_route;
mod table;
mod upstream;
mod variable;

use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};

pub use certificate::{BadCertificate, Certificate};
pub use common::{DESC_CHARS_MAX, HostPattern, LABEL_CHARS_MAX, NAME_CHARS_MAX, Timeouts, net, reference};
pub use consumer::{Consumer, USERNAME_CHARS_MAX};
pub use credential::Credential;
pub use expression::{CONDITIONS_MAX, Expression};
pub use pending::{unsupported, unsupported_upstream};
pub use plugin::{Checked, NoPlugins, PluginCatalog, PluginMarks, PluginRole, plugin_place, plugin_role};
pub use plugin_set::PluginSet;
pub use proto::{PROTO_CHARS_MAX, Proto};
pub use route::{Method, MethodSet, Part, Route, RouteStatus, URI_CHARS_MAX, UriPattern};
pub use secret::{conceal, secrets, uniques};
pub use secret_manager::{SecretManager, Vault};
pub use secret_reference::{BadReference, SecretReference, VaultPlace, check_around_references, secret_references};
pub use service::Service;
pub use ssl::{ClientAuth, KeyPair, PEM_CHARS_MAX, PrivateKey, Ssl, SslRole, TlsVersion};
pub use stream_route::StreamRoute;
pub use table::{ID_BYTES_MAX, IdRule, KINDS, KindInfo, Model};
pub use upstream::{
    ActiveCheck, Algorithm, CheckType, Checks, DISCOVERY_DNS, Endpoints, HashKey, HashOn, KeepalivePool, Node,
    PassHost, PassiveCheck, Scheme, Upstream, UpstreamTls, split_service,
};
pub use variable::{CONSUMER_NAME, GraphQl, Known, Piece, Values, Variable, VariableText};

use crate::entry::Claim;
use crate::json;
use crate::key::ResourceKey;
use crate::report::{Path, Problem, Report};
use crate::text::Text;

/// A body that was found good, with everything that the log needs to know of it.
#[derive(Clone, PartialEq, Debug)]
pub struct Admitted {
    /// The id that the body names, if it names one.
    pub id: Option<Text>,
    /// The canonical JSON of the user's fields.
    pub body: String,
    /// What it refers to, sorted, each once.
    pub references: Vec<ResourceKey>,
    /// Values that nobody else may hold, as far as they are no secrets.
    pub claims: Vec<Claim>,
    /// Whether a keyring is needed: to seal something in the body, or to claim a value that nobody else may have.
    pub has_secrets: bool,
    /// What is accepted but worth a word, e.g. a field that has no effect yet.
    pub warnings: Vec<String>,
}

/// Fields that the server puts into answers and that no body may bring.
const STAMPS: [&str; 2] = ["create_time", "update_time"];

/// Admits a body of the given kind under `id` (`None` when the server is to choose one), by a build that has the plugins
/// of `catalog`.
///
/// # Errors
/// A [`Report`] of everything that is wrong with it.
pub fn admit(catalog: &dyn PluginCatalog, kind: &KindInfo, id: Option<&str>, body: Value) -> Result<Admitted, Report> {
    if let Some(id) = id {
        kind.id_rule.check(id).map_err(Report::of)?;
    }
    if let Some(problem) = forbidden_stamp(&Path::default(), &body) {
        return Err(Report::of(problem));
    }
    let mut body = body;
    let mut body_id = take_id(kind, id, &mut body)?;
    let model = kind.read(&body)?;
    if let (Model::SecretManager(manager), Some(id)) = (&model, id.or(body_id.as_deref())) {
        manager.check_fields(id, &body)?;
    }
    if let Model::Consumer(consumer) = &model {
        if id.is_some_and(|id| *id != *consumer.username) {
            return Err(Report::of(Problem::rule(Path::default().property("username"), "wrong username")));
        }
        body_id = Some(consumer.username.clone());
    }
    let mut problems = unsupported(&model);
    let named = id.or(body_id.as_deref()).unwrap_or_default();
    let checked = plugin::check(catalog, kind.name, named, &model);
    let said = checked.unwrap_or_else(|report| {
        problems.splice(0..0, report.problems);
        Checked::default()
    });
    if !problems.is_empty() {
        return Err(Report { problems });
    }
    let mut references = model.references();
    references.extend(said.references);
    references.extend(owner(kind, named));
    references.sort();
    references.dedup();
    let has_secrets =
        !secrets(catalog, kind.name, &mut body).is_empty() || !uniques(catalog, kind.name, &body).is_empty();
    let mut warnings = pending::warnings(&model);
    warnings.extend(said.warnings);
    Ok(Admitted {
        id: body_id,
        body: json::canonical(&body),
        references,
        claims: claims(&model),
        has_secrets,
        warnings,
    })
}

/// What a resource belongs to by its id: a credential to its consumer.
fn owner(kind: &KindInfo, id: &str) -> Option<ResourceKey> {
    let (consumer, _) = id.split_once('/').filter(|_| kind.id_rule == IdRule::UnderConsumer)?;
    Some(ResourceKey::new("consumers", consumer))
}

/// What only one resource may have and is no secret: a plugin among all global rules.
fn claims(model: &Model) -> Vec<Claim> {
    let Model::GlobalRule(rule) = model else { return Vec::new() };
    let claim = |name: &String| Claim {
        space: format!("{GLOBAL_PLUGINS}{name}").as_str().into(),
        hash: Sha256::digest(name).into(),
    };
    let mut claims: Vec<_> = rule.plugins.keys().map(claim).collect();
    claims.sort();
    claims
}

/// What the spaces of the claims that global rules make start with; a plugin's name follows. No secret is claimed: the
/// hash is the SHA-256 of the name.
pub const GLOBAL_PLUGINS: &str = "global_rules/";

/// Plugins by name. What each may say is checked by the plugin.
fn plugins(scope: scope::Scope<'_, '_>) -> Option<Map<String, Value>> {
    for (_, configuration) in scope.members()? {
        configuration.object()?;
    }
    scope.value.as_object().cloned()
}

/// Takes `id` out of the body: it is the entry's name, not one of its fields.
fn take_id(kind: &KindInfo, path_id: Option<&str>, body: &mut Value) -> Result<Option<Text>, Report> {
    let Some(given) = body.as_object_mut().and_then(|members| members.remove("id")) else { return Ok(None) };
    // A consumer is named by its `username`; APISIX takes an id beside it and does nothing with it.
    if kind.id_rule == IdRule::Username {
        return Ok(None);
    }
    let path = Path::default().property("id");
    let malformed = || Report::of(Problem::schema(path.clone(), "object matches none of the required".to_owned()));
    let id = match given {
        Value::String(id) => id,
        Value::Number(n) if n.as_i64().is_some_and(|n| n >= 1) => n.to_string(),
        _ => return Err(malformed()),
    };
    // Inside what it belongs to, a resource may be called by the end of its id.
    let last = path_id.and_then(|path_id| path_id.rsplit('/').next());
    let id = match path_id {
        Some(path_id) if last == Some(&id) => path_id.to_owned(),
        _ => id,
    };
    kind.id_rule.check(&id).map_err(Report::of)?;
    if path_id.is_some_and(|path_id| path_id != id) {
        return Err(Report::of(Problem::rule(path, format!("wrong {} id", kind.singular))));
    }
    Ok(Some(id.into()))
}

/// Finds `create_time` or `update_time`, in the body or in an upstream inside it.
fn forbidden_stamp(path: &Path, body: &Value) -> Option<Problem> {
    let members = body.as_object()?;
    for stamp in STAMPS {
        if members.contains_key(stamp) {
            return Some(Problem::rule(path.property(stamp), format!("the property is forbidden:  {stamp}")));
        }
    }
    let inner = members.get("upstream")?.as_object()?;
    let stamp = STAMPS.into_iter().find(|stamp| inner.contains_key(*stamp))?;
    let place = path.property("upstream").property(stamp);
    Some(Problem::rule(place, format!("the property is forbidden:  upstream.{stamp}")))
}
