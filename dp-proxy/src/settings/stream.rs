//! TCP traffic: listeners whose bytes are carried unread, by the configuration's stream routes.

use std::net::SocketAddr;
use std::time::Duration;

use daemon::settings::units::Span;
use serde::{Deserialize, Serialize};

/// TCP traffic.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StreamSettings {
    /// Where connections are taken; may be empty.
    pub listen: Vec<SocketAddr>,
    /// Where TLS connections are taken, and their TLS ended; may be empty. The certificates are the configuration's `ssls`.
    pub tls_listen: Vec<SocketAddr>,
    /// Whether every connection at both must begin with a header of the PROXY protocol, version 1 or 2. Whoever can connect
    /// there is believed.
    pub proxy_protocol: bool,
    /// Whether nodes are told in such a header whom a connection is from, and in which version.
    pub proxy_protocol_to_upstream: ProxyHeader,
    /// How long nothing may move on a connection whose upstream has no `timeout`.
    pub idle_timeout: Span,
}

/// A header of the PROXY protocol.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ProxyHeader {
    /// None.
    #[default]
    Off,
    /// A line of text.
    V1,
    /// A binary one.
    V2,
}

impl Default for StreamSettings {
    fn default() -> Self {
        Self {
            listen: Vec::new(),
            tls_listen: Vec::new(),
            proxy_protocol: false,
            proxy_protocol_to_upstream: ProxyHeader::default(),
            // nginx's `proxy_timeout`.
            idle_timeout: Span(Duration::from_secs(600)),
        }
    }
}
