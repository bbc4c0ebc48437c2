//! HTTP/2 to nodes that misbehave: what they did not take is sent elsewhere, what they may have acted on is not.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use h2::Reason;
use h2::server::SendResponse;
use http::{Response, StatusCode};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use crate::harness::client::{Client, get, send};
use crate::harness::proxy::Scene;
use crate::harness::until;

/// A node that speaks HTTP/2 without TLS; it does `serve` with every connection, which it numbers.
struct Node {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    accepting: JoinHandle<()>,
}

impl Node {
    #[expect(clippy::disallowed_methods, reason = "a test is its own outside world")]
    async fn with<F>(serve: impl Fn(usize, TcpStream) -> F + Send + 'static) -> Self
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = connections.clone();
        let accepting = tokio::spawn(async move {
            let mut open = tokio::task::JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                open.spawn(serve(count.fetch_add(1, Ordering::SeqCst), stream));
            }
        });
        Self { address, connections, accepting }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

type Asked = http::Request<h2::RecvStream>;

/// Serves a connection: `answer` is asked what to do with each request, by its number on the connection.
async fn serve(stream: TcpStream, answer: impl AsyncFn(usize, Asked, SendResponse<Bytes>)) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    let mut number = 0;
    while let Some(Ok((request, respond))) = connection.accept().await {
        // One at a time is enough here; the connection's frames move with its `accept`.
        let work = answer(number, request, respond);
        tokio::pin!(work);
        std::future::poll_fn(|cx| {
            let _ = connection.poll_closed(cx);
            work.as_mut().poll(cx)
        })
        .await;
        number += 1;
    }
}

async fn body_of(request: Asked) -> String {
    let mut incoming = request.into_body();
    let mut body = Vec::new();
    while let Some(Ok(data)) = incoming.data().await {
        let _ = incoming.flow_control().release_capacity(data.len());
        body.extend_from_slice(&data);
    }
    String::from_utf8(body).unwrap()
}

async fn echo(request: Asked, mut respond: SendResponse<Bytes>) {
    let body = body_of(request).await;
    let mut stream = respond.send_response(Response::new(()), false).unwrap();
    stream.send_data(format!("got {body}").into(), true).unwrap();
}

fn grpc(nodes: &[SocketAddr]) -> Value {
    let nodes: serde_json::Map<_, _> = nodes.iter().map(|node| (node.to_string(), json!(1))).collect();
    json!({"uri": "/*", "upstream": {"scheme": "grpc", "nodes": nodes}})
}

async fn scene(nodes: &[SocketAddr]) -> Scene {
    Scene::tuned(&[("routes", "r", grpc(nodes))], |settings| settings.proxy.workers = 1).await
}

const POST: &str = "POST /x HTTP/1.1\r\nHost: a.com\r\nContent-Length: 5\r\n\r\nhello";

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_request_is_sent_once_more_with_its_body() {
    let node = Node::with(|_, stream| {
        serve(stream, async |number, request: Asked, mut respond| match number {
            0 => {
                // What it refuses it may have read.
                drop(request);
                respond.send_reset(Reason::REFUSED_STREAM);
            }
            _ => echo(request, respond).await,
        })
    })
    .await;
    let scene = scene(&[node.address]).await;
    let answer = send(scene.dp.address(), POST).await.unwrap();
    assert_eq!((answer.status, answer.text().as_str()), (200, "got hello"));
    scene.dp.counts("holdfast_dp_retries_total", 1.0).await;
    assert_eq!(node.connections(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_always_refuses_is_given_up_for_another() {
    let full = Node::with(|_, stream| {
        serve(stream, async |_, request: Asked, mut respond| {
            drop(request);
            respond.send_reset(Reason::REFUSED_STREAM);
        })
    })
    .await;
    let free = Node::with(|_, stream| serve(stream, async |_, request, respond| echo(request, respond).await)).await;
    let scene = scene(&[full.address]).await;
    assert_eq!(send(scene.dp.address(), POST).await.unwrap().status, 502);
    assert!(scene.dp.metric("holdfast_dp_upstream_errors_total{class=\"refused\"}").await >= 1.0);
    scene.put("routes", "r", grpc(&[full.address, free.address])).await;
    for _ in 0..4 {
        assert_eq!(send(scene.dp.address(), POST).await.unwrap().text(), "got hello");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_may_have_acted_on_is_not_sent_twice() {
    let asked = Arc::new(Mutex::new(0));
    let count = asked.clone();
    let node = Node::with(move |_, stream| {
        let count = count.clone();
        serve(stream, async move |_, request: Asked, mut respond| {
            *count.lock().unwrap() += 1;
            body_of(request).await;
            respond.send_reset(Reason::INTERNAL_ERROR);
        })
    })
    .await;
    let scene = scene(&[node.address, node.address]).await;
    assert_eq!(send(scene.dp.address(), POST).await.unwrap().status, 502);
    assert_eq!(*asked.lock().unwrap(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_move_on_from_a_node_that_goes_away() {
    let node = Node::with(async |number, mut stream: TcpStream| {
        if number > 0 {
            return serve(stream, async |_, request, respond| echo(request, respond).await).await;
        }
        // By hand: settings, and with the first bytes of a request the news that nothing was looked at.
        stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        let mut came = Vec::new();
        while !came.windows(5).any(|bytes| bytes == b"hello") {
            stream.read_buf(&mut came).await.unwrap();
        }
        let going_away = [0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        stream.write_all(&going_away).await.unwrap();
        while let Ok(1..) = stream.read_buf(&mut came).await {}
    })
    .await;
    let scene = scene(&[node.address]).await;
    let mut client = Client::connect(scene.dp.address()).await;
    for _ in 0..2 {
        client.send(POST).await;
        assert_eq!(client.response().await.unwrap().text(), "got hello");
    }
    assert_eq!(node.connections(), 2, "the second one carries both");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graceful_end_of_a_connection_costs_no_request() {
    let node = Node::with(async |_, stream: TcpStream| {
        let Ok(mut connection) = h2::server::handshake::<_>(stream).await else { return };
        let Some(Ok((request, respond))) = connection.accept().await else { return };
        connection.graceful_shutdown();
        let answering = tokio::spawn(echo(request, respond));
        while connection.accept().await.is_some() {}
        answering.await.unwrap();
    })
    .await;
    let scene = scene(&[node.address]).await;
    let mut client = Client::connect(scene.dp.address()).await;
    for _ in 0..5 {
        client.send(POST).await;
        assert_eq!(client.response().await.unwrap().text(), "got hello");
    }
    assert_eq!(node.connections(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn trailers_of_a_node_are_what_may_stand_there() {
    let node = Node::with(|_, stream| {
        serve(stream, async |_, request: Asked, mut respond| {
            body_of(request).await;
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data("ok".into(), false).unwrap();
            let said =
                [("x-sum", "1"), ("set-cookie", "a=1"), ("content-type", "text/html"), ("x-consumer-username", "x")];
            stream
                .send_trailers(
                    said.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).into_iter().collect(),
                )
                .unwrap();
        })
    })
    .await;
    let scene = scene(&[node.address]).await;
    let mut client = Client::connect(scene.dp.address()).await;
    client.send(POST.replace("Host", "TE: trailers\r\nHost")).await;
    let came = client.take_chunked().await;
    let (_, body) = came.split_once("\r\n\r\n").unwrap();
    assert_eq!(body, "2\r\nok\r\n0\r\nx-sum: 1\r\n\r\n");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_its_client_breaks_off_goes_to_no_other_node() {
    let node = || {
        Node::with(|_, stream| {
            serve(stream, async |_, request: Asked, _| {
                let mut body = request.into_body();
                while let Some(Ok(_)) = body.data().await {}
            })
        })
    };
    let (a, b) = (node().await, node().await);
    let scene = scene(&[a.address, b.address]).await;
    // Idempotent, and small enough to be sent once more; what follows the piece is no size of a chunk.
    let request = "PUT / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nno\r\n";
    assert_eq!(send(scene.dp.address(), request).await.unwrap().status, 400);
    until("one was asked", async || a.connections() + b.connections() == 1).await;
    assert_eq!(scene.dp.metric("holdfast_dp_retries_total").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn early_hints_of_a_node_reach_clients_before_the_answer_is_there() {
    let (answer_now, may_answer) = tokio::sync::watch::channel(false);
    let node = Node::with(move |_, stream| {
        let may_answer = may_answer.clone();
        serve(stream, async move |_, request: Asked, mut respond| {
            let early = |status: u16| Response::builder().status(status).header("link", "</a>").body(()).unwrap();
            let so_many = if request.uri().path() == "/many" { 33 } else { 1 };
            for _ in 0..so_many {
                respond.send_informational(early(103)).unwrap();
            }
            respond.send_informational(early(100)).unwrap();
            may_answer.clone().wait_for(|may| *may).await.unwrap();
            let mut stream = respond.send_response(Response::new(()), false).unwrap();
            stream.send_data("ok".into(), true).unwrap();
        })
    })
    .await;
    let scene = scene(&[node.address]).await;
    let mut client = Client::connect(scene.dp.address()).await;
    client.send("GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    let hints = client.take_until(|came| came.ends_with("\r\n\r\n")).await;
    assert_eq!(hints, "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\n");
    answer_now.send(true).unwrap();
    assert_eq!(client.response().await.unwrap().text(), "ok");
    // Somebody who goes on for ever before the answer gives none.
    let answer = get(scene.dp.address(), "x", "/many").await;
    assert_eq!(answer.status, 502);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_does_not_speak_it_is_an_error_of_the_node() {
    let node = Node::with(async |_, mut stream: TcpStream| {
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
    })
    .await;
    let scene = scene(&[node.address]).await;
    assert_eq!(send(scene.dp.address(), POST).await.unwrap().status, StatusCode::BAD_GATEWAY);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_gone_without_a_word_is_noticed_by_a_ping() {
    // It takes everything, and says nothing but its settings.
    let gone = Node::with(async |_, mut stream: TcpStream| {
        stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
        let mut came = Vec::new();
        while let Ok(1..) = stream.read_buf(&mut came).await {}
    })
    .await;
    let live = Node::with(|_, stream| serve(stream, async |_, request, respond| echo(request, respond).await)).await;
    let mut only_gone = grpc(&[gone.address]);
    only_gone["uri"] = json!("/gone");
    let resources = [("routes", "r", grpc(&[gone.address, live.address])), ("routes", "gone", only_gone)];
    let scene = Scene::tuned(&resources, |settings| settings.proxy.workers = 1).await;
    let address = scene.dp.address();
    let get = "GET /x HTTP/1.1\r\nHost: a.com\r\n\r\n";
    // Long before the read timeout of a minute: one of the two goes on to the other node.
    let (a, b, post) = tokio::join!(send(address, get), send(address, get), send(address, POST.replace("/x", "/gone")));
    assert_eq!([a, b, post].map(|answer| answer.unwrap().status), [200, 200, 504]);
    assert_eq!(gone.connections(), 1);
    assert!(scene.dp.metric("holdfast_dp_retries_total").await >= 1.0);
}
