//! Plugins that want all of a request's body: when they get it, how much of it, and what they all get together.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use serde_json::{Value, json};

use crate::harness::client::{Client, Response};
use crate::harness::origin::Origin;
use crate::harness::proxy::{Scene, route};
use crate::harness::until;

fn with_plugins(uri: &str, origin: &Origin, plugins: Value) -> Value {
    let mut body = route(uri, origin.address);
    body["plugins"] = plugins;
    body
}

/// A route whose requests must have an object with an integer `a` for a body.
fn validating(uri: &str, origin: &Origin, more: Value) -> Value {
    let schema = json!({"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}});
    let mut conf = json!({"body_schema": schema});
    conf.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    with_plugins(uri, origin, json!({"request-validation": conf}))
}

/// Posts on a connection of its own; `rest` is what follows the request line and `Host`.
async fn post(scene: &Scene, path: &str, rest: &str) -> Response {
    let mut client = Client::connect(scene.dp.address()).await;
    client.send(format!("POST {path} HTTP/1.1\r\nHost: test.example\r\n{rest}")).await;
    client.response_to("POST").await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_validated_and_go_on_as_they_came() {
    let origin = Origin::echo().await;
    let named = json!({"header_schema": {"required": ["x-token"]}, "max_req_body_size": 100});
    let resources = [
        ("routes", "r", validating("/r", &origin, json!({}))),
        ("routes", "named", validating("/named", &origin, named)),
    ];
    let scene = Scene::with(&resources).await;
    let chunked = "Transfer-Encoding: chunked\r\n\r\n3\r\n{\"a\r\n6\r\n\": 1} \r\n0\r\n\r\n";
    assert_eq!(post(&scene, "/r", chunked).await.json()["body"], "{\"a\": 1} ", "not one byte of it is another");
    let refused = post(&scene, "/r", "Content-Length: 10\r\n\r\n{\"a\":\"<b>\"").await;
    assert_eq!(refused.status, 400);
    let refused = post(&scene, "/r", "Content-Length: 11\r\n\r\n{\"a\":\"<b>\"}").await;
    assert_eq!((refused.status, refused.text().as_str()), (400, "/a: \"<b>\" is not of type \"integer\""));
    let told = |name: &str| refused.header(name);
    assert_eq!(
        (told("content-type"), told("x-content-type-options")),
        (Some("text/plain; charset=utf-8"), Some("nosniff")),
        "what a client sent is no page"
    );
    // Nobody is let send a body in vain, and one that is too large is only looked at where its head is good.
    let large = "Expect: 100-continue\r\nContent-Length: 101\r\n";
    assert_eq!(post(&scene, "/named", &format!("{large}\r\n")).await.status, 400);
    assert_eq!(post(&scene, "/named", &format!("X-Token: t\r\n{large}\r\n")).await.status, 413);
    let long = format!("X-Token: t\r\nTransfer-Encoding: chunked\r\n\r\n65\r\n{}\r\n0\r\n\r\n", " ".repeat(101));
    assert_eq!(post(&scene, "/named", &long).await.status, 413);
    let small = "X-Token: t\r\nContent-Length: 7\r\n\r\n{\"a\":1}";
    assert_eq!(post(&scene, "/named", small).await.json()["body"], "{\"a\":1}");
}

#[tokio::test(flavor = "multi_thread")]
async fn client_control_has_its_way_in_place_of_the_setting() {
    let origin = Origin::echo().await;
    let control = |max: u64| json!({"client-control": {"max_body_size": max}});
    let mut both = validating("/both", &origin, json!({"max_req_body_size": 9}));
    both["plugins"]["client-control"] = json!({"max_body_size": 20});
    let resources = [
        ("routes", "none", with_plugins("/none", &origin, json!({}))),
        ("routes", "larger", with_plugins("/larger", &origin, control(10))),
        ("routes", "any", with_plugins("/any", &origin, control(0))),
        ("routes", "both", both),
    ];
    let scene = Scene::tuned(&resources, |s| s.proxy.limits.body_bytes_max = "4".parse().unwrap()).await;
    let json = |spaces: usize| format!("{}{{\"a\":1}}", " ".repeat(spaces));
    for (path, body, expected) in [
        ("/none", "four".to_owned(), 200),
        ("/none", "fives".to_owned(), 413),
        ("/larger", "0123456789".to_owned(), 200),
        ("/larger", "0123456789a".to_owned(), 413),
        ("/any", "0123456789a".to_owned(), 200),
        // The plugin's own bound holds beside it, whichever is less.
        ("/both", json(2), 200),
        ("/both", json(3), 413),
        ("/both", json(20), 413),
    ] {
        let announced = format!("Content-Length: {}\r\n\r\n{body}", body.len());
        let chunked = format!("Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
        for rest in [announced, chunked] {
            assert_eq!(post(&scene, path, &rest).await.status, expected, "{path} {rest:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_are_kept_have_a_bound_together() {
    let origin = Origin::echo().await;
    let resources = [
        ("routes", "r", validating("/r", &origin, json!({}))),
        ("routes", "free", with_plugins("/free", &origin, json!({}))),
    ];
    let scene = Scene::tuned(&resources, |s| s.proxy.limits.buffered_bytes_max = "100KiB".parse().unwrap()).await;
    let kept = || scene.dp.metric("holdfast_dp_buffered_bytes");
    let head = |path: &str| format!("POST {path} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n");
    let mut first = Client::connect(scene.dp.address()).await;
    first.send(head("/r") + "1\r\n{\r\n").await;
    until("it is kept", async || kept().await > 60_000.0).await;
    let mut second = Client::connect(scene.dp.address()).await;
    second.send(head("/r") + "1\r\n{\r\n").await;
    let refused = second.response_to("POST").await.unwrap();
    let expected = "{\"error_msg\":\"503 Service Unavailable: too many bodies are kept in memory\"}\n";
    assert_eq!((refused.status, refused.text().as_str()), (503, expected));
    assert!(second.is_closed().await, "nothing behind a body that was not read can be believed");
    scene.dp.counts("holdfast_dp_buffered_refused_total", 1.0).await;
    // A small one still finds room, and one that nobody keeps needs none.
    assert_eq!(post(&scene, "/r", "Content-Length: 7\r\n\r\n{\"a\":1}").await.status, 200);
    assert_eq!(post(&scene, "/free", "Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n\r\n").await.status, 200);
    first.send("6\r\n\"a\":1}\r\n0\r\n\r\n").await;
    assert_eq!(first.response_to("POST").await.unwrap().status, 200);
    until("it is given back", async || kept().await < 1.0).await;
    // Also by those who go away.
    let mut gone = Client::connect(scene.dp.address()).await;
    gone.send(head("/r") + "1\r\n{\r\n").await;
    until("it is kept", async || kept().await > 60_000.0).await;
    drop(gone);
    until("it is given back", async || kept().await < 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_body_is_looked_through_while_others_are_answered() {
    let origin = Origin::echo().await;
    let resources = [
        ("routes", "r", validating("/r", &origin, json!({}))),
        ("routes", "free", with_plugins("/free", &origin, json!({}))),
    ];
    let scene = Scene::tuned(&resources, |settings| settings.proxy.workers = 1).await;
    let answered = Arc::new(AtomicUsize::new(0));
    let over = Arc::new(AtomicBool::new(false));
    let (count, stop, address) = (answered.clone(), over.clone(), scene.dp.address());
    let beside = tokio::spawn(async move {
        let mut honest = Client::connect(address).await;
        while !stop.load(Ordering::Relaxed) {
            assert_eq!(honest.get("test.example", "/free").await.status, 200);
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    // A tree of a million numbers, which is refused for another thing. Its buffer is made twice as large each time, so that from that size on all has come but the
    // last chunk.
    let most = format!("{{\"a\":\"x\",\"b\":[{}0", "0,".repeat((1 << 20) - 7));
    assert_eq!(most.len(), (2 << 20) + 1);
    let mut client = Client::connect(scene.dp.address()).await;
    let head = "POST /r HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n";
    client.send(format!("{head}{:x}\r\n{most}\r\n", most.len())).await;
    until("all but the last of it is there", async || {
        let kept = scene.dp.metric("holdfast_dp_buffered_bytes").await;
        kept >= f64::from(4 << 20) && answered.load(Ordering::Relaxed) > 0
    })
    .await;
    let before = answered.load(Ordering::Relaxed);
    client.send("2\r\n]}\r\n0\r\n\r\n").await;
    let answer = client.response_to("POST").await.unwrap();
    let meanwhile = answered.load(Ordering::Relaxed) - before;
    over.store(true, Ordering::Relaxed);
    beside.await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (400, "/a: \"x\" is not of type \"integer\""));
    assert!(meanwhile > 3, "only {meanwhile} others were answered meanwhile");
}
