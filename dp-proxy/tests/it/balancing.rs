//! Which node a request goes to, and how connections to nodes are kept.

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::harness::client::{Client, Response, send};
use crate::harness::origin::Origin;
use crate::harness::proxy::Scene;
use crate::harness::until;

/// A route over these nodes, with more fields of its upstream; one worker sees all of its requests.
async fn scene(nodes: &[SocketAddr], fields: Value) -> Scene {
    let nodes: serde_json::Map<_, _> = nodes.iter().map(|node| (node.to_string(), json!(1))).collect();
    let mut upstream = json!({"nodes": nodes});
    upstream.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
    let route = json!({"uri": "/*", "upstream": upstream});
    Scene::tuned(&[("routes", "r", route)], |settings| settings.proxy.workers = 1).await
}

fn origin_of(answer: &Response) -> String {
    answer.header("x-origin").unwrap_or("none").to_owned()
}

/// An origin that answers once it may.
async fn holding(name: &'static str, may_answer: watch::Receiver<bool>) -> Origin {
    Origin::with(move |mut conversation| {
        let mut may_answer = may_answer.clone();
        async move {
            while conversation.request().await.is_some() {
                may_answer.wait_for(|may| *may).await.unwrap();
                conversation.send(format!("HTTP/1.1 200 OK\r\nX-Origin: {name}\r\nContent-Length: 0\r\n\r\n")).await;
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn cookies_and_texts_of_variables_are_keys_too() {
    let (a, b, c) = (Origin::named("a").await, Origin::named("b").await, Origin::named("c").await);
    let nodes = [a.address, b.address, c.address];
    for (hash_on, key) in [("cookie", "who"), ("vars_combinations", "$arg_user-$cookie_who")] {
        let scene = scene(&nodes, json!({"type": "chash", "hash_on": hash_on, "key": key})).await;
        let mut client = Client::connect(scene.dp.address()).await;
        let mut seen = std::collections::BTreeSet::new();
        for who in 0..30 {
            let mut of_one = std::collections::BTreeSet::new();
            for other in 0..3 {
                // What is not of the key makes no difference.
                let text = format!("GET /{other}?user=u HTTP/1.1\r\nHost: x\r\nCookie: x={other}; who=w{who}\r\n\r\n");
                client.send(text).await;
                of_one.insert(origin_of(&client.response().await.unwrap()));
            }
            assert_eq!(of_one.len(), 1, "{hash_on}: {who}");
            seen.extend(of_one);
        }
        assert_eq!(seen.len(), 3, "{hash_on}: thirty keys reach every node");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_node_with_fewer_requests_under_way_gets_the_next() {
    let (release, may_answer) = watch::channel(false);
    let (slow, quick) = (holding("slow", may_answer).await, Origin::named("quick").await);
    let scene = scene(&[slow.address, quick.address], json!({"type": "least_conn"})).await;
    let address = scene.dp.address();
    let request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
    // One of the first two is held, the other is over.
    let mut first_two: JoinSet<_> = (0..2).map(|_| send(address, request)).collect();
    assert_eq!(origin_of(&first_two.join_next().await.unwrap().unwrap().unwrap()), "quick");
    until("one is held", async || slow.connections() == 1).await;
    let mut client = Client::connect(address).await;
    for _ in 0..10 {
        assert_eq!(origin_of(&client.get("x", "/").await), "quick");
    }
    release.send(true).unwrap();
    assert_eq!(origin_of(&first_two.join_next().await.unwrap().unwrap().unwrap()), "slow");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_quicker_node_gets_the_requests() {
    let slow = Origin::with(|mut conversation| async move {
        while conversation.request().await.is_some() {
            // Longer than a busy machine keeps the other one.
            sleep(Duration::from_secs(1)).await;
            conversation.send("HTTP/1.1 200 OK\r\nX-Origin: slow\r\nContent-Length: 0\r\n\r\n").await;
        }
    })
    .await;
    let quick = Origin::named("quick").await;
    let scene = scene(&[slow.address, quick.address], json!({"type": "ewma"})).await;
    let mut client = Client::connect(scene.dp.address()).await;
    // Until it was asked once, nothing is known of a node.
    until("both were asked", async || {
        client.get("x", "/").await;
        slow.connections() > 0 && quick.connections() > 0
    })
    .await;
    for _ in 0..10 {
        assert_eq!(origin_of(&client.get("x", "/").await), "quick");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_of_a_lower_priority_serve_when_no_other_can() {
    let (first, second) = (Origin::named("first").await, Origin::named("second").await);
    let (main, spare) = (first.address, second.address);
    let listed = |address: SocketAddr, priority: i64| json!({"host": address.ip().to_string(), "port": address.port(), "weight": 1, "priority": priority});
    let nodes = json!({"nodes": [listed(main, 10), listed(spare, -1)]});
    let scene = scene(&[], nodes).await;
    let mut client = Client::connect(scene.dp.address()).await;
    for _ in 0..6 {
        assert_eq!(origin_of(&client.get("x", "/").await), "first");
    }
    first.end().await;
    for _ in 0..6 {
        assert_eq!(origin_of(&client.get("x", "/").await), "second");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn another_node_is_tried_as_long_as_retry_timeout_says() {
    let (_never, may_answer) = watch::channel(false);
    let (a, b) = (holding("a", may_answer.clone()).await, holding("b", may_answer).await);
    let timeout = json!({"connect": 1, "send": 1, "read": 0.2});
    let scene = scene(&[a.address, b.address], json!({"timeout": timeout, "retry_timeout": 0.1})).await;
    let tried = || a.connections() + b.connections();
    assert_eq!(
        scene.dp.get("/").await.header("x-apisix-upstream-status"),
        Some("504"),
        "its time was up after the first"
    );
    until("one was asked", async || tried() == 1).await;
    let nodes = json!({a.address.to_string(): 1, b.address.to_string(): 1});
    let upstream = json!({"nodes": nodes, "timeout": timeout, "retry_timeout": 30});
    scene.put("routes", "r", json!({"uri": "/*", "upstream": upstream})).await;
    assert_eq!(scene.dp.get("/").await.header("x-apisix-upstream-status"), Some("504, 504"));
    until("both were asked", async || tried() == 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn so_many_connections_are_kept_as_the_pool_may_hold_and_for_so_long() {
    let (release, may_answer) = watch::channel(false);
    let origin = holding("o", may_answer).await;
    let scene = scene(&[origin.address], json!({"keepalive_pool": {"size": 1, "idle_timeout": 2}})).await;
    let address = scene.dp.address();
    let two = || async move {
        let request = "GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        let (a, b) = tokio::join!(send(address, request), send(address, request));
        assert_eq!([a, b].map(|answer| answer.unwrap().status), [200, 200]);
    };
    let first = tokio::spawn(two());
    until("each has its own", async || origin.connections() == 2).await;
    release.send(true).unwrap();
    first.await.unwrap();
    let idle = async || scene.dp.metric("holdfast_dp_upstream_idle_connections").await;
    until("one of them is kept", async || idle().await == 1.0).await;
    until("it is let go", async || idle().await == 0.0).await;
    assert_eq!(scene.dp.get("/").await.status, 200);
    assert_eq!(origin.connections(), 3, "a new one is made");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_may_have_names() {
    let origin = Origin::echo().await;
    let port = origin.address.port();
    let nodes = json!({format!("localhost:{port}"): 1});
    let scene = scene(&[], json!({"nodes": nodes, "pass_host": "node"})).await;
    let told = scene.dp.get("/").await.json();
    assert_eq!(told["headers"][0], format!("host: localhost:{port}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_range_is_asked_for_and_answered_as_it_is() {
    let origin = Origin::with(|mut conversation| async move {
        while let Some(request) = conversation.request().await {
            let [range, condition] = ["range", "if-range"].map(|name| request.header(name).unwrap_or("none"));
            let asked = format!("{range} if {condition}");
            let head = format!("Content-Range: bytes 2-4/10\r\nAccept-Ranges: bytes\r\nX-Asked: {asked}");
            conversation.send(format!("HTTP/1.1 206 Partial Content\r\n{head}\r\nContent-Length: 3\r\n\r\n234")).await;
        }
    })
    .await;
    let scene = scene(&[origin.address], json!({})).await;
    let request = "GET / HTTP/1.1\r\nHost: x\r\nRange: bytes=2-4\r\nIf-Range: \"a\"\r\n\r\n";
    let answer = send(scene.dp.address(), request).await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (206, "234"));
    for (name, expected) in [
        ("content-range", "bytes 2-4/10"),
        ("accept-ranges", "bytes"),
        ("x-asked", "bytes=2-4 if \"a\""),
        ("content-length", "3"),
    ] {
        assert_eq!(answer.header(name), Some(expected));
    }
}
