//! What this proxy tells operators: probes, its state, and metrics, on listeners of their own.
//!
//! | listener | path | answer |
//! |---|---|---|
//! | status | `GET /status` | 200 while the process runs |
//! | status | `GET /status/ready` | 200 when a verified table is live on all workers and the process is not draining, else 503 |
//! | status | `POST /status/ready` `status=draining` | 204: not ready from now on (`status=ready` takes it back) |
//! | status | `GET /status/config` | what is served, from whom, and what could not be |
//! | control | `GET /v1/healthcheck[/upstreams/<id>]` | the health of checked nodes, by upstream |
//! | control | `GET /v1/routes`, `/v1/route/<id>`, and so for services and upstreams | the configuration that is held |
//! | metrics | `GET /metrics`, `GET /apisix/prometheus/metrics` | Prometheus text |
//!
//! Whether a control plane can be reached is shown and never an input of readiness: its outage must not take a fleet
//! out of its load balancer.

mod config;
mod control;
mod metrics;
mod readiness;
mod views;

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{self, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use mtls::Credentials;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use crate::access_log::LogStats;
use crate::disk::DiskStats;
use crate::proxy::{Buffers, Figures};
use crate::settings::NodeSettings;
use crate::standing::Board;
use crate::table::TableCell;
pub use readiness::{Readiness, Unready};

/// Everything that is told.
#[derive(Debug)]
pub struct Sources {
    /// Who this proxy is.
    pub node: NodeSettings,
    /// Whether it is ready.
    pub readiness: Arc<Readiness>,
    /// How it stands.
    pub board: Arc<Board>,
    /// Its disk.
    pub disk: Arc<DiskStats>,
    /// The table in force.
    pub cell: TableCell,
    /// Its workers.
    pub figures: Vec<Arc<Figures>>,
    /// What bodies take that they keep whole.
    pub buffers: Arc<Buffers>,
    /// Its access log.
    pub access_log: Arc<LogStats>,
    /// Who it is for the control plane, where certificates are used.
    pub credentials: Option<Credentials>,
}

/// Which of the listeners a request came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Site {
    /// Probes and state.
    Status,
    /// Metrics.
    Metrics,
    /// The health of nodes, and the configuration.
    Control,
}

/// Connections at once; more wait. Probes and scrapes are few.
const CONNECTIONS_MAX: usize = 128;
/// A connection that is idle or slow for so long is closed.
const CONNECTION_TIME: Duration = Duration::from_secs(60);
/// The largest body that is read.
const BODY_BYTES_MAX: usize = 1024;
/// The pause after the system gave no connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

type Answer = Response<Full<Bytes>>;

/// Answers requests on a listener, for ever.
pub async fn serve(listener: Arc<TcpListener>, site: Site, sources: Arc<Sources>) {
    let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let slot = slots.clone().acquire_owned().await.expect("the slots are never closed");
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                warn!(error = %e, ?site, "no connection could be accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let sources = sources.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let sources = sources.clone();
                async move { Ok::<_, Infallible>(answer(site, &sources, request).await) }
            });
            let mut http = http1::Builder::new();
            http.timer(TokioTimer::new()).header_read_timeout(CONNECTION_TIME);
            let connection = http.serve_connection(TokioIo::new(stream), service);
            if let Ok(Err(e)) = timeout(CONNECTION_TIME * 10, connection).await {
                debug!(error = %e, ?site, "a connection ended");
            }
            drop(slot);
        });
    }
}

async fn answer(site: Site, sources: &Sources, request: Request<Incoming>) -> Answer {
    let method = request.method().clone();
    let path = request.uri().path().to_owned();
    match (site, path.as_str(), method.as_str()) {
        (Site::Status, "/status", "GET" | "HEAD") => json(StatusCode::OK, r#"{"status":"ok"}"#.to_owned()),
        (Site::Status, "/status/ready", "GET" | "HEAD") => ready(sources),
        (Site::Status, "/status/ready", "POST") => set_ready(sources, request).await,
        (Site::Status, "/status/config", "GET" | "HEAD") => json(StatusCode::OK, config::render(sources).to_string()),
        (Site::Metrics, "/metrics" | "/apisix/prometheus/metrics", "GET" | "HEAD") => {
            let mut answer = Response::new(Full::from(metrics::render(sources)));
            let text = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
            answer.headers_mut().insert(header::CONTENT_TYPE, text);
            answer
        }
        (Site::Control, "/v1/healthcheck", "GET" | "HEAD") => json(StatusCode::OK, control::all(sources).to_string()),
        (Site::Control, path, "GET" | "HEAD") if path.starts_with("/v1/healthcheck/") => {
            match control::one(sources, &path["/v1/healthcheck/".len()..]) {
                Some(told) => json(StatusCode::OK, told.to_string()),
                None => error(StatusCode::NOT_FOUND, "there is no such upstream, or its nodes are not checked"),
            }
        }
        (Site::Control, "/v1/schema", "GET" | "HEAD") => json(StatusCode::OK, views::schemas().to_string()),
        (Site::Control, path, "GET" | "HEAD") if path.starts_with("/v1/") => match views::at(sources, path) {
            Some(told) => json(StatusCode::OK, told.to_string()),
            None => error(StatusCode::NOT_FOUND, "there is nothing here"),
        },
        (Site::Status, "/status" | "/status/ready" | "/status/config", _)
        | (Site::Metrics, "/metrics" | "/apisix/prometheus/metrics", _) => {
            error(StatusCode::METHOD_NOT_ALLOWED, &format!("{method} is not offered here"))
        }
        _ => error(StatusCode::NOT_FOUND, "there is nothing here"),
    }
}

fn ready(sources: &Sources) -> Answer {
    match sources.readiness.check() {
        Ok(()) => json(StatusCode::OK, r#"{"status":"ok"}"#.to_owned()),
        Err(why) => {
            let body = serde_json::json!({"status": "error", "error": why.to_string()});
            json(StatusCode::SERVICE_UNAVAILABLE, body.to_string())
        }
    }
}

async fn set_ready(sources: &Sources, request: Request<Incoming>) -> Answer {
    let body = match Limited::new(request.into_body(), BODY_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(_) => return error(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large or was cut short"),
    };
    let draining = match body.trim_ascii() {
        b"status=draining" => true,
        b"status=ready" => false,
        _ => return error(StatusCode::BAD_REQUEST, "the body must be status=draining or status=ready"),
    };
    sources.readiness.set_withdrawn(draining);
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    answer
}

fn error(status: StatusCode, message: &str) -> Answer {
    json(status, serde_json::json!({"error_msg": message}).to_string())
}

fn json(status: StatusCode, mut body: String) -> Answer {
    body.push('\n');
    let mut answer = Response::new(Full::from(body));
    *answer.status_mut() = status;
    answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}
