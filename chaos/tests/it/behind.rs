//! A node that was away for so long that the log has moved on: it is sent the snapshot.

use std::time::Duration;

use chaos::cluster::{Cluster, READY_MAX};
use chaos::http::Client;
use chaos::layout::Layout;
use chaos::patience::until;

use super::admin_load::{AdminLoad, anyhow_ensure};

const SMALL: [&str; 2] = ["raft.snapshot_entries=100", "raft.keep_entries=50"];

async fn metric(address: &str, name: &str) -> anyhow::Result<u64> {
    let text = Client::new(address).get("/metrics").await?.expect(&[200])?.text();
    let line = text.lines().find(|line| line.split(' ').next() == Some(name));
    let value = line.and_then(|line| line.split(' ').nth(1)).ok_or_else(|| anyhow::anyhow!("no {name} in\n{text}"))?;
    Ok(value.parse::<f64>()? as u64)
}

#[tokio::test(flavor = "multi_thread")]
async fn it_gets_the_snapshot_and_then_the_log() {
    let mut cluster = Cluster::start(Layout::Test { cluster: 0 }, 3, 1, &SMALL).await.unwrap();
    let load = AdminLoad::start(&cluster, 2);
    load.progress(20, READY_MAX).await;
    let leader = cluster.leader().await.unwrap();
    let away = if leader == 3 { 2 } else { 3 };
    cluster.cp(away).kill().await.unwrap();
    let last = metric(&cluster.cp(leader).addresses.status, "holdfast_cp_raft_applied_index").await.unwrap();
    let status = cluster.cp(leader).addresses.status.clone();
    // The log goes on well past what the node has, and lets go of it.
    until("the log is purged past the node that is away", Duration::from_secs(60), async || {
        let purged = metric(&status, "holdfast_cp_raft_purged_index").await?;
        anyhow_ensure(purged > last + 100, &format!("purged up to {purged}, the node has {last}"))
    })
    .await
    .unwrap();
    cluster.cp(away).run().unwrap();
    cluster.cp(away).ready().await.unwrap();
    load.progress(50, READY_MAX).await;
    let promises = load.stop().await;
    cluster.agree(READY_MAX).await.unwrap();
    promises.check(&mut cluster.cp(away).api()).await;
    let printed = cluster.cp(away).printed();
    assert!(printed.contains("a snapshot was installed"), "{printed}");
    // And from its own disk it is the same again.
    cluster.cp(away).kill().await.unwrap();
    cluster.cp(away).run().unwrap();
    cluster.cp(away).ready().await.unwrap();
    cluster.agree(READY_MAX).await.unwrap();
    assert!(!printed.contains("ERROR"), "{printed}");
}
