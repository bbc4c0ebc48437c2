//! The Admin API as clients of APISIX know it: statuses, envelopes, sentences.

use serde_json::{Value, json};

use super::node::{Api, KEY, VIEWER};

const UPSTREAM: &str = r#"{"type":"roundrobin","nodes":{"127.0.0.1:18080":1}}"#;

fn message(body: &Value) -> &str {
    body["error_msg"].as_str().unwrap_or_else(|| panic!("no error_msg in {body}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_and_roles() {
    let api = Api::start().await;
    let check = async |headers: &[(&str, &str)], method: &str, path: &str| {
        let (status, _, body) = api.raw(method, path, headers, UPSTREAM.as_bytes()).await;
        (status, serde_json::from_str::<Value>(&body).unwrap_or_default()["description"].clone())
    };
    assert_eq!(check(&[], "GET", "/apisix/admin/routes").await, (401, json!("missing apikey")));
    assert_eq!(check(&[("x-api-key", "nope")], "GET", "/apisix/admin/routes").await, (401, json!("wrong apikey")));
    assert_eq!(check(&[], "GET", &format!("/apisix/admin/routes?api_key={KEY}")).await.0, 200);
    assert_eq!(check(&[("cookie", &format!("x_api_key={KEY}"))], "GET", "/apisix/admin/routes").await.0, 200);
    assert_eq!(check(&[("x-api-key", VIEWER)], "GET", "/apisix/admin/routes").await.0, 200);
    let viewer_writes = check(&[("x-api-key", VIEWER)], "PUT", "/apisix/admin/upstreams/u1").await;
    assert_eq!(viewer_writes, (401, json!("invalid method for role viewer")));
    assert_eq!(check(&[("x-api-key", VIEWER)], "POST", "/v1/transactions").await.0, 401);
    assert_eq!(check(&[], "GET", "/v1/cluster").await.0, 401);
    assert_eq!(check(&[], "HEAD", "/apisix/admin").await.0, 200, "needs no key");
    assert_eq!(check(&[], "OPTIONS", "/apisix/admin/routes").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_are_those_that_clients_parse() {
    let api = Api::start().await;
    let (_, headers, body) = api.raw("GET", "/apisix/admin/routes", &[("x-api-key", KEY)], &[]).await;
    assert_eq!(body, "{\"list\":[],\"total\":0}\n");
    for (name, value) in [
        ("content-type", "application/json"),
        ("x-api-version", "v3"),
        ("access-control-allow-origin", "*"),
        ("access-control-max-age", "3600"),
        ("x-holdfast-position", "1-0"),
    ] {
        assert_eq!(headers.get(name).map(|v| v.to_str().unwrap()), Some(value), "{name}");
    }
    assert!(headers["server"].to_str().unwrap().starts_with("APISIX/3.18.0 Holdfast/"));
    let (status, headers, _) = api.raw("GET", "/nosuch", &[("x-api-key", KEY)], &[]).await;
    assert_eq!((status, headers.get("x-api-version")), (404, None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resources_life() {
    let api = Api::start().await;
    let (status, created) = api.call("PUT", "/apisix/admin/upstreams/u1", UPSTREAM).await;
    assert_eq!(status, 201);
    assert_eq!(created["key"], "/apisix/upstreams/u1");
    assert_eq!(created["value"]["nodes"], json!({"127.0.0.1:18080": 1}));
    assert_eq!(created["value"]["id"], "u1");
    assert!(created["value"]["create_time"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!(created.get("createdIndex"), None, "only reads have indexes");
    let named = r#"{"type":"roundrobin","nodes":{"127.0.0.1:18080":1},"name":"one"}"#;
    let (status, replaced) = api.call("PUT", "/apisix/admin/upstreams/u1", named).await;
    assert_eq!((status, &replaced["value"]["create_time"]), (200, &created["value"]["create_time"]));
    let (status, read) = api.call("GET", "/apisix/admin/upstreams/u1", "").await;
    assert_eq!((status, &read["createdIndex"], &read["modifiedIndex"]), (200, &json!(1), &json!(2)));
    let (status, posted) = api.call("POST", "/apisix/admin/upstreams", UPSTREAM).await;
    assert_eq!((status, &posted["value"]["id"]), (201, &json!("00000000000000000003")));
    let (status, deleted) = api.call("DELETE", "/apisix/admin/upstreams/00000000000000000003", "").await;
    assert_eq!((status, deleted), (200, json!({"key": "/apisix/upstreams/00000000000000000003", "deleted": "1"})));
    for method in ["GET", "DELETE"] {
        let (status, missing) = api.call(method, "/apisix/admin/upstreams/none", "").await;
        assert_eq!((status, missing), (404, json!({"message": "Key not found"})));
    }
    let (status, by_body) = api.call("PUT", "/apisix/admin/upstreams", r#"{"id":"inbody","nodes":{}}"#).await;
    assert_eq!((status, &by_body["key"]), (201, &json!("/apisix/upstreams/inbody")));
}

#[tokio::test(flavor = "multi_thread")]
async fn patches_merge_delete_and_replace() {
    let api = Api::start().await;
    api.call("PUT", "/apisix/admin/upstreams/u1", r#"{"nodes":{"a:1":1},"name":"n"}"#).await;
    let value = async |path: &str, body: &str| {
        let (status, answer) = api.call("PATCH", &format!("/apisix/admin/upstreams/u1{path}"), body).await;
        assert_eq!(status, 200, "{answer}");
        answer["value"].clone()
    };
    assert_eq!(value("", r#"{"nodes":{"b:2":2}}"#).await["nodes"], json!({"a:1": 1, "b:2": 2}));
    let patched = value("", r#"{"nodes":{"a:1":null},"name":null}"#).await;
    assert_eq!((&patched["nodes"], patched.get("name")), (&json!({"b:2": 2}), None));
    assert_eq!(value("/nodes", r#"{"c:3":3}"#).await["nodes"], json!({"c:3": 3}));
    assert_eq!(value("/retries", "2").await["retries"], 2);
    for (path, body, status, sentence) in [
        (
            "u1",
            r#"{"retries":"x"}"#,
            400,
            "invalid configuration: property \"retries\" validation failed: wrong type: expected integer, got string",
        ),
        ("u1", r#"{"id":"9"}"#, 400, "wrong upstream id"),
        ("u1", "\"x\"", 400, "invalid configuration"),
        ("u1", "", 400, "missing new configuration"),
        ("u1/retries/deep", "1", 400, "invalid sub path: deep stands inside something that is no object"),
    ] {
        let (got, answer) = api.call("PATCH", &format!("/apisix/admin/upstreams/{path}"), body).await;
        assert_eq!((got, message(&answer)), (status, sentence), "{body}");
    }
    let (status, _) = api.call("PATCH", "/apisix/admin/upstreams/none", r#"{"retries":1}"#).await;
    assert_eq!(status, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_requests_name_the_place() {
    let api = Api::start().await;
    let long_id = "a".repeat(65);
    let id_sentence = "invalid configuration: property \"id\" validation failed: object matches none of the required";
    for (method, path, body, status, sentence) in [
        ("GET", "nosuch", "", 404, "Unsupported resource type: nosuch"),
        ("PUT", "nosuch/1", "{}", 404, "Unsupported resource type: nosuch"),
        ("PUT", "routes", r#"{"uri":"/x","upstream":{"nodes":{}}}"#, 400, "missing route id"),
        ("PUT", "routes/1", "", 400, "missing configurations"),
        ("PUT", "routes/1", r#"{"uri": "#, 400, "invalid request body: EOF while parsing a value at line 1 column 8"),
        (
            "PUT",
            "routes/1",
            r#"{"uri":"/x","uri":"/y"}"#,
            400,
            "invalid request body: the name \"uri\" stands twice in one object at line 1 column 17",
        ),
        ("PUT", "routes/1", "\"str\"", 400, "invalid configuration: wrong type: expected object, got string"),
        ("PUT", "routes/1", "null", 400, "invalid configuration: wrong type: expected object, got null"),
        ("PUT", "routes/bad%20id", r#"{"uri":"/x","upstream":{"nodes":{}}}"#, 400, id_sentence),
        ("PUT", "routes/a:b", r#"{"uri":"/x","upstream":{"nodes":{}}}"#, 400, id_sentence),
        ("PUT", &format!("routes/{long_id}"), r#"{"uri":"/x","upstream":{"nodes":{}}}"#, 400, id_sentence),
        ("PUT", "routes/1", r#"{"id":"2","uri":"/x","upstream":{"nodes":{}}}"#, 400, "wrong route id"),
        ("PUT", "routes/1", r#"{"uri":"/x","create_time":1}"#, 400, "the property is forbidden:  create_time"),
        (
            "PUT",
            "routes/1",
            r#"{"uri":"/x","upstream":{"nodes":{},"update_time":1}}"#,
            400,
            "the property is forbidden:  upstream.update_time",
        ),
        ("POST", "routes/1", r#"{"uri":"/x","upstream":{"nodes":{}}}"#, 400, "wrong route id, do not need it"),
        ("PATCH", "routes", r#"{"uri":"/x"}"#, 400, "missing route id"),
        ("DELETE", "routes", "", 400, "missing route id"),
        (
            "PUT",
            "routes/1?ttl=abc",
            r#"{"uri":"/x","upstream":{"nodes":{}}}"#,
            400,
            "invalid argument ttl: should be a number",
        ),
        ("POST", "consumers", r#"{"username":"p"}"#, 405, "not supported `POST` method for consumer"),
        (
            "PUT",
            "secrets/vault/v1",
            r#"{"uri":"https://127.0.0.1:8200"}"#,
            400,
            "invalid configuration: property \"prefix\" is required",
        ),
        (
            "PUT",
            "routes/1",
            r#"{"uri":"/x","upstream_id":"none"}"#,
            400,
            "failed to fetch upstream info by upstream id [none], response code: 404",
        ),
        (
            "PUT",
            "routes/1",
            r#"{"uri":"/x","service_id":"none"}"#,
            400,
            "failed to fetch service info by service id [none], response code: 404",
        ),
        ("PUT", "services/1", r#"{"plugins":{"nosuch":{}}}"#, 400, "unknown plugin [nosuch]"),
        (
            "PUT",
            "routes/1?durability=record",
            r#"{"uri":"/x","upstream":{"nodes":{}}}"#,
            400,
            "durability=record needs a record, and this cluster has none",
        ),
        ("GET", "routes?consistency=often", "", 400, "consistency \"often\" is neither linearizable nor stale"),
    ] {
        let (got, answer) = api.call(method, &format!("/apisix/admin/{path}"), body).await;
        assert_eq!((got, message(&answer)), (status, sentence), "{method} {path} {body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_problem_of_a_body_is_listed() {
    let api = Api::start().await;
    let body = r#"{"uri":1,"hosts":["a b"],"upstream":{"nodes":{"x":-1}},"nosuch":true}"#;
    let (status, answer) = api.call("PUT", "/apisix/admin/routes/1", body).await;
    assert_eq!(status, 400);
    let places: Vec<&str> = answer["errors"].as_array().unwrap().iter().map(|e| e["path"].as_str().unwrap()).collect();
    assert_eq!(places, ["$.uri", "$.hosts[0]", "$.upstream.nodes.x", "$.nosuch"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_have_a_bound() {
    let api = Api::start().await;
    let body = |bytes: usize| {
        let frame = r#"{"uri":"/x","desc":"","upstream":{"nodes":{}}}"#;
        frame.replace("\"\"", &format!("\"{}\"", "x".repeat(bytes - frame.len())))
    };
    let (status, answer) = api.call("PUT", "/apisix/admin/routes/big", &body(1_572_864)).await;
    assert_eq!(status, 400, "at the bound it is read: {answer}");
    assert!(message(&answer).contains("string too long"), "{answer}");
    for bytes in [1_572_865, 2 << 20] {
        let (status, answer) = api.call("PUT", "/apisix/admin/routes/big", &body(bytes)).await;
        assert_eq!(
            (status, message(&answer)),
            (413, "invalid request body: it is larger than the maximum of 1572864 bytes")
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn references_hold() {
    let api = Api::start().await;
    api.call("PUT", "/apisix/admin/upstreams/u1", UPSTREAM).await;
    api.call("PUT", "/apisix/admin/services/s1", r#"{"upstream_id":"u1"}"#).await;
    api.call("PUT", "/apisix/admin/routes/r1", r#"{"uri":"/r1","service_id":"s1"}"#).await;
    let (status, kept) = api.call("DELETE", "/apisix/admin/upstreams/u1", "").await;
    assert_eq!((status, message(&kept)), (400, "can not delete this upstream, service [s1] is still using it now"));
    let (status, kept) = api.call("DELETE", "/apisix/admin/services/s1", "").await;
    assert_eq!(
        (status, message(&kept)),
        (400, "can not delete this service directly, route [r1] is still using it now")
    );
    assert_eq!(api.call("DELETE", "/apisix/admin/upstreams/u1?force=true", "").await.0, 200);
    // A plugin's configuration may name an upstream too.
    let split = r#"{"plugins":{"traffic-split":{"rules":[{"weighted_upstreams":[{"upstream_id":"u2"}]}]}}}"#;
    let (status, refused) = api.call("PUT", "/apisix/admin/plugin_configs/p1", split).await;
    let missing = "failed to fetch upstream info by upstream id [u2], response code: 404";
    assert_eq!((status, message(&refused)), (400, missing));
    api.call("PUT", "/apisix/admin/upstreams/u2", UPSTREAM).await;
    assert_eq!(api.call("PUT", "/apisix/admin/plugin_configs/p1", split).await.0, 201);
    let (status, kept) = api.call("DELETE", "/apisix/admin/upstreams/u2", "").await;
    let using = "can not delete this upstream, plugin in plugin_config [p1] is still using it now";
    assert_eq!((status, message(&kept)), (400, using));
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_are_filtered_and_paged() {
    let api = Api::start().await;
    for (id, extra) in [("b", r#","name":"hello","labels":{"env":"prod"}"#), ("a", ""), ("c", r#","name":"other""#)] {
        let body = format!(r#"{{"uri":"/{id}","upstream":{{"nodes":{{}}}}{extra}}}"#);
        assert_eq!(api.call("PUT", &format!("/apisix/admin/routes/{id}"), &body).await.0, 201);
    }
    let ids = async |query: &str| {
        let (status, answer) = api.call("GET", &format!("/apisix/admin/routes{query}"), "").await;
        assert_eq!(status, 200, "{answer}");
        let list = answer["list"].as_array().unwrap();
        let ids: Vec<String> = list.iter().map(|item| item["value"]["id"].as_str().unwrap().to_owned()).collect();
        (ids.concat(), answer["total"].as_u64().unwrap())
    };
    for (query, expected) in [
        ("", ("abc", 3)),
        ("?page=1&page_size=10", ("bac", 3)),
        ("?page=2&page_size=10", ("", 3)),
        ("?page=x&page_size=10", ("abc", 3)),
        ("?page=1", ("abc", 3)),
        ("?page_size=10", ("abc", 3)),
        ("?name=hel", ("b", 1)),
        ("?uri=/a", ("a", 1)),
        ("?label=env", ("b", 1)),
        ("?label=env:prod", ("", 0)),
        ("?filter=name%3Dhello", ("abc", 3)),
        ("?filter=service_id%3Dnone", ("", 0)),
        ("?consistency=stale", ("abc", 3)),
    ] {
        assert_eq!(ids(query).await, (expected.0.to_owned(), expected.1), "{query}");
    }
    for size in ["1", "501"] {
        let (status, answer) = api.call("GET", &format!("/apisix/admin/routes?page=1&page_size={size}"), "").await;
        assert_eq!((status, answer), (400, json!("page_size must be between 10 and 500")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_and_metrics() {
    let api = Api::start().await;
    for path in ["/status", "/livez", "/status/ready", "/readyz", "/healthz"] {
        assert_eq!(api.status(path).await, (200, "{\"status\":\"ok\"}\n".to_owned()), "{path}");
    }
    api.call("PUT", "/apisix/admin/upstreams/u1", UPSTREAM).await;
    let (status, text) = api.status("/metrics").await;
    assert_eq!(status, 200);
    for line in [
        "holdfast_cp_raft_is_leader 1",
        "holdfast_cp_config_revision 1",
        "holdfast_cp_proposed_commands_total 1",
        "holdfast_cp_admin_requests_total{method=\"PUT\",code=\"201\"} 1",
        "holdfast_cp_log_syncs_total ",
        "holdfast_cp_feed_streams 0",
        "holdfast_cp_admin_write_seconds_count 1",
    ] {
        assert!(text.contains(line), "{line} is missing in\n{text}");
    }
    assert!(text.ends_with("# EOF\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_of_one_shows_itself() {
    let api = Api::start().await;
    let (status, cluster) = api.call("GET", "/v1/cluster", "").await;
    assert_eq!((status, &cluster["leader"], cluster["members"].as_array().unwrap().len()), (200, &json!(1), 1));
    assert_eq!((&cluster["members"][0]["role"], &cluster["members"][0]["voter"]), (&json!("leader"), &json!(true)));
    let nobody = json!({"answered_by": 1, "proxies": [], "total": 0, "nodes": []});
    assert_eq!(api.call("GET", "/v1/fleet", "").await, (200, nobody));
    let (status, answer) = api.call("DELETE", "/v1/cluster/members/1", "").await;
    assert_eq!((status, message(&answer)), (409, "the last voter cannot be taken away"));
    assert_eq!(api.call("DELETE", "/v1/cluster/members/9", "").await.0, 404);
    assert_eq!(api.call("DELETE", "/v1/cluster/members/x", "").await.0, 400);
    assert_eq!(api.call("GET", "/v1/nosuch", "").await.0, 404);
}
