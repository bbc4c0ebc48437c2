//! HTTP/1 from clients, where it is more than a request and its answer: what comes before, behind and beside bodies, many
//! requests at once, old clients, and ends of connections.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, sleep, timeout};

use crate::harness::client::{Client, Response, send};
use crate::harness::origin::Origin;
use crate::harness::proxy::{Scene, route};
use crate::harness::{SOON, in_time, until};

async fn echo() -> (Origin, Scene) {
    let origin = Origin::echo().await;
    let scene = Scene::with(&[("routes", "r", route("/a/*", origin.address))]).await;
    (origin, scene)
}

#[tokio::test(flavor = "multi_thread")]
async fn who_waits_to_be_asked_for_a_body_is_asked_if_somebody_wants_it() {
    let (_origin, scene) = echo().await;
    let ask = |path: &str, version: &str| {
        format!("POST {path} HTTP/{version}\r\nHost: x\r\nExpect: 100-Continue\r\nContent-Length: 4\r\n\r\n")
    };
    let mut client = Client::connect(scene.dp.address()).await;
    for _ in 0..2 {
        client.send(ask("/a/", "1.1")).await;
        assert_eq!(client.response().await.unwrap().status, 100);
        client.send("body").await;
        let answer = client.response().await.unwrap();
        assert_eq!((answer.status, &answer.json()["body"]), (200, &"body".into()));
    }
    // Whoever does not wait is not told what it did not wait for, and nobody is asked for what nobody wants.
    client.send(ask("/a/", "1.1") + "body").await;
    assert_eq!(client.response().await.unwrap().json()["body"], "body");
    client.send(ask("/nobody", "1.1")).await;
    let answer = client.response().await.unwrap();
    assert_eq!((answer.status, answer.header("connection")), (404, Some("close")));
    assert!(client.is_closed().await, "a body may come or not: nothing behind it can be believed");
    let mut old = Client::connect(scene.dp.address()).await;
    old.send(ask("/a/", "1.0")).await;
    assert!(old.take_some(Duration::from_millis(100)).await.is_empty(), "HTTP/1.0 knows no 100");
    old.send("body").await;
    assert_eq!(old.response().await.unwrap().json()["body"], "body");
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_go_both_ways_where_they_may() {
    const UP: &str = "4\r\nbody\r\n0\r\nx-sum: 1\r\n\r\n";
    let origin = Origin::with(|mut conversation| async move {
        while conversation.head().await.is_some() {
            let came = conversation.take(UP.len()).await.unwrap();
            assert_eq!(String::from_utf8(came).unwrap(), UP);
            let answer =
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 2\r\nHost: y\r\n\r\n";
            conversation.send(answer).await;
        }
    })
    .await;
    let scene =
        Scene::tuned(&[("routes", "r", route("/*", origin.address))], |settings| settings.proxy.workers = 1).await;
    let mut client = Client::connect(scene.dp.address()).await;
    for (te, expected) in [("TE: trailers\r\n", "0\r\nx-sum: 2\r\n\r\n"), ("", "0\r\n\r\n")] {
        let head = format!("POST / HTTP/1.1\r\nHost: x\r\n{te}Transfer-Encoding: chunked\r\n\r\n");
        client.send(head + "4;ext=1\r\nbody\r\n0\r\nX-Sum: 1\r\nContent-Length: 9\r\nHost: evil\r\n\r\n").await;
        let came = client.take_chunked().await;
        let (_, body) = came.split_once("\r\n\r\n").unwrap();
        assert_eq!(body, format!("2\r\nok\r\n{expected}"), "{te}");
    }
    assert_eq!(origin.connections(), 1, "trailers are no reason to part");
    let broken = "POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX : 1\r\n\r\n";
    let mut client = Client::connect(scene.dp.address()).await;
    client.send(broken).await;
    assert!(client.response().await.is_none_or(|answer| answer.status == 400) && client.is_closed().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn many_requests_at_once_are_answered_in_their_order() {
    let (origin, scene) = echo().await;
    let requests: Vec<String> = (0..60)
        .map(|number| match number % 3 {
            0 => format!("GET /a/{number} HTTP/1.1\r\nHost: x\r\n\r\n"),
            1 => format!("POST /a/{number} HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody"),
            _ => format!(
                "PUT /a/{number} HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n"
            ),
        })
        .collect();
    let all = requests.concat();
    for piece in [all.len(), 7, 1000] {
        let mut client = Client::connect(scene.dp.address()).await;
        for bytes in all.as_bytes().chunks(piece) {
            client.send(bytes).await;
        }
        for number in 0..60 {
            let answer = client.response().await.unwrap().json();
            let line = answer["line"].as_str().unwrap();
            assert!(line.contains(&format!(" /a/{number} ")), "{number}: {line}");
            assert_eq!(answer["body"], if number % 3 == 0 { "" } else { "body" });
        }
    }
    assert!(origin.connections() <= 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn old_clients_get_bodies_that_they_can_read() {
    let origin = Origin::with(|mut conversation| async move {
        while let Some(request) = conversation.request().await {
            conversation
                .send(match request.line.contains("/known") {
                    true => "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
                    false => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
                })
                .await;
        }
    })
    .await;
    let scene = Scene::with(&[("routes", "r", route("/*", origin.address))]).await;
    let ask = |path: &str, keep: &str| format!("GET {path} HTTP/1.0\r\nHost: x\r\n{keep}\r\n");
    let seen = |answer: &Response| {
        let header = |name| answer.header(name).map(str::to_owned);
        (answer.text(), header("transfer-encoding"), header("connection"))
    };
    let said = |text: &str| Some(text.to_owned());
    let mut client = Client::connect(scene.dp.address()).await;
    for _ in 0..2 {
        client.send(ask("/known", "Connection: keep-alive\r\n")).await;
        assert_eq!(seen(&client.response().await.unwrap()), ("ok".to_owned(), None, said("keep-alive")));
    }
    client.send(ask("/unknown", "Connection: keep-alive\r\n")).await;
    assert_eq!(seen(&client.response().await.unwrap()), ("ok".to_owned(), None, said("close")), "it knows no chunks");
    let mut client = Client::connect(scene.dp.address()).await;
    client.send(ask("/known", "")).await;
    assert_eq!(seen(&client.response().await.unwrap()), ("ok".to_owned(), None, said("close")));
    assert!(client.is_closed().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_before_a_body_reach_clients_that_send_on() {
    let (_origin, scene) = echo().await;
    let address = scene.dp.address();
    // More than the system holds for both sides: an answer that is reset away would not be seen.
    let mut client = Client::connect(address).await;
    client.send(format!("POST /nobody HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", 64 << 20)).await;
    let piece = vec![0; 64 << 10];
    for _ in 0..10 {
        client.send(&piece).await;
    }
    let answer = client.response().await.unwrap();
    assert_eq!((answer.status, answer.header("connection")), (404, Some("close")));
    // It is not read for ever.
    let endless = async { while client.try_send(&piece).await {} };
    assert!(timeout(SOON, endless).await.is_ok());
    // A body that is here already is passed over, and the connection goes on.
    let mut client = Client::connect(address).await;
    for _ in 0..3 {
        client.send("POST /nobody HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n\r\nbody").await;
        let answer = client.response().await.unwrap();
        assert_eq!((answer.status, answer.header("connection")), (404, None));
    }
    assert_eq!(client.get("x", "/a/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_whole_is_not_passed_off_as_whole() {
    for answer in ["Content-Length: 9\r\n\r\nhalf", "Transfer-Encoding: chunked\r\n\r\n9\r\nhalf"] {
        let origin = Origin::saying(format!("HTTP/1.1 200 OK\r\n{answer}"), true).await;
        let scene = Scene::with(&[("routes", "r", route("/", origin.address))]).await;
        let mut client = Client::connect(scene.dp.address()).await;
        client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let answer = client.response().await;
        assert!(answer.is_none_or(|answer| !answer.whole) && client.is_closed().await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_holds_its_node_up_and_is_left_in_time() {
    let sent = Arc::new(AtomicUsize::new(0));
    let count = sent.clone();
    let origin = Origin::with(move |mut conversation| {
        let count = count.clone();
        async move {
            conversation.request().await;
            conversation.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n").await;
            let chunk = [format!("{:x}\r\n", 64 << 10).as_bytes(), &[b'x'; 64 << 10], b"\r\n"].concat();
            while conversation.stream.write_all(&chunk).await.is_ok() {
                count.fetch_add(chunk.len(), Ordering::Relaxed);
            }
        }
    })
    .await;
    let scene = Scene::tuned(&[("routes", "r", route("/", origin.address))], |settings| {
        settings.proxy.limits.send_timeout = "700ms".parse().unwrap();
    })
    .await;
    let mut client = Client::connect(scene.dp.address()).await;
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let mut before = 0;
    until("nothing moves any more", async || {
        sleep(Duration::from_millis(100)).await;
        let now = sent.load(Ordering::Relaxed);
        now > 0 && std::mem::replace(&mut before, now) == now
    })
    .await;
    assert!(before < 64 << 20, "{before} bytes wait somewhere");
    until("it is left", async || scene.dp.metric("holdfast_dp_requests_active").await < 0.5).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_must_come_at_its_least_rate_on_the_whole() {
    let origin = Origin::echo().await;
    let scene = Scene::tuned(&[("routes", "r", route("/*", origin.address))], |settings| {
        settings.proxy.limits.body_read_timeout = "1s".parse().unwrap();
        settings.proxy.limits.body_rate_min = "1000".parse().unwrap();
    })
    .await;
    // Each read is in time: (bytes of a piece, every 50 ms) is 200 and 4,000 bytes a second.
    for (piece, expected) in [(10, 408), (200, 200)] {
        in_time("pieces of a body", async || {
            let mut client = Client::connect(scene.dp.address()).await;
            let pieces = 30;
            client.send(format!("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", piece * pieces)).await;
            for _ in 0..pieces {
                let sent = Instant::now();
                if !client.try_send(&vec![b'x'; piece]).await {
                    break;
                }
                sleep(Duration::from_millis(50)).await;
                // Who is late is left for another reason.
                if expected == 200 && sent.elapsed() > Duration::from_millis(800) {
                    return None;
                }
            }
            assert_eq!(client.response().await.unwrap().status, expected, "{piece} bytes at once");
            Some(())
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_may_end_its_lines_only_as_heads_do() {
    let (_origin, scene) = echo().await;
    for (request, status) in [
        ("GET /a/ HTTP/1.1\nHost: x\n\n", 400),
        ("GET /a/ HTTP/1.1\r\nHost: x\nX: y\r\n\r\n", 400),
        ("GET /a/ HTTP/1.1\r\nHost: x\r\n\n", 400),
        ("GET /a/#b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        ("GET /a/ HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nContent-Length: 0\r\n\r\n", 400),
        ("POST /a/ HTTP/1.0\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        ("\r\n\r\nGET /a/ HTTP/1.1\r\nHost: x\r\n\r\n", 200),
    ] {
        let answer = send(scene.dp.address(), request).await.unwrap();
        assert_eq!(answer.status, status, "{request:?}");
        assert!(status == 200 || answer.text().contains("400 Bad Request: "), "{request:?}: {}", answer.text());
    }
}
