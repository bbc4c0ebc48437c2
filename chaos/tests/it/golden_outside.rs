//! What a cluster of an earlier build has left outside of its nodes: an archive, a record, and the keyring that opens what is
//! sealed in both. Every later build brings the cluster back from either, and serves from the archive alone.
//!
//! `golden/outside.v1.tar.gz` holds an archive in a directory, a dump of the record by `pg_dump`, and the keyring;
//! `golden/outside.v1.json` what they come to. They are written anew as those of [`super::golden`] are.

use std::path::Path;
use std::time::Duration;

use chaos::cluster::{Cluster, Cp};
use chaos::golden;
use chaos::layout::Layout;
use chaos::patience::until;
use chaos::postgres::Postgres;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::admin_load::anyhow_ensure;
use super::archive::texts;
use super::record::{audit, cluster_with, layout};

const TAR: &str = "outside.v1.tar.gz";
const EXPECTED: &str = "outside.v1.json";
const KEYRING: &str = "golden 000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f";
/// RFC 8032, §7.1, test 1.
const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";
/// The consumer's key, which stands sealed in archive and record.
const SECRET: &str = "the-golden-key";
/// How long the archive may take to have everything.
const ARCHIVED_MAX: Duration = Duration::from_secs(30);

/// What both of them come to.
#[derive(Debug, Serialize, Deserialize)]
struct Expected {
    /// The version of the programs that wrote it.
    version: String,
    epoch: u64,
    revision: u64,
    digest: String,
}

/// Kind, id and body of everything: a consumer with a secret, whom a route asks for, and an ssl with its private key.
fn resources() -> [(&'static str, &'static str, Value); 3] {
    let pair = rcgen::generate_simple_self_signed(vec!["golden.example".to_owned()]).unwrap();
    let (cert, key) = (pair.cert.pem(), pair.signing_key.serialize_pem());
    let plugins = json!({"key-auth": {}, "mocking": {"response_example": "golden"}});
    [
        ("consumers", "jack", json!({"username": "jack", "plugins": {"key-auth": {"key": SECRET}}})),
        (
            "routes",
            "guarded",
            json!({"uri": "/guarded", "plugins": plugins, "upstream": {"nodes": {"127.0.0.1:1": 1}}}),
        ),
        ("ssls", "golden", json!({"cert": cert, "key": key, "snis": ["golden.example"]})),
    ]
}

/// The settings of whoever reads and writes what lies in a directory.
fn settings(of: &Path) -> Vec<String> {
    let at = |name: &str| of.join(name).display().to_string();
    vec![
        format!("secrets.keyring_file={}", at("keyring")),
        format!("archive.directory={}", at("archive")),
        format!("archive.trusted_keys=[{PUBLIC}]"),
    ]
}

/// The same of a node: it signs what it puts into the archive.
fn of_node(of: &Path) -> Vec<String> {
    let key = of.join("archive.key");
    std::fs::write(&key, SEED).unwrap();
    let mut settings = settings(of);
    settings.push(format!("archive.signing_key_file={}", key.display()));
    settings
}

/// Writes both files with the programs of this build.
async fn write() {
    let postgres = Postgres::primary("pg-1", &layout().postgres(1)).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("archive")).unwrap();
    std::fs::write(dir.path().join("keyring"), KEYRING).unwrap();
    let settings = of_node(dir.path());
    let cluster = cluster_with(1, &Postgres::dsn(&[postgres.address()]), &texts(&settings)).await;
    let mut api = cluster.cps[0].api();
    // A second version of each, so that there is more than a base, and a history.
    for version in ["1", "2"] {
        for (kind, id, mut body) in resources() {
            body["labels"] = json!({"version": version});
            api.put(kind, id, &body).await.unwrap();
        }
    }
    audit(&cluster, &postgres).await;
    let status = api.status().await.unwrap();
    let head = format!("{}-{}", status.epoch, status.revision);
    until("everything is in the archive", ARCHIVED_MAX, async || {
        let status = api.call("GET", "/v1/status", &[], String::new()).await?.expect(&[200])?.json()?;
        anyhow_ensure(status["archive"]["position"] == head.as_str(), &status["archive"].to_string())
    })
    .await
    .unwrap();
    std::fs::write(dir.path().join("record.sql"), postgres.dump().await.unwrap()).unwrap();
    golden::pack(TAR, dir.path(), &["archive", "keyring", "record.sql"]).unwrap();
    let (version, digest) = (env!("CARGO_PKG_VERSION").to_owned(), status.digest);
    let expected = Expected { version, epoch: status.epoch, revision: status.revision, digest };
    std::fs::write(golden::file(EXPECTED), serde_json::to_string_pretty(&expected).unwrap() + "\n").unwrap();
}

/// A node with an empty disk brings the cluster back, as the next epoch, with all that it held.
async fn is_back(cp: &mut Cp, from: &str, expected: &Expected) {
    cp.bootstrap(&[from, "--witness-window=0s"]).await.unwrap();
    cp.run().unwrap();
    cp.ready().await.unwrap();
    let mut api = cp.api();
    let status = api.status().await.unwrap();
    let found = (status.epoch, status.revision, &*status.digest);
    assert_eq!(found, (expected.epoch + 1, expected.revision, &*expected.digest), "{from}");
    let jack = api.get("consumers", "jack").await.unwrap().unwrap();
    assert_eq!(jack["plugins"]["key-auth"]["key"], SECRET, "{from}: {jack}");
    assert_eq!(jack["labels"]["version"], "2", "{from}: {jack}");
    // And it goes on.
    api.put("routes", "after", &json!({"uri": "/after", "upstream": {"nodes": {"127.0.0.1:1": 1}}})).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn archive_record_and_sealed_secrets_of_an_earlier_build_bring_its_cluster_back() {
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        write().await;
    }
    let expected: Expected = serde_json::from_slice(&std::fs::read(golden::file(EXPECTED)).unwrap()).unwrap();
    let dir = tempfile::tempdir().unwrap();
    golden::unpack(TAR, dir.path()).unwrap();
    let outside = settings(dir.path());

    // A proxy that has nothing but the archive serves it, and opens what is sealed there.
    let mut cluster = Cluster::new(layout()).unwrap();
    let dp = cluster.add_dp_with(1, &texts(&outside)).await.unwrap();
    dp.ready().await.unwrap();
    let view = dp.view().await.unwrap();
    let found = (view.epoch, view.revision, &*view.digest);
    assert_eq!(found, (expected.epoch, expected.revision, &*expected.digest), "dp-1");
    let mut client = dp.client();
    assert_eq!(client.get("/guarded").await.unwrap().status, 401);
    let reply = client.send("GET", "/guarded", &[("apikey", SECRET)], "").await.unwrap();
    assert_eq!((reply.status, reply.text().trim_end()), (200, "golden"));
    let config = chaos::http::Client::new(&dp.addresses.status).get("/status/config").await.unwrap().json().unwrap();
    assert_eq!(config["rejected"], json!([]), "the private key is opened too");

    // The cluster comes back from the archive.
    cluster.place(1, 0, &texts(&of_node(dir.path())));
    is_back(cluster.cp(1), "--from=archive", &expected).await;

    // And another time from the record, restored from its dump.
    let postgres = Postgres::primary("pg-1", &layout().postgres(1)).await.unwrap();
    postgres.load(&std::fs::read_to_string(dir.path().join("record.sql")).unwrap()).await.unwrap();
    let mut again = Cluster::new(Layout::Test { cluster: 1 }).unwrap();
    let dsn = Postgres::dsn(&[postgres.address()]);
    again.place(1, 0, &[&dsn, &outside[0]]);
    is_back(again.cp(1), "--from=record", &expected).await;
    audit(&again, &postgres).await;
}
