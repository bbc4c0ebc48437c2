//! Whom a node believes on links with certificates: the certificate, and not what is said.

use std::path::Path;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use mtls::authority::{Authority, Issued};
use mtls::{Credentials, Files, Role};
use protocol::grpc::feed_client::FeedClient;
use protocol::grpc::peer_client::PeerClient;
use protocol::grpc::{FeedUp, Hello, JoinRequest, feed_down, feed_up};
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

use super::node::Api;

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Files of somebody in a directory.
fn issue(dir: &Path, authority: &Authority, role: Role, name: &str) -> Files {
    let Issued { certificate, key } = authority.issue(role, Some(name), DAY).unwrap();
    let file = |extension: &str, text: &str| {
        let path = dir.join(format!("{role}-{name}.{extension}"));
        std::fs::write(&path, text).unwrap();
        Some(path)
    };
    Files { cert_file: file("crt", &certificate), key_file: file("key", &key), ca_file: Some(dir.join("ca.crt")) }
}

/// A channel of somebody to a listener.
async fn channel(files: &Files, role: Role, name: &str, address: &str) -> Channel {
    let credentials = Credentials::load(files, role, name).unwrap().unwrap();
    let address = address.to_owned();
    let connector = tower::service_fn(move |_| {
        let (credentials, address) = (credentials.clone(), address.clone());
        async move {
            #[expect(clippy::disallowed_methods, reason = "a client of the node, as another program is")]
            let stream = tokio::net::TcpStream::connect(&address).await?;
            credentials.connect(stream, "127.0.0.1").await.map(TokioIo::new)
        }
    });
    Endpoint::from_static("http://node").connect_with_connector_lazy(connector)
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_goes_by_another_name_or_does_what_its_role_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let (authority, own) = Authority::found("prod", DAY).unwrap();
    std::fs::write(dir.path().join("ca.crt"), own.certificate).unwrap();
    let api =
        Api::start_with(|settings| settings.mtls = issue(dir.path(), &authority, Role::ControlPlane, "test")).await;
    let (peer, feed) = (&api.node.addresses.peer, &api.node.addresses.feed);
    let proxy = issue(dir.path(), &authority, Role::Proxy, "edge");
    let node = issue(dir.path(), &authority, Role::ControlPlane, "two");

    // A proxy that calls itself as its certificate does is welcome, by another name it is not.
    let says = async |name: &str| {
        let nowhere = Some(protocol::Position::default().into());
        let hello = Hello {
            name: name.to_owned(),
            group: "default".to_owned(),
            position: nowhere.clone(),
            changed_at: nowhere,
            ..Hello::default()
        };
        let up = tokio_stream::once(FeedUp { kind: Some(feed_up::Kind::Hello(hello)) });
        let mut client = FeedClient::new(channel(&proxy, Role::Proxy, "edge", feed).await);
        let mut down = client.subscribe(up).await.unwrap().into_inner();
        down.message().await.unwrap().unwrap().kind.unwrap()
    };
    assert!(matches!(says("edge").await, feed_down::Kind::Welcome(_)));
    let feed_down::Kind::Refused(refused) = says("other").await else { panic!("it was not refused") };
    assert_eq!(refused.reason, "a proxy that calls itself \"other\" has the certificate of spiffe://prod/dp/edge");

    // Nor does a node join by another name.
    let join = JoinRequest { name: "three".to_owned(), ..JoinRequest::default() };
    let mut client = PeerClient::new(channel(&node, Role::ControlPlane, "two", peer).await);
    let status = client.join(join.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::PermissionDenied);
    assert_eq!(status.message(), "a node that calls itself \"three\" has the certificate of spiffe://prod/cp/two");

    // Each listener is for one role: no call comes through, not even one that would be refused.
    let mut client = PeerClient::new(channel(&proxy, Role::Proxy, "edge", peer).await);
    let status = client.join(join).await.unwrap_err();
    assert_ne!(status.code(), Code::PermissionDenied, "{status}");
    let mut client = FeedClient::new(channel(&node, Role::ControlPlane, "two", feed).await);
    assert!(client.subscribe(tokio_stream::empty::<FeedUp>()).await.is_err());
}
