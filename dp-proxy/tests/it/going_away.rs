//! Draining: readiness goes first, requests under way are finished, and nobody new is taken.

use crate::harness::client::Client;
use crate::harness::origin::Origin;
use crate::harness::proxy::{Scene, route};
use crate::harness::until;

#[tokio::test(flavor = "multi_thread")]
async fn requests_under_way_end_and_connections_are_told() {
    // Half an answer, and the rest when the test says so.
    let (release, released) = tokio::sync::watch::channel(false);
    let origin = Origin::with(move |mut conversation| {
        let mut released = released.clone();
        async move {
            while let Some(request) = conversation.request().await {
                conversation.send("HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhalf").await;
                if request.line.contains("/slow") {
                    released.wait_for(|released| *released).await.unwrap();
                }
                conversation.send("half").await;
            }
        }
    })
    .await;
    let scene = Scene::tuned(&[("routes", "r", route("/*", origin.address))], |settings| {
        settings.proxy.drain.delay = "1s".parse().unwrap();
    })
    .await;
    let address = scene.dp.address();
    let mut idle = Client::connect(address).await;
    assert_eq!(idle.get("x", "/").await.status, 200);
    let mut slow = Client::connect(address).await;
    slow.send("GET /slow HTTP/1.1\r\nHost: x\r\n\r\n").await;
    until("the slow request is under way", async || scene.dp.metric("holdfast_dp_requests_active").await >= 1.0).await;
    let dp = &scene.dp;
    let (clean, ()) = tokio::join!(dp.proxy.drain(), async {
        until("readiness goes first", async || dp.status("/status/ready").await.status == 503).await;
        let mut late = Client::connect(address).await;
        assert_eq!(late.get("x", "/").await.text(), "halfhalf", "while load balancers notice, it serves");
        until("nobody new is taken", async || !Client::can_connect(address).await).await;
        assert!(idle.is_closed().await, "a connection without a request is closed");
        assert_eq!(dp.status("/status").await.status, 200, "the process runs");
        release.send_replace(true);
        let answer = slow.response().await.unwrap();
        assert_eq!((answer.text().as_str(), answer.whole), ("halfhalf", true));
        assert!(slow.is_closed().await);
    });
    assert!(clean, "nothing was cut off");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_takes_too_long_is_cut_off() {
    let origin = Origin::with(|mut conversation| async move {
        conversation.request().await;
        std::future::pending::<()>().await;
    })
    .await;
    let scene = Scene::tuned(&[("routes", "r", route("/*", origin.address))], |settings| {
        settings.proxy.drain.timeout = "200ms".parse().unwrap();
    })
    .await;
    let mut client = Client::connect(scene.dp.address()).await;
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    until("it is under way", async || scene.dp.metric("holdfast_dp_requests_active").await >= 1.0).await;
    assert!(!scene.dp.proxy.drain().await, "it says that something was cut off");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_takes_it_out_of_rotation_and_back() {
    let origin = Origin::echo().await;
    let scene = Scene::with(&[("routes", "r", route("/*", origin.address))]).await;
    let status = scene.dp.proxy.status_address();
    for (body, answered, ready) in
        [("status=draining", 204, 503), ("status=ready", 204, 200), ("status=maybe", 400, 200)]
    {
        let mut client = Client::connect(status).await;
        let length = body.len();
        client.send(format!("POST /status/ready HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n{body}")).await;
        assert_eq!(client.response().await.unwrap().status, answered, "{body}");
        assert_eq!(scene.dp.status("/status/ready").await.status, ready, "{body}");
        assert_eq!(scene.dp.get("/").await.status, 200, "traffic goes on");
    }
}
