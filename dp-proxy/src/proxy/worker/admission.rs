//! Connections on their way in: accepted, counted, and given to whoever serves their kind.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;

use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_local;
use tokio::time::{sleep, timeout};
use tracing::warn;

use super::{ACCEPT_PAUSE, Door, Held, Worker};
use crate::proxy::downstream::proxy_protocol::{self, BadHeader, Ends};
use crate::proxy::stream;

impl Worker {
    pub(super) async fn accept(self: Rc<Self>, listener: Rc<TcpListener>, door: Door) {
        // What listens at one address has told already where its connections came to.
        let at = listener.local_addr().ok().filter(|at| !at.ip().is_unspecified());
        let mut left = pin!(self.leave.notified());
        left.as_mut().enable();
        while !self.leaving.get() {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((stream, peer)) => self.admit(stream, peer, at, door),
                    Err(e) => {
                        warn!(error = %e, "no connection could be accepted");
                        sleep(ACCEPT_PAUSE).await;
                    }
                },
                () = &mut left => {}
            }
        }
        // Clients that are connected already wait in this socket: closing it would reset them, if nobody else has it.
        while let Some(Ok((stream, peer))) = poll_fn(|cx| match listener.poll_accept(cx) {
            Poll::Ready(accepted) => Poll::Ready(Some(accepted)),
            Poll::Pending => Poll::Ready(None),
        })
        .await
        {
            self.admit(stream, peer, at, door);
        }
    }

    fn admit(self: &Rc<Self>, stream: TcpStream, peer: SocketAddr, at: Option<SocketAddr>, door: Door) {
        if self.connections.get() >= self.limits.connections_max {
            self.figures.refused.add(1);
            if self.may_speak() {
                warn!(%peer, "a connection is refused: there are too many");
            }
            return;
        }
        self.figures.accepted.add(1);
        let Some(local) = at.or_else(|| stream.local_addr().ok()) else { return };
        let ends = Ends { client: peer, local };
        if door.proxy_protocol {
            self.spawn(self.clone().serve_told(stream, ends, door));
        } else {
            self.begin(stream, ends, door);
        }
    }

    /// Learns from a load balancer who a connection is from, and serves it.
    async fn serve_told(self: Rc<Self>, mut stream: TcpStream, seen: Ends, door: Door) {
        let told = timeout(self.limits.client.head, proxy_protocol::read(&mut stream)).await;
        match told.unwrap_or(Err(BadHeader::Late)) {
            Ok(told) => self.begin(stream, told.unwrap_or(seen), door),
            Err(reason) => {
                self.figures.untold.add(1);
                if self.may_speak() {
                    warn!(peer = %seen.client, %reason, "a connection is refused");
                }
            }
        }
    }

    fn begin(self: &Rc<Self>, stream: TcpStream, Ends { client: peer, local }: Ends, door: Door) {
        // On a socket for both families an IPv4 address comes in IPv6's clothes.
        let canonical = |address: SocketAddr| SocketAddr::new(address.ip().to_canonical(), address.port());
        let ends = Ends { client: canonical(peer), local: canonical(local) };
        if !door.tls && door.stream {
            self.spawn(stream::serve(self.clone(), stream, ends, None));
        } else if !door.tls {
            self.spawn(self.clone().serve(stream, ends));
        } else if self.handshakes.get() < self.handshakes_max {
            // Counted here, not when its task begins: many may be accepted before any does.
            let shaking = Shaking::new(self.clone());
            self.spawn(self.clone().serve_tls(stream, ends, door, shaking));
        } else {
            self.figures.tls_refused.add(1);
            if self.may_speak() {
                warn!(%peer, "a connection is refused: too many handshakes are under way");
            }
        }
    }

    /// Runs a connection. A panic ends it and nothing else: the runtime catches it, the hook has written what happened
    /// and where, and here it is counted.
    pub(super) fn spawn(self: &Rc<Self>, connection: impl Future<Output = ()> + 'static) {
        let held = Held::new(self.clone());
        spawn_local(async move {
            connection.await;
            held.done();
        });
    }
}

/// A handshake that counts.
pub(super) struct Shaking(Rc<Worker>);

impl Shaking {
    fn new(worker: Rc<Worker>) -> Self {
        worker.handshakes.set(worker.handshakes.get() + 1);
        worker.figures.tls_pending.add(1);
        Self(worker)
    }
}

impl Drop for Shaking {
    fn drop(&mut self) {
        self.0.handshakes.set(self.0.handshakes.get() - 1);
        self.0.figures.tls_pending.sub(1);
    }
}
