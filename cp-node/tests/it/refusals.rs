//! What would be passed over in silence elsewhere is refused by name; and every answer names a position.

use serde_json::json;

use super::node::{Api, KEY};

const ROUTE: &str = r#"{"uri":"/x","upstream":{"nodes":{"a:1":1}}}"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_never_becomes_the_real_thing() {
    let api = Api::start().await;
    assert_eq!(api.call("PUT", "/apisix/admin/routes/r1", ROUTE).await.0, 201);
    assert_eq!(api.call("PUT", "/v1/users/ci", r#"{"role":"viewer"}"#).await.0, 201);
    for (method, path, body) in [
        ("PUT", "/apisix/admin/routes/r1", ROUTE),
        ("PATCH", "/apisix/admin/routes/r1", "{\"priority\":1}"),
        ("POST", "/apisix/admin/routes", ROUTE),
        ("DELETE", "/apisix/admin/routes/r1", ""),
        ("DELETE", "/v1/users/ci", ""),
        ("PUT", "/v1/users/ci", r#"{"role":"admin"}"#),
        ("DELETE", "/v1/cluster/members/9", ""),
        ("POST", "/v1/record/off", ""),
    ] {
        let (status, answer) = api.call(method, &format!("{path}?dry_run=true"), body).await;
        let sentence = "invalid argument dry_run: this cannot be tried without being done";
        assert_eq!((status, &answer["error_msg"]), (400, &json!(sentence)), "{method} {path}");
    }
    for query in ["dry_run=yes", "dry_run="] {
        let (status, answer) = api.call("POST", &format!("/v1/transactions?{query}"), "").await;
        let sentence = answer["error_msg"].as_str().unwrap();
        assert!(status == 400 && sentence.ends_with("is neither true nor false"), "{query}: {sentence}");
    }
    // Where it is offered, it says what would happen.
    let digest = [("x-digest", "d1")];
    let all = json!({"routes": [{"id": "r2", "uri": "/b", "upstream": {"nodes": {}}}]}).to_string();
    let (status, tried) = api.with("PUT", "/apisix/admin/configs?dry_run=true", &digest, &all).await;
    let results: Vec<String> = tried["results"].as_array().unwrap().iter().map(|r| r["key"].to_string()).collect();
    assert_eq!((status, results.concat()), (200, "\"/apisix/routes/r2\"\"/apisix/routes/r1\"".to_owned()), "{tried}");
    let (_, status) = api.call("GET", "/v1/status", "").await;
    assert_eq!(status["revision"], 2, "nothing was written");
    assert_eq!(api.with("PUT", "/apisix/admin/configs?dry_run=false", &digest, &all).await.0, 202);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_speaks_of_one_resource_is_refused_where_there_may_be_several() {
    let api = Api::start().await;
    let operations = r#"{"operations":[{"op":"delete","kind":"routes","id":"r1"}]}"#;
    for path in ["/v1/transactions", "/v1/revert", "/apisix/admin/configs"] {
        let method = if path.ends_with("configs") { "PUT" } else { "POST" };
        for (query, header, name) in [
            ("?ttl=60", ("x-none", ""), "the argument ttl"),
            ("?force=true", ("x-none", ""), "the argument force"),
            ("", ("if-match", "1"), "the header If-Match"),
        ] {
            let (status, answer) = api.with(method, &format!("{path}{query}"), &[header], operations).await;
            let sentence = format!("{name} is for one resource, and this may be several");
            assert_eq!((status, &answer["error_msg"]), (400, &json!(sentence)), "{path}");
        }
    }
    let (status, answer) = api.with("POST", "/apisix/admin/routes", &[("if-match", "1")], ROUTE).await;
    let sentence = "If-Match names a resource that is there, and POST makes a new one";
    assert_eq!((status, &answer["error_msg"]), (400, &json!(sentence)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_inside_a_resource_is_not_the_resource() {
    let api = Api::start().await;
    assert_eq!(api.call("PUT", "/apisix/admin/routes/r1", ROUTE).await.0, 201);
    for method in ["GET", "PUT", "DELETE"] {
        let (status, answer) = api.call(method, "/apisix/admin/routes/r1/plugins/x", ROUTE).await;
        let sentence = "a path inside a route is for PATCH: plugins/x";
        assert_eq!((status, &answer["error_msg"]), (400, &json!(sentence)), "{method}");
    }
    let (status, answer) = api.call("GET", "/apisix/admin/routes/r1/", "").await;
    assert_eq!((status, &answer["modifiedIndex"]), (200, &json!(1)), "a slash says nothing: {answer}");
    assert_eq!(api.call("PATCH", "/apisix/admin/routes/r1/", "{\"priority\":3}").await.1["value"]["priority"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_says_which_resource_is_missing() {
    let api = Api::start().await;
    assert_eq!(api.call("PUT", "/apisix/admin/routes/r1", ROUTE).await.0, 201);
    let first = json!({"op": "delete", "kind": "routes", "id": "r1"});
    for second in [
        json!({"op": "delete", "kind": "routes", "id": "none"}),
        json!({"op": "patch", "kind": "routes", "id": "none", "value": {}}),
    ] {
        let body = json!({"operations": [first, second]}).to_string();
        let (status, answer) = api.call("POST", "/v1/transactions", &body).await;
        let expected = json!({"message": "Key not found", "error_msg": "operation 1: routes/none does not exist"});
        assert_eq!((status, answer), (404, expected));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_names_a_position() {
    let api = Api::start_with(|settings| settings.admin.body_max.0 = 200).await;
    assert_eq!(api.call("PUT", "/apisix/admin/routes/r1", ROUTE).await.0, 201);
    let long = "x".repeat(300);
    let key = ("x-api-key", KEY);
    for (method, path, headers, body, expected) in [
        ("GET", "/apisix/admin/routes/r1", &[key][..], "", 200),
        ("GET", "/apisix/admin/routes/none", &[key], "", 404),
        ("GET", "/apisix/admin/nosuch", &[key], "", 404),
        ("GET", "/nosuch", &[], "", 404),
        ("GET", "/apisix/admin/routes", &[], "", 401),
        ("HEAD", "/apisix/admin", &[], "", 200),
        ("OPTIONS", "/apisix/admin/routes", &[], "", 200),
        ("POST", "/apisix/admin/consumers", &[key], "{}", 405),
        ("PUT", "/apisix/admin/routes/r1", &[key], "{", 400),
        ("PUT", "/apisix/admin/routes/r1", &[key], &long, 413),
        ("PUT", "/apisix/admin/routes/r1", &[key, ("if-match", "9")], ROUTE, 412),
        ("PUT", "/apisix/admin/routes/r1?durability=record", &[key], ROUTE, 400),
        ("DELETE", "/v1/cluster/members/1", &[key], "", 409),
        ("GET", "/apisix/admin/schema/routes", &[key], "", 200),
        ("GET", "/apisix/admin/plugins/list", &[key], "", 200),
        ("GET", "/v1/limits", &[key], "", 200),
        ("GET", "/v1/fleet", &[key], "", 200),
        ("GET", "/v1/cluster", &[key], "", 200),
        ("GET", "/v1/status", &[key], "", 200),
        ("GET", "/v1/history", &[key], "", 200),
        ("GET", "/v1/openapi.json", &[key], "", 200),
    ] {
        let (status, headers, answer) = api.raw(method, path, headers, body.as_bytes()).await;
        let position = headers.get("x-holdfast-position").and_then(|position| position.to_str().ok());
        assert_eq!((status, position), (expected, Some("1-1")), "{method} {path}: {answer}");
    }
}
