//! Data directories of a cluster as an earlier build has left them: every later build goes on from them.
//!
//! `golden/cluster.v1.tar.gz` holds those of three nodes and a proxy, `golden/cluster.v1.json` what each of them comes to.
//! They are written with
//!
//!     cargo build --workspace && UPDATE_GOLDEN=1 cargo nextest run -p chaos golden
//!
//! anew only for a new version of a format, together with a line in the changelog; the old ones stay, under their name.

use std::collections::BTreeMap;
use std::time::Duration;

use chaos::cluster::{Api, Cluster, NodeView, ProxyView, READY_MAX};
use chaos::golden;
use chaos::layout::Layout;
use chaos::patience::until;
use chaos::upstream::Upstream;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Resources, each of which is written [`VERSIONS`] times; one of them is deleted then.
const RESOURCES: u32 = 20;
const VERSIONS: u32 = 3;
const DELETED: &str = "routes/golden-7";
/// How long a process may take to stop.
const STOP_MAX: Duration = Duration::from_secs(20);

/// What every member holds.
#[derive(Debug, Serialize, Deserialize)]
struct Expected {
    /// The version of the programs that wrote it.
    version: String,
    /// Where everybody stands.
    position: String,
    /// The digest there.
    digest: String,
    /// Every resource as the Admin API shows it, by kind and id.
    resources: BTreeMap<String, Value>,
}

impl Expected {
    fn read() -> Self {
        serde_json::from_slice(&std::fs::read(golden::file("cluster.v1.json")).unwrap()).unwrap()
    }

    fn is_held_by_node(&self, status: &NodeView) {
        self.is_held(&format!("cp-{}", status.node_id), status.epoch, status.revision, &status.digest);
    }

    fn is_held_by_proxy(&self, view: &ProxyView) {
        self.is_held("dp-1", view.epoch, view.revision, &view.digest);
    }

    fn is_held(&self, who: &str, epoch: u64, revision: u64, digest: &str) {
        assert_eq!((&*format!("{epoch}-{revision}"), digest), (&*self.position, &*self.digest), "{who}");
    }
}

/// Kind, id and body of resource `of` in one of its versions: upstreams, services that use one, routes of their own, and
/// routes over a service.
fn resource(of: u32, version: u32) -> (&'static str, String, Value) {
    let (id, desc) = (format!("golden-{of}"), format!("version {version}"));
    let nodes = json!({Layout::Golden.upstream(1): 1});
    let (kind, body) = match of % 4 {
        0 => ("upstreams", json!({"nodes": nodes, "desc": desc})),
        1 => ("services", json!({"upstream_id": format!("golden-{}", of - 1), "desc": desc})),
        2 => ("routes", json!({"uri": format!("/{id}"), "upstream": {"nodes": nodes}, "desc": desc})),
        _ => ("routes", json!({"uri": format!("/{id}"), "service_id": format!("golden-{}", of - 2), "desc": desc})),
    };
    (kind, id, body)
}

/// Every resource that there is.
async fn contents(api: &mut Api) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for of in 0..RESOURCES {
        let (kind, id, _) = resource(of, 0);
        if let Some(body) = api.get(kind, &id).await.unwrap() {
            found.insert(format!("{kind}/{id}"), body);
        }
    }
    found
}

/// Writes both files with the programs of this build.
async fn write() {
    let mut cluster = Cluster::start(Layout::Golden, golden::CPS, golden::DPS, golden::SETTINGS).await.unwrap();
    let mut api = cluster.cp(1).api();
    for version in 1..=VERSIONS {
        for of in 0..RESOURCES {
            let (kind, id, body) = resource(of, version);
            api.put(kind, &id, &body).await.unwrap();
        }
    }
    let path = format!("/apisix/admin/{DELETED}");
    api.call("DELETE", &path, &[], String::new()).await.unwrap().expect(&[200]).unwrap();
    let (position, digest) = cluster.agree(READY_MAX).await.unwrap();
    let resources = contents(&mut api).await;
    let expected = Expected { version: env!("CARGO_PKG_VERSION").to_owned(), position, digest, resources };
    cluster.dp(1).terminate(STOP_MAX).await.unwrap();
    for cp in &mut cluster.cps {
        cp.terminate(STOP_MAX).await.unwrap();
    }
    golden::pack(golden::CLUSTER, cluster.dir(), &["cp-1", "cp-2", "cp-3", "dp-1"]).unwrap();
    let text = serde_json::to_string_pretty(&expected).unwrap() + "\n";
    std::fs::write(golden::file("cluster.v1.json"), text).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_goes_on_from_data_directories_of_an_earlier_build_with_all_that_they_hold() {
    // The addresses are always the same.
    let _turn = golden::turn().await.unwrap();
    let upstream = Upstream::start("u1", &Layout::Golden.upstream(1)).await.unwrap();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        write().await;
    }
    let expected = Expected::read();
    let mut cluster = Cluster::new(Layout::Golden).unwrap();
    cluster.place(golden::CPS, golden::DPS, golden::SETTINGS);
    golden::unpack(golden::CLUSTER, cluster.dir()).unwrap();

    // The proxy serves what it has on its disk, as long as there is no node.
    cluster.dp(1).run().unwrap();
    cluster.dp(1).ready().await.unwrap();
    expected.is_held_by_proxy(&cluster.dp(1).view().await.unwrap());
    let mut client = cluster.dp(1).client();
    for of in (0..RESOURCES).filter(|of| of % 4 >= 2) {
        let status = client.get(&format!("/golden-{of}")).await.unwrap().status;
        let is_there = expected.resources.contains_key(&format!("routes/golden-{of}"));
        assert_eq!(status, if is_there { 200 } else { 404 }, "golden-{of}");
    }
    assert_eq!(upstream.served(), 9, "each route but the one that was deleted");

    // The nodes follow, one after another: the first alone says how it is, and with the second there is a quorum.
    cluster.cp(1).run().unwrap();
    let mut first = cluster.cp(1).api();
    let process = cluster.cp(1).process().unwrap();
    let answers = until("cp-1 answers", READY_MAX, async || match process.runs() {
        true => first.status().await.map(|_| true),
        false => Ok(false),
    });
    assert!(answers.await.unwrap(), "cp-1 has ended:\n{}", cluster.cp(1).log_end());
    cluster.cp(2).run().unwrap();
    cluster.cp(1).ready().await.unwrap();
    cluster.cp(2).ready().await.unwrap();
    for number in [1, 2] {
        assert_eq!(contents(&mut cluster.cp(number).api()).await, expected.resources, "cp-{number}");
        expected.is_held_by_node(&cluster.cp(number).api().status().await.unwrap());
    }
    cluster.cp(3).run().unwrap();
    cluster.cp(3).ready().await.unwrap();
    assert_eq!(contents(&mut cluster.cp(3).api()).await, expected.resources, "cp-3");
    expected.is_held_by_node(&cluster.cp(3).api().status().await.unwrap());
    let agreed = cluster.agree(READY_MAX).await.unwrap();
    assert_eq!(agreed, (expected.position, expected.digest), "nobody has changed anything");

    // All of them go on: a write is accepted, and reaches the proxy.
    let route = json!({"uri": "/after", "service_id": "golden-1"});
    cluster.cp(3).api().put("routes", "after", &route).await.unwrap();
    assert_ne!(cluster.agree(READY_MAX).await.unwrap(), agreed);
    assert_eq!(client.get("/after").await.unwrap().status, 200);
}
