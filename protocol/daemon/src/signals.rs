//! The signals that a program obeys.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// SIGUSR1, with which log rotators ask a program to open its files anew (as nginx).
#[derive(Debug)]
pub struct Rotation(Signal);

impl Rotation {
    /// Takes the signal over. From here on it no longer ends the process.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn listen() -> io::Result<Self> {
        Ok(Self(signal(SignalKind::user_defined1())?))
    }

    /// Waits for the next. Cancel-safe.
    pub async fn next(&mut self) {
        self.0.recv().await;
    }
}

/// SIGUSR2, which asks a program to start anew without an interruption (as nginx).
#[derive(Debug)]
pub struct Renewal(Signal);

impl Renewal {
    /// Takes the signal over. From here on it no longer ends the process.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn listen() -> io::Result<Self> {
        Ok(Self(signal(SignalKind::user_defined2())?))
    }

    /// Waits for the next. Cancel-safe.
    pub async fn next(&mut self) {
        self.0.recv().await;
    }
}

/// SIGTERM and SIGINT. The first asks for an orderly end, the second for an end now.
#[derive(Debug)]
pub struct Termination {
    term: Signal,
    interrupt: Signal,
}

impl Termination {
    /// Takes the signals over. From here on they no longer end the process by themselves.
    ///
    /// # Errors
    /// Those of the operating system.
    pub fn listen() -> io::Result<Self> {
        Ok(Self { term: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    /// Waits for the next of them; gives its name. Cancel-safe.
    pub async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.term.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
