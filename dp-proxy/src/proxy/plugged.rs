//! The plugins of one request: which they are, and their phases.
//!
//! ```text
//!   before: global rules, all together: rewrite, access
//!           the route's plugins: rewrite -> (whose request is it?) -> what the consumer adds: rewrite -> access
//!   after:  header_filter of all of them, on whatever answer there is
//! ```
//!
//! A request that no plugin looks at costs a few comparisons. One that some do is copied: they work on their own copy, and
//! the upstream gets what they made of it.

mod means;
mod world;

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::header::{self, HeaderMap, HeaderValue};
use http::request::Parts;
use http::uri::{PathAndQuery, Uri};
use http::{Response, StatusCode};
use hyper::body::Body as _;
use plugins::{Answer, Call, Chain, Heading, Instance, Merged, Reply, Request, Step, gather, merge};
use protocol::Text;
use tokio::time::sleep;
use world::{World, world};

pub(crate) use means::Means;

use super::body::ResponseBody;
use super::error::Refusal;
use super::headers::settle_connection;
use super::host::Host;
use super::upstream::request_head::ASKED_BY;
use crate::path::canonical;
use crate::table::{Route, Table, Unavailable, Upstream};

/// The plugins of one request; none until one applies.
pub(crate) struct Plugged<'r> {
    table: &'r Table,
    running: Option<Box<Running<'r>>>,
}

/// A request as it came.
#[derive(Clone, Copy)]
pub(crate) struct Came<'r> {
    pub(crate) parts: &'r Parts,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    pub(crate) secure: bool,
    /// Whether what its connection says of the client behind it is believed.
    pub(crate) is_believed: bool,
}

/// A request for the upstream: what plugins made of it, or what came.
pub(crate) struct Outgoing<'a> {
    pub(crate) parts: &'a Parts,
    pub(crate) path: &'a str,
    /// The host with its port that it asks for.
    pub(crate) authority: &'a str,
    /// Who it is from.
    pub(crate) peer: SocketAddr,
    /// Whose it is, where a plugin has found out.
    pub(crate) consumer: Option<&'a Text>,
    /// The largest body that it may have, in bytes (0: any), where a plugin says so.
    pub(crate) body_bytes_max: Option<u64>,
    /// Whether plugins had their say.
    pub(crate) is_edited: bool,
}

struct Running<'r> {
    table: &'r Table,
    came: Came<'r>,
    /// Its host and canonical path.
    host: Box<str>,
    path: Box<str>,
    request: Request,
    /// What the upstream gets.
    edited: Option<Parts>,
    /// Of all global rules.
    global: Merged<'r>,
    /// Of the route and all that has a say with it.
    merged: Merged<'r>,
    /// Who sent the request elsewhere than the route says, and to which of its destinations.
    sent_by: Option<(&'r Instance, usize)>,
    /// Whether a plugin said that the request is from somebody else.
    peer_changed: bool,
}

/// A phase before the upstream.
#[derive(Clone, Copy)]
enum Phase {
    Rewrite,
    Access,
}

impl<'r> Plugged<'r> {
    pub(crate) fn new(table: &'r Table) -> Self {
        Self { table, running: None }
    }

    /// Runs what comes before the upstream. `Some`: a plugin answers in its place.
    pub(crate) async fn before(
        &mut self,
        came: Came<'r>,
        host: &Host<'_>,
        path: &str,
        route: Option<&'r Route>,
        mut means: Means<'_>,
    ) -> Result<Option<Response<ResponseBody>>, Refusal> {
        let chains = route.map(|route| self.table.chains(route, None)).transpose()?.unwrap_or_default();
        if chains.iter().all(|chain| chain.is_empty()) && self.table.global_rules().next().is_none() {
            return Ok(None);
        }
        let running = self.running.insert(Box::new(Running::new(self.table, came, host, path, route)));
        // Most requests have no plugins: what waits for them is not to make every request's own state larger.
        Ok(Box::pin(running.before(route, &chains, &mut means)).await?.map(respond))
    }

    /// The request for the upstream, of one that came so.
    pub(crate) fn outgoing<'a>(
        &'a self,
        parts: &'a Parts,
        path: &'a str,
        host: &'a Host<'_>,
        peer: SocketAddr,
    ) -> Outgoing<'a> {
        let authority = host.authority;
        let Some((running, edited)) = self.running.as_ref().and_then(|r| Some((r, r.edited.as_ref()?))) else {
            let (consumer, body_bytes_max, is_edited) = (None, None, false);
            return Outgoing { parts, path, authority, peer, consumer, body_bytes_max, is_edited };
        };
        let request = &running.request;
        Outgoing {
            parts: edited,
            path: &request.path,
            authority: request.authority.as_deref().unwrap_or(authority),
            peer: running.came.peer,
            consumer: request.identity.as_ref().map(|identity| &identity.consumer),
            body_bytes_max: request.body_bytes_max,
            is_edited: true,
        }
    }

    /// Whose the request is, where a plugin has found out.
    pub(crate) fn consumer(&self) -> Option<&Text> {
        self.running.as_ref()?.request.identity.as_ref().map(|identity| &identity.consumer)
    }

    /// Who the request is from, where a plugin says that it is somebody else than who it came from.
    pub(crate) fn new_peer(&self) -> Option<SocketAddr> {
        let running = self.running.as_ref()?;
        running.peer_changed.then_some(running.came.peer)
    }

    /// Where the request goes: as a plugin says, or else as its route does.
    pub(crate) fn upstream<'t>(&self, table: &'t Table, route: &'t Route) -> Result<&'t Arc<Upstream>, Unavailable> {
        match self.running.as_ref().and_then(|running| running.sent_by) {
            Some((by, number)) => table.destination(by.owner(), by.plugin.name, number),
            None => table.upstream(route),
        }
    }

    /// What plugins keep until the request is over.
    pub(crate) fn take_held(&mut self) -> Vec<Arc<dyn plugins::Held>> {
        self.running.as_mut().map(|running| std::mem::take(&mut running.request.held)).unwrap_or_default()
    }

    /// Lets plugins change an answer, whoever gives it.
    /// `upstream_status` is what the upstream answered or failed with, where it was asked.
    pub(crate) fn after(
        &self,
        response: super::response::Response,
        upstream_status: Option<u16>,
    ) -> super::response::Response {
        match &self.running {
            Some(running) if response.status != StatusCode::SWITCHING_PROTOCOLS => {
                running.after(response.into(), upstream_status).into()
            }
            // What follows a 101 is no answer.
            _ => response,
        }
    }
}

impl<'r> Running<'r> {
    fn new(table: &'r Table, came: Came<'r>, host: &Host<'_>, path: &str, route: Option<&Route>) -> Self {
        let service = route.and_then(|route| table.service(route));
        let mut headers = came.parts.headers.clone();
        settle_connection(&mut headers);
        let asked_by_tls = asked_by_tls(&came);
        if !came.is_believed {
            // What stands there behind the plugins is theirs, and passed on: see `Forwarded`.
            for name in ASKED_BY.iter().chain([&header::FORWARDED]) {
                headers.remove(name);
            }
        }
        let request = Request {
            method: came.parts.method.clone(),
            path: path.to_owned(),
            query: came.parts.uri.query().map(str::to_owned),
            headers,
            authority: None,
            remote: came.peer.ip(),
            remote_port: came.peer.port(),
            secure: asked_by_tls,
            body_bytes_max: None,
            route_id: route.map(|route| route.id.clone()).unwrap_or_default(),
            service_id: service.map(|service| service.id.clone()),
            identity: None,
            heading: None,
            answer_headers: HeaderMap::new(),
            held: Vec::new(),
        };
        Self {
            table,
            came,
            host: (&*host.name).into(),
            path: path.into(),
            request,
            edited: None,
            global: Merged::new(),
            merged: Merged::new(),
            sent_by: None,
            peer_changed: false,
        }
    }

    async fn before(
        &mut self,
        route: Option<&'r Route>,
        chains: &[&'r Chain],
        means: &mut Means<'_>,
    ) -> Result<Option<Answer>, Refusal> {
        self.global = self.applying(gather(self.table.global_rules()));
        let global = self.global.clone();
        for phase in [Phase::Rewrite, Phase::Access] {
            if let Some(answer) = self.run(phase, &global, means).await? {
                return Ok(Some(answer));
            }
        }
        let Some(route) = route else { return Ok(None) };
        self.merged = self.applying(merge(chains));
        let first = self.merged.clone();
        if let Some(answer) = self.run(Phase::Rewrite, &first, means).await? {
            return Ok(Some(answer));
        }
        if let Some(consumer) = self.request.identity.as_ref().map(|identity| identity.consumer.clone()) {
            let chains = self.table.chains(route, Some(&consumer))?;
            self.merged = self.applying(merge(&chains));
            let is_new = |instance: &&'r Instance| !first.iter().any(|known| std::ptr::eq(*known, *instance));
            let added: Merged<'r> = self.merged.iter().copied().filter(is_new).collect();
            if let Some(answer) = self.run(Phase::Rewrite, &added, means).await? {
                return Ok(Some(answer));
            }
        }
        let all = self.merged.clone();
        if let Some(answer) = self.run(Phase::Access, &all, means).await? {
            return Ok(Some(answer));
        }
        // What plugins make of a path, also out of what a client sent, is held to what is asked of a client's.
        if let Cow::Owned(path) = canonical(&self.request.path)? {
            self.request.path = path;
        }
        match self.edit() {
            Some(edited) => self.edited = Some(edited),
            // No plugin leaves a target that cannot be written; a request must not go out as it was never meant.
            None => return Ok(Some(Answer::empty(StatusCode::INTERNAL_SERVER_ERROR))),
        }
        Ok(None)
    }

    /// Those that are run for this request.
    fn applying(&self, mut merged: Merged<'r>) -> Merged<'r> {
        let host = self.world();
        merged.retain(|instance| instance.applies(&self.request, &host));
        merged
    }

    async fn run(
        &mut self,
        phase: Phase,
        instances: &[&'r Instance],
        means: &mut Means<'_>,
    ) -> Result<Option<Answer>, Refusal> {
        for instance in instances {
            let behaviour = instance.behaviour();
            let host = world(self.table, self.came, &self.host, &self.path);
            let step = match phase {
                Phase::Rewrite => behaviour.rewrite(&mut self.request, &host),
                Phase::Access => behaviour.access(&mut self.request, &host),
            };
            let peer = SocketAddr::new(self.request.remote, self.request.remote_port);
            if peer != self.came.peer {
                (self.came.peer, self.peer_changed) = (peer, true);
            }
            match self.request.heading.take() {
                Some(Heading::Route) => self.sent_by = None,
                Some(Heading::Destination(number)) => self.sent_by = Some((instance, number)),
                None => {}
            }
            let mut step = instance.settle(step);
            loop {
                match step {
                    Step::Go => break,
                    Step::Answer(answer) => return Ok(Some(answer)),
                    Step::Wait(time) => {
                        sleep(time).await;
                        break;
                    }
                    Step::Call(call) => {
                        let reply = Box::pin(self.call(instance, *call, means)).await?;
                        step = instance.settle(behaviour.replied(&mut self.request, reply));
                    }
                    Step::Check(check) => {
                        let result = Box::pin(means.check(*check, self.request.body_bytes_max)).await?;
                        let host = world(self.table, self.came, &self.host, &self.path);
                        step = instance.settle(behaviour.checked(&mut self.request, &host, result));
                    }
                    Step::WaitThen(time, then) => {
                        sleep(time).await;
                        step = *then;
                    }
                }
            }
        }
        Ok(None)
    }

    async fn call(&self, by: &Instance, call: Call, means: &mut Means<'_>) -> Result<Option<Reply>, Refusal> {
        let upstream = self.table.destination(by.owner(), by.plugin.name, call.destination)?;
        means.call(self.table, upstream, self.world().values, call, self.request.body_bytes_max).await
    }

    /// The head for the upstream; `None` when the target cannot be written.
    fn edit(&self) -> Option<Parts> {
        let request = &self.request;
        let target = match &request.query {
            Some(query) => format!("{}?{query}", request.path),
            None => request.path.clone(),
        };
        let (mut edited, ()) = http::Request::new(()).into_parts();
        edited.method = request.method.clone();
        edited.version = self.came.parts.version;
        edited.headers = request.headers.clone();
        edited.uri = Uri::from(PathAndQuery::try_from(target).ok()?);
        Some(edited)
    }

    fn after(&self, response: Response<ResponseBody>, upstream_status: Option<u16>) -> Response<ResponseBody> {
        let (mut head, mut body) = response.into_parts();
        for (name, value) in &self.request.answer_headers {
            head.headers.insert(name, value.clone());
        }
        let (status, headers) = (&mut head.status, &mut head.headers);
        let mut view = plugins::Response::new(status, headers);
        (view.upstream_status, view.length) = (upstream_status, body.size_hint().exact());
        let host = self.world();
        for instance in self.global.iter().chain(&self.merged) {
            instance.behaviour().header_filter(&self.request, &mut view, &host);
        }
        let (mut new_body, gzip_level) = (view.body, view.gzip_level);
        let has_none = [StatusCode::NO_CONTENT, StatusCode::NOT_MODIFIED].contains(&head.status);
        // The upstream's own 304 says of which representation it speaks (RFC 9110 §15.4.5); one that a plugin made of something
        // else has no body any more.
        if has_none && upstream_status != Some(head.status.as_u16()) {
            new_body = Some(Bytes::new());
        }
        if let Some(bytes) = new_body {
            // What was said of the body that was there does not hold for this one.
            for name in [header::CONTENT_LENGTH, header::CONTENT_ENCODING, header::ETAG, header::LAST_MODIFIED] {
                head.headers.remove(name);
            }
            body = ResponseBody::full(bytes);
        }
        if let Some(level) = gzip_level.filter(|_| !body.is_end_stream() && may_compress(&head)) {
            compressed(&mut head.headers);
            body = body.compressed(level);
        }
        Response::from_parts(head, body)
    }

    fn world(&self) -> World<'_> {
        world(self.table, self.came, &self.host, &self.path)
    }
}

/// Whether an answer's body may be sent in another coding: those of nginx's statuses, unless they have one or forbid it.
fn may_compress(head: &http::response::Parts) -> bool {
    let mut cache_control = head.headers.get_all(header::CACHE_CONTROL).iter();
    [StatusCode::OK, StatusCode::FORBIDDEN, StatusCode::NOT_FOUND].contains(&head.status)
        && !head.headers.contains_key(header::CONTENT_ENCODING)
        // RFC 9111 §5.2.2.6.
        && !cache_control.any(|value| value.to_str().is_ok_and(|text| text.to_ascii_lowercase().contains("no-transform")))
}

/// Says of a body that it is compressed. Parts of it and its bytes are others now (RFC 9110 §8.8.1).
fn compressed(headers: &mut HeaderMap) {
    headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("gzip"));
    headers.remove(header::CONTENT_LENGTH);
    headers.remove(header::ACCEPT_RANGES);
    if let Some(tag) = headers.get(header::ETAG).filter(|tag| !tag.as_bytes().starts_with(b"W/"))
        && let Ok(weak) = HeaderValue::from_bytes(&[b"W/", tag.as_bytes()].concat())
    {
        headers.insert(header::ETAG, weak);
    }
}

/// Whether the client asked by TLS. A balancer that ends its TLS says so in `X-Forwarded-Proto`, as in APISIX; anybody can write
/// that header, so that it counts only from the networks that `proxy.real_ip.from` trusts with the client's address too.
/// Believed from everybody it would let a client without TLS pass by a redirect to TLS.
fn asked_by_tls(came: &Came<'_>) -> bool {
    let [proto, ..] = ASKED_BY;
    match came.parts.headers.get(proto) {
        Some(proto) if came.is_believed => proto.as_bytes().eq_ignore_ascii_case(b"https"),
        _ => came.secure,
    }
}

/// A plugin's answer, with the proxy's own body where it has none.
fn respond(answer: Answer) -> Response<ResponseBody> {
    let Answer { status, mut headers, body } = answer;
    let body = if body.is_empty() && (status.is_client_error() || status.is_server_error()) {
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        Refusal::body_for(status)
    } else {
        body
    };
    if !body.is_empty() && !headers.contains_key(header::CONTENT_TYPE) {
        // What APISIX says of it. It may have words of the client's own in it, or of a server that was asked: no browser is to
        // take it for a page.
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    }
    let mut response = Response::new(ResponseBody::full(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}
