//! What a worker counts. Only the worker writes, whoever asks for metrics reads: so a count is a load and a store of
//! memory that no other core writes, and nobody ever waits.

use std::collections::HashMap;
use std::hash::Hash;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use foldhash::fast::RandomState;
use protocol::Text;
use tokio::time::Instant;

use super::downstream::tls::HandshakeError;
use super::error::UpstreamError;
use super::stream::StreamFigures;
use crate::table::{Route, Ticket};

/// A figure with one writer.
#[derive(Debug, Default)]
pub struct Figure(AtomicU64);

impl Figure {
    /// Adds. Only its writer may.
    pub(crate) fn add(&self, n: u64) {
        self.0.store(self.get().wrapping_add(n), Ordering::Relaxed);
    }

    /// Subtracts. Only its writer may.
    pub(crate) fn sub(&self, n: u64) {
        self.0.store(self.get().wrapping_sub(n), Ordering::Relaxed);
    }

    /// Replaces. Only its writer may.
    pub(crate) fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// Its value.
    #[must_use]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Counts durations into APISIX's buckets of milliseconds.
#[derive(Debug, Default)]
pub struct Latency {
    counts: [Figure; Self::BOUNDS_MS.len() + 1],
    micros: Figure,
}

impl Latency {
    /// Upper bounds of the buckets.
    pub const BOUNDS_MS: [u64; 15] = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000, 60_000];

    fn observe(&self, taken: Duration) {
        let micros = u64::try_from(taken.as_micros()).unwrap_or(u64::MAX);
        let bucket = Self::BOUNDS_MS.iter().position(|bound| micros <= bound * 1000);
        self.counts[bucket.unwrap_or(Self::BOUNDS_MS.len())].add(1);
        self.micros.add(micros);
    }

    /// How many it has seen.
    pub fn count(&self) -> u64 {
        self.counts.iter().map(Figure::get).sum()
    }

    /// Adds its counts (the last: over all bounds) and its sum in microseconds to `counts` and `micros`.
    pub fn add_to(&self, counts: &mut [u64; Self::BOUNDS_MS.len() + 1], micros: &mut u64) {
        for (sum, count) in counts.iter_mut().zip(&self.counts) {
            *sum += count.get();
        }
        *micros += self.micros.get();
    }
}

/// Requests with one answer, by one route, from one node.
#[derive(Debug)]
pub struct StatusRow {
    /// What is told of them.
    pub labels: StatusLabels,
    /// How many.
    pub count: Figure,
}

/// What is told of a request in `apisix_http_status`. Everything comes from the configuration or is a status, never
/// from what clients make up.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct StatusLabels {
    /// The status that the client got.
    pub code: u16,
    /// The route's id.
    pub route: Text,
    /// The route's pattern that took the request.
    pub matched_uri: Text,
    /// The pattern of hosts that took it.
    pub matched_host: Text,
    /// The route's service.
    pub service: Text,
    /// The consumer whose request it is.
    pub consumer: Text,
    /// The node that answered.
    pub node: Text,
}

/// What is measured per route.
#[derive(Debug, Default)]
pub struct RouteRow {
    /// The route's id.
    pub route: Text,
    /// Its service.
    pub service: Text,
    /// From the head of the request to the end of the answer.
    pub request: Latency,
    /// From the first attempt to reach a node to the head of its answer.
    pub upstream: Latency,
    /// The rest.
    pub own: Latency,
    /// Bytes from clients.
    pub ingress: Figure,
    /// Bytes to clients.
    pub egress: Figure,
}

/// Rows of each kind that one worker keeps. What comes beyond is counted in a row without labels: memory stays bounded
/// however many routes, hosts and nodes there are.
const ROWS_MAX: usize = 10_000;

/// A row in which nothing was counted for so long is given back once there are too many.
const ROW_IDLE: Duration = Duration::from_secs(600);

/// What one worker counts.
#[derive(Debug, Default)]
pub struct Figures {
    /// Requests.
    pub requests: Figure,
    /// Client connections that were accepted.
    pub accepted: Figure,
    /// Client connections that were closed at once because there were too many.
    pub refused: Figure,
    /// Client connections that did not tell who they are from, where they must.
    pub untold: Figure,
    /// Client connections that are open.
    pub open: Figure,
    /// Requests that are under way.
    pub active: Figure,
    /// Connections that were opened to nodes.
    pub upstream_connects: Figure,
    /// Requests that used a connection again.
    pub upstream_reuses: Figure,
    /// Connections to nodes that wait.
    pub upstream_idle: Figure,
    /// Requests that were tried again.
    pub retries: Figure,
    /// Requests that were sent to a node that is down, since all are.
    pub all_down: Figure,
    /// Requests that a bug in this program ended.
    pub panics: Figure,
    /// TLS handshakes that came to a connection.
    pub tls_handshakes: Figure,
    /// Those of them that resumed a session.
    pub tls_resumed: Figure,
    /// TLS handshakes under way.
    pub tls_pending: Figure,
    /// Connections that were closed at once because too many handshakes were under way.
    pub tls_refused: Figure,
    /// Handshakes that came to nothing, by [`Figures::TLS_FAILURES`].
    pub tls_failures: [Figure; HandshakeError::NAMES.len()],
    /// Client connections that speak HTTP/2, so far.
    pub http2_connections: Figure,
    /// Of these, ended because of what their clients sent: too many resets, errors or frames of a head.
    pub http2_floods: Figure,
    /// Of stream listeners.
    pub stream: StreamFigures,
    /// Failures by [`Figures::UPSTREAM_ERRORS`].
    pub upstream_errors: [Figure; UpstreamError::NAMES.len()],
    statuses: Mutex<Vec<Arc<StatusRow>>>,
    routes: Mutex<Vec<Arc<RouteRow>>>,
}

impl Figures {
    /// The names of failures, in their order.
    pub const UPSTREAM_ERRORS: [&'static str; UpstreamError::NAMES.len()] = UpstreamError::NAMES;

    /// The names of failed handshakes, in their order.
    pub const TLS_FAILURES: [&'static str; HandshakeError::NAMES.len()] = HandshakeError::NAMES;

    /// All rows of statuses.
    #[must_use]
    pub fn statuses(&self) -> Vec<Arc<StatusRow>> {
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// All rows of routes.
    #[must_use]
    pub fn routes(&self) -> Vec<Arc<RouteRow>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn upstream_failed(&self, error: UpstreamError) {
        self.upstream_errors[error as usize].add(1);
    }
}

/// The worker's own way to its rows. A request finds them by a few numbers; only what is new is worked out from texts,
/// and only a row that is new is entered where others look.
#[derive(Debug)]
pub(crate) struct Ledger {
    figures: Arc<Figures>,
    /// Asked with every request, by numbers that no client chooses.
    quick: HashMap<RowKey, Found, RandomState>,
    statuses: HashMap<StatusLabels, Known<StatusRow>>,
    routes: HashMap<Text, Known<RouteRow>>,
    /// When it was last looked which rows are still counted in.
    looked: Option<Instant>,
}

/// A row, and what it had counted when it was last looked at.
#[derive(Debug)]
struct Known<R> {
    row: Arc<R>,
    counted: u64,
}

/// What a key leads to, and the route that it points to: its place in memory is kept from others, and nothing of what it
/// holds.
#[derive(Debug)]
struct Found {
    rows: Rc<Rows>,
    _route: Option<Weak<Route>>,
}

/// By what a request finds its rows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct RowKey {
    /// Where the route is in memory. The ledger keeps it there as long as it knows this key.
    pub(crate) route: usize,
    pub(crate) pattern: u16,
    pub(crate) code: u16,
    pub(crate) node: Option<Ticket>,
    /// A hash of what is told of the host.
    pub(crate) host: u64,
    /// A hash of the consumer's name; 0: none.
    pub(crate) consumer: u64,
}

/// The rows of one kind of request.
#[derive(Debug)]
pub(crate) struct Rows {
    status: Arc<StatusRow>,
    route: Arc<RouteRow>,
}

/// How long the parts of a request took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Times {
    pub(crate) request: Duration,
    pub(crate) upstream: Option<Duration>,
}

impl Ledger {
    pub(crate) fn new(figures: Arc<Figures>) -> Self {
        Self { figures, quick: HashMap::default(), statuses: HashMap::new(), routes: HashMap::new(), looked: None }
    }

    /// Where there are as many rows as may be, gives those back in which nothing was counted for [`ROW_IDLE`] and longer:
    /// routes and nodes come and go, and those of today are not to be counted without labels for it.
    pub(crate) fn tidy(&mut self, now: Instant) {
        let is_full = self.statuses.len() >= ROWS_MAX || self.routes.len() >= ROWS_MAX;
        let is_due = self.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= ROW_IDLE);
        if !is_full || !is_due {
            return;
        }
        let is_first = self.looked.replace(now).is_none();
        retain(&mut self.statuses, &self.figures.statuses, is_first, |row| row.count.get());
        retain(&mut self.routes, &self.figures.routes, is_first, |row| row.request.count());
        self.quick.clear();
    }

    /// The rows of a request, of which `route` is what the key points to.
    pub(crate) fn rows(
        &mut self,
        key: RowKey,
        route: Option<&Arc<Route>>,
        labels: impl FnOnce() -> StatusLabels,
    ) -> Rc<Rows> {
        if let Some(found) = self.quick.get(&key) {
            return found.rows.clone();
        }
        if self.quick.len() >= ROWS_MAX {
            self.quick.clear();
        }
        let rows = Rc::new(self.find(labels()));
        self.quick.insert(key, Found { rows: rows.clone(), _route: route.map(Arc::downgrade) });
        rows
    }

    fn find(&mut self, labels: StatusLabels) -> Rows {
        let known = self.routes.len() < ROWS_MAX || self.routes.contains_key(&labels.route);
        let (route, service) = if known { (labels.route.clone(), labels.service.clone()) } else { Default::default() };
        let shared = &self.figures.routes;
        let new_route = || entered(shared, RouteRow { route: route.clone(), service, ..RouteRow::default() });
        let route = self.routes.entry(route.clone()).or_insert_with(new_route).row.clone();
        let known = self.statuses.len() < ROWS_MAX || self.statuses.contains_key(&labels);
        let labels = if known { labels } else { StatusLabels { code: labels.code, ..StatusLabels::default() } };
        let shared = &self.figures.statuses;
        let new_status = || entered(shared, StatusRow { labels: labels.clone(), count: Figure::default() });
        let status = self.statuses.entry(labels.clone()).or_insert_with(new_status).row.clone();
        Rows { status, route }
    }
}

impl Rows {
    /// Counts a request.
    pub(crate) fn count(&self, times: Times, ingress: u64) {
        self.status.count.add(1);
        self.route.request.observe(times.request);
        if let Some(upstream) = times.upstream {
            self.route.upstream.observe(upstream);
            self.route.own.observe(times.request.saturating_sub(upstream));
        }
        self.route.ingress.add(ingress);
    }

    /// Counts what a client got.
    pub(crate) fn count_egress(&self, bytes: u64) {
        self.route.egress.add(bytes);
    }
}

fn entered<R>(shared: &Mutex<Vec<Arc<R>>>, row: R) -> Known<R> {
    let row = Arc::new(row);
    shared.lock().unwrap_or_else(PoisonError::into_inner).push(row.clone());
    Known { row, counted: 0 }
}

/// Notes what rows have counted; but for the first time, gives back those in which nothing was counted since.
fn retain<K: Eq + Hash, R>(
    known: &mut HashMap<K, Known<R>>,
    shared: &Mutex<Vec<Arc<R>>>,
    is_first: bool,
    count: impl Fn(&R) -> u64,
) {
    known.retain(|_, known| {
        let counted = count(&known.row);
        let is_used = is_first || counted != std::mem::replace(&mut known.counted, counted);
        known.counted = counted;
        is_used
    });
    *shared.lock().unwrap_or_else(PoisonError::into_inner) = known.values().map(|known| known.row.clone()).collect();
}

#[cfg(test)]
mod tests {
    use plugins::Chain;
    use protocol::resource::MethodSet;

    use super::*;

    #[test]
    fn rows_are_bounded_and_found_again() {
        let figures = Arc::new(Figures::default());
        let mut ledger = Ledger::new(figures.clone());
        let times = Times { request: Duration::from_millis(3), upstream: Some(Duration::from_millis(2)) };
        for n in 0..ROWS_MAX + 50 {
            let key = RowKey { route: n, pattern: 0, code: 200, node: None, host: 0, consumer: 0 };
            for _ in 0..2 {
                let labels = || StatusLabels { code: 200, route: format!("r{n}").into(), ..StatusLabels::default() };
                ledger.rows(key, None, labels).count(times, 10);
            }
        }
        assert_eq!(figures.statuses().len(), ROWS_MAX + 1);
        assert!(figures.statuses()[..ROWS_MAX].iter().all(|row| row.count.get() == 2));
        let routes = figures.routes();
        assert_eq!(routes.len(), ROWS_MAX + 1);
        let other = routes.iter().find(|row| row.route.is_empty()).unwrap();
        assert_eq!(other.ingress.get(), 1000);
        let (mut counts, mut micros) = (Default::default(), 0);
        other.request.add_to(&mut counts, &mut micros);
        assert_eq!((counts[2], micros), (100, 300_000));
    }

    #[test]
    fn rows_that_nobody_uses_make_room_and_those_in_use_stay() {
        let figures = Arc::new(Figures::default());
        let mut ledger = Ledger::new(figures.clone());
        let times = Times { request: Duration::ZERO, upstream: None };
        let count = |ledger: &mut Ledger, n: usize| {
            let key = RowKey { route: n, pattern: 0, code: 200, node: None, host: 0, consumer: 0 };
            let labels = || StatusLabels { code: 200, route: format!("r{n}").into(), ..StatusLabels::default() };
            ledger.rows(key, None, labels).count(times, 0);
        };
        let now = Instant::now();
        (0..ROWS_MAX).for_each(|n| count(&mut ledger, n));
        for passed in [Duration::ZERO, ROW_IDLE / 2, ROW_IDLE, ROW_IDLE * 2] {
            ledger.tidy(now + passed);
            assert_eq!(figures.routes().len(), if passed < ROW_IDLE { ROWS_MAX } else { 1 }, "after {passed:?}");
            count(&mut ledger, 7);
        }
        count(&mut ledger, ROWS_MAX + 1);
        let mut rows: Vec<_> =
            figures.statuses().iter().map(|row| (row.labels.route.to_string(), row.count.get())).collect();
        rows.sort_unstable();
        assert_eq!(rows, [("r10001".to_owned(), 1), ("r7".to_owned(), 5)]);
    }

    #[test]
    fn a_route_that_is_gone_is_not_held() {
        let mut ledger = Ledger::new(Arc::default());
        let route = Arc::new(Route {
            id: "r1".into(),
            paths: smallvec::SmallVec::new(),
            priority: 0,
            methods: MethodSet::default(),
            target: None,
            service: None,
            plugins: Chain::default(),
            upgrades: None,
            conditions: None,
            seldom: None,
        });
        let key = RowKey { route: Arc::as_ptr(&route).addr(), pattern: 0, code: 200, node: None, host: 0, consumer: 0 };
        ledger.rows(key, Some(&route), StatusLabels::default);
        assert!(Arc::into_inner(route).is_some(), "nobody else holds it");
    }
}
