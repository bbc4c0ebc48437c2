//! The judgement over one node: so many good signs in a row and it is up, so many bad ones of a kind and it is down.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use protocol::resource::Checks;
use tokio::sync::Semaphore;
use tracing::{info, warn};

use super::ProbeTls;
use crate::table::NodeHost;

/// One node under one set of checks.
#[derive(Debug)]
pub(crate) struct Monitor {
    pub(crate) host: NodeHost,
    pub(crate) port: u16,
    /// What it is called in a `Host` header.
    pub(crate) authority: Box<str>,
    pub(crate) checks: Checks,
    /// How a probe makes TLS, where it does.
    pub(super) tls: Option<ProbeTls>,
    /// Probes at once, over all nodes with these checks.
    pub(super) slots: Arc<Semaphore>,
    up: AtomicBool,
    /// No bad sign is counted. Read by workers for every answer; written when that changes only.
    clean: AtomicBool,
    counts: Mutex<Counts>,
}

/// Signs in a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) successes: u8,
    pub(crate) http_failures: u8,
    pub(crate) tcp_failures: u8,
    pub(crate) timeouts: u8,
}

/// A sign.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Outcome {
    Success,
    /// An answer with a bad status.
    HttpFailure,
    /// No connection, or one that broke.
    TcpFailure,
    /// No answer in time.
    Timeout,
}

/// Who saw it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    /// A probe.
    Active,
    /// The traffic.
    Passive,
}

impl Monitor {
    pub(super) fn new(
        host: NodeHost,
        port: u16,
        authority: &str,
        checks: Checks,
        tls: Option<ProbeTls>,
        slots: Arc<Semaphore>,
        up: bool,
    ) -> Self {
        Self {
            host,
            port,
            authority: authority.into(),
            checks,
            tls,
            slots,
            up: AtomicBool::new(up),
            clean: AtomicBool::new(true),
            counts: Mutex::default(),
        }
    }

    /// Whether requests should go there.
    pub(crate) fn is_up(&self) -> bool {
        self.up.load(Ordering::Relaxed)
    }

    pub(crate) fn counts(&self) -> Counts {
        *self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Learns the status of an answer; one that says neither good nor bad is no sign.
    pub(crate) fn report_status(&self, status: u16, source: Source) {
        let (good, bad) = match (source, &self.checks.passive) {
            (Source::Active, _) => (&self.checks.active.healthy_statuses, &self.checks.active.unhealthy_statuses),
            (Source::Passive, Some(passive)) => (&passive.healthy_statuses, &passive.unhealthy_statuses),
            (Source::Passive, None) => return,
        };
        if good.contains(&status) {
            self.report(Outcome::Success, source);
        } else if bad.contains(&status) {
            self.report(Outcome::HttpFailure, source);
        }
    }

    /// Learns a sign.
    pub(crate) fn report(&self, outcome: Outcome, source: Source) {
        if outcome == Outcome::Success && self.is_up() && self.clean.load(Ordering::Relaxed) {
            return;
        }
        let active = &self.checks.active;
        let limit = match (source, &self.checks.passive, outcome) {
            (Source::Active, _, Outcome::Success) => active.successes,
            (Source::Active, _, Outcome::HttpFailure) => active.http_failures,
            (Source::Active, _, Outcome::TcpFailure) => active.tcp_failures,
            (Source::Active, _, Outcome::Timeout) => active.timeouts,
            (Source::Passive, None, _) => return,
            (Source::Passive, Some(passive), Outcome::Success) => passive.successes,
            (Source::Passive, Some(passive), Outcome::HttpFailure) => passive.http_failures,
            (Source::Passive, Some(passive), Outcome::TcpFailure) => passive.tcp_failures,
            (Source::Passive, Some(passive), Outcome::Timeout) => passive.timeouts,
        };
        if limit == 0 {
            return;
        }
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if outcome == Outcome::Success {
            *counts = Counts { successes: counts.successes.saturating_add(1), ..Counts::default() };
        } else {
            counts.successes = 0;
        }
        let count = match outcome {
            Outcome::Success => counts.successes,
            Outcome::HttpFailure => bumped(&mut counts.http_failures),
            Outcome::TcpFailure => bumped(&mut counts.tcp_failures),
            Outcome::Timeout => bumped(&mut counts.timeouts),
        };
        self.clean.store(outcome == Outcome::Success, Ordering::Relaxed);
        if count < limit {
            return;
        }
        let up = outcome == Outcome::Success;
        if self.up.swap(up, Ordering::Relaxed) != up {
            *counts = Counts::default();
            self.clean.store(true, Ordering::Relaxed);
            let endpoint = self.address();
            match up {
                true => info!(endpoint, ?source, "a node is up again"),
                false => warn!(endpoint, ?source, ?outcome, "a node is down"),
            }
        }
    }

    /// `host:port`.
    pub(crate) fn address(&self) -> String {
        self.host.with_port(self.port)
    }
}

fn bumped(count: &mut u8) -> u8 {
    *count = count.saturating_add(1);
    *count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn monitor(checks: serde_json::Value) -> Monitor {
        let body = serde_json::json!({"nodes": {"a:1": 1}, "checks": checks});
        let upstreams = protocol::resource::KindInfo::find("upstreams").unwrap();
        let Ok(protocol::resource::Model::Upstream(upstream)) = upstreams.read(&body) else { panic!("a good body") };
        let slots = Arc::new(Semaphore::new(1));
        Monitor::new(NodeHost::parse("a"), 1, "a:1", upstream.checks.unwrap(), None, slots, true)
    }

    #[test]
    fn signs_in_a_row_decide() {
        use Outcome::{HttpFailure, Success, TcpFailure, Timeout};
        let node = monitor(serde_json::json!({
            "active": {"healthy": {"successes": 2}, "unhealthy": {"http_failures": 3, "tcp_failures": 2, "timeouts": 1}},
            "passive": {"healthy": {"successes": 0}, "unhealthy": {"http_failures": 2, "tcp_failures": 0, "http_statuses": [503]}},
        }));
        for (step, (outcome, source, up)) in [
            (HttpFailure, Source::Active, true),
            (TcpFailure, Source::Active, true),
            (HttpFailure, Source::Active, true),
            (Success, Source::Active, true),
            (HttpFailure, Source::Active, true),
            (HttpFailure, Source::Active, true),
            (HttpFailure, Source::Active, false),
            (Success, Source::Active, false),
            (HttpFailure, Source::Active, false),
            (Success, Source::Active, false),
            (Success, Source::Active, true),
            (Timeout, Source::Active, false),
            (Success, Source::Passive, false),
            (Success, Source::Passive, false),
            (Success, Source::Active, false),
            (Success, Source::Active, true),
            (TcpFailure, Source::Passive, true),
            (TcpFailure, Source::Passive, true),
            (HttpFailure, Source::Passive, true),
            (HttpFailure, Source::Passive, false),
        ]
        .into_iter()
        .enumerate()
        {
            node.report(outcome, source);
            assert_eq!(node.is_up(), up, "step {step}: {:?}", node.counts());
        }
    }

    #[test]
    fn a_status_that_is_in_neither_list_says_nothing() {
        let node = monitor(serde_json::json!({"active": {}, "passive": {"unhealthy": {"http_failures": 1}}}));
        node.report_status(404, Source::Passive);
        node.report_status(201, Source::Active);
        assert_eq!((node.is_up(), node.counts()), (true, Counts::default()));
        node.report_status(503, Source::Passive);
        assert!(!node.is_up());
        let unjudged = monitor(serde_json::json!({"active": {}}));
        (0..50).for_each(|_| unjudged.report(Outcome::TcpFailure, Source::Passive));
        assert!(unjudged.is_up(), "without passive checks the traffic judges nobody");
    }
}
