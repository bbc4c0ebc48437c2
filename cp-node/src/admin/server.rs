//! The listener, and what is common to all requests.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use tokio::sync::watch;
use tokio::time::Instant;

use super::answer::Answer;
use super::request::{Call, Query};
use super::{
    Desk, backup, cluster, configs, history, limits, openapi, resources, restore, schemas, transactions, users, wait,
};
use crate::http::{self, Bounds};
use crate::links;
use crate::net::{Listener, Stream};

/// How long connections are served on after the listener has closed. Each is closed with its next answer, so that clients
/// which use theirs are elsewhere when the rest are closed: one that is closed just as a request comes leaves its client in
/// doubt of what became of it.
const FAREWELL: Duration = Duration::from_millis(250);

/// Connections that came before the listener closed are still taken, if they show within this.
const LATE: Duration = Duration::from_millis(1);

/// Serves the Admin API until `stopping` becomes true and every request under way is answered.
pub(crate) async fn serve(listener: Box<dyn Listener>, desk: Arc<Desk>, stopping: watch::Receiver<bool>) {
    let clock = desk.clock.clone();
    let service = Router::new().fallback(handle).with_state(desk);
    let accepting = Accepting { address: listener.address(), listener: Some(listener), stopping: stopping.clone() };
    let bounds = Bounds { connections_max: limits::CONNECTIONS_MAX, head_max: limits::HEAD_MAX };
    let stopped = async move {
        until_stopping(stopping).await;
        tokio::time::sleep(FAREWELL).await;
    };
    http::serve(accepting, service, bounds, clock, stopped).await;
}

async fn until_stopping(mut stopping: watch::Receiver<bool>) {
    // An error says that whoever could stop it is gone: that is a stop too.
    let _ = stopping.wait_for(|stopping| *stopping).await;
}

/// The listener, until it is closed.
struct Accepting {
    listener: Option<Box<dyn Listener>>,
    address: String,
    stopping: watch::Receiver<bool>,
}

impl axum::serve::Listener for Accepting {
    type Io = Stream;
    type Addr = String;

    async fn accept(&mut self) -> (Stream, String) {
        while let Some(listener) = &mut self.listener {
            let accepted = if *self.stopping.borrow() {
                let late = tokio::time::timeout(LATE, listener.accept()).await.ok();
                late.or_else(|| listener.accept_waiting())
            } else {
                tokio::select! {
                    accepted = listener.accept() => Some(accepted),
                    () = until_stopping(self.stopping.clone()) => continue,
                }
            };
            match accepted {
                Some(Ok(stream)) => return (stream, self.address.clone()),
                Some(Err(error)) => {
                    tracing::warn!(%error, "a connection to the Admin API could not be accepted");
                    tokio::time::sleep(links::ACCEPT_PAUSE).await;
                }
                None => self.listener = None,
            }
        }
        std::future::pending().await
    }

    fn local_addr(&self) -> io::Result<String> {
        Ok(self.address.clone())
    }
}

async fn handle(State(desk): State<Arc<Desk>>, request: Request<Body>) -> Response<Body> {
    let began = Instant::now();
    let method = request.method().clone();
    // A client that hangs up ends this future where it stands; the guard counts it out.
    let (_under_way, others) = desk.metrics.begin();
    let answer = if others >= u64::from(desk.settings.requests_max) {
        Answer::not_applied("too many requests are under way at this node")
    } else {
        dispatch(&desk, request).await.unwrap_or_else(|refused| refused)
    };
    let answer = answer.at_unless_named(|| desk.feed.position());
    let is_write = is_write(&method);
    desk.metrics.answered(method.as_str(), answer.status.as_u16(), is_write.then(|| began.elapsed()));
    let mut response = answer.into_response();
    let headers = response.headers_mut();
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true"),
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, "*"),
        (header::ACCESS_CONTROL_MAX_AGE, "3600"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    if method == Method::OPTIONS {
        let methods = HeaderValue::from_static("POST, GET, PUT, OPTIONS, DELETE, PATCH");
        headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, methods);
    }
    if is_write && desk.record.is_kept() {
        headers.insert("x-holdfast-record-lag", HeaderValue::from(desk.record.lag().changes));
    }
    if desk.describe.draining.load(Ordering::Relaxed) {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    if let Ok(server) = HeaderValue::from_str(&desk.server_header) {
        headers.insert(header::SERVER, server);
    }
    response
}

fn is_write(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

/// Whether a request on this path takes `dry_run`, or writes nothing anyway. Elsewhere the argument is refused: who asks for
/// a trial must not get the real thing.
fn can_be_tried(path: &[&str]) -> bool {
    matches!(
        path,
        ["v1", "transactions" | "revert" | "restore" | "backup"] | ["apisix", "admin", "configs" | "schema", ..]
    )
}

/// The answer to a request; a refusal is an answer too.
async fn dispatch(desk: &Desk, request: Request<Body>) -> Result<Answer, Answer> {
    let (parts, body) = request.into_parts();
    let raw: Vec<&str> = parts.uri.path().split('/').skip(1).collect();
    let decode = |segment: &&str| percent_encoding::percent_decode_str(segment).decode_utf8().map(|s| s.into_owned());
    let path: Vec<String> =
        raw.iter().map(decode).collect::<Result<_, _>>().map_err(|_| Answer::bad("the path is not UTF-8"))?;
    let words: Vec<&str> = path.iter().map(String::as_str).collect();
    let ours = matches!(words[..], ["apisix", "admin", ..] | ["v1", ..]);
    if parts.method == Method::OPTIONS && ours {
        return Ok(Answer::empty(StatusCode::OK));
    }
    if parts.method == Method::HEAD && words == ["apisix", "admin"] {
        return Ok(Answer::empty(StatusCode::OK));
    }
    if !ours {
        return Err(Answer::no_such_path());
    }
    let query = Query::parse(parts.uri.query().unwrap_or_default());
    let principal = desk.keys.check(&parts.method, &parts.headers, &query, || desk.feed.config(), desk.clock.now())?;
    if is_write(&parts.method) && query.is_dry_run()? && !can_be_tried(&words) {
        return Err(Answer::bad("invalid argument dry_run: this cannot be tried without being done"));
    }
    let is_admin = words[0] == "apisix";
    let skip = if is_admin { 2 } else { 1 };
    let path = path[skip..].to_vec();
    let call = Call { method: parts.method, path, query, headers: parts.headers, principal };
    let path: Vec<String> = call.path.clone();
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    if is_admin {
        return match path[..] {
            ["configs"] => configs::serve(desk, call, body).await,
            ["configs", "validate"] => schemas::validate_all(desk, &call, body).await,
            ["schema", "validate", _, ..] => schemas::validate(desk, &call, body).await,
            ["schema", _, ..] => schemas::schema(&call),
            ["plugins", ..] => schemas::plugin_list(&call),
            _ => resources::serve(desk, call, body).await,
        };
    }
    match path[..] {
        ["openapi.json"] => openapi::serve(&call),
        ["limits" | "limits.json"] if call.method == Method::GET => Ok(limits::answer(desk)),
        ["limits" | "limits.json"] => Err(Answer::method_not_offered(call.method.as_str(), "this path")),
        ["revisions", revision, "convergence"] => wait::convergence(desk, &call, revision).await,
        ["users", ..] => users::serve(desk, call, body).await,
        ["backup"] => backup::serve(desk, call).await,
        ["restore"] => restore::serve(desk, call, body).await,
        ["transactions"] => transactions::serve(desk, call, body).await,
        ["history"] | ["revert"] | ["record"] | ["record", _] => history::serve(desk, call, body).await,
        ["cluster", ..] | ["fleet"] | ["status"] => cluster::serve(desk, call).await,
        _ => Err(Answer::no_such_path()),
    }
}

/// Answers that reached a kind of resource say which version of the API they are of.
pub(super) fn of_a_resource(answer: Answer) -> Answer {
    answer.with_text("x-api-version", "v3")
}
