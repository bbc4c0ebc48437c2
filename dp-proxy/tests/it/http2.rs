//! HTTP/2 from clients: the same answers as by HTTP/1, many at once. (Floods are in `floods`, bounds in `limits`.)

use bytes::Bytes;
use h2::client::SendRequest;
use http::{Method, Request, StatusCode, Version};
use serde_json::json;
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
