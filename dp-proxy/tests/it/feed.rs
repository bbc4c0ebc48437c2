//! Following a control plane that misbehaves.

use std::time::Duration;

use serde_json::json;

use crate::harness::control_plane::{ControlPlane, Twist};
use crate::harness::origin::Origin;
use crate::harness::proxy::{Dp, Scene, route, settings};
use crate::harness::until;

#[tokio::test(flavor = "multi_thread")]
async fn a_change_is_served_and_acknowledged() {
    let (one, two) = (Origin::named("one").await, Origin::named("two").await);
    let scene = Scene::with(&[("routes", "r", route("/a", one.address))]).await;
    assert_eq!(scene.dp.get("/a").await.header("x-origin"), Some("one"));
    let position = scene.control_plane.put("routes", "r", route("/a", two.address));
    scene.dp.serves(&scene.control_plane).await;
    assert_eq!(scene.dp.get("/a").await.header("x-origin"), Some("two"));
    let (_, digest) = scene.control_plane.expected();
    until("the ack", async || {
        scene.node.heard(|heard| {
            heard
                .acks
                .last()
                .is_some_and(|ack| ack.position == Some(position.into()) && ack.digest[..] == digest.0 && !ack.volatile)
        })
    })
    .await;
    scene.control_plane.commit(&[("routes", "r", None)]);
    scene.dp.serves(&scene.control_plane).await;
    assert_eq!(scene.dp.get("/a").await.status, 404);
    let hello = scene.node.heard(|heard| heard.hellos[0].clone());
    assert_eq!((hello.name.as_str(), hello.group.as_str(), hello.instance.len()), ("dp-test", "default", 16));
    assert!(hello.capabilities.contains(&"kind/routes".to_owned()));
}

#[tokio::test(flavor = "multi_thread")]
async fn law_8_whatever_a_node_does_wrong_the_proxy_reaches_its_position() {
    let origin = Origin::echo().await;
    let scene = Scene::with(&[("routes", "r", route("/0", origin.address))]).await;
    let mut n = 0;
    for twist in [Twist::Drop, Twist::WrongDigest, Twist::Twice, Twist::CutInside, Twist::Garble] {
        scene.node.twist(twist.clone());
        for _ in 0..3 {
            n += 1;
            let uri = format!("/{n}");
            scene.put("routes", "r", route(&uri, origin.address)).await;
            assert_eq!(scene.dp.get(&uri).await.status, 200, "after {twist:?}");
        }
        assert_eq!(scene.node.twists_left(), 0, "{twist:?} was done");
    }
    // A wrong digest was mended in place, and nothing but the first contact took everything.
    assert_eq!(scene.node.heard(|heard| (heard.mends, heard.fulls)), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_mended_comes_in_full() {
    let origin = Origin::echo().await;
    let scene = Scene::with(&[("routes", "r", route("/0", origin.address))]).await;
    scene.node.behave(|manner| manner.bad_repair = true);
    scene.node.twist(Twist::WrongDigest);
    scene.put("routes", "r", route("/1", origin.address)).await;
    assert_eq!(scene.dp.get("/1").await.status, 200);
    assert_eq!(scene.node.heard(|heard| (heard.mends, heard.fulls)), (1, 2));
    // It goes on by steps from there.
    scene.put("routes", "r", route("/2", origin.address)).await;
    assert_eq!(scene.node.heard(|heard| heard.fulls), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn payloads_come_in_parts_and_compressed() {
    let origin = Origin::echo().await;
    let control_plane = ControlPlane::new();
    let routes: Vec<String> = (0..2000).map(|n| format!("r{n}")).collect();
    let changes: Vec<_> =
        routes.iter().map(|id| ("routes", id.as_str(), Some(route(&format!("/{id}"), origin.address)))).collect();
    control_plane.commit(&changes);
    let node = control_plane.node().await;
    node.behave(|manner| (manner.part_bytes, manner.compress) = (1000, true));
    let dir = tempfile::tempdir().unwrap();
    let dp = Dp::following(dir.path(), &[&node]).await;
    dp.serves(&control_plane).await;
    control_plane.commit(&[("routes", "r7", None)]);
    dp.serves(&control_plane).await;
    assert_eq!((dp.get("/r7").await.status, dp.get("/r8").await.status), (404, 200));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_of_another_group_only_moves_the_position() {
    let origin = Origin::echo().await;
    let scene = Scene::with(&[("routes", "r", route("/a", origin.address))]).await;
    scene.control_plane.commit_in("edge", &[("routes", "secret", Some(route("/secret", origin.address)))]);
    scene.dp.serves(&scene.control_plane).await;
    assert_eq!(scene.dp.get("/secret").await.status, 404);
    let config = scene.dp.config().await;
    assert_eq!(
        (&config["position"], &config["changed_at"], &config["resources"]),
        (&json!("1-2"), &json!("1-1"), &json!(1))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_empty_configuration_counts_once_a_control_plane_says_so() {
    let control_plane = ControlPlane::new();
    let node = control_plane.node().await;
    node.behave(|manner| manner.silent = true);
    let dir = tempfile::tempdir().unwrap();
    let dp = Dp::start(&settings(dir.path(), &[&node])).await;
    let ready = dp.status("/status/ready").await;
    let expected = json!({"status": "error", "error": "worker id: 0 has not received configuration"});
    assert_eq!((ready.status, ready.json()), (503, expected));
    assert_eq!(dp.status("/status").await.json(), json!({"status": "ok"}));
    node.behave(|manner| manner.silent = false);
    dp.ready().await;
    assert_eq!(dp.get("/").await.text(), "{\"error_msg\":\"404 Route Not Found\"}\n");
    assert_eq!(dp.status("/status/ready").await.json(), json!({"status": "ok"}));
    // And it is remembered.
    drop((dp, node));
    let dp = Dp::start(&settings(dir.path(), &[])).await;
    dp.ready().await;
    assert_eq!(dp.config().await["source"], "disk");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_says_nothing_any_more_is_left_for_another() {
    let origin = Origin::echo().await;
    let control_plane = ControlPlane::new();
    control_plane.put("routes", "r", route("/0", origin.address));
    let nodes = [control_plane.node().await, control_plane.node().await];
    for node in &nodes {
        node.behave(|manner| manner.silence_max = Duration::from_secs(1));
    }
    let dir = tempfile::tempdir().unwrap();
    let dp = Dp::following(dir.path(), &[&nodes[0], &nodes[1]]).await;
    for round in 1..4 {
        let followed = usize::from(nodes[1].streams() > 0);
        // Frozen: its connection stays open, and nothing comes.
        nodes[followed].behave(|manner| manner.silent = true);
        control_plane.put("routes", "r", route(&format!("/{round}"), origin.address));
        dp.serves(&control_plane).await;
        assert_eq!(dp.get(&format!("/{round}")).await.status, 200);
        nodes[followed].behave(|manner| manner.silent = false);
        until("the silent node's stream is over", async || nodes[followed].streams() == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_lost_its_leader_is_left_when_another_is_fresher() {
    let origin = Origin::echo().await;
    let control_plane = ControlPlane::new();
    control_plane.put("routes", "r", route("/0", origin.address));
    let isolated = control_plane.stale_node().await;
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path(), &[&isolated]);
    // While nobody is fresher, it is stayed with.
    let other = control_plane.stale_node().await;
    settings.control_plane.endpoints.push(other.address.to_string());
    let dp = Dp::start(&settings).await;
    dp.ready().await;
    let (first, second) = if isolated.streams() > 0 { (isolated, other) } else { (other, isolated) };
    for node in [&first, &second] {
        node.behave(|manner| manner.leader_age = Duration::from_secs(60));
    }
    until("the other node was asked", async || second.heard(|heard| !heard.hellos.is_empty())).await;
    until("and left again", async || second.streams() == 0).await;
    assert_eq!(first.streams(), 1, "it is stayed with");
    // The other has its leader back: it is moved to, and nothing was missed meanwhile.
    second.behave(|manner| manner.leader_age = Duration::ZERO);
    until("the fresher node is followed", async || (first.streams(), second.streams()) == (0, 1)).await;
    assert_eq!(dp.get("/0").await.status, 200);
    until("the page names the node", async || dp.config().await["control_plane"]["connected"] == json!(true)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn law_4_a_node_behind_is_left_and_nothing_goes_back() {
    let origin = Origin::echo().await;
    let control_plane = ControlPlane::new();
    control_plane.put("routes", "r", route("/old", origin.address));
    let behind = control_plane.stale_node().await;
    control_plane.put("routes", "r", route("/new", origin.address));
    let ahead = control_plane.node().await;
    let dir = tempfile::tempdir().unwrap();
    drop(Dp::following(dir.path(), &[&ahead]).await);
    // Only the one behind can be reached: it is asked again and again, and what is held stays.
    let dp = Dp::following(dir.path(), &[&behind]).await;
    until("it was asked some times", async || behind.heard(|heard| heard.hellos.len() > 3)).await;
    assert_eq!((dp.get("/new").await.status, dp.get("/old").await.status), (200, 404));
    drop(dp);
    let dp = Dp::following(dir.path(), &[&behind, &ahead]).await;
    control_plane.put("routes", "s", route("/newer", origin.address));
    dp.serves(&control_plane).await;
    // A restore is the only way back.
    drop(dp);
    let restored = ControlPlane::in_epoch(2);
    restored.put("routes", "r", route("/restored", origin.address));
    let node = restored.node().await;
    let dp = Dp::following(dir.path(), &[&node]).await;
    dp.serves(&restored).await;
    assert_eq!((dp.get("/restored").await.status, dp.get("/newer").await.status), (200, 404));
}

#[tokio::test(flavor = "multi_thread")]
async fn another_cluster_is_refused() {
    let origin = Origin::echo().await;
    let control_plane = ControlPlane::new();
    control_plane.put("routes", "r", route("/mine", origin.address));
    let node = control_plane.node().await;
    let dir = tempfile::tempdir().unwrap();
    drop(Dp::following(dir.path(), &[&node]).await);
    let elsewhere = ControlPlane::in_epoch(9);
    elsewhere.put("routes", "r", route("/theirs", origin.address));
    let foreign = elsewhere.node().await;
    foreign.behave(|manner| manner.cluster = protocol::snapshot::ClusterId([0xee; 16]));
    let dp = Dp::following(dir.path(), &[&foreign]).await;
    until("it was asked some times", async || foreign.heard(|heard| heard.hellos.len() > 2)).await;
    assert_eq!((dp.get("/mine").await.status, dp.get("/theirs").await.status), (200, 404));
    assert_eq!(dp.config().await["control_plane"]["connected"], json!(false));
    // A node that refuses is asked again, politely.
    foreign.behave(|manner| manner.refuse = Some("not today".into()));
    until("the refusal", async || foreign.streams() == 0).await;
    assert_eq!(dp.get("/mine").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_served_is_told_and_keeps_its_last_good_entry_over_a_restart() {
    let origin = Origin::echo().await;
    let control_plane = ControlPlane::new();
    control_plane.put("routes", "good", route("/good", origin.address));
    let node = control_plane.node().await;
    let dir = tempfile::tempdir().unwrap();
    let dp = Dp::following(dir.path(), &[&node]).await;
    let spoilt = |uri: &str| json!({"uri": uri, "plugins": {"from-tomorrow": {}}});
    control_plane.commit(&[("routes", "good", Some(spoilt("/good"))), ("routes", "new", Some(spoilt("/new")))]);
    dp.serves(&control_plane).await;
    let check = async |dp: &Dp| {
        assert_eq!((dp.get("/good").await.status, dp.get("/new").await.status), (200, 503));
        let config = dp.config().await;
        let reason = r#"$.plugins["from-tomorrow"]: unknown plugin [from-tomorrow]"#;
        assert_eq!(
            config["rejected"],
            json!([
                {"kind": "routes", "id": "good", "reason": reason, "last_good": true},
                {"kind": "routes", "id": "new", "reason": reason, "last_good": false},
            ])
        );
        assert_eq!(config["last_good"], json!(["routes/good"]));
    };
    check(&dp).await;
    until("the ack names them", async || {
        node.heard(|heard| heard.acks.last().is_some_and(|ack| ack.rejected.len() == 2 && ack.rejected[0].last_good))
    })
    .await;
    drop(dp);
    let dp = Dp::following(dir.path(), &[]).await;
    check(&dp).await;
    drop(dp);
    // It is told anew on every stream: the control plane may have forgotten.
    let dp = Dp::following(dir.path(), &[&node]).await;
    until("the ack names them again", async || {
        node.heard(|heard| heard.hellos.len() >= 2 && heard.acks.last().is_some_and(|ack| ack.rejected.len() == 2))
    })
    .await;
    check(&dp).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn law_6_two_thousand_changes_cost_no_request() {
    let origin = Origin::echo().await;
    let scene = Scene::with(&[("routes", "r", route("/a", origin.address))]).await;
    let address = scene.dp.address();
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let stop = stop.clone();
            tokio::spawn(async move {
                let mut client = crate::harness::client::Client::connect(address).await;
                let (mut good, mut bad) = (0u32, 0u32);
                while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                    match client.get("test.example", "/a").await.status {
                        200 => good += 1,
                        _ => bad += 1,
                    }
                }
                (good, bad)
            })
        })
        .collect();
    for n in 0..2000 {
        let mut body = route("/a", origin.address);
        body["desc"] = json!(n.to_string());
        scene.control_plane.put("routes", "r", body);
        scene.control_plane.put("routes", &format!("other-{}", n % 50), route(&format!("/other/{n}"), origin.address));
        if n % 20 == 0 {
            scene.dp.serves(&scene.control_plane).await;
        }
    }
    scene.dp.serves(&scene.control_plane).await;
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    let (mut good, mut bad) = (0, 0);
    for client in clients {
        let (more_good, more_bad) = client.await.unwrap();
        (good, bad) = (good + more_good, bad + more_bad);
    }
    assert!(good > 100 && bad == 0, "{good} answered, {bad} not");
    assert_eq!(
        scene.node.heard(|heard| (heard.fulls, heard.mends, heard.hellos.len())),
        (1, 0, 1),
        "one orderly stream"
    );
    until("replaced tables are taken apart", async || scene.dp.metric("holdfast_dp_tables_retained").await < 4.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_burst_of_messages_is_taken_whole() {
    let origin = Origin::echo().await;
    let scene = Scene::with(&[("routes", "r", route("/0", origin.address))]).await;
    // Each byte is a message: more of them wait than are taken together.
    scene.node.behave(|manner| manner.part_bytes = 1);
    let ids: Vec<String> = (0..50).map(|n| format!("r{n}")).collect();
    let changes: Vec<_> =
        ids.iter().map(|id| ("routes", id.as_str(), Some(route(&format!("/{id}"), origin.address)))).collect();
    scene.control_plane.commit(&changes);
    scene.dp.serves(&scene.control_plane).await;
    assert_eq!(scene.dp.get("/r49").await.status, 200);
    assert_eq!(scene.node.heard(|heard| heard.hellos.len()), 1, "nothing was missing, nothing was asked for again");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_fresher_node_says_is_taken_in_its_order() {
    let origin = Origin::echo().await;
    let control_plane = ControlPlane::new();
    control_plane.put("routes", "r", route("/0", origin.address));
    let isolated = control_plane.stale_node().await;
    let fresher = control_plane.node().await;
    fresher.behave(|manner| (manner.refuse, manner.part_bytes) = (Some("not yet".into()), 1));
    let dir = tempfile::tempdir().unwrap();
    let dp = Dp::following(dir.path(), &[&isolated, &fresher]).await;
    until("the isolated node is followed", async || isolated.streams() == 1).await;
    // What the other has is more than one message, of which the first tells that it is fresher.
    control_plane.put("routes", "r", route("/1", origin.address));
    fresher.behave(|manner| manner.refuse = None);
    isolated.behave(|manner| manner.leader_age = Duration::from_secs(60));
    dp.serves(&control_plane).await;
    assert_eq!(dp.get("/1").await.status, 200);
    let asked = fresher.heard(|heard| heard.hellos.last().unwrap().position.clone());
    control_plane.put("routes", "r", route("/2", origin.address));
    dp.serves(&control_plane).await;
    assert_eq!(fresher.heard(|heard| heard.hellos.last().unwrap().position.clone()), asked, "it was not asked again");
}
