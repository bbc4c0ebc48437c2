//! Dialling and listening, in one place: a simulated network stands in by being another [`Net`].

use std::error::Error as _;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::server::Connected;
use tonic::transport::{Channel, Endpoint, Uri};

/// How long establishing a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// Idle connections are probed, so that a peer that vanished without a word is noticed.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Sent data may stay unacknowledged for so long before the connection is given up.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(15);

type BoxFuture<'f, T> = Pin<Box<dyn Future<Output = T> + Send + 'f>>;

/// Connects and listens.
pub trait Net: Send + Sync + 'static {
    /// Opens a connection to `host:port`.
    fn connect(&self, address: String) -> BoxFuture<'static, io::Result<Stream>>;

    /// Listens at `host:port`.
    fn listen(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn Listener>>>;
}

/// Accepts connections.
pub trait Listener: Send + 'static {
    /// The next connection. Cancel-safe.
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Stream>>;

    /// Where it listens: with port 0 asked for, the port that was given.
    fn address(&self) -> String;
}

/// Anything that bytes go through.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection.
pub struct Stream {
    io: Box<dyn Io>,
    peer: PeerAddress,
}

/// The other end of a connection, as far as the network says.
#[derive(Clone, Debug)]
pub struct PeerAddress(pub Arc<str>);

impl Stream {
    /// A connection to `peer`.
    pub fn new(io: impl Io + 'static, peer: &str) -> Self {
        Self { io: Box::new(io), peer: PeerAddress(peer.into()) }
    }
}

impl Connected for Stream {
    type ConnectInfo = PeerAddress;
    fn connect_info(&self) -> PeerAddress {
        self.peer.clone()
    }
}

impl AsyncRead for Stream {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}

/// TCP.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpNet;

impl Net for TcpNet {
    fn connect(&self, address: String) -> BoxFuture<'static, io::Result<Stream>> {
        Box::pin(async move {
            #[expect(clippy::disallowed_methods, reason = "this is the one place that dials")]
            let connecting = TcpStream::connect(&address);
            let stream = tokio::time::timeout(CONNECT_MAX, connecting).await.map_err(|_| {
                io::Error::new(io::ErrorKind::TimedOut, format!("no connection within {CONNECT_MAX:?}"))
            })??;
            prepare(&stream)?;
            Ok(Stream::new(stream, &address))
        })
    }

    fn listen(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            #[expect(clippy::disallowed_methods, reason = "this is the one place that listens")]
            let listener = TcpListener::bind(&address).await;
            let listener =
                listener.map_err(|e| io::Error::new(e.kind(), format!("cannot listen at {address}: {e}")))?;
            let address = listener.local_addr()?.to_string();
            Ok(Box::new(TcpListening { listener, address }) as Box<dyn Listener>)
        })
    }
}

struct TcpListening {
    listener: TcpListener,
    address: String,
}

impl Listener for TcpListening {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Stream>> {
        Box::pin(async move {
            let (stream, peer) = self.listener.accept().await?;
            prepare(&stream)?;
            Ok(Stream::new(stream, &peer.to_string()))
        })
    }

    fn address(&self) -> String {
        self.address.clone()
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(Duration::from_secs(5)).with_retries(2);
    socket.set_tcp_keepalive(&keepalive)?;
    socket.set_tcp_user_timeout(Some(UNACKNOWLEDGED_MAX))
}

/// A gRPC channel to an address. It connects when it is first used, and again when the connection is lost.
pub(crate) fn channel(net: &Arc<dyn Net>, address: &str) -> Channel {
    let net = net.clone();
    let address = address.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let connecting = net.connect(address.clone());
        async move { connecting.await.map(TokioIo::new).map_err(NotConnected) }
    });
    // The address is the connector's business; a URI needs some host.
    Endpoint::from_static("http://peer")
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(connector)
}

/// There was no connection, so nothing was sent.
#[derive(Debug, thiserror::Error)]
#[error(transparent)]
struct NotConnected(io::Error);

/// Whether a call over a [`channel`] failed before anything of it was sent: the other end cannot have acted on it.
pub(crate) fn was_never_sent(status: &tonic::Status) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = status.source();
    while let Some(error) = cause {
        if error.is::<NotConnected>() {
            return true;
        }
        cause = error.source();
    }
    false
}

/// The connections of a listener as a stream that gRPC serves. One that cannot be accepted (no descriptors left, a peer
/// that is gone again) is passed over.
pub(crate) fn incoming(
    mut listener: Box<dyn Listener>,
) -> impl futures_util::Stream<Item = io::Result<Stream>> + Send + 'static {
    let (connections, accepted) = tokio::sync::mpsc::channel(16);
    tokio::spawn(async move {
        loop {
            let stream = tokio::select! {
                stream = listener.accept() => stream,
                () = connections.closed() => return,
            };
            match stream {
                Ok(stream) => {
                    if connections.send(Ok(stream)).await.is_err() {
                        return;
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, listener = listener.address(), "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
    tokio_stream::wrappers::ReceiverStream::new(accepted)
}

/// After a connection that could not be accepted: without descriptors the next attempt fails at once.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use protocol::grpc::peer_client::PeerClient;
    use protocol::grpc::{ProposeRequest, Route};

    use super::*;

    /// Proposes nothing to whoever listens at `address`; whether it was surely not sent.
    async fn never_sent(channel: Channel) -> bool {
        let route = Route { from: 1, to: 2, ..Route::default() };
        let request = ProposeRequest { route: Some(route), commands: Vec::new() };
        let status = PeerClient::new(channel).propose(request).await.expect_err("nobody serves it");
        was_never_sent(&status)
    }

    #[tokio::test]
    async fn what_was_never_sent_is_told_from_what_was_lost() {
        let net: Arc<dyn Net> = Arc::new(TcpNet);
        let mut listener = net.listen("127.0.0.1:0".to_owned()).await.unwrap();
        let channel = channel(&net, &listener.address());
        let hang_up = async {
            // Somebody is there, and hangs up with the request in hand.
            let mut stream = listener.accept().await.unwrap();
            tokio::io::AsyncReadExt::read(&mut stream, &mut [0; 1024]).await.unwrap();
        };
        let (sent, ()) = tokio::join!(never_sent(channel.clone()), hang_up);
        assert!(!sent, "it may have arrived");
        drop(listener);
        assert!(never_sent(channel).await, "nobody is there any more");
    }
}
