//! Proxies that are ahead of a node, as they are of every node that has just started.

use std::time::Duration;

use daemon::settings::units::Span;
use protocol::Position;
use protocol::grpc::feed_client::FeedClient;
use protocol::grpc::feed_down::Kind;
use protocol::grpc::{self, FeedDown, FeedUp, Heartbeat, Hello, feed_up};
use tokio::time::Instant;
use tonic::Streaming;

use super::node::Api;

/// A node waits for three of them: longer than a write takes on a busy machine.
const HEARTBEAT: Duration = Duration::from_millis(700);

/// The stream of a proxy that stands at `position`, its last change being `changed_at`, behind the welcome.
async fn stream(api: &Api, position: Position, changed_at: Position) -> Streaming<FeedDown> {
    let hello = Hello {
        name: "edge".to_owned(),
        group: "default".to_owned(),
        position: Some(position.into()),
        changed_at: Some(changed_at.into()),
        ..Hello::default()
    };
    let hello = FeedUp { kind: Some(feed_up::Kind::Hello(hello)) };
    // It is not at its end: a proxy that has hung up is let go.
    let up = futures_util::StreamExt::chain(tokio_stream::once(hello), tokio_stream::pending());
    let mut client = FeedClient::connect(format!("http://{}", api.node.addresses.feed)).await.unwrap();
    let mut down = client.subscribe(up).await.unwrap().into_inner();
    assert!(matches!(next(&mut down).await, Kind::Welcome(_)));
    down
}

async fn next(down: &mut Streaming<FeedDown>) -> Kind {
    down.message().await.unwrap().unwrap().kind.unwrap()
}

async fn put(api: &Api, id: &str) {
    let route = format!(r#"{{"uri": "/{id}", "upstream": {{"nodes": {{"127.0.0.1:1": 1}}}}}}"#);
    assert_eq!(api.call("PUT", &format!("/apisix/admin/routes/{id}"), &route).await.0, 201);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_is_ahead_waits_for_the_node_and_goes_on_with_it() {
    let api = Api::start_with(|settings| settings.feed.heartbeat = Span(HEARTBEAT)).await;
    put(&api, "one").await;
    let mut down = stream(&api, Position::default(), Position::default()).await;
    let here = loop {
        if let Kind::Heartbeat(Heartbeat { position, .. }) = next(&mut down).await {
            break grpc::position(position, "position").unwrap();
        }
    };
    let mut one_ahead = stream(&api, here.next(), here).await;
    put(&api, "two").await;
    let met = next(&mut one_ahead).await;
    assert!(!matches!(met, Kind::Behind(_)), "the node has come up with it: {met:?}");

    let began = Instant::now();
    let mut far_ahead = stream(&api, Position { revision: 1_000, ..here }, here).await;
    let behind = match next(&mut far_ahead).await {
        Kind::Behind(behind) => behind,
        other => panic!("the node is not there: {other:?}"),
    };
    assert_eq!(grpc::position(behind.position, "position").unwrap(), here.next());
    assert!(began.elapsed() >= HEARTBEAT, "turned away at once");
    assert!(far_ahead.message().await.unwrap().is_none(), "and the stream is over");
}
