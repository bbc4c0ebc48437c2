//! An upstream as the request path sees it.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::ops::Range;
use std::time::Duration;

use protocol::Text;
use protocol::resource::{HashKey, KeepalivePool, PassHost, Scheme, Timeouts};

use super::client_tls::Alpn;
use super::ticket::Ticket;
use crate::health::Watch;
use crate::proxy::digest;

/// A compiled upstream.
#[derive(Clone, PartialEq, Debug)]
pub struct Upstream {
    /// What logs and metrics call it: `upstreams/<id>`, or the route or service it belongs to.
    pub label: Text,
    /// Under which a worker keeps its turn among the nodes. It stays the same while the nodes do.
    pub balance: Ticket,
    /// By falling priority, then as they were listed.
    pub nodes: Box<[Node]>,
    /// The nodes of one priority each, the highest first.
    pub tiers: Box<[Range<usize>]>,
    /// How one of them is chosen.
    pub balancing: Balancing,
    /// Whether the health of its nodes is checked.
    pub is_watched: bool,
    /// Which `Host` the nodes see.
    pub pass_host: PassHost,
    /// The host for [`PassHost::Rewrite`].
    pub upstream_host: Option<Box<str>>,
    /// How often a request may be tried on another node.
    pub retries: u32,
    /// How long tries may go on; `None`: without a bound of its own.
    pub retry_timeout: Option<Duration>,
    /// Its time limits.
    pub timeouts: Option<Timeouts>,
    /// What is spoken to the nodes.
    pub scheme: Scheme,
    /// TLS to the nodes, where it is spoken.
    pub tls: Option<NodeTls>,
    /// How connections to the nodes are kept.
    pub keepalive: KeepalivePool,
    /// Why it answers every request with 503.
    pub(crate) sealed: Option<Box<str>>,
}

impl Upstream {
    /// Whether HTTP/2 is spoken to the nodes.
    #[must_use]
    pub fn is_http2(&self) -> bool {
        matches!(self.scheme, Scheme::Grpc | Scheme::Grpcs)
    }

    /// What is offered to be spoken within TLS.
    pub(super) fn alpn(&self) -> Alpn {
        Alpn::of(self.scheme)
    }
}

/// TLS to the nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NodeTls {
    /// Whether their certificates must be for the name that they are called by, and from somebody who is believed.
    pub verify: bool,
    /// The ssl that they are shown.
    pub shown: Option<Text>,
}

/// How a node is chosen.
#[derive(Clone, PartialEq, Debug, Default)]
pub enum Balancing {
    /// In turns.
    #[default]
    RoundRobin,
    /// The same node for the same key.
    Hash(HashKey),
    /// The one with the fewest requests under way.
    LeastConnections,
    /// The one that has answered most quickly of late.
    Ewma,
}

/// One node.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// Under which a worker keeps its connections: one per address, whichever upstreams name it.
    pub endpoint: Ticket,
    /// Its name or address.
    pub host: NodeHost,
    /// Its port.
    pub port: u16,
    /// Its share.
    pub weight: u32,
    /// What it is called in a `Host` header: without the port where it is the scheme's.
    pub authority: Box<str>,
    /// What consistent hashing knows it by: a number of its address.
    pub seed: u64,
    /// Its health, where that is checked.
    pub watch: Watch,
}

/// A name, or an address.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum NodeHost {
    /// A name that DNS knows.
    Name(Box<str>),
    /// An address.
    Address(IpAddr),
}

/// The port of `http` and `grpc`.
pub(super) const HTTP_PORT: u16 = 80;
/// The port of `https` and `grpcs`.
pub(super) const HTTPS_PORT: u16 = 443;

impl fmt::Display for NodeHost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Name(name) => f.write_str(name),
            Self::Address(address) => address.fmt(f),
        }
    }
}

impl NodeHost {
    pub(crate) fn parse(text: &str) -> Self {
        text.parse().map_or_else(|_| Self::Name(text.to_ascii_lowercase().into()), Self::Address)
    }

    /// `host:port`.
    pub(crate) fn with_port(&self, port: u16) -> String {
        match self {
            Self::Name(name) => format!("{name}:{port}"),
            Self::Address(IpAddr::V4(address)) => format!("{address}:{port}"),
            Self::Address(IpAddr::V6(address)) => format!("{}:{port}", bracketed(*address)),
        }
    }
}

impl Node {
    /// `scheme_port` is the port of a node that names none.
    pub(crate) fn compile(
        node: &protocol::resource::Node,
        scheme_port: u16,
        endpoint: impl FnOnce(&NodeHost, u16) -> Ticket,
    ) -> Self {
        let host = NodeHost::parse(&node.host);
        let port = node.port.unwrap_or(scheme_port);
        let name = match &host {
            NodeHost::Name(_) => node.host.clone(),
            NodeHost::Address(IpAddr::V4(address)) => address.to_string(),
            NodeHost::Address(IpAddr::V6(address)) => bracketed(*address),
        };
        let authority = if port == scheme_port { name } else { format!("{name}:{port}") };
        Self {
            endpoint: endpoint(&host, port),
            seed: digest(host.with_port(port).as_bytes()),
            host,
            port,
            weight: node.weight,
            authority: authority.into(),
            watch: Watch::default(),
        }
    }

    /// `host:port`, for logs and metrics.
    #[must_use]
    pub fn address(&self) -> String {
        self.host.with_port(self.port)
    }
}

fn bracketed(address: Ipv6Addr) -> String {
    format!("[{address}]")
}

/// Sorts nodes by falling priority and says which positions share one.
pub(crate) fn tiers<N>(mut nodes: Vec<(i64, N)>) -> (Box<[N]>, Box<[Range<usize>]>) {
    nodes.sort_by_key(|(priority, _)| std::cmp::Reverse(*priority));
    let mut tiers = Vec::new();
    let mut start = 0;
    for tier in nodes.chunk_by(|(a, _), (b, _)| a == b) {
        tiers.push(start..start + tier.len());
        start += tier.len();
    }
    (nodes.into_iter().map(|(_, node)| node).collect(), tiers.into())
}
