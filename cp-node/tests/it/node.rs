//! A node to test against, and a client that says exactly what it sends.

use std::path::Path;
use std::time::Duration;

use bytes::Bytes;
use cp_node::node::{self, Node, NodeError, Seams};
use cp_node::settings::{AdminKey, Role, Settings};
use daemon::settings::units::Span;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::runtime::Handle;

pub(crate) const KEY: &str = "test-admin-key-0123";
pub(crate) const VIEWER: &str = "test-viewer-key-0123";

/// Settings of a node on ports of its own choice.
pub(crate) fn settings(dir: &Path) -> Settings {
    let mut settings = Settings::default();
    settings.node.name = "test".into();
    settings.data_dir.0 = dir.to_owned();
    for listen in
        [&mut settings.peer.listen, &mut settings.admin.listen, &mut settings.feed.listen, &mut settings.status.listen]
    {
        *listen = "127.0.0.1:0".into();
    }
    let key = |name: &str, key: &str, role| AdminKey { name: name.into(), key: key.into(), key_file: None, role };
    settings.admin.keys = vec![key("root", KEY, Role::Admin), key("eyes", VIEWER, Role::Viewer)];
    settings.raft.election_min = Span(Duration::from_millis(200));
    settings.raft.election_max = Span(Duration::from_millis(400));
    settings
}

/// A cluster of one, founded and running.
pub(crate) struct Api {
    pub(crate) node: Node,
    pub(crate) settings: Settings,
    _dir: Option<tempfile::TempDir>,
}

impl Api {
    pub(crate) async fn start() -> Self {
        Self::start_with(|_| {}).await
    }

    pub(crate) async fn start_with(change: impl FnOnce(&mut Settings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = settings(dir.path());
        change(&mut settings);
        node::found(&settings, &Seams::real()).await.unwrap();
        let mut api = Self::run(settings).await.unwrap();
        api._dir = Some(dir);
        api
    }

    /// Runs what is in a data directory already.
    pub(crate) async fn run(settings: Settings) -> Result<Self, NodeError> {
        let node = Node::start(settings.clone(), Seams::real(), &Handle::current()).await?;
        let api = Self { node, settings, _dir: None };
        while api.status("/status/ready").await.0 != 200 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(api)
    }

    /// Stops the node in order and starts it again on the same disk.
    pub(crate) async fn restart(self) -> Self {
        let (settings, dir) = (self.settings.clone(), self._dir);
        self.node.stop().await;
        let mut api = Self::run(settings).await.unwrap();
        api._dir = dir;
        api
    }

    pub(crate) async fn call(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let (status, _, body) = self.raw(method, path, &[("x-api-key", KEY)], body.as_bytes()).await;
        (status, json(&body))
    }

    pub(crate) async fn with(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, Value) {
        let mut all = vec![("x-api-key", KEY)];
        all.extend_from_slice(headers);
        let (status, _, body) = self.raw(method, path, &all, body.as_bytes()).await;
        (status, json(&body))
    }

    pub(crate) async fn raw(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> (u16, hyper::HeaderMap, String) {
        request(&self.node.addresses.admin, method, path, headers, body).await
    }

    pub(crate) async fn status(&self, path: &str) -> (u16, String) {
        let address = self.node.addresses.status.clone().unwrap();
        let (status, _, body) = request(&address, "GET", path, &[], &[]).await;
        (status, body)
    }
}

fn json(body: &str) -> Value {
    if body.is_empty() {
        return Value::Null;
    }
    assert!(body.ends_with('\n'), "every body ends in a newline: {body:?}");
    serde_json::from_str(body).unwrap_or_else(|_| Value::String(body.trim_end().to_owned()))
}

#[expect(clippy::disallowed_methods, reason = "a test's client is no part of the node")]
pub(crate) async fn request(
    address: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> (u16, hyper::HeaderMap, String) {
    let stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut request = hyper::Request::builder().method(method).uri(path).header("host", address);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Full::new(Bytes::copy_from_slice(body))).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    (parts.status.as_u16(), parts.headers, String::from_utf8(body.to_vec()).unwrap())
}
