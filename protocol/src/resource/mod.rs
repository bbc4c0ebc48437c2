//! What users configure: the kinds of resources, their models, and the one door through which a body becomes one.
//!
//! [`admit`] is the only validator: the Admin API, the command line, the proxy and the tests call it or the constructors
//! behind it. It collects every problem of a body, each with its JSON path.

mod certificate;
mod common;
mod expression;
mod pending;
mod route;
mod schema;
mod scope;
mod secret;
mod service;
mod ssl;
mod table;
mod upstream;
mod variable;

use serde_json::Value;

pub use certificate::{BadCertificate, Certificate};
pub use common::{DESC_CHARS_MAX, HostPattern, LABEL_CHARS_MAX, NAME_CHARS_MAX, Timeouts};
pub use expression::Expression;
pub use pending::unsupported;
pub use route::{Method, MethodSet, Part, Route, RouteStatus, URI_CHARS_MAX, UriPattern};
pub use secret::{conceal, has_secrets, secrets};
pub use service::Service;
pub use ssl::{ClientAuth, KeyPair, PrivateKey, Ssl, SslRole, TlsVersion};
pub use table::{ID_BYTES_MAX, IdRule, KINDS, KindInfo, Model};
pub use upstream::{
    ActiveCheck, Algorithm, CheckType, Checks, Endpoints, HashKey, HashOn, KeepalivePool, Node, PassHost, PassiveCheck,
    Scheme, Upstream, UpstreamTls,
};
pub use variable::{Known, Piece, Values, Variable, VariableText};

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
    /// Values that nobody else may hold.
    pub claims: Vec<Claim>,
    /// What is accepted but worth a word, e.g. a field that has no effect yet.
    pub warnings: Vec<String>,
}

/// Fields that the server puts into answers and that no body may bring.
const STAMPS: [&str; 2] = ["create_time", "update_time"];

/// Admits a body of the given kind under `id` (`None` when the server is to choose one).
///
/// # Errors
/// A [`Report`] of everything that is wrong with it.
pub fn admit(kind: &KindInfo, id: Option<&str>, body: Value) -> Result<Admitted, Report> {
    if let Some(id) = id {
        kind.id_rule.check(id).map_err(Report::of)?;
    }
    if let Some(problem) = forbidden_stamp(&Path::default(), &body) {
        return Err(Report::of(problem));
    }
    let mut body = body;
    let body_id = take_id(kind, id, &mut body)?;
    let model = kind.read(&body)?;
    let missing = unsupported(&model);
    if !missing.is_empty() {
        return Err(Report { problems: missing });
    }
    let mut references = model.references();
    references.sort();
    references.dedup();
    Ok(Admitted {
        id: body_id,
        body: json::canonical(&body),
        references,
        claims: Vec::new(),
        warnings: pending::warnings(&model),
    })
}

/// Takes `id` out of the body: it is the entry's name, not one of its fields.
fn take_id(kind: &KindInfo, path_id: Option<&str>, body: &mut Value) -> Result<Option<Text>, Report> {
    let Some(given) = body.as_object_mut().and_then(|members| members.remove("id")) else { return Ok(None) };
    let path = Path::default().property("id");
    let malformed = || Report::of(Problem::schema(path.clone(), "object matches none of the required".to_owned()));
    let id = match given {
        Value::String(id) => id,
        Value::Number(n) if n.as_i64().is_some_and(|n| n >= 1) => n.to_string(),
        _ => return Err(malformed()),
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
