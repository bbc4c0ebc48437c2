//! An upstream: where requests go, and how.

mod checks;
mod node;

use std::time::Duration;

pub use checks::{ActiveCheck, CheckType, Checks, PassiveCheck};
pub use node::{Node, split_service};

use super::common::{Timeouts, duration, host, read_labelling, reference};
use super::scope::{Fields, Scope};
use super::variable::{CONSUMER_NAME, Variable, VariableText};
use crate::key::ResourceKey;
use crate::report::{Path, Problem};

/// Connections to keep per worker and node unless the upstream says otherwise (APISIX's default).
const KEEPALIVE_SIZE: u32 = 320;
/// How long an idle connection is kept, in seconds (APISIX's default).
const KEEPALIVE_IDLE_SECONDS: u64 = 60;
/// Requests on one connection (APISIX's default).
const KEEPALIVE_REQUESTS: u32 = 1000;

/// A set of nodes and the way to choose among them.
#[derive(Clone, PartialEq, Debug)]
pub struct Upstream {
    /// How a node is chosen.
    pub algorithm: Algorithm,
    /// Where the nodes come from.
    pub endpoints: Endpoints,
    /// What [`Algorithm::ConsistentHash`] hashes.
    pub hash_on: HashOn,
    /// The variable, header or cookie that it hashes.
    pub key: Option<String>,
    /// What is spoken to the nodes.
    pub scheme: Scheme,
    /// Which `Host` they see.
    pub pass_host: PassHost,
    /// The host for [`PassHost::Rewrite`].
    pub upstream_host: Option<String>,
    /// How often a request may be tried on another node after a failure; `None`: as often as there are other nodes.
    pub retries: Option<u32>,
    /// How long tries may go on; `None`: without a bound of its own.
    pub retry_timeout: Option<Duration>,
    /// Its time limits; a route's win.
    pub timeouts: Option<Timeouts>,
    /// Its health checks.
    pub checks: Option<Checks>,
    /// How connections to the nodes are kept.
    pub keepalive_pool: KeepalivePool,
    /// TLS to the nodes.
    pub tls: Option<UpstreamTls>,
}

/// How a node is chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Algorithm {
    /// Smooth weighted round robin.
    #[default]
    RoundRobin,
    /// Consistent hashing over [`HashOn`].
    ConsistentHash,
    /// Fewest requests under way, weighted.
    LeastConnections,
    /// Exponentially weighted moving average of response times.
    Ewma,
}

/// Where the nodes of an upstream come from.
#[derive(Clone, PartialEq, Debug)]
pub enum Endpoints {
    /// They are listed. The list may be empty.
    Nodes(Vec<Node>),
    /// A discovery names them.
    Discovered {
        /// The service's name there.
        service_name: String,
        /// Which discovery.
        discovery_type: String,
    },
}

/// The `discovery_type` of services that DNS knows.
pub const DISCOVERY_DNS: &str = "dns";

/// What consistent hashing hashes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum HashOn {
    /// A variable of the request.
    #[default]
    Vars,
    /// A header.
    Header,
    /// A cookie.
    Cookie,
    /// The authenticated consumer.
    Consumer,
    /// A text with several variables in it.
    VarsCombinations,
}

/// The value that consistent hashing hashes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HashKey {
    /// Of one variable.
    Variable(Variable),
    /// Of a text with variables in it.
    Text(VariableText),
}

impl HashKey {
    /// The variables in it.
    pub fn variables(&self) -> Vec<&Variable> {
        match self {
            Self::Variable(variable) => vec![variable],
            Self::Text(text) => text.variables().collect(),
        }
    }
}

/// What is spoken to the nodes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Scheme {
    #[default]
    Http,
    Https,
    Grpc,
    Grpcs,
    Tcp,
    Tls,
    Udp,
    Kafka,
}

impl Scheme {
    /// Its name in configurations.
    #[must_use]
    pub fn name(self) -> &'static str {
        SCHEMES.iter().find(|(_, scheme)| *scheme == self).map_or("", |(name, _)| name)
    }

    /// Whether only stream routes speak it.
    #[must_use]
    pub fn is_for_streams(self) -> bool {
        matches!(self, Self::Tcp | Self::Tls)
    }
}

/// Which `Host` the nodes see.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PassHost {
    /// The client's.
    #[default]
    Pass,
    /// The node's own.
    Node,
    /// `upstream_host`.
    Rewrite,
}

/// How connections to the nodes are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KeepalivePool {
    /// Idle connections per node and worker, at most.
    pub size: u32,
    /// How long one may idle.
    pub idle_timeout: Duration,
    /// Requests on one connection, at most.
    pub requests: u32,
}

impl Default for KeepalivePool {
    fn default() -> Self {
        Self {
            size: KEEPALIVE_SIZE,
            idle_timeout: Duration::from_secs(KEEPALIVE_IDLE_SECONDS),
            requests: KEEPALIVE_REQUESTS,
        }
    }
}

/// TLS to the nodes.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct UpstreamTls {
    /// The client certificate, PEM.
    pub client_cert: Option<String>,
    /// Its key, PEM or a sealed token.
    pub client_key: Option<String>,
    /// Both, by reference to an ssl.
    pub client_cert_id: Option<ResourceKey>,
    /// Whether the node's certificate is verified.
    pub verify: bool,
}

impl Upstream {
    /// Reads an upstream, alone or inside something else; `None` when it is none, which is reported.
    pub fn read(scope: Scope<'_, '_>) -> Option<Self> {
        let fields = scope.object()?;
        read_labelling(&fields);
        // APISIX's schema has it in an upstream inside a route or service too; nothing reads it there.
        fields.optional("id", |s| reference("upstreams", &s));
        let endpoints = read_endpoints(&fields);
        let algorithm = fields.optional("type", |s| {
            s.one_of(&[
                ("roundrobin", Algorithm::RoundRobin),
                ("chash", Algorithm::ConsistentHash),
                ("least_conn", Algorithm::LeastConnections),
                ("ewma", Algorithm::Ewma),
            ])
        });
        let upstream = Self {
            algorithm: algorithm.unwrap_or_default(),
            endpoints: endpoints.unwrap_or(Endpoints::Nodes(Vec::new())),
            hash_on: fields.optional("hash_on", |s| s.one_of(&HASH_ON)).unwrap_or_default(),
            key: fields.optional("key", |s| Some(s.string(0, usize::MAX)?.to_owned())),
            scheme: fields.optional("scheme", |s| s.one_of(&SCHEMES)).unwrap_or_default(),
            pass_host: fields.optional("pass_host", |s| s.one_of(&PASS_HOSTS)).unwrap_or_default(),
            upstream_host: fields.optional("upstream_host", |s| Some(host(&s)?.to_owned())),
            retries: fields.optional("retries", |s| u32::try_from(s.integer(0, i64::from(u32::MAX))?).ok()),
            retry_timeout: fields
                .optional("retry_timeout", |s| s.number(false))
                .filter(|seconds| *seconds > 0.0)
                .map(duration),
            timeouts: fields.optional("timeout", Timeouts::read),
            checks: fields.optional("checks", Checks::read),
            keepalive_pool: fields.optional("keepalive_pool", KeepalivePool::read).unwrap_or_default(),
            tls: fields.optional("tls", UpstreamTls::read),
        };
        upstream.check_rules(&fields);
        fields.finish();
        Some(upstream)
    }

    fn check_rules(&self, fields: &Fields<'_, '_>) {
        if self.pass_host == PassHost::Rewrite && self.upstream_host.is_none() {
            fields.rule("upstream_host", "`upstream_host` can't be empty when `pass_host` is `rewrite`");
        }
        if self.algorithm == Algorithm::ConsistentHash {
            self.check_hash_key(fields);
        }
    }

    fn check_hash_key(&self, fields: &Fields<'_, '_>) {
        let Some(key) = &self.key else {
            if self.hash_on != HashOn::Consumer {
                fields.rule("key", "missing key");
            }
            return;
        };
        let (pattern, good) = match self.hash_on {
            HashOn::Vars => (
                "^((uri|server_name|server_addr|request_uri|remote_port|remote_addr|query_string|host|hostname|mqtt_client_id)|arg_[0-9a-zA-z_-]+)$",
                is_hash_variable(key),
            ),
            HashOn::Header | HashOn::Cookie => (
                "^[a-zA-Z0-9-_]+$",
                !key.is_empty() && key.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_')),
            ),
            HashOn::Consumer | HashOn::VarsCombinations => return,
        };
        if !good {
            let message = format!("failed to match pattern \"{pattern}\" with \"{key}\"");
            fields.problem(Problem::known_as(Path::default(), &message, fields.path.property("key"), message.clone()));
        }
    }

    /// What consistent hashing hashes; `None` when something else chooses.
    #[must_use]
    pub fn hash_key(&self) -> Option<HashKey> {
        if self.algorithm != Algorithm::ConsistentHash {
            return None;
        }
        if self.hash_on == HashOn::Consumer {
            return Some(HashKey::Variable(Variable::parse(CONSUMER_NAME)));
        }
        let key = self.key.as_ref()?;
        match self.hash_on {
            HashOn::Vars => Some(HashKey::Variable(Variable::parse(key))),
            HashOn::Header => Some(HashKey::Variable(Variable::parse(&format!("http_{key}")))),
            HashOn::Cookie => Some(HashKey::Variable(Variable::parse(&format!("cookie_{key}")))),
            HashOn::VarsCombinations => Some(HashKey::Text(VariableText::parse(key))),
            HashOn::Consumer => None,
        }
    }

    /// The resources that it refers to.
    #[must_use]
    pub fn references(&self) -> Vec<ResourceKey> {
        self.tls.iter().filter_map(|tls| tls.client_cert_id.clone()).collect()
    }
}

pub(super) const HASH_ON: [(&str, HashOn); 5] = [
    ("vars", HashOn::Vars),
    ("header", HashOn::Header),
    ("cookie", HashOn::Cookie),
    ("consumer", HashOn::Consumer),
    ("vars_combinations", HashOn::VarsCombinations),
];

const SCHEMES: [(&str, Scheme); 8] = [
    ("http", Scheme::Http),
    ("https", Scheme::Https),
    ("grpc", Scheme::Grpc),
    ("grpcs", Scheme::Grpcs),
    ("tcp", Scheme::Tcp),
    ("tls", Scheme::Tls),
    ("udp", Scheme::Udp),
    ("kafka", Scheme::Kafka),
];

pub(super) const PASS_HOSTS: [(&str, PassHost); 3] =
    [("pass", PassHost::Pass), ("node", PassHost::Node), ("rewrite", PassHost::Rewrite)];

fn is_hash_variable(key: &str) -> bool {
    const VARIABLES: [&str; 10] = [
        "uri",
        "server_name",
        "server_addr",
        "request_uri",
        "remote_port",
        "remote_addr",
        "query_string",
        "host",
        "hostname",
        "mqtt_client_id",
    ];
    VARIABLES.contains(&key)
        || key.strip_prefix("arg_").is_some_and(|name| {
            // APISIX writes `A-z`, which lets `[ \ ] ^ _` and the backtick through as well.
            !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'A'..=b'z' | b'-'))
        })
}

/// Exactly one of `nodes` and (`service_name` with `discovery_type`).
fn read_endpoints(fields: &Fields<'_, '_>) -> Option<Endpoints> {
    let nodes = fields.optional("nodes", node::read_nodes);
    let service_name = fields.optional("service_name", |s| Some(s.string(1, 256)?.to_owned()));
    let discovery_type = fields.optional("discovery_type", |s| Some(s.string(0, usize::MAX)?.to_owned()));
    fields.optional("discovery_args", |s| {
        let args = s.object()?;
        args.allow_unknown();
        args.optional("group_name", |s| s.string(0, usize::MAX));
        args.optional("namespace_id", |s| s.string(0, usize::MAX));
        Some(())
    });
    match (fields.has("nodes"), fields.has("service_name") && fields.has("discovery_type")) {
        (true, false) => Some(Endpoints::Nodes(nodes?)),
        (false, true) => Some(Endpoints::Discovered { service_name: service_name?, discovery_type: discovery_type? }),
        (false, false) => {
            fields.wrong("value should match only one schema, but matches none");
            None
        }
        (true, true) => {
            fields.wrong("value should match only one schema, but matches both schemas 1 and 2");
            None
        }
    }
}

impl KeepalivePool {
    fn read(scope: Scope<'_, '_>) -> Option<Self> {
        let fields = scope.object()?;
        fields.allow_unknown();
        let default = Self::default();
        let count = |s: Scope<'_, '_>| u32::try_from(s.integer(1, i64::from(u32::MAX))?).ok();
        let pool = Self {
            size: fields.optional("size", count).unwrap_or(default.size),
            idle_timeout: fields.optional("idle_timeout", |s| s.number(false)).map_or(default.idle_timeout, duration),
            requests: fields.optional("requests", count).unwrap_or(default.requests),
        };
        fields.finish();
        Some(pool)
    }
}

impl UpstreamTls {
    fn read(scope: Scope<'_, '_>) -> Option<Self> {
        let fields = scope.object()?;
        fields.allow_unknown();
        let tls = Self {
            client_cert: fields.optional("client_cert", |s| Some(s.string(128, 65_536)?.to_owned())),
            client_key: fields.optional("client_key", |s| Some(s.string(64, 65_536)?.to_owned())),
            client_cert_id: fields.optional("client_cert_id", |s| reference("ssls", &s)),
            verify: fields.optional("verify", |s| s.boolean()).unwrap_or(false),
        };
        match (fields.has("client_cert"), fields.has("client_key")) {
            (true, false) => fields.wrong("property \"client_key\" is required"),
            (false, true) => fields.wrong("property \"client_cert\" is required"),
            (true, true) if fields.has("client_cert_id") => {
                fields.wrong("client_cert_id excludes client_cert and client_key");
            }
            _ => {}
        }
        fields.finish();
        Some(tls)
    }
}

#[cfg(test)]
mod tests;
