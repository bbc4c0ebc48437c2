//! Behind load balancers and other proxies: who a request is from, as somebody who is trusted tells it.

use serde_json::json;

use crate::harness::client::{Client, get, send};
use crate::harness::origin::Origin;
use crate::harness::proxy::{Scene, route};

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_header_says_who_connected() {
    let origin = Origin::echo().await;
    let mut only = route("/only", origin.address);
    only["remote_addrs"] = json!(["192.0.2.0/24"]);
    let resources = [("routes", "r", route("/*", origin.address)), ("routes", "only", only)];
    let scene = Scene::tuned(&resources, |settings| {
        settings.proxy.proxy_protocol.listen = vec!["127.0.0.1:0".parse().unwrap()];
    })
    .await;
    let told = scene.dp.told_address();
    let get_only = "GET /only HTTP/1.1\r\nHost: a.com\r\n\r\n";
    let from = |bytes: &[u8]| [bytes, get_only.as_bytes()].concat();
    let v2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c\xc0\0\x02\x07\x0a\0\0\x01\x13\x88\x1f\x90";
    for header in [&b"PROXY TCP4 192.0.2.7 10.0.0.1 5000 8080\r\n"[..], v2] {
        let body = send(told, from(header)).await.unwrap().text();
        for part in ["x-real-ip: 192.0.2.7", "x-forwarded-port: 8080", "GET /only "] {
            assert!(body.contains(part), "{part} in {body}");
        }
    }
    // In pieces, and with more than one request behind it.
    let mut client = Client::connect(told).await;
    for piece in ["PROX", "Y TCP4 192.0.2.7 10.", "0.0.1 5000 8080\r", "\n", get_only] {
        client.send(piece).await;
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert_eq!(client.response().await.unwrap().status, 200);
    assert_eq!(client.get("a.com", "/only").await.status, 200);
    // A balancer that asks for itself is who it is.
    let body = send(told, "PROXY UNKNOWN\r\nGET /x HTTP/1.1\r\nHost: a.com\r\n\r\n").await.unwrap().text();
    assert!(body.contains("x-real-ip: 127.0.0.1"), "{body}");
    for bad in ["GET / HTTP/1.1\r\nHost: a.com\r\n\r\n", "PROXY TCP4 nobody 10.0.0.1 1 2\r\n\r\n"] {
        assert!(send(told, bad).await.is_none(), "no answer: {bad:?}");
    }
    scene.dp.counts("holdfast_dp_proxy_protocol_refused_total", 2.0).await;
    let plain = send(scene.dp.address(), "PROXY TCP4 192.0.2.7 10.0.0.1 5000 8080\r\n\r\n").await;
    assert!(plain.is_none_or(|answer| answer.status == 400), "nobody is believed where it is not set");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trusted_proxy_names_the_client_in_a_header() {
    let origin = Origin::echo().await;
    let mut only = route("/only", origin.address);
    only["remote_addr"] = json!("192.0.2.7");
    only["vars"] = json!([["remote_addr", "==", "192.0.2.7"]]);
    let resources = [("routes", "only", only)];
    let scene = Scene::tuned(&resources, |settings| {
        settings.proxy.real_ip.from = vec!["127.0.0.1".into(), "10.0.0.0/8".into()];
        settings.proxy.real_ip.recursive = true;
    })
    .await;
    let ask = async |header: &str| {
        send(scene.dp.address(), format!("GET /only HTTP/1.1\r\nHost: a.com\r\n{header}\r\n")).await.unwrap()
    };
    let answer = ask("X-Forwarded-For: 1.1.1.1, 192.0.2.7, 10.1.1.1\r\n").await;
    assert!(answer.status == 200 && answer.text().contains("x-real-ip: 192.0.2.7"), "{}", answer.text());
    assert_eq!(ask("X-Forwarded-For: 192.0.2.7, 1.1.1.1\r\n").await.status, 404, "a client may say what it likes");
    assert_eq!(get(scene.dp.address(), "a.com", "/only").await.status, 404);
}
