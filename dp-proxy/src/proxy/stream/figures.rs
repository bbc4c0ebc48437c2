//! What one worker counts of the connections that it carries.

use crate::proxy::figures::Figure;

/// See the module.
#[derive(Debug, Default)]
pub struct StreamFigures {
    /// Connections that came to a stream listener and, where that has TLS, through their handshake.
    pub connections: Figure,
    /// Those that are open.
    pub active: Figure,
    /// Bytes that nodes were given.
    pub bytes_up: Figure,
    /// Bytes that clients were given.
    pub bytes_down: Figure,
    /// Connections that did not end by themselves, by [`StreamFigures::FAILURES`].
    pub failures: [Figure; Self::FAILURES.len()],
}

impl StreamFigures {
    /// The names of failures, in the order of their numbers.
    pub const FAILURES: [&'static str; 7] =
        ["no_route", "unavailable", "no_client_certificate", "no_node", "connect", "idle", "broken"];
}
