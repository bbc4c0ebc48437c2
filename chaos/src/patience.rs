//! Waiting for something to become true, with an end.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::net::TcpListener;
use tokio::time::Instant;

/// The pause between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// How long an address may still be somebody's who is gone: a task that is aborted lets its socket go a little later.
const FREE_MAX: Duration = Duration::from_secs(5);

/// Listens at an address as soon as it is free.
///
/// # Errors
/// When it does not become free.
pub async fn listen(address: &str) -> Result<TcpListener> {
    until(&format!("{address} is free"), FREE_MAX, async || Ok(TcpListener::bind(address).await?)).await
}

/// Looks again and again until `look` gives something.
///
/// # Errors
/// What was waited for, and the last thing that stood in its way.
pub async fn until<T>(what: &str, within: Duration, mut look: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + within;
    loop {
        match look().await {
            Ok(seen) => return Ok(seen),
            Err(why) if Instant::now() >= deadline => bail!("{what}: not within {within:?}; last: {why:#}"),
            Err(_) => tokio::time::sleep(LOOK).await,
        }
    }
}
