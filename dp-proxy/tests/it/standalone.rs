//! A proxy without a control plane: the configuration is a file, as APISIX has it.

use std::fs;
use std::io::Write;
use std::net::SocketAddr;
use std::path::Path;

use dp_proxy::run::{Proxy, Seams};
use dp_proxy::settings::Settings;
use serde_json::json;

use crate::harness::client::send;
use crate::harness::control_plane::ControlPlane;
use crate::harness::origin::Origin;
use crate::harness::proxy::{Dp, route, settings};
use crate::harness::until;
use crate::tls::{Authority, Dialler, Pair};

fn standalone(dir: &Path) -> Settings {
    let mut settings = settings(&dir.join("data"), &[]);
    settings.standalone.file = Some(dir.join("apisix.yaml"));
    settings.standalone.poll = "20ms".parse().unwrap();
    settings
}

/// Puts a text in the file's place, as editors and tools do.
fn replace(dir: &Path, text: &str) {
    fs::write(dir.join("new"), text).unwrap();
    fs::rename(dir.join("new"), dir.join("apisix.yaml")).unwrap();
}

/// Most kinds that there are, in the words of APISIX's own files.
fn document(origin: SocketAddr, pair: &Pair, path: &str) -> String {
    let block = |pem: &str| pem.trim().replace('\n', "\n      ");
    format!(
        r#"
upstreams:
  - id: 1
    type: roundrobin
    nodes:
      "{origin}": 1
services:
  - id: 1
    upstream_id: 1
plugin_configs:
  - id: 1
    plugins:
      response-rewrite: {{headers: {{set: {{X-Config: one}}}}}}
routes:
  - id: 1
    uri: {path}
    service_id: 1
    plugin_config_id: 1
  - uri: /closed
    plugins:
      key-auth: {{}}
    upstream_id: 1
consumers:
  - username: jack
    plugins:
      key-auth:
        key: user-key
global_rules:
  - id: 1
    plugins:
      response-rewrite: {{headers: {{set: {{X-Global: two}}}}}}
ssls:
  - id: 1
    sni: a.com
    cert: |
      {}
    key: |
      {}
plugins:
  - name: key-auth
stream_routes:
#END
"#,
        block(&pair.cert),
        block(&pair.key)
    )
}

async fn with_key(dp: &Dp, key: &str) -> u16 {
    let request = format!("GET /closed HTTP/1.1\r\nHost: x\r\napikey: {key}\r\n\r\n");
    send(dp.address(), request).await.unwrap().status
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_apisix_is_served_and_a_bad_one_changes_nothing() {
    let (origin, authority) = (Origin::echo().await, Authority::new("root"));
    let pair = authority.issue(&["a.com"]);
    let dir = tempfile::tempdir().unwrap();
    let whole = |path: &str| document(origin.address, &pair, path);
    replace(dir.path(), &whole("/one"));
    let dp = Dp::start(&standalone(dir.path())).await;
    dp.ready().await;
    let answer = dp.get("/one").await;
    assert_eq!((answer.status, answer.header("x-config"), answer.header("x-global")), (200, Some("one"), Some("two")));
    assert_eq!((with_key(&dp, "user-key").await, with_key(&dp, "another").await), (200, 401));
    let dialler = Dialler::trusting(&authority);
    assert!(dialler.dial_at(dp.proxy.tls_addresses()[0], "a.com").await.is_ok(), "by TLS as well");
    let config = dp.config().await;
    assert_eq!((&config["source"], &config["volatile"], &config["epoch"]), (&json!("file"), &json!(false), &json!(0)));
    assert_eq!(config["rejected"], json!([]));

    // Another file in its place.
    replace(dir.path(), &whole("/two"));
    until("the new file is served", async || dp.get("/two").await.status == 200).await;
    assert_eq!(dp.get("/one").await.status, 404);
    let revision = dp.config().await["revision"].clone();

    // Written in place, slowly: nothing of it counts before its end is there.
    let next = whole("/three");
    let (first, second) = next.split_at(next.len() / 2);
    let mut file = fs::File::create(dir.path().join("apisix.yaml")).unwrap();
    file.write_all(first.as_bytes()).unwrap();
    until("it is said that it is not whole", async || {
        dp.config().await["file"]["refused"][0].as_str().is_some_and(|why| why.contains("#END"))
    })
    .await;
    assert_eq!((dp.get("/two").await.status, &dp.config().await["revision"]), (200, &revision));
    file.write_all(second.as_bytes()).unwrap();
    until("the whole file is served", async || dp.get("/three").await.status == 200).await;
    assert_eq!(dp.config().await["file"]["refused"], json!([]));

    // A bad one, which names its places; what was before stays in force, also over a restart.
    replace(dir.path(), &whole("5").replace("upstream_id: 1\nplugin", "upstream_id: 2\nplugin"));
    until("the bad file is told", async || dp.metric("holdfast_dp_file_bad").await >= 1.0).await;
    let refused = dp.config().await["file"]["refused"].to_string();
    assert!(refused.contains("$.routes[0]: $.uri") && refused.contains("refers to upstreams/2"), "{refused}");
    assert_eq!(dp.get("/three").await.status, 200);
    drop(dp);
    let dp = Dp::start(&standalone(dir.path())).await;
    dp.ready().await;
    assert_eq!((dp.get("/three").await.status, with_key(&dp, "user-key").await), (200, 200));
    assert!(dialler.dial_at(dp.proxy.tls_addresses()[0], "a.com").await.is_ok(), "its own keys open what it has kept");
    assert_eq!(dp.config().await["source"], "disk");
    drop(dp);
    for file in fs::read_dir(dir.path().join("data/config")).unwrap() {
        let bytes = fs::read(file.unwrap().path()).unwrap();
        assert!(!bytes.windows(8).any(|window| window == b"user-key"), "a secret is on the disk in the clear");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_and_a_control_plane_are_not_mixed_up() {
    let dir = tempfile::tempdir().unwrap();
    let mut both = standalone(dir.path());
    both.control_plane.endpoints = vec!["127.0.0.1:9191".to_owned()];
    assert!(both.check().unwrap_err().to_string().starts_with("standalone.file: "));

    // Without any file it waits for one; an empty one is a configuration.
    let dp = Dp::start(&standalone(dir.path())).await;
    until("the missing file is told", async || {
        dp.config().await["file"]["refused"][0].as_str().is_some_and(|why| why.contains("No such file"))
    })
    .await;
    assert_eq!(dp.status("/status/ready").await.status, 503);
    replace(dir.path(), "#END\n");
    dp.ready().await;
    let origin = Origin::echo().await;
    replace(
        dir.path(),
        &format!("routes:\n- {{uri: /file, upstream: {{nodes: {{'{}': 1}}}}}}\n#END\n", origin.address),
    );
    until("the file is served", async || dp.get("/file").await.status == 200).await;
    drop(dp);

    // A control plane that is followed from then on is ahead of whatever a file said.
    let control_plane = ControlPlane::new();
    control_plane.put("routes", "r", route("/plane", origin.address));
    let node = control_plane.node().await;
    let data = dir.path().join("data");
    let dp = Dp::following(&data, &[&node]).await;
    dp.serves(&control_plane).await;
    assert_eq!((dp.get("/plane").await.status, dp.get("/file").await.status), (200, 404));
    drop(dp);

    // The way back is barred: what is on the disk is a cluster's.
    // Whoever had its lock lets go of it a moment after it was dropped.
    until("the directory is free, and refused", async || {
        let started = Proxy::start(standalone(dir.path()).check().unwrap(), Seams::default()).await;
        let error = started.unwrap_err().to_string();
        let is_free = !error.contains("another process uses this directory");
        assert!(!is_free || error.contains("standalone.file") && error.contains("another data_dir"), "{error}");
        is_free
    })
    .await;
}
