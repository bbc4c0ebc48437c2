//! The schemas against the one validator.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::{KINDS, KindInfo, NoPlugins, admit};

/// Where a schema says less than `admit` knows: the beginnings of the problems' paths.
const WEAKER: [&str; 12] = [
    "$.plugins",
    "$.vars",
    "$.remote_addr",
    "$.remote_addrs",
    "$.key",
    "$.nodes",
    "$.hash_on",
    "$.server_addr",
    "$.upstream.key",
    "$.upstream.nodes",
    "$.upstream.hash_on",
    "$.upstream.scheme",
];

fn validator(kind: &str) -> jsonschema::Validator {
    let schema = KindInfo::find(kind).and_then(KindInfo::schema).unwrap();
    assert!(jsonschema::meta::is_valid(&schema), "{schema}");
    jsonschema::validator_for(&schema).unwrap()
}

/// Checks that both say the same of a body.
fn agree(validator: &jsonschema::Validator, kind: &str, body: &Value) -> Result<bool, String> {
    let admitted = admit(&NoPlugins, KindInfo::find(kind).unwrap(), None, body.clone());
    let valid = validator.is_valid(body);
    match (&admitted, valid) {
        (Ok(_), false) => {
            let why = validator.iter_errors(body).map(|e| format!("{}: {e}", e.instance_path())).collect::<Vec<_>>();
            Err(format!("{body} is admitted, and its schema says {why:?}"))
        }
        (Err(report), true) => {
            let weaker = |path: &str| WEAKER.iter().any(|known| path.starts_with(known));
            let strange = report.problems.iter().find(|problem| !weaker(&problem.path.to_string()));
            strange.map_or(Ok(true), |problem| {
                Err(format!("{body} is valid, and refused: {}: {}", problem.path, problem.message))
            })
        }
        _ => Ok(admitted.is_ok()),
    }
}

#[test]
fn schema_and_admission_agree_on_a_table() {
    let nodes = json!({"127.0.0.1:80": 1});
    for (kind, body, good) in [
        ("routes", json!({}), false),
        ("routes", json!({"uri": "/a"}), false),
        ("routes", json!({"uri": "/a", "plugins": {}}), true),
        // What plugins there are is said by those who have them.
        ("routes", json!({"uri": "/a", "plugins": {"x": {}}}), true),
        ("routes", json!({"uri": "/a", "plugins": {"x": 1}}), false),
        ("consumers", json!({"username": "jack", "group_id": "g", "labels": {"a": "b"}, "id": "7"}), true),
        ("consumers", json!({"username": "a.b"}), false),
        ("consumers", json!({}), false),
        ("credentials", json!({"name": "n", "plugins": {}}), true),
        ("credentials", json!({"plugins": {"a": {}, "b": {}}}), false),
        ("consumer_groups", json!({"plugins": {}, "name": "n"}), true),
        ("plugin_configs", json!({"desc": "d"}), false),
        ("global_rules", json!({"plugins": {}}), true),
        ("global_rules", json!({"plugins": {}, "desc": "d"}), false),
        ("protos", json!({"content": "x"}), true),
        ("protos", json!({"content": ""}), false),
        ("routes", json!({"uri": "/a", "uris": ["/b"], "upstream_id": "u"}), false),
        ("routes", json!({"uris": ["/b", "/b"], "upstream_id": "u"}), false),
        ("routes", json!({"uris": ["/b", ""], "upstream_id": 7}), true),
        ("routes", json!({"uri": "/a", "upstream_id": 0}), false),
        ("routes", json!({"uri": "/a", "upstream_id": "a b"}), false),
        ("routes", json!({"uri": "/a", "upstream": {"nodes": nodes, "id": "x"}}), true),
        ("routes", json!({"uri": "/a", "upstream_id": "u", "filter_func": "function(vars) return true end"}), false),
        ("routes", json!({"uri": "/a", "upstream_id": "u", "plugin_config_id": "p"}), true),
        ("routes", json!({"uri": "/a", "upstream_id": "u", "create_time": 1}), false),
        ("routes", json!({"uri": "/a", "upstream_id": "u", "id": "r.1"}), true),
        ("routes", json!({"uri": "/a", "upstream_id": "u", "status": 2}), false),
        ("routes", json!({"uri": "/a", "upstream_id": "u", "priority": 1.0}), true),
        ("routes", json!({"uri": "/a", "upstream_id": "u", "timeout": {"connect": 0, "send": 1, "read": 1}}), false),
        ("routes", json!({"uri": "/a", "upstream_id": "u", "host": "a.*.com"}), false),
        ("routes", json!({"uri": "/a", "upstream_id": "u", "host": "*.a-b.com"}), true),
        ("routes", json!({"uri": "/a", "upstream_id": "u", "host": "a", "hosts": ["b"]}), false),
        ("services", json!({}), true),
        ("services", json!({"hosts": []}), false),
        ("services", json!({"upstream": {}}), false),
        ("stream_routes", json!({}), true),
        (
            "stream_routes",
            json!({"server_port": 1, "sni": "*.a.com", "upstream": {"nodes": nodes, "scheme": "tls"}}),
            true,
        ),
        ("stream_routes", json!({"server_port": 0}), false),
        ("stream_routes", json!({"protocol": {"name": "redis"}}), false),
        ("stream_routes", json!({"upstream": {"nodes": nodes, "scheme": "udp"}}), false),
        ("upstreams", json!({"nodes": nodes}), true),
        ("upstreams", json!({"nodes": [{"host": "a", "weight": 1, "x": 1}]}), true),
        ("upstreams", json!({"nodes": nodes, "scheme": "https"}), true),
        ("upstreams", json!({"nodes": nodes, "scheme": "grpcs"}), true),
        ("upstreams", json!({"nodes": nodes, "scheme": "kafka"}), false),
        ("upstreams", json!({"nodes": nodes, "tls": {}}), true),
        ("upstreams", json!({"nodes": nodes, "tls": {"verify": true, "client_cert_id": "c"}}), true),
        ("upstreams", json!({"nodes": nodes, "tls": {"verify": "yes"}}), false),
        ("upstreams", json!({"nodes": nodes, "tls": {"client_key": "k".repeat(64)}}), false),
        ("upstreams", json!({"nodes": nodes, "service_name": "s"}), true),
        ("upstreams", json!({"nodes": nodes, "service_name": "s", "discovery_type": "dns"}), false),
        ("upstreams", json!({"nodes": nodes, "type": "chash"}), false),
        ("upstreams", json!({"nodes": nodes, "pass_host": "rewrite"}), false),
        ("upstreams", json!({"nodes": nodes, "checks": {"active": {"type": "https"}}}), true),
        ("upstreams", json!({"nodes": nodes, "checks": {"active": {"type": "grpc"}}}), false),
        ("upstreams", json!({"nodes": nodes, "checks": {"passive": {}}}), false),
        (
            "upstreams",
            json!({"nodes": nodes, "checks": {"active": {}, "passive": {"healthy": {"successes": 0}}}}),
            true,
        ),
        ("upstreams", json!({"nodes": nodes, "checks": {"active": {"healthy": {"successes": 0}}}}), false),
    ] {
        assert_eq!(agree(&validator(kind), kind, &body), Ok(good), "{body}");
    }
}

#[test]
fn every_kind_has_a_schema() {
    assert!(KINDS.iter().all(|kind| kind.schema().is_some()));
}

#[test]
fn the_schema_of_ssls_and_admission_agree_on_a_table() {
    let pair = rcgen::generate_simple_self_signed(["a.com".to_owned()]).unwrap();
    let (cert, key) = (pair.cert.pem(), pair.signing_key.serialize_pem());
    let with = |more: Value| {
        let mut body = json!({"cert": cert, "key": key, "snis": ["a.com"]});
        crate::json::merge(&mut body, more);
        body
    };
    let validator = validator("ssls");
    for (body, good) in [
        (with(json!({})), true),
        (with(json!({"snis": null, "sni": "*.a.com", "desc": "d", "labels": {"a": "b"}})), true),
        (with(json!({"certs": [cert], "keys": [key], "ssl_protocols": ["TLSv1.3"], "status": 0})), true),
        (with(json!({"client": {"ca": cert, "depth": 0, "skip_mtls_uri_regex": ["^/a$"]}})), true),
        (with(json!({"type": "client", "snis": null})), true),
        (with(json!({"type": "server", "snis": null})), false),
        (with(json!({"sni": "a.com"})), false),
        (with(json!({"key": null})), false),
        (with(json!({"cert": "x"})), false),
        (with(json!({"status": 2})), false),
        (with(json!({"ssl_protocols": ["SSLv3"]})), false),
        (with(json!({"client": {"depth": 1}})), false),
        (with(json!({"name": "x"})), false),
    ] {
        assert_eq!(agree(&validator, "ssls", &body), Ok(good), "{body}");
    }
}

/// A value that a field might be given: often of the right kind, sometimes not.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        (-2i64..700).prop_map(Value::from),
        Just(json!(0.5)),
        Just(json!("")),
        "[a-z*.:/ -]{1,6}".prop_map(Value::from),
        Just(json!("GET")),
        Just(json!("http")),
        Just(json!("tcp")),
        Just(json!("chash")),
        Just(json!("rewrite")),
        Just(json!("127.0.0.1")),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::btree_map(any_field(), inner, 0..4).prop_map(|m| Value::Object(m.into_iter().collect())),
        ]
    })
}

/// Names that mean something somewhere.
fn any_field() -> impl Strategy<Value = String> {
    prop::sample::select(vec![
        "uri",
        "uris",
        "host",
        "hosts",
        "methods",
        "remote_addr",
        "remote_addrs",
        "vars",
        "priority",
        "status",
        "timeout",
        "plugins",
        "upstream",
        "upstream_id",
        "service_id",
        "enable_websocket",
        "name",
        "desc",
        "labels",
        "id",
        "type",
        "nodes",
        "key",
        "hash_on",
        "scheme",
        "pass_host",
        "upstream_host",
        "retries",
        "retry_timeout",
        "checks",
        "active",
        "passive",
        "healthy",
        "unhealthy",
        "http_statuses",
        "successes",
        "http_failures",
        "timeouts",
        "interval",
        "port",
        "weight",
        "connect",
        "send",
        "read",
        "keepalive_pool",
        "size",
        "idle_timeout",
        "requests",
        "tls",
        "service_name",
        "discovery_type",
        "discovery_args",
        "script",
        "filter_func",
        "nosuch",
        "concurrency",
        "req_headers",
    ])
    .prop_map(str::to_owned)
}

/// A good body, some of whose fields are then given any value, so that most bodies are nearly good.
fn nearly(kind: &'static str) -> impl Strategy<Value = Value> {
    let good = match kind {
        "routes" => json!({"uri": "/a", "upstream": {"nodes": {"a:1": 1}, "checks": {"active": {"healthy": {}}}}}),
        "services" => json!({"upstream": {"nodes": [{"host": "a", "weight": 1}]}}),
        _ => json!({"nodes": {"a:1": 1}, "keepalive_pool": {}, "checks": {"active": {}, "passive": {"unhealthy": {}}}}),
    };
    let places = match kind {
        "routes" => vec!["", "/upstream", "/upstream/checks/active", "/upstream/checks/active/healthy"],
        "services" => vec!["", "/upstream", "/upstream/nodes/0"],
        _ => vec!["", "/keepalive_pool", "/checks/active", "/checks/passive/unhealthy", "/nodes"],
    };
    let edits = prop::collection::vec((prop::sample::select(places), any_field(), any_value()), 0..4);
    edits.prop_map(move |edits| {
        let mut body = good.clone();
        for (place, field, value) in edits {
            if let Some(Value::Object(members)) = body.pointer_mut(place) {
                members.insert(field, value);
            }
        }
        body
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn schema_and_admission_agree_on_random_bodies(
        route in nearly("routes"), service in nearly("services"), upstream in nearly("upstreams"), any in any_value(),
    ) {
        thread_local! {
            static VALIDATORS: [jsonschema::Validator; 3] = ["routes", "services", "upstreams"].map(validator);
        }
        VALIDATORS.with(|validators| {
            for (kind, body, validator) in [
                ("routes", &route, &validators[0]), ("services", &service, &validators[1]),
                ("upstreams", &upstream, &validators[2]), ("routes", &any, &validators[0]),
            ] {
                if let Err(why) = agree(validator, kind, body) {
                    return Err(TestCaseError::fail(why));
                }
            }
            Ok(())
        })?;
    }
}
