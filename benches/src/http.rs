//! A client of one address that keeps its connection. It repeats nothing by itself.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpStream;

/// How long a request may take: a transaction of many thousand routes is a matter of seconds.
const REQUEST_MAX: Duration = Duration::from_secs(120);

pub(crate) struct Client {
    address: String,
    connection: Option<SendRequest<Full<Bytes>>>,
}

/// An answer: its status and its body.
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) body: Bytes,
}

impl Client {
    /// Connects when it is first used.
    pub(crate) fn new(address: &str) -> Self {
        Self { address: address.to_owned(), connection: None }
    }

    pub(crate) async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl Into<Bytes>,
    ) -> Result<Reply> {
        let body = body.into();
        let reply = tokio::time::timeout(REQUEST_MAX, self.exchange(method, path, headers, body)).await;
        let reply = reply.unwrap_or_else(|_| bail!("no answer within {REQUEST_MAX:?}"));
        if reply.is_err() {
            self.connection = None;
        }
        reply.with_context(|| format!("{method} http://{}{path}", self.address))
    }

    pub(crate) async fn get(&mut self, path: &str) -> Result<Reply> {
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
        Ok(Reply { status: head.status.as_u16(), body })
    }
}

impl Reply {
    pub(crate) fn expect(self, statuses: &[u16]) -> Result<Self> {
        let said = || String::from_utf8_lossy(&self.body).trim_end().to_owned();
        ensure!(statuses.contains(&self.status), "{}: {}", self.status, said());
        Ok(self)
    }

    pub(crate) fn json(&self) -> Result<Value> {
        Ok(serde_json::from_slice(&self.body)?)
    }
}
