//! A control plane, origins and clients that do what a test tells them, and proxies among them.

pub(crate) mod client;
pub(crate) mod control_plane;
pub(crate) mod http2;
pub(crate) mod origin;
pub(crate) mod program;
pub(crate) mod proxy;

use std::time::Duration;

use tokio::time::{Instant, sleep};

/// What must happen, happens within this time, also on a machine that is busy with other things.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !is_so().await {
        assert!(start.elapsed() < SOON, "not within {SOON:?}: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}
