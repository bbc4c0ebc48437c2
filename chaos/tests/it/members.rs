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
    let status = cluster.cp(3).ended(Duration::from_secs(15)).await.unwrap();
    assert!(status.success(), "{status}: {}", cluster.cp(3).log_end());
    cluster.cp(3).run().unwrap();
    let status = cluster.cp(3).ended(Duration::from_secs(15)).await.unwrap();
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

/// Asks for a change of the membership; the status and the text of the answer.
async fn change(cluster: &mut Cluster, through: u16, method: &str, path: &str) -> (u16, String) {
    let mut api = cluster.cp(through).api().patient(Duration::from_secs(15));
    match api.call(method, &format!("/v1/cluster/members/{path}"), &[], String::new()).await {
        Ok(reply) => (reply.status, reply.text()),
        Err(gone) => (0, gone.to_string()),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_voter_that_the_others_need_is_not_taken_away() {
    let mut cluster = Cluster::start(Layout::Test { cluster: 0 }, 3, 0, &[]).await.unwrap();
    let leader = cluster.leader().await.unwrap();
    let mut others = (1..=3).filter(|number| *number != leader);
    let (dead, alive) = (others.next().unwrap(), others.next().unwrap());
    let id = async |cluster: &mut Cluster, number| cluster.cp(number).api().status().await.unwrap().node_id;
    let (dead_id, alive_id) = (id(&mut cluster, dead).await, id(&mut cluster, alive).await);
    cluster.cp(dead).kill().await.unwrap();
    for (method, path) in [("POST", format!("{alive_id}/demote")), ("DELETE", alive_id.to_string())] {
        let (status, text) = change(&mut cluster, leader, method, &path).await;
        let wanted = format!("of the voters that are left, node {dead_id} does not answer");
        assert!(status == 409 && text.contains(&wanted), "{status} {text}");
    }
    cluster.cp(leader).api().put("routes", "r1", &route(1)).await.unwrap();
    // The dead one can go, and then the other.
    assert_eq!(change(&mut cluster, leader, "DELETE", &dead_id.to_string()).await.0, 204);
    assert_eq!(change(&mut cluster, leader, "POST", &format!("{alive_id}/demote")).await.0, 204);
    cluster.cp(leader).api().put("routes", "r2", &route(2)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_nobody_waits_for_any_more_is_still_made_whole() {
    let mut cluster = Cluster::start(Layout::Test { cluster: 0 }, 2, 0, &[]).await.unwrap();
    let leader = cluster.leader().await.unwrap();
    let other = 3 - leader;
    let other_id = cluster.cp(other).api().status().await.unwrap().node_id;
    // It votes as soon as the change that made it a voter has begun; that one must be over, or it is waited for instead.
    settled(&mut cluster, leader, &[]).await;
    // The one that is to lose its vote must agree to it, and cannot: the request gives up.
    cluster.cp(other).process().unwrap().pause().unwrap();
    let (status, text) = change(&mut cluster, leader, "POST", &format!("{other_id}/demote")).await;
    assert!(status == 504 && text.contains("look at the members"), "{status} {text}");
    cluster.cp(other).process().unwrap().resume().unwrap();
    settled(&mut cluster, leader, &[other_id]).await;
    // It really has no vote any more: the leader alone is a quorum.
    cluster.cp(other).kill().await.unwrap();
    cluster.cp(leader).api().put("routes", "r1", &route(1)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dying_leader_leaves_half_made_the_next_one_finishes() {
    let mut cluster = Cluster::start(Layout::Test { cluster: 0 }, 3, 0, &[]).await.unwrap();
    for round in 0..8u64 {
        let leader = cluster.leader().await.unwrap();
        let other = (1..=3).find(|number| *number != leader).unwrap();
        let other_id = cluster.cp(other).api().status().await.unwrap().node_id;
        let voter = cluster.cp(leader).api().members().await.unwrap().iter().any(|m| m.node_id == other_id && m.voter);
        let path = format!("{other_id}/{}", if voter { "demote" } else { "promote" });
        let mut api = cluster.cp(leader).api();
        let asking = tokio::spawn(async move {
            // It may be answered or not: the leader dies meanwhile.
            let _ = api.call("POST", &format!("/v1/cluster/members/{path}"), &[], String::new()).await;
        });
        tokio::time::sleep(Duration::from_millis(2 + round * 2)).await;
        cluster.cp(leader).kill().await.unwrap();
        asking.await.unwrap();
        cluster.cp(leader).run().unwrap();
        cluster.cp(leader).ready().await.unwrap();
        let leader = cluster.leader().await.unwrap();
        if round % 2 == 1 {
            // At once, while the change may still be half made: it must not cost the node its place.
            let mut api = cluster.cp(leader).api();
            let path = format!("/v1/cluster/members/{other_id}/promote");
            let _ = api.call("POST", &path, &[], String::new()).await;
        }
        settled(&mut cluster, leader, &[]).await;
        assert_eq!(cluster.cp(leader).api().members().await.unwrap().len(), 3, "round {round}: nobody was taken out");
        cluster.cp(leader).api().put("routes", "r1", &route(round)).await.unwrap();
    }
}

/// Waits until no change of the membership is half made, and `learners` have no vote.
async fn settled(cluster: &mut Cluster, through: u16, learners: &[u64]) {
    let mut api = cluster.cp(through).api();
    until("the membership is settled", READY_MAX, async || {
        let seen = api.call("GET", "/v1/cluster", &[], String::new()).await?.expect(&[200])?.json()?;
        let votes =
            |id: &u64| seen["members"].as_array().unwrap().iter().any(|m| m["node_id"] == *id && m["voter"] == true);
        anyhow_ensure(seen["changing"] == false && !learners.iter().any(votes), &seen.to_string())
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_comes_back_at_another_address_is_found_there() {
    let layout = Layout::Test { cluster: 0 };
    let mut cluster = Cluster::start(layout, 3, 0, &[]).await.unwrap();
    let leader = cluster.leader().await.unwrap();
    let moving = (1..=3).find(|number| *number != leader).unwrap();
    cluster.cp(moving).kill().await.unwrap();
    let moved = layout.link(moving);
    cluster.cp(moving).set(&[&format!("peer.listen={moved}"), "node.region=elsewhere"]);
    cluster.cp(moving).run().unwrap();
    cluster.cp(leader).api().put("routes", "r", &route(1)).await.unwrap();
    cluster.agree(READY_MAX).await.unwrap();
    let printed = cluster.cp(leader).printed();
    assert!(printed.contains("a node has moved") && printed.contains(&moved), "{printed}");
    // It votes as before, and is reached: with the third node gone it makes the quorum.
    let third = (1..=3).find(|number| ![leader, moving].contains(number)).unwrap();
    cluster.cp(third).kill().await.unwrap();
    cluster.cp(moving).api().put("routes", "s", &route(2)).await.unwrap();
    cluster.cp(leader).kill().await.unwrap();
    cluster.cp(third).run().unwrap();
    cluster.cp(third).ready().await.unwrap();
    cluster.cp(moving).api().put("routes", "t", &route(3)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_loses_its_vote_hands_over() {
    let mut cluster = Cluster::start(Layout::Test { cluster: 0 }, 3, 0, &[]).await.unwrap();
    let old = cluster.leader().await.unwrap();
    let id = cluster.cp(old).api().status().await.unwrap().node_id;
    let (status, said) = change(&mut cluster, old, "POST", &format!("{id}/demote")).await;
    assert_eq!(status, 204, "{said}");
    until("a voter leads", READY_MAX, async || {
        let status = cluster.cps[usize::from(old) - 1].api().status().await?;
        anyhow_ensure(
            status.role == "learner" && status.leader.is_some_and(|leader| leader != id),
            &format!("{status:?}"),
        )
    })
    .await
    .unwrap();
    // Writes come through everywhere, and the node that was demoted can lead again.
    for number in 1..=3 {
        cluster.cp(number).api().put("routes", &format!("r{number}"), &route(u64::from(number))).await.unwrap();
    }
    let (status, said) = change(&mut cluster, old, "POST", &format!("{id}/promote")).await;
    assert_eq!(status, 204, "{said}");
    let others: Vec<u16> = (1..=3).filter(|number| *number != old).collect();
    cluster.cp(others[0]).kill().await.unwrap();
    cluster.cp(old).api().put("routes", "again", &route(4)).await.unwrap();
    cluster.cp(others[0]).run().unwrap();
    cluster.agree(READY_MAX).await.unwrap();
}
