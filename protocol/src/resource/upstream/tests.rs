//! Upstream bodies: what is read, and what APISIX's users read when it is not.

use serde_json::json;

use super::super::scope::check;
use super::*;

fn read(body: serde_json::Value) -> Result<Upstream, crate::Report> {
    check(&body, Upstream::read)
}

#[test]
fn defaults_are_those_of_apisix() {
    let upstream = read(json!({"nodes": {"127.0.0.1:80": 1}})).unwrap();
    assert_eq!(upstream.algorithm, Algorithm::RoundRobin);
    assert_eq!(upstream.scheme, Scheme::Http);
    assert_eq!(upstream.pass_host, PassHost::Pass);
    assert_eq!(upstream.keepalive_pool.size, 320);
    assert_eq!(upstream.keepalive_pool.idle_timeout, Duration::from_secs(60));
    assert_eq!(upstream.retries, None);
    let node = Node { host: "127.0.0.1".into(), port: Some(80), weight: 1, priority: 0 };
    assert_eq!(upstream.endpoints, Endpoints::Nodes(vec![node]));
}

#[test]
fn every_field_is_read() {
    let upstream = read(json!({
        "name": "n", "desc": "d", "labels": {"a": "b"},
        "type": "chash", "hash_on": "header", "key": "x-user", "scheme": "https", "pass_host": "rewrite",
        "upstream_host": "b.example", "retries": 2, "retry_timeout": 1.5,
        "timeout": {"connect": 0.5, "send": 1, "read": 2},
        "keepalive_pool": {"size": 7, "idle_timeout": 8, "requests": 9},
        "tls": {"client_cert_id": "c1", "verify": true},
        "nodes": [
            {"host": "a.example", "port": 1, "weight": 2, "priority": -1, "metadata": {"x": 1}},
            {"host": "[::1]", "weight": 0},
        ],
        "checks": {
            "active": {
                "type": "tcp", "timeout": 2, "concurrency": 3, "http_path": "/p", "http_method": "POST",
                "http_req_body": "b", "host": "h", "port": 4, "https_verify_certificate": false,
                "req_headers": ["A: b"],
                "healthy": {"interval": 5, "http_statuses": [201], "successes": 6},
                "unhealthy": {"interval": 7, "http_statuses": [502], "http_failures": 8, "tcp_failures": 9, "timeouts": 10},
            },
            "passive": {"type": "http", "healthy": {"successes": 0}, "unhealthy": {"tcp_failures": 0}},
        },
    }))
    .unwrap();
    assert_eq!(upstream.algorithm, Algorithm::ConsistentHash);
    assert_eq!((upstream.hash_on, upstream.key.as_deref()), (HashOn::Header, Some("x-user")));
    assert_eq!(upstream.retry_timeout, Some(Duration::from_millis(1500)));
    assert_eq!(upstream.timeouts.map(|t| t.connect), Some(Duration::from_millis(500)));
    assert_eq!(upstream.references(), [ResourceKey::new("ssls", "c1")]);
    let Endpoints::Nodes(nodes) = &upstream.endpoints else { panic!("nodes were given") };
    assert_eq!(nodes[0], Node { host: "a.example".into(), port: Some(1), weight: 2, priority: -1 });
    assert_eq!(nodes[1], Node { host: "::1".into(), port: None, weight: 0, priority: 0 });
    let checks = upstream.checks.unwrap();
    assert_eq!((checks.active.kind, checks.active.tcp_failures), (CheckType::Tcp, 9));
    assert_eq!(checks.active.healthy_interval, Duration::from_secs(5));
    assert_eq!(checks.passive.map(|p| (p.successes, p.tcp_failures, p.http_failures)), Some((0, 0, 5)));
}

#[test]
fn what_is_wrong_is_told_as_apisix_tells_it() {
    let nodes = || json!({"127.0.0.1:80": 1});
    for (body, summary) in [
        (json!({}), "invalid configuration: value should match only one schema, but matches none"),
        (
            json!({"type": "roundrobin", "service_name": "s"}),
            "invalid configuration: value should match only one schema, but matches none",
        ),
        (
            json!({"nodes": nodes(), "service_name": "s", "discovery_type": "dns"}),
            "invalid configuration: value should match only one schema, but matches both schemas 1 and 2",
        ),
        (
            json!({"nodes": {"127.0.0.1:80": -1}}),
            "invalid configuration: property \"nodes\" validation failed: object matches none of the required",
        ),
        (
            json!({"nodes": {"127.0.0.1:80": "1"}}),
            "invalid configuration: property \"nodes\" validation failed: object matches none of the required",
        ),
        (
            json!({"nodes": [{"host": "127.0.0.1", "port": 70000, "weight": 1}]}),
            "invalid configuration: property \"nodes\" validation failed: object matches none of the required",
        ),
        (json!({"type": "chash", "nodes": nodes()}), "missing key"),
        (
            json!({"type": "chash", "hash_on": "vars", "key": "nosuchvar", "nodes": nodes()}),
            "invalid configuration: failed to match pattern \"^((uri|server_name|server_addr|request_uri|remote_port|remote_addr|query_string|host|hostname|mqtt_client_id)|arg_[0-9a-zA-z_-]+)$\" with \"nosuchvar\"",
        ),
        (
            json!({"nodes": nodes(), "nosuch": 1}),
            "invalid configuration: additional properties forbidden, found nosuch",
        ),
        (
            json!({"nodes": nodes(), "scheme": "ftp"}),
            "invalid configuration: property \"scheme\" validation failed: matches none of the enum values",
        ),
        (
            json!({"nodes": nodes(), "timeout": {"connect": 1, "send": 1}}),
            "invalid configuration: property \"timeout\" validation failed: property \"read\" is required",
        ),
        (
            json!({"nodes": nodes(), "timeout": {"connect": 0, "send": 1, "read": 1}}),
            "invalid configuration: property \"timeout\" validation failed: property \"connect\" validation failed: expected 0 to be greater than 0",
        ),
        (
            json!({"nodes": nodes(), "pass_host": "rewrite"}),
            "`upstream_host` can't be empty when `pass_host` is `rewrite`",
        ),
        (
            json!({"nodes": nodes(), "checks": {}}),
            "invalid configuration: property \"checks\" validation failed: object matches none of the required: [\"active\"] or [\"active\",\"passive\"]",
        ),
        (
            json!({"nodes": nodes(), "tls": {"client_cert": "x"}}),
            "invalid configuration: property \"tls\" validation failed: property \"client_cert\" validation failed: string too short, expected at least 128, got 1",
        ),
        (
            json!({"nodes": nodes(), "labels": {"a": 1}}),
            "invalid configuration: property \"labels\" validation failed: failed to validate a (matching \".*\"): wrong type: expected string, got number",
        ),
        (
            json!({"nodes": nodes(), "keepalive_pool": {"size": 0}}),
            "invalid configuration: property \"keepalive_pool\" validation failed: property \"size\" validation failed: expected 0 to be at least 1",
        ),
        (
            json!({"nodes": nodes(), "retries": -1}),
            "invalid configuration: property \"retries\" validation failed: expected -1 to be at least 0",
        ),
        (
            json!({"nodes": nodes(), "retries": "x"}),
            "invalid configuration: property \"retries\" validation failed: wrong type: expected integer, got string",
        ),
        // APISIX takes this one; here the place is named.
        (
            json!({"nodes": nodes(), "type": "nosuch"}),
            "invalid configuration: property \"type\" validation failed: matches none of the enum values",
        ),
    ] {
        assert_eq!(read(body.clone()).unwrap_err().summary(), summary, "{body}");
    }
}

#[test]
fn every_problem_is_listed_with_its_place() {
    let report = read(json!({
        "nodes": {"127.0.0.1:80": -1, "b:99999": 1},
        "retries": "x",
        "timeout": {"connect": 0, "read": 1},
        "nosuch": 1,
    }))
    .unwrap_err();
    assert_eq!(
        report.to_string(),
        "$.nodes[\"127.0.0.1:80\"]: expected -1 to be at least 0\n\
         $.nodes[\"b:99999\"]: \"b:99999\" is no host, host:port or [IPv6]:port\n\
         $.retries: wrong type: expected integer, got string\n\
         $.timeout.connect: expected 0 to be greater than 0\n\
         $.timeout: property \"send\" is required\n\
         $.nosuch: unknown field \"nosuch\""
    );
}
