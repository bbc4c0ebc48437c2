//! A sample upstream: says who it is and what it was asked for.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, Result};
use bytes::Bytes;
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinHandle;

/// An upstream that serves until it is dropped.
#[derive(Debug)]
pub struct Upstream {
    /// Its address.
    pub address: String,
    served: Arc<AtomicU64>,
    accepting: JoinHandle<()>,
}

impl Upstream {
    /// Starts it.
    ///
    /// # Errors
    /// When the address cannot be listened on.
    pub async fn start(name: &str, address: &str) -> Result<Self> {
        let listener = listen(address).with_context(|| format!("upstream {name} at {address}"))?;
        let address = listener.local_addr()?.to_string();
        let served = Arc::new(AtomicU64::new(0));
        let accepting = tokio::spawn(accept(listener, name.to_owned(), served.clone()));
        Ok(Self { address, served, accepting })
    }

    /// How many requests it has answered.
    #[must_use]
    pub fn served(&self) -> u64 {
        self.served.load(Ordering::Relaxed)
    }
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Connections that may wait to be taken. A proxy that was paused makes as many at once as requests have come meanwhile; one
/// that finds no place is tried again by the kernel after a second, which is not the proxy's.
const BACKLOG: u32 = 4096;

fn listen(address: &str) -> Result<TcpListener> {
    let address: SocketAddr = address.parse()?;
    let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    Ok(socket.listen(BACKLOG)?)
}

async fn accept(listener: TcpListener, name: String, served: Arc<AtomicU64>) {
    while let Ok((stream, _)) = listener.accept().await {
        let (name, served) = (name.clone(), served.clone());
        tokio::spawn(async move {
            let answer = service_fn(move |request: Request<hyper::body::Incoming>| {
                served.fetch_add(1, Ordering::Relaxed);
                let text = format!("{name} was asked for {}\n", request.uri());
                async move { Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(text)))) }
            });
            // A client that goes away in the middle is its own business.
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
        });
    }
}
