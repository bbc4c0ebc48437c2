//! Who a request is from, when it comes through somebody in front of this proxy who is trusted to say so.

use std::net::{IpAddr, SocketAddr};

use http::header::{HeaderMap, HeaderName};
use ipnet::IpNet;
use plugins::last_forwarded;

use crate::settings::RealIpSettings;

/// Whom to believe, and where they say it.
#[derive(Debug)]
pub(crate) struct RealIp {
    from: Box<[IpNet]>,
    header: HeaderName,
    recursive: bool,
}

impl RealIp {
    /// `None` where nobody is trusted.
    pub(crate) fn new(settings: &RealIpSettings) -> Option<Self> {
        let from = settings.networks().expect("networks, by the settings' check");
        if from.is_empty() {
            return None;
        }
        let header = settings.header.parse().expect("a header's name, by the settings' check");
        Some(Self { from: from.into(), header, recursive: settings.recursive })
    }

    /// The client of a request that came over a connection from `peer`, as nginx finds it: the last address in the header
    /// of somebody who is trusted; with `recursive` the last that is not trusted itself. What is no address ends the
    /// search. The port is 0 where the header names none.
    pub(crate) fn of(&self, peer: SocketAddr, headers: &HeaderMap) -> SocketAddr {
        if !self.trusts(peer.ip()) {
            return peer;
        }
        last_forwarded(headers, &self.header, |address| self.recursive && self.trusts(address)).unwrap_or(peer)
    }

    /// Whether somebody at that address is believed.
    pub(crate) fn trusts(&self, address: IpAddr) -> bool {
        self.from.iter().any(|net| net.contains(&address))
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn only_who_is_trusted_is_believed() {
        for (recursive, peer, lines, expected) in [
            (false, "9.9.9.9:1", &["1.1.1.1"][..], "9.9.9.9:1"),
            (false, "10.0.0.1:1", &["1.1.1.1, 2.2.2.2"], "2.2.2.2:0"),
            (false, "10.0.0.1:1", &["1.1.1.1", "2.2.2.2:77"], "2.2.2.2:77"),
            (false, "10.0.0.1:1", &["2.2.2.2, 10.0.0.2"], "10.0.0.2:0"),
            (true, "10.0.0.1:1", &["1.1.1.1, 2.2.2.2, 10.0.0.2"], "2.2.2.2:0"),
            (true, "10.0.0.1:1", &["1.1.1.1, 2.2.2.2", "10.0.0.2"], "2.2.2.2:0"),
            (true, "10.0.0.1:1", &["10.0.0.3, 10.0.0.2"], "10.0.0.3:0"),
            (true, "10.0.0.1:1", &["2.2.2.2, unknown, 10.0.0.2"], "10.0.0.2:0"),
            (true, "10.0.0.1:1", &["2.2.2.2,, 10.0.0.2,"], "2.2.2.2:0"),
            (false, "10.0.0.1:1", &["forged"], "10.0.0.1:1"),
            (false, "10.0.0.1:1", &[], "10.0.0.1:1"),
            (false, "[fd00::1]:1", &["[2001:db8::1]:99"], "[2001:db8::1]:99"),
            (false, "[fd00::1]:1", &["[2001:db8::1]"], "[2001:db8::1]:0"),
            (false, "[fd00::1]:1", &["2001:db8::1"], "[2001:db8::1]:0"),
            (false, "10.0.0.1:1", &["::ffff:1.2.3.4"], "1.2.3.4:0"),
        ] {
            let from = vec!["10.0.0.0/8".to_owned(), "fd00::/8".to_owned()];
            let settings = RealIpSettings { from, header: "X-Forwarded-For".into(), recursive };
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append("x-forwarded-for", HeaderValue::from_static(line));
            }
            let real_ip = RealIp::new(&settings).unwrap();
            assert_eq!(
                real_ip.of(peer.parse().unwrap(), &headers).to_string(),
                expected,
                "{recursive} {peer} {lines:?}"
            );
        }
    }

    #[test]
    fn fuzz_a_header_names_a_client_or_nobody() {
        let from = vec!["10.0.0.0/8".to_owned(), "::1".to_owned()];
        let settings = RealIpSettings { from, recursive: true, ..RealIpSettings::default() };
        let real_ip = RealIp::new(&settings).unwrap();
        let (trusted, stranger) = ("10.0.0.1:1".parse().unwrap(), "9.9.9.9:1".parse().unwrap());
        let seeds: [&[u8]; 3] =
            [b"1.1.1.1, 10.2.2.2,10.3.3.3:80", b"[2001:db8::1]:443, ::1, [::1]", b"::ffff:1.2.3.4,, ,x"];
        fuzz::hammer(1, &seeds, |bytes| {
            let Ok(value) = HeaderValue::from_bytes(bytes) else { return };
            let headers = HeaderMap::from_iter([(real_ip.header.clone(), value)]);
            assert_eq!(real_ip.of(stranger, &headers), stranger);
            // Whoever is found stands in the header, which names no port or this one.
            let found = real_ip.of(trusted, &headers);
            let port = found.port().to_string();
            assert!(found == trusted || found.port() == 0 || bytes.windows(port.len()).any(|w| w == port.as_bytes()));
        });
    }
}
