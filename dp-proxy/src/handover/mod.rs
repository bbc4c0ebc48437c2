//! Hot restart: a new process of a proxy takes over from the one that runs, and no connection is lost.
//!
//! ```text
//!   successor                                   predecessor
//!       | -- Ask ------------------------------> |  its feed stands aside: nobody writes to the disk
//!       | <------------------ Offer, descriptors |  the lock of the data directory, all listening sockets
//!       |    reads the disk, compiles a table    |  serves on, with the table that it has
//!       | -- Ready ----------------------------> |
//!       | <---------------------------------- Go |  from here on the successor will serve
//!       |    accepts                             |
//!       | -- Serving --------------------------> |  accepts no more, ends what is under way, ends itself
//! ```
//!
//! Both have the same sockets, not two at one address: a connection that waits in one is accepted by whoever is there. A
//! successor that ends before it serves has cost nothing, for the predecessor takes disk and feed back and goes on.
//! Whoever holds the lock of the data directory owns the socket file at which this is spoken.

mod predecessor;
mod successor;
mod wire;

use std::fs::File;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;

pub(crate) use predecessor::{Door, Leaving};
pub(crate) use successor::Link;
pub use successor::take_over;

/// What a predecessor has handed over.
#[derive(Debug, Default)]
pub struct Estate {
    lock: Option<File>,
    listeners: Vec<(SocketAddr, TcpListener)>,
    link: Option<Link>,
}

impl Estate {
    /// The sockets that listen at an address.
    pub(crate) fn take(&mut self, address: SocketAddr) -> Vec<TcpListener> {
        self.listeners.extract_if(.., |(at, _)| *at == address).map(|(_, listener)| listener).collect()
    }

    /// The lock of the data directory.
    pub(crate) fn take_lock(&mut self) -> Option<File> {
        self.lock.take()
    }

    /// The connection to the predecessor, who waits for word.
    pub(crate) fn take_link(&mut self) -> Option<Link> {
        self.link.take()
    }
}

/// A hand-over did not come about.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// The socket.
    #[error("{path}: {error}")]
    Socket {
        /// Where it is.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// What came by it.
    #[error("the hand-over: {0}")]
    Broken(#[from] io::Error),
    /// Somebody of another user.
    #[error("the other process is user {theirs}'s, this one user {ours}'s")]
    Stranger {
        /// Who.
        theirs: u32,
        /// Who not.
        ours: u32,
    },
    /// The running process does not want to.
    #[error("the running process hands nothing over: {0}")]
    Refused(String),
    /// The other process has ended, or has broken the hand-over off.
    #[error("the other process has broken the hand-over off")]
    BrokenOff,
    /// It takes too long.
    #[error("the other process was not ready within {0}")]
    Late(daemon::settings::units::Span),
    /// A message that this version does not know.
    #[error("the other process says what this version does not know: {0}")]
    Unknown(String),
}
