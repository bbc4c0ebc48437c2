//! The configuration as a whole: `configs`, checks without writing, dry runs, limits.

use serde_json::{Value, json};

use super::node::{Api, KEY};

async fn put(api: &Api, digest: &str, body: &Value) -> (u16, Value) {
    api.with("PUT", "/apisix/admin/configs", &[("x-digest", digest)], &body.to_string()).await
}

async fn revision(api: &Api) -> u64 {
    api.call("GET", "/v1/status", "").await.1["revision"].as_u64().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_configuration_is_replaced_by_what_differs() {
    let api = Api::start().await;
    let (status, before) = api.call("GET", "/apisix/admin/configs", "").await;
    assert_eq!((status, &before["routes_conf_version"], before.get("X-Digest")), (200, &json!(0), None));
    let all = json!({
        "routes": [{"id": "r1", "uri": "/a", "upstream_id": "u1"}, {"id": "r2", "uri": "/b", "upstream_id": "u1"}],
        "upstreams": [{"id": "u1", "nodes": {"a:1": 1}}],
    });
    assert_eq!(put(&api, "d1", &all).await, (202, Value::Null));
    assert_eq!(revision(&api).await, 1, "one transaction");
    let (_, got) = api.call("GET", "/apisix/admin/configs", "").await;
    assert_eq!(
        (&got["routes"], &got["upstreams"], &got["X-Digest"]),
        (&all["routes"], &all["upstreams"], &json!("d1"))
    );
    assert_eq!((&got["routes_conf_version"], &got["ssls_conf_version"], got.get("ssls")), (&json!(1), &json!(1), None));
    let (status, headers, _) = api.raw("HEAD", "/apisix/admin/configs", &[("x-api-key", KEY)], &[]).await;
    assert_eq!((status, headers["x-digest"].to_str().unwrap()), (200, "d1"));
    assert!(headers["x-last-modified"].to_str().unwrap().parse::<u64>().unwrap() > 1_700_000_000);
    assert_eq!(put(&api, "d1", &all).await.0, 204, "the same digest");
    assert_eq!(revision(&api).await, 1);
    // Only what differs is written: r1 keeps its revision.
    let next = json!({
        "routes": [all["routes"][0], {"id": "r3", "uri": "/c", "upstream_id": "u1"}],
        "upstreams": all["upstreams"],
    });
    assert_eq!(put(&api, "d2", &next).await.0, 202);
    let (_, kept) = api.call("GET", "/apisix/admin/routes/r1", "").await;
    assert_eq!(kept["modifiedIndex"], 1);
    assert_eq!(api.call("GET", "/apisix/admin/routes/r2", "").await.0, 404);
    assert_eq!(api.call("GET", "/apisix/admin/routes/r3", "").await.1["createdIndex"], 2);
    // Somebody else's change makes the digest say nothing any more.
    api.call("DELETE", "/apisix/admin/routes/r3", "").await;
    assert_eq!(put(&api, "d2", &next).await.0, 202);
    assert_eq!(api.call("GET", "/apisix/admin/routes/r3", "").await.0, 200);
    // It is no resource of the users.
    assert_eq!(api.call("GET", "/apisix/admin/standalone/configs", "").await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_by_kind_say_what_is_replaced() {
    let api = Api::start().await;
    let with = |version: Value, uri: &str| json!({"routes_conf_version": version, "routes": [{"id": "r1", "uri": uri, "upstream": {"nodes": {}}}]});
    let uri = async || api.call("GET", "/apisix/admin/routes/r1", "").await.1["value"]["uri"].clone();
    assert_eq!(put(&api, "d1", &with(json!(5), "/a")).await.0, 202);
    assert_eq!(put(&api, "d2", &with(json!(5), "/b")).await.0, 202);
    assert_eq!(uri().await, "/a", "an equal version is skipped");
    assert_eq!(put(&api, "d3", &with(json!(6), "/b")).await.0, 202);
    assert_eq!(uri().await, "/b");
    for (version, sentence) in [
        (json!(5), "routes_conf_version must be greater than or equal to (6)"),
        (json!("x"), "routes_conf_version must be a number"),
    ] {
        let (status, answer) = put(&api, "d4", &with(version, "/c")).await;
        assert_eq!((status, answer["error_msg"].as_str().unwrap()), (400, sentence));
    }
    assert_eq!(put(&api, "d5", &json!({"routes_conf_version": 6})).await.0, 202);
    assert_eq!(uri().await, "/b", "a list may be left out with its version as it was");
    assert_eq!(put(&api, "d6", &json!({})).await.0, 202);
    assert_eq!(uri().await, Value::Null, "without a version it is replaced, by nothing");
    let (_, got) = api.call("GET", "/apisix/admin/configs", "").await;
    assert_eq!((&got["routes_conf_version"], &got["upstreams_conf_version"]), (&json!(7), &json!(5)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_configuration_that_is_wrong_changes_nothing() {
    let api = Api::start().await;
    let route = json!({"id": "r1", "uri": "/a", "upstream": {"nodes": {}}});
    assert_eq!(put(&api, "d1", &json!({"routes": [route]})).await.0, 202);
    for (body, sentence) in [
        (
            json!({"routes": [{"id": "r2", "uri": 1}]}),
            "invalid configuration: property \"uri\" validation failed: wrong type: expected string, got number",
        ),
        (json!({"routes": [{"uri": "/a", "upstream": {"nodes": {}}}]}), "routes[0]: missing route id"),
        (json!({"routes": [route, route]}), "found duplicate id r1 in routes"),
        (json!({"routes": {}}), "routes must be a list"),
        (json!({"ruotes": []}), "Unsupported resource type: ruotes"),
        (
            json!({"routes": [{"id": "r2", "uri": "/a", "upstream_id": "u"}]}),
            "failed to fetch upstream info by upstream id [u], response code: 404",
        ),
        (json!({"stream_routes": [{"id": "s", "plugins": {"cors": {}}}]}), "unknown plugin [cors]"),
        (json!([]), "a configuration is an object of lists by kind"),
    ] {
        let (status, answer) = put(&api, "d2", &body).await;
        assert_eq!((status, answer["error_msg"].as_str().unwrap()), (400, sentence));
    }
    let (status, answer) = api.call("PUT", "/apisix/admin/configs", "{}").await;
    assert_eq!((status, &answer["error_msg"]), (400, &json!("missing digest header")));
    assert_eq!(revision(&api).await, 1);
    let yaml = "routes:\n  - {id: r9, uri: /y, upstream: {nodes: {'a:1': 1}}}\n#END\n";
    let headers = [("x-digest", "d3"), ("content-type", "application/yaml; charset=utf-8")];
    assert_eq!(api.with("PUT", "/apisix/admin/configs", &headers, yaml).await.0, 202);
    assert_eq!(api.call("GET", "/apisix/admin/routes/r9", "").await.1["value"]["uri"], "/y");
    assert_eq!(api.with("PUT", "/apisix/admin/configs", &[("x-digest", "d4"), headers[1]], "routes: [").await.0, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_configuration_outlives_a_restart() {
    let api = Api::start().await;
    let all = json!({"routes": [{"id": "r1", "uri": "/a", "upstream": {"nodes": {}}}]});
    assert_eq!(put(&api, "d1", &all).await.0, 202);
    let api = api.restart().await;
    assert_eq!(put(&api, "d1", &all).await.0, 204);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_tells_what_would_happen_and_writes_nothing() {
    let api = Api::start().await;
    for (path, body) in [
        ("upstreams/u1", json!({"nodes": {"a:1": 1}})),
        ("services/s1", json!({"upstream_id": "u1", "hosts": ["h.com"]})),
        ("routes/b", json!({"uri": "/a/:x", "upstream_id": "u1"})),
        ("routes/get", json!({"uri": "/a/:y", "upstream_id": "u1", "methods": ["GET"], "priority": 9})),
        ("routes/other", json!({"uri": "/other", "host": "h.com", "upstream_id": "u1"})),
    ] {
        assert_eq!(api.call("PUT", &format!("/apisix/admin/{path}"), &body.to_string()).await.0, 201);
    }
    let run = async |operations: Value| {
        let body = json!({"dry_run": true, "operations": operations}).to_string();
        let (status, answer) = api.call("POST", "/v1/transactions", &body).await;
        assert_eq!((status, &answer["dry_run"], &answer["revision"]), (200, &json!(true), &json!(5)), "{answer}");
        answer
    };
    let put = |kind: &str, id: &str, value: Value| json!({"op": "put", "kind": kind, "id": id, "value": value});
    let answer = run(json!([
        put("upstreams", "u1", json!({"nodes": {"a:1": 2, "b:1": 1}})),
        put("upstreams", "u2", json!({"nodes": {}})),
        put("services", "s1", json!({"upstream_id": "u1", "hosts": ["h.com"]})),
        {"op": "delete", "kind": "routes", "id": "other"},
        {"op": "patch", "kind": "routes", "id": "get", "value": {"priority": 3}},
    ]))
    .await;
    assert_eq!(answer["accepted"], true, "{answer}");
    let results: Vec<_> = answer["results"].as_array().unwrap().iter().map(|r| r["result"].as_str().unwrap()).collect();
    assert_eq!(results, ["replaced", "created", "unchanged", "deleted", "replaced"]);
    assert_eq!(
        answer["results"][0]["diff"],
        json!([{"path": "$.nodes[\"a:1\"]", "old": 1, "new": 2}, {"path": "$.nodes[\"b:1\"]", "new": 1}])
    );
    assert_eq!(answer["results"][4]["diff"], json!([{"path": "$.priority", "old": 9, "new": 3}]));
    // Everything that would be broken, not only what the log would refuse first.
    let answer = run(json!([
        {"op": "delete", "kind": "upstreams", "id": "u1"},
        put("routes", "n", json!({"uri": "/n", "upstream_id": "none", "service_id": "s1"})),
        put("routes", "b", json!({"uri": "/a/:x", "service_id": "s9"})),
    ]))
    .await;
    assert_eq!(answer["accepted"], false);
    assert_eq!(answer["error_msg"], "can not delete this upstream, route [get] is still using it now", "{answer}");
    let broken: Vec<String> = answer["broken_references"]
        .as_array()
        .unwrap()
        .iter()
        .map(|b| format!("{} {}", b["from"].as_str().unwrap(), b["to"].as_str().unwrap()).replace("/apisix/", ""))
        .collect();
    let expected = [
        "routes/b services/s9",
        "routes/get upstreams/u1",
        "routes/n upstreams/none",
        "routes/other upstreams/u1",
        "services/s1 upstreams/u1",
    ];
    assert_eq!(broken, expected);
    // A route with the same host and path goes before another one, or behind.
    let shadowed = async |operations: Value| {
        let answer = run(operations).await;
        let show = |s: &Value| {
            let name = |field: &str| s[field].as_str().unwrap().replace("/apisix/routes/", "");
            format!("{} by {}{}", name("route"), name("by"), if s["entirely"] == true { "" } else { " in part" })
        };
        answer["shadowed"].as_array().unwrap().iter().map(show).collect::<Vec<_>>().join(", ")
    };
    let route = |uri: Value, more: Value| {
        let mut body = json!({"uris": uri, "upstream_id": "u1"});
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    for (id, body, expected) in [
        ("a", route(json!(["/a/:z"]), json!({})), "b by a"),
        ("c", route(json!(["/a/:z"]), json!({})), "c by b"),
        ("c", route(json!(["/a/:z", "/c"]), json!({})), "c by b in part"),
        ("c", route(json!(["/a/:z"]), json!({"priority": 10})), "b by c, get by c"),
        ("c", route(json!(["/a/:z"]), json!({"methods": ["GET"]})), "c by b, c by get"),
        ("c", route(json!(["/a/:z"]), json!({"priority": 1, "vars": [["arg_a", "==", "1"]]})), ""),
        ("c", route(json!(["/a/:z"]), json!({"priority": 1, "remote_addrs": ["10.0.0.0/8"]})), ""),
        ("c", route(json!(["/a/:z"]), json!({"status": 0})), ""),
        ("c", route(json!(["/a/:z"]), json!({"host": "x.com"})), ""),
        ("c", route(json!(["/other"]), json!({"service_id": "s1", "priority": 1})), "other by c"),
    ] {
        assert_eq!(shadowed(json!([put("routes", id, body.clone())])).await, expected, "{id} {body}");
    }
    assert_eq!(revision(&api).await, 5, "nothing was written");
    let body = json!({"operations": [{"op": "delete", "kind": "routes", "id": "b"}]}).to_string();
    let (status, answer) = api.call("POST", "/v1/transactions?dry_run=true", &body).await;
    assert_eq!((status, &answer["dry_run"]), (200, &json!(true)));
    assert_eq!(api.call("GET", "/apisix/admin/routes/b", "").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn published_limits_are_those_that_hold() {
    let api = Api::start_with(|settings| settings.admin.body_max.0 = 2000).await;
    let (status, limits) = api.call("GET", "/v1/limits", "").await;
    assert_eq!(status, 200);
    assert_eq!(api.call("GET", "/v1/limits.json", "").await, (200, limits.clone()), "by its other name");
    let max = |name: &str| limits[name]["max"].as_u64().unwrap_or_else(|| panic!("{name} is missing in {limits}"));
    for name in ["pem", "proto", "conditions", "history_page", "wait_named"] {
        assert!(max(name) >= 100, "{name}");
    }
    assert_eq!((&limits["page_size"]["min"], &limits["key"]["min"]), (&json!(10), &json!(16)));
    let body = |fill: usize| format!("{{\"nodes\":{{}},\"desc\":\"\"}}{}", " ".repeat(fill - 22));
    let at = usize::try_from(max("body")).unwrap();
    assert_eq!(api.call("PUT", "/apisix/admin/upstreams/u", &body(at)).await.0, 201);
    assert_eq!(api.call("PUT", "/apisix/admin/upstreams/u", &body(at + 1)).await.0, 413);
    let text = |name: &str, more: u64| "x".repeat(usize::try_from(max(name) + more).unwrap());
    for (more, good) in [(0, true), (1, false)] {
        for (name, field) in [("name", "name"), ("desc", "desc")] {
            let body = json!({"nodes": {}, field: text(name, more)}).to_string();
            assert_eq!(api.call("PUT", "/apisix/admin/upstreams/u", &body).await.0 < 300, good, "{name}");
        }
        let body = json!({"nodes": {}, "labels": {"a": text("label", more)}}).to_string();
        assert_eq!(api.call("PUT", "/apisix/admin/upstreams/u", &body).await.0 < 300, good, "label");
        let consumer = json!({"username": text("username", more)}).to_string();
        assert_eq!(api.call("PUT", "/apisix/admin/consumers", &consumer).await.0 < 300, good, "username");
        let path = format!("/apisix/admin/upstreams/{}", text("id", more));
        assert_eq!(api.call("PUT", &path, "{\"nodes\":{}}").await.0 < 300, good, "id");
        let key = text("idempotency_key", more);
        let put = api.with("PUT", "/apisix/admin/upstreams/u", &[("idempotency-key", &key)], "{\"nodes\":{}}").await;
        assert_eq!(put.0 < 300, good, "idempotency_key");
        let page = format!("/apisix/admin/upstreams?page=1&page_size={}", max("page_size") + more);
        assert_eq!(api.call("GET", &page, "").await.0 == 200, good, "page_size");
        let wait = format!("/apisix/admin/upstreams/u?wait={}", max("wait") + more);
        assert_eq!(api.call("PUT", &wait, "{\"nodes\":{}}").await.0 < 300, good, "wait");
        let depth = usize::try_from(max("depth") + more).unwrap() - 2;
        let deep = format!(
            "{{\"nodes\":[{{\"host\":\"a\",\"weight\":1,\"metadata\":{}1{}}}]}}",
            "{\"a\":".repeat(depth - 1),
            "}".repeat(depth - 1)
        );
        let (status, answer) = api.call("PUT", "/apisix/admin/upstreams/u", &deep).await;
        assert_eq!(status < 300, good, "depth {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_does_not_wait_asks_nothing_of_the_fleet() {
    let api = Api::start().await;
    let asked = async || {
        let (_, text) = api.status("/metrics").await;
        let line = text.lines().find_map(|line| line.strip_prefix("holdfast_cp_feed_questions_total "));
        line.unwrap().parse::<u64>().unwrap()
    };
    for n in 0..100 {
        assert_eq!(api.call("PUT", &format!("/apisix/admin/upstreams/u{n}"), "{\"nodes\":{}}").await.0, 201);
    }
    assert_eq!(asked().await, 0);
    assert_eq!(api.call("PUT", "/apisix/admin/upstreams/u0?wait=1000", "{\"nodes\":{}}").await.0, 200);
    assert!(asked().await > 0, "who waits does");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_waits_for_nobody_is_answered_at_once() {
    let api = Api::start().await;
    let upstream = "{\"nodes\":{}}";
    let raw = async |path: &str| {
        let (status, headers, body) = api.raw("PUT", path, &[("x-api-key", KEY)], upstream.as_bytes()).await;
        let fleet = headers.get("x-holdfast-fleet").map(|value| value.to_str().unwrap().to_owned());
        (status, fleet, serde_json::from_str::<Value>(&body).unwrap())
    };
    let (status, fleet, body) = raw("/apisix/admin/upstreams/u?wait=60000").await;
    assert_eq!((status, fleet.as_deref(), body.get("fleet")), (201, Some("0/0"), None), "no proxy is concerned");
    let (status, fleet, _) = raw("/apisix/admin/upstreams/u").await;
    assert_eq!((status, fleet), (200, None));
    let (status, fleet, body) = raw("/apisix/admin/upstreams/u?wait=50&scope=region:nowhere").await;
    assert_eq!((status, fleet.as_deref()), (202, Some("0/0")));
    assert_eq!((&body["value"]["id"], &body["fleet"]["scope_is_empty"]), (&json!("u"), &json!(true)));
    for (query, what) in
        [("wait=x", "wait"), ("wait=1&scope=eu", "scope"), ("wait=1&quorum=x", "quorum"), ("quorum=1", "quorum")]
    {
        let (status, _, body) = raw(&format!("/apisix/admin/upstreams/u?{query}")).await;
        let sentence = body["error_msg"].as_str().unwrap();
        assert!(status == 400 && sentence.starts_with(&format!("invalid argument {what}")), "{sentence}");
    }
    let (status, answer) = api.call("GET", "/v1/revisions/1/convergence", "").await;
    assert_eq!((status, &answer["served"], &answer["position"]), (200, &json!(true), &json!("1-1")));
    assert_eq!(api.call("GET", "/v1/revisions/99/convergence", "").await.0, 404);
}
