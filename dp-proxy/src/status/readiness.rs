//! Whether requests should be sent here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::standing::Board;

/// Whether requests should be sent here: a verified table is live on all workers, and nobody has withdrawn the proxy.
#[derive(Debug)]
pub struct Readiness {
    board: Arc<Board>,
    /// Every worker listens.
    listening: AtomicBool,
    /// The process is on its way out.
    draining: AtomicBool,
    /// An operator has taken it out.
    withdrawn: AtomicBool,
}

/// Why not. The words of the first are APISIX's.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unready {
    /// There is nothing to serve yet.
    #[error("worker id: 0 has not received configuration")]
    NoConfiguration,
    /// There is, and the listeners are being opened.
    #[error("the listeners are not open yet")]
    NotListening,
    /// The process ends, or an operator has taken it out.
    #[error("draining")]
    Draining,
}

impl Readiness {
    /// Of a proxy that has just started.
    #[must_use]
    pub fn new(board: Arc<Board>) -> Self {
        let off = || AtomicBool::new(false);
        Self { board, listening: off(), draining: off(), withdrawn: off() }
    }

    /// Every worker listens, with a table.
    pub fn set_listening(&self) {
        self.listening.store(true, Ordering::Release);
    }

    /// The process is on its way out. Nothing takes this back.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// An operator takes the proxy out of service, or back in.
    pub fn set_withdrawn(&self, withdrawn: bool) {
        self.withdrawn.store(withdrawn, Ordering::Release);
    }

    /// Whether it is draining, for whatever reason.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Acquire) || self.withdrawn.load(Ordering::Acquire)
    }

    /// Whether requests should be sent here.
    ///
    /// # Errors
    /// [`Unready`] with the reason when not.
    pub fn check(&self) -> Result<(), Unready> {
        if self.is_draining() {
            return Err(Unready::Draining);
        }
        if !self.board.has_table.load(Ordering::Acquire) {
            return Err(Unready::NoConfiguration);
        }
        if self.listening.load(Ordering::Acquire) { Ok(()) } else { Err(Unready::NotListening) }
    }
}
