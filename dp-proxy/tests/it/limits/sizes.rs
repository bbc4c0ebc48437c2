//! How large something may be, and how many there may be.

use bytes::Bytes;
use serde_json::json;
use tokio::time::timeout;

use crate::harness::SOON;
use crate::harness::client::{Client, send};
use crate::harness::origin::Origin;
use crate::harness::proxy::{Scene, route};
use crate::harness::until;

const HEAD_BYTES: usize = 8 << 10;
const HEADERS: usize = 10;
const TARGET_BYTES: usize = 1000;
const BODY_BYTES: usize = 700;
const BUFFERED_BYTES: usize = 300;

/// What is asked, in the sizes that have bounds.
#[derive(Clone, Copy, Default)]
struct Asked {
    /// The head as a whole, where that is what matters.
    head: Option<usize>,
    headers: Option<usize>,
    target: Option<usize>,
    body: usize,
    /// Whether the body's length is told before.
    announced: bool,
    /// Whether the body is not sent: what is announced too large is refused before it comes.
    withheld: bool,
    /// Whether a plugin wants all of the body.
    kept: bool,
}

impl Asked {
    fn method(&self) -> &'static str {
        if self.body > 0 { "POST" } else { "GET" }
    }

    fn target(&self) -> String {
        let path = if self.kept { "/kept" } else { "/" };
        let query = self.target.map_or(String::new(), |bytes| format!("?{}", "q".repeat(bytes - path.len() - 1)));
        path.to_owned() + &query
    }

    /// Its headers, beside so many that come of themselves.
    fn headers(&self, beside: usize) -> Vec<(String, String)> {
        let count = self.headers.map_or(0, |headers| headers - beside);
        (0..count).map(|number| (format!("x-{number}"), "1".to_owned())).collect()
    }

    async fn by_http1(&self, scene: &Scene) -> u16 {
        let mut head = format!("{} {} HTTP/1.1\r\nHost: a.com\r\n", self.method(), self.target());
        for (name, value) in self.headers(1) {
            head += &format!("{name}: {value}\r\n");
        }
        let body = "b".repeat(self.body);
        let body = match (self.body, self.announced) {
            (0, _) => String::new(),
            (bytes, true) => {
                head += &format!("Content-Length: {bytes}\r\n");
                if self.withheld { String::new() } else { body }
            }
            (bytes, false) => {
                head += "Transfer-Encoding: chunked\r\n";
                format!("{bytes:x}\r\n{body}\r\n0\r\n\r\n")
            }
        };
        if let Some(bytes) = self.head {
            let padding = bytes - head.len() - "x: \r\n\r\n".len();
            head += &format!("x: {}\r\n", "p".repeat(padding));
        }
        send(scene.dp.address(), format!("{head}\r\n{body}")).await.expect("an answer").status
    }

    async fn by_http2(&self, scene: &Scene) -> u16 {
        let mut request = http::Request::builder().method(self.method()).uri(format!("http://a.com{}", self.target()));
        for (name, value) in self.headers(0) {
            request = request.header(name, value);
        }
        if self.announced {
            request = request.header("content-length", self.body);
        }
        if let Some(bytes) = self.head {
            let field = |name: &str, value: &str| name.len() + value.len() + 32;
            let before = field(":method", self.method())
                + field(":scheme", "http")
                + field(":authority", "a.com")
                + field(":path", &self.target());
            request = request.header("x", "p".repeat(bytes - before - field("x", "")));
        }
        let stream = Client::connect(scene.dp.address()).await.stream;
        let (sender, connection) = h2::client::handshake(stream).await.unwrap();
        let running = tokio::spawn(async move { drop(connection.await) });
        let mut sender = sender.ready().await.unwrap();
        let (answer, mut body) = sender.send_request(request.body(()).unwrap(), self.body == 0).unwrap();
        if self.body > 0 && !self.withheld {
            body.send_data(Bytes::from("b".repeat(self.body)), true).unwrap();
        }
        let status = timeout(SOON, answer).await.expect("an answer in time").unwrap().status();
        running.abort();
        status.as_u16()
    }
}

/// What is asked in a size.
type OfSize<'a> = &'a dyn Fn(usize) -> Asked;

#[tokio::test(flavor = "multi_thread")]
async fn what_a_client_may_send_at_its_edge() {
    let origin = Origin::echo().await;
    let mut kept = route("/kept", origin.address);
    kept["plugins"] = json!({"request-validation": {"body_schema": {"type": "object"}}});
    let resources = [("routes", "r", route("/", origin.address)), ("routes", "kept", kept)];
    let scene = Scene::tuned(&resources, |settings| {
        settings.proxy.workers = 1;
        settings.proxy.h2c = true;
        let limits = &mut settings.proxy.limits;
        limits.header_bytes_max = HEAD_BYTES.to_string().parse().unwrap();
        limits.headers_max = HEADERS;
        limits.target_bytes_max = TARGET_BYTES.to_string().parse().unwrap();
        limits.body_bytes_max = BODY_BYTES.to_string().parse().unwrap();
        limits.buffered_bytes_max = BUFFERED_BYTES.to_string().parse().unwrap();
    })
    .await;
    let some = Asked::default();
    // Who fits is served; a body that a plugin looks at is looked at, and is none that it takes.
    let cases: [(&str, usize, OfSize<'_>, u16, u16); 6] = [
        ("bytes of a head", HEAD_BYTES, &|n| Asked { head: Some(n), ..some }, 200, 431),
        ("headers", HEADERS, &|n| Asked { headers: Some(n), ..some }, 200, 431),
        ("bytes of a target", TARGET_BYTES, &|n| Asked { target: Some(n), ..some }, 200, 414),
        ("bytes of a body that is announced", BODY_BYTES, &|n| Asked { body: n, announced: true, ..some }, 200, 413),
        ("bytes of a body that is not", BODY_BYTES, &|n| Asked { body: n, ..some }, 200, 413),
        ("bytes that are kept", BUFFERED_BYTES, &|n| Asked { body: n, announced: true, kept: true, ..some }, 400, 503),
    ];
    for (what, bound, asked, fits, refused) in cases {
        for (size, expected) in [(bound - 1, fits), (bound, fits), (bound + 1, refused)] {
            let asked = asked(size);
            let asked = Asked { withheld: asked.announced && size > bound, ..asked };
            assert_eq!(asked.by_http1(&scene).await, expected, "{size} {what} by HTTP/1");
            assert_eq!(asked.by_http2(&scene).await, expected, "{size} {what} by HTTP/2");
        }
    }
}

/// A node that answers with as large a head as the path asks for: `/bytes/<n>` or `/headers/<n>`.
async fn node() -> Origin {
    Origin::with(|mut conversation| async move {
        while let Some(request) = conversation.request().await {
            let path = request.line.split(' ').nth(1).unwrap().to_owned();
            let (what, size) = path[1..].split_once('/').unwrap();
            let size: usize = size.parse().unwrap();
            let mut head = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n".to_owned();
            match what {
                "bytes" => head += &format!("x: {}\r\n", "p".repeat(size - head.len() - "x: \r\n\r\n".len())),
                _ => (1..size).for_each(|number| head += &format!("x-{number}: 1\r\n")),
            }
            conversation.send(head + "\r\n").await;
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_node_may_answer_at_its_edge() {
    let origin = node().await;
    let http2 = node_of_http2().await;
    let mut by_http2 = route("/2/*", http2);
    by_http2["upstream"]["scheme"] = json!("grpc");
    let resources = [("routes", "1", route("/*", origin.address)), ("routes", "2", by_http2)];
    let scene = Scene::tuned(&resources, |settings| {
        settings.proxy.workers = 1;
        settings.proxy.limits.header_bytes_max = HEAD_BYTES.to_string().parse().unwrap();
        settings.proxy.limits.headers_max = HEADERS;
    })
    .await;
    for (what, bound) in [("/bytes", HEAD_BYTES), ("/headers", HEADERS), ("/2/bytes", HEAD_BYTES)] {
        for (size, expected) in [(bound - 1, 200), (bound, 200), (bound + 1, 502)] {
            assert_eq!(scene.dp.get(&format!("{what}/{size}")).await.status, expected, "{what}/{size}");
        }
    }
}

/// The same by HTTP/2, `/2/bytes/<n>` only. It ends with the test.
#[expect(clippy::disallowed_methods, reason = "a test is its own outside world")]
async fn node_of_http2() -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                while let Some(Ok((request, mut answer))) = connection.accept().await {
                    let size: usize = request.uri().path().rsplit('/').next().unwrap().parse().unwrap();
                    let field = |name: &str, value: &str| name.len() + value.len() + 32;
                    let padding = size - field(":status", "200") - field("x", "");
                    let head = http::Response::builder().header("x", "p".repeat(padding)).body(()).unwrap();
                    answer.send_response(head, true).unwrap();
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_connections_as_there_may_be() {
    const CONNECTIONS: usize = 4;
    let origin = Origin::echo().await;
    let scene = Scene::tuned(&[("routes", "r", route("/*", origin.address))], |settings| {
        settings.proxy.workers = 1;
        settings.proxy.limits.connections_max = CONNECTIONS;
    })
    .await;
    let mut held = Vec::new();
    for number in 1..=CONNECTIONS {
        let mut client = Client::connect(scene.dp.address()).await;
        client.send("GET / HTTP/1.1\r\nHost: a.com\r\n\r\n").await;
        assert_eq!(client.response().await.expect("an answer").status, 200, "connection {number} of {CONNECTIONS}");
        held.push(client);
    }
    for round in 1..=2 {
        let mut more = Client::connect(scene.dp.address()).await;
        assert!(more.is_closed().await, "one more connection is closed");
        let refused = scene.dp.metric("holdfast_dp_connections_refused_total").await;
        assert!((refused - f64::from(round)).abs() < 0.1, "{refused}");
        for client in &mut held {
            assert_eq!(client.get("a.com", "/").await.status, 200, "who was there before goes on");
        }
        // Who goes makes room for one.
        held.pop();
        until("there is room", async || scene.dp.metric("holdfast_dp_connections{worker=\"0\"}").await < 3.5).await;
        let mut next = Client::connect(scene.dp.address()).await;
        assert_eq!(next.get("a.com", "/").await.status, 200);
        held.push(next);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_requests_as_a_connection_may_carry() {
    const REQUESTS: u64 = 3;
    let origin = Origin::echo().await;
    let scene = Scene::tuned(&[("routes", "r", route("/*", origin.address))], |settings| {
        settings.proxy.h2c = true;
        settings.proxy.limits.requests_per_connection_max = REQUESTS;
    })
    .await;
    let mut client = Client::connect(scene.dp.address()).await;
    for number in 1..=REQUESTS {
        let last = (number == REQUESTS).then_some("close");
        assert_eq!(client.get("a.com", "/").await.header("connection"), last, "request {number}");
    }
    assert!(client.is_closed().await);
    let stream = Client::connect(scene.dp.address()).await.stream;
    let (mut sender, connection) = h2::client::handshake(stream).await.unwrap();
    let running = tokio::spawn(connection);
    for number in 1..=REQUESTS {
        sender = sender.ready().await.unwrap_or_else(|e| panic!("request {number}: {e}"));
        let request = http::Request::get("http://a.com/").body(()).unwrap();
        let (answer, _) = sender.send_request(request, true).unwrap();
        assert_eq!(timeout(SOON, answer).await.unwrap().unwrap().status(), 200, "request {number}");
        assert!(number == REQUESTS || !running.is_finished());
    }
    timeout(SOON, running).await.expect("the connection ends").unwrap().expect("in order");
}
