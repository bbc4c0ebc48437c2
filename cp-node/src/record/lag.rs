//! How far the record is behind.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::time::Duration;

use raft_store::backlog::Backlog;
use tokio::time::Instant;

/// How many times are remembered over the bound of the age: its resolution.
const SAMPLES: u32 = 256;

/// How far the record is behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Lag {
    /// Changes that it is not known to hold.
    pub(crate) changes: u64,
    /// What they take.
    pub(crate) bytes: u64,
    /// How long ago this node saw the oldest of them, by its monotonic clock; begins anew with the process.
    pub(crate) age: Duration,
}

/// When revisions were first seen.
#[derive(Debug)]
pub(super) struct Ages {
    spacing: Duration,
    samples: Mutex<VecDeque<(u64, Instant)>>,
}

impl Ages {
    /// `bound` is the largest age that matters.
    pub(super) fn new(bound: Duration) -> Self {
        Self { spacing: bound / SAMPLES, samples: Mutex::default() }
    }

    pub(super) fn measure(&self, backlog: &Backlog, now: Instant) -> Lag {
        let (changes, bytes) = (backlog.outbox.backlog_changes(), backlog.outbox.backlog_bytes());
        let head = backlog.config.position().revision;
        let recorded = head.saturating_sub(changes);
        let mut samples = self.samples.lock().expect("no code panics while it holds the samples");
        while samples.front().is_some_and(|(revision, _)| *revision <= recorded || *revision > head) {
            samples.pop_front();
        }
        if changes > 0 && samples.back().is_none_or(|(_, at)| now.duration_since(*at) >= self.spacing) {
            // Beyond the bound nothing finer is needed: the oldest stays.
            if samples.len() <= SAMPLES as usize {
                samples.push_back((head, now));
            }
        }
        let age = samples.front().map_or(Duration::ZERO, |(_, at)| now.duration_since(*at));
        Lag { changes, bytes, age }
    }
}
