//! The product's two seams to the network, over turmoil's TCP.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::time::Duration;

use cp_node::net::{Listener, Net, Stream};
use dp_proxy::net::{Dial, Dialling, Duplex};
use turmoil::net::{TcpListener, TcpStream};

type BoxFuture<'f, T> = Pin<Box<dyn Future<Output = T> + Send + 'f>>;

/// How long establishing a connection may take, as in the product's own TCP.
const CONNECT_MAX: Duration = Duration::from_secs(2);

/// The simulated network, as control-plane nodes and proxies see it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SimNet;

/// Connects to `host:port`.
pub(crate) async fn connect(address: &str) -> io::Result<TcpStream> {
    let timed_out = || io::Error::new(io::ErrorKind::TimedOut, "no connection in time");
    tokio::time::timeout(CONNECT_MAX, TcpStream::connect(address)).await.map_err(|_| timed_out())?
}

impl Net for SimNet {
    fn connect(&self, address: String) -> BoxFuture<'static, io::Result<Stream>> {
        Box::pin(async move { Ok(Stream::new(connect(&address).await?, &address)) })
    }

    fn listen(&self, address: String) -> BoxFuture<'static, io::Result<Box<dyn Listener>>> {
        Box::pin(async move {
            let listener = TcpListener::bind(address.as_str()).await?;
            Ok(Box::new(Listening { listener, address }) as Box<dyn Listener>)
        })
    }
}

struct Listening {
    listener: TcpListener,
    address: String,
}

impl Listener for Listening {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Stream>> {
        Box::pin(async move {
            let (stream, peer) = self.listener.accept().await?;
            Ok(Stream::new(stream, &peer.to_string()))
        })
    }

    fn address(&self) -> String {
        self.address.clone()
    }
}

impl Dial for SimNet {
    fn dial<'d>(&'d self, authority: &'d str) -> Dialling<'d> {
        Box::pin(async move { Ok(Box::new(connect(authority).await?) as Box<dyn Duplex>) })
    }
}
