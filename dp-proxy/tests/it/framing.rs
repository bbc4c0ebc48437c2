//! Requests and responses that two readers could read in two ways: nothing of them is passed on.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::harness::client::{Client, send};
use crate::harness::origin::Origin;
use crate::harness::proxy::{Scene, route};

#[tokio::test(flavor = "multi_thread")]
async fn ambiguous_requests_are_refused_and_reach_nobody() {
    let seen = Arc::new(AtomicUsize::new(0));
    let count = seen.clone();
    let origin = Origin::with(move |mut conversation| {
        let count = count.clone();
        async move {
            while conversation.request().await.is_some() {
                count.fetch_add(1, Ordering::SeqCst);
                conversation.send("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await;
            }
        }
    })
    .await;
    let scene = Scene::with(&[("routes", "r", route("/*", origin.address))]).await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nHost: x\r\n\r\n";
    for (what, head, body) in [
        ("both framings", "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ("both framings, the other way round", "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n", "0\r\n\r\n"),
        ("two lengths", "Content-Length: 5\r\nContent-Length: 6\r\n", "abcde"),
        ("a list of lengths", "Content-Length: 5, 6\r\n", "abcde"),
        ("a signed length", "Content-Length: +5\r\n", "abcde"),
        ("a length in words", "Content-Length: five\r\n", "abcde"),
        ("a length that overflows", "Content-Length: 18446744073709551617\r\n", "a"),
        ("a coding that is not known", "Transfer-Encoding: gzip, chunked\r\n", "0\r\n\r\n"),
        ("a coding that is not last", "Transfer-Encoding: chunked, identity\r\n", "0\r\n\r\n"),
        ("two codings", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", "0\r\n\r\n"),
        ("a coding behind a tab", "Transfer-Encoding:\tx-chunked\r\n", "0\r\n\r\n"),
        ("a space before the colon", "Content-Length : 5\r\n", "abcde"),
        ("a folded header", "X: a\r\n b\r\n", ""),
        ("a header without a name", ": a\r\n", ""),
        ("a bare carriage return", "X: a\rY: b\r\n", ""),
        ("a null in a header", "X: a\0b\r\n", ""),
    ] {
        let request = format!("POST / HTTP/1.1\r\nHost: x\r\n{head}\r\n{body}{smuggled}");
        let mut client = Client::connect(scene.dp.address()).await;
        client.send(&request).await;
        let answer = client.response().await.unwrap_or_else(|| panic!("{what}: no answer"));
        assert!([400, 501].contains(&answer.status), "{what}: {}", answer.status);
        assert!(client.response().await.is_none(), "{what}: a second answer on the same connection");
        assert_eq!(seen.load(Ordering::SeqCst), 0, "{what}: something reached the upstream");
    }
    for (what, request, status) in [
        ("no host", "GET / HTTP/1.1\r\n\r\n", 400),
        ("two hosts", "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        ("a host that is none", "GET / HTTP/1.1\r\nHost: a b\r\n\r\n", 400),
        ("no version", "GET /\r\n\r\n", 400),
        ("another protocol", "\x16\x03\x01\x02\x00\x01\x00\x01\x7c\x03\x03\r\n\r\n", 400),
        ("a tunnel", "CONNECT x:443 HTTP/1.1\r\nHost: x:443\r\n\r\n", 405),
        ("an escape that is none", "GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        ("a null in the path", "GET /%00 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        ("another expectation", "POST / HTTP/1.1\r\nHost: x\r\nExpect: wonders\r\nContent-Length: 0\r\n\r\n", 417),
    ] {
        let answer = send(scene.dp.address(), request).await.unwrap_or_else(|| panic!("{what}: no answer"));
        assert_eq!(answer.status, status, "{what}: {}", answer.text());
        assert_eq!(seen.load(Ordering::SeqCst), 0, "{what}: something reached the upstream");
    }
    // The last check must be able to fail.
    assert_eq!(send(scene.dp.address(), smuggled).await.unwrap().status, 200);
    assert_eq!(seen.load(Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn broken_chunks_end_the_request_on_both_sides() {
    let origin = Origin::echo().await;
    let scene = Scene::with(&[("routes", "r", route("/*", origin.address))]).await;
    for (what, body) in [
        ("a size that is none", "zz\r\nabc\r\n0\r\n\r\n"),
        ("a negative size", "-1\r\nabc\r\n0\r\n\r\n"),
        ("a size that overflows", "ffffffffffffffffff\r\nabc\r\n0\r\n\r\n"),
        ("a chunk longer than its size", "2\r\nabc\r\n0\r\n\r\n"),
        ("a line that ends in a bare line feed", "3\nabc\n0\n\n"),
    ] {
        let mut client = Client::connect(scene.dp.address()).await;
        client.send(format!("POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n{body}")).await;
        let answer = client.response().await;
        assert!(answer.as_ref().is_none_or(|answer| answer.status == 400), "{what}: {answer:?}");
        assert!(client.is_closed().await, "{what}: the connection goes on");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn responses_that_are_none_are_a_502() {
    for (what, bytes) in [
        ("no HTTP at all", "hello\r\n\r\n"),
        ("a status of two digits", "HTTP/1.1 20 OK\r\n\r\n"),
        ("two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
        ("a length that is none", "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n"),
        ("a folded header", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n"),
        ("a null in a header", "HTTP/1.1 200 OK\r\nX: a\0b\r\nContent-Length: 0\r\n\r\n"),
        ("a coding that is not known", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"),
        ("a switch that nobody asked for", "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n"),
        ("a head that is cut off", "HTTP/1.1 200 OK\r\nContent-"),
    ] {
        let origin = Origin::saying(bytes, true).await;
        let scene = Scene::with(&[("routes", "r", route("/", origin.address))]).await;
        let answer = scene.dp.get("/").await;
        assert_eq!((answer.status, answer.text().as_str()), (502, "{\"error_msg\":\"502 Bad Gateway\"}\n"), "{what}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_too_many_is_not_given_to_the_next_request() {
    // Two answers to one request: the second must not be taken for the answer to somebody else's.
    let twice = "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\noneHTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\npoison";
    let origin = Origin::saying(twice, false).await;
    let scene =
        Scene::tuned(&[("routes", "r", route("/", origin.address))], |settings| settings.proxy.workers = 1).await;
    let mut client = Client::connect(scene.dp.address()).await;
    for _ in 0..10 {
        assert_eq!(client.get("x", "/").await.text(), "one");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn informational_answers_and_answers_without_a_body_keep_their_frame() {
    let origin = Origin::with(|mut conversation| async move {
        while let Some(request) = conversation.request().await {
            let answer = match request.line.split(' ').nth(1).unwrap() {
                "/early" => {
                    "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
                }
                "/none" => "HTTP/1.1 204 No Content\r\n\r\n",
                "/same" => "HTTP/1.1 304 Not Modified\r\nContent-Length: 7\r\n\r\n",
                _ => "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
            };
            conversation.send(answer).await;
        }
    })
    .await;
    let scene =
        Scene::tuned(&[("routes", "r", route("/*", origin.address))], |settings| settings.proxy.workers = 1).await;
    let mut client = Client::connect(scene.dp.address()).await;
    for _ in 0..2 {
        assert_eq!(client.get("x", "/early").await.text(), "ok");
        assert_eq!(client.get("x", "/none").await.status, 204);
        assert_eq!(client.get("x", "/same").await.status, 304);
        client.send("HEAD /head HTTP/1.1\r\nHost: x\r\n\r\n").await;
        let answer = client.response_to("HEAD").await.unwrap();
        assert_eq!((answer.status, answer.header("content-length")), (200, Some("9")));
    }
    assert_eq!(origin.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn early_hints_reach_the_client_before_the_answer_is_there() {
    let (answer_now, may_answer) = tokio::sync::watch::channel(false);
    let origin = Origin::with(move |mut conversation| {
        let mut may_answer = may_answer.clone();
        async move {
            while conversation.request().await.is_some() {
                conversation
                    .send(
                        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </a>\r\nConnection: X-Hop\r\n\
                        X-Hop: 1\r\nContent-Length: 3\r\n\r\n",
                    )
                    .await;
                may_answer.wait_for(|may| *may).await.unwrap();
                conversation.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await;
            }
        }
    })
    .await;
    let scene =
        Scene::tuned(&[("routes", "r", route("/*", origin.address))], |settings| settings.proxy.workers = 1).await;
    let mut client = Client::connect(scene.dp.address()).await;
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let came = client.take_until(|came| came.ends_with("\r\n\r\n")).await;
    assert_eq!(came, "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
    answer_now.send(true).unwrap();
    assert_eq!(client.response().await.unwrap().text(), "ok");
    // With the answer right behind them they come too, on the same connections.
    let answer = client.get("x", "/").await;
    assert_eq!((answer.text().as_str(), client.interims.len()), ("ok", 1));
    assert_eq!(origin.connections(), 1);
    // HTTP/1.0 knows none.
    client.send("GET / HTTP/1.0\r\nHost: x\r\n\r\n").await;
    assert_eq!((client.response().await.unwrap().text().as_str(), client.interims.len()), ("ok", 1));
}
