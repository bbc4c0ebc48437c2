//! What a client sees: which route answers, what reaches the upstream, and what comes back.

use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::client::{Client, get, send};
use crate::harness::origin::Origin;
use crate::harness::proxy::{Scene, route};
use crate::harness::until;

/// A route whose answers name it.
fn named(mut fields: Value, origin: &Origin) -> Value {
    fields["upstream"] = json!({"nodes": {origin.address.to_string(): 1}});
    fields
}

#[tokio::test(flavor = "multi_thread")]
async fn host_path_method_and_priority_choose_the_route() {
    let mut origins = Vec::new();
    for name in ["exact", "prefix", "deeper", "parameter", "host", "wildcard", "post", "high", "low", "service"] {
        origins.push((name, Origin::named(name).await));
    }
    let origin = |name: &str| &origins.iter().find(|(known, _)| *known == name).unwrap().1;
    let service = origin("service").address.to_string();
    let scene = Scene::with(&[
        ("services", "s", json!({"upstream": {"nodes": {service: 1}}})),
        ("routes", "1", named(json!({"uri": "/exact"}), origin("exact"))),
        ("routes", "2", named(json!({"uri": "/pre/*"}), origin("prefix"))),
        ("routes", "3", named(json!({"uri": "/pre/deep/*"}), origin("deeper"))),
        ("routes", "4", named(json!({"uri": "/users/:id/orders"}), origin("parameter"))),
        ("routes", "5", named(json!({"uri": "/exact", "host": "a.example"}), origin("host"))),
        ("routes", "6", named(json!({"uri": "/exact", "hosts": ["*.b.example"]}), origin("wildcard"))),
        ("routes", "7", named(json!({"uri": "/exact", "methods": ["POST"], "priority": 1}), origin("post"))),
        ("routes", "8", named(json!({"uri": "/twice", "priority": 10}), origin("high"))),
        ("routes", "9", named(json!({"uri": "/twice"}), origin("low"))),
        ("routes", "10", json!({"uri": "/service", "service_id": "s"})),
        ("routes", "11", json!({"uri": "/off", "status": 0, "service_id": "s"})),
    ])
    .await;
    let address = scene.dp.address();
    for (method, host, path, expected) in [
        ("GET", "x", "/exact", Some("exact")),
        ("GET", "x", "/exact?a=b", Some("exact")),
        ("GET", "x", "/exact/", None),
        ("GET", "x", "/pre/", Some("prefix")),
        ("GET", "x", "/pre/a/b", Some("prefix")),
        ("GET", "x", "/pre", None),
        ("GET", "x", "/pre/deep/a", Some("deeper")),
        ("GET", "x", "/users/7/orders", Some("parameter")),
        ("GET", "x", "/users/7/8/orders", None),
        ("GET", "a.example", "/exact", Some("host")),
        ("GET", "A.Example:8080", "/exact", Some("host")),
        ("GET", "x.b.example", "/exact", Some("wildcard")),
        ("GET", "b.example", "/exact", Some("exact")),
        ("POST", "x", "/exact", Some("post")),
        ("GET", "x", "/twice", Some("high")),
        ("GET", "x", "/service", Some("service")),
        ("GET", "x", "/off", None),
        ("GET", "x", "/a/../exact", Some("exact")),
        ("GET", "x", "/%65xact", Some("exact")),
        ("GET", "x", "//exact", Some("exact")),
    ] {
        let mut client = Client::connect(address).await;
        client.send(format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Length: 0\r\n\r\n")).await;
        let answer = client.response().await.unwrap();
        let found = (answer.status, answer.header("x-origin"));
        let wanted = expected.map_or((404, None), |origin| (200, Some(origin)));
        assert_eq!(found, wanted, "{method} {host} {path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_are_those_that_rfc_9110_lets_through() {
    let origin = Origin::echo().await;
    let scene = Scene::with(&[("routes", "r", route("/*", origin.address))]).await;
    let request = "GET /a?b=c%20d HTTP/1.1\r\nHost: shop.example:9080\r\nConnection: keep-alive, X-Secret\r\n\
        X-Secret: 1\r\nKeep-Alive: timeout=1\r\nTE: trailers\r\nUpgrade: h2c\r\n\
        X-Forwarded-For: 192.0.2.1\r\nX-Forwarded-Proto: https\r\nAccept: */*\r\nAccept: text/html\r\n\r\n";
    let answer = send(scene.dp.address(), request).await.unwrap();
    let seen = answer.json();
    assert_eq!(seen["line"], "GET /a?b=c%20d HTTP/1.1");
    let port = scene.dp.address().port();
    let headers: Vec<&str> = seen["headers"].as_array().unwrap().iter().map(|h| h.as_str().unwrap()).collect();
    assert_eq!(
        headers,
        [
            "host: shop.example:9080",
            "accept: */*",
            "accept: text/html",
            "x-forwarded-for: 192.0.2.1, 127.0.0.1",
            "x-real-ip: 127.0.0.1",
            "x-forwarded-proto: http",
            "x-forwarded-host: shop.example",
            &format!("x-forwarded-port: {port}"),
        ]
    );
    assert!(answer.header("server").unwrap().starts_with("APISIX/"), "{answer:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_lose_what_was_meant_for_the_next_hop_only() {
    let bytes = "HTTP/1.1 201 Made\r\nContent-Length: 2\r\nConnection: X-Hop\r\nX-Hop: 1\r\nKeep-Alive: max=1\r\n\
        Set-Cookie: a=1\r\nSet-Cookie: b=2\r\nServer: theirs\r\n\r\nok";
    let origin = Origin::saying(bytes, false).await;
    let scene = Scene::tuned(&[("routes", "r", route("/*", origin.address))], |settings| {
        settings.proxy.server_header = String::new();
    })
    .await;
    let answer = scene.dp.get("/").await;
    assert_eq!((answer.status, answer.text().as_str()), (201, "ok"));
    for (name, expected) in [
        ("x-hop", None),
        ("keep-alive", None),
        ("connection", None),
        ("server", Some("theirs")),
        ("set-cookie", Some("a=1")),
    ] {
        assert_eq!(answer.header(name), expected, "{name}");
    }
    assert_eq!(answer.headers.iter().filter(|(name, _)| name == "set-cookie").count(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_are_kept_on_both_sides() {
    let origin = Origin::echo().await;
    let scene =
        Scene::tuned(&[("routes", "r", route("/*", origin.address))], |settings| settings.proxy.workers = 1).await;
    let mut client = Client::connect(scene.dp.address()).await;
    for n in 0..20 {
        assert_eq!(client.get("x", &format!("/{n}")).await.status, 200);
    }
    assert_eq!(origin.connections(), 1);
    // Two requests at once on one connection are answered in their order.
    client.send("GET /first HTTP/1.1\r\nHost: x\r\n\r\nGET /second HTTP/1.1\r\nHost: x\r\n\r\n").await;
    for path in ["/first", "/second"] {
        let line = client.response().await.unwrap().json()["line"].as_str().unwrap().to_owned();
        assert_eq!(line, format!("GET {path} HTTP/1.1"));
    }
    // And one that is asked to be closed, is.
    client.send("GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert_eq!(client.response().await.unwrap().header("connection"), Some("close"));
    assert!(client.is_closed().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_stream_through_in_both_directions() {
    // The origin answers each piece of the request as it comes: nothing is held back until the end.
    let origin = Origin::with(|mut conversation| async move {
        conversation.head().await.unwrap();
        conversation.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
        for _ in 0..3 {
            // One chunk of the request: its size line, four bytes, the end of the line.
            let piece = conversation.take(9).await.unwrap();
            assert_eq!(&piece[..3], b"4\r\n");
            conversation.send([b"4\r\n", &piece[3..7], b"\r\n"].concat()).await;
        }
        conversation.take(5).await.unwrap();
        conversation.send("0\r\n\r\n").await;
    })
    .await;
    let scene = Scene::with(&[("routes", "r", route("/*", origin.address))]).await;
    let mut client = Client::connect(scene.dp.address()).await;
    client.send("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n").await;
    let mut answered = String::new();
    for piece in ["one.", "two.", "tri."] {
        client.send(format!("4\r\n{piece}\r\n")).await;
        until("the piece has come back", async || {
            answered.push_str(&String::from_utf8_lossy(&client.take_some(Duration::from_millis(20)).await));
            answered.ends_with(&format!("4\r\n{piece}\r\n"))
        })
        .await;
    }
    client.send("0\r\n\r\n").await;
    until("the end", async || {
        answered.push_str(&String::from_utf8_lossy(&client.take_some(Duration::from_millis(20)).await));
        answered.ends_with("\r\n0\r\n\r\n")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_are_whole() {
    let origin = Origin::echo().await;
    let scene = Scene::with(&[("routes", "r", route("/*", origin.address))]).await;
    let body = "0123456789abcdef".repeat(128 << 10);
    let mut client = Client::connect(scene.dp.address()).await;
    let head = format!("PUT /big HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    client.send([head.as_bytes(), body.as_bytes()].concat()).await;
    let answer = client.response().await.unwrap();
    assert!(answer.whole && answer.json()["body"] == json!(body));
    assert_eq!(client.get("x", "/next").await.status, 200, "the connection goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn limits_hold_and_say_so() {
    let origin = Origin::echo().await;
    let scene = Scene::tuned(&[("routes", "r", route("/*", origin.address))], |settings| {
        settings.proxy.limits.body_bytes_max = "1KiB".parse().unwrap();
        settings.proxy.limits.header_bytes_max = "8KiB".parse().unwrap();
        settings.proxy.limits.headers_max = 20;
        settings.proxy.limits.header_read_timeout = "200ms".parse().unwrap();
        settings.proxy.limits.body_read_timeout = "200ms".parse().unwrap();
        settings.proxy.limits.requests_per_connection_max = 3;
    })
    .await;
    let address = scene.dp.address();
    let big_header = format!("GET / HTTP/1.1\r\nHost: x\r\nX: {}\r\n\r\n", "y".repeat(9 << 10));
    let many_headers = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(30));
    for (what, request, status) in [
        (
            "a body that is announced too large",
            "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 1025\r\n\r\n".to_owned(),
            413,
        ),
        ("a header that is too large", big_header, 431),
        ("too many headers", many_headers, 431),
        ("a head that does not end", "GET / HTTP/1.1\r\nHost:".to_owned(), 408),
        ("a body that does not come", "POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab".to_owned(), 408),
    ] {
        let answer = send(address, &request).await;
        assert_eq!(answer.map(|answer| answer.status), Some(status), "{what}");
    }
    let chunked = format!(
        "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n401\r\n{}\r\n0\r\n\r\n",
        "z".repeat(0x401)
    );
    assert_eq!(send(address, chunked).await.map(|answer| answer.status), Some(413), "a body that becomes too large");
    let mut client = Client::connect(address).await;
    for last in [None, None, Some("close")] {
        assert_eq!(client.get("x", "/").await.header("connection"), last);
    }
    assert!(client.is_closed().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_of_the_proxy_itself_are_json() {
    let scene = Scene::with(&[
        ("upstreams", "empty", json!({"nodes": {}})),
        ("routes", "empty", json!({"uri": "/empty", "upstream_id": "empty"})),
        ("routes", "dead", json!({"uri": "/dead", "upstream": {"nodes": {"127.0.0.1:1": 1}}})),
    ])
    .await;
    for (path, status, body) in [
        ("/nothing", 404, "{\"error_msg\":\"404 Route Not Found\"}\n"),
        ("/empty", 503, "{\"error_msg\":\"503 Service Unavailable\"}\n"),
        ("/dead", 502, "{\"error_msg\":\"502 Bad Gateway\"}\n"),
    ] {
        let answer = get(scene.dp.address(), "x", path).await;
        assert_eq!((answer.status, answer.text().as_str()), (status, body));
    }
    let counted = scene.dp.metric("holdfast_dp_upstream_errors_total{class=\"connect\"}").await;
    assert!(counted >= 1.0, "{counted}");
}
