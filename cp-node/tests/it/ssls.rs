//! Certificates with their keys: how they are answered, and that no key lies anywhere in the clear.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime};

use daemon::seams::SystemClock;
use protocol::seam::WallClock;
use serde_json::{Value, json};

use super::node::Api;

pub(crate) const ONE: &str = "k1 1111111111111111111111111111111111111111111111111111111111111111";
pub(crate) const TWO: &str = "k2 2222222222222222222222222222222222222222222222222222222222222222";

/// A certificate of these names, signed by itself, and its key.
pub(crate) fn pair(names: &[&str]) -> (String, String) {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let pair = rcgen::generate_simple_self_signed(names).unwrap();
    (pair.cert.pem(), pair.signing_key.serialize_pem())
}

/// A node with a keyring of these lines.
pub(crate) async fn start(dir: &Path, keyring: &str) -> Api {
    let file = dir.join("keyring");
    fs::write(&file, keyring).unwrap();
    Api::start_with(|settings| settings.secrets.keyring_file = Some(file)).await
}

fn sealed(answer: &Value) -> String {
    let token = answer["value"]["key"].as_str().unwrap_or_else(|| panic!("no key in {answer}"));
    assert!(token.starts_with("$sealed$1$"), "{token}");
    token.to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ssls_life() {
    let dir = tempfile::tempdir().unwrap();
    let api = start(dir.path(), ONE).await;
    let ((cert, key), (other_cert, other_key)) = (pair(&["test.com", "*.test.com"]), pair(&["test.com"]));
    let body = json!({"cert": cert, "key": key, "snis": ["test.com", "*.test.com"]}).to_string();
    let (status, created) = api.call("PUT", "/apisix/admin/ssls/x1", &body).await;
    assert_eq!((status, &created["value"]["snis"]), (201, &json!(["test.com", "*.test.com"])), "{created}");
    let token = sealed(&created);
    let (status, again) = api.call("PUT", "/apisix/admin/ssls/x1", &body).await;
    assert_eq!((status, sealed(&again)), (200, token.clone()), "the same key keeps its token");
    let (status, read) = api.call("GET", "/apisix/admin/ssls/x1", "").await;
    assert_eq!((status, &read["value"]["cert"], read["value"].get("key")), (200, &json!(cert), None));
    let (status, patched) = api.call("PATCH", "/apisix/admin/ssls/x1", r#"{"status":0}"#).await;
    assert_eq!((status, sealed(&patched)), (200, token.clone()));
    let (status, patched) = api.call("PATCH", "/apisix/admin/ssls/x1/snis", r#"["b.test.com"]"#).await;
    assert_eq!((status, sealed(&patched)), (200, token.clone()), "{patched}");
    let (status, refused) = api.call("PATCH", "/apisix/admin/ssls/x1", &json!({"cert": other_cert}).to_string()).await;
    assert_eq!((status, &refused["error_msg"]), (400, &json!("the key does not belong to the certificate")));
    let moved = json!({"cert": cert, "key": token, "sni": "test.com"}).to_string();
    let (status, refused) = api.call("PUT", "/apisix/admin/ssls/x2", &moved).await;
    let sentence = "the token does not belong to this place, or was changed";
    assert_eq!((status, &refused["error_msg"]), (400, &json!(sentence)));
    let both = json!({"cert": cert, "key": key, "certs": [other_cert], "keys": [other_key], "sni": "test.com"});
    let (status, posted) = api.call("POST", "/apisix/admin/ssls", &both.to_string()).await;
    assert_eq!((status, posted["value"]["keys"][0].as_str().unwrap().starts_with("$sealed$")), (201, true));
    let id = posted["value"]["id"].as_str().unwrap();
    assert_eq!(id.len(), 20);
    let (_, list) = api.call("GET", "/apisix/admin/ssls", "").await;
    assert_eq!(list["total"], 2);
    for item in list["list"].as_array().unwrap() {
        assert_eq!((item["value"].get("key"), item["value"].get("keys")), (None, None));
    }
    // Of several at once, each gets an id of its own.
    let posts = (0..4).map(|_| api.call("POST", "/apisix/admin/ssls", &body));
    let mut ids: Vec<_> = futures_util::future::join_all(posts)
        .await
        .into_iter()
        .map(|(status, answer)| (status, answer["value"]["id"].as_str().map(str::to_owned)))
        .collect();
    assert!(ids.iter().all(|(status, _)| *status == 201), "{ids:?}");
    ids.sort();
    ids.dedup();
    assert_eq!(ids.len(), 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_whole_configuration_with_secrets_can_be_put_back() {
    let dir = tempfile::tempdir().unwrap();
    let api = start(dir.path(), ONE).await;
    let (cert, key) = pair(&["test.com"]);
    let body = json!({"cert": cert, "key": key, "sni": "test.com"}).to_string();
    let (_, created) = api.call("PUT", "/apisix/admin/ssls/x1", &body).await;
    let jack = json!({"username": "jack", "plugins": {"key-auth": {"key": "jacks-own-key"}}}).to_string();
    assert_eq!(api.call("PUT", "/apisix/admin/consumers", &jack).await.0, 201);
    let (_, mut all) = api.call("GET", "/apisix/admin/configs", "").await;
    assert_eq!(all["ssls"][0]["key"], json!(sealed(&created)), "as the token that it is stored as");
    let viewer = [("x-api-key", super::node::VIEWER)];
    let (_, _, seen) = api.raw("GET", "/apisix/admin/configs", &viewer, &[]).await;
    assert!(!seen.contains("$sealed$") && !seen.contains("jacks-own-key") && seen.contains("jack"), "{seen}");
    // Put back, it changes nothing but what is said of it; changed in another place, only that.
    let modified =
        async |path: &str| api.call("GET", &format!("/apisix/admin/{path}"), "").await.1["modifiedIndex"].clone();
    let put = async |digest: &str, all: &Value| {
        api.with("PUT", "/apisix/admin/configs", &[("x-digest", digest)], &all.to_string()).await
    };
    let (status, answer) = put("d1", &all).await;
    assert_eq!(status, 202, "{answer}");
    assert_eq!((modified("ssls/x1").await, modified("consumers/jack").await), (json!(1), json!(2)));
    all["ssls"][0]["status"] = json!(0);
    all.as_object_mut().unwrap().retain(|name, _| !name.ends_with("_conf_version"));
    assert_eq!(put("d2", &all).await.0, 202);
    assert_eq!((modified("ssls/x1").await, modified("consumers/jack").await), (json!(4), json!(2)));
    // A token is good for its own place only.
    all["ssls"][0]["id"] = json!("x2");
    let (status, answer) = put("d3", &all).await;
    assert_eq!(
        (status, &answer["error_msg"]),
        (400, &json!("the token does not belong to this place, or was changed"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_ends_soon_is_said() {
    let dir = tempfile::tempdir().unwrap();
    let api = start(dir.path(), ONE).await;
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = rcgen::CertificateParams::new(vec!["a.com".to_owned()]).unwrap();
    let in_nine_days = Duration::from_millis(SystemClock.now()) + Duration::from_secs(9 * 86_400 + 3600);
    params.not_after = (SystemTime::UNIX_EPOCH + in_nine_days).into();
    let cert = params.self_signed(&key).unwrap().pem();
    let body = json!({"cert": cert, "key": key.serialize_pem(), "sni": "a.com"}).to_string();
    let (status, headers, _) =
        api.raw("PUT", "/apisix/admin/ssls/x", &[("x-api-key", super::node::KEY)], body.as_bytes()).await;
    assert_eq!((status, &headers["x-holdfast-warning"]), (201, &"the certificate expires in 9 days".parse().unwrap()));
}

/// Whatever writes resources can wait, and says with a 202 that nobody in the scope serves it.
#[tokio::test(flavor = "multi_thread")]
async fn every_write_can_wait_for_the_fleet() {
    let dir = tempfile::tempdir().unwrap();
    let api = start(dir.path(), ONE).await;
    let (cert, key) = pair(&["a.com"]);
    let ssl = json!({"cert": cert, "key": key, "sni": "a.com"});
    let route = json!({"uri": "/a", "upstream": {"nodes": {}}});
    let transaction = json!({"operations": [{"op": "put", "kind": "routes", "id": "t", "value": route}]});
    let all = json!({"routes": [{"id": "r", "uri": "/b", "upstream": {"nodes": {}}}]});
    for (method, path, body, otherwise) in [
        ("PUT", "/apisix/admin/routes/r", route.clone(), 201),
        ("POST", "/apisix/admin/routes", route.clone(), 201),
        ("PATCH", "/apisix/admin/routes/r", json!({"priority": 1}), 200),
        ("PATCH", "/apisix/admin/routes/r/priority", json!(2), 200),
        ("PUT", "/apisix/admin/ssls/x", ssl.clone(), 201),
        ("POST", "/apisix/admin/ssls", ssl, 201),
        ("PUT", "/apisix/admin/consumers", json!({"username": "jack"}), 201),
        ("DELETE", "/apisix/admin/consumers/jack", json!(null), 200),
        ("POST", "/v1/transactions", transaction, 200),
        ("POST", "/v1/revert", json!({"revision": 11}), 200),
        ("PUT", "/apisix/admin/configs", all, 200),
        ("DELETE", "/apisix/admin/routes/r", json!(null), 200),
    ] {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let digest = [("x-api-key", super::node::KEY), ("x-digest", "d")];
        let nobody = format!("{path}?wait=20&scope=region:nowhere");
        let (status, headers, answer) = api.raw(method, &nobody, &digest, body.as_bytes()).await;
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let fleet = headers.get("x-holdfast-fleet").map(|value| value.to_str().unwrap());
        assert_eq!((status, fleet), (202, Some("0/0")), "{method} {path} {answer}");
        assert_eq!(answer["fleet"]["scope_is_empty"], true, "{method} {path}");
        assert!(headers.contains_key("x-holdfast-position"), "{method} {path}");
        // Nobody is concerned: then everybody serves it.
        if method == "POST" && path.contains("admin") {
            let (status, headers, _) = api.raw(method, &format!("{path}?wait=20"), &digest, body.as_bytes()).await;
            assert_eq!((status, &headers["x-holdfast-fleet"]), (otherwise, &"0/0".parse().unwrap()), "{method} {path}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_keyring_no_key_is_taken() {
    let api = Api::start().await;
    let (cert, key) = pair(&["a.com"]);
    let body = json!({"cert": cert, "key": key, "sni": "a.com"});
    let (status, answer) = api.call("PUT", "/apisix/admin/ssls/x", &body.to_string()).await;
    let sentence = "a private key is stored sealed only, and this node has no keyring: set secrets.keyring_file";
    assert_eq!((status, &answer["error_msg"]), (400, &json!(sentence)));
    let operations = json!({"operations": [{"op": "put", "kind": "ssls", "id": "x", "value": body}]});
    let (status, answer) = api.call("POST", "/v1/transactions", &operations.to_string()).await;
    assert_eq!((status, &answer["error_msg"]), (400, &json!(format!("operation 0: {sentence}"))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_keyring_opens_what_is_there_and_seals_anew() {
    let dir = tempfile::tempdir().unwrap();
    let api = start(dir.path(), ONE).await;
    let (cert, key) = pair(&["a.com"]);
    let body = json!({"cert": cert, "key": key, "sni": "a.com"}).to_string();
    let (_, created) = api.call("PUT", "/apisix/admin/ssls/x", &body).await;
    assert!(sealed(&created).starts_with("$sealed$1$k1$"));
    fs::write(dir.path().join("keyring"), format!("{TWO}\n{ONE}\n")).unwrap();
    let api = api.restart().await;
    let (status, patched) = api.call("PATCH", "/apisix/admin/ssls/x", r#"{"status":0}"#).await;
    assert_eq!((status, sealed(&patched)), (200, sealed(&created)), "what is not touched stays");
    let (_, again) = api.call("PUT", "/apisix/admin/ssls/x", &body).await;
    assert!(sealed(&again).starts_with("$sealed$1$k2$"), "what is written is sealed with the newest");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_lies_on_the_disk_in_the_clear() {
    let dir = tempfile::tempdir().unwrap();
    let archive = dir.path().join("archive");
    let signing = dir.path().join("signing");
    fs::create_dir(&archive).unwrap();
    fs::write(&signing, "ab".repeat(32)).unwrap();
    let keyring = dir.path().join("keyring");
    fs::write(&keyring, ONE).unwrap();
    let api = Api::start_with(|settings| {
        settings.secrets.keyring_file = Some(keyring);
        settings.archive.directory = archive.clone();
        settings.archive.signing_key_file = Some(signing);
        settings.raft.snapshot_entries = 5;
    })
    .await;
    let (cert, key) = pair(&["canary.example"]);
    let body = json!({"cert": cert, "key": key, "certs": [cert], "keys": [key], "sni": "canary.example"});
    for i in 0..8 {
        let (status, answer) = api.call("PUT", &format!("/apisix/admin/ssls/{i}"), &body.to_string()).await;
        assert_eq!(status, 201, "{answer}");
    }
    let operations = json!({"operations": [{"op": "put", "kind": "ssls", "id": "t", "value": body}]});
    assert_eq!(api.call("POST", "/v1/transactions", &operations.to_string()).await.0, 200);
    let data = api.settings.data_dir.0.clone();
    while fs::read_dir(&archive).unwrap().next().is_none() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // While it runs, files come and go under whoever looks at them.
    api.node.stop().await;
    // A line of the key's base64 and one as JSON has it: the second to last, since the first is alike in all keys.
    let lines: Vec<&str> = key.lines().collect();
    let canary = lines[lines.len() - 2].as_bytes();
    let (mut files, mut certificates) = (0, 0);
    for root in [&data, &archive] {
        each_file(root, &mut |path, bytes| {
            files += 1;
            assert!(!contains(bytes, canary), "{} holds the key", path.display());
            certificates += usize::from(contains(bytes, b"canary.example"));
        });
    }
    assert!(files >= 3 && certificates >= 1, "{files} files were searched, {certificates} of them hold the ssl");
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn each_file(root: &Path, look: &mut impl FnMut(&Path, &[u8])) {
    for entry in fs::read_dir(root).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            each_file(&path, look);
        } else {
            look(&path, &fs::read(&path).unwrap());
        }
    }
}
