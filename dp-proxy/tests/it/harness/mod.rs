//! A control plane, origins and clients that do what a test tells them, and proxies among them.

pub(crate) mod client;
pub(crate) mod control_plane;
pub(crate) mod http2;
pub(crate) mod origin;
pub(crate) mod program;
pub(crate) mod proxy;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tokio::time::{Instant, sleep};

/// What must happen, happens within this time, also on a machine that is busy with other things.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Attempts in one of which the machine does not stand still.
const ATTEMPTS: usize = 5;

/// A loopback address that belongs to this process alone, with port 0. What listens at 127.0.0.1 shares its ports with
/// the other tests and with every connection that is made from there: one that is given up there may be another's before
/// it is taken again.
pub(crate) fn own_address() -> SocketAddr {
    let [high, a, b, c] = std::process::id().to_be_bytes();
    assert!(high == 0 && a < 64, "a process id is less than 2^22");
    SocketAddr::from((Ipv4Addr::new(127, 64 | a, b, c), 0))
}

/// Attempts what shows something only where this process was in time itself, until it was: `None` says that it was not.
pub(crate) async fn in_time<T>(what: &str, mut attempt: impl AsyncFnMut() -> Option<T>) -> T {
    for _ in 0..ATTEMPTS {
        if let Some(shown) = attempt().await {
            return shown;
        }
    }
    panic!("{what}: in time in none of {ATTEMPTS} attempts");
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let start = Instant::now();
    while !is_so().await {
        assert!(start.elapsed() < SOON, "not within {SOON:?}: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}
