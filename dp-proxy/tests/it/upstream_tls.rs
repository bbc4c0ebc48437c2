//! TLS to nodes: by which name, whom the proxy believes, what it shows, and which connections are used again.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use protocol::report::Path;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{HandshakeKind, RootCertStore, ServerConfig};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::harness::client::{Client, get};
use crate::harness::origin::Origin;
use crate::harness::proxy::Scene;
use crate::harness::until;
use crate::tls::{Authority, Pair, sealed, with_keyring};

/// What a TLS origin saw of one connection.
#[derive(Clone, Debug, Default)]
struct Seen {
    name: Option<String>,
    protocol: Option<String>,
    shown: Option<Vec<u8>>,
    resumed: bool,
}

/// TLS in front of an origin.
pub(crate) struct TlsOrigin {
    pub(crate) address: SocketAddr,
    seen: Arc<Mutex<Vec<Seen>>>,
    accepting: JoinHandle<()>,
}

impl TlsOrigin {
    /// With this certificate; `clients` is who must have issued those of clients.
    async fn before(origin: SocketAddr, pair: &Pair, clients: Option<&Authority>) -> Self {
        Self::speaking(b"http/1.1", origin, pair, clients).await
    }

    /// The same, of a protocol of its own (its name in ALPN).
    #[expect(clippy::disallowed_methods, reason = "a test is its own outside world")]
    pub(crate) async fn speaking(
        protocol: &[u8],
        origin: SocketAddr,
        pair: &Pair,
        clients: Option<&Authority>,
    ) -> Self {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions();
        let builder = match clients {
            None => builder.unwrap().with_no_client_auth(),
            Some(clients) => {
                let mut roots = RootCertStore::empty();
                roots.add(CertificateDer::from_pem_slice(clients.pem.as_bytes()).unwrap()).unwrap();
                let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build();
                builder.unwrap().with_client_cert_verifier(verifier.unwrap())
            }
        };
        let key = PrivateKeyDer::from_pem_slice(pair.key.as_bytes()).unwrap();
        let mut config = builder.with_single_cert(vec![der(pair)], key).unwrap();
        config.alpn_protocols = vec![protocol.to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let seen = Arc::<Mutex<Vec<Seen>>>::default();
        let shared = seen.clone();
        let accepting = tokio::spawn(async move {
            let mut open = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let (acceptor, seen) = (acceptor.clone(), shared.clone());
                open.spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let tls = stream.get_ref().1;
                    seen.lock().unwrap().push(Seen {
                        name: tls.server_name().map(str::to_owned),
                        protocol: tls.alpn_protocol().map(|name| String::from_utf8(name.to_vec()).unwrap()),
                        shown: tls.peer_certificates().map(|chain| chain[0].to_vec()),
                        resumed: tls.handshake_kind() == Some(HandshakeKind::Resumed),
                    });
                    let mut plain = TcpStream::connect(origin).await.unwrap();
                    // That either side is gone ends the test's connection, not the test.
                    let _ = tokio::io::copy_bidirectional(&mut stream, &mut plain).await;
                });
            }
        });
        Self { address, seen, accepting }
    }

    /// Of each connection: the protocol that was agreed on.
    pub(crate) fn protocols(&self) -> Vec<Option<String>> {
        self.seen().into_iter().map(|seen| seen.protocol).collect()
    }

    fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    fn names(&self) -> Vec<Option<String>> {
        self.seen().into_iter().map(|seen| seen.name).collect()
    }
}

impl Drop for TlsOrigin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn der(pair: &Pair) -> CertificateDer<'static> {
    CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap()
}

/// A route by https; `more` is the rest of its upstream.
fn https(node: &str, more: Value) -> Value {
    let mut upstream = json!({"scheme": "https", "nodes": {node: 1}});
    upstream.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"uri": "/*", "upstream": upstream})
}

#[tokio::test(flavor = "multi_thread")]
async fn pass_host_decides_the_name_and_connections_are_kept_per_name() {
    let (authority, origin) = (Authority::new("root"), Origin::echo().await);
    let node = TlsOrigin::before(origin.address, &authority.issue(&["a.com"]), None).await;
    let address = node.address.to_string();
    let scene =
        Scene::tuned(&[("routes", "r", https(&address, json!({})))], |settings| settings.proxy.workers = 1).await;
    let mut client = Client::connect(scene.dp.address()).await;
    for host in ["a.com", "A.com:9080", "b.com", "a.com"] {
        let answer = client.get(host, "/x").await;
        assert_eq!(answer.status, 200, "{host}: nobody verifies unless that is asked for: {}", answer.text());
    }
    assert_eq!(node.names(), [Some("a.com".into()), Some("b.com".into())], "one connection for each name");
    assert_eq!(node.seen()[0].protocol.as_deref(), Some("http/1.1"));
    let rewrite = json!({"pass_host": "rewrite", "upstream_host": "c.com:8443"});
    scene.put("routes", "r", https(&address, rewrite)).await;
    let body = client.get("a.com", "/").await.text();
    assert!(body.contains("host: c.com:8443") && node.names()[2].as_deref() == Some("c.com"), "{body}");
    scene.put("routes", "r", https(&address, json!({"pass_host": "node"}))).await;
    assert_eq!(client.get("a.com", "/").await.status, 200);
    assert_eq!(node.names()[3], None, "an address is no name to ask for");
    assert_eq!(node.seen().len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_tls_cannot_ask_for_is_the_clients_fault_and_no_nodes() {
    let (authority, origin) = (Authority::new("root"), Origin::echo().await);
    let node = TlsOrigin::before(origin.address, &authority.issue(&["a.com"]), None).await;
    let checks = json!({"checks": {"active": {}, "passive": {"unhealthy": {"tcp_failures": 1}}}});
    let scene = Scene::with(&[("routes", "r", https(&node.address.to_string(), checks))]).await;
    for (host, status) in [("!.com", 400), ("!.com", 400), ("!.com", 400), ("a.com", 200)] {
        assert_eq!(get(scene.dp.address(), host, "/x").await.status, status, "{host}");
    }
    assert_eq!(scene.dp.metric("holdfast_dp_upstream_errors_total{class=\"tls\"}").await, 0.0);
    assert_eq!(scene.dp.metric("holdfast_dp_all_nodes_down_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_must_be_believed_where_that_is_asked_for() {
    let (authority, other) = (Authority::new("root"), Authority::new("other"));
    let origin = Origin::echo().await;
    let good = TlsOrigin::before(origin.address, &authority.issue(&["a.com"]), None).await;
    let foreign = TlsOrigin::before(origin.address, &other.issue(&["a.com"]), None).await;
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, &authority.pem).unwrap();
    let body = |node: &TlsOrigin, verify: bool| https(&node.address.to_string(), json!({"tls": {"verify": verify}}));
    let scene = Scene::tuned(&[("routes", "r", body(&good, true))], |settings| {
        settings.proxy.upstream.trusted_ca_file = Some(ca);
    })
    .await;
    let address = scene.dp.address();
    assert_eq!(get(address, "a.com", "/").await.status, 200);
    assert_eq!(get(address, "b.com", "/").await.status, 502, "the certificate is for another name");
    scene.put("routes", "r", body(&foreign, true)).await;
    assert_eq!(get(address, "a.com", "/").await.status, 502, "from somebody who is not believed");
    scene.dp.counts("holdfast_dp_upstream_errors_total{class=\"tls\"}", 2.0).await;
    scene.put("routes", "r", body(&foreign, false)).await;
    assert_eq!(get(address, "a.com", "/").await.status, 200, "nobody looks");
    scene.put("routes", "r", body(&foreign, true)).await;
    assert_eq!(get(address, "a.com", "/").await.status, 502, "what nobody looked at is not used again");
    // Nobody speaks TLS there.
    scene.put("routes", "r", https(&origin.address.to_string(), json!({}))).await;
    assert_eq!(get(address, "a.com", "/").await.status, 502);
}

/// The body of an ssl that nodes are shown.
fn client_ssl(id: &str, pair: &Pair, more: Value) -> Value {
    let key = sealed(id, &Path::default().property("key"), &pair.key);
    let mut body = json!({"type": "client", "cert": pair.cert, "key": key});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_are_shown_the_certificate_of_an_ssl_and_an_edit_of_it_holds_at_once() {
    let (authority, clients, origin) = (Authority::new("root"), Authority::new("clients"), Origin::echo().await);
    let node = TlsOrigin::before(origin.address, &authority.issue(&["a.com"]), Some(&clients)).await;
    let (first, second) = (clients.issue(&["one"]), clients.issue(&["two"]));
    let dir = tempfile::tempdir().unwrap();
    let body = https(&node.address.to_string(), json!({"tls": {"client_cert_id": "me"}}));
    let resources = [("routes", "r", body), ("ssls", "me", client_ssl("me", &first, json!({})))];
    let scene = Scene::tuned(&resources, with_keyring(&dir)).await;
    let address = scene.dp.address();
    assert_eq!(get(address, "a.com", "/").await.status, 200);
    assert_eq!(node.seen().last().unwrap().shown.as_deref(), Some(&*der(&first)));
    scene.put("ssls", "me", client_ssl("me", &second, json!({}))).await;
    assert_eq!(get(address, "a.com", "/").await.status, 200);
    assert_eq!(node.seen().last().unwrap().shown.as_deref(), Some(&*der(&second)), "no connection of before is used");
    let made = node.seen().len();
    for (id, ssl) in [("me", Some(client_ssl("me", &second, json!({"status": 0})))), ("me", None)] {
        scene.control_plane.commit(&[("ssls", id, ssl)]);
        scene.dp.serves(&scene.control_plane).await;
        let expected = if scene.dp.config().await["last_good"] == json!(["ssls/me"]) { 200 } else { 503 };
        assert_eq!(get(address, "a.com", "/").await.status, expected, "nothing else is shown in its place");
    }
    assert_eq!(get(address, "a.com", "/").await.status, 503, "it is gone");
    assert!(node.seen().len() <= made + 2, "nobody came without a certificate");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_resumed() {
    let (authority, origin) = (Authority::new("root"), Origin::echo().await);
    let node = TlsOrigin::before(origin.address, &authority.issue(&["a.com"]), None).await;
    let body = https(&node.address.to_string(), json!({"keepalive_pool": {"requests": 1}}));
    let scene = Scene::tuned(&[("routes", "r", body)], |settings| settings.proxy.workers = 1).await;
    for _ in 0..3 {
        assert_eq!(get(scene.dp.address(), "a.com", "/").await.status, 200);
    }
    let resumed: Vec<bool> = node.seen().iter().map(|seen| seen.resumed).collect();
    assert_eq!(resumed, [false, true, true]);
}

#[tokio::test(flavor = "multi_thread")]
async fn large_bodies_go_both_ways() {
    let (authority, origin) = (Authority::new("root"), Origin::echo().await);
    let node = TlsOrigin::before(origin.address, &authority.issue(&["a.com"]), None).await;
    let scene = Scene::with(&[("routes", "r", https(&node.address.to_string(), json!({})))]).await;
    let sent = "0123456789abcdef".repeat(64 << 10);
    let mut client = Client::connect(scene.dp.address()).await;
    client.send(format!("POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: {}\r\n\r\n{sent}", sent.len())).await;
    let answer = client.response().await.unwrap();
    assert!(answer.whole && answer.json()["body"] == sent, "{} bytes", answer.body.len());
    assert_eq!(client.get("a.com", "/").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_by_https_judge_by_the_answer_and_by_the_certificate() {
    let (authority, other) = (Authority::new("root"), Authority::new("other"));
    let (well, ill) =
        (Origin::echo().await, Origin::saying("HTTP/1.1 500 x\r\nContent-Length: 0\r\n\r\n", false).await);
    let pair = authority.issue(&["a.com"]);
    let good = TlsOrigin::before(well.address, &pair, None).await;
    let broken = TlsOrigin::before(ill.address, &pair, None).await;
    let foreign = TlsOrigin::before(well.address, &other.issue(&["a.com"]), None).await;
    let dir = tempfile::tempdir().unwrap();
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, &authority.pem).unwrap();
    let nodes: serde_json::Map<_, _> =
        [&good, &broken, &foreign].iter().map(|node| (node.address.to_string(), json!(1))).collect();
    let unhealthy = json!({"interval": 1, "http_failures": 1, "tcp_failures": 1});
    let active = json!({"type": "https", "host": "a.com", "http_path": "/health", "unhealthy": unhealthy});
    let body = json!({"scheme": "https", "nodes": nodes, "checks": {"active": active}});
    let scene = Scene::tuned(&[("upstreams", "u", body)], |settings| {
        settings.proxy.upstream.trusted_ca_file = Some(ca);
    })
    .await;
    let port = |node: &TlsOrigin| json!(node.address.port());
    until("each is judged", async || {
        let told = get(scene.dp.proxy.control_address(), "control", "/v1/healthcheck/upstreams/u").await.json();
        let up = |node: &TlsOrigin| {
            let nodes = told["nodes"].as_array().unwrap();
            nodes.iter().find(|told| told["port"] == port(node)).unwrap()["status"] == "healthy"
        };
        good.seen().len() > 1 && up(&good) && !up(&broken) && !up(&foreign)
    })
    .await;
    assert_eq!(good.seen()[0].name.as_deref(), Some("a.com"));
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_by_https_show_the_certificate_that_requests_show() {
    let (authority, clients, origin) = (Authority::new("root"), Authority::new("clients"), Origin::echo().await);
    let node = TlsOrigin::before(origin.address, &authority.issue(&["a.com"]), Some(&clients)).await;
    let (first, second) = (clients.issue(&["one"]), clients.issue(&["two"]));
    let dir = tempfile::tempdir().unwrap();
    let every_second = json!({"interval": 1, "successes": 1});
    let active = json!({"type": "https", "https_verify_certificate": false, "healthy": every_second,
        "unhealthy": {"interval": 1, "tcp_failures": 1}});
    let upstream = json!({"scheme": "https", "nodes": {node.address.to_string(): 1}, "checks": {"active": active},
        "tls": {"client_cert_id": "me"}});
    let resources = [("upstreams", "u", upstream), ("ssls", "me", client_ssl("me", &first, json!({})))];
    let scene = Scene::tuned(&resources, with_keyring(&dir)).await;
    let was_shown = |pair: &Pair| node.seen().iter().any(|seen| seen.shown.as_deref() == Some(&*der(pair)));
    until("a probe shows it", async || was_shown(&first)).await;
    scene.put("ssls", "me", client_ssl("me", &second, json!({}))).await;
    until("a probe shows what is there now", async || was_shown(&second)).await;
    let told = get(scene.dp.proxy.control_address(), "control", "/v1/healthcheck/upstreams/u").await.json();
    assert_eq!(told["nodes"][0]["status"], "healthy", "{told}");
}
