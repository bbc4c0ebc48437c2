//! Nodes come, go, lose their disks, and never come back as somebody that they no longer are.

use std::time::Duration;

use chaos::cluster::{Cluster, READY_MAX};
use chaos::layout::Layout;
use chaos::patience::until;
use serde_json::json;

use super::admin_load::{AdminLoad, anyhow_ensure};

fn route(n: u64) -> serde_json::Value {
    json!({"uri": format!("/r{n}"), "upstream": {"nodes": {"127.0.0.1:1": 1}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wiped_node_rejoins_under_a_new_id() {
    let mut cluster = Cluster::start(Layout::Test { cluster: 0 }, 3, 1, &[]).await.unwrap();
    let load = AdminLoad::start(&cluster, 2);
    load.progress(50, READY_MAX).await;
    let old = cluster.cp(3).api().status().await.unwrap().node_id;
    cluster.cp(3).kill().await.unwrap();
    cluster.cp(3).wipe().unwrap();
    // Its disk is empty: it waits to be taken in, and its old self still counts as a voter that is away.
    let peers = [cluster.cp(1).addresses.peer.clone(), cluster.cp(2).addresses.peer.clone()];
    cluster.cp(3).join(&peers);
    cluster.cp(3).run().unwrap();
    cluster.cp(3).ready().await.unwrap();
    let new = cluster.cp(3).api().status().await.unwrap().node_id;
    assert!(new > old, "it is node {new}, it was {old}");
    let mut api = cluster.cp(1).api();
    api.call("DELETE", &format!("/v1/cluster/members/{old}"), &[], String::new())
        .await
        .unwrap()
        .expect(&[204])
        .unwrap();
    until("the new voter in the old one's place", READY_MAX, async || {
        let members = api.members().await?;
        let voters: Vec<u64> = members.iter().filter(|member| member.voter).map(|member| member.node_id).collect();
        anyhow_ensure(voters == [1, 2, new], &format!("voters {voters:?}"))
    })
    .await
    .unwrap();
    load.progress(50, READY_MAX).await;
    let promises = load.stop().await;
    cluster.agree(READY_MAX).await.unwrap();
    for number in 1..=3 {
        promises.check(&mut cluster.cp(number).api()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_leaves_and_does_not_come_back_as_itself() {
    let mut cluster = Cluster::start(Layout::Test { cluster: 0 }, 3, 0, &[]).await.unwrap();
    let left = cluster.cp(3).api().status().await.unwrap().node_id;
    cluster.cp(3).leave().await.unwrap();
    let status = cluster.cp(3).process().unwrap().ended(Duration::from_secs(15)).await.unwrap();
    assert!(status.success(), "{status}: {}", cluster.cp(3).log_end());
    cluster.cp(3).run().unwrap();
    let status = cluster.cp(3).process().unwrap().ended(Duration::from_secs(15)).await.unwrap();
    assert_eq!(status.code(), Some(1));
    assert!(cluster.cp(3).log_end().contains("has left its cluster"), "{}", cluster.cp(3).log_end());
    let members = cluster.cp(1).api().members().await.unwrap();
    assert!(members.len() == 2 && members.iter().all(|member| member.node_id != left), "{members:?}");
    cluster.cp(1).api().put("routes", "r1", &route(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_of_another_cluster_is_refused() {
    let mut ours = Cluster::start(Layout::Test { cluster: 0 }, 1, 0, &[]).await.unwrap();
    let mut theirs = Cluster::start(Layout::Test { cluster: 1 }, 2, 1, &[]).await.unwrap();
    theirs.cp(1).api().put("routes", "theirs", &route(1)).await.unwrap();
    theirs.dp(1).ready().await.unwrap();
    ours.cp(1).api().put("routes", "ours", &route(2)).await.unwrap();
    // Our node comes up where another cluster's member is expected.
    let expected = theirs.cp(2).addresses.peer.clone();
    theirs.cp(2).kill().await.unwrap();
    ours.cp(1).terminate(Duration::from_secs(10)).await.unwrap();
    ours.cp(1).set(&[&format!("peer.listen={expected}")]);
    ours.cp(1).run().unwrap();
    ours.cp(1).ready().await.unwrap();
    until("their node is told who answers there", READY_MAX, async || {
        let printed = theirs.cps[0].printed();
        anyhow_ensure(printed.contains("the message is of cluster"), &printed)
    })
    .await
    .unwrap();
    // And their proxy comes to our node.
    let feed = ours.cp(1).addresses.feed.clone();
    theirs.dp(1).kill().await.unwrap();
    theirs.dp(1).set(&[&format!("control_plane.endpoints=[{feed}]")]);
    theirs.dp(1).run().unwrap();
    until("the proxy says why it does not follow", READY_MAX, async || {
        let printed = theirs.dps[0].printed();
        anyhow_ensure(printed.contains("this is cluster"), &printed)
    })
    .await
    .unwrap();
    let view = theirs.dp(1).view().await.unwrap();
    assert_eq!((view.revision, view.follows), (1, None), "it serves what it has");
    assert!(ours.cp(1).api().get("routes", "theirs").await.unwrap().is_none());
    assert!(ours.cp(1).api().get("routes", "ours").await.unwrap().is_some());
    // Their own node comes back, and all is well.
    ours.cp(1).terminate(Duration::from_secs(10)).await.unwrap();
    theirs.cp(2).run().unwrap();
    theirs.cp(2).ready().await.unwrap();
    theirs.cp(1).api().put("routes", "more", &route(3)).await.unwrap();
}
