//! Clients that take their time, or say nothing at all.

use std::time::Duration;

use tokio::task::JoinSet;

use super::Town;
use crate::harness::client::Client;
use crate::harness::program::resident_kib;

const SLOW: usize = 500;
const BOUND: &str = "400ms";

#[tokio::test(flavor = "multi_thread")]
async fn slow_heads_and_slow_bodies_are_ended_in_time() {
    let bounds = ["header_read_timeout", "body_read_timeout"].map(|name| format!("proxy.limits.{name}={BOUND}"));
    let town = Town::with(&[&bounds[0], &bounds[1]]).await;
    let address = town.address();
    // A head that comes byte by byte is bounded as a whole; a body that stops is bounded from its last byte on.
    let heads = async {
        let mut slow = JoinSet::new();
        for _ in 0..SLOW {
            slow.spawn(async move {
                let mut client = Client::connect(address).await;
                client.send("GET / HTTP/1.1\r\nHost: a.com\r\nX-Slow: ").await;
                while client.try_send(b"y").await {
                    let read = client.take_some(Duration::from_millis(50)).await;
                    if !read.is_empty() {
                        return String::from_utf8_lossy(&read).into_owned();
                    }
                }
                String::new()
            });
        }
        slow.join_all().await
    };
    let answers = town.bears("slow heads", heads).await;
    let told = answers.iter().filter(|answer| answer.starts_with("HTTP/1.1 408")).count();
    // Who was writing in that very moment may have met a closed connection.
    assert!(told > SLOW / 2, "{told} of {SLOW} were told 408");
    let bodies = async {
        let mut slow = JoinSet::new();
        for _ in 0..SLOW {
            slow.spawn(async move {
                let mut client = Client::connect(address).await;
                client.send("POST /slow HTTP/1.1\r\nHost: a.com\r\nContent-Length: 1000\r\n\r\nsome").await;
                let status = client.response().await.map(|answer| answer.status);
                (status, client.is_closed().await)
            });
        }
        slow.join_all().await
    };
    assert!(town.bears("slow bodies", bodies).await.iter().all(|ended| *ended == (Some(408), true)));
    town.rests().await;
}

/// Connections that idle; `benches soak` has more.
const IDLE: usize = 2000;
/// What each may cost, in a build for tests; 4.1 KiB were measured.
const IDLE_BYTES_MAX: u64 = 8 << 10;

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_cost_little_and_hold_nobody_up() {
    let town = Town::with(&[]).await;
    // What a first few connections bring with them is there already.
    let mut held = Vec::new();
    for _ in 0..50 {
        held.push(idle(&town).await);
    }
    let before = resident_kib(town.pid);
    for _ in 0..IDLE {
        held.push(idle(&town).await);
    }
    let each = resident_kib(town.pid).saturating_sub(before) * 1024 / IDLE as u64;
    eprintln!("{IDLE} idle connections cost {each} bytes each");
    assert!(each <= IDLE_BYTES_MAX, "{each} bytes each");
    town.bears("idle connections", tokio::time::sleep(Duration::from_millis(300))).await;
    assert_eq!(held[0].get("a.com", "/").await.status, 200, "the oldest is alive");
}

/// A connection that was of use and waits.
async fn idle(town: &Town) -> Client {
    let mut client = Client::connect(town.address()).await;
    assert_eq!(client.get("a.com", "/").await.status, 200);
    client
}
