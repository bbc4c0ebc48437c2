//! One request, from its head to the head of its answer.

mod connect;
mod http2;

use std::borrow::Cow;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use daemon::planted;
use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{HeaderName, Method, Response, StatusCode, Version};
use protocol::resource::{self, PassHost, Timeouts};
use rustls::ClientConfig;
use tokio::time::Instant;
use tracing::{debug, warn};

use super::account::{Account, Matched, Tries};
use super::balance::{Pick, Tried, UnderWay};
use super::body::{Receiving, ResponseBody, Streaming};
use super::downstream::body::{Incoming, RequestBody};
use super::downstream::client::Client;
use super::downstream::tls::Session;
use super::error::Refusal;
use super::headers::asked_upgrade;
use super::host::Host;
use super::plugged::{Came, Plugged};
use super::tunnel::Tunnel;
use super::upstream::AnswerHead;
use super::upstream::connection::Connection;
use super::upstream::exchange::{self, Exchange, ExchangeLimits, Failed, Failure};
use super::upstream::request_head::{BodyFraming, Forwarded, RequestHead};
use super::values::RequestValues;
use super::worker::Worker;
use crate::health::{Outcome, Source};
use crate::path::canonical;
use crate::table::{Ask, Balancing, Generation, Node, Route, SslSlot, Table, Upstream};

const UPSTREAM_STATUS: HeaderName = HeaderName::from_static("x-apisix-upstream-status");

/// Answers a request.
pub(crate) async fn answer(
    worker: Rc<Worker>,
    client: Rc<Client>,
    parts: Parts,
    incoming: Incoming,
) -> Response<ResponseBody> {
    let number = client.begin_request();
    let mut account = Account::open(worker.clone(), client.clone());
    let peer = worker.real_peer(&client, &parts);
    account.note(&parts, peer);
    let mut tries = Tries::of(&worker);
    let table = worker.table();
    let mut plugged = Plugged::new(&table);
    let under = Under { table: &table, account: &mut account, tries: &mut tries };
    let response = match forward(&worker, &client, &parts, peer, incoming, under, &mut plugged).await {
        Ok(response) => response,
        Err(refusal) => refuse(&worker, &parts, &refusal, &mut account),
    };
    account.hold(plugged.take_held());
    let mut response = plugged.after(response, tries.statuses.last().copied());
    let headers = response.headers_mut();
    if let Some(server) = &worker.server_header {
        headers.insert(header::SERVER, server.clone());
    }
    if tries.statuses.last().is_some_and(|status| *status >= 500) {
        headers.insert(UPSTREAM_STATUS, said(&tries.statuses));
    }
    account.tried(tries);
    if response.status() == StatusCode::SWITCHING_PROTOCOLS {
        client.account_tunnel(account);
        return response;
    }
    let is_last = number == worker.requests_per_connection_max || worker.is_leaving();
    if is_last && parts.version < Version::HTTP_2 {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response.map(|body| body.with_account(account))
}

/// `502`, or `502, 504` after several attempts.
fn said(statuses: &[u16]) -> HeaderValue {
    match statuses {
        [one] => HeaderValue::from(*one),
        all => {
            let all: Vec<_> = all.iter().map(u16::to_string).collect();
            HeaderValue::from_str(&all.join(", ")).expect("digits and commas")
        }
    }
}

fn refuse(worker: &Worker, parts: &Parts, refusal: &Refusal, account: &mut Account) -> Response<ResponseBody> {
    if let Some(error) = refusal.upstream_error() {
        account.upstream_failed(error);
    }
    let status = refusal.status();
    let is_ours_to_tell = refusal.upstream_error().is_some()
        || matches!(refusal, Refusal::Barred(_) | Refusal::NoNode | Refusal::Unavailable(_));
    if is_ours_to_tell && worker.may_speak() {
        warn!(method = %parts.method, path = parts.uri.path(), status = status.as_u16(), reason = %refusal, "a request could not be served");
    } else {
        debug!(method = %parts.method, path = parts.uri.path(), status = status.as_u16(), reason = %refusal, "refused");
    }
    account.answered(status, None);
    let content_type = parts.headers.get(header::CONTENT_TYPE).map_or(&b""[..], HeaderValue::as_bytes);
    if parts.version == Version::HTTP_2 && content_type.starts_with(b"application/grpc") {
        return refusal.grpc_response();
    }
    refusal.response()
}

/// What a request is answered under: one generation of the table, and what is noted meanwhile.
struct Under<'t, 'a> {
    table: &'t Generation,
    account: &'a mut Account,
    tries: &'a mut Tries,
}

/// Finds the route, runs its plugins, and lets one of its nodes answer.
async fn forward<'r>(
    worker: &Rc<Worker>,
    client: &Rc<Client>,
    parts: &'r Parts,
    peer: SocketAddr,
    incoming: Incoming,
    under: Under<'r, '_>,
    plugged: &mut Plugged<'r>,
) -> Result<Response<ResponseBody>, Refusal> {
    let Under { table, account, tries } = under;
    check_framing(parts, &incoming)?;
    let host = Host::of(parts)?;
    let path = canonical(parts.uri.path())?;
    if let Some(rule) = table.barred() {
        return Err(Refusal::Barred(rule.to_owned()));
    }
    if let Some(session) = &client.tls
        && table.any_ssl_asks()
    {
        check_client(session, table, &host, &path)?;
    }
    let secure = client.tls.is_some();
    let values = RequestValues { parts, host: &host.name, path: &path, peer, local: client.local, secure };
    let ask = Ask {
        host: &host.name,
        path: &path,
        method: resource::Method::parse(parts.method.as_str()),
        remote: peer.ip(),
        values: &values,
    };
    let found = table.find(&ask);
    if let Some(found) = &found {
        account.matched(Matched {
            table: table.clone(),
            route: found.route.clone(),
            pattern: found.pattern,
            by: found.host,
            host: (&*host.name).into(),
        });
    }
    let came = Came { parts, peer, local: client.local, secure };
    if let Some(answer) = plugged.before(came, &host, &path, found.map(|found| &**found.route)).await? {
        account.answered(answer.status(), None);
        return Ok(answer);
    }
    let found = found.ok_or(Refusal::NoRoute)?;
    let later = match planted!("two-generations") {
        true => {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            Some(worker.table())
        }
        false => None,
    };
    let table = later.as_ref().unwrap_or(table);
    let upstream = plugged.upstream(table, found.route)?;
    let tls = table.client_config(upstream)?;
    let may_upgrade = table.takes_upgrades(found.route) && !upstream.is_http2() && parts.version == Version::HTTP_11;
    let upgrade = if may_upgrade { asked_upgrade(&parts.headers) } else { None };
    let (parts, path, host) = plugged.outgoing(parts, path, host);
    let body = RequestBody::new(incoming, client.clone(), worker.limits.body_bytes_max)?;
    let mut outbound = Outbound {
        worker,
        upstream,
        tls,
        parts,
        path,
        host,
        framing: framing(parts, &body),
        client: peer,
        local: client.local,
        secure,
        // What comes behind a body is a request, whatever is asked for.
        upgrade: upgrade.filter(|_| body.is_ended()),
        body: (!body.is_ended()).then(|| Box::new(body)),
        timeouts: timeouts(found.route, upstream),
    };
    account.upstream_begins();
    let result = outbound.send(tries).await;
    account.upstream_ends();
    let (head, receiving, node, under_way) = result?;
    let status = head.status;
    tries.statuses.push(status.as_u16());
    account.answered(status, Some(node));
    if status == StatusCode::SWITCHING_PROTOCOLS
        && let Receiving::Http1(receiving) = receiving
    {
        client.open_tunnel(Tunnel::to(receiving.into_tunnel(), worker.wheel.alarm(), outbound.timeouts.read));
        let mut response = Response::new(ResponseBody::full(Bytes::new()));
        *response.status_mut() = status;
        *response.headers_mut() = head.headers;
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
        return Ok(response);
    }
    let streaming = Streaming {
        receiving,
        pools: worker.pools.clone(),
        endpoint: node.endpoint,
        keepalive: upstream.keepalive,
        _under_way: under_way,
    };
    let mut response = Response::new(ResponseBody::streaming(Box::new(streaming)));
    *response.status_mut() = status;
    *response.headers_mut() = head.headers;
    Ok(response)
}

/// Refuses what a host's ssl asks of clients and the connection's handshake did not settle. One connection may carry
/// requests for many hosts, and what is asked may have changed since.
fn check_client(session: &Session, table: &Table, host: &Host<'_>, path: &str) -> Result<(), Refusal> {
    let asked = match table.ssl(&host.name) {
        Some(SslSlot::Ready(ssl)) => ssl.client.as_ref(),
        Some(SslSlot::Sealed(_)) => return Err(Refusal::Misdirected),
        None => None,
    };
    let Some(asked) = asked else { return Ok(()) };
    if asked.skip_uris.iter().any(|skip| skip.is_match(path.as_bytes())) {
        return Ok(());
    }
    match &session.ssl.client {
        Some(settled) if **settled == **asked => {
            if session.verified {
                Ok(())
            } else {
                Err(Refusal::NoClientCertificate)
            }
        }
        _ => Err(Refusal::Misdirected),
    }
}

/// Refuses what may be read in two ways, and what this proxy does not do.
fn check_framing(parts: &Parts, incoming: &Incoming) -> Result<(), Refusal> {
    if parts.method == Method::CONNECT {
        return Err(Refusal::Connect);
    }
    incoming.check()?;
    match parts.headers.get(header::EXPECT) {
        Some(expect) if !expect.as_bytes().eq_ignore_ascii_case(b"100-continue") => Err(Refusal::Expectation),
        _ => Ok(()),
    }
}

fn framing(parts: &Parts, body: &RequestBody) -> BodyFraming {
    match body.length() {
        Some(length) if length > 0 || parts.headers.contains_key(header::CONTENT_LENGTH) => BodyFraming::Length(length),
        Some(_) if parts.headers.contains_key(header::TRANSFER_ENCODING) => BodyFraming::Length(0),
        Some(_) => BodyFraming::None,
        None => BodyFraming::Chunked,
    }
}

/// The route's limits win over the upstream's.
fn timeouts(route: &Route, upstream: &Upstream) -> Timeouts {
    route.timeouts.as_deref().copied().or(upstream.timeouts).unwrap_or(Timeouts::DEFAULT)
}

/// The head of an answer, the rest of it, the node that gives it, and where it counts meanwhile.
type Answered<'r> = (AnswerHead, Receiving, &'r Node, Option<UnderWay>);

/// A request on its way to one of several nodes.
struct Outbound<'r> {
    worker: &'r Rc<Worker>,
    upstream: &'r Upstream,
    /// How TLS is made to the nodes, where it is spoken.
    tls: Option<&'r Arc<ClientConfig>>,
    parts: &'r Parts,
    path: Cow<'r, str>,
    host: Host<'r>,
    framing: BodyFraming,
    client: SocketAddr,
    local: SocketAddr,
    /// Whether it came by TLS.
    secure: bool,
    /// The protocol to which the client asks to switch.
    upgrade: Option<&'r HeaderValue>,
    /// Until it is sent.
    body: Option<Box<RequestBody>>,
    timeouts: Timeouts,
}

impl<'r> Outbound<'r> {
    /// Tries one node after the other until one answers, as often and as long as the upstream allows. Another node is
    /// tried only when the one before cannot have acted on the request, or when acting twice is as good as once and the
    /// whole request is still there.
    async fn send(&mut self, tries: &mut Tries) -> Result<Answered<'r>, Refusal> {
        let upstream = self.upstream;
        let mut tried = Tried::new();
        // APISIX's time for tries begins with the first of them.
        let begun = Instant::now();
        let mut last: Option<Refusal> = None;
        loop {
            let pick = self.worker.balancer.borrow_mut().pick(upstream, &tried, &self.values());
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
            let in_time = upstream.retry_timeout.is_none_or(|limit| begun.elapsed() < limit);
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
        // Nothing was sent: what was not touched of the body is still there.
        let link = self.connect(node, secured.as_ref()).await.map_err(|refusal| (refusal, true))?;
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
        let exchange = Exchange::new(connection, body, chunked, self.upgrade, self.limits());
        exchange.head(&self.parts.method).await.map_err(|failed| self.failed(failed, had_body))
    }

    fn limits(&self) -> ExchangeLimits {
        ExchangeLimits { send: self.timeouts.send, read: self.timeouts.read, head: self.worker.head_limits }
    }

    /// What an attempt leaves behind: why it failed, and whether the request may be sent once more.
    fn failed(&mut self, failed: Failed, had_body: bool) -> (Failure, bool) {
        let whole = !had_body || failed.body.is_some();
        let replayable = whole && !failed.answered && (!failed.sent || is_idempotent(&self.parts.method));
        self.body = failed.body;
        (failed.why, replayable)
    }

    fn values(&self) -> RequestValues<'_> {
        RequestValues {
            parts: self.parts,
            host: &self.host.name,
            path: &self.path,
            peer: self.client,
            local: self.local,
            secure: self.secure,
        }
    }

    fn head_for<'h>(&'h self, node: &'h Node) -> RequestHead<'h> {
        RequestHead {
            method: &self.parts.method,
            path: &self.path,
            query: self.parts.uri.query(),
            headers: &self.parts.headers,
            host: self.host_for(node),
            body: self.framing,
            upgrade: self.upgrade,
            forwarded: Forwarded {
                client: self.client.ip(),
                secure: self.secure,
                host: &self.host.name,
                port: self.local.port(),
            },
        }
    }

    fn host_for<'h>(&'h self, node: &'h Node) -> &'h str {
        match &self.upstream.upstream_host {
            _ if self.is_clients_host() => self.host.authority,
            Some(host) if self.upstream.pass_host == PassHost::Rewrite => host,
            _ => &node.authority,
        }
    }

    /// Whether nodes see the host that the client names. A client of HTTP/1.0 may have named none; a node must be told one.
    fn is_clients_host(&self) -> bool {
        let passes = match self.upstream.pass_host {
            PassHost::Pass => true,
            PassHost::Rewrite => self.upstream.upstream_host.is_none(),
            PassHost::Node => false,
        };
        passes && !self.host.authority.is_empty()
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
        Refusal::Upstream(Failure::Head(_) | Failure::Informational | Failure::Http2(_)) => Some(Outcome::HttpFailure),
        _ => None,
    }
}

fn is_idempotent(method: &Method) -> bool {
    [Method::GET, Method::HEAD, Method::PUT, Method::DELETE, Method::OPTIONS, Method::TRACE].contains(method)
}
