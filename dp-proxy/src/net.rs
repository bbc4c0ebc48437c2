//! Every socket of this program is opened here.

mod race;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use mtls::Credentials;
use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UdpSocket};

/// Both directions of a connection.
pub trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// What dialling gives some time later.
pub type Dialling<'d> = Pin<Box<dyn Future<Output = io::Result<Box<dyn Duplex>>> + Send + 'd>>;

/// How the control plane is reached: by TCP, or as a simulation says.
pub trait Dial: Send + Sync + fmt::Debug + 'static {
    /// Connects to `host:port`.
    fn dial<'d>(&'d self, authority: &'d str) -> Dialling<'d>;
}

/// TCP, with names looked up as the machine does.
#[derive(Clone, Copy, Debug, Default)]
pub struct Tcp;

/// A peer that is gone without a word is noticed after about so long, also while nothing is sent.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// Bytes that were sent and not acknowledged for so long end a connection.
const USER_TIMEOUT: Duration = Duration::from_secs(15);

impl Dial for Tcp {
    fn dial<'d>(&'d self, authority: &'d str) -> Dialling<'d> {
        Box::pin(async move {
            let addresses: Vec<_> = tokio::net::lookup_host(authority).await?.collect();
            let stream = connect_any(&addresses).await?;
            let socket = SockRef::from(&stream);
            let keepalive = TcpKeepalive::new().with_time(KEEPALIVE_IDLE).with_interval(KEEPALIVE_INTERVAL);
            socket.set_tcp_keepalive(&keepalive)?;
            socket.set_tcp_user_timeout(Some(USER_TIMEOUT))?;
            Ok(Box::new(stream) as Box<dyn Duplex>)
        })
    }
}

/// Another way of dialling, with certificates shown by both ends.
#[derive(Debug)]
pub struct Proved {
    /// How bytes get there.
    pub by: Arc<dyn Dial>,
    /// Who this proxy is, and whom it believes.
    pub credentials: Credentials,
}

impl Dial for Proved {
    fn dial<'d>(&'d self, authority: &'d str) -> Dialling<'d> {
        Box::pin(async move {
            let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
            let link = self.credentials.connect(self.by.dial(authority).await?, host).await?;
            Ok(Box::new(link) as Box<dyn Duplex>)
        })
    }
}

/// Connects to an address, without Nagle's delay. Cancel-safe.
///
/// # Errors
/// Those of the operating system.
pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    #[expect(clippy::disallowed_methods, reason = "this is the one place that dials")]
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Connects to one of a peer's addresses: to the first that takes a connection, where each has a quarter of a second before the
/// next is tried beside it. An address that never answers so costs a moment only. Cancel-safe.
///
/// # Errors
/// That of the address that failed last, with the address.
pub async fn connect_any(addresses: &[SocketAddr]) -> io::Result<TcpStream> {
    race::first(addresses, connect).await
}

/// A socket for datagrams to an address and from it alone, at a port that nobody can know beforehand.
///
/// # Errors
/// Those of the operating system.
pub async fn datagrams(to: SocketAddr) -> io::Result<UdpSocket> {
    let from: SocketAddr = if to.is_ipv4() { ([0; 4], 0).into() } else { ([0; 16], 0).into() };
    let socket = UdpSocket::bind(from).await?;
    socket.connect(to).await?;
    Ok(socket)
}

/// A socket that is bound and does not listen yet: the address is taken, and clients are still refused.
///
/// # Errors
/// Those of the operating system, with the address.
pub fn bind(address: SocketAddr) -> io::Result<TcpSocket> {
    bind_as(address, false)
}

/// Sockets for `count` workers on one address, bound and not listening: the kernel will spread connections over them.
///
/// # Errors
/// Those of the operating system, with the address. An address that somebody listens on already is an error even if they
/// would share it: two proxies on one port by mistake would each get a part of the traffic.
pub fn bind_shared(address: SocketAddr, count: usize) -> io::Result<Vec<TcpSocket>> {
    if address.port() != 0 {
        drop(bind_as(address, false)?);
    }
    let mut sockets = Vec::with_capacity(count);
    let mut address = address;
    for _ in 0..count {
        let socket = bind_as(address, true)?;
        // Where the port was left to the kernel, the first socket's is everybody's.
        address = socket.local_addr()?;
        sockets.push(socket);
    }
    Ok(sockets)
}

/// A socket that is to accept: bound here, or listening already in the process that handed it over.
#[derive(Debug)]
pub(crate) enum Entrance {
    /// Bound, not listening: clients are refused.
    Bound(TcpSocket),
    /// Listening: clients wait in it.
    Inherited(std::net::TcpListener),
}

impl Entrance {
    pub(crate) fn address(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Bound(socket) => socket.local_addr(),
            Self::Inherited(listener) => listener.local_addr(),
        }
    }

    /// Lets it accept connections, all without Nagle's delay: those that are accepted have it from the listener, which saves
    /// each a system call. Within the runtime that is to.
    ///
    /// # Errors
    /// Those of the operating system.
    pub(crate) fn listen(self) -> io::Result<TcpListener> {
        let listener = match self {
            Self::Bound(socket) => listen(socket)?,
            Self::Inherited(listener) => {
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener)?
            }
        };
        SockRef::from(&listener).set_tcp_nodelay(true)?;
        Ok(listener)
    }
}

/// Entrances for `count` workers at one address, at least one for each: those that were inherited, and new ones beside
/// them where there are fewer. None of the inherited is left out: clients may be waiting in it.
///
/// # Errors
/// Those of the operating system, with the address.
pub(crate) fn share(
    address: SocketAddr,
    count: usize,
    inherited: Vec<std::net::TcpListener>,
) -> io::Result<Vec<Vec<Entrance>>> {
    if inherited.is_empty() {
        let bound = bind_shared(address, count)?;
        return Ok(bound.into_iter().map(|socket| vec![Entrance::Bound(socket)]).collect());
    }
    let mut entrances: Vec<Vec<Entrance>> = (0..count).map(|_| Vec::new()).collect();
    for (index, listener) in inherited.into_iter().enumerate() {
        entrances[index % count].push(Entrance::Inherited(listener));
    }
    for own in entrances.iter_mut().filter(|own| own.is_empty()) {
        own.push(Entrance::Bound(bind_as(address, true)?));
    }
    Ok(entrances)
}

/// An entrance at an address that is nobody else's: the inherited one, where there is one.
///
/// # Errors
/// Those of the operating system, with the address.
pub(crate) fn open(address: SocketAddr, inherited: Vec<std::net::TcpListener>) -> io::Result<Entrance> {
    match inherited.into_iter().next() {
        Some(listener) => Ok(Entrance::Inherited(listener)),
        None => bind(address).map(Entrance::Bound),
    }
}

fn bind_as(address: SocketAddr, shared: bool) -> io::Result<TcpSocket> {
    let bind = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        socket.set_reuseaddr(true)?;
        socket.set_reuseport(shared)?;
        socket.bind(address)?;
        Ok(socket)
    };
    bind().map_err(|e: io::Error| io::Error::new(e.kind(), format!("{address}: {e}")))
}

/// Connections that the kernel holds for a listener until they are accepted.
const BACKLOG: u32 = 4096;

/// Lets a bound socket listen. Within the runtime that is to accept.
///
/// # Errors
/// Those of the operating system.
pub fn listen(socket: TcpSocket) -> io::Result<TcpListener> {
    socket.listen(BACKLOG)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_is_accepted_has_no_delay() {
        let bound = bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = Entrance::Bound(bound).listen().unwrap();
        let _client = connect(listener.local_addr().unwrap()).await.unwrap();
        assert!(listener.accept().await.unwrap().0.nodelay().unwrap());
    }

    #[test]
    fn an_address_is_taken_once() {
        let shared = bind_shared("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        let address = shared[0].local_addr().unwrap();
        assert!(shared.iter().all(|socket| socket.local_addr().unwrap() == address));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build().unwrap();
        let _in_it = runtime.enter();
        let _listening: Vec<_> = shared.into_iter().map(|socket| listen(socket).unwrap()).collect();
        let error = bind_shared(address, 2).unwrap_err().to_string();
        assert!(error.starts_with(&format!("{address}: ")), "{error}");
        assert!(bind(address).is_err());
    }
}
