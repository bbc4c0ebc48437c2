//! An origin that says which host it was asked for, and remembers which requests it saw.

use std::collections::HashSet;
use std::convert::Infallible;
use std::sync::{Arc, Mutex};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use crate::patience;

pub(super) type Seen = Arc<Mutex<HashSet<String>>>;

#[derive(Debug)]
pub(super) struct Origin {
    pub(super) address: String,
    pub(super) seen: Seen,
    accepting: JoinHandle<()>,
}

impl Origin {
    pub(super) async fn start(address: &str) -> Result<Self> {
        let listener = patience::listen(address).await.with_context(|| format!("an origin at {address}"))?;
        let seen = Seen::default();
        Ok(Self { address: address.to_owned(), seen: seen.clone(), accepting: tokio::spawn(accept(listener, seen)) })
    }
}

impl Drop for Origin {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, seen: Seen) {
    while let Ok((stream, _)) = listener.accept().await {
        let seen = seen.clone();
        tokio::spawn(async move {
            let answer = service_fn(move |request: Request<hyper::body::Incoming>| {
                let host = request.headers().get("host").and_then(|host| host.to_str().ok()).unwrap_or_default();
                let text = format!("{host}\n");
                seen.lock().expect("nobody panics while he notes").insert(request.uri().path().to_owned());
                async move { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text)))) }
            });
            // A proxy that goes away in the middle is its own business.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}
