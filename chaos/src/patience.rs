//! Waiting for something to become true, with an end.

use std::time::Duration;

use anyhow::{Result, bail};
use tokio::time::Instant;

/// The pause between two looks.
const LOOK: Duration = Duration::from_millis(10);

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
