//! The archive, kept by a node: a few seconds behind, felt by no write, and enough to come back from.

use std::path::Path;
use std::time::Duration;

use archive::settings::ArchiveSettings;
use cp_node::bootstrap::{self, From, Plan};
use cp_node::node::{NodeError, Seams};
use cp_node::settings::Settings;
use daemon::settings::units::Span;
use serde_json::Value;

use super::node::{Api, settings};

const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
const ROUTE: &str = r#"{"uri":"/a","upstream":{"nodes":{"127.0.0.1:1980":1},"type":"roundrobin"}}"#;

fn with_archive(settings: &mut Settings, dir: &Path) {
    let key = dir.join("key");
    std::fs::write(&key, SEED).unwrap();
    settings.archive = ArchiveSettings {
        directory: dir.join("objects"),
        signing_key_file: Some(key),
        interval: Span(Duration::from_millis(300)),
        ..ArchiveSettings::default()
    };
}

async fn archived(api: &Api, holds: impl Fn(&Value) -> bool) -> Value {
    for _ in 0..400 {
        let status = api.call("GET", "/v1/status", "").await.1;
        if holds(&status) {
            return status;
        }
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    panic!("{}", api.call("GET", "/v1/status", "").await.1);
}

fn has_everything(status: &Value) -> bool {
    let position = format!("{}-{}", status["epoch"], status["revision"]);
    status["archive"]["position"] == *position && status["archive"]["error"].is_null()
}

fn plan() -> Plan {
    Plan {
        from: From::Archive,
        file: None,
        accept_loss: false,
        window: Duration::ZERO,
        resume: None,
        past_claims: false,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_comes_back_from_its_archive_as_a_new_life_of_the_same_cluster() {
    let dir = tempfile::tempdir().unwrap();
    let api = Api::start_with(|settings| with_archive(settings, dir.path())).await;
    for i in 0..5 {
        api.call("PUT", &format!("/apisix/admin/routes/r{i}"), ROUTE).await;
    }
    let status = archived(&api, has_everything).await;
    // What was not archived yet when it is asked to stop is, before it does.
    assert_eq!(api.call("PUT", "/apisix/admin/routes/last", ROUTE).await.0, 201);
    let before = api.call("GET", "/apisix/admin/routes/last", "").await.1;
    api.node.stop().await;

    let fresh = tempfile::tempdir().unwrap();
    let mut again = settings(fresh.path());
    with_archive(&mut again, dir.path());
    let restored = bootstrap::bootstrap(&again, &plan(), &Seams::real()).await.unwrap();
    assert_eq!(restored.identity.cluster.to_string(), status["cluster"].as_str().unwrap());
    assert_eq!((restored.position.epoch.number, restored.position.revision), (2, 6));
    let api = Api::run(again.clone()).await.unwrap();
    assert_eq!(api.call("GET", "/apisix/admin/routes/last", "").await.1, before, "with its original metadata");
    let status = archived(&api, has_everything).await;
    assert_eq!((status["epoch"].as_u64(), status["revision"].as_u64()), (Some(2), Some(6)));
    assert_eq!(api.call("PUT", "/apisix/admin/routes/next", ROUTE).await.0, 201);
    archived(&api, has_everything).await;

    // Another one that comes back takes the next epoch; of two from one point, one is refused.
    let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut one = settings(first.path());
    with_archive(&mut one, dir.path());
    let restored = bootstrap::bootstrap(&one, &plan(), &Seams::real()).await.unwrap();
    assert_eq!(restored.position.epoch.number, 3);
    let mut two = settings(second.path());
    with_archive(&mut two, dir.path());
    let refused = bootstrap::bootstrap(&two, &plan(), &Seams::real()).await.unwrap_err();
    let restore = restored.position.epoch.restore;
    assert!(refused.to_string().contains(&format!("epoch 3 is claimed by restore {restore}")), "{refused}");
    // One that did not finish is gone on with.
    let resumed = Plan { resume: Some(restore), ..plan() };
    assert_eq!(bootstrap::bootstrap(&two, &resumed, &Seams::real()).await.unwrap().position, restored.position);
    api.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_archive_that_fails_is_felt_by_no_write_and_shown() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("objects"), "no directory").unwrap();
    let api = Api::start_with(|settings| with_archive(settings, dir.path())).await;
    for i in 0..20 {
        assert_eq!(api.call("PUT", &format!("/apisix/admin/routes/r{i}"), ROUTE).await.0, 201);
    }
    let status = archived(&api, |status| !status["archive"]["error"].is_null()).await;
    assert!(status["archive"]["behind_seconds"].as_f64().unwrap() > 0.0, "{status}");
    let metrics = api.status("/metrics").await.1.to_string();
    assert!(metrics.contains("holdfast_cp_archive_failures_total"), "{metrics}");
    std::fs::remove_file(dir.path().join("objects")).unwrap();
    let status = archived(&api, has_everything).await;
    assert_eq!(status["archive"]["behind_seconds"], 0.0);
    api.node.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_to_come_back_from_leaves_the_directory_nobodys() {
    let (dir, fresh) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut settings = settings(fresh.path());
    with_archive(&mut settings, dir.path());
    let refused = bootstrap::bootstrap(&settings, &plan(), &Seams::real()).await.unwrap_err();
    assert!(matches!(refused, NodeError::Bootstrap(_)), "{refused}");
    assert!(refused.to_string().contains("it is empty"), "{refused}");
    let record = Plan { from: From::Record, ..plan() };
    let refused = bootstrap::bootstrap(&settings, &record, &Seams::real()).await.unwrap_err();
    assert!(refused.to_string().contains("--from record needs record.dsn"), "{refused}");
    cp_node::node::found(&settings, &Seams::real()).await.unwrap();
}
