//! Links to other programs: gRPC over the [`Net`], plainly or with certificates both ways.

use std::error::Error as _;
use std::io;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use mtls::{BadCredentials, Credentials, Role};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::Instant;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::net::{BoxFuture, Listener, Net, Stream};
use crate::settings::Settings;

/// Handshakes of one listener at a time; who comes then waits in the kernel's queue. So many that clients that say nothing,
/// each of which has a place for some seconds, do not keep others out.
const HANDSHAKES_MAX: usize = 4096;

/// Lines about connections that a listener refuses, in a second: whoever reaches it can have as many refused as they like.
const REFUSALS_TOLD: u32 = 20;

/// How links are opened and taken. Clones share it.
#[derive(Clone)]
pub(crate) struct Links {
    net: Arc<dyn Net>,
    credentials: Option<Credentials>,
}

impl Links {
    /// As the settings say.
    ///
    /// # Errors
    /// Certificates that cannot be used.
    pub(crate) fn load(settings: &Settings, net: Arc<dyn Net>) -> Result<Self, BadCredentials> {
        let credentials = Credentials::load(&settings.mtls, Role::ControlPlane, &settings.node_name())?;
        Ok(Self { net, credentials })
    }

    /// Without certificates.
    #[cfg(test)]
    pub(crate) fn plain(net: Arc<dyn Net>) -> Self {
        Self { net, credentials: None }
    }

    /// Who this node is, where it has a certificate.
    pub(crate) fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }

    /// A gRPC channel to a node's address. It connects when it is first used, and again when the connection is lost.
    pub(crate) fn channel(&self, address: &str) -> Channel {
        let (links, address): (Self, Arc<str>) = (self.clone(), address.into());
        let connector = tower::service_fn(move |_: Uri| {
            let (links, address) = (links.clone(), address.clone());
            async move { links.connect(&address).await.map(TokioIo::new).map_err(NotConnected) }
        });
        // The address is the connector's business; a URI needs some host.
        Endpoint::from_static("http://peer")
            .http2_keep_alive_interval(Duration::from_secs(10))
            .keep_alive_timeout(Duration::from_secs(5))
            .keep_alive_while_idle(true)
            .connect_with_connector_lazy(connector)
    }

    async fn connect(&self, address: &Arc<str>) -> io::Result<Stream> {
        let stream = self.net.connect(address.to_string()).await?;
        let Some(credentials) = &self.credentials else { return Ok(stream) };
        let host = address.rsplit_once(':').map_or(&**address, |(host, _)| host);
        Ok(Stream::shown(address, credentials.connect(stream, host).await?))
    }

    /// The connections of a listener that those of a role open, as a stream that gRPC serves. One that cannot be taken
    /// (no descriptors left, a peer that is gone again, the wrong certificate) is passed over.
    pub(crate) fn incoming(
        &self,
        listener: Box<dyn Listener>,
        from: Role,
    ) -> impl futures_util::Stream<Item = io::Result<Stream>> + Send + 'static {
        let mut listener = match self.credentials.clone() {
            None => listener,
            Some(credentials) => shaking(listener, move |stream: Stream| {
                let (credentials, address) = (credentials.clone(), stream.address().clone());
                async move { Ok(Stream::shown(&address, credentials.accept(stream, from).await?)) }
            }),
        };
        let (connections, accepted) = mpsc::channel(16);
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
}

/// A listener that gives connections once a handshake has been made on them. Handshakes run beside each other, a bounded
/// number at a time; a connection on which none comes about is warned of, up to [`REFUSALS_TOLD`], and passed over.
pub(crate) fn shaking<F>(
    mut listener: Box<dyn Listener>,
    shake: impl Fn(Stream) -> F + Send + 'static,
) -> Box<dyn Listener>
where
    F: Future<Output = io::Result<Stream>> + Send + 'static,
{
    let (shaken, ready) = mpsc::channel(16);
    let address = listener.address();
    let said = address.clone();
    let turns = Arc::new(Semaphore::new(HANDSHAKES_MAX));
    let (begun, refusals) = (Instant::now(), Arc::new(Refusals::default()));
    tokio::spawn(async move {
        loop {
            let Ok(turn) = turns.clone().acquire_owned().await else { return };
            let stream = tokio::select! {
                stream = listener.accept() => stream,
                () = shaken.closed() => return,
            };
            match stream {
                Ok(stream) => {
                    let (shaken, said, refusals) = (shaken.clone(), said.clone(), refusals.clone());
                    let (other, handshake) = (stream.address().clone(), shake(stream));
                    tokio::spawn(async move {
                        let shaking = handshake.await;
                        drop(turn);
                        match shaking {
                            // The server may have stopped in between.
                            Ok(stream) => drop(shaken.send(Ok(stream)).await),
                            Err(error) => match refusals.count(begun.elapsed().as_secs()) {
                                ..=REFUSALS_TOLD => {
                                    tracing::warn!(%error, address = %other, listener = said, "a connection was refused");
                                }
                                count if count == REFUSALS_TOLD + 1 => {
                                    tracing::warn!(
                                        listener = said,
                                        "more connections are refused, their lines are left out for a second"
                                    );
                                }
                                _ => {}
                            },
                        }
                    });
                }
                Err(error) => {
                    if shaken.send(Err(error)).await.is_err() {
                        return;
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
    Box::new(Shaking { ready, address })
}

/// Connections that were refused in the second of the last one.
#[derive(Default)]
struct Refusals(Mutex<(u64, u32)>);

impl Refusals {
    /// Counts one more in this second: the how manieth it is there.
    fn count(&self, second: u64) -> u32 {
        let mut last = self.0.lock().expect("nobody panics while counting");
        *last = (second, if last.0 == second { last.1.saturating_add(1) } else { 1 });
        last.1
    }
}

struct Shaking {
    ready: mpsc::Receiver<io::Result<Stream>>,
    address: String,
}

impl Listener for Shaking {
    fn accept(&mut self) -> BoxFuture<'_, io::Result<Stream>> {
        Box::pin(async { self.ready.recv().await.unwrap_or_else(|| Err(io::ErrorKind::BrokenPipe.into())) })
    }

    fn address(&self) -> String {
        self.address.clone()
    }
}

/// After a connection that could not be accepted: without descriptors the next attempt fails at once.
pub(crate) const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

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

#[cfg(test)]
mod tests {
    use protocol::grpc::peer_client::PeerClient;
    use protocol::grpc::{ProposeRequest, Route};

    use super::*;
    use crate::net::TcpNet;

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
        let channel = Links::plain(net.clone()).channel(&listener.address());
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

    #[test]
    fn refusals_are_counted_by_the_second() {
        let refusals = Refusals::default();
        assert_eq!([0, 0, 0, 7, 7, 8].map(|second| refusals.count(second)), [1, 2, 3, 1, 2, 1]);
    }
}
