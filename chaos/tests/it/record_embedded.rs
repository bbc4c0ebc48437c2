//! The embedded record of nodes that crash and come late.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use chaos::cluster::{Api, Cluster};
use chaos::http::Client;
use chaos::patience::until;
use serde_json::{Value, json};

use super::record::{DRAIN_MAX, layout, route};

#[tokio::test(flavor = "multi_thread")]
async fn a_node_without_postgres_keeps_its_own_past_through_crashes_and_states_what_it_missed() {
    let small = ["raft.snapshot_entries=100", "raft.keep_entries=50"];
    let mut cluster = Cluster::start(layout(), 3, 0, &small).await.unwrap();
    let history = async |api: &mut Api| -> Value {
        let history = api.call("GET", "/v1/history?limit=1000", &[], String::new()).await.unwrap();
        history.expect(&[200]).unwrap().json().unwrap()
    };
    let revisions = |history: &Value| -> Vec<u64> {
        history["list"].as_array().unwrap().iter().map(|row| row["revision"].as_u64().unwrap()).collect()
    };
    for n in 0..30 {
        cluster.cp(1).api().put("routes", "r1", &route(&format!("v{n}"))).await.unwrap();
    }
    // It crashes, and comes back with everything: the log has what its own disk lacks.
    cluster.cp(2).kill().await.unwrap();
    cluster.cp(2).run().unwrap();
    cluster.cp(2).ready().await.unwrap();
    cluster.agree(Duration::from_secs(30)).await.unwrap();
    let told = history(&mut cluster.cp(2).api()).await;
    assert_eq!(revisions(&told), (1..=30).rev().collect::<Vec<_>>(), "{told}");
    assert_eq!(told["gaps"], json!([]));
    // It is away until the log has let go of what it lacks.
    let before = cluster.cp(2).api().status().await.unwrap().revision;
    cluster.cp(2).kill().await.unwrap();
    let metrics = cluster.cp(1).addresses.status.clone();
    let metric = async |name: &str| -> Result<u64> {
        let text = Client::new(&metrics).get("/metrics").await?.expect(&[200])?.text();
        let line = text.lines().find(|line| line.split(' ').next() == Some(name)).context("no such metric")?;
        Ok(line.rsplit(' ').next().context("a value")?.parse::<f64>()? as u64)
    };
    let applied = metric("holdfast_cp_raft_applied_index").await.unwrap();
    let mut last = 29;
    until("the log has let go of what it lacks", DRAIN_MAX, async || {
        for _ in 0..50 {
            last += 1;
            cluster.cp(1).api().put("routes", "r1", &route(&format!("v{last}"))).await?;
        }
        let purged = metric("holdfast_cp_raft_purged_index").await?;
        ensure!(purged > applied + 50, "purged up to {purged}, the node has {applied}");
        Ok(())
    })
    .await
    .unwrap();
    let head = last + 2;
    cluster.cp(2).run().unwrap();
    cluster.cp(2).ready().await.unwrap();
    cluster.cp(1).api().put("routes", "r1", &route("last")).await.unwrap();
    cluster.agree(Duration::from_secs(30)).await.unwrap();
    assert!(cluster.cp(2).printed().contains("a snapshot was installed"), "{}", cluster.cp(2).log_end());
    let told = history(&mut cluster.cp(2).api()).await;
    let gaps = told["gaps"].as_array().unwrap();
    assert_eq!(gaps.len(), 1, "{gaps:?}");
    let ends =
        |gap: &Value, name: &str| gap[name].as_str().unwrap().rsplit('-').next().unwrap().parse::<u64>().unwrap();
    let (after, upto) = (ends(&gaps[0], "after"), ends(&gaps[0], "upto"));
    assert!((1..=before).contains(&after) && upto > before, "{gaps:?}");
    let held: Vec<u64> = (upto + 1..=head).rev().chain((1..=after).rev()).collect();
    assert_eq!(revisions(&told), held, "everything but the gap");
    let then = async |api: &mut Api, revision: u64| {
        api.call("GET", &format!("/apisix/admin/routes/r1?at_revision={revision}"), &[], String::new()).await.unwrap()
    };
    let mut api = cluster.cp(2).api();
    assert_eq!(
        then(&mut api, after - 1).await.expect(&[200]).unwrap().json().unwrap()["value"]["desc"],
        format!("v{}", after - 2)
    );
    then(&mut api, upto - 5).await.expect(&[404]).unwrap();
    // Another node was there all the time.
    let told = history(&mut cluster.cp(1).api()).await;
    assert_eq!(revisions(&told), (1..=head).rev().collect::<Vec<_>>());
    assert_eq!(
        then(&mut cluster.cp(1).api(), upto - 5).await.expect(&[200]).unwrap().json().unwrap()["value"]["desc"],
        format!("v{}", upto - 6)
    );
}
