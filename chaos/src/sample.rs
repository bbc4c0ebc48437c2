//! A configuration as shops have them: hosts with paths exact, by prefix and with parameters, services and upstreams.

use serde_json::{Value, json};

/// A resource to put: kind, id, body.
pub type Resource = (&'static str, String, Value);

/// Every route of the sample either has one of these hosts, or none: then its path alone decides.
const HOSTS: usize = 20;

/// `routes` routes over two upstreams, `blue` and `green`, and ten services on `blue`. Route `r0` is `/hello`; every
/// fourth route has no host and the path `/open/<n>/items`.
#[must_use]
pub fn configuration(routes: usize, blue: &str, green: &str) -> Vec<Resource> {
    let upstream = |address: &str| json!({"type": "roundrobin", "scheme": "http", "nodes": {address: 1}});
    let mut all: Vec<Resource> = vec![
        ("upstreams", "blue".to_owned(), upstream(blue)),
        ("upstreams", "green".to_owned(), upstream(green)),
        ("routes", "r0".to_owned(), hello("blue")),
    ];
    all.extend(
        (0..10).map(|n| ("services", format!("s{n}"), json!({"name": format!("team-{n}"), "upstream_id": "blue"}))),
    );
    all.extend((1..routes).map(|n| {
        let host = format!("shop-{}.example.com", n % HOSTS);
        let body = match n % 4 {
            0 => json!({"uri": format!("/open/{n}/items"), "upstream_id": "blue"}),
            1 => json!({"host": host, "uri": format!("/api/v1/things-{n}/*"), "service_id": format!("s{}", n % 10)}),
            2 => json!({"host": host, "uri": format!("/users/:user/orders-{n}"), "methods": ["GET", "POST"],
                "service_id": format!("s{}", n % 10)}),
            _ => json!({"host": host, "uris": [format!("/pages/{n}"), format!("/pages/{n}/*")], "priority": n % 3,
                "upstream_id": "blue"}),
        };
        ("routes", format!("r{n}"), body)
    }));
    all
}

/// The body of route `r0`, to either upstream.
#[must_use]
pub fn hello(upstream: &str) -> Value {
    json!({"uri": "/hello", "name": "hello", "upstream_id": upstream})
}

/// Paths without a host in a [`configuration`] of so many routes.
#[must_use]
pub fn open_paths(routes: usize) -> Vec<String> {
    (4..routes).step_by(4).map(|n| format!("/open/{n}/items")).collect()
}

/// The body of a transaction that puts all of them.
#[must_use]
pub fn transaction(resources: &[Resource]) -> Value {
    let operation = |(kind, id, value): &Resource| json!({"op": "put", "kind": kind, "id": id, "value": value});
    json!({"operations": resources.iter().map(operation).collect::<Vec<_>>()})
}
