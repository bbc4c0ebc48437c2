//! Proxies find the nodes that know the most, whoever they are.

use chaos::cluster::{Cluster, READY_MAX};
use chaos::layout::Layout;
use chaos::link::Link;
use chaos::patience::until;
use serde_json::json;

use super::admin_load::anyhow_ensure;

fn route(path: &str) -> serde_json::Value {
    json!({"uri": path, "upstream": {"nodes": {"127.0.0.1:1": 1}}})
}

#[tokio::test(flavor = "multi_thread")]
async fn leader_follower_and_learner_all_feed() {
    let mut cluster = Cluster::start(Layout::Test { cluster: 0 }, 2, 0, &[]).await.unwrap();
    cluster.add_cp(3, &["cluster.voter=false"]).await.unwrap();
    let learner = cluster.cp(3).api().status().await.unwrap();
    assert_eq!(learner.role, "learner");
    for number in 1..=3 {
        let feed = cluster.cp(number).addresses.feed.clone();
        cluster.add_dp_with(number, &[&format!("control_plane.endpoints=[{feed}]")]).await.unwrap();
    }
    for n in 0..20 {
        cluster.cp(1 + n % 3).api().put("routes", &format!("r{n}"), &route(&format!("/r{n}"))).await.unwrap();
    }
    cluster.agree(READY_MAX).await.unwrap();
    let mut expected = Vec::new();
    for number in 1..=3 {
        let view = cluster.dp(number).view().await.unwrap();
        let node = cluster.cp(number).api().status().await.unwrap();
        assert_eq!((view.follows, view.revision), (Some(node.node_id), 20));
        expected.push((format!("dp-{number}"), node.node_id, Some(20)));
    }
    for number in 1..=3 {
        // A proxy tells its node what it serves a moment after it does.
        let mut api = cluster.cp(number).api();
        until("each node has asked the others", READY_MAX, async || {
            let fleet = api.fleet().await?;
            anyhow_ensure(fleet == expected, &format!("{fleet:?}"))
        })
        .await
        .unwrap();
    }
}

/// Starts the proxy again until it follows one of these nodes: which of several it begins with is a matter of chance.
async fn follow(cluster: &mut Cluster, nodes: &[u64]) -> u64 {
    loop {
        let dp = &cluster.dps[0];
        let followed = until("the proxy follows a node", READY_MAX, async || {
            dp.view().await?.follows.ok_or_else(|| anyhow::anyhow!("none"))
        });
        let followed = followed.await.unwrap();
        if nodes.contains(&followed) {
            return followed;
        }
        cluster.dp(1).kill().await.unwrap();
        cluster.dp(1).run().unwrap();
        cluster.dp(1).answers().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_behind_a_paused_follower_moves_to_a_fresher_node() {
    let mut cluster = Cluster::start(Layout::Test { cluster: 0 }, 3, 1, &["feed.heartbeat=250ms"]).await.unwrap();
    let leader = cluster.leader().await.unwrap();
    let mut ids = Vec::new();
    for number in (1..=3).filter(|number| *number != leader) {
        ids.push(cluster.cp(number).api().status().await.unwrap().node_id);
    }
    cluster.cp(leader).api().put("routes", "before", &route("/before")).await.unwrap();
    let paused = follow(&mut cluster, &ids).await;
    cluster.agree(READY_MAX).await.unwrap();
    let number = cluster.number_of(paused).await.unwrap();
    // It stops where it stands: its connections stay open, and say nothing any more.
    cluster.cp(number).process().unwrap().pause().unwrap();
    cluster.cp(leader).api().put("routes", "after", &route("/after")).await.unwrap();
    until("the proxy has moved, and has the change", READY_MAX, async || {
        let view = cluster.dps[0].view().await?;
        anyhow_ensure(view.revision == 2 && view.follows != Some(paused), &format!("{view:?}"))
    })
    .await
    .unwrap();
    cluster.cp(number).process().unwrap().resume().unwrap();
    cluster.agree(READY_MAX).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_leaves_a_node_that_has_lost_its_leader() {
    let layout = Layout::Test { cluster: 0 };
    let mut cluster = Cluster::start(layout, 2, 0, &["feed.heartbeat=250ms"]).await.unwrap();
    // The others reach the third node, a learner, over a link that can be cut; its proxies reach it all the same.
    let link = Link::start(&layout.link(1), &layout.cp(3).peer, 1_000_000_000).await.unwrap();
    let advertise = format!("peer.advertise={}", layout.link(1));
    cluster.add_cp(3, &["cluster.voter=false", "feed.heartbeat=250ms", &advertise]).await.unwrap();
    cluster.add_dp_with(1, &["control_plane.stale_after=1s"]).await.unwrap();
    cluster.cp(1).api().put("routes", "before", &route("/before")).await.unwrap();
    let cut_off = cluster.cp(3).api().status().await.unwrap().node_id;
    follow(&mut cluster, &[cut_off]).await;
    cluster.agree(READY_MAX).await.unwrap();
    drop(link);
    cluster.cp(1).api().put("routes", "after", &route("/after")).await.unwrap();
    until("the proxy has moved, and has the change", READY_MAX, async || {
        let view = cluster.dps[0].view().await?;
        anyhow_ensure(view.revision == 2 && view.follows != Some(cut_off), &format!("{view:?}"))
    })
    .await
    .unwrap();
    assert!(cluster.dp(1).printed().contains("moving to a fresher node"), "{}", cluster.dp(1).printed());
    let behind = cluster.cp(3).api().status().await.unwrap();
    assert_eq!(behind.revision, 1, "the node itself runs, and knows no better");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_node_without_a_leader_is_no_source_of_an_empty_configuration() {
    let mut cluster = Cluster::start(Layout::Test { cluster: 0 }, 2, 0, &[]).await.unwrap();
    cluster.cp(1).kill().await.unwrap();
    cluster.cp(2).kill().await.unwrap();
    // What it has on its disk may be the beginning of more.
    cluster.cp(1).run().unwrap();
    cluster.add_dp(1).await.unwrap();
    until("the proxy is told so", READY_MAX, async || {
        let printed = cluster.dps[0].printed();
        anyhow_ensure(printed.contains("this node has no configuration yet: no leader is known"), &printed)
    })
    .await
    .unwrap();
    let ready = cluster.dp(1).client().get("/status/ready").await;
    assert!(ready.is_err(), "it listens");
    // With a leader, an empty configuration is one.
    cluster.cp(2).run().unwrap();
    cluster.dp(1).ready().await.unwrap();
}
