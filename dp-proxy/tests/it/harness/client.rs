//! An HTTP/1 client that sends any bytes and shows what comes back.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::SOON;

/// A connection to a proxy.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    read: Vec<u8>,
    /// What came before answers: 1xx, but for 100 and 101.
    pub(crate) interims: Vec<Response>,
}

/// A response.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    /// Names in lower case.
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Whether the body ended as its head said.
    pub(crate) whole: bool,
}

impl Response {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The body as JSON.
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{e}: {}", self.text()))
    }
}

impl Client {
    #[expect(clippy::disallowed_methods, reason = "a test is its own outside world")]
    pub(crate) async fn connect(address: SocketAddr) -> Self {
        let stream = timeout(SOON, TcpStream::connect(address)).await.unwrap().unwrap();
        stream.set_nodelay(true).unwrap();
        Self::over(stream)
    }

    /// Over a connection that is there.
    pub(crate) fn over(stream: TcpStream) -> Self {
        Self { stream, read: Vec::new(), interims: Vec::new() }
    }

    /// Whether anybody takes a connection there.
    #[expect(clippy::disallowed_methods, reason = "a test is its own outside world")]
    pub(crate) async fn can_connect(address: SocketAddr) -> bool {
        TcpStream::connect(address).await.is_ok()
    }

    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Sends a GET and reads the answer.
    pub(crate) async fn get(&mut self, host: &str, path: &str) -> Response {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n")).await;
        self.response().await.expect("an answer")
    }

    /// The next response; `None` when the connection ended before one.
    pub(crate) async fn response(&mut self) -> Option<Response> {
        self.response_to("GET").await
    }

    /// The next response to a request of this method.
    pub(crate) async fn response_to(&mut self, method: &str) -> Option<Response> {
        timeout(SOON, self.read_response(method)).await.expect("an answer in time")
    }

    async fn read_response(&mut self, method: &str) -> Option<Response> {
        loop {
            let response = self.read_any_response(method).await?;
            if !(102..200).contains(&response.status) {
                return Some(response);
            }
            self.interims.push(response);
        }
    }

    async fn read_any_response(&mut self, method: &str) -> Option<Response> {
        let end = loop {
            if let Some(end) = find(&self.read, b"\r\n\r\n") {
                break end;
            }
            if !self.more().await {
                return None;
            }
        };
        let head = String::from_utf8(self.read.drain(..end + 4).collect()).unwrap();
        let mut lines = head.trim_end().split("\r\n");
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers: Vec<(String, String)> = lines
            .map(|line| line.split_once(':').unwrap_or_else(|| panic!("{line:?} is no header")))
            .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
            .collect();
        let mut response = Response { status, headers, body: Vec::new(), whole: true };
        if method == "HEAD" || status == 204 || status == 304 || (100..200).contains(&status) {
            return Some(response);
        }
        if let Some(length) = response.header("content-length") {
            let length = length.parse().unwrap();
            response.whole = self.fill(length).await;
            let length = length.min(self.read.len());
            response.body = self.read.drain(..length).collect();
        } else if response.header("transfer-encoding").is_some() {
            response.whole = self.read_chunks(&mut response.body).await;
        } else {
            while self.more().await {}
            response.body = std::mem::take(&mut self.read);
        }
        Some(response)
    }

    async fn read_chunks(&mut self, body: &mut Vec<u8>) -> bool {
        loop {
            let end = loop {
                if let Some(end) = find(&self.read, b"\r\n") {
                    break end;
                }
                if !self.more().await {
                    return false;
                }
            };
            let line = String::from_utf8(self.read.drain(..end + 2).collect()).unwrap();
            let size = usize::from_str_radix(line.trim_end(), 16).unwrap();
            if !self.fill(size + 2).await {
                body.append(&mut self.read);
                return false;
            }
            body.extend(self.read.drain(..size));
            self.read.drain(..2);
            if size == 0 {
                return true;
            }
        }
    }

    async fn fill(&mut self, bytes: usize) -> bool {
        while self.read.len() < bytes {
            if !self.more().await {
                return false;
            }
        }
        true
    }

    /// Reads more; false at the end of the connection, however it ends.
    async fn more(&mut self) -> bool {
        let mut buffer = vec![0; 16 << 10];
        match self.stream.read(&mut buffer).await {
            Ok(0) | Err(_) => false,
            Ok(read) => {
                self.read.extend_from_slice(&buffer[..read]);
                true
            }
        }
    }

    /// Whether the proxy has ended the connection, or does so soon.
    pub(crate) async fn is_closed(&mut self) -> bool {
        timeout(SOON, async { while self.more().await {} }).await.is_ok()
    }

    /// What has come within a while.
    pub(crate) async fn take_some(&mut self, time: Duration) -> Vec<u8> {
        // Nothing within it, or the end of the connection: then what there is, is all.
        let _ = timeout(time, self.more()).await;
        std::mem::take(&mut self.read)
    }

    /// All that comes, as it comes, until it ends as `is_whole` says.
    pub(crate) async fn take_until(&mut self, is_whole: impl Fn(&str) -> bool) -> String {
        let mut came = std::mem::take(&mut self.read);
        let text = |came: &[u8]| String::from_utf8(came.to_vec()).unwrap();
        timeout(SOON, async {
            while !is_whole(&text(&came)) {
                assert!(self.more().await, "it ended behind {:?}", text(&came));
                came.append(&mut self.read);
            }
        })
        .await
        .unwrap_or_else(|_| panic!("nothing came behind {:?}", text(&came)));
        text(&came)
    }

    /// A chunked answer as it comes, with its head and what follows its last chunk.
    pub(crate) async fn take_chunked(&mut self) -> String {
        self.take_until(|came| came.ends_with("\r\n\r\n") && came.contains("\r\n0\r\n")).await
    }

    /// Sends bytes; false when the proxy takes no more of them, ever.
    pub(crate) async fn try_send(&mut self, bytes: &[u8]) -> bool {
        self.stream.write_all(bytes).await.is_ok()
    }
}

/// One request on a connection of its own.
pub(crate) async fn get(address: SocketAddr, host: &str, path: &str) -> Response {
    Client::connect(address).await.get(host, path).await
}

/// Sends any bytes on a connection of its own and reads one response.
pub(crate) async fn send(address: SocketAddr, bytes: impl AsRef<[u8]>) -> Option<Response> {
    let mut client = Client::connect(address).await;
    client.send(bytes).await;
    client.response().await
}

fn find(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}
