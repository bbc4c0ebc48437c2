//! Requests at a fixed rate, whatever becomes of those before: a time counts from when a request was due, so that a proxy
//! that stalls is charged for all who would have waited.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, ensure};
use tokio::time::{Instant, sleep_until};

use crate::figures::Times;
use crate::http::Client;

/// Connections that share the rate. Each has one request under way: together they are enough for the rate as long as an
/// answer takes less than connections / rate.
const CONNECTIONS: u64 = 64;

/// Asks `address` for `path`, `rate` times a second for so long.
pub(super) async fn run(address: &str, path: &'static str, rate: u64, duration: Duration) -> Result<Times> {
    let total = rate * duration.as_secs();
    let begun = Instant::now() + Duration::from_millis(50);
    let next = Arc::new(AtomicU64::new(0));
    let mut clients = Vec::new();
    for _ in 0..CONNECTIONS {
        let (mut client, next) = (Client::new(address), next.clone());
        clients.push(tokio::spawn(async move {
            let mut times = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= total {
                    return Ok::<_, anyhow::Error>(times);
                }
                let due = begun + Duration::from_secs_f64(number as f64 / rate as f64);
                sleep_until(due).await;
                client.get(path).await?.expect(&[200])?;
                times.push(due.elapsed());
            }
        }));
    }
    let mut times = Vec::new();
    for client in clients {
        times.extend(client.await??);
    }
    ensure!(times.len() as u64 == total, "{} of {total} were answered", times.len());
    Ok(Times::new(times))
}
