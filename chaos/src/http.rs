//! A client that says exactly what it sends, keeps its connection, and never repeats a request by itself.

use std::io;
use std::time::Duration;

use anyhow::{Context, Error, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{HeaderMap, Request};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// How long a request may take unless it is said otherwise.
const REQUEST_MAX: Duration = Duration::from_secs(10);

/// Nothing came for as long as a client waits.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("no answer within {0:?}")]
pub struct Silence(pub Duration);

/// A client of one address.
#[derive(Debug)]
pub struct Client {
    address: String,
    connection: Option<SendRequest<Full<Bytes>>>,
    within: Duration,
}

/// An answer.
#[derive(Clone, Debug)]
pub struct Reply {
    /// Its status.
    pub status: u16,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its body.
    pub body: Bytes,
}

impl Client {
    /// Connects when it is first used.
    #[must_use]
    pub fn new(address: &str) -> Self {
        Self { address: address.to_owned(), connection: None, within: REQUEST_MAX }
    }

    /// The same with another bound on each request.
    #[must_use]
    pub fn patient(self, within: Duration) -> Self {
        Self { within, ..self }
    }

    /// Sends a request and reads the whole answer. After an error the next request has a new connection.
    ///
    /// # Errors
    /// What happened; the request may have been carried out.
    pub async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Reply> {
        let body = body.into();
        let sent = tokio::time::timeout(self.within, self.exchange(method, path, headers, body)).await;
        let result = sent.unwrap_or_else(|_| Err(Silence(self.within).into()));
        if result.is_err() {
            self.connection = None;
        }
        result.with_context(|| format!("{method} http://{}{path}", self.address))
    }

    /// A plain `GET`.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub async fn get(&mut self, path: &str) -> Result<Reply> {
        self.send("GET", path, &[], Bytes::new()).await
    }

    async fn exchange(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: Bytes) -> Result<Reply> {
        let mut request = Request::builder().method(method).uri(path).header("host", &self.address);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(body))?;
        let mut connection = match self.connection.take() {
            Some(connection) if !connection.is_closed() => connection,
            _ => {
                let stream = TcpStream::connect(&self.address).await?;
                stream.set_nodelay(true)?;
                let (connection, driver) = handshake(TokioIo::new(stream)).await?;
                tokio::spawn(driver);
                connection
            }
        };
        connection.ready().await?;
        let (head, body) = connection.send_request(request).await?.into_parts();
        let body = body.collect().await?.to_bytes();
        self.connection = Some(connection);
        Ok(Reply { status: head.status.as_u16(), headers: head.headers, body })
    }
}

/// Whether a request that failed was certainly not sent: nobody took the connection.
#[must_use]
pub fn was_not_sent(error: &Error) -> bool {
    let refused = |cause: &(dyn std::error::Error + 'static)| {
        cause.downcast_ref::<io::Error>().is_some_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
    };
    error.chain().any(refused)
}

/// Whether a request failed since nothing came.
#[must_use]
pub fn is_silence(error: &Error) -> bool {
    error.chain().any(|cause| cause.is::<Silence>())
}

impl Reply {
    /// The body as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    ///
    /// # Errors
    /// With the body, when it is none.
    pub fn json(&self) -> Result<Value> {
        serde_json::from_slice(&self.body).with_context(|| format!("no JSON: {}", self.text()))
    }

    /// A header.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// This answer when it has one of these statuses.
    ///
    /// # Errors
    /// With the status and the body otherwise.
    pub fn expect(self, statuses: &[u16]) -> Result<Self> {
        ensure!(statuses.contains(&self.status), "{}: {}", self.status, self.text().trim_end());
        Ok(self)
    }
}
