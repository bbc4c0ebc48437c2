//! What is on disk: restarts, snapshots, purges, damage.

use std::path::{Path, PathBuf};
use std::time::Duration;

use daemon::settings::units::ByteSize;
use serde_json::json;

use super::node::{Api, KEY, settings};

fn route(n: usize) -> String {
    json!({"uri": format!("/r{n}"), "upstream": {"nodes": {"a:1": 1}}}).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_keeps_everything() {
    let api = Api::start().await;
    for n in 0..20 {
        assert_eq!(api.call("PUT", &format!("/apisix/admin/routes/r{n}"), &route(n)).await.0, 201);
    }
    let key = ("idempotency-key", "k");
    let posted = api.with("POST", "/apisix/admin/routes", &[key], &route(99)).await;
    let (_, before) = api.call("GET", "/v1/status", "").await;
    let api = api.restart().await;
    let (_, after) = api.call("GET", "/v1/status", "").await;
    assert_eq!((&after["revision"], &after["digest"]), (&before["revision"], &before["digest"]));
    assert_eq!(api.call("GET", "/apisix/admin/routes", "").await.1["total"], 21);
    assert_eq!(api.with("POST", "/apisix/admin/routes", &[key], &route(99)).await, posted, "requests are remembered");
    assert_eq!(api.call("PUT", "/apisix/admin/routes/new", &route(1)).await.0, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn snapshots_and_purges_happen_and_a_restart_comes_from_them() {
    let api = Api::start_with(|settings| {
        settings.raft.snapshot_entries = 50;
        settings.raft.keep_entries = 20;
        settings.raft.keep_bytes = ByteSize(1 << 20);
    })
    .await;
    for n in 0..200 {
        assert_eq!(api.call("PUT", &format!("/apisix/admin/routes/r{}", n % 30), &route(n)).await.0 / 100, 2);
    }
    let metric = async |name: &str| {
        let (_, text) = api.status("/metrics").await;
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("no {name}"));
        line.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
    };
    let compacted = async {
        let kept = || snapshots(&api.settings.data_dir.0).len();
        while metric("holdfast_cp_raft_purged_index ").await < 100
            || metric("holdfast_cp_log_entries ").await > 100
            || !(1..=2).contains(&kept())
        {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), compacted)
        .await
        .expect("the log is compacted, and one snapshot or two are kept");
    let (_, before) = api.call("GET", "/v1/status", "").await;
    let api = api.restart().await;
    let (_, after) = api.call("GET", "/v1/status", "").await;
    assert_eq!((&after["revision"], &after["digest"]), (&before["revision"], &before["digest"]));
}

/// The snapshots of a node that are whole, the oldest first.
fn snapshots(dir: &Path) -> Vec<PathBuf> {
    let Ok(files) = std::fs::read_dir(dir.join("snapshots")) else { return Vec::new() };
    let files = files.map(|file| file.unwrap());
    let whole = files.filter(|file| file.file_name().to_str().unwrap().starts_with("snapshot."));
    let mut whole: Vec<PathBuf> = whole.map(|file| file.path()).collect();
    whole.sort();
    whole
}

/// Founds a node with some writes and snapshots, stops it, and gives its settings.
async fn stopped() -> (tempfile::TempDir, cp_node::settings::Settings) {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path());
    settings.raft.snapshot_entries = 30;
    settings.raft.keep_entries = 10;
    cp_node::node::found(&settings, &cp_node::node::Seams::real()).await.unwrap();
    let api = Api::run(settings.clone()).await.unwrap();
    let mut n = 0;
    while snapshots(dir.path()).len() < 2 {
        n += 1;
        api.call("PUT", &format!("/apisix/admin/routes/r{}", n % 10), &route(n)).await;
    }
    api.node.stop().await;
    (dir, settings)
}

async fn refused(settings: &cp_node::settings::Settings) -> String {
    Api::run(settings.clone()).await.err().expect("the node must not start").to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn damaged_snapshots_are_refused_by_name_and_the_one_before_serves_while_the_log_reaches_back() {
    let (dir, mut settings) = stopped().await;
    let snapshots = snapshots(dir.path());
    let damage = |path: &Path| {
        let mut bytes = std::fs::read(path).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 0x20;
        std::fs::write(path, bytes).unwrap();
    };
    damage(&snapshots[1]);
    settings.raft.snapshot_entries = 100_000;
    match Api::run(settings.clone()).await {
        Ok(api) => api.node.stop().await,
        Err(e) => assert!(e.to_string().contains("what is between them is lost"), "{e}"),
    }
    damage(&snapshots[0]);
    let error = refused(&settings).await;
    assert!(error.contains("snapshots/snapshot.") && error.contains("it is damaged"), "{error}");
    assert!(error.contains("hfctl members remove"), "it says what to do: {error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_log_is_refused_by_name() {
    let (dir, settings) = stopped().await;
    let db = dir.path().join("log/log.1/db");
    for snap in std::fs::read_dir(dir.path().join("log/log.1")).unwrap() {
        let path = snap.unwrap().path();
        if path.file_name().unwrap().to_str().unwrap().starts_with("snap.") {
            std::fs::remove_file(path).unwrap();
        }
    }
    let file = std::fs::OpenOptions::new().write(true).open(&db).unwrap();
    // Only the first few writes are left. A share of its length would not do: what is in the file is the lesser part of it.
    file.set_len(8 << 10).unwrap();
    let error = refused(&settings).await;
    assert!(error.contains("log/log.1"), "{error}");
    assert!(error.contains("cannot be trusted") && error.contains("it gets a new id"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_identity_is_refused_by_name() {
    let (dir, settings) = stopped().await;
    std::fs::write(dir.path().join("identity"), b"HF").unwrap();
    let error = refused(&settings).await;
    assert!(error.contains("identity: record cut short"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_is_used_by_one_process_and_founded_once() {
    let api = Api::start().await;
    let error = Api::run(api.settings.clone()).await.err().unwrap().to_string();
    assert!(error.contains("another process uses this directory"), "{error}");
    let (status, _, _) = api.raw("GET", "/apisix/admin/routes", &[("x-api-key", KEY)], &[]).await;
    assert_eq!(status, 200, "the first is not disturbed");
    let (dir, settings) = stopped().await;
    let error = cp_node::node::found(&settings, &cp_node::node::Seams::real()).await.unwrap_err().to_string();
    assert!(error.contains("belongs to node 1 of cluster"), "{error}");
    drop(dir);
}
