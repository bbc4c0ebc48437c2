//! HTTP/1.1 on a listener, with bounds on what connections may take.

use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, Response, header};
use httpdate::HttpDate;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use protocol::entry::UnixMillis;
use protocol::seam::WallClock;
use tokio::sync::{Semaphore, watch};
use tower::ServiceExt;

/// What the connections of a listener may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    /// Connections at once. Who comes then waits in the kernel's queue.
    pub(crate) connections_max: usize,
    /// How long a connection may take until the whole head of a request has come: so long it may also lie idle.
    pub(crate) head_max: Duration,
}

/// Serves what comes until `stopped`: then nothing more is accepted, each connection is closed with its answer, and this
/// ends with the last one.
pub(crate) async fn serve(
    mut listener: impl axum::serve::Listener,
    router: Router,
    bounds: Bounds,
    clock: Arc<dyn WallClock>,
    stopped: impl Future<Output = ()> + Send,
) {
    let mut builder = http1::Builder::new();
    // hyper's own date stands still for as long as the machine's clock was put back by.
    builder.timer(TokioTimer::new()).header_read_timeout(bounds.head_max).auto_date_header(false);
    let places = Arc::new(Semaphore::new(bounds.connections_max));
    let (closing, closed) = watch::channel(());
    let mut stopped = pin!(stopped);
    loop {
        let accepting = async {
            let place = places.clone().acquire_owned().await;
            (place, listener.accept().await.0)
        };
        let (place, stream) = tokio::select! {
            accepted = accepting => accepted,
            () = &mut stopped => break,
        };
        let clock = clock.clone();
        let router = router.clone().map_request(|request: Request<Incoming>| request.map(Body::new));
        let service = TowerToHyperService::new(router.map_response(move |answer| dated(answer, clock.now())));
        let connection = builder.serve_connection(TokioIo::new(stream), service);
        let mut closed = closed.clone();
        tokio::spawn(async move {
            let _place = place;
            let mut connection = pin!(connection);
            // What a connection breaks by is its client's affair.
            tokio::select! {
                _ = connection.as_mut() => return,
                _ = closed.changed() => connection.as_mut().graceful_shutdown(),
            }
            let _ = connection.await;
        });
    }
    drop((listener, closed));
    closing.send_replace(());
    closing.closed().await;
}

/// An answer with the time at which it was given (RFC 9110 §6.6.1).
fn dated(mut answer: Response<Body>, now: UnixMillis) -> Response<Body> {
    let date = HttpDate::from(UNIX_EPOCH + Duration::from_millis(now)).to_string();
    answer.headers_mut().insert(header::DATE, HeaderValue::try_from(date).expect("letters, digits and blanks"));
    answer
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicU64, Ordering};

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;

    use super::*;
    use crate::net::{Net, Stream, TcpNet};

    struct Accepting(Box<dyn crate::net::Listener>);

    impl axum::serve::Listener for Accepting {
        type Io = Stream;
        type Addr = String;

        async fn accept(&mut self) -> (Stream, String) {
            (self.0.accept().await.unwrap(), String::new())
        }

        fn local_addr(&self) -> io::Result<String> {
            Ok(self.0.address())
        }
    }

    #[tokio::test]
    async fn a_connection_that_says_nothing_is_closed_and_gives_its_place_to_the_next() {
        let listener = TcpNet.listen("127.0.0.1:0".to_owned()).await.unwrap();
        let address = listener.address();
        let router = Router::new().route("/", get(|| async { "here" }));
        let bounds = Bounds { connections_max: 1, head_max: Duration::from_millis(300) };
        let (stop, stopped) = oneshot::channel::<()>();
        let stopped = async { drop(stopped.await) };
        let serving = tokio::spawn(serve(Accepting(listener), router, bounds, Arc::<Clock>::default(), stopped));
        let mut silent = TcpNet.connect(address.clone()).await.unwrap();
        silent.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n").await.unwrap();
        let mut next = TcpNet.connect(address).await.unwrap();
        next.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let mut answer = [0; 15];
        let early = tokio::time::timeout(Duration::from_millis(100), next.read_exact(&mut answer)).await;
        assert!(early.is_err(), "there is one place, and it is taken");
        assert_eq!(silent.read(&mut [0; 1]).await.unwrap(), 0, "it is closed");
        next.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        // At a stop a connection is closed with its answer, and that is the end.
        stop.send(()).unwrap();
        let mut rest = Vec::new();
        next.read_to_end(&mut rest).await.unwrap();
        assert!(rest.ends_with(b"here"));
        serving.await.unwrap();
    }

    /// A clock that is set.
    #[derive(Default)]
    struct Clock(AtomicU64);

    impl WallClock for Clock {
        fn now(&self) -> UnixMillis {
            self.0.load(Ordering::Relaxed)
        }
    }

    #[tokio::test]
    async fn answers_are_dated_by_the_clock_also_when_it_is_put_back() {
        let listener = TcpNet.listen("127.0.0.1:0".to_owned()).await.unwrap();
        let mut client = TcpNet.connect(listener.address()).await.unwrap();
        let router = Router::new().route("/", get(|| async {}));
        let bounds = Bounds { connections_max: 1, head_max: Duration::from_secs(60) };
        let clock = Arc::<Clock>::default();
        tokio::spawn(serve(Accepting(listener), router, bounds, clock.clone(), std::future::pending()));
        for (seconds, expected) in
            [(784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"), (0, "Thu, 01 Jan 1970 00:00:00 GMT")]
        {
            clock.0.store(seconds * 1000, Ordering::Relaxed);
            client.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
            let mut answer = Vec::new();
            while !answer.ends_with(b"\r\n\r\n") {
                answer.push(client.read_u8().await.unwrap());
            }
            let answer = String::from_utf8(answer).unwrap();
            assert!(answer.contains(&format!("date: {expected}\r\n")), "{answer}");
            assert_eq!(answer.matches("date:").count(), 1, "{answer}");
        }
    }
}
