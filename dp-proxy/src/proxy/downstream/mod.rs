//! The clients' side: connections, their deadlines, and the bodies they send.

pub(super) mod body;
pub(super) mod client;
mod head_scan;
pub(super) mod prefixed;
pub(super) mod proxy_protocol;
pub(super) mod tls;
