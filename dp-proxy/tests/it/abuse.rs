//! Origins that mean no good: whoever is honest beside them does not notice. (Clients that mean none are in `floods`.)

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::time::sleep;

use crate::harness::client::Client;
use crate::harness::origin::Origin;
use crate::harness::proxy::{Scene, route};

/// Asks one honest thing after another until `attack` is over; it must always be answered well.
async fn beside<T>(scene: &Scene, path: &str, attack: impl Future<Output = T>) -> T {
    let mut attack = std::pin::pin!(attack);
    let mut client = Client::connect(scene.dp.address()).await;
    let mut asked = 0;
    loop {
        tokio::select! {
            biased;
            answer = client.get("a.com", path) => assert_eq!(answer.status, 200, "after {asked} honest requests"),
            result = &mut attack, if asked > 0 => return result,
        }
        asked += 1;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn hostile_origins_hurt_nobody_else() {
    let honest = Origin::echo().await;
    // What an origin sends by path, and whether it then goes on without end.
    let hostile = Origin::with(|mut conversation| async move {
        while let Some(head) = conversation.head().await {
            let (first, more): (String, &[u8]) = match head.line.split(' ').nth(1).unwrap() {
                "/hostile/huge-head" => {
                    ("HTTP/1.1 200 OK\r\n".into(), b"X-More: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\n")
                }
                "/hostile/one-header" => ("HTTP/1.1 200 OK\r\nX-One: ".into(), &[b'a'; 4096]),
                "/hostile/informational" => (String::new(), b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"),
                "/hostile/garbage" => (String::new(), &[0xff; 4096]),
                "/hostile/lines" => (String::new(), b"\r\n\r\n\r\n\r\n"),
                "/hostile/early" => {
                    // Before the body is there, which is never read.
                    conversation.send("HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno").await;
                    sleep(Duration::from_millis(50)).await;
                    return;
                }
                "/hostile/chunks" => {
                    ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\nzz\r\n".into(), b"")
                }
                "/hostile/sizes" => ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".into(), &[b'0'; 4096]),
                path => (format!("HTTP/1.1 404 {path}\r\nContent-Length: 0\r\n\r\n"), b""),
            };
            conversation.send(first).await;
            while !more.is_empty() && conversation.stream.write_all(more).await.is_ok() {}
        }
    })
    .await;
    let resources =
        [("routes", "good", route("/good", honest.address)), ("routes", "bad", route("/hostile/*", hostile.address))];
    let scene = Scene::tuned(&resources, |settings| settings.proxy.workers = 1).await;
    for path in ["huge-head", "one-header", "informational", "garbage", "lines"] {
        let answer = beside(&scene, "/good", scene.dp.get(&format!("/hostile/{path}"))).await;
        assert_eq!(answer.status, 502, "{path}");
    }
    for path in ["chunks", "sizes"] {
        let mut client = Client::connect(scene.dp.address()).await;
        client.send(format!("GET /hostile/{path} HTTP/1.1\r\nHost: a.com\r\n\r\n")).await;
        let answer = beside(&scene, "/good", client.response()).await;
        // It may break off before the head has gone.
        assert!(answer.is_none_or(|answer| !answer.whole) && client.is_closed().await, "{path}: passed off as whole");
    }
    // An answer before the body has come reaches the client, and the connection is not used for anybody else.
    for _ in 0..3 {
        let mut client = Client::connect(scene.dp.address()).await;
        client.send("POST /hostile/early HTTP/1.1\r\nHost: a.com\r\nContent-Length: 1000000\r\n\r\nsome of it").await;
        let answer = beside(&scene, "/good", client.response()).await.unwrap();
        assert_eq!((answer.status, answer.text().as_str()), (413, "no"));
    }
    assert_eq!(scene.dp.get("/good").await.status, 200);
}
