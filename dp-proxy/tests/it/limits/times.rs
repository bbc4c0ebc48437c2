//! How long clients may take: who is in time is served, and who is not is left, never before the time is over.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, sleep, timeout};

use crate::harness::client::Client;
use crate::harness::http2::{
    CANCEL, DATA, END_HEADERS, END_STREAM, Frames, GET, HEADERS, RST_STREAM, WINDOW_UPDATE, frame, post,
};
use crate::harness::origin::Origin;
use crate::harness::proxy::{Scene, route};
use crate::harness::{SOON, in_time};
use crate::tls::{Authority, Dialler, ssl, with_keyring};

/// Every bound on time here.
const BOUND: Duration = Duration::from_secs(1);
/// Well within it; twice as long is not.
const SHORT: Duration = Duration::from_millis(600);

/// Whether what was begun then took so much longer than [`SHORT`] that it may not have been within [`BOUND`].
fn is_late(began: Instant) -> bool {
    began.elapsed() >= (SHORT + BOUND) / 2
}

async fn scene(tune: impl FnOnce(&mut dp_proxy::settings::Settings)) -> (Origin, Scene) {
    let origin = Origin::echo().await;
    let mut held = route("/held", origin.address);
    held["plugins"] = json!({"fault-injection": {"delay": {"duration": 2}}});
    let resources = [("routes", "r", route("/*", origin.address)), ("routes", "held", held)];
    let scene = Scene::tuned(&resources, |settings| {
        settings.proxy.h2c = true;
        tune(settings);
    })
    .await;
    (origin, scene)
}

fn bound() -> daemon::settings::units::Span {
    daemon::settings::units::Span(BOUND)
}

/// Waits for the end of a connection, which must not come before its time.
async fn ends(client: &mut Client, began: Instant, what: &str) {
    assert!(client.is_closed().await, "{what}: it goes on");
    assert!(began.elapsed() >= BOUND, "{what}: left after {:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_has_its_time_from_its_first_byte_on() {
    let (_origin, scene) = scene(|settings| settings.proxy.limits.header_read_timeout = bound()).await;
    let address = scene.dp.address();
    let by_http1 = async {
        let mut client = in_time("heads of HTTP/1 that come in time", async || {
            let mut client = Client::connect(address).await;
            for _ in 0..2 {
                let began = Instant::now();
                client.send("GET / HT").await;
                sleep(SHORT).await;
                client.try_send(b"TP/1.1\r\nHost: a.com\r\n\r\n").await;
                let answer = client.response().await;
                if is_late(began) {
                    return None;
                }
                assert_eq!(answer.unwrap().status, 200);
            }
            Some(client)
        })
        .await;
        in_time("a head of HTTP/1 is counted from its first byte", async || {
            let began = Instant::now();
            client.send("GET / HT").await;
            sleep(SHORT).await;
            // It is not the next byte that is waited for.
            client.try_send(b"TP/1.1\r\n").await;
            assert!(client.response().await.is_none_or(|answer| answer.status == 408));
            ends(&mut client, began, "a head of HTTP/1").await;
            let took = began.elapsed();
            client = Client::connect(address).await;
            (took < BOUND + SHORT).then_some(())
        })
        .await;
    };
    let by_http2 = async {
        let whole = frame(HEADERS, END_STREAM | END_HEADERS, 1, GET);
        in_time("a head of HTTP/2 that comes in time", async || {
            let mut frames = Frames::open(address, &[]).await;
            let began = Instant::now();
            frames.send(&whole[..12]).await;
            sleep(SHORT).await;
            if is_late(began) {
                return None;
            }
            frames.send(&whole[12..]).await;
            let answer = frames.next().await;
            if is_late(began) {
                return None;
            }
            assert_eq!(answer.unwrap().payload[0], 0x88, "200");
            Some(())
        })
        .await;
        let began = Instant::now();
        let mut frames = Frames::open(address, &[]).await;
        frames.send(&whole[..12]).await;
        let mut client = Client::over(frames.stream);
        ends(&mut client, began, "a first head of HTTP/2").await;
    };
    tokio::join!(by_http1, by_http2);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_piece_of_a_body_has_its_time() {
    let (_origin, scene) = scene(|settings| settings.proxy.limits.body_read_timeout = bound()).await;
    let address = scene.dp.address();
    let by_http1 = async {
        let head = "POST / HTTP/1.1\r\nHost: a.com\r\nContent-Length: 3\r\n\r\n";
        let mut client =
            in_time("a body of HTTP/1 that takes longer than the bound, but each piece in time", async || {
                let mut client = Client::connect(address).await;
                let mut began = Instant::now();
                client.send(head).await;
                for _ in 0..3 {
                    sleep(SHORT).await;
                    client.try_send(b"b").await;
                    if is_late(began) {
                        return None;
                    }
                    began = Instant::now();
                }
                assert_eq!(client.response().await.unwrap().status, 200);
                Some(client)
            })
            .await;
        let began = Instant::now();
        client.send(format!("{head}bo")).await;
        assert_eq!(client.response().await.unwrap().status, 408);
        ends(&mut client, began, "a body of HTTP/1").await;
    };
    let by_http2 = async {
        let mut frames = in_time("the same of HTTP/2", async || {
            let mut frames = Frames::open(address, &[]).await;
            let mut began = Instant::now();
            frames.send(frame(HEADERS, END_HEADERS, 1, &post("/"))).await;
            for last in [0, 0, END_STREAM] {
                sleep(SHORT).await;
                frames.send(frame(DATA, last, 1, b"b")).await;
                if is_late(began) {
                    return None;
                }
                began = Instant::now();
            }
            assert_eq!(frames.next().await.unwrap().payload[0], 0x88, "200");
            assert_eq!(frames.next().await.unwrap().kind, DATA);
            Some(frames)
        })
        .await;
        let began = Instant::now();
        frames.send(frame(HEADERS, END_HEADERS, 3, &post("/"))).await;
        frames.send(frame(DATA, 0, 3, b"b")).await;
        let answer = loop {
            let frame = frames.next().await.unwrap();
            if frame.stream == 3 {
                break frame;
            }
        };
        assert_eq!(answer.kind, HEADERS);
        assert_ne!(answer.payload[0], 0x88, "no 200");
        assert!(began.elapsed() >= BOUND, "after {:?}", began.elapsed());
        assert!(frames.ping().await.is_some(), "the connection goes on");
    };
    tokio::join!(by_http1, by_http2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_may_idle_for_a_time() {
    let (_origin, scene) = scene(|settings| settings.proxy.limits.idle_timeout = bound()).await;
    let address = scene.dp.address();
    let by_http1 = async {
        let mut client = in_time("a connection of HTTP/1 that is used in time", async || {
            let mut client = Client::connect(address).await;
            for _ in 0..3 {
                let began = Instant::now();
                assert_eq!(client.get("a.com", "/").await.status, 200);
                sleep(SHORT).await;
                if is_late(began) {
                    return None;
                }
            }
            Some(client)
        })
        .await;
        assert_eq!(client.get("a.com", "/held").await.status, 200, "who is answered slowly does not idle");
        let began = Instant::now();
        assert_eq!(client.get("a.com", "/").await.status, 200);
        ends(&mut client, began, "HTTP/1").await;
    };
    let by_http2 = async {
        let (frames, began) = in_time("one of HTTP/2", async || {
            let mut began = Instant::now();
            let mut frames = Frames::open(address, &[]).await;
            for stream in [1, 3, 5] {
                sleep(SHORT).await;
                if is_late(began) {
                    return None;
                }
                began = Instant::now();
                frames.send(frame(HEADERS, END_STREAM | END_HEADERS, stream, GET)).await;
                assert_eq!(frames.next().await.unwrap().payload[0], 0x88, "200");
                assert_eq!(frames.next().await.unwrap().kind, DATA);
            }
            Some((frames, began))
        })
        .await;
        ends(&mut Client::over(frames.stream), began, "HTTP/2").await;
    };
    let silent = async {
        let began = Instant::now();
        let mut client = Client::connect(address).await;
        ends(&mut client, began, "who never said anything").await;
    };
    tokio::join!(by_http1, by_http2, silent);
}

/// A client's settings that let nobody send anything on a stream.
const NO_WINDOW: &[u8] = &[0, 4, 0, 0, 0, 0];

fn window(stream: u32, bytes: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_nothing_of_an_answer_is_left_in_time() {
    let (_origin, scene) = scene(|settings| settings.proxy.limits.send_timeout = bound()).await;
    let address = scene.dp.address();
    let mut frames = Frames::open(address, NO_WINDOW).await;
    // One takes nothing, one takes a byte now and then, one takes all of it.
    let began = Instant::now();
    for stream in [1, 3, 5] {
        frames.send(frame(HEADERS, END_STREAM | END_HEADERS, stream, GET)).await;
        assert_eq!(frames.next().await.unwrap().payload[0], 0x88, "200");
    }
    frames.send(window(5, 1 << 20)).await;
    assert_eq!(frames.next().await.unwrap().stream, 5);
    let mut taken = 0;
    let left = loop {
        frames.send(window(3, 1)).await;
        taken += 1;
        let came = frames.ping().await.expect("the connection goes on");
        if let Some(reset) = came.iter().find(|frame| frame.kind == RST_STREAM) {
            break reset.clone();
        }
        assert!(began.elapsed() < SOON, "it is not left");
        sleep(BOUND / 10).await;
    };
    assert_eq!((left.stream, left.error()), (1, CANCEL), "after {taken} bytes of the other");
    assert!(began.elapsed() >= BOUND, "left after {:?}", began.elapsed());
    frames.send(frame(HEADERS, END_STREAM | END_HEADERS, 7, GET)).await;
    while frames.next().await.expect("the connection goes on").stream != 7 {}
}

#[tokio::test(flavor = "multi_thread")]
async fn within_tls_heads_have_their_time_too() {
    let (authority, origin) = (Authority::new("root"), Origin::echo().await);
    let pair = authority.issue(&["a.com"]);
    let dir = tempfile::tempdir().unwrap();
    let resources =
        [("routes", "r", route("/*", origin.address)), ("ssls", "a", ssl("a", &["a.com"], &pair, json!({})))];
    let scene = Scene::tuned(&resources, |settings| {
        with_keyring(&dir)(settings);
        settings.proxy.limits.header_read_timeout = bound();
    })
    .await;
    let mut stream = Dialler::trusting(&authority).dial(&scene, "a.com").await.unwrap();
    let began = Instant::now();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a.com\r\nX-Slow: ").await.unwrap();
    let mut answer = Vec::new();
    while answer.is_empty() {
        stream.write_all(b"y").await.unwrap();
        stream.flush().await.unwrap();
        let _ = timeout(BOUND / 20, stream.read_buf(&mut answer)).await;
    }
    assert!(answer.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&answer));
    assert!(began.elapsed() >= BOUND, "after {:?}", began.elapsed());
}
