//! TLS from clients: which certificate they get, what is asked of them, and that edits cut nobody off.

use std::net::SocketAddr;
use std::sync::Arc;

use dp_proxy::settings::Settings;
use protocol::ResourceKey;
use protocol::crypto::Keyring;
use protocol::report::Path;
use protocol::seam::Random;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, HandshakeKind, RootCertStore};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::harness::SOON;
use crate::harness::origin::Origin;
use crate::harness::proxy::{Scene, route};
use crate::harness::until;

pub(crate) const KEYRING: &str = "k1 1111111111111111111111111111111111111111111111111111111111111111";

pub(crate) struct Fixed;

impl Random for Fixed {
    fn next(&self) -> u64 {
        7
    }
}

/// Somebody who issues certificates.
pub(crate) struct Authority {
    pub(crate) pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// A certificate with its key.
#[derive(Clone)]
pub(crate) struct Pair {
    pub(crate) cert: String,
    pub(crate) key: String,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = Self::params(name);
        Self { pem: params.self_signed(&key).unwrap().pem(), issuer: Issuer::new(params, key) }
    }

    fn params(name: &str) -> CertificateParams {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params
    }

    /// Another authority, which this one vouches for.
    fn below(&self, name: &str) -> Self {
        let key = KeyPair::generate().unwrap();
        let params = Self::params(name);
        Self { pem: params.signed_by(&key, &self.issuer).unwrap().pem(), issuer: Issuer::new(params, key) }
    }

    /// A store that trusts this one alone.
    fn trusted(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap()).unwrap();
        roots
    }

    pub(crate) fn issue(&self, names: &[&str]) -> Pair {
        self.issue_by(names, KeyPair::generate().unwrap())
    }

    fn issue_by(&self, names: &[&str], key: KeyPair) -> Pair {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let params = CertificateParams::new(names).unwrap();
        Pair { cert: params.signed_by(&key, &self.issuer).unwrap().pem(), key: key.serialize_pem() }
    }
}

/// A sealed private key, as the control plane stores it.
pub(crate) fn sealed(id: &str, path: &Path, key: &str) -> String {
    let keyring = Keyring::parse(KEYRING).unwrap();
    keyring.seal(&ResourceKey::new("ssls", id), path, key.as_bytes(), &Fixed).to_string()
}

/// The body of an ssl.
pub(crate) fn ssl(id: &str, snis: &[&str], pair: &Pair, more: Value) -> Value {
    let key = sealed(id, &Path::default().property("key"), &pair.key);
    let mut body = json!({"cert": pair.cert, "key": key, "snis": snis});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

/// A keyring in the proxy's settings.
pub(crate) fn with_keyring(dir: &tempfile::TempDir) -> impl FnOnce(&mut Settings) + use<> {
    let file = dir.path().join("keyring");
    std::fs::write(&file, KEYRING).unwrap();
    move |settings| settings.secrets.keyring_file = Some(file)
}

/// How a client connects.
#[derive(Clone)]
pub(crate) struct Dialler {
    pub(crate) config: ClientConfig,
}

impl Dialler {
    pub(crate) fn trusting(authority: &Authority) -> Self {
        Self { config: builder(authority).with_no_client_auth() }
    }

    fn showing(authority: &Authority, chain: &str, key: &str) -> Self {
        let chain = CertificateDer::pem_slice_iter(chain.as_bytes()).collect::<Result<Vec<_>, _>>().unwrap();
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
        Self { config: builder(authority).with_client_auth_cert(chain, key).unwrap() }
    }

    pub(crate) async fn dial(&self, scene: &Scene, name: &str) -> Result<TlsStream<TcpStream>, String> {
        self.dial_at(scene.dp.proxy.tls_addresses()[0], name).await
    }

    pub(crate) async fn dial_at(&self, address: SocketAddr, name: &str) -> Result<TlsStream<TcpStream>, String> {
        #[expect(clippy::disallowed_methods, reason = "a test is its own outside world")]
        let stream = TcpStream::connect(address).await.unwrap();
        let name = ServerName::try_from(name.to_owned()).unwrap();
        let connector = TlsConnector::from(Arc::new(self.config.clone()));
        timeout(SOON, connector.connect(name, stream)).await.expect("a handshake in time").map_err(|e| e.to_string())
    }
}

fn builder(authority: &Authority) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(authority.trusted())
}

/// A GET on a connection that stays open: the status, and the body. None when the connection ended.
async fn get(stream: &mut TlsStream<TcpStream>, host: &str, path: &str) -> Option<(u16, String)> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut read = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&read).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let length =
                head.to_ascii_lowercase().split("content-length: ").nth(1)?.lines().next()?.trim().parse().ok()?;
            if body.len() >= length {
                return Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()));
            }
        }
        let mut buffer = [0; 4096];
        match timeout(SOON, stream.read(&mut buffer)).await.expect("an answer in time") {
            Ok(0) | Err(_) => return None,
            Ok(n) => read.extend_from_slice(&buffer[..n]),
        }
    }
}

fn shown(stream: &TlsStream<TcpStream>) -> Vec<u8> {
    stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
}

fn der(pair: &Pair) -> Vec<u8> {
    CertificateDer::from_pem_slice(pair.cert.as_bytes()).unwrap().to_vec()
}

/// A proxy that serves `a.com` by TLS, for an origin that echoes.
struct Site {
    scene: Scene,
    authority: Authority,
    _origin: Origin,
    _dir: tempfile::TempDir,
}

impl Site {
    async fn new() -> Self {
        let (authority, origin) = (Authority::new("root"), Origin::echo().await);
        let pair = authority.issue(&["a.com"]);
        let dir = tempfile::tempdir().unwrap();
        let resources =
            [("routes", "r", route("/*", origin.address)), ("ssls", "a", ssl("a", &["a.com"], &pair, json!({})))];
        let scene = Scene::tuned(&resources, with_keyring(&dir)).await;
        Self { scene, authority, _origin: origin, _dir: dir }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_chosen_by_name() {
    let (authority, origin) = (Authority::new("root"), Origin::echo().await);
    let (exact, wild, off) =
        (authority.issue(&["a.com"]), authority.issue(&["*.a.com"]), authority.issue(&["off.com"]));
    let dir = tempfile::tempdir().unwrap();
    let scene = Scene::tuned(
        &[
            ("routes", "r", route("/*", origin.address)),
            ("ssls", "exact", ssl("exact", &["a.com"], &exact, json!({}))),
            ("ssls", "wild", ssl("wild", &["*.a.com"], &wild, json!({}))),
            ("ssls", "off", ssl("off", &["off.com"], &off, json!({"status": 0}))),
        ],
        with_keyring(&dir),
    )
    .await;
    let dialler = Dialler::trusting(&authority);
    for (name, pair) in [("a.com", &exact), ("x.a.com", &wild)] {
        let mut stream = dialler.dial(&scene, name).await.unwrap();
        assert_eq!(shown(&stream), der(pair), "{name}");
        let (status, body) = get(&mut stream, name, "/x").await.unwrap();
        assert_eq!(status, 200);
        assert!(body.contains("x-forwarded-proto: https"), "{body}");
    }
    for name in ["x.y.a.com", "b.com", "off.com"] {
        let error = dialler.dial(&scene, name).await.unwrap_err();
        assert!(error.contains("UnrecognisedName") || error.contains("UnrecognizedName"), "{name}: {error}");
    }
    let mut nameless = dialler.clone();
    nameless.config.enable_sni = false;
    assert!(nameless.dial(&scene, "a.com").await.is_err());
    scene.dp.counts("holdfast_dp_tls_failures_total{reason=\"no_certificate\"}", 3.0).await;
    scene.dp.counts("holdfast_dp_tls_failures_total{reason=\"no_name\"}", 1.0).await;
    scene.dp.counts("holdfast_dp_tls_handshakes_total", 2.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_names_no_host_gets_the_fallback() {
    let (authority, origin) = (Authority::new("root"), Origin::echo().await);
    let pair = authority.issue(&["a.com"]);
    let dir = tempfile::tempdir().unwrap();
    let keyring = with_keyring(&dir);
    let resources =
        [("routes", "r", route("/*", origin.address)), ("ssls", "a", ssl("a", &["a.com"], &pair, json!({})))];
    let scene = Scene::tuned(&resources, |settings| {
        keyring(settings);
        settings.proxy.tls.fallback_sni = "A.com".into();
    })
    .await;
    let mut dialler = Dialler::trusting(&authority);
    dialler.config.enable_sni = false;
    let mut stream = dialler.dial(&scene, "a.com").await.unwrap();
    assert_eq!(get(&mut stream, "a.com", "/").await.unwrap().0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_edit_changes_the_certificate_and_cuts_nobody_off() {
    let (authority, origin) = (Authority::new("root"), Origin::echo().await);
    let (old, new) = (authority.issue(&["a.com"]), authority.issue(&["a.com"]));
    let dir = tempfile::tempdir().unwrap();
    let resources =
        [("routes", "r", route("/*", origin.address)), ("ssls", "a", ssl("a", &["a.com"], &old, json!({})))];
    let scene = Scene::tuned(&resources, with_keyring(&dir)).await;
    let dialler = Dialler::trusting(&authority);
    let mut before = dialler.dial(&scene, "a.com").await.unwrap();
    assert_eq!(get(&mut before, "a.com", "/1").await.unwrap().0, 200);
    scene.put("ssls", "a", ssl("a", &["a.com"], &new, json!({}))).await;
    // A client of its own, with no session to resume.
    let after = Dialler::trusting(&authority).dial(&scene, "a.com").await.unwrap();
    assert_eq!((shown(&before), shown(&after)), (der(&old), der(&new)));
    assert_eq!(get(&mut before, "a.com", "/2").await.unwrap().0, 200, "the old connection goes on");
    scene.control_plane.commit(&[("ssls", "a", None)]);
    scene.dp.serves(&scene.control_plane).await;
    assert!(dialler.dial(&scene, "a.com").await.is_err());
    assert_eq!(get(&mut before, "a.com", "/3").await.unwrap().0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_resumed_whichever_worker_takes_the_connection() {
    let Site { scene, authority, .. } = &Site::new().await;
    for versions in [&[&rustls::version::TLS13], &[&rustls::version::TLS12]] {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_protocol_versions(versions).unwrap();
        let dialler = Dialler { config: config.with_root_certificates(authority.trusted()).with_no_client_auth() };
        let mut kinds = Vec::new();
        for _ in 0..16 {
            let mut stream = dialler.dial(scene, "a.com").await.unwrap();
            // The ticket comes beside the answer.
            assert_eq!(get(&mut stream, "a.com", "/").await.unwrap().0, 200);
            kinds.push(stream.get_ref().1.handshake_kind().unwrap());
        }
        assert_eq!(kinds[0], HandshakeKind::Full);
        assert!(kinds[1..].iter().all(|kind| *kind == HandshakeKind::Resumed), "{kinds:?}");
    }
    scene.dp.counts("holdfast_dp_tls_resumed_total", 30.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_certificate_fits_what_the_client_can_verify() {
    let (authority, origin) = (Authority::new("root"), Origin::echo().await);
    let p256 = authority.issue(&["a.com"]);
    let p384 = authority.issue_by(&["a.com"], KeyPair::generate_for(&rcgen::PKCS_ECDSA_P384_SHA384).unwrap());
    let keys = [sealed("a", &Path::default().property("keys").item(0), &p256.key)];
    let dir = tempfile::tempdir().unwrap();
    let both = ssl("a", &["a.com"], &p384, json!({"certs": [p256.cert], "keys": keys, "ssl_protocols": ["TLSv1.3"]}));
    let scene =
        Scene::tuned(&[("routes", "r", route("/*", origin.address)), ("ssls", "a", both)], with_keyring(&dir)).await;
    let mut provider = rustls::crypto::aws_lc_rs::default_provider();
    let all = provider.signature_verification_algorithms.mapping;
    let p256_alone = all.iter().filter(|(scheme, _)| *scheme == rustls::SignatureScheme::ECDSA_NISTP256_SHA256);
    provider.signature_verification_algorithms.mapping = Box::leak(p256_alone.copied().collect());
    let config = ClientConfig::builder_with_provider(Arc::new(provider)).with_safe_default_protocol_versions().unwrap();
    let picky = Dialler { config: config.with_root_certificates(authority.trusted()).with_no_client_auth() };
    assert_eq!(shown(&picky.dial(&scene, "a.com").await.unwrap()), der(&p256));
    assert_eq!(shown(&Dialler::trusting(&authority).dial(&scene, "a.com").await.unwrap()), der(&p384));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_is_told_within_tls_that_nothing_follows() {
    let Site { scene, authority, .. } = &Site::new().await;
    let mut stream = Dialler::trusting(authority).dial(scene, "a.com").await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.com\r\nConnection: close\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    // Without its alert the end of the connection is an error: it could be anybody's who cuts the answer short.
    timeout(SOON, stream.read_to_end(&mut answer)).await.expect("an end in time").unwrap();
    assert!(answer.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cheaper_aes_is_spoken_and_chacha_with_whoever_would_rather_have_it() {
    let Site { scene, authority, .. } = &Site::new().await;
    let suites = rustls::crypto::aws_lc_rs::ALL_CIPHER_SUITES;
    for version in [&rustls::version::TLS13, &rustls::version::TLS12] {
        // As this client lists them: AES with 256 bits, with 128, ChaCha20.
        let of_version = suites.iter().copied().filter(|suite| suite.version() == version);
        let [large, small, chacha] = of_version.take(3).collect::<Vec<_>>().try_into().unwrap();
        for (offered, agreed) in [
            (vec![large, small, chacha], small),
            (vec![large, chacha], large),
            (vec![chacha, large, small], chacha),
            (vec![chacha, small], chacha),
        ] {
            let mut provider = rustls::crypto::aws_lc_rs::default_provider();
            provider.cipher_suites = offered;
            let config = ClientConfig::builder_with_provider(Arc::new(provider));
            let config = config.with_protocol_versions(&[version]).unwrap().with_root_certificates(authority.trusted());
            let dialler = Dialler { config: config.with_no_client_auth() };
            let stream = dialler.dial(scene, "a.com").await.unwrap();
            assert_eq!(stream.get_ref().1.negotiated_cipher_suite(), Some(agreed));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ssl_that_cannot_be_served_fails_its_handshakes_and_is_reported() {
    let (authority, origin) = (Authority::new("root"), Origin::echo().await);
    let (exact, wild) = (authority.issue(&["x.a.com"]), authority.issue(&["*.a.com"]));
    let dir = tempfile::tempdir().unwrap();
    let mut foreign = ssl("x", &["x.a.com"], &exact, json!({}));
    foreign["key"] = sealed("another", &Path::default().property("key"), &exact.key).into();
    let scene = Scene::tuned(
        &[
            ("routes", "r", route("/*", origin.address)),
            ("ssls", "x", foreign),
            ("ssls", "wild", ssl("wild", &["*.a.com"], &wild, json!({}))),
        ],
        with_keyring(&dir),
    )
    .await;
    let dialler = Dialler::trusting(&authority);
    assert!(dialler.dial(&scene, "x.a.com").await.is_err(), "its name does not fall through to the wildcard");
    assert!(dialler.dial(&scene, "y.a.com").await.is_ok());
    let rejected = scene.dp.config().await["rejected"].to_string();
    assert!(rejected.contains("$.key: the token does not belong to this place"), "{rejected}");
    scene.dp.counts("holdfast_dp_tls_failures_total{reason=\"sealed\"}", 1.0).await;
    scene.put("ssls", "x", ssl("x", &["x.a.com"], &exact, json!({}))).await;
    assert_eq!(shown(&dialler.dial(&scene, "x.a.com").await.unwrap()), der(&exact));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_does_not_come_is_left_and_their_number_is_bounded() {
    let (authority, origin) = (Authority::new("root"), Origin::echo().await);
    let pair = authority.issue(&["a.com"]);
    let dir = tempfile::tempdir().unwrap();
    let keyring = with_keyring(&dir);
    let resources =
        [("routes", "r", route("/*", origin.address)), ("ssls", "a", ssl("a", &["a.com"], &pair, json!({})))];
    let scene = Scene::tuned(&resources, |settings| {
        keyring(settings);
        settings.proxy.workers = 1;
        settings.proxy.tls.handshakes_max = 2;
        settings.proxy.tls.handshake_timeout = "1s".parse().unwrap();
    })
    .await;
    let address = scene.dp.proxy.tls_addresses()[0];
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(crate::harness::client::Client::connect(address).await);
    }
    until("the third is refused", async || scene.dp.metric("holdfast_dp_tls_refused_total").await > 0.5).await;
    for client in &mut silent {
        assert!(client.is_closed().await);
    }
    let late = "holdfast_dp_tls_failures_total{reason=\"timeout\"}";
    until("two were late", async || scene.dp.metric(late).await > 1.5).await;
    let mut stream = Dialler::trusting(&authority).dial(&scene, "a.com").await.unwrap();
    assert_eq!(get(&mut stream, "a.com", "/").await.unwrap().0, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_asked_for_certificates() {
    let (authority, origin) = (Authority::new("root"), Origin::echo().await);
    let (clients, others) = (Authority::new("clients"), Authority::new("others"));
    let near = clients.below("near");
    let pair = authority.issue(&["strict.com", "some.com", "open.com"]);
    let dir = tempfile::tempdir().unwrap();
    let auth = |more: Value| {
        let mut client = json!({"ca": clients.pem});
        client.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"client": client})
    };
    let scene = Scene::tuned(
        &[
            ("routes", "r", route("/*", origin.address)),
            ("ssls", "strict", ssl("strict", &["strict.com"], &pair, auth(json!({"depth": 1})))),
            ("ssls", "some", ssl("some", &["some.com"], &pair, auth(json!({"skip_mtls_uri_regex": ["^/open"]})))),
            ("ssls", "open", ssl("open", &["open.com"], &pair, json!({}))),
        ],
        with_keyring(&dir),
    )
    .await;
    // With TLS 1.3 a client learns only from the first answer that its certificate was not taken.
    let status = async |dialler: &Dialler, name: &str, host: &str, path: &str| match dialler.dial(&scene, name).await {
        Ok(mut stream) => get(&mut stream, host, path).await.map(|(status, _)| status),
        Err(_) => None,
    };
    let nobody = Dialler::trusting(&authority);
    let own = clients.issue(&["c"]);
    let good = Dialler::showing(&authority, &own.cert, &own.key);
    let foreign = others.issue(&["c"]);
    let foreign = Dialler::showing(&authority, &foreign.cert, &foreign.key);
    let by_near = near.issue(&["c"]);
    let by_near = Dialler::showing(&authority, &format!("{}{}", by_near.cert, near.pem), &by_near.key);
    for (dialler, name, host, path, expected, why) in [
        (&good, "strict.com", "strict.com", "/", Some(200), "vouched for"),
        (&nobody, "strict.com", "strict.com", "/", None, "shows nothing"),
        (&foreign, "strict.com", "strict.com", "/", None, "vouched for by somebody else"),
        (&by_near, "strict.com", "strict.com", "/", Some(200), "one between"),
        (&nobody, "some.com", "some.com", "/open/x", Some(200), "not needed there"),
        (&nobody, "some.com", "some.com", "/shut", Some(400), "needed there"),
        (&nobody, "some.com", "some.com", "/open/../shut", Some(400), "by the canonical path"),
        (&good, "some.com", "some.com", "/shut", Some(200), "shown there"),
        (&nobody, "open.com", "open.com", "/", Some(200), "nothing is asked"),
        (&nobody, "open.com", "strict.com", "/", Some(421), "another host's connection"),
        (&good, "open.com", "STRICT.com:9443", "/", Some(421), "was not asked there"),
        (&good, "strict.com", "open.com", "/", Some(200), "asks for less"),
    ] {
        assert_eq!(status(dialler, name, host, path).await, expected, "{name} {host} {path}: {why}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_so_many_authorities_may_stand_between() {
    let (authority, origin) = (Authority::new("root"), Origin::echo().await);
    let clients = Authority::new("clients");
    let one = clients.below("one");
    let two = one.below("two");
    let deep = two.issue(&["c"]);
    let deep = Dialler::showing(&authority, &format!("{}{}{}", deep.cert, two.pem, one.pem), &deep.key);
    let pair = authority.issue(&["a.com"]);
    let dir = tempfile::tempdir().unwrap();
    let body = |depth: u64| ssl("a", &["a.com"], &pair, json!({"client": {"ca": clients.pem, "depth": depth}}));
    let resources = [("routes", "r", route("/*", origin.address)), ("ssls", "a", body(2))];
    let scene = Scene::tuned(&resources, with_keyring(&dir)).await;
    let answer = async || match deep.dial(&scene, "a.com").await {
        Ok(mut stream) => get(&mut stream, "a.com", "/").await.map(|(status, _)| status),
        Err(_) => None,
    };
    assert_eq!(answer().await, Some(200));
    scene.put("ssls", "a", body(1)).await;
    assert_eq!(answer().await, None, "and no ticket of before helps");
    scene.put("ssls", "a", body(2)).await;
    assert_eq!(answer().await, Some(200));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_by_an_edit_is_asked_of_open_connections() {
    let (authority, origin) = (Authority::new("root"), Origin::echo().await);
    let clients = Authority::new("clients");
    let pair = authority.issue(&["a.com"]);
    let dir = tempfile::tempdir().unwrap();
    let resources =
        [("routes", "r", route("/*", origin.address)), ("ssls", "a", ssl("a", &["a.com"], &pair, json!({})))];
    let scene = Scene::tuned(&resources, with_keyring(&dir)).await;
    let mut open = Dialler::trusting(&authority).dial(&scene, "a.com").await.unwrap();
    assert_eq!(get(&mut open, "a.com", "/").await.unwrap().0, 200);
    scene.put("ssls", "a", ssl("a", &["a.com"], &pair, json!({"client": {"ca": clients.pem}}))).await;
    assert_eq!(get(&mut open, "a.com", "/").await.unwrap().0, 421, "come again, on a new connection");
}
