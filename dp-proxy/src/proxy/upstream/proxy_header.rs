//! The PROXY protocol towards nodes (haproxy's `proxy-protocol.txt`, revision 2020/03): what a node is told, before
//! anything else, of the connection that is carried to it. Its other half is `downstream::proxy_protocol`.

use std::net::{IpAddr, SocketAddr};

use crate::proxy::downstream::proxy_protocol::{Ends, SIGNATURE};
use crate::settings::ProxyHeader;

/// The header; nothing where none is sent. Addresses of which one is IPv6 are both told as such.
pub(crate) fn header(version: ProxyHeader, ends: Ends) -> Vec<u8> {
    let Ends { client, local } = ends;
    match version {
        ProxyHeader::Off => Vec::new(),
        ProxyHeader::V1 => match (client.ip(), local.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => line("TCP4", from, to, client, local),
            (from, to) => line("TCP6", v6(from), v6(to), client, local),
        },
        ProxyHeader::V2 => {
            // Version 2, the command PROXY.
            let mut bytes = [&SIGNATURE[..], &[0x21]].concat();
            let (family, addresses) = match (client.ip(), local.ip()) {
                (IpAddr::V4(from), IpAddr::V4(to)) => (0x11, [from.octets(), to.octets()].concat()),
                (from, to) => (0x21, [v6(from).octets(), v6(to).octets()].concat()),
            };
            let ports = [client.port().to_be_bytes(), local.port().to_be_bytes()].concat();
            let length = u16::try_from(addresses.len() + ports.len()).expect("36 bytes at most");
            bytes.push(family);
            bytes.extend(length.to_be_bytes());
            bytes.extend(addresses);
            bytes.extend(ports);
            bytes
        }
    }
}

fn line<A: std::fmt::Display>(family: &str, from: A, to: A, client: SocketAddr, local: SocketAddr) -> Vec<u8> {
    format!("PROXY {family} {from} {to} {} {}\r\n", client.port(), local.port()).into_bytes()
}

fn v6(address: IpAddr) -> std::net::Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::downstream::proxy_protocol::{version1, version2};

    #[test]
    fn what_is_told_is_understood() {
        for (client, local, understood) in [
            ("1.2.3.4:1000", "5.6.7.8:80", "1.2.3.4:1000 5.6.7.8:80"),
            ("[2001:db8::1]:65535", "[::1]:1", "[2001:db8::1]:65535 [::1]:1"),
            ("1.2.3.4:1000", "[::1]:80", "[::ffff:1.2.3.4]:1000 [::1]:80"),
        ] {
            let ends = Ends { client: client.parse().unwrap(), local: local.parse().unwrap() };
            let show = |ends: Option<Ends>| ends.map(|ends| format!("{} {}", ends.client, ends.local)).unwrap();
            assert_eq!(show(version1(&header(ProxyHeader::V1, ends)).unwrap()), understood);
            let bytes = header(ProxyHeader::V2, ends);
            let (start, rest) = bytes.split_at(16);
            assert_eq!(usize::from(u16::from_be_bytes([start[14], start[15]])), rest.len());
            assert_eq!(show(version2(start[12], start[13], rest).unwrap()), understood);
            assert!(header(ProxyHeader::Off, ends).is_empty());
        }
    }
}
