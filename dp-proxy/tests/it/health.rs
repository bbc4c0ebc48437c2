//! Health: nodes that die and come back, seen by probes and by the traffic.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value, json};

use crate::harness::client::{Client, get};
use crate::harness::origin::{Origin, Request};
use crate::harness::proxy::Scene;
use crate::harness::until;

/// An origin that answers with its name and this status.
async fn origin(name: &'static str, status: u16) -> Origin {
    changing(name, Arc::new(AtomicU16::new(status))).await
}

/// One whose status may change.
async fn changing(name: &'static str, status: Arc<AtomicU16>) -> Origin {
    Origin::with(move |mut conversation| {
        let status = status.clone();
        async move {
            while conversation.request().await.is_some() {
                let status = status.load(Ordering::Relaxed);
                let head = format!("HTTP/1.1 {status} x\r\nX-Origin: {name}\r\nContent-Length: 0\r\n\r\n");
                conversation.send(head).await;
            }
        }
    })
    .await
}

fn nodes(addresses: &[SocketAddr]) -> Value {
    addresses.iter().map(|address| (address.to_string(), json!(1))).collect::<serde_json::Map<_, _>>().into()
}

fn probing() -> Value {
    json!({"active": {
        "http_path": "/probe", "timeout": 0.5,
        "healthy": {"interval": 1, "successes": 1},
        "unhealthy": {"interval": 1, "http_failures": 1, "tcp_failures": 1, "timeouts": 1},
    }})
}

async fn told(scene: &Scene, name: &str) -> Value {
    get(scene.dp.proxy.control_address(), "control", &format!("/v1/healthcheck/{name}")).await.json()
}

/// The status of each node, by port.
async fn standing(scene: &Scene, name: &str) -> Vec<(u64, String)> {
    let told = told(scene, name).await;
    let mut all: Vec<_> = told["nodes"]
        .as_array()
        .unwrap()
        .iter()
        .map(|node| (node["port"].as_u64().unwrap(), node["status"].as_str().unwrap().to_owned()))
        .collect();
    all.sort();
    all
}

async fn origins_of(scene: &Scene, requests: usize) -> Vec<String> {
    let mut client = Client::connect(scene.dp.address()).await;
    let mut seen = Vec::new();
    for _ in 0..requests {
        let answer = client.get("x", "/").await;
        seen.push(answer.header("x-origin").unwrap_or("none").to_owned());
    }
    seen.sort();
    seen.dedup();
    seen
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_find_a_dead_node_before_any_request_does_and_take_it_back() {
    let status = Arc::new(AtomicU16::new(503));
    let (good, bad) = (origin("good", 200).await, changing("bad", status.clone()).await);
    let (good_at, bad_at) = (good.address, bad.address);
    let upstream = json!({"nodes": nodes(&[good_at, bad_at]), "checks": probing()});
    let scene =
        Scene::with(&[("upstreams", "u", upstream), ("routes", "r", json!({"uri": "/", "upstream_id": "u"}))]).await;
    // No request was sent yet.
    until("the probes find it", async || is(&scene, bad_at, "unhealthy").await).await;
    assert_eq!(origins_of(&scene, 20).await, ["good"]);
    assert_eq!(scene.dp.metric("holdfast_dp_all_nodes_down_total").await, 0.0);
    // An edit that leaves the checks and nodes as they are leaves the verdict too; so does one that changes the checks.
    let mut checks = probing();
    for retries in [1, 2] {
        let upstream = json!({"nodes": nodes(&[good_at, bad_at]), "checks": checks, "retries": retries});
        scene.put("upstreams", "u", upstream).await;
        assert!(is(&scene, bad_at, "unhealthy").await);
        assert_eq!(origins_of(&scene, 20).await, ["good"]);
        checks["active"]["healthy"]["successes"] = json!(2);
    }
    // All are down: all are asked, and that is counted.
    drop(good);
    until("the probes find it too", async || is(&scene, good_at, "unhealthy").await).await;
    assert!(origins_of(&scene, 20).await.contains(&"bad".to_owned()));
    assert!(scene.dp.metric("holdfast_dp_all_nodes_down_total").await > 0.0);
    // One comes back.
    status.store(200, Ordering::Relaxed);
    until("the probes take it back", async || is(&scene, bad_at, "healthy").await).await;
    assert_eq!(origins_of(&scene, 20).await, ["bad"]);
    let control = scene.dp.proxy.control_address();
    assert_eq!(get(control, "control", "/v1/healthcheck").await.json().as_array().unwrap().len(), 1);
    assert_eq!(get(control, "control", "/v1/healthcheck/upstreams/none").await.status, 404);
}

/// Whether a node stands so.
async fn is(scene: &Scene, node: SocketAddr, status: &str) -> bool {
    standing(scene, "upstreams/u").await.contains(&(node.port().into(), status.to_owned()))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_traffic_judges_nodes_too() {
    let (good, bad) = (origin("good", 200).await, origin("bad", 500).await);
    // Probes take any connection for a good sign, and the traffic knows better.
    let checks = json!({
        "active": {"type": "tcp", "healthy": {"interval": 60}, "unhealthy": {"interval": 60}},
        "passive": {"unhealthy": {"http_statuses": [500], "http_failures": 2}},
    });
    let upstream = json!({"nodes": nodes(&[good.address, bad.address]), "checks": checks});
    let scene = Scene::tuned(
        &[("upstreams", "u", upstream), ("routes", "r", json!({"uri": "/", "upstream_id": "u"}))],
        |settings| settings.proxy.workers = 1,
    )
    .await;
    assert_eq!(origins_of(&scene, 4).await, ["bad", "good"]);
    // A probe between two answers starts their count over.
    until("the traffic finds it", async || {
        origins_of(&scene, 4).await;
        is(&scene, bad.address, "unhealthy").await
    })
    .await;
    assert_eq!(origins_of(&scene, 20).await, ["good"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_may_be_repeated_outlives_the_node_that_broke_it() {
    let breaks = Origin::with(|mut conversation| async move {
        conversation.request().await;
        conversation.reset();
    })
    .await;
    let good = origin("good", 200).await;
    let upstream = json!({"nodes": nodes(&[breaks.address, good.address])});
    let scene = Scene::with(&[("routes", "r", json!({"uri": "/", "upstream": upstream}))]).await;
    assert_eq!(origins_of(&scene, 20).await, ["good"]);
    assert!(breaks.connections() > 0, "it was asked");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_key_stays_with_one_node() {
    let (a, b, c) = (origin("a", 200).await, origin("b", 200).await, origin("c", 200).await);
    let upstream = json!({"type": "chash", "key": "arg_k", "nodes": nodes(&[a.address, b.address, c.address])});
    let scene = Scene::with(&[("routes", "r", json!({"uri": "/", "upstream": upstream}))]).await;
    let mut seen = std::collections::BTreeSet::new();
    for key in 0..40 {
        let path = format!("/?k={key}");
        let first = scene.dp.get(&path).await.header("x-origin").unwrap().to_owned();
        // Each on a connection of its own: over both workers.
        for _ in 0..3 {
            assert_eq!(scene.dp.get(&path).await.header("x-origin"), Some(first.as_str()));
        }
        seen.insert(first);
    }
    assert_eq!(seen.len(), 3, "forty keys reach every node");
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_are_made_as_the_checks_say() {
    let traffic = origin("traffic", 200).await;
    let asked = Arc::new(Mutex::new(Vec::<Request>::new()));
    let seen = asked.clone();
    let prober = Origin::with(move |mut conversation| {
        let seen = seen.clone();
        async move {
            while let Some(request) = conversation.request().await {
                seen.lock().unwrap().push(request);
                conversation.send("HTTP/1.1 204 x\r\n\r\n").await;
            }
        }
    })
    .await;
    let active = json!({
        "port": prober.address.port(), "http_path": "/health?a=b", "host": "probe.example:81", "http_method": "POST",
        "http_req_body": "are you there", "req_headers": ["X-Probe: yes", "Accept: text/plain"],
        "healthy": {"interval": 1, "successes": 1, "http_statuses": [204]},
    });
    let upstream = json!({"nodes": nodes(&[traffic.address]), "checks": {"active": active}});
    let scene = Scene::with(&[("upstreams", "u", upstream)]).await;
    until("it is probed", async || !asked.lock().unwrap().is_empty()).await;
    let request = asked.lock().unwrap()[0].clone();
    assert_eq!(request.line, "POST /health?a=b HTTP/1.1");
    for (name, expected) in [("host", "probe.example:81"), ("x-probe", "yes"), ("accept", "text/plain")] {
        assert_eq!(request.header(name), Some(expected), "{request:?}");
    }
    assert_eq!(request.body, b"are you there");
    assert_eq!(traffic.connections(), 0, "the probe's port is another");
    assert!(is(&scene, traffic.address, "healthy").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_probe_that_is_not_answered_in_time_is_a_bad_sign() {
    let hangs = Origin::with(|mut conversation| async move {
        conversation.request().await;
        std::future::pending::<()>().await;
    })
    .await;
    let active = json!({"timeout": 0.2, "unhealthy": {"interval": 1, "timeouts": 1}});
    let upstream = json!({"nodes": nodes(&[hangs.address]), "checks": {"active": active}});
    let scene = Scene::with(&[("upstreams", "u", upstream)]).await;
    until("it is down", async || is(&scene, hangs.address, "unhealthy").await).await;
    let node = told(&scene, "upstreams/u").await["nodes"][0].clone();
    let metric =
        format!("apisix_upstream_status{{name=\"/apisix/upstreams/u\",ip=\"127.0.0.1\",port=\"{}\"}}", node["port"]);
    let page = get(scene.dp.proxy.metrics_address(), "metrics", "/metrics").await.text();
    assert!(page.contains(&format!("{metric} 0\n")), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_traffic_notices_nodes_that_break_and_nodes_that_hang() {
    let breaks = Origin::with(|mut conversation| async move {
        conversation.request().await;
        conversation.reset();
    })
    .await;
    let hangs = Origin::with(|mut conversation| async move {
        conversation.request().await;
        std::future::pending::<()>().await;
    })
    .await;
    let (good, prober) = (origin("good", 200).await, origin("prober", 204).await);
    for (bad, sign) in [(&breaks, "tcp_failures"), (&hangs, "timeouts")] {
        let none = json!({"http_failures": 0, "tcp_failures": 0, "timeouts": 0});
        let mut unhealthy = none.clone();
        unhealthy[sign] = json!(2);
        // Probes say nothing, and are made elsewhere: whoever connects to the node is the traffic.
        let port = prober.address.port();
        let active = json!({"port": port, "healthy": {"interval": 60}, "unhealthy": {"interval": 60}});
        let upstream = json!({
            "nodes": nodes(&[bad.address, good.address]), "timeout": {"connect": 5, "send": 5, "read": 0.2},
            "checks": {"active": active, "passive": {"unhealthy": unhealthy}},
        });
        let scene = Scene::tuned(
            &[("upstreams", "u", upstream), ("routes", "r", json!({"uri": "/", "upstream_id": "u"}))],
            |settings| settings.proxy.workers = 1,
        )
        .await;
        assert_eq!(origins_of(&scene, 8).await, ["good"]);
        until(sign, async || is(&scene, bad.address, "unhealthy").await).await;
        let tried = bad.connections();
        assert_eq!(origins_of(&scene, 8).await, ["good"]);
        assert_eq!(bad.connections(), tried, "{sign}: nobody goes there any more");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_probed_once_for_all_routes_that_name_it() {
    let probed = Arc::new(AtomicUsize::new(0));
    let count = probed.clone();
    let node = Origin::with(move |mut conversation| {
        let count = count.clone();
        async move {
            while conversation.request().await.is_some() {
                count.fetch_add(1, Ordering::Relaxed);
                conversation.send("HTTP/1.1 200 x\r\nContent-Length: 0\r\n\r\n").await;
            }
        }
    })
    .await;
    let checks = json!({"active": {"healthy": {"interval": 60}, "unhealthy": {"interval": 60}}});
    let upstream = json!({"nodes": nodes(&[node.address]), "checks": checks});
    let routes: Vec<_> =
        (0..20).map(|n| (format!("r{n}"), json!({"uri": format!("/{n}"), "upstream": upstream}))).collect();
    let resources: Vec<_> = routes.iter().map(|(id, route)| ("routes", id.as_str(), route.clone())).collect();
    let scene = Scene::with(&resources).await;
    until("it is probed", async || probed.load(Ordering::Relaxed) > 0).await;
    // Whoever was probed for itself would be within the second in which first probes are spread.
    tokio::time::sleep(Duration::from_millis(1200)).await;
    assert_eq!(probed.load(Ordering::Relaxed), 1);
    assert_eq!(told(&scene, "routes/r7").await["nodes"][0]["status"], "healthy");
}
