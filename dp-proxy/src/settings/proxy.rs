//! The traffic: listeners, limits, and how a proxy goes away.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use daemon::settings::units::{ByteSize, Span};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use super::access_log::AccessLogSettings;
use super::stream::StreamSettings;
use crate::dns;
use crate::table::Router;

/// The traffic.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProxySettings {
    /// Where requests are taken. At least one address.
    pub listen: Vec<SocketAddr>,
    /// TLS from clients.
    pub tls: TlsSettings,
    /// Whether clients may speak HTTP/2 without TLS to `listen`, by prior knowledge (RFC 9113 §3.3).
    pub h2c: bool,
    /// HTTP/2 from clients.
    pub http2: Http2Settings,
    /// In which order hosts and paths are asked, by the name of APISIX's router.
    pub router: Router,
    /// How many workers serve them, each on a thread of its own. 0: as many as there are cores.
    pub workers: usize,
    /// What the header `Server` says. Empty: what the upstream said.
    pub server_header: String,
    /// Connections to nodes.
    pub upstream: UpstreamSettings,
    /// How long the addresses of a node's name are used before they are asked for again, where the machine is asked, which
    /// does not say.
    pub dns_ttl: Span,
    /// Who is asked for the names of nodes, and for services.
    pub dns: DnsSettings,
    /// Bounds on what clients and upstreams may ask for.
    pub limits: LimitSettings,
    /// Listeners behind load balancers.
    pub proxy_protocol: ProxyProtocolSettings,
    /// TCP traffic.
    pub stream: StreamSettings,
    /// Who is trusted to say who a client is.
    pub real_ip: RealIpSettings,
    /// One line for every request.
    pub access_log: AccessLogSettings,
    /// How the proxy goes away.
    pub drain: DrainSettings,
}

/// TLS from clients. The certificates are the configuration's `ssls`.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsSettings {
    /// Where TLS connections are taken; may be empty.
    pub listen: Vec<SocketAddr>,
    /// The name for clients that ask for none. Empty: they are refused.
    pub fallback_sni: String,
    /// How long a handshake may take.
    pub handshake_timeout: Span,
    /// Handshakes under way at once, over all workers: more are closed as they come.
    pub handshakes_max: usize,
}

/// HTTP/2 from clients.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Http2Settings {
    /// Whether it is offered to TLS clients (by ALPN).
    pub enabled: bool,
    /// Requests at once on one connection; more are refused.
    pub streams_max: u32,
    /// Requests that the client has reset and that are not done with yet, on one connection: more end it.
    pub resets_pending_max: usize,
    /// Requests that were reset here because the client broke the protocol, on one connection: more end it.
    pub errors_max: usize,
    /// How much of a request's body a client may send before it is taken.
    pub stream_window: ByteSize,
    /// The same for all requests of one connection together.
    pub connection_window: ByteSize,
}

/// Connections to nodes.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct UpstreamSettings {
    /// A PEM file with the authorities that a node's certificate may come from, where the upstream has `tls.verify`. Left
    /// out: those that this machine trusts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub trusted_ca_file: Option<PathBuf>,
}

/// Who is asked for names.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DnsSettings {
    /// DNS servers, by address or `address:port`, in the order in which they are asked. Empty: the machine is asked for the
    /// names of nodes, as its C library does it, and the servers of `/etc/resolv.conf` for services.
    pub servers: Vec<String>,
}

impl DnsSettings {
    /// The servers.
    ///
    /// # Errors
    /// The first text that is no address.
    pub fn addresses(&self) -> Result<Vec<SocketAddr>, &str> {
        self.servers.iter().map(|text| dns::server(text)).collect()
    }
}

/// Listeners behind load balancers: every connection must begin with a header of the PROXY protocol, version 1 or 2, which
/// says who it is from. Whoever can connect there is believed.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ProxyProtocolSettings {
    /// Where requests are taken; may be empty.
    pub listen: Vec<SocketAddr>,
    /// Where TLS connections are taken; may be empty.
    pub tls_listen: Vec<SocketAddr>,
}

/// Who is trusted to say who a client is: a load balancer, or another proxy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RealIpSettings {
    /// Their addresses, or the networks that they are in. Empty: nobody is trusted.
    pub from: Vec<String>,
    /// The header in which they say it.
    pub header: String,
    /// Whether addresses of the header that are trusted themselves are passed over, from the last to the first.
    pub recursive: bool,
}

impl RealIpSettings {
    /// Whom they trust.
    ///
    /// # Errors
    /// The first text that is neither an address nor a network.
    pub fn networks(&self) -> Result<Vec<IpNet>, &str> {
        let read = |text: &'_ String| text.parse().or_else(|_| text.parse::<IpAddr>().map(IpNet::from)).ok();
        self.from.iter().map(|text| read(text).ok_or(text.as_str())).collect()
    }
}

impl Default for RealIpSettings {
    fn default() -> Self {
        Self { from: Vec::new(), header: "X-Forwarded-For".to_owned(), recursive: false }
    }
}

/// Bounds on what clients and upstreams may ask for.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LimitSettings {
    /// The head of a request or response, its first line included: more is a 431, or a 502.
    pub header_bytes_max: ByteSize,
    /// Headers in one head: more is a 431, or a 502.
    pub headers_max: usize,
    /// The target of a request, its query included: longer is a 414.
    pub target_bytes_max: ByteSize,
    /// The body of a request: more is a 413. 0: no bound.
    pub body_bytes_max: ByteSize,
    /// A body that conditions of routes look into (`post_arg_*`, `graphql_*`): more is a 413.
    pub matched_body_bytes_max: ByteSize,
    /// Bodies of requests that are kept whole because a plugin or a condition looks at them, all together, over all workers: where one finds no
    /// room, its request is a 503. 0: no bound.
    pub buffered_bytes_max: ByteSize,
    /// Client connections at once, over all workers: more are closed as they come.
    pub connections_max: usize,
    /// From the first byte of a head to its last: longer is a 408.
    pub header_read_timeout: Span,
    /// Between two reads of a request's body: longer is a 408.
    pub body_read_timeout: Span,
    /// Bytes a second that a request's body must come with: it may be waited for altogether as long as for one read, and a
    /// second more for every so many bytes of it; longer is a 408. 0: no bound, as streams that say little need it.
    pub body_rate_min: ByteSize,
    /// Between two writes of a response: a client that takes nothing for so long is left. By HTTP/2 a stream that takes
    /// nothing is reset, too.
    pub send_timeout: Span,
    /// How long a client's connection may stay open between requests.
    pub idle_timeout: Span,
    /// Requests on one client connection; the last gets `Connection: close`. 0: no bound.
    pub requests_per_connection_max: u64,
}

/// How the proxy goes away.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DrainSettings {
    /// How long it goes on as before, with its readiness gone, so that load balancers notice.
    pub delay: Span,
    /// How long requests that are under way may take after that.
    pub timeout: Span,
}

impl Default for ProxySettings {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([0, 0, 0, 0], 9080))],
            tls: TlsSettings::default(),
            h2c: false,
            http2: Http2Settings::default(),
            router: Router::default(),
            workers: 0,
            server_header: format!("APISIX/3.18.0 Holdfast/{}", daemon::build::VERSION),
            upstream: UpstreamSettings::default(),
            dns_ttl: Span(Duration::from_secs(5)),
            dns: DnsSettings::default(),
            limits: LimitSettings::default(),
            proxy_protocol: ProxyProtocolSettings::default(),
            stream: StreamSettings::default(),
            real_ip: RealIpSettings::default(),
            access_log: AccessLogSettings::default(),
            drain: DrainSettings::default(),
        }
    }
}

impl Default for TlsSettings {
    fn default() -> Self {
        Self {
            listen: vec![SocketAddr::from(([0, 0, 0, 0], 9443))],
            fallback_sni: String::new(),
            handshake_timeout: Span(Duration::from_secs(10)),
            handshakes_max: 4096,
        }
    }
}

impl Default for Http2Settings {
    fn default() -> Self {
        Self {
            enabled: true,
            streams_max: 100,
            resets_pending_max: 20,
            errors_max: 100,
            stream_window: ByteSize(64 << 10),
            connection_window: ByteSize(1 << 20),
        }
    }
}

impl Default for LimitSettings {
    fn default() -> Self {
        Self {
            header_bytes_max: ByteSize(64 << 10),
            headers_max: 100,
            // nginx's, and so APISIX's: one of its `large_client_header_buffers`.
            target_bytes_max: ByteSize(8 << 10),
            body_bytes_max: ByteSize(0),
            matched_body_bytes_max: ByteSize(1 << 20),
            buffered_bytes_max: ByteSize(256 << 20),
            connections_max: 65_536,
            header_read_timeout: Span(Duration::from_secs(60)),
            body_read_timeout: Span(Duration::from_secs(60)),
            body_rate_min: ByteSize(0),
            send_timeout: Span(Duration::from_secs(60)),
            idle_timeout: Span(Duration::from_secs(75)),
            requests_per_connection_max: 0,
        }
    }
}

impl Default for DrainSettings {
    fn default() -> Self {
        Self { delay: Span(Duration::from_secs(5)), timeout: Span(Duration::from_secs(30)) }
    }
}

/// The parser's buffer is at least so large, whatever the bound on heads.
const HEADER_BYTES_MIN: u64 = 8 << 10;
/// A bound on what a mistyped figure can make every worker set aside.
const HEADERS_MOST: usize = 10_000;
/// The longest target that the type takes which holds one.
const TARGET_BYTES_MOST: u64 = 65_534;
/// RFC 9113 §6.9.2: what a client may send before it hears of any setting, rounded up.
const WINDOW_MIN: u64 = 64 << 10;
const WINDOW_MAX: u64 = 1 << 30;
/// Each is waited for before the next is asked.
const DNS_SERVERS_MOST: usize = 8;
/// More threads than any machine has cores.
const WORKERS_MOST: usize = 1024;

impl ProxySettings {
    pub(super) fn check(&self, bad: &mut Vec<(&'static str, String)>) {
        let mut taken = Vec::new();
        for (key, listen) in [
            ("proxy.listen", &self.listen),
            ("proxy.tls.listen", &self.tls.listen),
            ("proxy.proxy_protocol.listen", &self.proxy_protocol.listen),
            ("proxy.proxy_protocol.tls_listen", &self.proxy_protocol.tls_listen),
            ("proxy.stream.listen", &self.stream.listen),
            ("proxy.stream.tls_listen", &self.stream.tls_listen),
        ] {
            for address in listen {
                if address.port() != 0 && taken.contains(address) {
                    bad.push((key, format!("{address} stands twice")));
                }
                taken.push(*address);
            }
        }
        if self.listen.is_empty() && self.proxy_protocol.listen.is_empty() {
            bad.push(("proxy.listen", "must name at least one address".to_owned()));
        }
        if self.tls.handshakes_max == 0 {
            bad.push(("proxy.tls.handshakes_max", "must be at least 1".to_owned()));
        }
        if self.http2.streams_max == 0 {
            bad.push(("proxy.http2.streams_max", "must be at least 1".to_owned()));
        }
        for (key, window) in [
            ("proxy.http2.stream_window", self.http2.stream_window),
            ("proxy.http2.connection_window", self.http2.connection_window),
        ] {
            if !(WINDOW_MIN..=WINDOW_MAX).contains(&window.0) {
                bad.push((key, "must be 64KiB to 1GiB".to_owned()));
            }
        }
        if self.limits.matched_body_bytes_max.0 == 0 {
            bad.push(("proxy.limits.matched_body_bytes_max", "must be at least 1".to_owned()));
        }
        if self.workers > WORKERS_MOST {
            bad.push(("proxy.workers", format!("must be at most {WORKERS_MOST}")));
        }
        if http::HeaderValue::from_str(&self.server_header).is_err() {
            bad.push(("proxy.server_header", "must be printable ASCII".to_owned()));
        }
        self.access_log.check(bad);
        match self.dns.addresses() {
            Err(text) => bad.push(("proxy.dns.servers", format!("{text:?} is no address"))),
            Ok(servers) if servers.len() > DNS_SERVERS_MOST => {
                bad.push(("proxy.dns.servers", format!("must be at most {DNS_SERVERS_MOST}")));
            }
            Ok(_) => {}
        }
        if let Err(text) = self.real_ip.networks() {
            bad.push(("proxy.real_ip.from", format!("{text:?} is no address and no network")));
        }
        if self.real_ip.header.parse::<http::HeaderName>().is_err() {
            bad.push(("proxy.real_ip.header", format!("{:?} is no name of a header", self.real_ip.header)));
        }
        let limits = &self.limits;
        if !(HEADER_BYTES_MIN..=1 << 20).contains(&limits.header_bytes_max.0) {
            bad.push(("proxy.limits.header_bytes_max", "must be 8KiB to 1MiB".to_owned()));
        }
        if !(1..=HEADERS_MOST).contains(&limits.headers_max) {
            bad.push(("proxy.limits.headers_max", format!("must be 1 to {HEADERS_MOST}")));
        }
        if !(1..=TARGET_BYTES_MOST).contains(&limits.target_bytes_max.0) {
            bad.push(("proxy.limits.target_bytes_max", format!("must be 1 to {TARGET_BYTES_MOST} bytes")));
        }
        if limits.connections_max == 0 {
            bad.push(("proxy.limits.connections_max", "must be at least 1".to_owned()));
        }
        for (key, span) in [
            ("proxy.dns_ttl", self.dns_ttl),
            ("proxy.tls.handshake_timeout", self.tls.handshake_timeout),
            ("proxy.limits.header_read_timeout", limits.header_read_timeout),
            ("proxy.limits.body_read_timeout", limits.body_read_timeout),
            ("proxy.limits.send_timeout", limits.send_timeout),
            ("proxy.limits.idle_timeout", limits.idle_timeout),
            ("proxy.stream.idle_timeout", self.stream.idle_timeout),
        ] {
            if span.0.is_zero() {
                bad.push((key, "must be longer than nothing".to_owned()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_is_told_with_its_key() {
        let bad = |tune: &dyn Fn(&mut ProxySettings)| {
            let (mut settings, mut bad) = (ProxySettings::default(), Vec::new());
            tune(&mut settings);
            settings.check(&mut bad);
            bad.into_iter().map(|(key, why)| format!("{key}: {why}")).collect::<Vec<_>>()
        };
        assert!(bad(&|_| {}).is_empty());
        for (tune, expected) in [
            (
                &(|it: &mut ProxySettings| it.limits.matched_body_bytes_max = ByteSize(0))
                    as &dyn Fn(&mut ProxySettings),
                "proxy.limits.matched_body_bytes_max: must be at least 1",
            ),
            (&|it| it.dns.servers = vec!["dns.example".into()], "proxy.dns.servers: \"dns.example\" is no address"),
            (&|it| it.dns.servers = vec!["10.0.0.1".into(); 9], "proxy.dns.servers: must be at most 8"),
        ] {
            assert_eq!(bad(tune), [expected]);
        }
        assert!(bad(&|it| it.dns.servers = vec!["10.0.0.1".into(); 8]).is_empty());
    }
}
