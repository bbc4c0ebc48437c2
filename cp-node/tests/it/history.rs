//! What a node without PostgreSQL tells of its past.

use std::time::Duration;

use serde_json::{Value, json};

use super::node::Api;
use super::ssls::{ONE, start as start_with_keyring};

fn route(desc: &str) -> String {
    json!({"uri": "/a", "desc": desc, "upstream": {"nodes": {"127.0.0.1:1": 1}}}).to_string()
}

async fn put(api: &Api, id: &str, desc: &str, query: &str) {
    let (status, body) = api.call("PUT", &format!("/apisix/admin/routes/{id}{query}"), &route(desc)).await;
    assert!(status == 200 || status == 201, "{status} {body}");
}

async fn history(api: &Api, query: &str) -> Value {
    let (status, body) = api.call("GET", &format!("/v1/history{query}"), "").await;
    assert_eq!(status, 200, "{body}");
    body
}

fn told(history: &Value) -> Vec<(u64, String, String)> {
    let rows = history["list"].as_array().unwrap().iter();
    rows.map(|row| {
        let text = |name: &str| row[name].as_str().unwrap().to_owned();
        (row["revision"].as_u64().unwrap(), text("op"), text("author"))
    })
    .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn history_survives_restarts_and_takes_changes_back() {
    let api = Api::start().await;
    put(&api, "r1", "one", "").await;
    put(&api, "r1", "two", "?ttl=3600").await;
    put(&api, "r2", "else", "").await;
    let (status, _) = api.call("DELETE", "/apisix/admin/routes/r2", "").await;
    assert_eq!(status, 200);
    let row = |revision, op: &str| (revision, op.to_owned(), "root".to_owned());
    let all = [row(4, "delete"), row(3, "create"), row(2, "update"), row(1, "create")];
    let now = history(&api, "").await;
    assert_eq!(told(&now), all);
    assert_eq!((&now["source"], &now["complete_since"], &now["gaps"]), (&json!("embedded"), &json!("1-0"), &json!([])));
    assert_eq!((&now["list"][2]["old_body"]["desc"], &now["list"][2]["body"]["desc"]), (&json!("one"), &json!("two")));
    assert!(!now["list"][0]["request"].as_str().unwrap().is_empty());
    let api = api.restart().await;
    put(&api, "r1", "three", "").await;
    assert_eq!(
        told(&history(&api, "?kind=routes&id=r1").await),
        [row(5, "update"), row(2, "update"), row(1, "create")]
    );
    let page = history(&api, "?limit=2").await;
    assert_eq!(told(&page), [row(5, "update"), row(4, "delete")]);
    let next = page["next"].as_str().unwrap().to_owned();
    assert_eq!(told(&history(&api, &format!("?limit=2&before={next}")).await), [row(3, "create"), row(2, "update")]);
    assert_eq!(told(&history(&api, "?above=2&upto=4").await), [row(4, "delete"), row(3, "create")]);
    assert_eq!(told(&history(&api, "?author=nobody").await), []);
    // As it was.
    for (id, revision, desc) in
        [("r1", 1, Some("one")), ("r1", 4, Some("two")), ("r2", 3, Some("else")), ("r2", 4, None)]
    {
        let (status, body) = api.call("GET", &format!("/apisix/admin/routes/{id}?at_revision={revision}"), "").await;
        assert_eq!((status, body["value"]["desc"].as_str()), (if desc.is_some() { 200 } else { 404 }, desc), "{body}");
    }
    let (status, body) = api.call("GET", "/apisix/admin/routes/r1?at_revision=99", "").await;
    assert!(status == 404 && body.to_string().contains("only reaches to revision 5"), "{body}");
    // Taken back: body and lifetime.
    let (status, body) = api.call("POST", "/v1/revert", "{\"revision\": 5}").await;
    assert_eq!(status, 200, "{body}");
    let (_, body) = api.call("GET", "/apisix/admin/routes/r1", "").await;
    assert_eq!(body["value"]["desc"], "two");
    let (status, body) = api.call("POST", "/v1/revert", "{\"revision\": 4}").await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(api.call("GET", "/apisix/admin/routes/r2", "").await.1["value"]["desc"], "else");
    let (status, _) = api.call("POST", "/v1/revert", "{\"revision\": 5}").await;
    assert_eq!(status, 412, "changed again since");
    put(&api, "r9", "short", "?ttl=2").await;
    put(&api, "r9", "for ever", "").await;
    let (status, body) = api.call("POST", "/v1/revert", "{\"revision\": 9}").await;
    assert_eq!(status, 200, "{body}");
    let deadline = tokio::time::Instant::now() + Duration::from_secs(20);
    while api.call("GET", "/apisix/admin/routes/r9", "").await.0 != 404 {
        assert!(tokio::time::Instant::now() < deadline, "its lifetime came back too");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (status, body) = api.call("PUT", "/apisix/admin/routes/r3?durability=record", &route("x")).await;
    assert_eq!(status, 400, "{body}");
    // It is written a moment behind the state.
    let (mut status, deadline) = (Value::Null, tokio::time::Instant::now() + Duration::from_secs(20));
    while status["embedded"]["reaches"] != "1-11" {
        assert!(tokio::time::Instant::now() < deadline, "{status}");
        status = api.call("GET", "/v1/record", "").await.1;
    }
    assert_eq!(status["kept"], false, "{status}");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_much_is_kept_and_what_is_gone_is_said_to_be() {
    let api = Api::start_with(|settings| settings.record.embedded_changes = 3).await;
    for n in 0..6 {
        put(&api, "r1", &format!("v{n}"), "").await;
    }
    let now = history(&api, "").await;
    assert_eq!(told(&now).iter().map(|(revision, ..)| *revision).collect::<Vec<_>>(), [6, 5, 4]);
    assert_eq!(now["complete_since"], "1-3");
    let (status, body) = api.call("GET", "/apisix/admin/routes/r1?at_revision=3", "").await;
    assert_eq!((status, &body["value"]["desc"]), (200, &json!("v2")), "the oldest row says what was before it");
    let (status, body) = api.call("GET", "/apisix/admin/routes/r1?at_revision=2", "").await;
    assert!(status == 404 && body.to_string().contains("after 1-3 up to 1-6"), "{body}");
    let (status, body) = api.call("POST", "/v1/revert", "{\"revision\": 2}").await;
    assert_eq!(status, 404, "{body}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_shall_keep_nothing_says_so() {
    let api = Api::start_with(|settings| settings.record.embedded_changes = 0).await;
    let (status, body) = api.call("GET", "/v1/history", "").await;
    assert!(status == 400 && body.to_string().contains("record.embedded_changes"), "{body}");
    assert!(!api.settings.data_dir.0.join("history").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn that_a_secret_has_changed_is_told_and_the_secret_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let api = start_with_keyring(dir.path(), ONE).await;
    for (key, desc) in [("jacks-key-1", "a"), ("jacks-key-2", "a"), ("jacks-key-2", "b")] {
        let jack = json!({"username": "jack", "desc": desc, "plugins": {"key-auth": {"key": key}}}).to_string();
        assert!(api.call("PUT", "/apisix/admin/consumers", &jack).await.0 < 300);
    }
    let told = history(&api, "").await;
    let changed: Vec<&Value> = told["list"].as_array().unwrap().iter().map(|row| &row["secrets_changed"]).collect();
    assert_eq!(changed, [&json!(false), &json!(true), &json!(false)], "{told}");
    let row = &told["list"][1];
    assert_eq!(row["old_body"], row["body"], "both are masked");
    assert!(!told.to_string().contains("jacks-key") && !told.to_string().contains("$sealed$"), "{told}");
}
