//! Changes of many resources, and of the whole configuration, taken back.

use serde_json::{Value, json};

use super::node::Api;

async fn revert(api: &Api, query: &str, body: &Value) -> (u16, Value) {
    api.call("POST", &format!("/v1/revert{query}"), &body.to_string()).await
}

async fn uri(api: &Api, id: &str) -> Value {
    api.call("GET", &format!("/apisix/admin/routes/{id}"), "").await.1["value"]["uri"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replaced_configuration_comes_back() {
    let api = Api::start().await;
    let put = async |digest: &str, all: &Value| {
        api.with("PUT", "/apisix/admin/configs", &[("x-digest", digest)], &all.to_string()).await.0
    };
    let route = |id: &str, uri: &str| json!({"id": id, "uri": uri, "upstream": {"nodes": {}}});
    let second = json!({"routes": [route("r1", "/new"), route("r3", "/c")]});
    assert_eq!(put("d1", &json!({"routes": [route("r1", "/a"), route("r2", "/b")]})).await, 202);
    assert_eq!(put("d2", &second).await, 202);
    let (status, tried) = revert(&api, "?dry_run=true", &json!({"revision": 2})).await;
    assert_eq!((status, &tried["dry_run"], &tried["accepted"]), (200, &json!(true), &json!(true)), "{tried}");
    assert_eq!(uri(&api, "r1").await, "/new", "it was only tried");
    let (status, answer) = revert(&api, "", &json!({"revision": 2})).await;
    let keys = json!(["/apisix/routes/r3", "/apisix/routes/r2", "/apisix/routes/r1"]);
    assert_eq!((status, &answer["keys"]), (200, &keys), "{answer}");
    assert_eq!((uri(&api, "r1").await, uri(&api, "r2").await), (json!("/a"), json!("/b")));
    assert_eq!(uri(&api, "r3").await, Value::Null);
    // What was said with the second is not true of this configuration.
    assert_eq!(put("d2", &second).await, 202);
    assert_eq!(uri(&api, "r1").await, "/new");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_control_plane_keeps_for_itself_is_not_taken_back() {
    let api = Api::start().await;
    assert_eq!(api.call("PUT", "/v1/users/ci", r#"{"role":"admin"}"#).await.0, 201);
    assert_eq!(api.call("DELETE", "/v1/users/ci", "").await.0, 200);
    for revision in [1, 2] {
        let (status, answer) = revert(&api, "", &json!({"revision": revision, "force": true})).await;
        let sentence = format!("nothing of revision {revision} can be taken back: it has changed no resource");
        assert_eq!((status, &answer["error_msg"]), (400, &json!(sentence)));
    }
    assert_eq!(revert(&api, "", &json!({"revision": 3})).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_of_thousands_of_resources_comes_back() {
    const ROUTES: usize = 2_500;
    let api = Api::start().await;
    for path in ["/old", "/new"] {
        let value = json!({"uri": path, "upstream": {"nodes": {}}});
        let put = |n: usize| json!({"op": "put", "kind": "routes", "id": format!("r{n}"), "value": value});
        let body = json!({ "operations": (0..ROUTES).map(put).collect::<Vec<_>>() }).to_string();
        assert_eq!(api.call("POST", "/v1/transactions", &body).await.0, 200);
    }
    let (status, answer) = revert(&api, "", &json!({"revision": 2})).await;
    assert_eq!((status, answer["keys"].as_array().map(Vec::len)), (200, Some(ROUTES)), "{answer:.300}");
    let (_, all) = api.call("GET", "/apisix/admin/routes", "").await;
    let is_old = |item: &Value| item["value"]["uri"] == "/old" && item["modifiedIndex"] == 3;
    assert_eq!(all["list"].as_array().unwrap().iter().filter(|item| is_old(item)).count(), ROUTES);
    let (status, _) = revert(&api, "", &json!({"revision": 1, "force": true})).await;
    assert_eq!(status, 200);
    assert_eq!(api.call("GET", "/apisix/admin/routes", "").await.1["total"], 0);
}
