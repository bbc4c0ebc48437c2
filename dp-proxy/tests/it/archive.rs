//! The archive as a source: a proxy with an empty disk and no control plane starts from it, and goes on from it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use archive::read::Limits;
use archive::store::directory::Directory;
use archive::write::Archive;
use archive::{Layout, View, Writer};
use daemon::settings::units::Span;
use dp_proxy::settings::Settings;
use protocol::crypto::{SigningKey, TrustedKeys};
use protocol::snapshot::ClusterId;
use serde_json::json;

use crate::harness::client::Client;
use crate::harness::control_plane::{CLUSTER, ControlPlane};
use crate::harness::origin::Origin;
use crate::harness::proxy::{Dp, route, settings};
use crate::harness::until;

const POLL: Duration = Duration::from_millis(100);

/// A leader's archive in a directory.
struct Shelf {
    root: tempfile::TempDir,
    archive: Archive,
    writer: Writer,
}

impl Shelf {
    fn new() -> Self {
        Self::of(CLUSTER, 1)
    }

    fn of(cluster: ClusterId, seed: u8) -> Self {
        let root = tempfile::tempdir().unwrap();
        let key = Arc::new(SigningKey::from_seed([seed; 32]));
        let archive = Archive {
            store: Arc::new(Directory::new(root.path())),
            layout: Layout::new("holdfast"),
            trusted: TrustedKeys::new([key.public()]),
            key,
            limits: Limits { object_max: 1 << 30, unpacked_max: 1 << 30 },
            keep_bases: 2,
            segments_max: 256,
        };
        let writer = Writer::new(&archive, cluster, View::Group("default".into()));
        Self { root, archive, writer }
    }

    async fn keep(&mut self, control_plane: &ControlPlane) {
        self.writer.bring(&control_plane.state(), 1, 1).await.unwrap();
    }

    fn read_by(&self, settings: &mut Settings) {
        settings.archive.directory = self.root.path().to_owned();
        settings.archive.trusted_keys = vec![self.archive.key.public().to_string()];
        settings.archive.poll = Span(POLL);
    }

    fn bases(&self) -> Vec<PathBuf> {
        fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
            for file in std::fs::read_dir(dir).unwrap().flatten() {
                match file.path() {
                    path if path.is_dir() => walk(&path, found),
                    path if path.extension().is_some_and(|e| e == "base") => found.push(path),
                    _ => {}
                }
            }
        }
        let mut found = Vec::new();
        walk(self.root.path(), &mut found);
        found
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_an_empty_disk_and_no_control_plane_it_starts_from_the_archive_and_goes_on_from_it() {
    let origin = Origin::echo().await;
    let (control_plane, mut shelf) = (ControlPlane::new(), Shelf::new());
    control_plane.put("routes", "a", route("/a", origin.address));
    shelf.keep(&control_plane).await;
    let dir = tempfile::tempdir().unwrap();
    let mut alone = settings(dir.path(), &[]);
    shelf.read_by(&mut alone);
    let dp = Dp::start(&alone).await;
    dp.ready().await;
    assert_eq!(dp.get("/a").await.status, 200);
    assert_eq!(dp.config().await["source"], json!("archive"));
    // Steps follow, and are kept on the disk as steps.
    control_plane.put("routes", "b", route("/b", origin.address));
    shelf.keep(&control_plane).await;
    dp.serves(&control_plane).await;
    assert_eq!(dp.get("/b").await.status, 200);
    assert_eq!(dp.config().await["volatile"], json!(false));
    drop(dp);
    // With the archive gone it starts from the disk.
    drop(shelf);
    let dp = Dp::start(&alone).await;
    dp.ready().await;
    assert_eq!(dp.get("/b").await.status, 200);
    assert_eq!(dp.config().await["source"], json!("disk"));
    // And a control plane of the same cluster takes over.
    drop(dp);
    control_plane.put("routes", "c", route("/c", origin.address));
    let node = control_plane.node().await;
    let dp = Dp::following(dir.path(), &[&node]).await;
    dp.serves(&control_plane).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_archive_has_waits_for_what_a_control_plane_says_and_not_for_ever() {
    let origin = Origin::echo().await;
    let (control_plane, mut shelf) = (ControlPlane::new(), Shelf::new());
    control_plane.put("routes", "a", route("/a", origin.address));
    shelf.keep(&control_plane).await;
    control_plane.put("routes", "b", route("/b", origin.address));
    let taken = async |dp: &Dp| dp.counts("holdfast_dp_archive_taken_total", 1.0).await;
    let follows_one_that_says_it = async {
        // It is not at a loss for long, and meanwhile the archive is faster.
        let node = control_plane.node().await;
        node.behave(|manner| manner.silent = true);
        let dir = tempfile::tempdir().unwrap();
        let mut both = settings(dir.path(), &[&node]);
        shelf.read_by(&mut both);
        let dp = Dp::start(&both).await;
        taken(&dp).await;
        assert!(dp.proxy.readiness().check().is_err(), "what it has is older than what the fleet serves");
        assert!(!Client::can_connect(dp.address()).await);
        node.behave(|manner| manner.silent = false);
        dp.ready().await;
        assert_eq!((dp.get("/a").await.status, dp.get("/b").await.status), (200, 200));
        assert_eq!(dp.config().await["source"], json!("control_plane"));
    };
    let has_two_that_are_gone_or_say_nothing = async {
        let silent = control_plane.node().await;
        silent.behave(|manner| manner.silent = true);
        let dir = tempfile::tempdir().unwrap();
        let mut both = settings(dir.path(), &[&silent]);
        shelf.read_by(&mut both);
        let gone = control_plane.node().await.address.to_string();
        both.control_plane.endpoints.push(gone);
        let dp = Dp::start(&both).await;
        taken(&dp).await;
        dp.ready().await;
        assert_eq!((dp.get("/a").await.status, dp.get("/b").await.status), (200, 404));
        assert_eq!(dp.config().await["source"], json!("archive"));
        silent.behave(|manner| manner.silent = false);
        dp.serves(&control_plane).await;
    };
    tokio::join!(follows_one_that_says_it, has_two_that_are_gone_or_say_nothing);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_routes_are_served_from_it() {
    let origin = Origin::echo().await;
    let (control_plane, mut shelf) = (ControlPlane::new(), Shelf::new());
    let routes: Vec<_> = (0..10_000).map(|i| (format!("r{i}"), route(&format!("/r/{i}"), origin.address))).collect();
    let changes: Vec<_> = routes.iter().map(|(id, body)| ("routes", id.as_str(), Some(body.clone()))).collect();
    control_plane.commit(&changes);
    shelf.keep(&control_plane).await;
    let dir = tempfile::tempdir().unwrap();
    let mut alone = settings(dir.path(), &[]);
    shelf.read_by(&mut alone);
    let dp = Dp::start(&alone).await;
    dp.ready().await;
    assert_eq!(dp.get("/r/9999").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_good_is_refused_and_told_and_nothing_goes_back() {
    let origin = Origin::echo().await;
    let (control_plane, mut shelf) = (ControlPlane::new(), Shelf::new());
    control_plane.put("routes", "a", route("/a", origin.address));
    shelf.keep(&control_plane).await;
    let older = shelf.bases()[0].clone();
    // Signed by somebody else.
    let dir = tempfile::tempdir().unwrap();
    let mut alone = settings(dir.path(), &[]);
    shelf.read_by(&mut alone);
    alone.archive.trusted_keys = vec![SigningKey::from_seed([9; 32]).public().to_string()];
    let dp = Dp::start(&alone).await;
    let refused = "holdfast_dp_archive_refused_total{reason=\"signature\"}";
    until("the forgery is refused", async || dp.metric(refused).await > 0.0).await;
    assert!(dp.proxy.readiness().check().is_err());
    let told = dp.config().await["archive"]["refused"].to_string();
    assert!(told.contains("not trusted"), "{told}");
    drop(dp);
    // Cut short: nothing to serve, and no crash. Then good again, without a restart.
    shelf.read_by(&mut alone);
    let good = std::fs::read(&older).unwrap();
    std::fs::write(&older, &good[..good.len() / 2]).unwrap();
    let dp = Dp::start(&alone).await;
    let refused = "holdfast_dp_archive_refused_total{reason=\"truncated\"}";
    until("the cut base is refused", async || dp.metric(refused).await > 0.0).await;
    assert!(dp.proxy.readiness().check().is_err());
    std::fs::write(&older, &good).unwrap();
    dp.ready().await;
    // A proxy that is ahead takes nothing from an archive that is behind.
    drop(dp);
    control_plane.put("routes", "b", route("/b", origin.address));
    let node = control_plane.node().await;
    let dp = Dp::following(dir.path(), &[&node]).await;
    dp.serves(&control_plane).await;
    drop((dp, node));
    let dp = Dp::start(&alone).await;
    dp.ready().await;
    let refused = "holdfast_dp_archive_refused_total{reason=\"older\"}";
    until("the older one is refused", async || dp.metric(refused).await > 0.0).await;
    assert_eq!(dp.get("/b").await.status, 200);
    assert_eq!(dp.config().await["source"], json!("disk"));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_clusters_archive_is_not_taken_and_a_new_life_of_its_own_is() {
    let origin = Origin::echo().await;
    let (control_plane, mut shelf) = (ControlPlane::new(), Shelf::new());
    control_plane.put("routes", "a", route("/a", origin.address));
    shelf.keep(&control_plane).await;
    let dir = tempfile::tempdir().unwrap();
    let mut alone = settings(dir.path(), &[]);
    shelf.read_by(&mut alone);
    let dp = Dp::start(&alone).await;
    dp.ready().await;
    drop(dp);
    let mut other = Shelf::of(ClusterId([0xee; 16]), 1);
    for _ in 0..5 {
        control_plane.put("routes", "x", route("/x", origin.address));
    }
    other.keep(&control_plane).await;
    other.read_by(&mut alone);
    let dp = Dp::start(&alone).await;
    dp.ready().await;
    tokio::time::sleep(5 * POLL).await;
    assert_eq!((dp.get("/a").await.status, dp.get("/x").await.status), (200, 404));
    drop(dp);
    // A restore: a higher epoch of the same cluster, at a lower revision.
    let restored = ControlPlane::in_epoch(2);
    restored.put("routes", "y", route("/y", origin.address));
    shelf.keep(&restored).await;
    shelf.read_by(&mut alone);
    let dp = Dp::start(&alone).await;
    dp.ready().await;
    until("the new life is served", async || dp.get("/y").await.status == 200).await;
    assert_eq!(dp.config().await["epoch"], json!(2));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_given_is_a_source_too() {
    let origin = Origin::echo().await;
    let (control_plane, mut shelf) = (ControlPlane::new(), Shelf::new());
    control_plane.put("routes", "a", route("/a", origin.address));
    shelf.keep(&control_plane).await;
    let dir = tempfile::tempdir().unwrap();
    let mut alone = settings(dir.path(), &[]);
    alone.archive.file = shelf.bases()[0].clone();
    assert!(alone.check().unwrap_err().to_string().starts_with("archive.trusted_keys: "));
    alone.archive.trusted_keys = vec![shelf.archive.key.public().to_string()];
    let dp = Dp::start(&alone).await;
    dp.ready().await;
    assert_eq!(dp.get("/a").await.status, 200);
}
