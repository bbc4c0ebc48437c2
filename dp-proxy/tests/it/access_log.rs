//! The access log: one line for every request, whatever became of it, and never a request that waits for it.

use std::path::{Path, PathBuf};

use dp_proxy::settings::Settings;
use serde_json::{Value, json};

use crate::harness::client::Client;
use crate::harness::origin::Origin;
use crate::harness::proxy::{Scene, route};
use crate::harness::until;

fn lines(file: &Path) -> Vec<String> {
    std::fs::read_to_string(file).unwrap_or_default().lines().map(str::to_owned).collect()
}

fn into(file: PathBuf) -> impl FnOnce(&mut Settings) {
    move |settings| {
        settings.proxy.workers = 1;
        settings.proxy.access_log.file = Some(file);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_request_has_its_line() {
    let origin = Origin::echo().await;
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("access.log");
    let two = json!({"127.0.0.1:1": 1, origin.address.to_string(): 1});
    let dead = json!({"uri": "/dead", "upstream": {"nodes": {"127.0.0.1:1": 1}}});
    let second = json!({"uri": "/second", "upstream": {"nodes": two}});
    let slow = Origin::with(|mut conversation| async move {
        conversation.request().await;
        std::future::pending::<()>().await;
    })
    .await;
    let resources = [
        ("routes", "r", route("/x/*", origin.address)),
        ("routes", "dead", dead),
        ("routes", "second", second),
        ("routes", "slow", route("/slow", slow.address)),
    ];
    let scene = Scene::tuned(&resources, into(file.clone())).await;
    let address = scene.dp.address();
    let mut client = Client::connect(address).await;
    client
        .send("GET /x/%41?q=1 HTTP/1.1\r\nHost: A.com:80\r\nUser-Agent: me\r\ntraceparent: 00-ab-cd-01\r\n\r\n")
        .await;
    let body = client.response().await.unwrap().text();
    assert!(body.contains("traceparent: 00-ab-cd-01"), "the trace goes on: {body}");
    for path in ["/none", "/dead", "/second", "/second"] {
        client.get("a.com", path).await;
    }
    let mut gone = Client::connect(address).await;
    gone.send("GET /slow HTTP/1.1\r\nHost: a.com\r\n\r\n").await;
    until("it is under way", async || scene.dp.metric("holdfast_dp_requests_active").await >= 1.0).await;
    drop(gone);
    until("every request has its line", async || lines(&file).len() == 6).await;
    let told: Vec<Value> = lines(&file).iter().map(|line| serde_json::from_str(line).unwrap()).collect();
    let first = &told[0];
    for (name, expected) in [
        ("remote_addr", json!("127.0.0.1")),
        ("host", json!("a.com")),
        ("method", json!("GET")),
        ("uri", json!("/x/%41?q=1")),
        ("protocol", json!("HTTP/1.1")),
        ("status", json!(200)),
        ("body_bytes_sent", json!(body.len())),
        ("upstream_addr", json!(origin.address.to_string())),
        ("upstream_status", json!("200")),
        ("route_id", json!("r")),
        ("service_id", json!(null)),
        ("referer", json!(null)),
        ("user_agent", json!("me")),
        ("traceparent", json!("00-ab-cd-01")),
    ] {
        assert_eq!(first[name], expected, "{name} in {first}");
    }
    assert!(first["request_time"].is_f64() && first["upstream_response_time"].is_f64(), "{first}");
    assert!(first["time"].as_str().unwrap().ends_with("+00:00"), "{first}");
    assert_eq!((&told[1]["status"], &told[1]["upstream_addr"]), (&json!(404), &json!(null)));
    assert_eq!((&told[2]["status"], &told[2]["upstream_addr"]), (&json!(502), &json!("127.0.0.1:1")));
    assert_eq!(told[2]["route_id"], "dead");
    let tried = [&told[3], &told[4]].map(|line| line["upstream_addr"].as_str().unwrap().to_owned());
    assert!(tried.contains(&format!("127.0.0.1:1, {}", origin.address)), "both nodes: {tried:?}");
    assert_eq!((&told[5]["status"], &told[5]["route_id"]), (&json!(499), &json!("slow")), "the client went away");
    scene.dp.counts("holdfast_dp_access_log_lines_total", 6.0).await;
    assert!(scene.dp.metric("holdfast_dp_access_log_lost_total{reason=\"queue_full\"}").await < 0.5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_format_of_ones_own_and_a_file_that_is_moved_away() {
    let origin = Origin::echo().await;
    let dir = tempfile::tempdir().unwrap();
    let (file, old) = (dir.path().join("access.log"), dir.path().join("access.log.1"));
    let log_to = into(file.clone());
    let scene = Scene::tuned(&[("routes", "r", route("/*", origin.address))], |settings| {
        log_to(settings);
        settings.proxy.access_log.format = "$remote_addr \"$request\" $status $route_id $http_nosuch".into();
    })
    .await;
    let line = "127.0.0.1 \"GET /a HTTP/1.1\" 200 r -";
    assert_eq!(scene.dp.get("/a").await.status, 200);
    until("it is written", async || lines(&file) == [line]).await;
    std::fs::rename(&file, &old).unwrap();
    scene.dp.proxy.reopen_logs();
    until("there is a new file", async || file.exists()).await;
    assert_eq!(scene.dp.get("/a").await.status, 200);
    until("it is written there", async || lines(&file) == [line]).await;
    drop(scene);
    assert_eq!((lines(&old).len(), lines(&file).len()), (1, 1));
}

#[test]
fn what_no_line_can_say_is_refused_with_its_key() {
    let mut settings = Settings::default();
    settings.proxy.access_log.format = "$status $nosuch".into();
    settings.proxy.access_log.queue_lines = 0;
    let bad = settings.check().unwrap_err();
    let keys: Vec<_> = bad.0.iter().map(|(key, _)| *key).collect();
    assert_eq!(keys, ["proxy.access_log.format", "proxy.access_log.queue_lines"]);
    assert!(bad.to_string().contains("$nosuch"), "{bad}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_could_not_be_read_has_its_line_too() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("access.log");
    let scene = Scene::tuned(&[], |settings| {
        settings.proxy.limits.header_read_timeout = "200ms".parse().unwrap();
        into(file.clone())(settings);
    })
    .await;
    let long = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "a".repeat(100_000));
    for (bytes, status) in [("no request at all\r\n\r\n", 400), (&*long, 431), ("GET / HTTP/1.1\r\nX", 408)] {
        let mut client = Client::connect(scene.dp.address()).await;
        client.send(bytes).await;
        assert_eq!(client.response().await.unwrap().status, status);
        until("it has its line", async || {
            let told = lines(&file).last().map(|line| serde_json::from_str::<Value>(line).unwrap()).unwrap_or_default();
            (&told["status"], &told["remote_addr"]) == (&json!(status), &json!("127.0.0.1"))
                && told["method"].is_null()
                && told["uri"].is_null()
        })
        .await;
    }
    assert_eq!(lines(&file).len(), 3);
}
