//! What Holdfast adds to writes: preconditions, idempotency, transactions, times, sizes.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::node::{Api, KEY};
use super::ssls::{ONE, start as start_with_keyring};

const ROUTE: &str = r#"{"uri":"/x","upstream":{"nodes":{"a:1":1}}}"#;

#[tokio::test(flavor = "multi_thread")]
async fn if_match_loses_no_update() {
    let api = Api::start().await;
    api.call("PUT", "/apisix/admin/routes/r", ROUTE).await;
    let put =
        async |revision: &str| api.with("PUT", "/apisix/admin/routes/r", &[("if-match", revision)], ROUTE).await.0;
    assert_eq!(put("1").await, 200);
    assert_eq!(put("1").await, 412, "somebody was faster");
    assert_eq!(put("\"2\"").await, 200);
    assert_eq!(put("x").await, 400);
    let delete =
        async |revision: &str| api.with("DELETE", "/apisix/admin/routes/r", &[("if-match", revision)], "").await.0;
    assert_eq!((delete("2").await, delete("3").await), (412, 200));
    let (status, answer) = api.with("PUT", "/apisix/admin/routes/r", &[("if-match", "3")], ROUTE).await;
    assert_eq!(status, 412);
    assert!(answer["error_msg"].as_str().unwrap().contains("does not exist"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idempotency_key_makes_a_retry_harmless() {
    let api = Api::start().await;
    let key = ("idempotency-key", "job-17");
    let first = api.with("POST", "/apisix/admin/routes", &[key], ROUTE).await;
    let again = api.with("POST", "/apisix/admin/routes", &[key], ROUTE).await;
    assert_eq!(first.0, 201);
    assert_eq!(first, again, "one route, answered twice");
    assert_eq!(api.call("GET", "/apisix/admin/routes", "").await.1["total"], 1);
    let other = r#"{"uri":"/y","upstream":{"nodes":{"a:1":1}}}"#;
    let (status, answer) = api.with("POST", "/apisix/admin/routes", &[key], other).await;
    assert_eq!(
        (status, answer["error_msg"].as_str().unwrap()),
        (422, "the Idempotency-Key \"job-17\" was used for another request")
    );
    for (header, path) in [
        (("content-type", "text/plain"), "routes"),
        (("x-digest", "d"), "routes"),
        (("x", "y"), "routes?ttl=60"),
        (("x", "y"), "routes?force=true"),
    ] {
        let changed = api.with("POST", &format!("/apisix/admin/{path}"), &[key, header], ROUTE).await.0;
        assert_eq!(changed, 422, "{header:?} {path}");
    }
    let put = async |headers: &[(&str, &str)]| api.with("PUT", "/apisix/admin/routes/r", headers, ROUTE).await.0;
    let key = ("idempotency-key", "job-18");
    assert_eq!((put(&[key]).await, put(&[key]).await, put(&[key, ("if-match", "2")]).await), (201, 201, 422));
    let long = "k".repeat(129);
    assert_eq!(api.with("POST", "/apisix/admin/routes", &[("idempotency-key", &long)], ROUTE).await.0, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_patch_answers_what_it_stored() {
    let dir = tempfile::tempdir().unwrap();
    let api = start_with_keyring(dir.path(), ONE).await;
    let path = "/apisix/admin/routes/r";
    api.call("PUT", path, ROUTE).await;
    let patch = async |key: &str, body: &str| api.with("PATCH", path, &[("idempotency-key", key)], body).await;
    let first = patch("p1", r#"{"desc":"patched"}"#).await;
    assert_eq!((first.0, &first.1["value"]["desc"], &first.1["value"]["uri"]), (200, &json!("patched"), &json!("/x")));
    assert_eq!(patch("p1", r#"{"desc":"patched"}"#).await, first, "it stands as it was made");
    // Something else stands there; then what cannot be merged; then nothing.
    for other in [r#"{"uri":"/y","upstream":{"nodes":{}}}"#, r#"{"uri":"/z","upstream":{"nodes":{}},"name":"n"}"#] {
        assert_eq!(api.call("PUT", path, other).await.0, 200);
        assert_eq!(patch("p1", r#"{"desc":"patched"}"#).await, first);
    }
    let inside = async |key: &str| api.with("PATCH", &format!("{path}/name/x"), &[("idempotency-key", key)], "1").await;
    assert_eq!(inside("p2").await.0, 400, "it was never made");
    assert_eq!(api.call("DELETE", path, "").await.0, 200);
    assert_eq!(patch("p1", r#"{"desc":"patched"}"#).await, first);
    assert_eq!(patch("p1", r#"{"desc":"other"}"#).await.0, 422);
    assert_eq!(patch("p3", r#"{"desc":"patched"}"#).await, (404, json!({"message": "Key not found"})));
    assert_eq!(api.call("GET", "/v1/status", "").await.1["revision"], 5, "nothing of it was made again");
    // So of a secret, which is sealed anew at each attempt.
    let secret = r#"{"uri":"/s","upstream":{"nodes":{}},"plugins":{"csrf":{"key":"0123456789"}}}"#;
    let post = async || api.with("POST", "/apisix/admin/routes", &[("idempotency-key", "p4")], secret).await;
    let posted = post().await;
    assert_eq!(posted.0, 201);
    assert_eq!(post().await, posted);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_posts_each_gets_an_id_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let api = start_with_keyring(dir.path(), ONE).await;
    let sealed = r#"{"uri":"/s","upstream":{"nodes":{}},"plugins":{"csrf":{"key":"0123456789"}}}"#;
    // Somebody has PUT what the next POST would be called.
    for body in [ROUTE, sealed] {
        let revision = api.call("GET", "/v1/status", "").await.1["revision"].as_u64().unwrap();
        let ahead = format!("/apisix/admin/routes/{:020}", revision + 2);
        assert_eq!(api.call("PUT", &ahead, ROUTE).await.0, 201);
        assert_eq!(api.call("POST", "/apisix/admin/routes", body).await.0, 201);
    }
    let posts = (0..24).map(|n| api.call("POST", "/apisix/admin/routes", if n % 2 == 0 { ROUTE } else { sealed }));
    let answers = futures_util::future::join_all(posts).await;
    let ids: std::collections::BTreeSet<&str> =
        answers.iter().filter_map(|(_, answer)| answer["value"]["id"].as_str()).collect();
    assert!(answers.iter().all(|(status, _)| *status == 201), "{answers:?}");
    assert_eq!(ids.len(), 24);
    // An id that lies ahead of its revision is not met by a later one.
    assert_eq!(api.call("POST", "/apisix/admin/routes", ROUTE).await.0, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_patches_all_take_effect() {
    let api = Arc::new(Api::start().await);
    api.call("PUT", "/apisix/admin/routes/r", ROUTE).await;
    let mut patching = tokio::task::JoinSet::new();
    for n in 0..12 {
        let api = api.clone();
        patching.spawn(async move {
            api.call("PATCH", "/apisix/admin/routes/r", &format!(r#"{{"labels":{{"l{n}":"v"}}}}"#)).await.0
        });
    }
    assert!(patching.join_all().await.into_iter().all(|status| status == 200));
    let (_, route) = api.call("GET", "/apisix/admin/routes/r", "").await;
    assert_eq!(route["value"]["labels"].as_object().unwrap().len(), 12);
    assert_eq!(route["modifiedIndex"], 13);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_all_or_nothing() {
    let api = Api::start().await;
    let transact = async |body: Value| api.call("POST", "/v1/transactions", &body.to_string()).await;
    let upstream = json!({"nodes": {"a:1": 1}});
    // The route stands before the upstream that it needs: the result counts.
    let (status, done) = transact(json!({"operations": [
        {"op": "put", "kind": "routes", "id": "r1", "value": {"uri": "/a", "upstream_id": "u1"}},
        {"op": "create", "kind": "upstreams", "id": "u1", "value": upstream},
    ]}))
    .await;
    assert_eq!((status, &done["revision"]), (200, &json!(1)));
    assert_eq!(done["results"][1], json!({"key": "/apisix/upstreams/u1", "result": "created"}));
    for (operations, status, sentence) in [
        (json!([]), 400, "a transaction needs at least one operation"),
        (
            json!([{"op": "create", "kind": "upstreams", "id": "u1", "value": upstream}]),
            409,
            "upstreams/u1 exists already",
        ),
        (
            json!([{"op": "put", "kind": "nosuch", "id": "x", "value": {}}]),
            400,
            "operation 0: Unsupported resource type: nosuch",
        ),
        (json!([{"op": "put", "kind": "routes", "id": "x"}]), 400, "operation 0: a value is needed"),
        (
            json!([{"op": "put", "kind": "upstreams", "id": "u2", "value": upstream}, {"op": "delete", "kind": "upstreams", "id": "u1"}]),
            400,
            "can not delete this upstream, route [r1] is still using it now",
        ),
        (
            json!([{"op": "put", "kind": "upstreams", "id": "u2", "value": upstream}, {"op": "put", "kind": "upstreams", "id": "u2", "value": upstream}]),
            400,
            "upstreams/u2 is written twice in one transaction",
        ),
        (
            json!([{"op": "put", "kind": "upstreams", "id": "u2", "value": upstream}, {"op": "put", "kind": "routes", "id": "r2", "value": {"uri": 1, "upstream_id": "u2"}}]),
            400,
            "operation 1: invalid configuration: property \"uri\" validation failed: wrong type: expected string, got number",
        ),
    ] {
        let (got, answer) = transact(json!({ "operations": operations })).await;
        assert_eq!((got, answer["error_msg"].as_str().unwrap()), (status, sentence));
    }
    // What one resource may be does not depend on the door.
    let large =
        json!({"uri": "/a", "upstream_id": "u1", "plugins": {"mocking": {"response_example": "x".repeat(2 << 20)}}});
    let (status, answer) =
        transact(json!({"operations": [{"op": "put", "kind": "routes", "id": "large", "value": large}]})).await;
    let sentence = answer["error_msg"].as_str().unwrap();
    assert!(status == 400 && sentence.starts_with("operation 0: a resource may have 1572864 bytes"), "{sentence}");
    let (_, answer) =
        transact(json!({"operations": [{"op": "put", "kind": "routes", "id": "r2", "value": {"uri": 1}}]})).await;
    assert_eq!(answer["errors"][0]["path"], "$.operations[0].value.uri");
    let (status, _) = transact(json!({"operations": [{"op": "fly", "kind": "routes", "id": "r"}]})).await;
    assert_eq!(status, 400);
    let (status, answer) =
        transact(json!({"operations": [{"op": "delete", "kind": "routes", "id": "r1"}], "dryrun": true})).await;
    assert_eq!(status, 400, "an unknown field is not passed over: {answer}");
    assert_eq!(api.call("GET", "/apisix/admin/upstreams", "").await.1["total"], 1, "nothing of a refused one is there");
    // Both at once, since the one no longer refers to the other afterwards.
    let (status, done) = transact(json!({"if_revision": 1, "operations": [
        {"op": "delete", "kind": "upstreams", "id": "u1"}, {"op": "delete", "kind": "routes", "id": "r1", "if_match": 1},
    ]}))
    .await;
    assert_eq!((status, &done["revision"]), (200, &json!(2)));
    let (status, _) = transact(
        json!({"if_revision": 1, "operations": [{"op": "put", "kind": "upstreams", "id": "u", "value": upstream}]}),
    )
    .await;
    assert_eq!(status, 412);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_can_patch() {
    let api = Api::start().await;
    api.call("PUT", "/apisix/admin/routes/r", ROUTE).await;
    let body = json!({"operations": [
        {"op": "patch", "kind": "routes", "id": "r", "value": {"priority": 7, "uri": "/patched"}},
        {"op": "put", "kind": "upstreams", "id": "u", "value": {"nodes": {}}},
    ]});
    assert_eq!(api.call("POST", "/v1/transactions", &body.to_string()).await.0, 200);
    let (_, route) = api.call("GET", "/apisix/admin/routes/r", "").await;
    assert_eq!((&route["value"]["priority"], &route["value"]["uri"]), (&json!(7), &json!("/patched")));
    let missing = json!({"operations": [{"op": "patch", "kind": "routes", "id": "none", "value": {}}]});
    assert_eq!(api.call("POST", "/v1/transactions", &missing.to_string()).await.0, 404);
    // Beside a patch, what exists is still no conflict of what was read: it is said at once, and as what it is.
    let both = json!({"operations": [
        {"op": "patch", "kind": "routes", "id": "r", "value": {"priority": 8}},
        {"op": "create", "kind": "upstreams", "id": "u", "value": {"nodes": {}}},
    ]});
    let (status, answer) = api.call("POST", "/v1/transactions", &both.to_string()).await;
    assert_eq!((status, answer["error_msg"].as_str().unwrap()), (409, "upstreams/u exists already"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_patch_in_a_transaction_keeps_the_time_to_live() {
    let api = Api::start().await;
    api.call("PUT", "/apisix/admin/routes/r?ttl=2", ROUTE).await;
    let body = json!({"operations": [{"op": "patch", "kind": "routes", "id": "r", "value": {"priority": 7}}]});
    assert_eq!(api.call("POST", "/v1/transactions", &body.to_string()).await.0, 200);
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while api.call("GET", "/apisix/admin/routes/r", "").await.0 == 200 {
        assert!(tokio::time::Instant::now() < deadline, "it lives for ever");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_transaction_and_a_large_body_are_staged_and_take_one_revision() {
    let api = Api::start().await;
    let desc: String = (0..200u32).map(|i| char::from(b'a' + u8::try_from(i * i % 26).unwrap())).collect();
    let operations: Vec<Value> = (0..20_000)
        .map(|i| {
            let value = json!({"uri": format!("/path/{i}"), "desc": format!("{i} {desc}"), "upstream": {"nodes": {"a:1": i % 100}}});
            json!({"op": "put", "kind": "routes", "id": format!("r{i}"), "value": value})
        })
        .collect();
    let body = json!({ "operations": operations }).to_string();
    assert!(body.len() > 6 << 20);
    let (status, done) = api.call("POST", "/v1/transactions", &body).await;
    assert_eq!(
        (status, &done["revision"], done["results"].as_array().unwrap().len()),
        (200, &json!(1), 20_000),
        "{done:.300}"
    );
    // One body of a megabyte does not fit into a log entry either.
    let nodes: serde_json::Map<String, Value> =
        (0..40_000).map(|i| (format!("10.{}.{}.{}:80", i / 65536, i / 256 % 256, i % 256), json!(i % 7))).collect();
    let body = json!({"uri": "/big", "upstream": {"nodes": nodes}}).to_string();
    assert!(body.len() > 700 << 10 && body.len() < 1536 << 10, "{}", body.len());
    assert_eq!(api.call("PUT", "/apisix/admin/routes/big", &body).await.0, 201);
    let (status, posted) = api.call("POST", "/apisix/admin/routes", &body).await;
    assert_eq!((status, &posted["value"]["id"]), (201, &json!("00000000000000000003")));
    let (_, text) = api.status("/metrics").await;
    assert!(text.contains("holdfast_cp_staged_bytes 0"), "nothing stays behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_resource_with_a_time_goes_away_by_itself() {
    let api = Api::start().await;
    assert_eq!(api.call("PUT", "/apisix/admin/routes/long?ttl=3600", ROUTE).await.0, 201);
    assert_eq!(api.call("PUT", "/apisix/admin/routes/short?ttl=2", ROUTE).await.0, 201);
    assert_eq!(api.call("GET", "/apisix/admin/routes/short", "").await.0, 200);
    let gone = async {
        while api.call("GET", "/apisix/admin/routes/short", "").await.0 != 404 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), gone).await.expect("it goes away");
    assert_eq!(api.call("GET", "/apisix/admin/routes/long", "").await.0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_has_no_effect_yet_is_said() {
    let api = Api::start().await;
    let body = r#"{"content":"syntax = \"proto3\";"}"#;
    let headers = [("x-api-key", KEY)];
    let (status, headers, _) = api.raw("PUT", "/apisix/admin/protos/p", &headers, body.as_bytes()).await;
    assert_eq!(status, 201);
    assert!(headers["x-holdfast-warning"].to_str().unwrap().contains("no plugin reads them yet"), "{headers:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "a test's client is no part of the node")]
async fn clients_that_hang_up_leave_no_place_taken() {
    use tokio::io::AsyncWriteExt;
    let api = Api::start_with(|settings| settings.admin.requests_max = 2).await;
    for _ in 0..3 {
        let mut client = tokio::net::TcpStream::connect(&api.node.addresses.admin).await.unwrap();
        // It would wait long: there is no proxy in that region.
        let path = "/apisix/admin/routes/r?wait=20000&scope=region:nowhere";
        let head =
            format!("PUT {path} HTTP/1.1\r\nhost: a\r\nx-api-key: {KEY}\r\ncontent-length: {}\r\n\r\n", ROUTE.len());
        client.write_all(format!("{head}{ROUTE}").as_bytes()).await.unwrap();
        let waits = async || api.status("/metrics").await.1.contains("admin_requests_under_way 1");
        while !waits().await {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(client);
        let free = async {
            while !api.status("/metrics").await.1.contains("admin_requests_under_way 0") {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), free).await.expect("who hangs up is counted out");
    }
    assert_eq!(api.call("GET", "/apisix/admin/routes", "").await.0, 200);
}
