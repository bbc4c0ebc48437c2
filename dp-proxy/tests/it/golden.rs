//! A data directory as the first build wrote it: every later build starts from it.
//!
//! `UPDATE_GOLDEN=1` writes it anew: only for a new version of a format, together with a line in the changelog.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::harness::control_plane::ControlPlane;
use crate::harness::proxy::Dp;

fn golden() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/data")
}

/// What the directory holds: one base, and a journal with every kind of record.
async fn write(dir: &Path) {
    let control_plane = ControlPlane::new();
    let upstream = json!({"nodes": {"127.0.0.1:1": 1}});
    control_plane.put("upstreams", "u", upstream);
    control_plane.put("routes", "a", json!({"uri": "/a", "upstream_id": "u"}));
    let node = control_plane.node().await;
    let dp = Dp::following(dir, &[&node]).await;
    dp.serves(&control_plane).await;
    control_plane.commit(&[("routes", "b", Some(json!({"uri": "/b", "upstream_id": "u"}))), ("routes", "a", None)]);
    dp.serves(&control_plane).await;
    // A commit that this proxy's group does not see only moves its position.
    control_plane.commit_in("edge", &[("routes", "c", Some(json!({"uri": "/c", "upstream_id": "u"})))]);
    dp.serves(&control_plane).await;
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for file in std::fs::read_dir(from).unwrap() {
        let file = file.unwrap();
        let to = to.join(file.file_name());
        if file.path().is_dir() {
            copy(&file.path(), &to);
        } else {
            std::fs::copy(file.path(), to).unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_data_directory_of_the_first_build_is_read() {
    let dir = tempfile::tempdir().unwrap();
    if std::env::var_os("UPDATE_GOLDEN").is_some() {
        let fresh = tempfile::tempdir().unwrap();
        write(fresh.path()).await;
        drop(std::fs::remove_dir_all(golden()));
        copy(fresh.path(), &golden());
    }
    copy(&golden(), dir.path());
    let dp = Dp::following(dir.path(), &[]).await;
    let config = dp.config().await;
    assert_eq!(
        (&config["position"], &config["changed_at"], &config["resources"]),
        (&json!("1-4"), &json!("1-3"), &json!(2))
    );
    assert_eq!(config["digest"], "a50d185b1d811d16ec8a970f808eefa2567f57e3e205cbb3de5e56f67a34e2e0");
    assert_eq!((dp.get("/a").await.status, dp.get("/b").await.status, dp.get("/c").await.status), (404, 502, 404));
    assert_eq!(dp.metric("holdfast_dp_disk_findings_total").await, 0.0);
}
