//! A request on its way to the nodes of an upstream, one after the other until one answers.

use std::rc::Rc;
use std::sync::Arc;

use http::Method;
use http::header::HeaderValue;
use http::request::Parts;
use protocol::resource::{PassHost, Timeouts};
use rustls::ClientConfig;
use tokio::time::Instant;
use tracing::debug;

use crate::health::{Outcome, Source};
use crate::proxy::account::Tries;
use crate::proxy::balance::{Pick, Tried, UnderWay};
use crate::proxy::body::Receiving;
use crate::proxy::downstream::body::RequestBody;
use crate::proxy::downstream::client::Client;
use crate::proxy::error::Refusal;
use crate::proxy::upstream::AnswerHead;
use crate::proxy::upstream::connection::Connection;
use crate::proxy::upstream::exchange::{self, Exchange, ExchangeLimits, Failed, Failure};
use crate::proxy::upstream::request_head::{BodyFraming, Forwarded, RequestHead};
use crate::proxy::upstream::response_head::ResponseHead;
use crate::proxy::values::RequestValues;
use crate::proxy::worker::Worker;
use crate::table::{Balancing, Node, Upstream};

/// The head of an answer, the rest of it, the node that gives it, and where it counts meanwhile.
pub(in crate::proxy) type Answered<'r> = (AnswerHead, Receiving, &'r Node, Option<UnderWay>);

/// A request on its way to one of several nodes.
pub(in crate::proxy) struct Outbound<'r> {
    pub(in crate::proxy) worker: &'r Rc<Worker>,
    pub(in crate::proxy) upstream: &'r Upstream,
    /// How TLS is made to the nodes, where it is spoken.
    pub(in crate::proxy) tls: Option<&'r Arc<ClientConfig>>,
    pub(in crate::proxy) parts: &'r Parts,
    pub(in crate::proxy) path: &'r str,
    /// The host with its port that the client names, or a plugin in its place.
    pub(in crate::proxy) authority: &'r str,
    pub(in crate::proxy) framing: BodyFraming,
    /// The request as its client sent it, with the headers that plugins made of its own: what nodes are chosen by.
    pub(in crate::proxy) asked: RequestValues<'r>,
    /// Whether what the headers say of the client's scheme, host and port is passed on.
    pub(in crate::proxy) tells: bool,
    /// The protocol to which the client asks to switch.
    pub(in crate::proxy) upgrade: Option<&'r HeaderValue>,
    /// Until it is sent.
    pub(in crate::proxy) body: Option<Box<RequestBody>>,
    pub(in crate::proxy) timeouts: Timeouts,
    /// Who is told what nodes say before they answer (1xx): a client of HTTP/1.1.
    pub(in crate::proxy) told_before: Option<&'r Client>,
}

impl<'r> Outbound<'r> {
    /// Tries one node after the other until one answers, as often and as long as the upstream allows. Another node is
    /// tried only when the one before cannot have acted on the request, or when acting twice is as good as once and the
    /// whole request is still there.
    pub(in crate::proxy) async fn send(&mut self, tries: &mut Tries) -> Result<Answered<'r>, Refusal> {
        let upstream = self.upstream;
        let mut tried = Tried::new();
        // APISIX's time for tries begins with the first of them.
        let bound = upstream.retry_timeout.map(|limit| (Instant::now(), limit));
        let mut last: Option<Refusal> = None;
        loop {
            let pick = self.worker.balancer.borrow_mut().pick(upstream, &tried, &self.asked);
            let Some(Pick { place, down }) = pick else { return Err(last.unwrap_or(Refusal::NoNode)) };
            if let Some(failed) = last.take() {
                // Whatever is answered in the end is counted there; this one is not heard of any more.
                self.worker.figures.retries.add(1);
                if let Some(error) = failed.upstream_error() {
                    self.worker.figures.upstream_failed(error);
                }
            }
            if down && tried.is_empty() {
                self.worker.figures.all_down.add(1);
            }
            tried.push(place);
            let node = &upstream.nodes[place];
            tries.at(node);
            let counts = matches!(upstream.balancing, Balancing::LeastConnections | Balancing::Ewma);
            let under_way = counts.then(|| self.worker.loads.begin(node.endpoint));
            let (refusal, may_retry) = match self.try_node(node).await {
                Ok((head, receiving)) => {
                    if let Some(under_way) = &under_way {
                        under_way.answered();
                    }
                    if let Some(monitor) = &node.watch.0 {
                        monitor.report_status(head.status.as_u16(), Source::Passive);
                    }
                    return Ok((head, receiving, node, under_way));
                }
                Err(failed) => failed,
            };
            if let (Some(under_way), true) = (&under_way, sign_of(&refusal).is_some()) {
                under_way.failed();
            }
            if let (Some(monitor), Some(sign)) = (&node.watch.0, sign_of(&refusal)) {
                monitor.report(sign, Source::Passive);
            }
            if refusal.upstream_error().is_some() {
                tries.statuses.push(refusal.status().as_u16());
            }
            let retries = u32::try_from(tried.len() - 1).unwrap_or(u32::MAX);
            let in_time = bound.is_none_or(|(begun, limit)| begun.elapsed() < limit);
            if !may_retry || retries >= upstream.retries || !in_time {
                return Err(refusal);
            }
            debug!(node = node.address(), reason = %refusal, attempt = retries + 1, "trying another node");
            last = Some(refusal);
        }
    }

    /// Sends the request to a node, over a connection that waits or else a new one. A connection that waited may have
    /// been closed by the node in this very moment; where the node cannot have acted on the request, that is no failure
    /// of the node, and a new connection is made.
    ///
    /// Beside a failure: whether the request may be sent to another node.
    async fn try_node(&mut self, node: &Node) -> Result<(AnswerHead, Receiving), (Refusal, bool)> {
        let secured = self.secured(node).map_err(|refusal| {
            let may_retry = !matches!(refusal, Refusal::BadRequest(_));
            (refusal, may_retry)
        })?;
        if self.upstream.is_http2() {
            return Box::pin(self.try_http2(node, secured)).await;
        }
        let figures = &self.worker.figures;
        if let Some(connection) = self.worker.pools.take(node.endpoint, secured.as_ref()) {
            figures.upstream_reuses.add(1);
            match self.exchange(connection, node).await {
                Ok((head, receiving)) => return Ok((head, Receiving::Http1(receiving))),
                Err((Failure::Closed | Failure::Io(_), true)) => figures.retries.add(1),
                Err((failure, may_retry)) => return Err((Refusal::Upstream(failure), may_retry)),
            }
        }
        // The request may be sent: all of its body is still there. What a handshake needs is not to make the state of every
        // request larger.
        let connecting = Box::pin(self.connect(node, secured.as_ref()));
        let link = connecting.await.map_err(|refusal| (refusal, true))?;
        figures.upstream_connects.add(1);
        let connection = Box::new(Connection::new(link, secured, &self.worker.wheel));
        let answer = self.exchange(connection, node).await;
        answer
            .map(|(head, receiving)| (head, Receiving::Http1(receiving)))
            .map_err(|(failure, may_retry)| (Refusal::Upstream(failure), may_retry))
    }

    /// One attempt on one connection. Beside a failure: whether the request may be sent once more.
    async fn exchange(
        &mut self,
        mut connection: Box<Connection>,
        node: &Node,
    ) -> Result<(AnswerHead, exchange::Receiving), (Failure, bool)> {
        connection.requests += 1;
        connection.out.clear();
        self.head_for(node).write(&mut connection.out);
        let body = self.body.take();
        let had_body = body.is_some();
        let chunked = self.framing == BodyFraming::Chunked;
        let may_go_twice = is_idempotent(&self.parts.method);
        let exchange = Exchange::new(connection, body, chunked, may_go_twice, self.upgrade, self.limits());
        let pass = |head: &ResponseHead| {
            if let Some(client) = self.told_before {
                client.tell_before(head.status, &head.fields);
            }
        };
        let answered = exchange.head(&self.parts.method, pass).await;
        answered.map_err(|failed| self.failed(failed, had_body))
    }

    pub(in crate::proxy) fn limits(&self) -> ExchangeLimits {
        ExchangeLimits { send: self.timeouts.send, read: self.timeouts.read, head: self.worker.head_limits }
    }

    /// What an attempt leaves behind: why it failed, and whether the request may be sent once more.
    pub(in crate::proxy) fn failed(&mut self, failed: Failed, had_body: bool) -> (Failure, bool) {
        let whole = !had_body || failed.body.is_some();
        // What the client sends no further is of no use to another node either.
        let is_clients = matches!(failed.why, Failure::Client(_));
        let may_go = !failed.sent || is_idempotent(&self.parts.method);
        let replayable = whole && !is_clients && !failed.answered && may_go;
        self.body = failed.body;
        (failed.why, replayable)
    }

    pub(in crate::proxy) fn head_for<'h>(&'h self, node: &'h Node) -> RequestHead<'h> {
        RequestHead {
            method: &self.parts.method,
            path: self.path,
            query: self.parts.uri.query(),
            headers: &self.parts.headers,
            host: self.host_for(node),
            body: self.framing,
            upgrade: self.upgrade,
            forwarded: Forwarded {
                client: self.asked.peer.ip(),
                secure: self.asked.secure,
                host: self.asked.host,
                port: self.asked.local.port(),
                tells: self.tells,
            },
        }
    }

    pub(in crate::proxy) fn host_for<'h>(&'h self, node: &'h Node) -> &'h str {
        match &self.upstream.upstream_host {
            _ if self.is_clients_host() => self.authority,
            Some(host) if self.upstream.pass_host == PassHost::Rewrite => host,
            _ => &node.authority,
        }
    }

    /// Whether nodes see the host that the client names. A client of HTTP/1.0 may have named none; a node must be told one.
    pub(in crate::proxy) fn is_clients_host(&self) -> bool {
        let passes = match self.upstream.pass_host {
            PassHost::Pass => true,
            PassHost::Rewrite => self.upstream.upstream_host.is_none(),
            PassHost::Node => false,
        };
        passes && !self.authority.is_empty()
    }
}

/// What a failure says about the node's health; `None` where the client is to blame.
fn sign_of(refusal: &Refusal) -> Option<Outcome> {
    match refusal {
        Refusal::Connection(_) | Refusal::Tls(_) | Refusal::Upstream(Failure::Closed | Failure::Io(_)) => {
            Some(Outcome::TcpFailure)
        }
        Refusal::ConnectTimeout(_) | Refusal::Upstream(Failure::SendTimeout | Failure::ReadTimeout) => {
            Some(Outcome::Timeout)
        }
        Refusal::Upstream(Failure::Head(_) | Failure::Interims | Failure::Http2(_)) => Some(Outcome::HttpFailure),
        _ => None,
    }
}

fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS, Method::TRACE].contains(method)
}
