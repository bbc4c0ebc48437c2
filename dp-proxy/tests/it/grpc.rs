//! gRPC through the proxy, between a real client and a real server (tonic): every kind of call, trailers, errors,
//! deadlines and flow control.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Buf, BufMut};
use http::uri::PathAndQuery;
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tokio_stream::{Stream, StreamExt};
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{
    ClientStreamingService, Grpc as GrpcServer, NamedService, ServerStreamingService, StreamingService, UnaryService,
};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status, Streaming};

use crate::harness::proxy::Scene;
use crate::harness::until;
use crate::tls::Authority;
use crate::upstream_tls::TlsOrigin;

/// Messages are texts.
#[derive(Clone, Copy, Debug, Default)]
struct Texts;

impl Codec for Texts {
    type Encode = String;
    type Decode = String;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Texts {
    type Item = String;
    type Error = Status;

    fn encode(&mut self, text: String, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put_slice(text.as_bytes());
        Ok(())
    }
}

impl Decoder for Texts {
    type Item = String;
    type Error = Status;

    fn decode(&mut self, input: &mut DecodeBuf<'_>) -> Result<Option<String>, Status> {
        let bytes = input.copy_to_bytes(input.remaining());
        Ok(Some(String::from_utf8(bytes.to_vec()).map_err(|e| Status::internal(e.to_string()))?))
    }
}

/// What the server has seen.
#[derive(Clone, Debug, Default)]
struct Echo {
    /// Messages that it got rid of in a stream without end.
    poured: Arc<AtomicUsize>,
    /// Whether a call that never ends was given up.
    given_up: Arc<AtomicBool>,
}

type Answering<T> = Pin<Box<dyn Future<Output = Result<Response<T>, Status>> + Send>>;
type Texting = Pin<Box<dyn Stream<Item = Result<String, Status>> + Send>>;

/// Tells that the call was given up.
struct Given(Arc<AtomicBool>);

impl Drop for Given {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

impl UnaryService<String> for Echo {
    type Response = String;
    type Future = Answering<String>;

    fn call(&mut self, request: Request<String>) -> Self::Future {
        let given = self.given_up.clone();
        Box::pin(async move {
            let agent = request.metadata().get("x-agent").map(|value| value.to_str().unwrap().to_owned());
            match request.into_inner().as_str() {
                "missing" => Err(Status::not_found("no such thing: ä")),
                "slow" => {
                    let _given = Given(given);
                    std::future::pending().await
                }
                text => {
                    let mut response = Response::new(format!("{text} by {}", agent.unwrap_or_default()));
                    response.metadata_mut().insert("x-answer", "1".parse().unwrap());
                    Ok(response)
                }
            }
        })
    }
}

impl ServerStreamingService<String> for Echo {
    type Response = String;
    type ResponseStream = Texting;
    type Future = Answering<Texting>;

    fn call(&mut self, request: Request<String>) -> Self::Future {
        let poured = self.poured.clone();
        Box::pin(async move {
            let (count, bytes) = request
                .into_inner()
                .split_once('x')
                .map_or((0, 0), |(count, bytes)| (count.parse::<usize>().unwrap(), bytes.parse::<usize>().unwrap()));
            let messages = (0..count).map(move |_| {
                poured.fetch_add(1, Ordering::SeqCst);
                Ok("m".repeat(bytes))
            });
            let end = tokio_stream::once(Err(Status::out_of_range("that was all")));
            Ok(Response::new(Box::pin(tokio_stream::iter(messages).chain(end)) as Texting))
        })
    }
}

impl ClientStreamingService<String> for Echo {
    type Response = String;
    type Future = Answering<String>;

    fn call(&mut self, request: Request<Streaming<String>>) -> Self::Future {
        Box::pin(async move {
            let (mut incoming, mut count) = (request.into_inner(), 0);
            while let Some(text) = incoming.next().await {
                count += text?.len();
            }
            Ok(Response::new(count.to_string()))
        })
    }
}

impl StreamingService<String> for Echo {
    type Response = String;
    type ResponseStream = Texting;
    type Future = Answering<Texting>;

    fn call(&mut self, request: Request<Streaming<String>>) -> Self::Future {
        Box::pin(async move {
            let answers = request.into_inner().map(|text| text.map(|text| format!("re: {text}")));
            Ok(Response::new(Box::pin(answers) as Texting))
        })
    }
}

impl NamedService for Echo {
    const NAME: &'static str = "test.Echo";
}

impl tower::Service<http::Request<Body>> for Echo {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let echo = self.clone();
        Box::pin(async move {
            let mut grpc = GrpcServer::new(Texts);
            Ok(match request.uri().path() {
                "/test.Echo/One" => grpc.unary(echo, request).await,
                "/test.Echo/Pour" => grpc.server_streaming(echo, request).await,
                "/test.Echo/Count" => grpc.client_streaming(echo, request).await,
                _ => grpc.streaming(echo, request).await,
            })
        })
    }
}

/// A server, the proxy before it, and a client of the proxy.
struct Line {
    echo: Echo,
    scene: Scene,
    channel: Channel,
    server: JoinHandle<()>,
}

impl Line {
    async fn new() -> Self {
        let (echo, node, server) = serve().await;
        Self::to(node, "grpc", echo, server).await
    }

    async fn to(node: SocketAddr, scheme: &str, echo: Echo, server: JoinHandle<()>) -> Self {
        let body = json!({"uri": "/test.Echo/*", "upstream": {"scheme": scheme, "nodes": {node.to_string(): 1}}});
        let scene = Scene::tuned(&[("routes", "r", body)], |settings| {
            settings.proxy.h2c = true;
            settings.proxy.workers = 1;
        })
        .await;
        let endpoint = Endpoint::from_shared(format!("http://{}", scene.dp.address())).unwrap();
        let channel = endpoint.initial_stream_window_size(65_535).connect().await.unwrap();
        Self { echo, scene, channel, server }
    }

    async fn client(&self) -> Grpc<Channel> {
        let mut client = Grpc::new(self.channel.clone());
        client.ready().await.unwrap();
        client
    }

    async fn one(&self, request: Request<String>) -> Result<Response<String>, Status> {
        self.client().await.unary(request, PathAndQuery::from_static("/test.Echo/One"), Texts).await
    }
}

/// Starts the server.
#[expect(clippy::disallowed_methods, reason = "a test is its own outside world")]
async fn serve() -> (Echo, SocketAddr, JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let node: SocketAddr = listener.local_addr().unwrap();
    let echo = Echo::default();
    let service = echo.clone();
    let server = tokio::spawn(async move {
        let incoming = TcpListenerStream::new(listener);
        Server::builder().add_service(service).serve_with_incoming(incoming).await.unwrap();
    });
    (echo, node, server)
}

impl Drop for Line {
    fn drop(&mut self) {
        self.server.abort();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_call_goes_through() {
    every_kind_of_call(&Line::new().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_call_goes_through_to_a_node_that_speaks_tls() {
    let (echo, node, server) = serve().await;
    let pair = Authority::new("nodes").issue(&["127.0.0.1"]);
    let tls = TlsOrigin::speaking(b"h2", node, &pair, None).await;
    let line = Line::to(tls.address, "grpcs", echo, server).await;
    every_kind_of_call(&line).await;
    assert_eq!(tls.protocols(), [Some("h2".to_owned())], "one connection, agreed on by ALPN");
}

async fn every_kind_of_call(line: &Line) {
    let mut request = Request::new("hello".to_owned());
    request.metadata_mut().insert("x-agent", "me".parse().unwrap());
    let answer = line.one(request).await.unwrap();
    assert_eq!((answer.get_ref().as_str(), answer.metadata().contains_key("x-answer")), ("hello by me", true));

    let path = PathAndQuery::from_static("/test.Echo/Pour");
    let poured = line.client().await.server_streaming(Request::new("3x5".to_owned()), path, Texts).await;
    let mut poured = poured.unwrap().into_inner();
    for _ in 0..3 {
        assert_eq!(poured.next().await.unwrap().unwrap(), "mmmmm");
    }
    let end = poured.next().await.unwrap().unwrap_err();
    assert_eq!((end.code(), end.message()), (Code::OutOfRange, "that was all"), "an error behind messages");

    let texts = tokio_stream::iter((0..100).map(|_| "x".repeat(10_000)));
    let path = PathAndQuery::from_static("/test.Echo/Count");
    let count = line.client().await.client_streaming(Request::new(texts), path, Texts).await.unwrap();
    assert_eq!(count.into_inner(), "1000000");

    // Each waits for the other: nothing may be held back on the way.
    let (send, texts) = mpsc::channel(1);
    let path = PathAndQuery::from_static("/test.Echo/Talk");
    let talk = line.client().await.streaming(Request::new(ReceiverStream::new(texts)), path, Texts).await;
    let mut talk = talk.unwrap().into_inner();
    for i in 0..10 {
        send.send(format!("{i}")).await.unwrap();
        assert_eq!(talk.next().await.unwrap().unwrap(), format!("re: {i}"));
    }
    drop(send);
    assert!(talk.next().await.is_none(), "the end of one side is the end of the other");

    let error = line.one(Request::new("missing".to_owned())).await.unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::NotFound, "no such thing: ä"), "trailers and nothing else");
}

#[tokio::test(flavor = "multi_thread")]
async fn many_calls_share_a_connection() {
    let line = Arc::new(Line::new().await);
    let calls = (0..60).map(|i| {
        let line = line.clone();
        tokio::spawn(async move { line.one(Request::new(format!("{i}"))).await.unwrap().into_inner() })
    });
    for (i, call) in calls.collect::<Vec<_>>().into_iter().enumerate() {
        assert_eq!(call.await.unwrap(), format!("{i} by "));
    }
    line.scene.dp.counts("holdfast_dp_upstream_reuses_total", 59.0).await;
    line.scene.dp.counts("holdfast_dp_upstream_connects_total", 1.0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_that_passes_ends_the_call_at_the_server_too() {
    let line = Line::new().await;
    let mut request = Request::new("slow".to_owned());
    request.set_timeout(Duration::from_millis(300));
    let error = line.one(request).await.unwrap_err();
    assert!(matches!(error.code(), Code::Cancelled | Code::DeadlineExceeded), "{error:?}");
    until("the server hears of it", async || line.echo.given_up.load(Ordering::SeqCst)).await;
    assert_eq!(line.one(Request::new("next".to_owned())).await.unwrap().into_inner(), "next by ");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_takes_nothing_stops_the_server_and_nobody_else() {
    const MESSAGES: usize = 300;
    let line = Line::new().await;
    let path = PathAndQuery::from_static("/test.Echo/Pour");
    let request = Request::new(format!("{MESSAGES}x10000"));
    let mut slow = line.client().await.server_streaming(request, path, Texts).await.unwrap().into_inner();
    // The windows on the way fill up, and then the server stands still.
    let mut before = 0;
    until("the server stands still", async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let now = line.echo.poured.load(Ordering::SeqCst);
        now > 0 && now == std::mem::replace(&mut before, now)
    })
    .await;
    assert!(before < MESSAGES / 2, "{before} messages are held on the way");
    assert_eq!(line.one(Request::new("quick".to_owned())).await.unwrap().into_inner(), "quick by ");
    let mut taken = 0;
    while let Some(Ok(text)) = slow.next().await {
        taken += text.len();
    }
    assert_eq!(taken, MESSAGES * 10_000);
}
