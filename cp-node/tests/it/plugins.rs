//! Plugins and the kinds that are made of them: what is sealed, who may see it, what is one of a kind.

use std::fs;
use std::path::Path;

use protocol::grpc::feed_client::FeedClient;
use protocol::grpc::{FeedUp, Hello, feed_up};
use serde_json::{Value, json};
use tokio_stream::StreamExt as _;

use super::node::{Api, KEY, VIEWER};
use super::ssls::{ONE, TWO, start};

async fn put(api: &Api, path: &str, body: Value) -> (u16, Value) {
    api.call("PUT", &format!("/apisix/admin/{path}"), &body.to_string()).await
}

async fn get(api: &Api, path: &str) -> (u16, Value) {
    api.call("GET", &format!("/apisix/admin/{path}"), "").await
}

fn key_auth(key: &str) -> Value {
    json!({"key-auth": {"key": key}})
}

fn key_of(answer: &Value) -> &str {
    answer["value"]["plugins"]["key-auth"]["key"].as_str().unwrap_or_else(|| panic!("no key in {answer}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_sealed_and_shown_to_admins_alone() {
    let dir = tempfile::tempdir().unwrap();
    let api = start(dir.path(), ONE).await;
    let jack = json!({"username": "jack", "plugins": key_auth("jack-key")});
    let (status, created) = put(&api, "consumers", jack.clone()).await;
    assert_eq!((status, &created["key"]), (201, &json!("/apisix/consumers/jack")));
    let token = key_of(&created).to_owned();
    assert!(token.starts_with("$sealed$1$k1$"), "{token}");
    let (status, again) = put(&api, "consumers/jack", jack).await;
    assert_eq!((status, key_of(&again)), (200, &*token), "the same key keeps its token");
    let (_, shown) = get(&api, "consumers/jack").await;
    assert_eq!(key_of(&shown), "jack-key");
    for path in ["/apisix/admin/consumers/jack", "/apisix/admin/consumers", "/apisix/admin/configs"] {
        let (_, _, masked) = api.raw("GET", path, &[("x-api-key", VIEWER)], b"").await;
        assert!(masked.contains("***") && !masked.contains("jack-key") && !masked.contains("$sealed$"), "{masked}");
    }
    let (_, _, history) = api.raw("GET", "/v1/history", &[("x-api-key", KEY)], b"").await;
    assert!(history.contains("***") && !history.contains("jack-key"), "{history}");
    // A token may be sent back to where it stands, and nowhere else; what stands beside it is looked at all the same.
    let back = json!({"username": "jack", "plugins": key_auth(&token), "desc": "d"});
    assert_eq!(put(&api, "consumers", back).await.0, 200);
    let (status, refused) = put(&api, "consumers", json!({"username": "jill", "plugins": key_auth(&token)})).await;
    assert_eq!(
        (status, &refused["error_msg"]),
        (400, &json!("the token does not belong to this place, or was changed"))
    );
    assert_eq!(refused["errors"][0]["path"], "$.plugins[\"key-auth\"].key");
    let (status, refused) =
        put(&api, "routes/r", json!({"uri": "/r", "plugins": {"limit-count": {"count": 1, "time_window": 0}}})).await;
    assert_eq!((status, &refused["errors"][0]["path"]), (400, &json!("$.plugins[\"limit-count\"].time_window")));
    let data = api.settings.data_dir.0.clone();
    let mut files = 0;
    each_file(&data, &mut |path, bytes| {
        files += 1;
        assert!(!bytes.windows(8).any(|part| part == b"jack-key"), "{} holds the key", path.display());
    });
    assert!(files > 0);
}

fn each_file(root: &Path, look: &mut impl FnMut(&Path, &[u8])) {
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            each_file(&path, look);
        } else {
            look(&path, &fs::read(&path).unwrap());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_one_persons_also_after_a_rotation() {
    let dir = tempfile::tempdir().unwrap();
    let api = start(dir.path(), ONE).await;
    assert_eq!(put(&api, "consumers", json!({"username": "jack", "plugins": key_auth("k")})).await.0, 201);
    assert_eq!(put(&api, "consumers/jack/credentials/c1", json!({"plugins": key_auth("c")})).await.0, 201);
    fs::write(dir.path().join("keyring"), format!("{TWO}\n{ONE}\n")).unwrap();
    let api = api.restart().await;
    for (path, body, said) in [
        (
            "consumers",
            json!({"username": "jill", "plugins": key_auth("k")}),
            "duplicate key of plugin key-auth found with consumer: jack",
        ),
        (
            "consumers",
            json!({"username": "jill", "plugins": key_auth("c")}),
            "duplicate key of plugin key-auth found with credential: c1 of consumer: jack",
        ),
        (
            "consumers/jack/credentials/c2",
            json!({"plugins": key_auth("c")}),
            "duplicate key of plugin key-auth found with credential: c1 of consumer: jack",
        ),
    ] {
        let (status, refused) = put(&api, path, body).await;
        assert_eq!((status, &refused["error_msg"]), (400, &json!(said)));
    }
    // Of many at once that want one key, one gets it.
    let wanting =
        (0..6).map(|n| put(&api, "consumers", json!({"username": format!("u{n}"), "plugins": key_auth("wanted")})));
    let paths: Vec<_> = futures_util::future::join_all(wanting).await.into_iter().map(|(status, _)| status).collect();
    assert_eq!(paths.iter().filter(|status| **status == 201).count(), 1, "{paths:?}");
    // A key that was given up is free.
    assert_eq!(put(&api, "consumers", json!({"username": "jack", "plugins": key_auth("new")})).await.0, 200);
    assert_eq!(put(&api, "consumers", json!({"username": "jill", "plugins": key_auth("k")})).await.0, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_goes_with_its_credentials() {
    let dir = tempfile::tempdir().unwrap();
    let api = start(dir.path(), ONE).await;
    let (status, refused) = put(&api, "consumers/none/credentials/c1", json!({"plugins": key_auth("k")})).await;
    assert_eq!((status, &refused["error_msg"]), (404, &json!("consumer not found")));
    put(&api, "consumers", json!({"username": "jack"})).await;
    put(&api, "consumers", json!({"username": "jackson"})).await;
    for name in ["jack/credentials/a", "jack/credentials/b", "jackson/credentials/a"] {
        let (status, created) = put(&api, &format!("consumers/{name}"), json!({"plugins": key_auth(name)})).await;
        assert_eq!((status, &created["key"]), (201, &json!(format!("/apisix/consumers/{name}"))));
    }
    assert_eq!(get(&api, "consumers/jack/credentials").await.1["total"], 2);
    let revision = |answer: &Value| answer["modifiedIndex"].as_u64().unwrap();
    let before = revision(&get(&api, "consumers/jackson/credentials/a").await.1);
    let (status, gone) = api.call("DELETE", "/apisix/admin/consumers/jack", "").await;
    assert_eq!((status, gone), (200, json!({"key": "/apisix/consumers/jack", "deleted": "1"})));
    assert_eq!(get(&api, "consumers/jack/credentials").await.0, 404);
    assert_eq!(revision(&get(&api, "consumers/jackson/credentials/a").await.1), before, "others' stay");
    assert_eq!(api.call("DELETE", "/apisix/admin/consumers/jack", "").await.0, 404);
    // A whole configuration that is read can be put back, secrets and all.
    let (_, whole) = get(&api, "configs").await;
    assert_eq!(whole["consumers"][1]["id"], "jackson/credentials/a");
    let replace = async |whole: &Value, digest: &str| {
        api.with("PUT", "/apisix/admin/configs", &[("x-digest", digest)], &whole.to_string()).await.0
    };
    assert_eq!(replace(&json!({"consumers": []}), "empty").await, 202);
    assert_eq!(get(&api, "credentials").await.1["total"], 0);
    let lists = json!({"consumers": whole["consumers"]});
    assert_eq!(replace(&lists, "back").await, 202);
    let (_, back) = get(&api, "consumers/jackson/credentials/a").await;
    assert_eq!(key_of(&back), "jackson/credentials/a");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_keyring_no_secret_is_taken() {
    let api = Api::start().await;
    let (status, refused) = put(&api, "consumers", json!({"username": "jack", "plugins": key_auth("k")})).await;
    let sentence = "a secret is stored sealed only, and this node has no keyring: set secrets.keyring_file";
    assert_eq!((status, &refused["error_msg"]), (400, &json!(sentence)));
    // What has none needs none.
    assert_eq!(put(&api, "consumers", json!({"username": "jack", "plugins": {"cors": {}}})).await.0, 201);
    let rule = |plugin: &str| json!({"plugins": {plugin: {}}});
    assert_eq!(put(&api, "global_rules/a", rule("cors")).await.0, 201);
    let (status, refused) = put(&api, "global_rules/b", rule("cors")).await;
    assert_eq!(
        (status, &refused["error_msg"]),
        (400, &json!("plugin 'cors' already exists in global rule with id 'a'"))
    );
    let (status, headers, _) = api
        .raw(
            "PUT",
            "/apisix/admin/routes/r",
            &[("x-api-key", KEY)],
            br#"{"uri":"/r","plugins":{"key-auth":{"nosuch":1}}}"#,
        )
        .await;
    assert_eq!(
        (status, headers["x-holdfast-warning"].to_str().unwrap()),
        (201, "plugin key-auth: the field \"nosuch\" is stored, and has no effect")
    );
    let (_, plugin) = get(&api, "schema/plugins/limit-count").await;
    assert_eq!(plugin["properties"]["policy"]["enum"], json!(["local"]));
    let (_, all) = get(&api, "plugins?all=true").await;
    assert_eq!((&all["key-auth"]["type"], &all["key-auth"]["priority"]), (&json!("auth"), &json!(2500)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_lacks_a_plugin_is_named_to_who_waits() {
    let api = Api::start().await;
    let nowhere = Some(protocol::Position::default().into());
    let hello = Hello {
        name: "of-last-year".to_owned(),
        group: "default".to_owned(),
        capabilities: ["kind/routes", "plugin/cors"].map(str::to_owned).to_vec(),
        position: nowhere.clone(),
        changed_at: nowhere,
        ..Hello::default()
    };
    // It says who it is, and then nothing more: its stream stays open.
    let up = tokio_stream::once(FeedUp { kind: Some(feed_up::Kind::Hello(hello)) }).chain(tokio_stream::pending());
    let feed = format!("http://{}", api.node.addresses.feed);
    let mut down = FeedClient::connect(feed).await.unwrap().subscribe(up).await.unwrap().into_inner();
    down.message().await.unwrap().unwrap();
    let waiting = async |plugin: &str| {
        let body = json!({"uri": "/r", "upstream": {"nodes": {}}, "plugins": {plugin: {}}}).to_string();
        let path = format!("/apisix/admin/routes/{plugin}?wait=300");
        let (status, headers, body) = api.raw("PUT", &path, &[("x-api-key", KEY)], body.as_bytes()).await;
        let warning = headers.get("x-holdfast-warning").map(|value| value.to_str().unwrap().to_owned());
        let body: Value = serde_json::from_str(&body).unwrap();
        let proxy = &body["fleet"]["proxies"][0];
        (status, warning, proxy["name"].as_str().map(str::to_owned), proxy["state"].as_str().map(str::to_owned))
    };
    let told = |state: &str| (Some("of-last-year".to_owned()), Some(state.to_owned()));
    let (status, warning, name, state) = waiting("gzip").await;
    assert_eq!((status, (name, state)), (202, told("too_old")));
    let warning = warning.unwrap();
    assert!(warning.contains("1 of 1 proxies at this node do not know plugin/gzip: of-last-year"), "{warning}");
    let (status, warning, name, state) = waiting("cors").await;
    assert_eq!(
        (status, warning, (name, state)),
        (202, None, told("lagging")),
        "it knows that one, and has not said more"
    );
}
