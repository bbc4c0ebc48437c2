//! What plugins that authenticate have in common: who is known, how a failure is answered, and the anonymous consumer.

use std::fmt;

use http::StatusCode;
use http::header::{HeaderName, HeaderValue, WWW_AUTHENTICATE};
use protocol::resource::Variable;
use protocol::resource::scope::Fields;
use serde_json::{Value, json};

use super::answer::Answer;
use super::header_edits::header_name;
use super::host::{Host, Login};
use super::jwt_auth::Verifier;
use super::plugin::Step;
use super::request::{Identity, Request};

/// How a consumer is known to a plugin.
#[derive(Clone, PartialEq, Debug)]
pub struct Credential {
    /// By what it is found.
    pub identity: Box<str>,
    /// What must be shown.
    pub proof: Proof,
}

/// What somebody must show beside a name.
#[derive(Clone, PartialEq)]
pub enum Proof {
    /// Nothing: who knows the key is its owner.
    None,
    /// This password.
    Password(Box<str>),
    /// A signature that is made with this secret.
    SharedSecret(Box<str>),
    /// A token that is signed.
    Token(Verifier),
}

/// Secrets are not printed.
impl fmt::Debug for Proof {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Password(_) => "Password(***)",
            Self::SharedSecret(_) => "SharedSecret(***)",
            Self::Token(_) => "Token(***)",
        })
    }
}

/// The header and the argument in which a client shows something.
#[derive(Debug)]
pub(crate) struct Places {
    header: HeaderName,
    query: Box<str>,
    /// The argument as a variable.
    argument: Variable,
}

impl Places {
    /// Reads their names; `header` and `query` are those that hold when none are given.
    pub(crate) fn read(fields: &Fields<'_, '_>, header: HeaderName, query: &str) -> Option<Self> {
        let header = match fields.get("header") {
            Some(scope) => header_name(&scope),
            None => Some(header),
        };
        let query = fields.optional("query", |s| s.string(0, usize::MAX)).unwrap_or(query);
        Some(Self { header: header?, query: query.into(), argument: Variable::parse(&format!("arg_{query}")) })
    }

    pub(crate) fn in_header<'r>(&self, request: &'r Request) -> Option<&'r str> {
        request.header(self.header.as_str())
    }

    pub(crate) fn in_query(&self, host: &dyn Host) -> Option<String> {
        shown(&self.argument, host)
    }

    /// Takes both out of a request, so that the upstream does not get to see them.
    pub(crate) fn hide(&self, request: &mut Request) {
        request.headers.remove(&self.header);
        request.remove_argument(&self.query);
    }

    /// The fields in a schema.
    pub(crate) fn schema(header: &str, query: &str) -> Value {
        json!({
            "header": { "type": "string", "default": header },
            "query": { "type": "string", "default": query },
        })
    }
}

/// The value of a variable as text.
pub(crate) fn shown(variable: &Variable, host: &dyn Host) -> Option<String> {
    host.values().value(variable).map(|value| String::from_utf8_lossy(&value).into_owned())
}

/// The fields that all of them have.
#[derive(Debug)]
pub(crate) struct AuthOptions {
    challenge: HeaderValue,
    /// Whether the upstream does not get to see what the client showed.
    pub(crate) hide_credentials: bool,
    anonymous_consumer: Option<Box<str>>,
}

impl AuthOptions {
    /// `scheme` is that of the challenge, `realm` the one that is told unless the configuration says another.
    pub(crate) fn read(fields: &Fields<'_, '_>, scheme: &str, realm: &str) -> Option<Self> {
        let hide_credentials = fields.optional("hide_credentials", |s| s.boolean()).unwrap_or(false);
        let own_realm = fields.optional("realm", |s| {
            let text = s.string(1, 128)?;
            let plain = |text: &str| text.bytes().all(|b| (b' '..=b'~').contains(&b) && !matches!(b, b'"' | b'\\'));
            s.pattern(text, r"^[ -!#-[\]-~]+$", plain)
        });
        let anonymous_consumer = fields.optional("anonymous_consumer", |s| s.string(1, usize::MAX)).map(Box::from);
        let challenge = HeaderValue::from_str(&format!("{scheme} realm=\"{}\"", own_realm.unwrap_or(realm))).ok()?;
        Some(Self { challenge, hide_credentials, anonymous_consumer })
    }

    /// Goes on with whoever was found, or else answers with `Err`'s sentence.
    pub(crate) fn settle(&self, request: &mut Request, host: &dyn Host, found: Result<Login<'_>, &str>) -> Step {
        let sentence = match found {
            Ok(login) => {
                request.attach(&Identity { credential: login.credential.cloned(), ..login.identity.clone() });
                return Step::Go;
            }
            Err(sentence) => sentence,
        };
        let sentence = match &self.anonymous_consumer {
            None => sentence,
            Some(name) => {
                if let Some(identity) = host.consumer(name) {
                    request.attach(identity);
                    return Step::Go;
                }
                "Invalid user authorization"
            }
        };
        Step::Answer(Answer::message(StatusCode::UNAUTHORIZED, sentence).with(WWW_AUTHENTICATE, self.challenge.clone()))
    }

    /// The fields in a schema.
    pub(crate) fn schema(realm: &str) -> Value {
        json!({
            "hide_credentials": { "type": "boolean", "default": false,
                                  "description": "the upstream does not get to see what the client showed" },
            "realm": { "type": "string", "minLength": 1, "maxLength": 128, "pattern": r"^[ -!#-\[\]-~]+$",
                       "default": realm },
            "anonymous_consumer": { "type": "string", "minLength": 1,
                                    "description": "who a client is that does not prove to be anybody" },
        })
    }
}

/// `schema` with more properties.
pub(crate) fn extended(mut properties: Value, more: Value) -> Value {
    if let (Some(all), Value::Object(more)) = (properties.as_object_mut(), more) {
        all.extend(more);
    }
    properties
}
