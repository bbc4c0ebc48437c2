//! The head of a request as an upstream gets it: written anew from what was parsed, never the client's bytes.

use std::net::IpAddr;

use http::Method;
use http::header::{self, HeaderMap};

use crate::proxy::headers::{ConnectionHeader, is_hop_by_hop};

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

/// What upstreams are told about the client. Nothing that a client says about itself is believed: it is overwritten,
/// and to `X-Forwarded-For` the client's address is appended.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Forwarded<'a> {
    pub(crate) client: IpAddr,
    /// Whether the request came by TLS.
    pub(crate) secure: bool,
    /// The host that was asked for, without a port.
    pub(crate) host: &'a str,
    /// The port that the request came to.
    pub(crate) port: u16,
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
        for (name, value) in self.headers {
            if is_hop_by_hop(name) || is_written_anew(name) || connection.named.contains(name) {
                continue;
            }
            line(out, name.as_str().as_bytes(), value.as_bytes());
        }
        match self.body {
            BodyFraming::None => {}
            BodyFraming::Length(length) => number_line(out, b"content-length", length),
            BodyFraming::Chunked => line(out, b"transfer-encoding", b"chunked"),
        }
        self.write_forwarded(out);
        out.extend_from_slice(b"\r\n");
    }

    fn write_forwarded(&self, out: &mut Vec<u8>) {
        let Forwarded { client, secure, host, port } = self.forwarded;
        let mut address = [0; ADDRESS_BYTES_MAX];
        let address = print(client, &mut address);
        out.extend_from_slice(b"x-forwarded-for: ");
        for value in self.headers.get_all("x-forwarded-for") {
            if !value.is_empty() {
                out.extend_from_slice(value.as_bytes());
                out.extend_from_slice(b", ");
            }
        }
        out.extend_from_slice(address);
        out.extend_from_slice(b"\r\n");
        line(out, b"x-real-ip", address);
        line(out, b"x-forwarded-proto", if secure { b"https" } else { b"http" });
        line(out, b"x-forwarded-host", host.as_bytes());
        number_line(out, b"x-forwarded-port", u64::from(port));
    }
}

/// Whether a header's value is ours to say.
fn is_written_anew(name: &http::HeaderName) -> bool {
    [header::HOST, header::CONTENT_LENGTH, header::EXPECT].contains(name)
        || matches!(
            name.as_str(),
            "x-forwarded-for" | "x-forwarded-proto" | "x-forwarded-host" | "x-forwarded-port" | "x-real-ip"
        )
}

fn line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn number_line(out: &mut Vec<u8>, name: &[u8], value: u64) {
    // Twenty digits hold every 64-bit number.
    let mut digits = [0; 20];
    let mut at = digits.len();
    let mut rest = value;
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(rest % 10).expect("a digit");
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    line(out, name, &digits[at..]);
}

/// The longest text of an address.
const ADDRESS_BYTES_MAX: usize = 45;

fn print(address: IpAddr, buffer: &mut [u8; ADDRESS_BYTES_MAX]) -> &[u8] {
    use std::io::Write;
    let mut rest = &mut buffer[..];
    write!(rest, "{address}").expect("an address has at most 45 bytes");
    let left = rest.len();
    &buffer[..ADDRESS_BYTES_MAX - left]
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

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
            headers.append(http::HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let head = RequestHead {
            method: &Method::POST,
            path: "/a",
            query: Some("b=c"),
            headers: &headers,
            host: "node:8080",
            body: BodyFraming::Length(1_234_567_890_123),
            forwarded: Forwarded { client: "::1".parse().unwrap(), secure: false, host: "client.example", port: 9080 },
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
    }
}
