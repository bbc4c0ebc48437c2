//! The JSON Schema (draft 7) of each kind, for forms, editors and checks before sending.
//!
//! It says what [`super::admit`] takes of a body: whatever is admitted is valid. The other way round it cannot say all:
//! what a condition, an address or a hash key may be, and rules over several fields. The tests hold both.

use serde_json::{Map, Value, json};

use super::common::{DESC_CHARS_MAX, HOST_PATTERN, LABEL_CHARS_MAX, NAME_CHARS_MAX};
use super::route::URI_CHARS_MAX;
use super::ssl::{KEY_CHARS_MIN, PEM_CHARS_MAX, PEM_CHARS_MIN, PROTOCOLS_MAX, VERSIONS};
use super::upstream::{HASH_ON, PASS_HOSTS};
use super::{KindInfo, PROTO_CHARS_MAX, USERNAME_CHARS_MAX, route};

/// How the schema of a kind is made.
type MakeSchema = fn() -> Value;

/// The schemas by name of kind, sorted.
const SCHEMAS: &[(&str, MakeSchema)] = &[
    ("consumer_groups", plugin_set),
    ("consumers", consumer),
    ("credentials", credential),
    ("global_rules", global_rule),
    ("plugin_configs", plugin_set),
    ("plugin_metadata", plugin_metadata),
    ("protos", proto),
    ("routes", route),
    ("secrets", secret_manager),
    ("services", service),
    ("ssls", ssl),
    ("stream_routes", stream_route),
    ("upstreams", upstream),
];

impl KindInfo {
    /// The JSON Schema of a body; `None` for a kind without one.
    #[must_use]
    pub fn schema(&self) -> Option<Value> {
        let (_, schema) = SCHEMAS.iter().find(|(name, _)| *name == self.name)?;
        let mut schema = schema();
        schema["$schema"] = json!("http://json-schema.org/draft-07/schema#");
        schema["title"] = json!(self.singular);
        Some(schema)
    }
}

fn route() -> Value {
    let mut fields = labelled();
    fields.extend(members(json!({
        "uri": { "type": "string", "minLength": 1, "maxLength": URI_CHARS_MAX,
                 "description": "a path; `:name` takes a segment, `*` at the end takes any rest" },
        "uris": { "type": "array", "minItems": 1, "uniqueItems": true,
                  "items": { "type": "string", "maxLength": URI_CHARS_MAX } },
        "host": host(),
        "hosts": hosts(),
        "remote_addr": address(),
        "remote_addrs": { "type": "array", "minItems": 1, "uniqueItems": true, "items": address() },
        "methods": { "type": "array", "uniqueItems": true, "items": { "enum": words(&route::METHODS) } },
        "vars": { "type": "array", "description": "conditions on variables of the request" },
        "priority": { "type": "integer", "default": 0, "description": "of routes with one host and path the higher goes first" },
        "status": { "enum": [0, 1], "default": 1, "description": "1: it takes requests; 0: it is stored and takes none" },
        "timeout": timeouts(),
        "enable_websocket": { "type": "boolean" },
        "plugins": plugins(),
        "upstream": upstream(),
        "upstream_id": id(),
        "service_id": id(),
        "script_id": id(),
        "plugin_config_id": id(),
    })));
    let targets = ["plugins", "upstream", "upstream_id", "service_id"].map(|name| json!({ "required": [name] }));
    json!({
        "type": "object",
        "properties": fields,
        "additionalProperties": false,
        "allOf": [
            { "oneOf": [{ "required": ["uri"] }, { "required": ["uris"] }] },
            { "anyOf": targets },
            { "not": { "required": ["host", "hosts"] } },
            { "not": { "required": ["remote_addr", "remote_addrs"] } },
        ],
    })
}

fn stream_route() -> Value {
    let mut fields = labelled();
    fields.extend(members(json!({
        "remote_addr": address(),
        "server_addr": address(),
        "server_port": port(),
        "sni": host(),
        "plugins": plugins(),
        "upstream": upstream(),
        "upstream_id": id(),
        "service_id": id(),
    })));
    json!({ "type": "object", "properties": fields, "additionalProperties": false })
}

/// The fields of all managers: which of them there must be depends on the one that the path names.
fn secret_manager() -> Value {
    let text = || json!({ "type": "string", "minLength": 1 });
    let uri = || json!({ "type": "string", "pattern": r"^[^/]+://" });
    json!({
        "type": "object",
        "description": "its fields depend on the manager that the path names: vault, aws, gcp",
        "anyOf": [
            {
                "title": "vault",
                "properties": { "uri": uri(), "prefix": text(), "token": text(), "namespace": text() },
                "required": ["uri", "prefix", "token"],
            },
            {
                "title": "aws",
                "properties": {
                    "access_key_id": text(), "secret_access_key": text(), "session_token": text(), "region": text(),
                    "endpoint_url": uri(),
                },
                "required": ["access_key_id", "secret_access_key"],
            },
            {
                "title": "gcp",
                "properties": {
                    "auth_file": text(),
                    "auth_config": {
                        "type": "object",
                        "properties": {
                            "client_email": text(), "private_key": text(), "project_id": text(),
                            "token_uri": uri(), "entries_uri": uri(),
                            "scope": { "type": "array", "minItems": 1, "items": text() },
                        },
                        "required": ["client_email", "private_key", "project_id"],
                    },
                    "ssl_verify": { "type": "boolean", "default": true },
                },
                "oneOf": [{ "required": ["auth_config"] }, { "required": ["auth_file"] }],
            },
        ],
    })
}

fn service() -> Value {
    let mut fields = labelled();
    fields.extend(members(json!({
        "hosts": hosts(),
        "enable_websocket": { "type": "boolean" },
        "plugins": plugins(),
        "upstream": upstream(),
        "upstream_id": id(),
    })));
    json!({ "type": "object", "properties": fields, "additionalProperties": false })
}

fn upstream() -> Value {
    let mut fields = labelled();
    fields.extend(members(json!({
        "type": { "enum": ["roundrobin", "chash", "least_conn", "ewma"], "default": "roundrobin" },
        "nodes": {
            "anyOf": [
                { "type": "object", "additionalProperties": weight(), "description": "weights by host:port" },
                { "type": "array", "items": {
                    "type": "object",
                    "required": ["host", "weight"],
                    "properties": {
                        "host": host(),
                        "port": port(),
                        "weight": weight(),
                        "priority": { "type": "integer", "default": 0 },
                        "metadata": { "type": "object" },
                    },
                } },
            ],
        },
        "hash_on": { "enum": words(&HASH_ON),
                     "default": "vars" },
        "key": { "type": "string", "description": "what chash hashes" },
        "scheme": { "enum": ["http", "https", "grpc", "grpcs", "tcp", "tls"], "default": "http" },
        "tls": {
            "type": "object",
            // Keys stand in ssls, where they are sealed.
            "properties": {
                "client_cert_id": id(),
                "verify": { "type": "boolean", "default": false },
                "client_cert": false,
                "client_key": false,
            },
        },
        "pass_host": { "enum": words(&PASS_HOSTS), "default": "pass" },
        "upstream_host": host(),
        "retries": { "type": "integer", "minimum": 0, "maximum": u32::MAX },
        "retry_timeout": { "type": "number", "minimum": 0 },
        "timeout": timeouts(),
        "keepalive_pool": {
            "type": "object",
            "properties": {
                "size": { "type": "integer", "minimum": 1, "maximum": u32::MAX, "default": 320 },
                "idle_timeout": { "type": "number", "minimum": 0, "default": 60 },
                "requests": { "type": "integer", "minimum": 1, "maximum": u32::MAX, "default": 1000 },
            },
        },
        "checks": checks(),
        "discovery_args": {
            "type": "object",
            "properties": { "group_name": { "type": "string" }, "namespace_id": { "type": "string" } },
        },
        // Each is read and has no effect without the other.
        "service_name": { "type": "string", "minLength": 1, "maxLength": 256 },
        "discovery_type": { "type": "string" },
    })));
    json!({
        "type": "object",
        "properties": fields,
        "required": ["nodes"],
        "additionalProperties": false,
        "not": { "required": ["service_name", "discovery_type"] },
        "if": { "required": ["type"], "properties": { "type": { "const": "chash" } } },
        "then": { "required": ["key"] },
        "allOf": [{
            "if": { "required": ["pass_host"], "properties": { "pass_host": { "const": "rewrite" } } },
            "then": { "required": ["upstream_host"] },
        }],
    })
}

fn checks() -> Value {
    let kind = json!({ "enum": ["http", "https", "tcp"], "default": "http" });
    let statuses = json!({
        "type": "array", "minItems": 1, "uniqueItems": true,
        "items": { "type": "integer", "minimum": 200, "maximum": 599 },
    });
    let count = |min: u8| json!({ "type": "integer", "minimum": min, "maximum": 254 });
    let interval = json!({ "type": "integer", "minimum": 1, "maximum": u32::MAX, "default": 1 });
    let judgement = |min: u8, with_interval: bool| {
        let mut healthy = members(json!({ "http_statuses": statuses, "successes": count(min) }));
        let mut unhealthy = members(json!({
            "http_statuses": statuses, "http_failures": count(min), "tcp_failures": count(min), "timeouts": count(min),
        }));
        if with_interval {
            healthy.insert("interval".into(), interval.clone());
            unhealthy.insert("interval".into(), interval.clone());
        }
        json!({
            "healthy": { "type": "object", "properties": healthy },
            "unhealthy": { "type": "object", "properties": unhealthy },
        })
    };
    let mut active = members(judgement(1, true));
    active.extend(members(json!({
        "type": kind,
        "timeout": { "type": "number", "minimum": 0, "default": 1 },
        "concurrency": { "type": "integer", "minimum": 0, "maximum": u32::MAX, "default": 10 },
        "http_method": { "enum": words(&route::METHODS), "default": "GET" },
        "http_path": { "type": "string", "default": "/" },
        "http_req_body": { "type": "string", "default": "" },
        "host": host(),
        "port": port(),
        "https_verify_certificate": { "type": "boolean", "default": true },
        "req_headers": { "type": "array", "minItems": 1, "items": { "type": "string" } },
    })));
    let mut passive = members(judgement(0, false));
    passive.insert("type".into(), json!({ "enum": ["http", "https", "tcp"], "default": "http" }));
    json!({
        "type": "object",
        "required": ["active"],
        "properties": {
            "active": { "type": "object", "properties": active },
            "passive": { "type": "object", "properties": passive },
        },
    })
}

fn consumer() -> Value {
    let mut fields = labelled();
    fields.remove("name");
    fields.extend(members(json!({
        "username": { "type": "string", "minLength": 1, "maxLength": USERNAME_CHARS_MAX, "pattern": "^[a-zA-Z0-9_-]+$" },
        "group_id": id(),
        "plugins": plugins(),
    })));
    // An id beside the name is taken and has no effect, whatever it is.
    fields.insert("id".into(), json!({}));
    json!({ "type": "object", "properties": fields, "additionalProperties": false, "required": ["username"] })
}

fn credential() -> Value {
    let mut fields = labelled();
    let mut one = plugins();
    one["maxProperties"] = json!(1);
    fields.insert("plugins".into(), one);
    json!({ "type": "object", "properties": fields, "additionalProperties": false })
}

fn plugin_set() -> Value {
    let mut fields = labelled();
    fields.insert("plugins".into(), plugins());
    json!({ "type": "object", "properties": fields, "additionalProperties": false, "required": ["plugins"] })
}

fn global_rule() -> Value {
    json!({
        "type": "object",
        "properties": { "id": id(), "plugins": plugins() },
        "additionalProperties": false,
        "required": ["plugins"],
    })
}

fn plugin_metadata() -> Value {
    json!({ "type": "object" })
}

fn proto() -> Value {
    let mut fields = labelled();
    fields.insert("content".into(), json!({ "type": "string", "minLength": 1, "maxLength": PROTO_CHARS_MAX }));
    json!({ "type": "object", "properties": fields, "additionalProperties": false, "required": ["content"] })
}

fn ssl() -> Value {
    let mut fields = labelled();
    fields.remove("name");
    let pem = json!({ "type": "string", "minLength": PEM_CHARS_MIN, "maxLength": PEM_CHARS_MAX });
    let key = json!({ "type": "string", "minLength": KEY_CHARS_MIN, "maxLength": PEM_CHARS_MAX,
                      "description": "in PEM, or the token that stands for it in answers to writes" });
    let reference = json!({ "type": "string", "pattern": r"^\$([eE][nN][vV]|[sS][eE][cC][rR][eE][tT])://",
                            "description": "where it is kept" });
    let (certificate, key) = (json!({ "anyOf": [pem, reference] }), json!({ "anyOf": [key, reference] }));
    fields.extend(members(json!({
        "cert": certificate,
        "key": key,
        "certs": { "type": "array", "items": certificate },
        "keys": { "type": "array", "items": key },
        "sni": host(),
        "snis": { "type": "array", "minItems": 1, "items": host() },
        "type": { "enum": ["server", "client"], "default": "server" },
        "status": { "enum": [0, 1], "default": 1 },
        "ssl_protocols": { "type": "array", "maxItems": PROTOCOLS_MAX, "uniqueItems": true,
                           "items": { "enum": words(&VERSIONS) } },
        "client": {
            "type": "object",
            "properties": {
                "ca": pem,
                "depth": { "type": "integer", "minimum": 0, "default": 1 },
                "skip_mtls_uri_regex": { "type": "array", "minItems": 1, "uniqueItems": true, "items": { "type": "string" } },
            },
            "required": ["ca"],
        },
    })));
    json!({
        "type": "object",
        "properties": fields,
        "additionalProperties": false,
        "required": ["cert", "key"],
        "if": { "properties": { "type": { "const": "client" } }, "required": ["type"] },
        "else": { "oneOf": [{ "required": ["sni"] }, { "required": ["snis"] }] },
    })
}

/// The fields that most kinds have.
fn labelled() -> Map<String, Value> {
    members(json!({
        "id": id(),
        "name": { "type": "string", "minLength": 1, "maxLength": NAME_CHARS_MAX },
        "desc": { "type": "string", "maxLength": DESC_CHARS_MAX },
        "labels": {
            "type": "object",
            "additionalProperties": { "type": "string", "minLength": 1, "maxLength": LABEL_CHARS_MAX, "pattern": r"^\S+$" },
        },
    }))
}

fn id() -> Value {
    json!({ "anyOf": [
        { "type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[a-zA-Z0-9_.-]+$" },
        { "type": "integer", "minimum": 1 },
    ] })
}

fn host() -> Value {
    // A dash between two sets is a dash for everybody only at an end.
    json!({ "type": "string", "pattern": HOST_PATTERN.replace("Z-._", "Z._").replace(":]", ":-]") })
}

fn hosts() -> Value {
    json!({ "type": "array", "minItems": 1, "uniqueItems": true, "items": host() })
}

fn address() -> Value {
    json!({ "type": "string", "description": "an IPv4 or IPv6 address or CIDR block" })
}

fn port() -> Value {
    json!({ "type": "integer", "minimum": 1, "maximum": u16::MAX })
}

fn weight() -> Value {
    json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX })
}

fn plugins() -> Value {
    json!({
        "type": "object",
        "additionalProperties": { "type": "object" },
        "description": "by name; what each takes is told under schema/plugins/<name>",
    })
}

fn timeouts() -> Value {
    let seconds = json!({ "type": "number", "exclusiveMinimum": 0 });
    json!({
        "type": "object",
        "required": ["connect", "send", "read"],
        "properties": { "connect": seconds, "send": seconds, "read": seconds },
        "description": "in seconds",
    })
}

fn words<T>(words: &[(&str, T)]) -> Vec<String> {
    words.iter().map(|(word, _)| (*word).to_owned()).collect()
}

fn members(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

#[cfg(test)]
mod tests;
