//! Witnesses: proxies that are still there know how far the lost cluster had come. A new one cannot dial them; it listens
//! where they look for it, for a named window, hears each one's hello, and sends it away.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use protocol::Position;
use protocol::grpc::feed_server::{Feed as FeedRpc, FeedServer};
use protocol::grpc::{self, FeedDown, FeedUp, Hello, Refused, feed_down, feed_up};
use protocol::snapshot::ClusterId;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::BootstrapError;
use crate::links::Links;
use crate::net::OtherEnd;
use crate::node::{Seams, grpc_server};
use crate::settings::Settings;

/// How long a proxy may take to say who it is.
const HELLO_MAX: Duration = Duration::from_secs(5);

/// Witnesses that are remembered: more than a node would serve.
const WITNESSES_MAX: usize = 100_000;

/// A proxy, and how far it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Witness {
    /// Its name.
    pub name: String,
    /// Where it called from.
    pub address: String,
    /// Its gateway group.
    pub group: String,
    /// What it serves.
    pub position: Position,
}

/// Listens for the window, and gives who called.
pub(super) async fn hear(
    settings: &Settings,
    window: Duration,
    cluster: ClusterId,
    seams: &Seams,
) -> Result<Vec<Witness>, BootstrapError> {
    if window.is_zero() {
        tracing::warn!("no proxy is asked how far it is");
        return Ok(Vec::new());
    }
    let links = Links::load(settings, seams.net.clone())?;
    let listener = seams.net.listen(settings.feed.listen.clone()).await.map_err(BootstrapError::Listen)?;
    tracing::info!(?window, feed = listener.address(), "listening for proxies that know how far the cluster had come");
    let service = Service { cluster: cluster.to_string(), heard: Arc::default() };
    let heard = service.heard.clone();
    let server = grpc_server()
        .add_service(FeedServer::new(service))
        .serve_with_incoming_shutdown(links.incoming(listener, mtls::Role::Proxy), tokio::time::sleep(window));
    // Streams that do not end by themselves are cut a moment after the window.
    if let Ok(Err(error)) = tokio::time::timeout(window + HELLO_MAX, server).await {
        tracing::error!(%error, "the listener for proxies has stopped");
    }
    let witnesses: Vec<Witness> = heard.lock().expect("no code panics while it holds it").values().cloned().collect();
    Ok(witnesses)
}

#[derive(Clone)]
struct Service {
    cluster: String,
    heard: Arc<Mutex<BTreeMap<String, Witness>>>,
}

#[tonic::async_trait]
impl FeedRpc for Service {
    type SubscribeStream = ReceiverStream<Result<FeedDown, Status>>;

    async fn subscribe(&self, request: Request<Streaming<FeedUp>>) -> Result<Response<Self::SubscribeStream>, Status> {
        let address =
            request.extensions().get::<OtherEnd>().map_or_else(String::new, |other| other.address.to_string());
        let (down, stream) = mpsc::channel(1);
        let (service, mut up) = (self.clone(), request.into_inner());
        tokio::spawn(async move {
            if let Ok(Ok(Some(FeedUp { kind: Some(feed_up::Kind::Hello(hello)) }))) =
                tokio::time::timeout(HELLO_MAX, up.message()).await
            {
                service.take(&hello, address);
            }
            let refused = Refused { reason: "the cluster is being brought back, try again in a moment".to_owned() };
            // A proxy that has gone does not need to know.
            let _ = down.send(Ok(FeedDown { kind: Some(feed_down::Kind::Refused(refused)) })).await;
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

impl Service {
    fn take(&self, hello: &Hello, address: String) {
        // One of another cluster, or one that has nothing, knows nothing of this one.
        if hello.cluster != self.cluster {
            return;
        }
        let Ok(position) = grpc::position(hello.position.clone(), "position") else { return };
        let (name, group) = (hello.name.clone(), hello.group.clone());
        let mut heard = self.heard.lock().expect("no code panics while it holds it");
        // Two may have one name, or one has lost its disk meanwhile: what was served furthest counts.
        let is_further = heard.get(&name).is_none_or(|known| {
            let (known, new) = (known.position, position);
            (new.epoch.number, new.revision) > (known.epoch.number, known.revision)
        });
        let has_room = heard.len() < WITNESSES_MAX || heard.contains_key(&name);
        if is_further && has_room {
            tracing::info!(dp = name, address, %position, "a proxy says how far it is");
            heard.insert(name.clone(), Witness { name, address, group, position });
        }
    }
}
