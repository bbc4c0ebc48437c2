//! What is noted about one request, and settled when it is over: at the end of its answer, or when it is given up.

use std::borrow::Cow;
use std::cell::Cell;
use std::hash::BuildHasher;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use foldhash::fast::FixedState;
use http::request::Parts;
use http::{StatusCode, Version};
use protocol::Text;
use smallvec::SmallVec;
use tokio::time::Instant;

use super::downstream::client::Client;
use super::error::UpstreamError;
use super::figures::{RowKey, Rows, StatusLabels, Times};
use super::host::Host;
use super::values::{RequestValues, Unread};
use super::worker::Worker;
use crate::access_log::{Draft, Outcome, RequestFacts};
use crate::path::canonical;
use crate::table::{Generation, MatchedHost, Node, Route};

/// The status of a request whose client went away before it was answered; nginx's number for it.
const CLIENT_GONE: u16 = 499;

/// What is noted about one request.
#[derive(Debug)]
pub(crate) struct Account {
    worker: Rc<Worker>,
    client: Rc<Client>,
    begun: Instant,
    upstream_begun: Option<Instant>,
    upstream_taken: Option<Duration>,
    /// The route that took it, until the answer is known.
    matched: Option<Matched>,
    /// Whose it is, where a plugin has found out.
    consumer: Option<Text>,
    /// Where it counts, once the answer is known.
    rows: Option<Rc<Rows>>,
    /// Bytes of the answer's body that went.
    sent: Cell<u64>,
    /// What the access log will say of it.
    noted: Option<Box<Noted>>,
    /// What plugins keep as long as it lasts.
    held: Vec<Arc<dyn plugins::Held>>,
}

/// What the access log will say of a request, as far as it is known.
#[derive(Debug)]
struct Noted {
    draft: Draft,
    route: Text,
    service: Text,
    matched_uri: String,
    /// Once the answer is known.
    status: u16,
    tries: Tries,
}

impl Noted {
    fn of(draft: Draft) -> Self {
        Self {
            draft,
            route: Text::default(),
            service: Text::default(),
            matched_uri: String::new(),
            status: CLIENT_GONE,
            tries: Tries::default(),
        }
    }
}

/// The nodes that a request was sent to.
#[derive(Debug, Default)]
pub(crate) struct Tries {
    /// What they said before the last of them was given up, and at the end; told in a header, as APISIX does.
    pub(crate) statuses: SmallVec<[u16; 4]>,
    /// Their addresses, where there is a log to tell them.
    nodes: Option<Vec<String>>,
}

impl Tries {
    /// Of a request that comes.
    pub(crate) fn of(worker: &Worker) -> Self {
        Self { statuses: SmallVec::new(), nodes: worker.access_log.as_ref().map(|_| Vec::new()) }
    }

    /// A node is tried.
    pub(crate) fn at(&mut self, node: &Node) {
        if let Some(nodes) = &mut self.nodes {
            nodes.push(node.address());
        }
    }
}

/// The route that took a request.
#[derive(Debug)]
pub(crate) struct Matched {
    pub(crate) table: Generation,
    pub(crate) route: Arc<Route>,
    pub(crate) pattern: u16,
    pub(crate) by: MatchedHost,
    /// The host that was asked for.
    pub(crate) host: Text,
}

impl Account {
    pub(crate) fn open(worker: Rc<Worker>, client: Rc<Client>) -> Self {
        worker.figures.requests.add(1);
        worker.figures.active.add(1);
        client.settle_egress();
        Self {
            worker,
            client,
            begun: Instant::now(),
            upstream_begun: None,
            upstream_taken: None,
            matched: None,
            consumer: None,
            rows: None,
            sent: Cell::new(0),
            noted: None,
            held: Vec::new(),
        }
    }

    /// A request of which nothing could be read was refused with this status: it counts, and has its line, as others.
    pub(crate) fn unread(worker: &Rc<Worker>, client: &Rc<Client>, status: StatusCode) {
        let mut account = Self::open(worker.clone(), client.clone());
        if let Some(log) = &worker.access_log {
            let values = Unread { peer: client.peer, local: client.local, secure: client.tls.is_some() };
            let facts = RequestFacts { values: &values, method: "", target: "", version: Version::HTTP_11 };
            account.noted = Some(Box::new(Noted::of(log.note(&facts))));
        }
        account.answered(status, None);
    }

    /// Notes what the access log tells of the request itself, where there is one.
    pub(crate) fn note(&mut self, parts: &Parts, peer: SocketAddr) {
        let Some(log) = &self.worker.access_log else { return };
        // What cannot be read is told as it came.
        let host = Host::of(parts).map_or(Cow::Borrowed(""), |host| host.name);
        let path = canonical(parts.uri.path()).unwrap_or(Cow::Borrowed(parts.uri.path()));
        let (local, secure) = (self.client.local, self.client.tls.is_some());
        let headers = &parts.headers;
        let values = RequestValues {
            parts,
            headers,
            host: &host,
            path: &path,
            peer,
            local,
            secure,
            consumer: None,
            asked: None,
        };
        let target = parts.uri.path_and_query().map_or(parts.uri.path(), |target| target.as_str());
        let facts = RequestFacts { values: &values, method: parts.method.as_str(), target, version: parts.version };
        self.noted = Some(Box::new(Noted::of(log.note(&facts))));
    }

    /// Keeps what plugins let go when the request is over.
    pub(crate) fn hold(&mut self, held: Vec<Arc<dyn plugins::Held>>) {
        self.held = held;
    }

    /// To which nodes it was sent.
    pub(crate) fn tried(&mut self, tries: Tries) {
        if let Some(noted) = &mut self.noted {
            noted.tries = tries;
        }
    }

    /// More of the answer is asked for: what went before is taken.
    pub(crate) fn more_asked(&self) {
        self.client.takes();
    }

    /// Bytes of the answer go.
    pub(crate) fn goes(&self, bytes: usize) {
        self.client.gives();
        self.client.count_out(bytes);
        self.sent.set(self.sent.get() + bytes as u64);
    }

    /// A route takes the request.
    pub(crate) fn matched(&mut self, matched: Matched) {
        self.matched = Some(matched);
    }

    /// A plugin has found out whose it is.
    pub(crate) fn is_of(&mut self, consumer: &Text) {
        self.consumer = Some(consumer.clone());
    }

    /// The first attempt to reach a node begins.
    pub(crate) fn upstream_begins(&mut self) {
        self.upstream_begun.get_or_insert_with(Instant::now);
    }

    /// A node has answered, or none has.
    pub(crate) fn upstream_ends(&mut self) {
        self.upstream_taken = self.upstream_begun.map(|begun| begun.elapsed());
    }

    pub(crate) fn upstream_failed(&self, error: UpstreamError) {
        self.worker.figures.upstream_failed(error);
    }

    /// The answer is known. The table is let go: an answer may take for ever.
    pub(crate) fn answered(&mut self, status: StatusCode, node: Option<&Node>) {
        self.rows = Some(self.find_rows(status.as_u16(), node));
        self.note_answer(status.as_u16());
        self.matched = None;
    }

    fn note_answer(&mut self, status: u16) {
        let Some(noted) = &mut self.noted else { return };
        noted.status = status;
        let Some(Matched { table, route, pattern, .. }) = &self.matched else { return };
        noted.route = route.id.clone();
        noted.service = table.service(route).map(|service| service.id.clone()).unwrap_or_default();
        noted.matched_uri = route.pattern(*pattern);
    }

    fn write_line(&mut self, taken: Duration) {
        if self.matched.is_some() {
            self.note_answer(CLIENT_GONE);
        }
        let (Some(noted), Some(log)) = (self.noted.take(), &self.worker.access_log) else { return };
        let Noted { draft, route, service, matched_uri, status, tries } = *noted;
        log.write(
            &draft,
            &Outcome {
                status,
                body_bytes: self.sent.get(),
                taken,
                route: &route,
                service: &service,
                matched_uri: &matched_uri,
                nodes: tries.nodes.as_deref().unwrap_or_default(),
                statuses: &tries.statuses,
                upstream_taken: self.upstream_taken,
            },
        );
    }

    fn find_rows(&self, code: u16, node: Option<&Node>) -> Rc<Rows> {
        let mut ledger = self.worker.ledger.borrow_mut();
        let Some(matched) = &self.matched else {
            let key = RowKey { route: 0, pattern: 0, code, node: None, host: 0, consumer: 0 };
            return ledger.rows(key, None, || StatusLabels { code, ..StatusLabels::default() });
        };
        let Matched { table, route, pattern, by, host } = matched;
        let key = RowKey {
            route: Arc::as_ptr(route).addr(),
            pattern: *pattern,
            code,
            node: node.map(|node| node.endpoint),
            host: matched.host_hash(),
            // Like those of hosts: only names of the configuration come here.
            consumer: self.consumer.as_ref().map_or(0, |name| FixedState::default().hash_one(name)),
        };
        ledger.rows(key, Some(route), || StatusLabels {
            code,
            route: route.id.clone(),
            matched_uri: route.pattern(*pattern).into(),
            matched_host: by.pattern(host),
            service: table.service(route).map(|s| s.id.clone()).unwrap_or_default(),
            consumer: self.consumer.clone().unwrap_or_default(),
            node: node.map(|node| node.address().into()).unwrap_or_default(),
        })
    }
}

impl Matched {
    /// A number for the pattern of hosts: the host itself only where a route names it.
    fn host_hash(&self) -> u64 {
        match self.by {
            MatchedHost::Any => 0,
            MatchedHost::Suffix(bytes) => 1 + bytes as u64,
            MatchedHost::Exact => {
                // Only names of the configuration come here, so nobody can make them collide.
                FixedState::default().hash_one(&self.host)
            }
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        self.worker.figures.active.sub(1);
        let rows = self.rows.take().unwrap_or_else(|| self.find_rows(CLIENT_GONE, None));
        let times = Times { request: self.begun.elapsed(), upstream: self.upstream_taken };
        rows.count(times, self.client.settle_ingress());
        if self.noted.is_some() {
            self.write_line(times.request);
        }
        // What the client gets of this answer is known when the next request comes, or the connection ends.
        self.client.owes_egress_to(rows);
        self.client.end_request();
    }
}
