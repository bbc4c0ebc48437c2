//! The traffic: workers that take requests and let upstreams answer them.
//!
//! ```text
//!   client -> worker (thread, runtime, SO_REUSEPORT listeners) -> table -> balance -> pool -> node
//! ```
//!
//! Every worker is a thread with a single-threaded runtime of its own. The kernel spreads connections over them, and a
//! request never leaves the thread of its connection. What workers share is read only: the table.

mod account;
mod asked_body;
mod balance;
mod body;
mod buffers;
mod compress;
mod downstream;
mod error;
mod fields;
mod figures;
mod framing;
mod graphql;
mod head;
mod headers;
mod host;
mod link;
mod plugged;
mod real_ip;
mod request;
mod response;
mod stream;
mod tunnel;
mod upstream;
mod values;
mod wheel;
mod worker;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use tokio::runtime::{Builder, LocalOptions};
use tokio::sync::{mpsc, oneshot};

use crate::access_log::AccessLog;
use crate::handover::Estate;
use crate::net::{self, Entrance};
use crate::settings::ProxySettings;
use crate::table::TableCell;
use worker::{Command, Door, Setup};

pub(crate) use balance::digest;
pub use buffers::Buffers;
pub use figures::{Figure, Figures, Latency, RouteRow, StatusLabels, StatusRow};
pub use stream::StreamFigures;

/// All workers.
#[derive(Debug)]
pub struct Workers {
    workers: Vec<Handle>,
    addresses: Vec<SocketAddr>,
    tls_addresses: Vec<SocketAddr>,
    stream_addresses: Vec<SocketAddr>,
    buffers: Arc<Buffers>,
}

#[derive(Debug)]
struct Handle {
    commands: Option<mpsc::UnboundedSender<Command>>,
    thread: Option<JoinHandle<()>>,
    figures: Arc<Figures>,
    /// Ends when the thread does.
    ended: Option<oneshot::Receiver<()>>,
}

impl Workers {
    /// Binds the addresses that are not part of the estate, and starts `count` workers. Clients are refused, or wait where
    /// an address was inherited, until [`Workers::listener`].
    ///
    /// # Errors
    /// Those of the operating system, with the address that cannot be bound.
    pub(crate) fn start(
        settings: &ProxySettings,
        count: usize,
        cell: &TableCell,
        access_log: Option<&AccessLog>,
        estate: &mut Estate,
    ) -> io::Result<Self> {
        let (mut addresses, mut tls_addresses, mut stream_addresses) = (Vec::new(), Vec::new(), Vec::new());
        let mut sockets: Vec<Vec<(Entrance, Door)>> = (0..count).map(|_| Vec::new()).collect();
        let (told, streams) = (&settings.proxy_protocol, &settings.stream);
        let http = |tls, proxy_protocol| Door { tls, proxy_protocol, stream: false };
        let stream = |tls| Door { tls, proxy_protocol: streams.proxy_protocol, stream: true };
        for (listen, door) in [
            (&settings.listen, http(false, false)),
            (&settings.tls.listen, http(true, false)),
            (&told.listen, http(false, true)),
            (&told.tls_listen, http(true, true)),
            (&streams.listen, stream(false)),
            (&streams.tls_listen, stream(true)),
        ] {
            for address in listen {
                let shared = net::share(*address, count, estate.take(*address))?;
                let known = match door {
                    Door { stream: true, .. } => &mut stream_addresses,
                    Door { tls: true, .. } => &mut tls_addresses,
                    _ => &mut addresses,
                };
                known.extend(shared.iter().flatten().next().map(Entrance::address).transpose()?);
                for (entrances, own) in shared.into_iter().zip(&mut sockets) {
                    own.extend(entrances.into_iter().map(|entrance| (entrance, door)));
                }
            }
        }
        let buffers = Buffers::new(settings.limits.buffered_bytes_max.0);
        let mut workers = Vec::with_capacity(count);
        for (index, sockets) in sockets.into_iter().enumerate() {
            let figures = Arc::new(Figures::default());
            let setup = Setup {
                index,
                count,
                settings: settings.clone(),
                cell: cell.clone(),
                figures: figures.clone(),
                buffers: buffers.clone(),
                access_log: access_log.cloned(),
                sockets,
            };
            let (commands, queue) = mpsc::unbounded_channel();
            let (alive, ended) = oneshot::channel::<()>();
            let run = move || {
                let _alive = alive;
                let runtime = Builder::new_current_thread()
                    .enable_all()
                    .max_blocking_threads(LOOK_UPS_MAX)
                    .build_local(LocalOptions::default())
                    .expect("the system gives a worker its poll and its timer");
                runtime.block_on(worker::run(setup, queue));
                // A look-up that hangs is not waited for.
                runtime.shutdown_background();
            };
            let thread = thread::Builder::new().name(format!("worker-{index}")).spawn(run)?;
            workers.push(Handle { commands: Some(commands), thread: Some(thread), figures, ended: Some(ended) });
        }
        Ok(Self { workers, addresses, tls_addresses, stream_addresses, buffers })
    }

    /// Where clients connect; ports that were left to the kernel are filled in. Those of the PROXY protocol come last.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where clients connect by TLS.
    #[must_use]
    pub fn tls_addresses(&self) -> &[SocketAddr] {
        &self.tls_addresses
    }

    /// Where TCP connections are carried; those with TLS come last.
    #[must_use]
    pub fn stream_addresses(&self) -> &[SocketAddr] {
        &self.stream_addresses
    }

    /// What each worker counts.
    #[must_use]
    pub fn figures(&self) -> Vec<Arc<Figures>> {
        self.workers.iter().map(|worker| worker.figures.clone()).collect()
    }

    /// What bodies take that are kept whole.
    #[must_use]
    pub fn buffers(&self) -> Arc<Buffers> {
        self.buffers.clone()
    }

    /// What lets every worker listen when it is awaited. There must be a table by then. It fails with what the operating
    /// system says, and with [`io::ErrorKind::BrokenPipe`] when a worker is gone.
    pub fn listener(&self) -> impl Future<Output = io::Result<()>> + Send + use<> {
        // Held weakly: a worker ends when its last sender is gone, and this may be waiting somewhere for ever.
        let commands = self.workers.iter().filter_map(|worker| worker.commands.as_ref());
        let commands: Vec<_> = commands.map(mpsc::UnboundedSender::downgrade).collect();
        async move {
            for commands in commands {
                let (answer, answered) = oneshot::channel();
                // Should the worker be gone, the answer's end closes, which says so.
                let _ = commands.upgrade().map(|commands| commands.send(Command::Listen(answer)));
                answered.await.unwrap_or(Err(io::ErrorKind::BrokenPipe.into()))?;
            }
            Ok(())
        }
    }

    /// What gives copies of all sockets that accept.
    pub(crate) fn lender(&self) -> Lender {
        let commands = self.workers.iter().filter_map(|worker| worker.commands.as_ref());
        Lender(commands.map(mpsc::UnboundedSender::downgrade).collect())
    }

    /// Lets every worker leave its listeners to others, and tell clients with their next answer to connect anew.
    pub fn leave(&self) {
        for commands in self.workers.iter().filter_map(|worker| worker.commands.as_ref()) {
            // A worker that is gone has no listeners.
            let _ = commands.send(Command::Leave);
        }
    }

    /// Lets every worker end its connections after the requests that are under way; returns when none is left.
    pub async fn drain(&self) {
        let tell = |worker: &Handle| {
            let (answer, answered) = oneshot::channel();
            let _ = worker.commands.as_ref().map(|commands| commands.send(Command::Drain(answer)));
            answered
        };
        // All are told before any is waited for.
        for answered in self.workers.iter().map(tell).collect::<Vec<_>>() {
            // A worker that is gone has no connections.
            let _ = answered.await;
        }
    }

    /// Waits until a worker has ended without being told to: a bug, after which this process is not whole.
    pub async fn failed(&mut self) {
        std::future::poll_fn(|cx| {
            let any = self.workers.iter_mut().any(|worker| match &mut worker.ended {
                Some(ended) => std::pin::Pin::new(ended).poll(cx).is_ready(),
                None => false,
            });
            if any { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
        })
        .await;
    }
}

/// Gives copies of all sockets that accept. Held weakly, as by [`Workers::listener`].
#[derive(Debug)]
pub(crate) struct Lender(Vec<mpsc::WeakUnboundedSender<Command>>);

impl Lender {
    /// Copies with which another process accepts what comes to the same sockets.
    ///
    /// # Errors
    /// What the operating system says, and [`io::ErrorKind::BrokenPipe`] when a worker is gone.
    pub(crate) async fn lend(&self) -> io::Result<Vec<OwnedFd>> {
        let mut all = Vec::new();
        for commands in &self.0 {
            let (answer, answered) = oneshot::channel();
            // Should the worker be gone, the answer's end closes, which says so.
            let _ = commands.upgrade().map(|commands| commands.send(Command::Lend(answer)));
            all.extend(answered.await.unwrap_or(Err(io::ErrorKind::BrokenPipe.into()))?);
        }
        Ok(all)
    }
}

/// Names that one worker looks up at once; the machine's resolver blocks a thread for each.
const LOOK_UPS_MAX: usize = 8;

/// Ends every worker at once, with whatever is under way.
impl Drop for Workers {
    fn drop(&mut self) {
        for worker in &mut self.workers {
            worker.commands = None;
        }
        for worker in &mut self.workers {
            if let Some(thread) = worker.thread.take() {
                let _ = thread.join();
            }
        }
    }
}
