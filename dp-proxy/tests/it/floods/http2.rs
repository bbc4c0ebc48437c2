//! Floods of HTTP/2 frames. Each either ends its connection, or is held at what one connection may cost.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};

use super::{FLOOD, Town};
use crate::harness::client::Client;
use crate::harness::http2::{
    ACK, CANCEL, CONTINUATION, DATA, END_HEADERS, END_STREAM, Frames, GET, HEADERS, PING, PREFACE, PRIORITY,
    RST_STREAM, SETTINGS, WINDOW_UPDATE, frame, get, post,
};

/// Connections that flood at once.
const FLOODERS: usize = 4;
/// Rounds in one write.
const AT_ONCE: u32 = 50;

/// A flood.
struct Flood {
    what: &'static str,
    /// What is sent in each round of a connection, from 0.
    round: fn(u32) -> Vec<u8>,
    /// Whether what the proxy says is read.
    reads: bool,
    /// Whether its connections are ended. Where they are not, it costs no more than it brings.
    is_ended: bool,
}

/// The number of a client's stream (RFC 9113 §5.1.1), from 0.
fn id(number: u32) -> u32 {
    2 * number + 1
}

fn rapid_reset(round: u32) -> Vec<u8> {
    let opened = frame(HEADERS, END_STREAM | END_HEADERS, id(round), GET);
    [opened, frame(RST_STREAM, 0, id(round), &CANCEL.to_be_bytes())].concat()
}

/// Requests that the proxy has to reset, since a window of nothing is opened on them.
fn made_reset(round: u32) -> Vec<u8> {
    let opened = frame(HEADERS, END_STREAM | END_HEADERS, id(round), &get("/held"));
    [opened, frame(WINDOW_UPDATE, 0, id(round), &[0; 4])].concat()
}

fn continuation(round: u32) -> Vec<u8> {
    match round {
        0 => frame(HEADERS, 0, 1, GET),
        // Its fields are none that a list of fields could be too long of.
        _ => frame(CONTINUATION, 0, 1, &[]),
    }
}

fn long_continuation(round: u32) -> Vec<u8> {
    match round {
        0 => frame(HEADERS, 0, 1, GET),
        _ => frame(CONTINUATION, 0, 1, &[&[0x00, 1, b'x', 127, 1][..], &[b'y'; 128]].concat()),
    }
}

/// A field of 4,000 bytes that the decoder is to remember, and then to put out again for every byte (RFC 7541 §6.1).
fn decompression(round: u32) -> Vec<u8> {
    let remembered = [&[0x40, 1, b'x', 127, 0xa1, 0x1e][..], &[b'y'; 4000]].concat();
    let again = [0xbe; 8000];
    frame(HEADERS, END_STREAM | END_HEADERS, id(round), &[GET, &remembered, &again].concat())
}

fn empty_data(round: u32) -> Vec<u8> {
    if round == 0 { frame(HEADERS, END_HEADERS, 1, &post("/held")) } else { frame(DATA, 0, 1, &[]) }
}

fn settings(_: u32) -> Vec<u8> {
    frame(SETTINGS, 0, 0, &[])
}

fn pings(_: u32) -> Vec<u8> {
    frame(PING, 0, 0, &[0; 8])
}

/// Answers to what nobody has asked.
fn pongs(_: u32) -> Vec<u8> {
    frame(PING, ACK, 0, &[7; 8])
}

fn priorities(round: u32) -> Vec<u8> {
    frame(PRIORITY, 0, id(round), &[0, 0, 0, 0, 16])
}

fn windows(_: u32) -> Vec<u8> {
    frame(WINDOW_UPDATE, 0, 0, &1_u32.to_be_bytes())
}

/// What is sent to a frame type that nobody knows is passed over (RFC 9113 §5.5).
fn unknown(_: u32) -> Vec<u8> {
    frame(0xee, 0, 0, &[0; 64])
}

static FLOODS: [Flood; 14] = [
    Flood { what: "rapid reset", round: rapid_reset, reads: true, is_ended: true },
    Flood { what: "requests that must be reset", round: made_reset, reads: true, is_ended: true },
    Flood { what: "empty CONTINUATION", round: continuation, reads: true, is_ended: true },
    Flood { what: "long CONTINUATION", round: long_continuation, reads: true, is_ended: true },
    Flood { what: "decompression", round: decompression, reads: true, is_ended: true },
    Flood { what: "empty DATA", round: empty_data, reads: true, is_ended: false },
    Flood { what: "SETTINGS", round: settings, reads: true, is_ended: false },
    Flood { what: "SETTINGS whose answers nobody reads", round: settings, reads: false, is_ended: false },
    Flood { what: "PING", round: pings, reads: true, is_ended: false },
    Flood { what: "PING whose answers nobody reads", round: pings, reads: false, is_ended: false },
    Flood { what: "PING that answers none", round: pongs, reads: true, is_ended: false },
    Flood { what: "PRIORITY", round: priorities, reads: true, is_ended: false },
    Flood { what: "WINDOW_UPDATE", round: windows, reads: true, is_ended: false },
    Flood { what: "unknown frames", round: unknown, reads: true, is_ended: false },
];

/// Floods from one client, which connects anew whenever its connection is ended. Gives how often it was.
async fn flood(address: SocketAddr, flood: &'static Flood, end: Instant) -> usize {
    let mut ended = 0;
    while Instant::now() < end {
        let (mut read, mut write) = Client::connect(address).await.stream.into_split();
        let reads = flood.reads;
        let reading = tokio::spawn(async move {
            let mut scratch = vec![0; 64 << 10];
            while reads && matches!(read.read(&mut scratch).await, Ok(1..)) {}
            read
        });
        let mut next = [PREFACE, &frame(SETTINGS, 0, 0, &[])].concat();
        for round in 0.. {
            next.extend((flood.round)(round));
            if round % AT_ONCE != AT_ONCE - 1 {
                continue;
            }
            match timeout_at(end, write.write_all(&next)).await {
                Ok(Ok(())) => next.clear(),
                Ok(Err(_)) => {
                    ended += 1;
                    break;
                }
                // No more is taken of it.
                Err(_) => break,
            }
        }
        // What comes of the last of it.
        if flood.is_ended && ended == 0 {
            ended += usize::from(timeout(Duration::from_secs(2), reading).await.is_ok());
        } else {
            reading.abort();
        }
    }
    ended
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_of_frames_hurt_only_who_makes_them() {
    let town = Town::with(&[]).await;
    for kind in &FLOODS {
        let end = Instant::now() + FLOOD;
        let all: JoinSet<usize> = (0..FLOODERS).map(|_| flood(town.address(), kind, end)).collect();
        let ended: usize = town.bears(kind.what, all.join_all()).await.into_iter().sum();
        assert!(!kind.is_ended || ended > 0, "{}: goes on without an end", kind.what);
        town.rests().await;
    }
}

/// A client's settings that let nobody send anything on a stream.
const NO_WINDOW: &[u8] = &[0, 4, 0, 0, 0, 0];

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_nobody_takes_are_kept_in_a_bound() {
    const STREAMS: u32 = 100;
    let town = Town::with(&["proxy.limits.send_timeout=1s"]).await;
    let hoarding = async {
        let mut all = Vec::new();
        for _ in 0..2 {
            let mut frames = Frames::open(town.address(), NO_WINDOW).await;
            for number in 0..STREAMS {
                frames.send(frame(HEADERS, END_STREAM | END_HEADERS, id(number), &get("/large"))).await;
            }
            all.push(frames);
        }
        for frames in &mut all {
            let mut reset = 0;
            while reset < STREAMS {
                let next = frames.next().await.expect("the connection goes on");
                reset += u32::from(next.kind == RST_STREAM);
            }
            assert!(frames.ping().await.is_some());
        }
    };
    town.bears("answers that nobody takes", hoarding).await;
    town.rests().await;
}
