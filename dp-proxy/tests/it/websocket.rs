//! Connections that are switched to another protocol: only where a route allows it, only to what was asked for, and
//! counted until they end.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep};

use crate::harness::client::Client;
use crate::harness::origin::{Origin, Request};
use crate::harness::proxy::{Scene, route};
use crate::harness::{in_time, until};

/// Answers 101 with a protocol and a first word, then echoes until the client ends, and says goodbye.
async fn switching(protocol: &'static str, asked: Arc<Mutex<Vec<Request>>>) -> Origin {
    Origin::with(move |mut conversation| {
        let asked = asked.clone();
        async move {
            while let Some(request) = conversation.request().await {
                let switches = request.header("upgrade").is_some() || request.line.contains("unasked");
                asked.lock().unwrap().push(request);
                if !switches {
                    conversation.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain").await;
                    continue;
                }
                let head =
                    format!("HTTP/1.1 101 Switching\r\nConnection: Upgrade\r\nUpgrade: {protocol}\r\nX-Accept: y");
                conversation.send(format!("{head}\r\n\r\nfirst,")).await;
                while let Some(byte) = conversation.take(1).await {
                    conversation.send(byte).await;
                }
                conversation.send("bye").await;
                return;
            }
        }
    })
    .await
}

fn open(origin: &Origin, more: Value) -> Value {
    let mut body = route("/*", origin.address);
    body["enable_websocket"] = json!(true);
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

const ASK: &str = "GET /chat HTTP/1.1\r\nHost: a.com\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\r\n";

/// Everything that comes until the end.
async fn rest(client: &mut Client) -> String {
    let mut text = String::new();
    client.stream.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_opens_after_the_101_and_each_side_may_end_first() {
    let asked = Arc::<Mutex<Vec<Request>>>::default();
    let origin = switching("websocket", asked.clone()).await;
    let scene = Scene::with(&[("routes", "r", open(&origin, json!({})))]).await;
    let mut client = Client::connect(scene.dp.address()).await;
    // A client that cannot wait sends on: that is for the node too.
    client.send(format!("{ASK}early,")).await;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.stream.read_u8().await.unwrap());
    }
    let head = String::from_utf8(head).unwrap().to_ascii_lowercase();
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    for line in ["connection: upgrade\r\n", "upgrade: websocket\r\n", "x-accept: y\r\n"] {
        assert!(head.contains(line), "{line} in {head}");
    }
    assert!(!head.contains("content-length") && !head.contains("transfer-encoding"), "{head}");
    client.send("late,").await;
    let mut came = [0; 17];
    client.stream.read_exact(&mut came).await.unwrap();
    assert_eq!(&came, b"first,early,late,");
    assert!((scene.dp.metric("holdfast_dp_requests_active").await - 1.0).abs() < 0.1, "it counts while it is open");
    client.stream.shutdown().await.unwrap();
    assert_eq!(rest(&mut client).await, "bye", "the other direction goes on");
    until("it counts no more", async || scene.dp.metric("holdfast_dp_requests_active").await < 0.5).await;
    let seen = asked.lock().unwrap()[0].clone();
    assert_eq!((seen.header("connection"), seen.header("upgrade")), (Some("upgrade"), Some("WebSocket")));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_must_be_allowed_asked_for_and_agreed_on() {
    let asked = Arc::<Mutex<Vec<Request>>>::default();
    let origin = switching("websocket", asked.clone()).await;
    let closed = route("/closed", origin.address);
    let shut = open(&origin, json!({"uri": "/shut", "service_id": "s", "enable_websocket": false}));
    let by_service = json!({"uri": "/by-service", "service_id": "s"});
    let service = json!({"enable_websocket": true, "upstream": {"nodes": {origin.address.to_string(): 1}}});
    let scene = Scene::with(&[
        ("services", "s", service),
        ("routes", "closed", closed),
        ("routes", "shut", shut),
        ("routes", "by-service", by_service),
        ("routes", "open", open(&origin, json!({}))),
    ])
    .await;
    let ask = |path: &str, upgrade: &str, more: &str| {
        format!("GET {path} HTTP/1.1\r\nHost: a.com\r\nConnection: upgrade\r\nUpgrade: {upgrade}\r\n{more}\r\n")
    };
    for (request, expected, why) in [
        (ask("/closed", "websocket", ""), 200, "not allowed: the request goes on without it"),
        (ask("/shut", "websocket", ""), 200, "the route's word is the last"),
        (ask("/by-service", "websocket", ""), 101, "the service's word holds for its routes"),
        (ask("/open", "h2c", ""), 200, "nobody speaks past the proxy"),
        (ask("/open", "websocket, other", ""), 200, "a list"),
        (ask("/open", "websocket", "Content-Length: 1\r\n") + "x", 200, "with a body"),
        (ask("/open", "other", ""), 502, "the node answers with another protocol"),
        ("GET /unasked HTTP/1.1\r\nHost: a.com\r\n\r\n".to_owned(), 502, "nobody asked"),
        (
            "GET /open HTTP/1.0\r\nHost: a.com\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\n".to_owned(),
            200,
            "HTTP/1.0",
        ),
    ] {
        let mut client = Client::connect(scene.dp.address()).await;
        client.send(&request).await;
        assert_eq!(client.response().await.unwrap().status, expected, "{why}");
    }
    for request in asked.lock().unwrap().iter() {
        let names = ["websocket", "other"].contains(&request.header("upgrade").unwrap_or("websocket"));
        assert!(names, "{request:?}");
    }
    // One that is declined leaves the connection as it was.
    let mut client = Client::connect(scene.dp.address()).await;
    for _ in 0..2 {
        client.send(ask("/closed", "websocket", "")).await;
        assert_eq!(client.response().await.unwrap().text(), "plain");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tunnel_in_which_nothing_moves_is_cut() {
    let origin = switching("websocket", Arc::default()).await;
    let quick = json!({"timeout": {"connect": 1, "send": 1, "read": 0.3}});
    let scene = Scene::with(&[("routes", "r", open(&origin, quick))]).await;
    let mut client = in_time("a tunnel in which something moves", async || {
        let mut client = Client::connect(scene.dp.address()).await;
        client.send(ASK).await;
        assert_eq!(client.response().await.unwrap().status, 101);
        for _ in 0..5 {
            let began = Instant::now();
            sleep(Duration::from_millis(100)).await;
            client.try_send(b"x").await;
            if began.elapsed() > Duration::from_millis(200) {
                return None;
            }
        }
        Some(client)
    })
    .await;
    client.take_until(|came| came == "first,xxxxx").await;
    assert!(client.is_closed().await);
    until("its node is left too", async || scene.dp.metric("holdfast_dp_requests_active").await < 0.5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_waits_for_tunnels_as_long_as_for_requests() {
    let origin = switching("websocket", Arc::default()).await;
    let scene = Scene::with(&[("routes", "r", open(&origin, json!({})))]).await;
    let mut client = Client::connect(scene.dp.address()).await;
    client.send(ASK).await;
    assert_eq!(client.response().await.unwrap().status, 101);
    let dp = &scene.dp;
    let (clean, ()) = tokio::join!(dp.proxy.drain(), async {
        until("nobody new is taken", async || !Client::can_connect(dp.address()).await).await;
        client.send("still").await;
        let mut came = String::new();
        until("it still carries", async || {
            came.push_str(&String::from_utf8(client.take_some(Duration::from_millis(50)).await).unwrap());
            came.ends_with("still")
        })
        .await;
        client.stream.shutdown().await.unwrap();
    });
    assert!(clean, "its end was waited for");
}
