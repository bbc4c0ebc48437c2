//! Secrets that are kept elsewhere: in the environment and in a vault that comes, changes, goes, and stays away over a restart.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use dp_proxy::settings::Settings;
use protocol::ResourceKey;
use protocol::crypto::Keyring;
use protocol::report::Path;
use serde_json::{Value, json};

use crate::harness::control_plane::ControlPlane;
use crate::harness::origin::Origin;
use crate::harness::proxy::{Dp, Scene, route, settings};
use crate::harness::{client, own_address, until};
use crate::tls::{Authority, Dialler, Fixed, KEYRING, with_keyring};
use crate::upstream_tls::TlsOrigin;

/// A vault that knows these fields by path, to whoever has the token `t`.
#[derive(Clone, Default)]
struct Vault(Arc<Mutex<BTreeMap<String, Value>>>);

impl Vault {
    fn put(&self, path: &str, fields: Value) {
        self.0.lock().unwrap().insert(format!("GET /v1/kv/data/{path} HTTP/1.1"), fields);
    }

    async fn listen(&self, address: SocketAddr) -> Origin {
        let known = self.0.clone();
        Origin::at(address, move |mut conversation| {
            let known = known.clone();
            async move {
                let Some(request) = conversation.request().await else { return };
                let fields = known.lock().unwrap().get(&request.line).cloned();
                let (status, body) = match fields {
                    _ if request.header("x-vault-token") != Some("t") => {
                        (403, json!({"errors": ["permission denied"]}))
                    }
                    None => (404, json!({"errors": []})),
                    Some(fields) => (200, json!({"data": {"data": fields, "metadata": {"version": 1}}})),
                };
                let body = body.to_string();
                let length = body.len();
                conversation.send(format!("HTTP/1.1 {status} It\r\nContent-Length: {length}\r\n\r\n{body}")).await;
            }
        })
        .await
    }
}

/// A secret manager whose token is sealed for its place.
fn manager(address: SocketAddr, token: &str) -> Value {
    manager_at(&format!("http://{address}"), token)
}

fn manager_at(uri: &str, token: &str) -> Value {
    let keyring = Keyring::parse(KEYRING).unwrap();
    let path = Path::default().property("token");
    let token = keyring.seal(&ResourceKey::new("secrets", "vault/1"), &path, token.as_bytes(), &Fixed);
    json!({"uri": uri, "prefix": "kv/data", "token": token.to_string()})
}

fn consumer(key: &str) -> Value {
    json!({"username": "jack", "plugins": {"key-auth": {"key": key}}})
}

fn guarded(origin: SocketAddr) -> Value {
    let mut route = route("/a", origin);
    route["plugins"] = json!({"key-auth": {}});
    route
}

async fn status_with(dp: &Dp, key: &str) -> u16 {
    let request = format!("GET /a HTTP/1.1\r\nHost: a\r\napikey: {key}\r\n\r\n");
    client::send(dp.address(), request).await.unwrap().status
}

fn quick(settings: &mut Settings) {
    settings.secrets.refresh = "100ms".parse().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_in_a_vault_is_renewed_and_outlives_the_vault_and_a_restart() {
    let (origin, vault) = (Origin::echo().await, Vault::default());
    vault.put("jack", json!({"key": "one"}));
    let listening = vault.listen(own_address()).await;
    let address = listening.address;
    let control_plane = ControlPlane::new();
    control_plane.commit(&[
        ("secrets", "vault/1", Some(manager(address, "t"))),
        ("consumers", "jack", Some(consumer("$secret://vault/1/jack/key"))),
        ("routes", "r", Some(guarded(origin.address))),
    ]);
    let node = control_plane.node().await;
    let (dir, keys) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut settings = settings(dir.path(), &[&node]);
    with_keyring(&keys)(&mut settings);
    quick(&mut settings);
    let dp = Dp::start(&settings).await;
    dp.ready().await;
    // The first table has it already.
    assert_eq!((status_with(&dp, "one").await, status_with(&dp, "$secret://vault/1/jack/key").await), (200, 401));
    assert_eq!(dp.config().await["rejected"], json!([]));
    // It is changed where it is kept, and nowhere else.
    vault.put("jack", json!({"key": "two"}));
    until("the new key lets in", async || status_with(&dp, "two").await == 200).await;
    assert_eq!(status_with(&dp, "one").await, 401);
    // The vault goes: what it said last holds, also over a restart, and never stands on the disk.
    drop(listening);
    until("the vault is missed", async || dp.metric("holdfast_dp_secrets_failing").await == 1.0).await;
    assert_eq!(status_with(&dp, "two").await, 200);
    let secret = dp.config().await["secrets"][0].clone();
    assert_eq!((&secret["place"], &secret["known"]), (&json!("$secret://vault/1/jack"), &json!(true)));
    assert!(secret["failure"].as_str().unwrap().contains("cannot be reached"), "{secret}");
    let kept = std::fs::read_to_string(dir.path().join("secrets")).unwrap();
    assert!(kept.contains("$sealed$") && !kept.contains("two"), "{kept}");
    drop((dp, node));
    settings.control_plane.endpoints.clear();
    let dp = Dp::start(&settings).await;
    dp.ready().await;
    assert_eq!(status_with(&dp, "two").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_resolved_is_rejected_and_keeps_its_last_good_value() {
    let (origin, vault) = (Origin::echo().await, Vault::default());
    let listening = vault.listen(own_address()).await;
    let keys = tempfile::tempdir().unwrap();
    // Set by cargo for every test.
    let jack = consumer("$env://CARGO_PKG_NAME");
    let resources = [("consumers", "jack", jack), ("routes", "r", guarded(origin.address))];
    let scene = Scene::tuned(&resources, |settings| {
        with_keyring(&keys)(settings);
        quick(settings);
    })
    .await;
    let rejected = async || scene.dp.config().await["rejected"].to_string();
    assert_eq!(status_with(&scene.dp, "dp-proxy").await, 200);
    for (key, why) in [
        ("$env://HOLDFAST_NOSUCH", "no such variable"),
        ("$secret://vault/1/jack/key", "there is no secret manager secrets/vault/1"),
    ] {
        scene.put("consumers", "jack", consumer(key)).await;
        until(why, async || rejected().await.contains(why)).await;
        assert!(rejected().await.contains("\"last_good\":true"), "{}", rejected().await);
        assert_eq!(status_with(&scene.dp, "dp-proxy").await, 200);
    }
    // The manager comes, with a token that opens nothing, then with the right one, then the secret.
    scene.put("secrets", "vault/1", manager(listening.address, "wrong")).await;
    until("the token is refused", async || rejected().await.contains("answers 403")).await;
    scene.put("secrets", "vault/1", manager(listening.address, "t")).await;
    until("there is no secret", async || rejected().await.contains("has nothing there")).await;
    assert_eq!(status_with(&scene.dp, "dp-proxy").await, 200);
    vault.put("jack", json!({"key": "found"}));
    // Written again, so that the test need not wait for the next try.
    scene.control_plane.commit(&[("secrets", "vault/1", None)]);
    scene.dp.serves(&scene.control_plane).await;
    scene.put("secrets", "vault/1", manager(listening.address, "t")).await;
    until("the secret is found", async || status_with(&scene.dp, "found").await == 200).await;
    assert_eq!((rejected().await.as_str(), status_with(&scene.dp, "dp-proxy").await), ("[]", 401));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vault_behind_https_is_believed_by_its_certificate_alone() {
    let (origin, vault) = (Origin::echo().await, Vault::default());
    vault.put("jack", json!({"key": "one"}));
    let listening = vault.listen(own_address()).await;
    let (authority, other) = (Authority::new("root"), Authority::new("other"));
    let behind = async |issuer: &Authority, name| {
        TlsOrigin::speaking(b"http/1.1", listening.address, &issuer.issue(&[name]), None).await
    };
    let good = behind(&authority, "localhost").await;
    let (foreign, misnamed) = (behind(&other, "localhost").await, behind(&authority, "a.com").await);
    let at = |vault: &TlsOrigin| manager_at(&format!("https://localhost:{}", vault.address.port()), "t");
    let (keys, dir) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ca = dir.path().join("ca.pem");
    std::fs::write(&ca, &authority.pem).unwrap();
    let jack = consumer("$secret://vault/1/jack/key");
    let resources =
        [("secrets", "vault/1", at(&foreign)), ("consumers", "jack", jack), ("routes", "r", guarded(origin.address))];
    let scene = Scene::tuned(&resources, |settings| {
        with_keyring(&keys)(settings);
        quick(settings);
        settings.proxy.upstream.trusted_ca_file = Some(ca);
    })
    .await;
    let failure = async || scene.dp.config().await["secrets"][0]["failure"].to_string();
    until("who is not trusted is not believed", async || failure().await.contains("UnknownIssuer")).await;
    scene.put("secrets", "vault/1", at(&misnamed)).await;
    until("nor who has another's certificate", async || failure().await.contains("not valid for name")).await;
    assert_eq!(status_with(&scene.dp, "one").await, 401, "no token went out, and no key came back");
    scene.put("secrets", "vault/1", at(&good)).await;
    until("the vault is asked", async || status_with(&scene.dp, "one").await == 200).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_and_its_key_may_be_in_a_vault() {
    let (origin, vault, authority) = (Origin::echo().await, Vault::default(), Authority::new("it"));
    let pair = authority.issue(&["a.example"]);
    vault.put("tls/a", json!({"cert": pair.cert, "key": pair.key}));
    let listening = vault.listen(own_address()).await;
    let keys = tempfile::tempdir().unwrap();
    let there = |field: &str| format!("$secret://vault/1/tls/a/{field}");
    let ssl = json!({"snis": ["a.example"], "cert": there("cert"), "key": there("key")});
    // One of them as it is beside a reference: it is still no key to be served.
    let clear = json!({"snis": ["b.example"], "cert": there("cert"), "key": pair.key});
    let resources = [
        ("secrets", "vault/1", manager(listening.address, "t")),
        ("ssls", "s", ssl),
        ("ssls", "t", clear),
        ("routes", "r", route("/a", origin.address)),
    ];
    let scene = Scene::tuned(&resources, with_keyring(&keys)).await;
    let dialler = Dialler::trusting(&authority);
    dialler.dial(&scene, "a.example").await.unwrap();
    dialler.dial(&scene, "b.example").await.unwrap_err();
    let rejected = scene.dp.config().await["rejected"].to_string();
    assert!(rejected.contains("not sealed") && !rejected.contains("\"s\""), "{rejected}");
}
