//! The bounds of one HTTP/2 connection, frame by frame: `proxy.http2.*`.

use serde_json::json;

use crate::harness::http2::{
    CANCEL, DATA, END_HEADERS, END_STREAM, ENHANCE_YOUR_CALM, FLOW_CONTROL_ERROR, Frame, Frames, GET, GOAWAY, HEADERS,
    PROTOCOL_ERROR, REFUSED_STREAM, RST_STREAM, frame, literal, post,
};
use crate::harness::origin::Origin;
use crate::harness::proxy::{Scene, route};
use crate::harness::until;

const STREAMS: u32 = 3;
const RESETS: u32 = 4;
const ERRORS: u32 = 5;
const STREAM_WINDOW: usize = 64 << 10;
const CONNECTION_WINDOW: usize = 96 << 10;
/// The largest frame that anybody may send without having been told so (RFC 9113 §4.2).
const FRAME_BYTES: usize = 16 << 10;

/// A proxy with these bounds, behind it a node that answers nobody.
async fn scene() -> (Origin, Scene) {
    let silent = Origin::with(|mut conversation| async move { while conversation.take(1).await.is_some() {} }).await;
    // Its requests wait, and nobody takes their bodies meanwhile.
    let mut slow = route("/slow", silent.address);
    slow["plugins"] = json!({"fault-injection": {"delay": {"duration": 60}}});
    let resources = [("routes", "r", route("/*", silent.address)), ("routes", "slow", slow)];
    let scene = Scene::tuned(&resources, |settings| {
        settings.proxy.h2c = true;
        let http2 = &mut settings.proxy.http2;
        http2.streams_max = STREAMS;
        http2.resets_pending_max = RESETS as usize;
        http2.errors_max = ERRORS as usize;
        http2.stream_window = STREAM_WINDOW.to_string().parse().unwrap();
        http2.connection_window = CONNECTION_WINDOW.to_string().parse().unwrap();
    })
    .await;
    (silent, scene)
}

/// The number of a client's stream (RFC 9113 §5.1.1), from 0.
fn id(number: u32) -> u32 {
    2 * number + 1
}

fn opened(number: u32) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, id(number), GET)
}

fn reset(number: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, id(number), &CANCEL.to_be_bytes())
}

/// Kinds, streams and errors.
fn told(frames: &[Frame]) -> Vec<(u8, u32, u32)> {
    frames.iter().map(|frame| (frame.kind, frame.stream, frame.error())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_requests_at_once_as_one_connection_may_have() {
    let (_silent, scene) = scene().await;
    let mut frames = Frames::open(scene.dp.address(), &[]).await;
    for number in 0..STREAMS {
        frames.send(opened(number)).await;
    }
    assert_eq!(frames.ping().await.unwrap(), []);
    frames.send(opened(STREAMS)).await;
    assert_eq!(told(&frames.ping().await.unwrap()), [(RST_STREAM, id(STREAMS), REFUSED_STREAM)], "one more");
    frames.send(reset(0)).await;
    frames.send(opened(STREAMS + 1)).await;
    assert_eq!(frames.ping().await.unwrap(), [], "who goes makes room for one");
    until("they are under way", async || {
        scene.dp.metric("holdfast_dp_requests_active").await > f64::from(STREAMS) - 0.5
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_resets_as_may_be_pending() {
    let (_silent, scene) = scene().await;
    for (resets, expected) in [(RESETS - 1, None), (RESETS, None), (RESETS + 1, Some(ENHANCE_YOUR_CALM))] {
        let mut frames = Frames::open(scene.dp.address(), &[]).await;
        // In one write, so that they are read at once: what is done with is not pending.
        let burst: Vec<u8> = (0..resets).flat_map(|number| [opened(number), reset(number)].concat()).collect();
        frames.send(burst).await;
        match expected {
            None => assert_eq!(frames.ping().await.expect("it goes on"), [], "{resets} resets"),
            Some(error) => {
                let last = frames.next().await.expect("it is told why");
                assert_eq!((last.kind, last.error()), (GOAWAY, error), "{resets} resets");
                assert!(frames.next().await.is_none(), "and ended");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_errors_as_one_connection_may_make() {
    let (_silent, scene) = scene().await;
    let mut frames = Frames::open(scene.dp.address(), &[]).await;
    // A header that concerns a connection has no place in a request (RFC 9113 §8.2.2).
    let malformed = |number| {
        let fields = [GET, &literal("connection", "close")].concat();
        frame(HEADERS, END_STREAM | END_HEADERS, id(number), &fields)
    };
    for number in 0..ERRORS {
        frames.send(malformed(number)).await;
        let came = frames.ping().await.expect("it goes on");
        assert_eq!(told(&came), [(RST_STREAM, id(number), PROTOCOL_ERROR)], "error {number}");
    }
    frames.send(malformed(ERRORS)).await;
    let last = frames.next().await.expect("it is told why");
    assert_eq!((last.kind, last.error()), (GOAWAY, ENHANCE_YOUR_CALM), "one more");
}

#[tokio::test(flavor = "multi_thread")]
async fn as_much_of_bodies_as_may_wait() {
    let (_silent, scene) = scene().await;
    // (bytes on each stream, what comes of it)
    let cases: [(&[usize], _); 6] = [
        (&[STREAM_WINDOW - 1], None),
        (&[STREAM_WINDOW], None),
        (&[STREAM_WINDOW + 1], Some((RST_STREAM, id(0)))),
        (&[STREAM_WINDOW, CONNECTION_WINDOW - STREAM_WINDOW - 1], None),
        (&[STREAM_WINDOW, CONNECTION_WINDOW - STREAM_WINDOW], None),
        (&[STREAM_WINDOW, CONNECTION_WINDOW - STREAM_WINDOW + 1], Some((GOAWAY, 0))),
    ];
    for (bytes, expected) in cases {
        let mut frames = Frames::open(scene.dp.address(), &[]).await;
        for (number, bytes) in (0..).zip(bytes) {
            frames.send(frame(HEADERS, END_HEADERS, id(number), &post("/slow"))).await;
            for piece in vec![b'b'; *bytes].chunks(FRAME_BYTES) {
                frames.send(frame(DATA, 0, id(number), piece)).await;
            }
        }
        match expected {
            None => assert_eq!(frames.ping().await.expect("it goes on"), [], "{bytes:?}"),
            Some((kind, stream)) => {
                let refused = frames.next().await.expect("it is told");
                assert_eq!(told(&[refused]), [(kind, stream, FLOW_CONTROL_ERROR)], "{bytes:?}");
            }
        }
    }
}
