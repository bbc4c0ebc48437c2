//! What a plugin is.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Method, StatusCode};
use protocol::report::Report;
use protocol::resource::scope::{Fields, Scope, check};
use protocol::resource::{PluginMarks, Upstream, Variable};
use protocol::{ResourceKey, Text};
use serde_json::{Value, json};

use super::answer::{Answer, Response};
use super::auth::Credential;
use super::host::Host;
use super::meta;
use super::metadata::Metadata;
use super::request::{self, Request};

/// What is fixed about a plugin.
#[derive(Debug)]
pub struct Plugin {
    /// Its name in configurations.
    pub name: &'static str,
    /// Of the plugins of a request, the higher goes first. `_meta.priority` of a configuration wins.
    pub priority: i64,
    /// The version that is shown for it; nothing decides by it.
    pub version: f64,
    /// The JSON Schema of a configuration, without `_meta`.
    pub(crate) schema: fn() -> Value,
    /// Reads a configuration.
    pub(crate) read: fn(&Fields<'_, '_>) -> Option<Box<dyn Behaviour>>,
    /// Which fields of a configuration are secret.
    pub(crate) secrets: &'static [&'static str],
    /// What makes it one that authenticates.
    pub(crate) auth: Option<Auth>,
}

/// How consumers are configured for a plugin that authenticates.
#[derive(Debug)]
pub(crate) struct Auth {
    /// The JSON Schema of a consumer's configuration.
    pub(crate) schema: fn() -> Value,
    /// Which of its fields are secret.
    pub(crate) secrets: &'static [&'static str],
    /// The field by which a consumer is found.
    pub(crate) identity: &'static str,
    /// Reads a consumer's configuration.
    pub(crate) read: fn(&Fields<'_, '_>) -> Option<Credential>,
}

/// What a configured plugin does, phase by phase. What it does not do is left out.
///
/// It is shared by all workers: what it remembers stands behind locks of its own.
pub trait Behaviour: fmt::Debug + Send + Sync {
    /// Changes the request, or answers it. Plugins that authenticate do so here: what is configured for the consumer
    /// counts from then on.
    fn rewrite(&self, request: &mut Request, host: &dyn Host) -> Step {
        let _ = (request, host);
        Step::Go
    }

    /// Where it may send requests to, in place of the route's upstream: by the numbers that it puts into
    /// [`Request::heading`].
    fn destinations(&self) -> &[Destination] {
        &[]
    }

    /// Goes on with the answer to a [`Step::Call`]; `None` when there is none that can be used.
    fn replied(&self, request: &mut Request, reply: Option<Reply>) -> Step {
        let _ = (request, reply);
        Step::Go
    }

    /// Goes on with what came of a [`Step::Check`].
    fn checked(&self, request: &mut Request, host: &dyn Host, result: Result<(), String>) -> Step {
        let _ = (request, host, result);
        Step::Go
    }

    /// Lets the request pass, or answers it.
    fn access(&self, request: &mut Request, host: &dyn Host) -> Step {
        let _ = (request, host);
        Step::Go
    }

    /// Changes the answer, whoever gives it: an upstream, a plugin, or the proxy itself.
    fn header_filter(&self, request: &Request, response: &mut Response<'_>, host: &dyn Host) {
        let _ = (request, response, host);
    }
}

/// An upstream that a plugin's configuration names.
#[derive(Clone, PartialEq, Debug)]
pub enum Destination {
    /// A shared one, by its id.
    Shared(Text),
    /// One of the configuration's own.
    Own(Box<Upstream>),
}

impl Destination {
    /// The resources that it refers to.
    pub(crate) fn references(&self) -> Vec<ResourceKey> {
        match self {
            Self::Shared(id) => vec![ResourceKey::new("upstreams", id)],
            Self::Own(upstream) => upstream.references(),
        }
    }
}

/// How a request goes on.
#[derive(PartialEq, Debug)]
pub enum Step {
    /// To the next plugin, or to the upstream.
    Go,
    /// To the next plugin, after some time.
    Wait(Duration),
    /// As that says, after some time.
    WaitThen(Duration, Box<Step>),
    /// On when an upstream has answered a question of the plugin's own: [`Behaviour::replied`] says how.
    Call(Box<Call>),
    /// On when the request's body has come and was looked through: [`Behaviour::checked`] says how. A plugin asks for it
    /// last, when nothing else speaks against the request: until then nobody has to be given memory.
    Check(Box<BodyCheck>),
    /// Back to the client.
    Answer(Answer),
}

/// A request of a plugin's own.
#[derive(Clone, PartialEq, Debug)]
pub struct Call {
    /// The number of the [destination](Behaviour::destinations) that is asked.
    pub destination: usize,
    /// With which method.
    pub method: Method,
    /// The path and the query.
    pub target: String,
    /// Its headers, but those that frame it and tell whom it is for.
    pub headers: HeaderMap,
    /// The largest body, in bytes, of the request that it is about, where that goes with it; a larger one is answered 413.
    /// `None`: it goes without a body.
    pub body_bytes_max: Option<u64>,
    /// How long all of it may take.
    pub timeout: Duration,
}

/// The answer to a [`Call`].
#[derive(Clone, PartialEq, Debug)]
pub struct Reply {
    /// Its status.
    pub status: StatusCode,
    /// Its headers.
    pub headers: HeaderMap,
    /// All of its body; `None`: it is too long, or did not come to its end.
    pub body: Option<Bytes>,
}

/// How a body is looked through. That may be done on another thread, where the body is large.
pub struct BodyCheck {
    /// The largest body that is taken, in bytes; a larger one is answered 413.
    pub bytes_max: u64,
    check: Box<Check>,
}

type Check = dyn FnOnce(&[u8]) -> Result<(), String> + Send;

impl BodyCheck {
    /// `check` gets all of the body.
    pub(crate) fn new(bytes_max: u64, check: impl FnOnce(&[u8]) -> Result<(), String> + Send + 'static) -> Self {
        Self { bytes_max, check: Box::new(check) }
    }

    /// Looks a body through.
    ///
    /// # Errors
    /// What [`Behaviour::checked`] is to hear of it.
    pub fn run(self, body: &[u8]) -> Result<(), String> {
        (self.check)(body)
    }
}

impl fmt::Debug for BodyCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyCheck").field("bytes_max", &self.bytes_max).finish_non_exhaustive()
    }
}

/// Of no two is it known whether they check the same.
impl PartialEq for BodyCheck {
    fn eq(&self, _: &Self) -> bool {
        false
    }
}

impl Plugin {
    /// The JSON Schema of a configuration on routes, services and their like.
    #[must_use]
    pub fn schema(&self) -> Value {
        let mut schema = (self.schema)();
        schema["type"] = json!("object");
        schema["properties"]["_meta"] = meta::schema();
        if !self.secrets.is_empty() {
            schema["encrypt_fields"] = json!(self.secrets);
        }
        schema
    }

    /// Everything about it, as APISIX tells it of its plugins.
    #[must_use]
    pub fn description(&self) -> Value {
        let mut all = json!({"priority": self.priority, "version": self.version, "schema": self.schema()});
        if let Some(schema) = self.consumer_schema() {
            all["type"] = json!("auth");
            all["consumer_schema"] = schema;
        }
        if let Some(schema) = self.metadata_schema() {
            all["metadata_schema"] = schema;
        }
        all
    }

    /// The JSON Schema of its metadata; `None` for a plugin that reads none.
    #[must_use]
    pub fn metadata_schema(&self) -> Option<Value> {
        Metadata::schema(self.name)
    }

    /// The JSON Schema of a consumer's configuration; `None` for a plugin that does not authenticate.
    #[must_use]
    pub fn consumer_schema(&self) -> Option<Value> {
        let auth = self.auth.as_ref()?;
        let mut schema = (auth.schema)();
        schema["type"] = json!("object");
        schema["encrypt_fields"] = json!(auth.secrets);
        Some(schema)
    }

    /// Whether it finds out which consumer a request is from.
    #[must_use]
    pub fn authenticates(&self) -> bool {
        self.auth.is_some()
    }

    /// Reads a consumer's configuration, in which secrets are open.
    ///
    /// # Errors
    /// A [`Report`] of what is wrong with it.
    pub fn credential(&self, configuration: &Value) -> Result<Credential, Report> {
        let read = self.auth.as_ref().map(|auth| auth.read);
        check(configuration, |scope| {
            let fields = scope.object()?;
            match read {
                Some(read) => read(&fields),
                None => {
                    fields.wrong("the plugin does not authenticate");
                    None
                }
            }
        })
    }

    /// What is fixed about a consumer's configuration.
    pub(crate) fn consumer_marks(&self) -> Option<PluginMarks> {
        let auth = self.auth.as_ref()?;
        Some(PluginMarks { authenticates: true, secrets: auth.secrets, unique: Some(auth.identity) })
    }
}

/// Refuses a field that APISIX has and this version cannot do: taking it in silence could let through what it stops.
pub(crate) fn not_served(fields: &Fields<'_, '_>, field: &str) {
    if fields.has(field) {
        fields.rule(field, format!("{field} is not served by this version of holdfast"));
    }
}

/// Refuses variables whose value nothing in this version knows.
pub(crate) fn check_variables<'n>(scope: &Scope<'_, '_>, variables: impl IntoIterator<Item = &'n Variable>) {
    for name in variables.into_iter().filter_map(Variable::unknown).filter(|name| !request::knows(name)) {
        let sentence = format!("the variable {name:?} is not served by this version of holdfast");
        scope.problem(protocol::report::Problem::rule(scope.path.clone(), sentence));
    }
}
