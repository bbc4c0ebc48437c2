//! Proxies in this process, each with a directory of its own.

use std::net::SocketAddr;
use std::path::Path;

use dp_proxy::run::{Proxy, Seams};
use dp_proxy::settings::Settings;
use serde_json::{Value, json};

use super::client::{Response, get};
use super::control_plane::{ControlPlane, Node};
use super::until;

/// A proxy.
#[derive(Debug)]
pub(crate) struct Dp {
    pub(crate) proxy: Proxy,
}

/// Settings for tests: everything on ports of their own, and quick.
pub(crate) fn settings(dir: &Path, nodes: &[&Node]) -> Settings {
    let mut settings = Settings { data_dir: dir.to_owned(), ..Settings::default() };
    settings.node.name = "dp-test".into();
    settings.control_plane.endpoints = nodes.iter().map(|node| node.address.to_string()).collect();
    for address in [&mut settings.status.listen, &mut settings.metrics.listen, &mut settings.control.listen] {
        *address = "127.0.0.1:0".parse().unwrap();
    }
    settings.proxy.listen = vec!["127.0.0.1:0".parse().unwrap()];
    settings.proxy.tls.listen = vec!["127.0.0.1:0".parse().unwrap()];
    settings.proxy.workers = 2;
    settings.proxy.drain.delay = "0s".parse().unwrap();
    settings.control_plane.reconnect_min = "10ms".parse().unwrap();
    settings.control_plane.reconnect_max = "200ms".parse().unwrap();
    settings.control_plane.stale_after = "500ms".parse().unwrap();
    settings
}

impl Dp {
    pub(crate) async fn start(settings: &Settings) -> Self {
        Self { proxy: Proxy::start(settings.check().unwrap(), Seams::default()).await.unwrap() }
    }

    /// One that follows `nodes` and serves already.
    pub(crate) async fn following(dir: &Path, nodes: &[&Node]) -> Self {
        let dp = Self::start(&settings(dir, nodes)).await;
        dp.ready().await;
        dp
    }

    pub(crate) async fn ready(&self) {
        until("the proxy is ready", async || self.proxy.readiness().check().is_ok()).await;
    }

    /// Where a load balancer connects that tells who it is from.
    pub(crate) fn told_address(&self) -> SocketAddr {
        self.proxy.addresses()[1]
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.proxy.addresses()[0]
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        get(self.address(), "test.example", path).await
    }

    pub(crate) async fn status(&self, path: &str) -> Response {
        get(self.proxy.status_address(), "status", path).await
    }

    /// The state page.
    pub(crate) async fn config(&self) -> Value {
        self.status("/status/config").await.json()
    }

    /// The value of a metric with these labels; 0 where it is not told.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let page = get(self.proxy.metrics_address(), "metrics", "/metrics").await.text();
        let line = page.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
        line.map_or(0.0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    /// Waits until a metric has come to a value: what a client sees may be counted only after it has seen it.
    pub(crate) async fn counts(&self, name: &str, value: f64) {
        until(&format!("{name} {value}"), async || (self.metric(name).await - value).abs() < 0.1).await;
    }

    /// Waits until it serves what the control plane has.
    pub(crate) async fn serves(&self, control_plane: &ControlPlane) {
        until("the proxy serves what the control plane has", async || {
            let standing = self.proxy.board().read();
            (standing.position, standing.digest) == control_plane.expected()
        })
        .await;
    }
}

/// A route to an origin.
pub(crate) fn route(uri: &str, origin: SocketAddr) -> Value {
    json!({"uri": uri, "upstream": {"nodes": {origin.to_string(): 1}}})
}

/// A proxy that follows a control plane with these resources.
pub(crate) struct Scene {
    pub(crate) control_plane: ControlPlane,
    pub(crate) node: Node,
    pub(crate) dp: Dp,
    _dir: tempfile::TempDir,
}

impl Scene {
    pub(crate) async fn with(resources: &[(&str, &str, Value)]) -> Self {
        Self::tuned(resources, |_| {}).await
    }

    pub(crate) async fn tuned(resources: &[(&str, &str, Value)], tune: impl FnOnce(&mut Settings)) -> Self {
        let control_plane = ControlPlane::new();
        let resources: Vec<_> = resources.iter().map(|(kind, id, body)| (*kind, *id, Some(body.clone()))).collect();
        control_plane.commit(&resources);
        let node = control_plane.node().await;
        let dir = tempfile::tempdir().unwrap();
        let mut settings = settings(dir.path(), &[&node]);
        tune(&mut settings);
        let dp = Dp::start(&settings).await;
        dp.ready().await;
        Self { control_plane, node, dp, _dir: dir }
    }

    /// Changes a resource, and waits until the proxy serves it.
    pub(crate) async fn put(&self, kind: &str, id: &str, body: Value) {
        self.control_plane.put(kind, id, body);
        self.dp.serves(&self.control_plane).await;
    }
}
