//! Upstreams: who gets which share, and what becomes of a request when a node misbehaves.

use std::collections::BTreeMap;
use std::net::{Ipv6Addr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::client::{Client, get, send};
use crate::harness::origin::Origin;
use crate::harness::proxy::{Scene, route};
use crate::harness::until;

async fn counts(scene: &Scene, requests: usize) -> BTreeMap<String, usize> {
    let mut client = Client::connect(scene.dp.address()).await;
    let mut counts = BTreeMap::new();
    for _ in 0..requests {
        let answer = client.get("x", "/").await;
        *counts.entry(answer.header("x-origin").unwrap_or("none").to_owned()).or_default() += 1;
    }
    counts
}

fn nodes(nodes: &[(&Origin, i64)]) -> Value {
    nodes
        .iter()
        .map(|(origin, weight)| (origin.address.to_string(), json!(weight)))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

#[tokio::test(flavor = "multi_thread")]
async fn weights_share_requests_out() {
    let (a, b, c) = (Origin::named("a").await, Origin::named("b").await, Origin::named("c").await);
    let body = json!({"uri": "/", "upstream": {"nodes": nodes(&[(&a, 5), (&b, 1), (&c, 0)])}});
    let scene = Scene::tuned(&[("routes", "r", body)], |settings| settings.proxy.workers = 1).await;
    assert_eq!(counts(&scene, 60).await, BTreeMap::from([("a".into(), 50), ("b".into(), 10)]));
    // A changed weight counts from the next request on.
    scene.put("routes", "r", json!({"uri": "/", "upstream": {"nodes": nodes(&[(&a, 1), (&c, 1)])}})).await;
    assert_eq!(counts(&scene, 40).await, BTreeMap::from([("a".into(), 20), ("c".into(), 20)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_node_costs_no_request_while_another_lives() {
    let alive = Origin::named("alive").await;
    let body = json!({"uri": "/", "upstream": {"nodes": {alive.address.to_string(): 1, "127.0.0.1:1": 1}}});
    let scene = Scene::with(&[("routes", "r", body)]).await;
    assert_eq!(counts(&scene, 20).await, BTreeMap::from([("alive".into(), 20)]));
    // Unless it may not be tried again.
    let body =
        json!({"uri": "/", "upstream": {"retries": 0, "nodes": {"127.0.0.1:1": 1, alive.address.to_string(): 1}}});
    scene.put("routes", "r", body).await;
    assert_eq!(counts(&scene, 20).await, BTreeMap::from([("alive".into(), 10), ("none".into(), 10)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_have_been_acted_on_is_not_sent_twice() {
    // It takes every request, and closes without a word.
    let silent = Origin::with(|mut conversation| async move {
        conversation.request().await;
    })
    .await;
    let alive = Origin::named("alive").await;
    let body = json!({"uri": "/", "upstream": {"nodes": nodes(&[(&silent, 1_000_000), (&alive, 1)])}});
    let scene = Scene::tuned(&[("routes", "r", body)], |settings| settings.proxy.workers = 1).await;
    let mut client = Client::connect(scene.dp.address()).await;
    let before = silent.connections();
    client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\nhi").await;
    assert_eq!(client.response().await.unwrap().status, 502);
    assert_eq!(silent.connections(), before + 1, "it was sent once");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kept_connection_that_the_node_closed_meanwhile_costs_no_request() {
    // One answer on each connection, which then is closed although it was not announced.
    let origin = Origin::with(|mut conversation| async move {
        conversation.request().await;
        conversation.send("HTTP/1.1 200 OK\r\nX-Origin: once\r\nContent-Length: 0\r\n\r\n").await;
    })
    .await;
    let scene =
        Scene::tuned(&[("routes", "r", route("/", origin.address))], |settings| settings.proxy.workers = 1).await;
    assert_eq!(counts(&scene, 50).await, BTreeMap::from([("once".into(), 50)]));
}

#[tokio::test(flavor = "multi_thread")]
async fn timeouts_are_504() {
    let hangs = Origin::with(|mut conversation| async move {
        conversation.request().await;
        std::future::pending::<()>().await;
    })
    .await;
    let timeout = json!({"connect": 0.2, "send": 0.2, "read": 0.2});
    let body = json!({"uri": "/read", "upstream": {"timeout": timeout, "nodes": nodes(&[(&hangs, 1)])}});
    // An address of a network for documentation: nobody answers there, and nobody refuses. Where the machine has no
    // route to it at all, that is a 502 at once.
    let nowhere = json!({"uri": "/connect", "upstream": {"timeout": timeout, "nodes": {"192.0.2.1:9": 1}}});
    let scene = Scene::with(&[("routes", "read", body), ("routes", "connect", nowhere)]).await;
    let answer = scene.dp.get("/read").await;
    assert_eq!((answer.status, answer.text().as_str()), (504, "{\"error_msg\":\"504 Gateway Timeout\"}\n"));
    assert_eq!(answer.header("x-apisix-upstream-status"), Some("504"));
    assert!([502, 504].contains(&scene.dp.get("/connect").await.status));
    // A node that does not take the body in time.
    let mut client = Client::connect(scene.dp.address()).await;
    let head = format!("POST /read HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", 64 << 20);
    client.send(head).await;
    let chunk = vec![b'x'; 64 << 10];
    let sending = async { while client.try_send(&chunk).await {} };
    tokio::time::timeout(Duration::from_secs(20), sending).await.expect("the proxy gives the request up");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_cut_off_is_not_passed_off_as_whole() {
    let origin = Origin::saying("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", true).await;
    let chunked = Origin::saying("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", true).await;
    let scene =
        Scene::with(&[("routes", "a", route("/a", origin.address)), ("routes", "b", route("/b", chunked.address))])
            .await;
    for path in ["/a", "/b"] {
        // Whether the half was on its way when the rest did not come is a matter of chance; that it is no whole is not.
        let answer = send(scene.dp.address(), format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        assert!(answer.as_ref().is_none_or(|answer| !answer.whole), "{path}: {answer:?}");
    }
    scene.dp.counts("holdfast_dp_upstream_errors_total{class=\"cut_body\"}", 2.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_resets_is_a_502() {
    let origin = Origin::with(|mut conversation| async move {
        conversation.request().await;
        conversation.reset();
    })
    .await;
    let scene = Scene::with(&[("routes", "r", route("/", origin.address))]).await;
    assert_eq!(scene.dp.get("/").await.status, 502);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_with_a_body_outlives_a_kept_connection_that_ends() {
    // One answer on each connection; the next request on it is read, and the connection ends.
    let once = Origin::with(|mut conversation| async move {
        let request = conversation.request().await.unwrap();
        let body = String::from_utf8(request.body).unwrap();
        conversation.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
        conversation.request().await;
    })
    .await;
    let scene = Scene::tuned(&[("routes", "r", route("/", once.address))], |settings| settings.proxy.workers = 1).await;
    let mut client = Client::connect(scene.dp.address()).await;
    for (framing, status) in [
        ("PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhello body", 200),
        ("PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhello body", 200),
        ("PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n6\r\nhello \r\n4\r\nbody\r\n0\r\n\r\n", 200),
        // It may have been acted on.
        ("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhello body", 502),
    ] {
        client.send(framing).await;
        let answer = client.response().await.unwrap();
        assert_eq!(answer.status, status, "{framing}");
        assert!(status != 200 || answer.text() == "hello body", "{framing}: {}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_its_client_breaks_off_goes_to_no_other_node() {
    let (a, b) = (Origin::named("a").await, Origin::named("b").await);
    let body = json!({"uri": "/", "upstream": {"nodes": nodes(&[(&a, 1), (&b, 1)])}});
    let scene = Scene::with(&[("routes", "r", body)]).await;
    // Idempotent, and small enough to be sent once more; what follows the piece is no size of a chunk.
    let request = "PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nno\r\n";
    assert_eq!(send(scene.dp.address(), request).await.unwrap().status, 400);
    until("one was asked", async || a.connections() + b.connections() == 1).await;
    assert_eq!(scene.dp.metric("holdfast_dp_retries_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_by_ipv6_are_asked_watched_and_told_by_their_names() {
    let local = SocketAddr::from((Ipv6Addr::LOCALHOST, 0));
    let origin = Origin::named_at(local, "six").await;
    let port = origin.address.port();
    let checks = json!({"active": {"healthy": {"interval": 1, "successes": 1}}});
    let listed = json!([{"host": "::1", "port": port, "weight": 1}]);
    let upstream = |nodes: Value| json!({"nodes": nodes, "pass_host": "node", "checks": checks});
    let resources = [
        ("routes", "text", json!({"uri": "/text", "upstream": upstream(json!({format!("[::1]:{port}"): 1}))})),
        ("routes", "list", json!({"uri": "/list", "upstream": upstream(listed)})),
        ("stream_routes", "s", json!({"upstream": {"nodes": {format!("[::1]:{port}"): 1}}})),
    ];
    let scene = Scene::tuned(&resources, |settings| {
        settings.proxy.listen = vec![local];
        settings.proxy.stream.listen = vec![local];
    })
    .await;
    for path in ["/text", "/list"] {
        let told = scene.dp.get(path).await.json().to_string();
        for expected in [format!("host: [::1]:{port}"), "x-real-ip: ::1".to_owned(), "x-forwarded-for: ::1".to_owned()]
        {
            assert!(told.to_lowercase().contains(&expected), "{path}: {expected} in {told}");
        }
    }
    let stream = scene.dp.proxy.stream_addresses()[0];
    assert_eq!(get(stream, "x", "/").await.status, 200);
    // Probes have connections of their own.
    let before = origin.connections();
    until("a probe comes", async || origin.connections() > before).await;
    let told = get(scene.dp.proxy.control_address(), "control", "/v1/healthcheck/routes/text").await.json();
    let node = &told["nodes"][0];
    assert_eq!((&node["ip"], &node["port"], &node["status"]), (&json!("::1"), &json!(port), &json!("healthy")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_goes_to_another_node_if_it_is_small() {
    let breaks = Origin::with(|mut conversation| async move {
        conversation.request().await;
        conversation.reset();
    })
    .await;
    let alive = Origin::named("alive").await;
    let body = json!({"uri": "/", "upstream": {"nodes": nodes(&[(&breaks, 1_000_000), (&alive, 1)])}});
    let scene = Scene::tuned(&[("routes", "r", body)], |settings| settings.proxy.workers = 1).await;
    for (bytes, status) in [(10, 200), (64 << 10, 200), ((64 << 10) + 1, 502)] {
        let body = "x".repeat(bytes);
        let request = format!("PUT / HTTP/1.1\r\nHost: x\r\nContent-Length: {bytes}\r\n\r\n{body}");
        let answer = send(scene.dp.address(), request).await.unwrap();
        assert_eq!(answer.status, status, "{bytes} bytes");
        assert!(status != 200 || answer.json()["body"] == body, "{bytes} bytes");
    }
    assert_eq!(breaks.connections(), 3, "each was tried there first");
}
