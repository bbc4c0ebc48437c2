//! The plugins of one request: which they are, and their phases.
//!
//! ```text
//!   before: global rules, one after the other: rewrite, access
//!           the route's plugins: rewrite -> (whose request is it?) -> what the consumer adds: rewrite -> access
//!   after:  header_filter of all of them, on whatever answer there is
//! ```
//!
//! A request that no plugin looks at costs a few comparisons. One that some do is copied: they work on their own copy, and
//! the upstream gets what they made of it.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use daemon::seams::{SystemClock, SystemRandom};
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::{PathAndQuery, Uri};
use http::{Response, StatusCode};
use plugins::{Answer, Chain, Identity, Instance, Login, Merged, Request, Step, merge};
use protocol::resource::Values;
use protocol::seam::{Random, WallClock};
use tokio::time::{Instant, sleep};

use super::body::ResponseBody;
use super::error::Refusal;
use super::headers::settle_connection;
use super::host::Host;
use super::values::RequestValues;
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
    /// Of global rules, in the order in which they ran.
    global: Merged<'r>,
    /// Of the route and all that has a say with it.
    merged: Merged<'r>,
    /// Who sent the request elsewhere than the route says, and to which of its destinations.
    sent_by: Option<(&'r Instance, usize)>,
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
    ) -> Result<Option<Response<ResponseBody>>, Refusal> {
        let chains = route.map(|route| self.table.chains(route, None)).transpose()?.unwrap_or_default();
        if chains.iter().all(|chain| chain.is_empty()) && self.table.global_rules().next().is_none() {
            return Ok(None);
        }
        let running = self.running.insert(Box::new(Running::new(self.table, came, host, path, route)));
        // Most requests have no plugins: what waits for them is not to make every request's own state larger.
        Ok(Box::pin(running.before(route, &chains)).await?.map(respond))
    }

    /// The request for the upstream: what plugins made of it, or what came.
    pub(crate) fn outgoing<'a>(
        &'a self,
        parts: &'a Parts,
        path: Cow<'a, str>,
        host: Host<'a>,
    ) -> (&'a Parts, Cow<'a, str>, Host<'a>) {
        let Some((running, edited)) = self.running.as_ref().and_then(|r| Some((r, r.edited.as_ref()?))) else {
            return (parts, path, host);
        };
        let authority = running.request.authority.as_deref().unwrap_or(host.authority);
        (edited, Cow::Borrowed(&running.request.path), Host { authority, ..host })
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
        response: Response<ResponseBody>,
        upstream_status: Option<u16>,
    ) -> Response<ResponseBody> {
        match &self.running {
            Some(running) if response.status() != StatusCode::SWITCHING_PROTOCOLS => {
                running.after(response, upstream_status)
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
        let request = Request {
            method: came.parts.method.clone(),
            path: path.to_owned(),
            query: came.parts.uri.query().map(str::to_owned),
            headers,
            authority: None,
            remote: came.peer.ip(),
            secure: came.secure,
            route_id: route.map(|route| route.id.clone()).unwrap_or_default(),
            service_id: service.map(|service| service.id.clone()),
            identity: None,
            destination: None,
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
        }
    }

    async fn before(&mut self, route: Option<&'r Route>, chains: &[&'r Chain]) -> Result<Option<Answer>, Refusal> {
        for rule in self.table.global_rules() {
            let rule = self.applying(merge(&[rule]));
            self.global.extend(rule.iter().copied());
            for phase in [Phase::Rewrite, Phase::Access] {
                if let Some(answer) = self.run(phase, &rule).await {
                    return Ok(Some(answer));
                }
            }
        }
        let Some(route) = route else { return Ok(None) };
        self.merged = self.applying(merge(chains));
        let first = self.merged.clone();
        if let Some(answer) = self.run(Phase::Rewrite, &first).await {
            return Ok(Some(answer));
        }
        if let Some(consumer) = self.request.identity.as_ref().map(|identity| identity.consumer.clone()) {
            let chains = self.table.chains(route, Some(&consumer))?;
            self.merged = self.applying(merge(&chains));
            let is_new = |instance: &&'r Instance| !first.iter().any(|known| std::ptr::eq(*known, *instance));
            let added: Merged<'r> = self.merged.iter().copied().filter(is_new).collect();
            if let Some(answer) = self.run(Phase::Rewrite, &added).await {
                return Ok(Some(answer));
            }
        }
        let all = self.merged.clone();
        if let Some(answer) = self.run(Phase::Access, &all).await {
            return Ok(Some(answer));
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

    async fn run(&mut self, phase: Phase, instances: &[&'r Instance]) -> Option<Answer> {
        for instance in instances {
            let behaviour = instance.behaviour();
            let host = world(self.table, self.came, &self.host, &self.path);
            let step = match phase {
                Phase::Rewrite => behaviour.rewrite(&mut self.request, &host),
                Phase::Access => behaviour.access(&mut self.request, &host),
            };
            if let Some(number) = self.request.destination.take() {
                self.sent_by = Some((instance, number));
            }
            let mut step = instance.settle(step);
            loop {
                match step {
                    Step::Go => break,
                    Step::Answer(answer) => return Some(answer),
                    Step::Wait(time) => {
                        sleep(time).await;
                        break;
                    }
                    Step::WaitThen(time, then) => {
                        sleep(time).await;
                        step = *then;
                    }
                }
            }
        }
        None
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
        let mut view = plugins::Response { status, headers, upstream_status, body: None };
        let host = self.world();
        for instance in self.global.iter().chain(&self.merged) {
            instance.behaviour().header_filter(&self.request, &mut view, &host);
        }
        let mut new_body = view.body;
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
        Response::from_parts(head, body)
    }

    fn world(&self) -> World<'_> {
        world(self.table, self.came, &self.host, &self.path)
    }
}

fn world<'w>(table: &'w Table, came: Came<'w>, host: &'w str, path: &'w str) -> World<'w> {
    let Came { parts, peer, local, secure } = came;
    World { values: RequestValues { parts, host, path, peer, local, secure }, table }
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
    let mut response = Response::new(ResponseBody::full(body));
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// The world as plugins see it while they run for one request.
struct World<'w> {
    values: RequestValues<'w>,
    table: &'w Table,
}

/// All workers count time from here: what plugins count is shared by them.
static BEGUN: LazyLock<Instant> = LazyLock::new(Instant::now);

impl plugins::Host for World<'_> {
    fn values(&self) -> &dyn Values {
        &self.values
    }

    fn header(&self, name: &HeaderName) -> Option<&HeaderValue> {
        self.values.parts.headers.get(name)
    }

    fn now(&self) -> Duration {
        BEGUN.elapsed()
    }

    fn wall_seconds(&self) -> u64 {
        SystemClock.now() / 1000
    }

    fn random(&self) -> [u8; 16] {
        SystemRandom.bytes16()
    }

    fn login(&self, plugin: &'static str, identity: &str) -> Option<Login<'_>> {
        let (known, consumer) = self.table.access().login(plugin, identity)?;
        Some(Login { identity: &consumer.identity, credential: known.credential.as_ref(), proof: &known.proof })
    }

    fn consumer(&self, name: &str) -> Option<&Identity> {
        Some(&self.table.access().consumers.get(name)?.identity)
    }
}
