//! Dialling and listening, in one place: a simulated network stands in by being another [`Net`].

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use mtls::{Link, Party};
use socket2::{SockAddr, SockRef, Socket, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::server::Connected;

/// How long establishing a connection may take.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// Idle connections are probed, so that a peer that vanished without a word is noticed.
const KEEPALIVE: Duration = Duration::from_secs(10);

/// Sent data may stay unacknowledged for so long before the connection is given up.
const UNACKNOWLEDGED_MAX: Duration = Duration::from_secs(15);

/// What takes a while.
pub(crate) type BoxFuture<'f, T> = Pin<Box<dyn Future<Output = T> + Send + 'f>>;

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

    /// A connection that is there already, whether or not the runtime has heard of it; `None`: there is none. Whoever closes a
    /// listener asks until then: what has come and is not taken is reset, with the request that it may have brought.
    fn accept_waiting(&mut self) -> Option<io::Result<Stream>> {
        None
    }

    /// Where it listens: with port 0 asked for, the port that was given.
    fn address(&self) -> String;
}

/// Anything that bytes go through.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection.
pub struct Stream {
    io: Box<dyn Io>,
    other: OtherEnd,
}

/// The other end of a connection.
#[derive(Clone, Debug)]
pub struct OtherEnd {
    /// Its address, as far as the network says.
    pub address: Arc<str>,
    /// Who it has shown to be, where certificates are asked for.
    pub party: Option<Arc<Party>>,
}

impl Stream {
    /// A connection to `address`.
    pub fn new(io: impl Io + 'static, address: &str) -> Self {
        Self { io: Box::new(io), other: OtherEnd { address: address.into(), party: None } }
    }

    /// The same connection to the same address, on which the other end has shown who it is.
    pub(crate) fn shown(address: &Arc<str>, link: Link<Self>) -> Self {
        let other = OtherEnd { address: address.clone(), party: Some(Arc::new(link.other().clone())) };
        Self { io: Box::new(link), other }
    }

    /// Where the other end is.
    pub(crate) fn address(&self) -> &Arc<str> {
        &self.other.address
    }
}

impl Connected for Stream {
    type ConnectInfo = OtherEnd;
    fn connect_info(&self) -> OtherEnd {
        self.other.clone()
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

    fn accept_waiting(&mut self) -> Option<io::Result<Stream>> {
        let taken = |socket: Socket, peer: SockAddr| {
            socket.set_nonblocking(true)?;
            let stream = TcpStream::from_std(socket.into())?;
            prepare(&stream)?;
            Ok(Stream::new(stream, &peer.as_socket().map_or_else(String::new, |peer| peer.to_string())))
        };
        match SockRef::from(&self.listener).accept() {
            Ok((socket, peer)) => Some(taken(socket, peer)),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => None,
            Err(e) => Some(Err(e)),
        }
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    #[tokio::test]
    async fn a_connection_that_the_runtime_has_not_heard_of_is_taken() {
        let mut listener = TcpNet.listen("127.0.0.1:0".to_owned()).await.unwrap();
        assert!(listener.accept_waiting().is_none());
        // The runtime looks at no socket until something here waits.
        let client = std::net::TcpStream::connect(listener.address()).unwrap();
        let mut stream = listener.accept_waiting().expect("it is there").unwrap();
        assert_eq!(&**stream.address(), client.local_addr().unwrap().to_string());
        assert!(listener.accept_waiting().is_none());
        io::Write::write_all(&mut &client, b"asked").unwrap();
        let mut asked = [0; 5];
        stream.read_exact(&mut asked).await.unwrap();
        stream.write_all(b"answered").await.unwrap();
        assert_eq!(&asked, b"asked");
    }
}
