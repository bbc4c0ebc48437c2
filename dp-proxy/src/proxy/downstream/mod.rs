//! The clients' side: connections, their deadlines, HTTP/1 ([`http1`]), and the bodies they send.

pub(super) mod body;
pub(super) mod client;
pub(super) mod gather;
pub(super) mod http1;
pub(super) mod prefixed;
pub(super) mod proxy_protocol;
pub(super) mod tls;
