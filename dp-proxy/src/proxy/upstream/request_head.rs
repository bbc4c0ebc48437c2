//! The head of a request as an upstream gets it: written anew from what was parsed, never the client's bytes.

use std::io::Write;
use std::net::IpAddr;

use http::header::{self, HeaderMap, HeaderValue};
use http::uri::Scheme;
use http::{HeaderName, Method, Request, Uri, Version};

use crate::proxy::head::{line, number_line};
use crate::proxy::headers::{ConnectionHeader, is_hop_by_hop, takes_trailers};

/// Everything that the head is made of.
#[derive(Debug)]
pub(crate) struct RequestHead<'a> {
    pub(crate) method: &'a Method,
    /// In canonical form.
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
    pub(crate) headers: &'a HeaderMap,
    /// What the upstream is to see as `Host`.
    pub(crate) host: &'a str,
    pub(crate) body: BodyFraming,
    /// The protocol to which the upstream is asked to switch.
    pub(crate) upgrade: Option<&'a HeaderValue>,
    pub(crate) forwarded: Forwarded<'a>,
}

/// How the body is framed towards the upstream.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum BodyFraming {
    /// There is none, and none is announced.
    None,
    /// So many bytes.
    Length(u64),
    /// In chunks.
    Chunked,
}

/// What upstreams are told about the client. What a client says about itself is overwritten, and to `X-Forwarded-For` the
/// client's address is appended. Somebody in front of this proxy who is trusted, and a plugin, may say by which scheme, host
/// and port the client asked (`tells`): both know what this proxy cannot, and neither is the client.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forwarded<'a> {
    pub(crate) client: IpAddr,
    /// Whether the request came by TLS.
    pub(crate) secure: bool,
    /// The host that was asked for, without a port.
    pub(crate) host: &'a str,
    /// The port that the request came to.
    pub(crate) port: u16,
    /// Whether these three are told as they stand in the headers, where they do.
    pub(crate) tells: bool,
}

/// The scheme, the host and the port by which the client asked.
pub(crate) const ASKED_BY: [HeaderName; 3] = [
    HeaderName::from_static("x-forwarded-proto"),
    HeaderName::from_static("x-forwarded-host"),
    HeaderName::from_static("x-forwarded-port"),
];

impl Forwarded<'_> {
    /// Which of [`ASKED_BY`] are told as they stand in the headers.
    fn told(&self, headers: &HeaderMap) -> [bool; 3] {
        match self.tells {
            true => ASKED_BY.each_ref().map(|name| headers.contains_key(name)),
            false => [false; 3],
        }
    }
}

impl RequestHead<'_> {
    /// Appends the head to `out`.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(self.method.as_str().as_bytes());
        out.push(b' ');
        out.extend_from_slice(self.path.as_bytes());
        if let Some(query) = self.query {
            out.push(b'?');
            out.extend_from_slice(query.as_bytes());
        }
        out.extend_from_slice(b" HTTP/1.1\r\n");
        line(out, b"host", self.host.as_bytes());
        let connection = ConnectionHeader::of(self.headers);
        let mut has_addresses = false;
        for (name, value) in self.headers {
            if is_written_anew(name) {
                has_addresses |= name.as_str() == FORWARDED_FOR;
                continue;
            }
            if is_hop_by_hop(name.as_ref()) || connection.named.contains(name) {
                continue;
            }
            line(out, name.as_str().as_bytes(), value.as_bytes());
        }
        match self.body {
            BodyFraming::None => {}
            BodyFraming::Length(length) => number_line(out, b"content-length", length),
            BodyFraming::Chunked => line(out, b"transfer-encoding", b"chunked"),
        }
        if let Some(protocol) = self.upgrade {
            line(out, b"connection", b"upgrade");
            line(out, b"upgrade", protocol.as_bytes());
        }
        self.write_forwarded(out, has_addresses);
        out.extend_from_slice(b"\r\n");
    }

    /// The same for HTTP/2 (RFC 9113 §8.3).
    ///
    /// # Errors
    /// The host or the path is nothing that HTTP/2 can carry.
    pub(crate) fn to_http2(&self, secure: bool) -> Result<Request<()>, http::Error> {
        let target = match self.query {
            Some(query) => format!("{}?{query}", self.path),
            None => self.path.to_owned(),
        };
        let scheme = if secure { Scheme::HTTPS } else { Scheme::HTTP };
        let uri = Uri::builder().scheme(scheme).authority(self.host).path_and_query(target).build()?;
        let mut request = Request::new(());
        *request.version_mut() = Version::HTTP_2;
        *request.method_mut() = self.method.clone();
        *request.uri_mut() = uri;
        let headers = request.headers_mut();
        headers.reserve(self.headers.len() + FORWARDED_HEADERS);
        let connection = ConnectionHeader::of(self.headers);
        for (name, value) in self.headers {
            if !(is_hop_by_hop(name.as_ref()) || is_written_anew(name) || connection.named.contains(name)) {
                headers.append(name, value.clone());
            }
        }
        if takes_trailers(self.headers) {
            headers.insert(header::TE, HeaderValue::from_static("trailers"));
        }
        if let BodyFraming::Length(length) = self.body {
            headers.insert(header::CONTENT_LENGTH, length.into());
        }
        let Forwarded { client, secure, host, port, .. } = self.forwarded;
        let mut addresses = Vec::new();
        for value in self.headers.get_all(FORWARDED_FOR).iter().filter(|value| !value.is_empty()) {
            addresses.extend_from_slice(value.as_bytes());
            addresses.extend_from_slice(b", ");
        }
        let mut address = [0; ADDRESS_BYTES_MAX];
        let address = print(client, &mut address);
        addresses.extend_from_slice(address);
        headers.insert("x-forwarded-for", HeaderValue::from_bytes(&addresses)?);
        headers.insert("x-real-ip", HeaderValue::from_bytes(address)?);
        let proto = HeaderValue::from_static(if secure { "https" } else { "http" });
        let own = [proto, HeaderValue::from_str(host)?, port.into()];
        for ((name, own), told) in ASKED_BY.iter().zip(own).zip(self.forwarded.told(self.headers)) {
            let value = if told { self.headers.get(name).cloned() } else { None };
            headers.insert(name, value.unwrap_or(own));
        }
        Ok(request)
    }

    /// `has_addresses`: whether the client's headers say for whom it forwards. To look for what is mostly not there costs
    /// more than to have seen it.
    fn write_forwarded(&self, out: &mut Vec<u8>, has_addresses: bool) {
        let Forwarded { client, secure, host, port, .. } = self.forwarded;
        let mut address = [0; ADDRESS_BYTES_MAX];
        let address = print(client, &mut address);
        out.extend_from_slice(b"x-forwarded-for: ");
        if has_addresses {
            for value in self.headers.get_all(FORWARDED_FOR).iter().filter(|value| !value.is_empty()) {
                out.extend_from_slice(value.as_bytes());
                out.extend_from_slice(b", ");
            }
        }
        out.extend_from_slice(address);
        out.extend_from_slice(b"\r\n");
        line(out, b"x-real-ip", address);
        let [proto_told, host_told, port_told] = self.forwarded.told(self.headers);
        for (name, _) in ASKED_BY.iter().zip([proto_told, host_told, port_told]).filter(|(_, told)| *told) {
            if let Some(value) = self.headers.get(name) {
                line(out, name.as_str().as_bytes(), value.as_bytes());
            }
        }
        if !proto_told {
            line(out, b"x-forwarded-proto", if secure { b"https" } else { b"http" });
        }
        if !host_told {
            line(out, b"x-forwarded-host", host.as_bytes());
        }
        if !port_told {
            number_line(out, b"x-forwarded-port", u64::from(port));
        }
    }
}

const FORWARDED_FOR: &str = "x-forwarded-for";

/// Headers about the client.
const FORWARDED_HEADERS: usize = 5;

/// Whether a header's value is ours to say.
fn is_written_anew(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "host"
            | "content-length"
            | "expect"
            | FORWARDED_FOR
            | "x-forwarded-proto"
            | "x-forwarded-host"
            | "x-forwarded-port"
            | "x-real-ip"
    )
}

/// The longest text of an address.
const ADDRESS_BYTES_MAX: usize = 45;

fn print(address: IpAddr, buffer: &mut [u8; ADDRESS_BYTES_MAX]) -> &[u8] {
    let mut length = 0;
    match address {
        // By hand, since the formatter takes many times as long, with every request.
        IpAddr::V4(address) => {
            let mut push = |byte| {
                buffer[length] = byte;
                length += 1;
            };
            for (place, octet) in address.octets().into_iter().enumerate() {
                if place > 0 {
                    push(b'.');
                }
                if octet >= 100 {
                    push(b'0' + octet / 100);
                }
                if octet >= 10 {
                    push(b'0' + octet / 10 % 10);
                }
                push(b'0' + octet % 10);
            }
        }
        IpAddr::V6(address) => {
            let mut rest = &mut buffer[..];
            write!(rest, "{address}").expect("an address has at most 45 bytes");
            length = ADDRESS_BYTES_MAX - rest.len();
        }
    }
    &buffer[..length]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_printed_as_the_standard_library_does() {
        for text in ["0.0.0.0", "127.0.0.1", "10.9.200.255", "255.255.255.255", "::1", "2001:db8::ff"] {
            let address: IpAddr = text.parse().unwrap();
            assert_eq!(print(address, &mut [0; ADDRESS_BYTES_MAX]), text.as_bytes());
        }
    }

    #[test]
    fn the_same_head_for_http_2() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("host", "client.example"),
            ("connection", "te, x-hop"),
            ("x-hop", "1"),
            ("te", "gzip, Trailers"),
            ("upgrade", "websocket"),
            ("content-type", "application/grpc"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x-real-ip", "forged"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let head = RequestHead {
            method: &Method::POST,
            path: "/a.B/C",
            query: Some("x=1"),
            headers: &headers,
            host: "node:50051",
            body: BodyFraming::Chunked,
            upgrade: None,
            forwarded: Forwarded {
                client: "::1".parse().unwrap(),
                secure: true,
                host: "client.example",
                port: 9443,
                tells: false,
            },
        };
        let request = head.to_http2(false).unwrap();
        assert_eq!(request.uri(), "http://node:50051/a.B/C?x=1");
        let mut sent: Vec<_> = request.headers().iter().map(|(n, v)| format!("{n}: {}", v.to_str().unwrap())).collect();
        sent.sort();
        let expected = [
            "content-type: application/grpc",
            "te: trailers",
            "x-forwarded-for: 1.1.1.1, ::1",
            "x-forwarded-host: client.example",
            "x-forwarded-port: 9443",
            "x-forwarded-proto: https",
            "x-real-ip: ::1",
        ];
        assert_eq!(sent, expected);
        assert!(RequestHead { host: "a b", ..head }.to_http2(true).is_err());
        headers.insert("te", HeaderValue::from_static("trailersx"));
        assert!(!takes_trailers(&headers));
    }

    #[test]
    fn the_head_is_written_anew() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("host", "client.example:81"),
            ("accept", "*/*"),
            ("connection", "keep-alive, x-hop"),
            ("x-hop", "1"),
            ("keep-alive", "timeout=5"),
            ("te", "trailers"),
            ("upgrade", "websocket"),
            ("transfer-encoding", "chunked"),
            ("content-length", "9"),
            ("expect", "100-continue"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x-forwarded-for", "2.2.2.2"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "forged"),
            ("x-real-ip", "forged"),
            ("cookie", "a=b"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let head = RequestHead {
            method: &Method::POST,
            path: "/a",
            query: Some("b=c"),
            headers: &headers,
            host: "node:8080",
            body: BodyFraming::Length(1_234_567_890_123),
            upgrade: None,
            forwarded: Forwarded {
                client: "::1".parse().unwrap(),
                secure: false,
                host: "client.example",
                port: 9080,
                tells: false,
            },
        };
        let mut out = Vec::new();
        head.write(&mut out);
        let expected = "POST /a?b=c HTTP/1.1\r\nhost: node:8080\r\naccept: */*\r\ncookie: a=b\r\n\
            content-length: 1234567890123\r\nx-forwarded-for: 1.1.1.1, 2.2.2.2, ::1\r\nx-real-ip: ::1\r\n\
            x-forwarded-proto: http\r\nx-forwarded-host: client.example\r\nx-forwarded-port: 9080\r\n\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
        let mut out = Vec::new();
        let head = RequestHead { query: None, body: BodyFraming::None, headers: &HeaderMap::new(), ..head };
        RequestHead { forwarded: Forwarded { port: 0, ..head.forwarded }, ..head }.write(&mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(text.starts_with("POST /a HTTP/1.1\r\nhost: node:8080\r\nx-forwarded-for: ::1\r\n"), "{text}");
        assert!(text.ends_with("x-forwarded-port: 0\r\n\r\n"), "{text}");
        let mut told = HeaderMap::new();
        told.insert("x-forwarded-proto", HeaderValue::from_static("https"));
        told.insert("x-forwarded-port", HeaderValue::from_static("443"));
        let mut out = Vec::new();
        let head = RequestHead { headers: &told, forwarded: Forwarded { tells: true, ..head.forwarded }, ..head };
        head.write(&mut out);
        let text = String::from_utf8(out).unwrap();
        let expected = "x-forwarded-proto: https\r\nx-forwarded-port: 443\r\nx-forwarded-host: client.example\r\n\r\n";
        assert!(text.ends_with(expected), "who is trusted may say it: {text}");
        let http2 = head.to_http2(false).unwrap();
        let of = |name: &str| http2.headers()[name].to_str().unwrap();
        assert_eq!((of("x-forwarded-proto"), of("x-forwarded-host")), ("https", "client.example"));
        let mut out = Vec::new();
        let websocket = HeaderValue::from_static("websocket");
        RequestHead { upgrade: Some(&websocket), ..head }.write(&mut out);
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("\r\nconnection: upgrade\r\nupgrade: websocket\r\n"), "{text}");
    }
}
