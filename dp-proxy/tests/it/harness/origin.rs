//! Origins: one that tells what it was asked, and ones that do whatever a test likes with a connection.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A running origin. It ends soon after this is dropped, with all its connections.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) address: SocketAddr,
    /// Connections so far.
    pub(crate) connections: Arc<Mutex<usize>>,
    /// Kept for as long as it runs.
    keep: oneshot::Sender<()>,
    accepting: JoinHandle<()>,
}

impl Origin {
    /// An origin that does this with every connection.
    pub(crate) async fn with<F>(serve: impl Fn(Conversation) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        Self::at("127.0.0.1:0".parse().unwrap(), serve).await
    }

    #[expect(clippy::disallowed_methods, reason = "a test is its own outside world")]
    pub(crate) async fn at<F>(address: SocketAddr, serve: impl Fn(Conversation) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(Mutex::new(0));
        let count = connections.clone();
        let (keep, mut kept) = oneshot::channel();
        let accepting = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = tokio::select! {
                    accepted = listener.accept() => accepted.unwrap(),
                    _ = &mut kept => break,
                };
                stream.set_nodelay(true).unwrap();
                *count.lock().unwrap() += 1;
                open.spawn(serve(Conversation { stream, read: VecDeque::new() }));
            }
            drop(listener);
            open.shutdown().await;
        });
        Self { address, connections, keep, accepting }
    }

    /// Ends it, and is back once its port and all its connections are closed.
    pub(crate) async fn end(self) {
        drop(self.keep);
        self.accepting.await.unwrap();
    }

    /// An origin that answers every request with what it was asked, as JSON.
    pub(crate) async fn echo() -> Self {
        Self::named("echo").await
    }

    /// The same, with a name.
    pub(crate) async fn named(name: &'static str) -> Self {
        Self::named_at("127.0.0.1:0".parse().unwrap(), name).await
    }

    /// The same, at an address.
    pub(crate) async fn named_at(address: SocketAddr, name: &'static str) -> Self {
        Self::at(address, move |mut conversation| async move {
            while let Some(request) = conversation.request().await {
                let headers: Vec<_> = request.headers.iter().map(|(n, v)| format!("{n}: {v}")).collect();
                let body = serde_json::json!({
                    "origin": name, "line": request.line, "headers": headers, "body": String::from_utf8_lossy(&request.body),
                });
                let body = body.to_string();
                conversation
                    .send(format!("HTTP/1.1 200 OK\r\nX-Origin: {name}\r\nContent-Length: {}\r\n\r\n{body}", body.len()))
                    .await;
            }
        })
        .await
    }

    /// An origin that answers every request with these bytes, and closes where `close` says so.
    pub(crate) async fn saying(bytes: impl Into<Vec<u8>>, close: bool) -> Self {
        let bytes: Vec<u8> = bytes.into();
        Self::with(move |mut conversation| {
            let bytes = bytes.clone();
            async move {
                while conversation.request().await.is_some() {
                    conversation.send(&bytes).await;
                    if close {
                        return;
                    }
                }
            }
        })
        .await
    }

    pub(crate) fn connections(&self) -> usize {
        *self.connections.lock().unwrap()
    }
}

/// One connection of an origin.
#[derive(Debug)]
pub(crate) struct Conversation {
    pub(crate) stream: TcpStream,
    read: VecDeque<u8>,
}

/// A request as an origin got it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Request {
    pub(crate) line: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Request {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

impl Conversation {
    /// The next request with its body; `None` at the end of the connection.
    pub(crate) async fn request(&mut self) -> Option<Request> {
        let mut request = self.head().await?;
        if let Some(length) = request.header("content-length") {
            request.body = self.take(length.parse().unwrap()).await?;
        } else if request.header("transfer-encoding").is_some() {
            loop {
                let size = usize::from_str_radix(&self.line().await?, 16).unwrap();
                request.body.extend(self.take(size).await?);
                self.line().await?;
                if size == 0 {
                    break;
                }
            }
        }
        Some(request)
    }

    /// The head of the next request.
    pub(crate) async fn head(&mut self) -> Option<Request> {
        let mut request = Request { line: self.line().await?, ..Request::default() };
        loop {
            let line = self.line().await?;
            if line.is_empty() {
                return Some(request);
            }
            let (name, value) = line.split_once(": ").unwrap();
            request.headers.push((name.to_owned(), value.to_owned()));
        }
    }

    async fn line(&mut self) -> Option<String> {
        let mut line = Vec::new();
        loop {
            match self.take(1).await?[0] {
                b'\n' => return Some(String::from_utf8(line).unwrap().trim_end().to_owned()),
                byte => line.push(byte),
            }
        }
    }

    pub(crate) async fn take(&mut self, bytes: usize) -> Option<Vec<u8>> {
        while self.read.len() < bytes {
            let mut buffer = vec![0; 16 << 10];
            match self.stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(read) => self.read.extend(&buffer[..read]),
            }
        }
        Some(self.read.drain(..bytes).collect())
    }

    /// Sends bytes; that the other side is gone is no failure of a test's origin.
    pub(crate) async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    /// Closes so that the other side sees a reset.
    pub(crate) fn reset(self) {
        socket2::SockRef::from(&self.stream).set_linger(Some(std::time::Duration::ZERO)).unwrap();
    }
}
