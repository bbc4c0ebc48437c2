//! Restarts, with and without a control plane, on disks that were and were not kind.

use std::path::{Path, PathBuf};

use serde_json::json;

use crate::harness::control_plane::ControlPlane;
use crate::harness::origin::Origin;
use crate::harness::proxy::{Dp, route, settings};
use crate::harness::until;

fn files(dir: &Path, prefix: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir.join("config")).unwrap();
    let mut files: Vec<PathBuf> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().to_str().unwrap().starts_with(prefix))
        .collect();
    files.sort();
    files
}

fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn law_7_with_everything_gone_it_starts_and_serves_its_last_position() {
    let origin = Origin::echo().await;
    let control_plane = ControlPlane::new();
    control_plane.put("routes", "a", route("/a", origin.address));
    let node = control_plane.node().await;
    let dir = tempfile::tempdir().unwrap();
    let dp = Dp::following(dir.path(), &[&node]).await;
    for n in 0..30 {
        control_plane.put("routes", &format!("r{}", n % 7), route(&format!("/{n}"), origin.address));
    }
    dp.serves(&control_plane).await;
    let before = dp.config().await;
    let address = node.address;
    drop((dp, node));
    for _ in 0..2 {
        let mut alone = settings(dir.path(), &[]);
        alone.control_plane.endpoints = vec![address.to_string()];
        let dp = Dp::start(&alone).await;
        dp.ready().await;
        assert_eq!((dp.get("/a").await.status, dp.get("/29").await.status, dp.get("/0").await.status), (200, 200, 404));
        let after = dp.config().await;
        assert_eq!((&after["position"], &after["digest"]), (&before["position"], &before["digest"]));
        assert_eq!((&after["source"], &after["control_plane"]["connected"]), (&json!("disk"), &json!(false)));
    }
    // The control plane comes back where it was, and has gone on meanwhile.
    let mut settings = settings(dir.path(), &[]);
    settings.control_plane.endpoints = vec![address.to_string()];
    let dp = Dp::start(&settings).await;
    dp.ready().await;
    control_plane.put("routes", "late", route("/late", origin.address));
    let node = control_plane.node_at(address).await;
    dp.serves(&control_plane).await;
    assert_eq!(dp.get("/late").await.status, 200);
    assert_eq!(node.heard(|heard| heard.fulls), 0, "it went on from where it was");
}

#[tokio::test(flavor = "multi_thread")]
async fn law_10_damage_costs_what_was_damaged_and_never_the_start() {
    let origin = Origin::echo().await;
    let control_plane = ControlPlane::new();
    control_plane.put("routes", "first", route("/first", origin.address));
    let node = control_plane.node().await;
    let dir = tempfile::tempdir().unwrap();
    let dp = Dp::following(dir.path(), &[&node]).await;
    control_plane.put("routes", "second", route("/second", origin.address));
    dp.serves(&control_plane).await;
    control_plane.put("routes", "third", route("/third", origin.address));
    dp.serves(&control_plane).await;
    drop(dp);
    let statuses =
        async |dp: &Dp| [dp.get("/first").await.status, dp.get("/second").await.status, dp.get("/third").await.status];

    // The last bytes of the journal are missing: a record that was cut off by a crash.
    let journal = files(dir.path(), "journal").pop().unwrap();
    let bytes = std::fs::read(&journal).unwrap();
    std::fs::write(&journal, &bytes[..bytes.len() - 3]).unwrap();
    let dp = Dp::following(dir.path(), &[]).await;
    assert_eq!(statuses(&dp).await, [200, 200, 404]);
    assert_eq!(dp.metric("holdfast_dp_disk_findings_total").await, 1.0);
    drop(dp);

    // A bit of it is wrong, early: what stands before it is used.
    std::fs::write(&journal, &bytes).unwrap();
    flip(&journal, bytes.len() / 2);
    let dp = Dp::following(dir.path(), &[]).await;
    assert_eq!(statuses(&dp).await[0], 200);
    drop(dp);

    // The snapshot itself is wrong: nothing can be believed. It starts, is not ready, and takes everything anew.
    for base in files(dir.path(), "base") {
        let length = std::fs::metadata(&base).unwrap().len();
        flip(&base, usize::try_from(length).unwrap() / 2);
    }
    let dp = Dp::start(&settings(dir.path(), &[])).await;
    assert_eq!(dp.status("/status").await.status, 200);
    assert_eq!(dp.status("/status/ready").await.status, 503);
    assert!(dp.metric("holdfast_dp_disk_findings_total").await >= 1.0);
    drop(dp);
    let dp = Dp::following(dir.path(), &[&node]).await;
    dp.serves(&control_plane).await;
    assert_eq!(statuses(&dp).await, [200, 200, 200]);
    drop(dp);
    let dp = Dp::following(dir.path(), &[]).await;
    assert_eq!(statuses(&dp).await, [200, 200, 200], "and it is on the disk again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_fails_is_told_and_traffic_goes_on() {
    let origin = Origin::echo().await;
    let control_plane = ControlPlane::new();
    control_plane.put("routes", "a", route("/a", origin.address));
    let node = control_plane.node().await;
    let dir = tempfile::tempdir().unwrap();
    let dp = Dp::following(dir.path(), &[&node]).await;
    // Its directory is taken away under it: what is open goes on, new files cannot be made. A new full state needs one.
    std::fs::rename(dir.path().join("config"), dir.path().join("aside")).unwrap();
    std::fs::write(dir.path().join("config"), b"in the way").unwrap();
    node.behave(|manner| manner.bad_repair = true);
    node.twist(crate::harness::control_plane::Twist::WrongDigest);
    control_plane.put("routes", "b", route("/b", origin.address));
    dp.serves(&control_plane).await;
    assert_eq!((dp.get("/a").await.status, dp.get("/b").await.status), (200, 200));
    until("it says that a restart would take the position back", async || dp.config().await["volatile"] == true).await;
    assert_eq!(dp.metric("holdfast_dp_volatile").await, 1.0);
    until("the control plane is told", async || node.heard(|heard| heard.acks.last().is_some_and(|ack| ack.volatile)))
        .await;
    assert_eq!(dp.status("/status/ready").await.status, 200);
    // The disk works again.
    std::fs::remove_file(dir.path().join("config")).unwrap();
    std::fs::rename(dir.path().join("aside"), dir.path().join("config")).unwrap();
    until("the position is kept", async || dp.config().await["volatile"] == false).await;
    drop((dp, node));
    let dp = Dp::following(dir.path(), &[]).await;
    assert_eq!((dp.get("/a").await.status, dp.get("/b").await.status), (200, 200));
}
