//! Connections to nodes that speak HTTP/2, per node address and worker.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::{Context, Waker};

use bytes::Bytes;
use h2::client::{self, SendRequest};
use protocol::resource::KeepalivePool;
use tokio::sync::Mutex;
use tokio::task::spawn_local;
use tokio::time::Instant;
use tracing::debug;

use super::pulse::Pulse;
use crate::proxy::link::{Link, Secured};
use crate::table::Ticket;

/// Requests at once on one connection, however many more the node allows.
const STREAMS_MAX: usize = 100;
/// What a node may send of one answer before it is passed on.
const STREAM_WINDOW: u32 = 64 << 10;
/// The same over all answers of a connection: more than all of them together, so that a client that takes nothing of its
/// answer holds up nobody else's.
const CONNECTION_WINDOW: u32 = 8 << 20;
const _: () = assert!(CONNECTION_WINDOW as usize > STREAMS_MAX * STREAM_WINDOW as usize);
/// What of a request's body is handed to the connection before the node has taken it.
const SEND_BUFFER_BYTES: usize = 64 << 10;

/// A worker's connections.
#[derive(Debug, Default)]
pub(crate) struct Http2Pools {
    pools: RefCell<HashMap<Ticket, Pool>>,
}

#[derive(Debug, Default)]
struct Pool {
    connections: Vec<Rc<Http2Connection>>,
    /// Held while a connection is made: requests that come together wait for one, and do not each make their own.
    dialling: Rc<Mutex<()>>,
}

/// A connection that carries many requests.
#[derive(Debug)]
pub(crate) struct Http2Connection {
    sender: SendRequest<Bytes>,
    secured: Option<Secured>,
    /// Whether it takes requests.
    open: Rc<Cell<bool>>,
    /// Its requests, and what comes of them.
    pulse: Rc<Pulse>,
    /// Requests that it was given so far.
    requests: Cell<u32>,
    /// When it is closed unless it is used again.
    until: Cell<Instant>,
}

/// A place for one request on a connection.
#[derive(Debug)]
pub(crate) struct Place {
    connection: Rc<Http2Connection>,
    keepalive: KeepalivePool,
}

impl Http2Pools {
    /// A place on a connection that was made in this way, if one has any.
    pub(crate) fn pick(&self, endpoint: Ticket, secured: Option<&Secured>, keepalive: &KeepalivePool) -> Option<Place> {
        let mut pools = self.pools.borrow_mut();
        let pool = pools.get_mut(&endpoint)?;
        pool.connections.retain(|connection| connection.is_open());
        let of_kind = || pool.connections.iter().filter(|connection| connection.secured.as_ref() == secured);
        let usable = || of_kind().filter(|connection| connection.requests.get() < keepalive.requests);
        let free = usable().find(|connection| connection.has_room());
        // With as many as there may be, requests wait for their turn on the one with the fewest.
        let crowded = || {
            let full = of_kind().count() >= keepalive.size as usize;
            usable().filter(|_| full).min_by_key(|connection| connection.pulse.waiting())
        };
        free.or_else(crowded).map(|connection| Place::on(connection.clone(), *keepalive))
    }

    /// What is held while a connection to this address is made.
    pub(crate) fn dialling(&self, endpoint: Ticket) -> Rc<Mutex<()>> {
        self.pools.borrow_mut().entry(endpoint).or_default().dialling.clone()
    }

    /// Starts HTTP/2 on a new connection, and lets other requests use it too.
    ///
    /// # Errors
    /// Those of the connection.
    pub(crate) async fn start(
        &self,
        link: Link,
        secured: Option<Secured>,
        endpoint: Ticket,
        keepalive: &KeepalivePool,
        header_list_max: u32,
    ) -> Result<Place, h2::Error> {
        let mut builder = client::Builder::new();
        builder
            .enable_push(false)
            .initial_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_send_buffer_size(SEND_BUFFER_BYTES)
            .max_header_list_size(header_list_max);
        let (sender, mut connection) = builder.handshake::<_, Bytes>(link).await?;
        let ping_pong = connection.ping_pong().expect("it is taken once");
        let open = Rc::new(Cell::new(true));
        let pulse = Rc::new(Pulse::default());
        let (ended, watched) = (open.clone(), pulse.clone());
        spawn_local(async move {
            // Without its connection every request that waits on it fails.
            tokio::select! {
                end = connection => if let Err(e) = end {
                    debug!(error = %e, "a connection to a node ended");
                },
                () = watched.lost(ping_pong) => debug!("a node does not answer a PING: its connection is ended"),
            }
            ended.set(false);
        });
        let until = Cell::new(Instant::now());
        let connection = Rc::new(Http2Connection { sender, secured, open, pulse, requests: Cell::new(0), until });
        self.pools.borrow_mut().entry(endpoint).or_default().connections.push(connection.clone());
        Ok(Place::on(connection, *keepalive))
    }

    /// Lets connections go that were closed or waited too long; gives how many wait.
    pub(crate) fn sweep(&self, now: Instant) -> u64 {
        let mut waiting = 0;
        self.pools.borrow_mut().retain(|_, pool| {
            pool.connections.retain(|connection| {
                let idle = connection.pulse.waiting() == 0;
                let stays = connection.is_open() && (!idle || connection.until.get() > now);
                waiting += u64::from(stays && idle);
                stays
            });
            !pool.connections.is_empty() || Rc::strong_count(&pool.dialling) > 1
        });
        waiting
    }

    /// Lets all go. Requests under way on them come to their end.
    pub(crate) fn clear(&self) {
        self.pools.borrow_mut().clear();
    }
}

impl Http2Connection {
    /// Whether it takes requests: a node that goes away says so beforehand.
    fn is_open(&self) -> bool {
        // A sender that has sent nothing is ready at once, or the connection has failed.
        let ready = || self.sender.clone().poll_ready(&mut Context::from_waker(Waker::noop()));
        self.open.get() && !matches!(ready(), std::task::Poll::Ready(Err(_)))
    }

    fn has_room(&self) -> bool {
        self.pulse.waiting() < self.sender.current_max_send_streams().min(STREAMS_MAX)
    }
}

impl Place {
    fn on(connection: Rc<Http2Connection>, keepalive: KeepalivePool) -> Self {
        connection.pulse.begin();
        connection.requests.set(connection.requests.get() + 1);
        Self { connection, keepalive }
    }

    pub(super) fn sender(&self) -> SendRequest<Bytes> {
        self.connection.sender.clone()
    }

    /// Something of the answer came.
    pub(super) fn beat(&self) {
        self.connection.pulse.beat();
    }

    /// Whether the connection was ended because its node does not answer any more.
    pub(super) fn is_lost(&self) -> bool {
        self.connection.pulse.is_lost()
    }

    /// The node did not answer in time: it may be gone without a word, and nobody else should wait for it.
    pub(super) fn retire(&self) {
        self.connection.open.set(false);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let connection = &self.connection;
        connection.pulse.end();
        connection.until.set(Instant::now() + self.keepalive.idle_timeout);
    }
}
