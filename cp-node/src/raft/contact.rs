//! When this node last heard from a leader: what proxies judge its freshness by.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;

/// The time of the last accepted message from a leader. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct LeaderContact {
    last: Arc<Mutex<Instant>>,
}

impl LeaderContact {
    /// Counts from now: a node that has just started has heard nothing for no time.
    pub(crate) fn new() -> Self {
        Self { last: Arc::new(Mutex::new(Instant::now())) }
    }

    pub(crate) fn heard(&self) {
        *self.last.lock().expect("no code panics while it holds the time") = Instant::now();
    }

    pub(crate) fn age(&self) -> Duration {
        self.last.lock().expect("no code panics while it holds the time").elapsed()
    }
}
