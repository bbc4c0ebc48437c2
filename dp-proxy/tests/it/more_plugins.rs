//! Plugins that change where a request goes, what it may bring and how it is answered, on real sockets. The cases share one
//! proxy.

use serde_json::{Value, json};

use crate::harness::client::{Client, Response};
use crate::harness::origin::Origin;
use crate::harness::proxy::{Scene, route};

fn with_plugins(uri: &str, origin: &Origin, plugins: Value) -> Value {
    let mut body = route(uri, origin.address);
    body["plugins"] = plugins;
    body
}

/// Asks on a connection of its own; `head` is what follows the request line and `Host`, up to the body.
async fn ask(scene: &Scene, method: &str, path: &str, head: &str) -> Response {
    let mut client = Client::connect(scene.dp.address()).await;
    client.send(format!("{method} {path} HTTP/1.1\r\nHost: test.example\r\n{head}\r\n")).await;
    client.response_to(method).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_shared_out_among_upstreams() {
    let (blue, green, own) = (Origin::named("blue").await, Origin::named("green").await, Origin::named("own").await);
    let shares = json!([
        {"upstream_id": "green", "weight": 2}, {"upstream": {"nodes": {own.address.to_string(): 1}}}, {"weight": 1},
    ]);
    let rules = json!([{"match": [{"vars": [["http_x_split", "==", "1"]]}], "weighted_upstreams": shares}]);
    let split = json!({"traffic-split": {"rules": rules}});
    let resources = [
        ("upstreams", "green", json!({"nodes": {green.address.to_string(): 1}})),
        ("routes", "r", with_plugins("/r", &blue, split)),
    ];
    let scene = Scene::with(&resources).await;
    let mut answered = Vec::new();
    for _ in 0..4 {
        answered.push(ask(&scene, "GET", "/r", "X-Split: 1\r\n").await.header("x-origin").unwrap().to_owned());
    }
    answered.sort();
    assert_eq!(answered, ["blue", "green", "green", "own"]);
    assert_eq!(ask(&scene, "GET", "/r", "").await.header("x-origin"), Some("blue"), "no rule takes it");
    // An edit of what is named holds for the next request.
    scene.put("upstreams", "green", json!({"nodes": {blue.address.to_string(): 1}})).await;
    for _ in 0..4 {
        assert_ne!(ask(&scene, "GET", "/r", "X-Split: 1\r\n").await.header("x-origin"), Some("green"));
    }
}
