//! One request, from its head to the head of its answer.

mod connect;
mod http2;
pub(super) mod outbound;

use std::net::SocketAddr;
use std::rc::Rc;

use bytes::Bytes;
use daemon::planted;
use http::header::{self, HeaderValue};
use http::request::Parts;
use http::{HeaderName, Method, StatusCode, Version};
use protocol::resource::{self, Timeouts};
use tracing::{debug, warn};

use outbound::Outbound;

use super::account::{Account, Matched, Tries};
use super::asked_body;
use super::body::{Receiving, ResponseBody, Streaming};
use super::downstream::body::{BodyError, Incoming, RequestBody};
use super::downstream::client::Client;
use super::downstream::tls::Session;
use super::error::Refusal;
use super::headers::asked_upgrade;
use super::host::Host;
use super::plugged::{Came, Means, Outgoing, Plugged};
use super::response::Response;
use super::tunnel::Tunnel;
use super::upstream::AnswerHead;
use super::upstream::request_head::BodyFraming;
use super::values::RequestValues;
use super::worker::Worker;
use crate::path::canonical;
use crate::table::{Ask, Generation, Route, SslSlot, Table, Upstream};

const UPSTREAM_STATUS: HeaderName = HeaderName::from_static("x-apisix-upstream-status");

/// Answers a request.
pub(crate) async fn answer(worker: Rc<Worker>, client: Rc<Client>, parts: Parts, incoming: Incoming) -> Response {
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
        Err(refusal) => refuse(&worker, &parts, &refusal, &mut account).into(),
    };
    account.hold(plugged.take_held());
    let mut response = plugged.after(response, tries.statuses.last().copied());
    let fields = &mut response.fields;
    if let Some(server) = &worker.server_header {
        fields.set(header::SERVER, server.clone());
    }
    if tries.statuses.last().is_some_and(|status| *status >= 500) {
        fields.set(UPSTREAM_STATUS, said(&tries.statuses));
    }
    account.tried(tries);
    if response.status == StatusCode::SWITCHING_PROTOCOLS {
        client.account_tunnel(account);
        return response;
    }
    let is_last = number == worker.requests_per_connection_max || worker.is_leaving();
    if is_last && parts.version < Version::HTTP_2 {
        fields.set(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response.body = response.body.with_account(account);
    response
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

fn refuse(worker: &Worker, parts: &Parts, refusal: &Refusal, account: &mut Account) -> http::Response<ResponseBody> {
    if let Some(error) = refusal.upstream_error() {
        account.upstream_failed(error);
    }
    let status = refusal.status();
    let is_ours_to_tell = refusal.upstream_error().is_some()
        || matches!(refusal, Refusal::Barred(_) | Refusal::NoNode | Refusal::Unavailable(_))
        || matches!(refusal, Refusal::Client(BodyError::NoRoom));
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
) -> Result<Response, Refusal> {
    let Under { table, account, tries } = under;
    check_head(worker, parts, &incoming)?;
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
    let values = RequestValues {
        parts,
        headers: &parts.headers,
        host: &host.name,
        path: &path,
        peer,
        local: client.local,
        secure,
        consumer: None,
        asked: None,
    };
    let ask = Ask {
        host: &host.name,
        path: &path,
        method: resource::Method::parse(parts.method.as_str()),
        remote: peer.ip(),
        values: &values,
    };
    let mut body = RequestBody::new(incoming, client.clone());
    let found = asked_body::find(worker, table, &ask, &values, &mut body).await?;
    if let Some(found) = &found {
        account.matched(Matched {
            table: table.clone(),
            route: found.route.clone(),
            pattern: found.pattern,
            by: found.host,
            host: (&*host.name).into(),
        });
    }
    let is_believed = worker.believes(client);
    let came = Came { parts, peer, local: client.local, secure, is_believed };
    let route = found.map(|found| &**found.route);
    let means = Means { worker, client, body: &mut body };
    let answer = plugged.before(came, &host, &path, route, means).await;
    if let Some(consumer) = plugged.consumer() {
        account.is_of(consumer);
    }
    if let Some(peer) = plugged.new_peer() {
        account.note(parts, peer);
    }
    if let Some(answer) = answer? {
        account.answered(answer.status(), None);
        return Ok(answer.into());
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
    let Outgoing { parts, path, authority, peer, consumer, body_bytes_max, is_edited } =
        plugged.outgoing(parts, &path, &host, peer);
    body.bound(body_bytes_max.unwrap_or(worker.limits.body_bytes_max))?;
    let mut outbound = Outbound {
        worker,
        upstream,
        tls,
        parts,
        path,
        authority,
        framing: framing(parts, &body),
        asked: RequestValues { peer, headers: &parts.headers, consumer, ..values },
        // Plugins see none of what a client says of itself that is not believed: what they leave there is their own.
        tells: is_edited || is_believed,
        // What comes behind a body is a request, whatever is asked for.
        upgrade: upgrade.filter(|_| body.is_ended()),
        body: (!body.is_ended()).then(|| Box::new(body)),
        timeouts: timeouts(found.route, upstream),
        told_before: (parts.version == Version::HTTP_11).then_some(&**client),
    };
    account.upstream_begins();
    let result = outbound.send(tries).await;
    account.upstream_ends();
    let (AnswerHead { status, mut fields }, receiving, node, under_way) = result?;
    tries.statuses.push(status.as_u16());
    account.answered(status, Some(node));
    if status == StatusCode::SWITCHING_PROTOCOLS
        && let Receiving::Http1(receiving) = receiving
    {
        client.open_tunnel(Tunnel::to(receiving.into_tunnel(), worker.wheel.alarm(), outbound.timeouts.read));
        fields.set(header::CONNECTION, HeaderValue::from_static("upgrade"));
        return Ok(Response { status, fields, body: ResponseBody::full(Bytes::new()) });
    }
    let streaming = Streaming {
        receiving,
        pools: worker.pools.clone(),
        endpoint: node.endpoint,
        keepalive: upstream.keepalive,
        _under_way: under_way,
    };
    Ok(Response { status, fields, body: ResponseBody::streaming(Box::new(streaming)) })
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

/// Refuses what may be read in two ways, what is too much, and what this proxy does not do.
fn check_head(worker: &Worker, parts: &Parts, incoming: &Incoming) -> Result<(), Refusal> {
    // The parser of HTTP/1 has counted for itself; that of HTTP/2 knows a bound on bytes only.
    if parts.version == Version::HTTP_2 {
        let limits = worker.head_limits;
        if parts.headers.len() > limits.headers {
            return Err(Refusal::HeadTooLarge);
        }
        if parts.uri.path_and_query().is_some_and(|target| target.as_str().len() > limits.target) {
            return Err(Refusal::TargetTooLong);
        }
    }
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
    route.timeouts().or(upstream.timeouts).unwrap_or(Timeouts::DEFAULT)
}
