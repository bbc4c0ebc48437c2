//! Stream routes: TCP connections whose bytes are carried unread, with and without TLS on either side.

use std::net::SocketAddr;

use dp_proxy::settings::{ProxyHeader, Settings};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::SOON;
use crate::harness::origin::{Conversation, Origin};
use crate::harness::proxy::Scene;
use crate::harness::until;
use crate::tls::{Authority, Dialler, Pair, ssl, with_keyring};

/// A node that says its name, then what it is told, until it is told no more.
async fn echo(name: &'static str) -> Origin {
    Origin::with(move |mut conversation: Conversation| async move {
        conversation.send(name).await;
        let mut buffer = vec![0; 16 << 10];
        while let Ok(read @ 1..) = conversation.stream.read(&mut buffer).await {
            conversation.send(&buffer[..read]).await;
        }
    })
    .await
}

fn listening(settings: &mut Settings) {
    settings.proxy.stream.listen = vec!["127.0.0.1:0".parse().unwrap()];
    settings.proxy.stream.tls_listen = vec!["127.0.0.1:0".parse().unwrap()];
}

async fn scene(tune: impl FnOnce(&mut Settings)) -> Scene {
    Scene::tuned(&[], |settings| {
        listening(settings);
        tune(settings);
    })
    .await
}

fn to(nodes: &[SocketAddr], more: Value) -> Value {
    let nodes: Vec<_> =
        nodes.iter().map(|node| json!({"host": node.ip().to_string(), "port": node.port(), "weight": 1})).collect();
    let mut upstream = json!({"nodes": nodes, "scheme": "tcp"});
    upstream.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"upstream": upstream})
}

#[expect(clippy::disallowed_methods, reason = "a test is its own outside world")]
async fn dial(address: SocketAddr) -> TcpStream {
    TcpStream::connect(address).await.unwrap()
}

/// Everything that is said after `said`, until the end.
async fn told(mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin, said: &[u8]) -> String {
    let mut answer = Vec::new();
    let talk = async {
        stream.write_all(said).await?;
        stream.shutdown().await?;
        stream.read_to_end(&mut answer).await
    };
    let read = timeout(SOON, talk).await.expect("an end in time");
    // A connection that is closed with unread bytes is reset, and one that no route takes may be gone before it was said.
    read.map_or_else(|_| "reset".to_owned(), |_| String::from_utf8(answer).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_go_both_ways_to_the_node_of_the_route_and_are_counted() {
    let (one, two) = (echo("one:").await, echo("two:").await);
    let scene = scene(|_| {}).await;
    let address = scene.dp.proxy.stream_addresses()[0];
    assert!(["", "reset"].contains(&told(dial(address).await, b"x").await.as_str()), "no route takes it");
    scene.put("stream_routes", "any", to(&[one.address], json!({}))).await;
    let large = "x".repeat(1 << 20);
    assert_eq!(told(dial(address).await, large.as_bytes()).await, format!("one:{large}"));
    let mut by_port = to(&[two.address], json!({}));
    by_port["server_port"] = json!(address.port());
    // A connection that was open before an edit goes on where it was.
    let open = dial(address).await;
    until("the connection is carried", async || one.connections() == 2).await;
    scene.put("stream_routes", "port", by_port.clone()).await;
    assert_eq!(told(dial(address).await, b"a").await, "two:a");
    assert_eq!(told(open, b"b").await, "one:b");
    by_port["remote_addr"] = json!("10.0.0.0/8");
    scene.put("stream_routes", "port", by_port).await;
    assert_eq!(told(dial(address).await, b"c").await, "one:c");
    until("the figures are told", async || scene.dp.metric("holdfast_dp_stream_connections").await == 0.0).await;
    let bytes = scene.dp.metric("holdfast_dp_stream_bytes_total{to=\"node\"}").await;
    assert_eq!(bytes, f64::from((1 << 20) + 3));
    assert_eq!(scene.dp.metric("holdfast_dp_stream_failures_total{reason=\"no_route\"}").await, 1.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_node_is_tried_when_there_is_no_connection() {
    let good = echo("good:").await;
    // Nobody listens at a port of those that are reserved.
    let gone = SocketAddr::from(([127, 0, 0, 1], 1));
    let scene = scene(|_| {}).await;
    let address = scene.dp.proxy.stream_addresses()[0];
    scene.put("stream_routes", "s", to(&[gone, good.address], json!({}))).await;
    for _ in 0..4 {
        assert_eq!(told(dial(address).await, b"a").await, "good:a");
    }
    scene.put("stream_routes", "s", to(&[gone], json!({}))).await;
    assert!(["", "reset"].contains(&told(dial(address).await, b"a").await.as_str()));
    until("the failure is counted", async || {
        scene.dp.metric("holdfast_dp_stream_failures_total{reason=\"connect\"}").await == 1.0
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_served_closes_its_connections_and_lets_none_fall_through() {
    let lax = echo("lax:").await;
    let scene = scene(|_| {}).await;
    let address = scene.dp.proxy.stream_addresses()[0];
    scene.put("stream_routes", "lax", to(&[lax.address], json!({}))).await;
    let port = address.port();
    for (kind, id, body) in [
        ("stream_routes", "unknown", json!({"server_port": port, "upstream": {"nodes": {"a:1": 1}, "scheme": "quic"}})),
        ("stream_routes", "udp", json!({"server_port": port, "upstream": {"nodes": {"a:1": 1}, "scheme": "udp"}})),
        ("stream_routes", "plugged", {
            let mut route = to(&[lax.address], json!({}));
            route["server_port"] = json!(port);
            route["plugins"] = json!({"ip-restriction": {"whitelist": ["10.0.0.0/8"]}});
            route
        }),
        ("stream_routes", "nowhere", json!({"server_port": port, "upstream_id": "missing"})),
    ] {
        scene.put(kind, id, body).await;
        assert_eq!(told(dial(address).await, b"").await, "", "{id}");
        scene.control_plane.commit(&[(kind, id, None)]);
        scene.dp.serves(&scene.control_plane).await;
        assert_eq!(told(dial(address).await, b"").await, "lax:", "{id} is gone");
    }
    // What the plugins of a service would stop must not pass.
    let mut service = to(&[lax.address], json!({}));
    service["plugins"] = json!({"ip-restriction": {"whitelist": ["10.0.0.0/8"]}});
    scene.put("services", "s", service).await;
    scene.put("stream_routes", "of-service", json!({"server_port": port, "service_id": "s"})).await;
    assert_eq!(told(dial(address).await, b"").await, "");
    scene.put("services", "s", to(&[lax.address], json!({}))).await;
    assert_eq!(told(dial(address).await, b"").await, "lax:");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_told_whom_a_connection_is_from() {
    let echo = echo("").await;
    for (version, header) in [(ProxyHeader::V1, "PROXY TCP4 1.2.3.4 5.6.7.8 1000 80\r\n"), (ProxyHeader::Off, "")] {
        let scene = scene(|settings| {
            settings.proxy.stream.proxy_protocol = true;
            settings.proxy.stream.proxy_protocol_to_upstream = version;
        })
        .await;
        // What is matched is what the header says.
        let mut route = to(&[echo.address], json!({}));
        route["remote_addr"] = json!("1.2.3.4");
        route["server_port"] = json!(80);
        scene.put("stream_routes", "s", route).await;
        let stream = dial(scene.dp.proxy.stream_addresses()[0]).await;
        assert_eq!(told(stream, b"PROXY TCP4 1.2.3.4 5.6.7.8 1000 80\r\nhello").await, format!("{header}hello"));
    }
}

/// A node that is reached by TLS and says the name that it was asked for and what was agreed to be spoken.
async fn tls_node(pair: &Pair) -> Origin {
    let chain = CertificateDer::pem_slice_iter(pair.cert.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap();
    let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
    let config = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(chain, key).unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(std::sync::Arc::new(config));
    Origin::with(move |conversation| {
        let acceptor = acceptor.clone();
        async move {
            let Ok(mut stream) = acceptor.accept(conversation.stream).await else { return };
            let name = stream.get_ref().1.server_name().unwrap_or("nobody").to_owned();
            let _ = stream.write_all(format!("{name}:").as_bytes()).await;
            let mut said = Vec::new();
            let _ = stream.read_to_end(&mut said).await;
            let _ = stream.write_all(&said).await;
            let _ = stream.shutdown().await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_ended_and_the_name_in_it_chooses_the_route() {
    let authority = Authority::new("authority");
    let pair = authority.issue(&["a.com", "b.a.com", "other.com"]);
    let (plain, by_tls) = (echo("plain:").await, tls_node(&pair).await);
    let dir = tempfile::tempdir().unwrap();
    let scene = scene(with_keyring(&dir)).await;
    scene.put("ssls", "s", ssl("s", &["a.com", "*.a.com", "other.com"], &pair, json!({}))).await;
    let with_sni = |sni: &str, mut route: Value| {
        route["sni"] = json!(sni);
        route
    };
    scene.put("stream_routes", "exact", with_sni("a.com", to(&[plain.address], json!({})))).await;
    let onwards = to(&[by_tls.address], json!({"scheme": "tls"}));
    scene.put("stream_routes", "wild", with_sni("*.a.com", onwards)).await;
    let mut dialler = Dialler::trusting(&authority);
    // Whatever a client wants to speak within is its own affair.
    dialler.config.alpn_protocols = vec![b"mqtt".to_vec()];
    let address = scene.dp.proxy.stream_addresses()[1];
    for (name, expected) in [("a.com", "plain:x"), ("b.a.com", "b.a.com:x"), ("other.com", "")] {
        let stream = dialler.dial_at(address, name).await.unwrap();
        let answer = told(stream, b"x").await;
        assert!(answer == expected || expected.is_empty() && answer == "reset", "{name}: {answer}");
    }
    // An ssl that asks clients for certificates lets no stream through without one.
    let asking = json!({"client": {"ca": authority.pem, "skip_mtls_uri_regex": ["/open"]}});
    scene.put("ssls", "s", ssl("s", &["a.com"], &pair, asking)).await;
    let stream = dialler.dial_at(address, "a.com").await.unwrap();
    let answer = told(stream, b"x").await;
    assert!(["", "reset"].contains(&answer.as_str()), "{answer}");
    let name = "holdfast_dp_stream_failures_total{reason=\"no_client_certificate\"}";
    until("the refusal is counted", async || scene.dp.metric(name).await == 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_waits_for_streams_that_are_open() {
    let echo = echo("hello:").await;
    let scene = scene(|settings| settings.proxy.drain.timeout = "20s".parse().unwrap()).await;
    let address = scene.dp.proxy.stream_addresses()[0];
    scene.put("stream_routes", "s", to(&[echo.address], json!({}))).await;
    let open = dial(address).await;
    until("the connection is carried", async || echo.connections() == 1).await;
    let (clean, answer) = tokio::join!(scene.dp.proxy.drain(), async {
        until("no connection is taken any more", async || {
            #[expect(clippy::disallowed_methods, reason = "a test is its own outside world")]
            let refused = TcpStream::connect(address).await;
            refused.is_err()
        })
        .await;
        told(open, b"x").await
    });
    assert_eq!((clean, answer.as_str()), (true, "hello:x"));
}
