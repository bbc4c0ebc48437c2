//! Which headers concern one connection only and are therefore not passed on (RFC 9110 §7.6.1), in either direction.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

/// Whether a header is always about the connection that it came on.
pub(crate) fn is_hop_by_hop(name: &HeaderName) -> bool {
    // Standard names compare as numbers, so this is a few comparisons for every header of every message.
    [header::CONNECTION, header::TRANSFER_ENCODING, header::UPGRADE, header::TE, header::TRAILER].contains(name)
        || matches!(name.as_str(), "keep-alive" | "proxy-connection")
}

/// Names that a message's `Connection` headers declare to be about the connection, as far as they are not known anyway.
pub(crate) type Named = SmallVec<[HeaderName; 2]>;

/// What `Connection` says.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct ConnectionHeader {
    pub(crate) close: bool,
    pub(crate) keep_alive: bool,
    pub(crate) named: Named,
}

impl ConnectionHeader {
    /// Reads one value of it.
    pub(crate) fn take(&mut self, value: &HeaderValue) {
        for token in value.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii) {
            if token.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if token.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if let Ok(name) = HeaderName::from_bytes(token)
                && !is_hop_by_hop(&name)
                && !is_essential(&name)
            {
                self.named.push(name);
            }
        }
    }

    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut connection = Self::default();
        headers.get_all(header::CONNECTION).iter().for_each(|value| connection.take(value));
        connection
    }
}

/// Headers without which a message would mean something else: naming one in `Connection` is an old way to make a proxy
/// drop it, and is not obeyed.
fn is_essential(name: &HeaderName) -> bool {
    [header::HOST, header::CONTENT_LENGTH, header::AUTHORIZATION, header::COOKIE].contains(name)
        || name.as_str().starts_with("x-forwarded-")
        || name == "x-real-ip"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connection_names_headers_and_says_how_it_ends() {
        let mut headers = HeaderMap::new();
        headers.append("connection", HeaderValue::from_static("Keep-Alive, X-Hop ,,upgrade"));
        headers.append("connection", HeaderValue::from_static("close, host, x-forwarded-for, b@d"));
        let connection = ConnectionHeader::of(&headers);
        assert!(connection.close && connection.keep_alive);
        assert_eq!(connection.named[..], [HeaderName::from_static("x-hop")]);
        for name in ["keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "connection"] {
            assert!(is_hop_by_hop(&HeaderName::from_static(name)), "{name}");
        }
        assert!(!is_hop_by_hop(&header::HOST));
    }
}
