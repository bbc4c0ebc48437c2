//! Clients that wait for the fleet: a 200 means that every proxy concerned serves the change, whatever else goes on.

use std::collections::BTreeMap;
use std::time::Duration;

use chaos::cluster::{Api, Cluster, READY_MAX};
use chaos::http::Reply;
use chaos::layout::Layout;
use chaos::patience::until;
use chaos::upstream::Upstream;
use chaos::wide_fleet::{self, Plan};
use serde_json::json;

use super::admin_load::anyhow_ensure;

const REGIONS: [&str; 3] = ["eu", "us", "ap"];

/// After so long a node that was restarted, or a proxy that has gone, is out of the reckoning.
const LOST_AFTER: &str = "feed.lost_after=2s";

/// Changes that are waited for before, and again after, each death of a node.
const CHANGES: usize = 25;

async fn fleet(proxies: u16) -> (Cluster, Upstream) {
    let layout = Layout::Test { cluster: 0 };
    let mut cluster = Cluster::start(layout, 3, 0, &[LOST_AFTER, "feed.heartbeat=250ms"]).await.unwrap();
    for number in 1..=proxies {
        let region = REGIONS[usize::from(number) % REGIONS.len()];
        cluster.add_dp_with(number, &[&format!("node.region={region}"), "proxy.workers=1"]).await.unwrap();
    }
    let upstream = Upstream::start("one", &layout.upstream(1)).await.unwrap();
    cluster.cp(1).api().put("upstreams", "u", &json!({"nodes": {upstream.address.clone(): 1}})).await.unwrap();
    cluster.agree(READY_MAX).await.unwrap();
    (cluster, upstream)
}

async fn change(api: &mut Api, name: &str, query: &str) -> Reply {
    let body = json!({"uri": format!("/{name}"), "upstream_id": "u"}).to_string();
    api.call("PUT", &format!("/apisix/admin/routes/{name}{query}"), &[], body).await.unwrap()
}

/// The first request to every proxy gets the new answer.
async fn is_served_everywhere(cluster: &Cluster, name: &str) {
    for dp in cluster.dps.iter().filter(|dp| dp.is_running()) {
        let reply = dp.client().get(&format!("/{name}")).await.unwrap();
        assert_eq!(reply.status, 200, "{} does not serve {name}", dp.name());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_200_the_first_request_to_every_proxy_gets_the_new_answer_while_nodes_die() {
    let (mut cluster, _upstream) = fleet(6).await;
    let mut seen: BTreeMap<u16, usize> = BTreeMap::new();
    for round in 0..4u16 {
        let victim = round % 3 + 1;
        for n in 0..CHANGES {
            let name = format!("c{round}-{n}");
            let cp = u16::try_from(n % 3).unwrap() + 1;
            let reply = change(&mut cluster.cp(cp).api(), &name, "?wait=8000").await;
            *seen.entry(reply.status).or_default() += 1;
            assert!([200, 201, 202].contains(&reply.status), "{} {}", reply.status, reply.text());
            if reply.status != 202 {
                is_served_everywhere(&cluster, &name).await;
            }
        }
        cluster.cp(victim).kill().await.unwrap();
        let other = victim % 3 + 1;
        // It may be the leader that is dead: then there is none for a moment.
        cluster.leader().await.unwrap();
        let name = format!("down{round}");
        let reply = change(&mut cluster.cp(other).api(), &name, "?wait=300").await;
        assert_eq!(reply.status, 202, "a node that cannot be asked may have a proxy: {}", reply.text());
        let fleet = reply.json().unwrap()["fleet"].clone();
        assert_eq!(fleet["nodes"].as_array().unwrap().len(), 1, "{fleet}");
        cluster.cp(victim).run().unwrap();
        cluster.cp(victim).ready().await.unwrap();
        // Until it can have forgotten nobody, it does not count as one who knows.
        let name = format!("back{round}");
        let reply = change(&mut cluster.cp(other).api(), &name, "?wait=10000").await;
        assert_eq!(reply.status, 201, "{}", reply.text());
        is_served_everywhere(&cluster, &name).await;
    }
    let served: usize = seen.iter().filter(|(status, _)| **status != 202).map(|(_, count)| count).sum();
    assert_eq!(served, 4 * CHANGES, "with all nodes up every wait is a success: {seen:?}");
}

/// A short one of `chaos fleet`, whose full length is 10,000 changes.
#[tokio::test(flavor = "multi_thread")]
async fn fifty_proxies_in_three_regions_serve_what_was_answered_with_200() {
    let told = wide_fleet::run(Plan { proxies: 50, changes: 60, kill_every: 25, seed: 7 }).await.unwrap();
    assert!(told.kills >= 2 && told.scoped > 0 && told.first_requests > 60 * 16, "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_does_not_follow_is_named_and_a_scope_leaves_it_out() {
    let (mut cluster, _upstream) = fleet(3).await;
    // Number 3 is in region eu. It stands still: its connection stays open, and it says nothing any more.
    cluster.dp(3).process().unwrap().pause().unwrap();
    let mut api = cluster.cp(1).api();
    let reply = change(&mut api, "a", "?wait=400").await;
    let fleet = reply.json().unwrap()["fleet"].clone();
    assert_eq!((reply.status, reply.header("x-holdfast-fleet")), (202, Some("2/3")), "{fleet}");
    assert_eq!((&fleet["regions"]["us"]["serving"], &fleet["regions"]["eu"]["lagging"]), (&json!(1), &json!(1)));
    assert_eq!((&fleet["proxies"][0]["name"], &fleet["proxies"][0]["state"]), (&json!("dp-3"), &json!("lagging")));
    for (query, status) in [
        ("?wait=5000&scope=region:us,region:ap", 201),
        ("?wait=5000&quorum=2", 201),
        ("?wait=5000&quorum=60%25", 201),
        ("?wait=300&scope=region:eu", 202),
    ] {
        let reply = change(&mut api, &format!("q{status}{}", query.len()), query).await;
        assert_eq!(reply.status, status, "{query}: {}", reply.text());
    }
    // It goes on, and a client that waits is answered then.
    let (paused, waiting) =
        (cluster.dp(3).process().unwrap(), tokio::spawn(async move { change(&mut api, "later", "?wait=8000").await }));
    tokio::time::sleep(Duration::from_millis(300)).await;
    paused.resume().unwrap();
    let reply = waiting.await.unwrap();
    assert_eq!(reply.status, 201, "{}", reply.text());
    is_served_everywhere(&cluster, "later").await;
    // One that dies counts until it has been gone for a while.
    cluster.dp(3).kill().await.unwrap();
    let mut api = cluster.cp(2).api();
    let reply = change(&mut api, "gone", "?wait=200").await;
    assert_eq!(reply.status, 202, "{}", reply.text());
    assert_eq!(reply.json().unwrap()["fleet"]["proxies"][0]["state"], "lost");
    until("it is forgotten", READY_MAX, async || {
        let reply = api.call("GET", "/v1/revisions/2/convergence", &[], String::new()).await?.json()?;
        anyhow_ensure(reply["concerned"] == 2 && reply["served"] == true, &reply.to_string())
    })
    .await
    .unwrap();
    assert_eq!(change(&mut api, "without", "?wait=5000").await.status, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopping_node_answers_those_who_wait() {
    let (mut cluster, _upstream) = fleet(1).await;
    cluster.dp(1).process().unwrap().pause().unwrap();
    let mut api = cluster.cp(1).api().patient(Duration::from_secs(30));
    let waiting = tokio::spawn(async move { change(&mut api, "a", "?wait=60000").await });
    until("the change is made", READY_MAX, async || {
        let there = cluster.cps[1].api().get("routes", "a").await?.is_some();
        anyhow_ensure(there, "it is not there")
    })
    .await
    .unwrap();
    cluster.cp(1).terminate(Duration::from_secs(20)).await.unwrap();
    assert_eq!(waiting.await.unwrap().status, 202);
    cluster.dp(1).process().unwrap().resume().unwrap();
}
