//! HTTP/2 from clients: the same answers as by HTTP/1, many at once, and floods that hurt only who makes them.

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request, StatusCode, Version};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::harness::SOON;
use crate::harness::client::{Client, get};
use crate::harness::origin::Origin;
use crate::harness::proxy::{Scene, route};
use crate::tls::{Authority, Dialler, ssl, with_keyring};

/// A connection without TLS.
async fn prior_knowledge(scene: &Scene) -> (SendRequest<Bytes>, JoinHandle<()>) {
    #[expect(clippy::disallowed_methods, reason = "a test is its own outside world")]
    let stream = TcpStream::connect(scene.dp.address()).await.unwrap();
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    // How it ends is seen by the requests.
    let running = tokio::spawn(async move { drop(connection.await) });
    (sender.ready().await.unwrap(), running)
}

async fn ask(sender: &SendRequest<Bytes>, request: Request<()>, body: &'static str) -> (StatusCode, String) {
    let mut sender = sender.clone().ready().await.unwrap();
    let (answer, mut stream) = sender.send_request(request, body.is_empty()).unwrap();
    if !body.is_empty() {
        stream.send_data(Bytes::from(body), true).unwrap();
    }
    let answer = timeout(SOON, answer).await.expect("an answer in time").unwrap();
    let (parts, mut incoming) = answer.into_parts();
    let mut read = Vec::new();
    while let Some(data) = timeout(SOON, incoming.data()).await.expect("a body in time") {
        let data = data.unwrap();
        incoming.flow_control().release_capacity(data.len()).unwrap();
        read.extend_from_slice(&data);
    }
    (parts.status, String::from_utf8(read).unwrap())
}

fn request(method: Method, path: &str) -> http::request::Builder {
    Request::builder().method(method).version(Version::HTTP_2).uri(format!("https://a.com{path}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_clients_are_offered_it() {
    let (authority, origin) = (Authority::new("root"), Origin::echo().await);
    let pair = authority.issue(&["a.com"]);
    let dir = tempfile::tempdir().unwrap();
    let resources =
        [("routes", "r", route("/*", origin.address)), ("ssls", "a", ssl("a", &["a.com"], &pair, json!({})))];
    let scene = Scene::tuned(&resources, with_keyring(&dir)).await;
    let mut dialler = Dialler::trusting(&authority);
    dialler.config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let stream = dialler.dial(&scene, "a.com").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (sender, connection) = h2::client::handshake(stream).await.unwrap();
    let running = tokio::spawn(async move { drop(connection.await) });
    let sender = sender.ready().await.unwrap();
    let asked = request(Method::POST, "/x?y=1").header("cookie", "a=1").header("cookie", "b=2").body(()).unwrap();
    let (status, body) = ask(&sender, asked, "hello").await;
    assert_eq!(status, 200);
    for part in
        ["POST /x?y=1 HTTP/1.1", "host: a.com", "cookie: a=1; b=2", "x-forwarded-proto: https", "\"body\":\"hello\""]
    {
        assert!(body.contains(part), "{part}: {body}");
    }
    let odd = request(Method::GET, "/").header("host", "b.com").body(()).unwrap();
    assert_eq!(ask(&sender, odd, "").await.0, 400, "two hosts");
    let all = (0..50).map(|i| {
        let sender = sender.clone();
        tokio::spawn(async move { ask(&sender, request(Method::GET, &format!("/{i}")).body(()).unwrap(), "").await })
    });
    for (i, answer) in all.collect::<Vec<_>>().into_iter().enumerate() {
        let (status, body) = answer.await.unwrap();
        assert!(status == 200 && body.contains(&format!("GET /{i} HTTP/1.1")), "{body}");
    }
    running.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn it_is_spoken_without_tls_where_that_is_set() {
    let origin = Origin::echo().await;
    let resources = [("routes", "r", route("/*", origin.address))];
    let scene = Scene::tuned(&resources, |settings| settings.proxy.h2c = true).await;
    let (sender, running) = prior_knowledge(&scene).await;
    let (status, body) = ask(&sender, request(Method::GET, "/2").body(()).unwrap(), "").await;
    assert!(status == 200 && body.contains("GET /2 HTTP/1.1") && body.contains("x-forwarded-proto: http\""), "{body}");
    running.abort();
    assert_eq!(get(scene.dp.address(), "a.com", "/1").await.status, 200, "and HTTP/1 beside it");
    let mut slow = Client::connect(scene.dp.address()).await;
    for byte in ["P", "O", "ST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"] {
        slow.send(byte).await;
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(slow.response().await.unwrap().status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_have_a_bound_in_number_too() {
    let origin = Origin::echo().await;
    let scene = Scene::tuned(&[("routes", "r", route("/*", origin.address))], |settings| {
        settings.proxy.h2c = true;
        settings.proxy.limits.headers_max = 10;
    })
    .await;
    let (sender, running) = prior_knowledge(&scene).await;
    let asking = |headers: usize| {
        let named = (0..headers).map(|number| (format!("x-{number}"), "1"));
        let asked = named.fold(request(Method::GET, "/"), |asked, (name, value)| asked.header(name, value));
        // Pieces of a cookie are one header to whom they go to.
        let crumbs = (0..20).fold(asked, |asked, number| asked.header("cookie", format!("c{number}=1")));
        crumbs.body(()).unwrap()
    };
    for (headers, expected) in [(9, 200), (10, 431), (9, 200)] {
        assert_eq!(ask(&sender, asking(headers), "").await.0, expected, "{headers} beside the cookie");
    }
    running.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_say_nothing_that_the_proxy_says() {
    // It says with its answer what came behind the body.
    let origin = Origin::with(|mut conversation| async move {
        conversation.head().await.unwrap();
        let mut came = Vec::new();
        while !came.ends_with(b"\r\n\r\n") || !came.starts_with(b"4\r\nbody\r\n0\r\n") {
            came.extend(conversation.take(1).await.unwrap());
        }
        let told = String::from_utf8(came).unwrap();
        let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{told}", told.len());
        conversation.send(answer).await;
    })
    .await;
    let scene = Scene::tuned(&[("routes", "r", route("/*", origin.address))], |s| s.proxy.h2c = true).await;
    let (sender, running) = prior_knowledge(&scene).await;
    let asked = request(Method::POST, "/").body(()).unwrap();
    let (answer, mut stream) = sender.ready().await.unwrap().send_request(asked, false).unwrap();
    stream.send_data(Bytes::from("body"), false).unwrap();
    let forged = ["x-consumer-username", "x-credential-identifier", "authorization", "host", "x-real-ip"];
    let mut trailers: http::HeaderMap =
        forged.iter().map(|name| (name.parse().unwrap(), "forged".parse().unwrap())).collect();
    trailers.insert("x-sum", "1".parse().unwrap());
    stream.send_trailers(trailers).unwrap();
    let mut incoming = timeout(SOON, answer).await.expect("an answer in time").unwrap().into_body();
    let mut told = Vec::new();
    while let Some(data) = timeout(SOON, incoming.data()).await.expect("a body in time") {
        told.extend_from_slice(&data.unwrap());
    }
    assert_eq!(String::from_utf8(told).unwrap(), "4\r\nbody\r\n0\r\nx-sum: 1\r\n\r\n");
    running.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_gateway_itself_says_to_a_call_of_grpc_is_a_code_of_grpc() {
    let dead = json!({"uri": "/pkg.Service/Dead", "upstream": {"scheme": "grpc", "nodes": {"127.0.0.1:1": 1}}});
    let scene = Scene::tuned(&[("routes", "dead", dead)], |settings| settings.proxy.h2c = true).await;
    let (sender, running) = prior_knowledge(&scene).await;
    for (path, content_type, status, code) in [
        ("/pkg.Service/Dead", "application/grpc", 200, Some("14")),
        ("/pkg.Service/None", "application/grpc+proto", 200, Some("12")),
        ("/pkg.Service/None", "text/plain", 404, None),
    ] {
        let asked = request(Method::POST, path).header("content-type", content_type).body(()).unwrap();
        let mut sender = sender.clone().ready().await.unwrap();
        let (answer, _) = sender.send_request(asked, true).unwrap();
        let answer = timeout(SOON, answer).await.expect("an answer in time").unwrap();
        let told = answer.headers().get("grpc-status").map(|code| code.to_str().unwrap());
        assert_eq!((answer.status().as_u16(), told), (status, code), "{path} as {content_type}");
        if code.is_some() {
            assert!(answer.body().is_end_stream(), "headers only, which are the trailers");
            assert!(answer.headers().contains_key("grpc-message"));
        }
    }
    running.abort();
}

/// A frame (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
    bytes.extend_from_slice(&[kind, flags]);
    bytes.extend_from_slice(&stream.to_be_bytes());
    bytes.extend_from_slice(payload);
    bytes
}

/// Sends the preface and then one flood without end, until the proxy ends the connection or a bound is reached; reads
/// along. True when the proxy has ended it.
async fn flood(scene: &Scene, mut next: impl FnMut(u32) -> Vec<u8> + Send + 'static) -> bool {
    #[expect(clippy::disallowed_methods, reason = "a test is its own outside world")]
    let stream = TcpStream::connect(scene.dp.address()).await.unwrap();
    let (mut read, mut write) = stream.into_split();
    let reading = tokio::spawn(async move {
        let mut scratch = vec![0; 64 << 10];
        while let Ok(1..) = read.read(&mut scratch).await {}
    });
    write.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    write.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    for round in 0..20_000 {
        if write.write_all(&next(round)).await.is_err() || reading.is_finished() {
            return true;
        }
    }
    reading.abort();
    false
}

/// HPACK of `GET https / a.com` (RFC 7541): three indexed fields, one literal.
const HEADERS: &[u8] = &[0x82, 0x87, 0x84, 0x01, 5, b'a', b'.', b'c', b'o', b'm'];

#[tokio::test(flavor = "multi_thread")]
async fn floods_hurt_only_who_makes_them() {
    let origin = Origin::echo().await;
    let resources = [("routes", "r", route("/*", origin.address))];
    let scene = Scene::tuned(&resources, |settings| {
        settings.proxy.h2c = true;
        settings.proxy.workers = 1;
    })
    .await;
    let (honest, running) = prior_knowledge(&scene).await;
    let stream = |round: u32| 2 * round + 1;
    let reset = move |round| {
        let opened = frame(1, 0x5, stream(round), HEADERS);
        [opened, frame(3, 0, stream(round), &8_u32.to_be_bytes())].concat()
    };
    let continuation = |round| match round {
        0 => frame(1, 0, 1, HEADERS),
        _ => frame(9, 0, 1, &[&[0x00, 1, b'x', 127, 1][..], &[b'y'; 128]].concat()),
    };
    let empty_data = |round| if round == 0 { frame(1, 0x4, 1, HEADERS) } else { frame(0, 0, 1, &[]) };
    assert!(flood(&scene, reset).await, "rapid reset goes on without end");
    assert!(flood(&scene, continuation).await, "CONTINUATION goes on without end");
    // These cost no more than they bring: they may be answered, one by one, or end the connection.
    flood(&scene, |_| frame(4, 0, 0, &[])).await;
    flood(&scene, |_| frame(6, 0, 0, &[0; 8])).await;
    flood(&scene, empty_data).await;
    let (status, _) = ask(&honest, request(Method::GET, "/still").body(()).unwrap(), "").await;
    assert_eq!(status, 200, "the connection of before the floods is alive");
    running.abort();
}
