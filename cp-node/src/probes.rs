//! Probes and metrics, in the words that both worlds use: APISIX's `/status` and `/status/ready`, Kubernetes' `/livez`,
//! `/readyz` and `/healthz`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use protocol::seam::WallClock;
use serde_json::json;

use crate::http::{self, Bounds};
use crate::metrics::Metrics;
use crate::net::{Listener, Stream};
use crate::status::Describe;

/// A probe that says nothing gives its place to the next soon.
const BOUNDS: Bounds = Bounds { connections_max: 1024, head_max: Duration::from_secs(10) };

/// What the probes look at.
#[derive(Clone)]
pub(crate) struct Probes {
    pub(crate) describe: Describe,
    pub(crate) metrics: Metrics,
}

/// Serves probes until the node has stopped: also while it stops, since somebody watches it then most of all.
pub(crate) async fn serve(listener: Box<dyn Listener>, probes: Probes, clock: Arc<dyn WallClock>) {
    let router = Router::new()
        .route("/status", get(alive))
        .route("/livez", get(alive))
        .route("/status/ready", get(ready))
        .route("/readyz", get(ready))
        .route("/healthz", get(ready))
        .route("/status/node", get(node))
        .route("/version", get(version))
        .route("/metrics", get(metrics))
        .with_state(Arc::new(probes));
    http::serve(Accepting(listener), router, BOUNDS, clock, std::future::pending()).await;
}

struct Accepting(Box<dyn Listener>);

impl axum::serve::Listener for Accepting {
    type Io = Stream;
    type Addr = String;

    async fn accept(&mut self) -> (Stream, String) {
        loop {
            match self.0.accept().await {
                Ok(stream) => return (stream, self.0.address()),
                Err(error) => {
                    tracing::warn!(%error, "a connection for a probe could not be accepted");
                    tokio::time::sleep(crate::links::ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn local_addr(&self) -> io::Result<String> {
        Ok(self.0.address())
    }
}

fn json_answer(status: StatusCode, body: &serde_json::Value) -> Response {
    (status, [(header::CONTENT_TYPE, "application/json")], format!("{body}\n")).into_response()
}

async fn alive() -> Response {
    json_answer(StatusCode::OK, &json!({ "status": "ok" }))
}

async fn ready(State(probes): State<Arc<Probes>>) -> Response {
    match probes.describe.ready() {
        Ok(()) => json_answer(StatusCode::OK, &json!({ "status": "ok" })),
        Err(why) => json_answer(StatusCode::SERVICE_UNAVAILABLE, &json!({ "status": "error", "error": why })),
    }
}

async fn node(State(probes): State<Arc<Probes>>) -> Response {
    json_answer(StatusCode::OK, &json!(probes.describe.status()))
}

async fn version() -> Response {
    json_answer(StatusCode::OK, &json!({ "version": daemon::build::VERSION, "commit": daemon::build::COMMIT }))
}

async fn metrics(State(probes): State<Arc<Probes>>) -> Response {
    let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, kind)], probes.metrics.text()).into_response()
}
