//! HTTP/1.1 on a listener, with bounds on what connections may take.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
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
    stopped: impl Future<Output = ()> + Send,
) {
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(bounds.head_max);
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
        let router = router.clone().map_request(|request: Request<Incoming>| request.map(Body::new));
        let service = TowerToHyperService::new(router);
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

#[cfg(test)]
mod tests {
    use std::io;

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
        let serving = tokio::spawn(serve(Accepting(listener), router, bounds, async { drop(stopped.await) }));
        let mut silent = TcpNet.connect(address.clone()).await.unwrap();
        silent.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n").await.unwrap();
        let mut next = TcpNet.connect(address).await.unwrap();
        next.write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
        let (mut answer, mut nothing) = ([0; 15], [0; 1]);
        tokio::select! {
            biased;
            read = silent.read(&mut nothing) => assert_eq!(read.unwrap(), 0, "it is closed"),
            _ = next.read_exact(&mut answer) => panic!("there is one place, and it is taken"),
        }
        next.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        // At a stop a connection is closed with its answer, and that is the end.
        stop.send(()).unwrap();
        let mut rest = Vec::new();
        next.read_to_end(&mut rest).await.unwrap();
        assert!(rest.ends_with(b"here"));
        serving.await.unwrap();
    }
}
