//! Which headers concern one connection only and are therefore not passed on (RFC 9110 §7.6.1), in either direction.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

/// Whether a header, its name in lower case, is always about the connection that it came on.
pub(crate) fn is_hop_by_hop(name: &[u8]) -> bool {
    // Texts of different lengths are told apart by these: that costs less than to compare names with names.
    matches!(
        name,
        b"connection" | b"transfer-encoding" | b"upgrade" | b"te" | b"trailer" | b"keep-alive" | b"proxy-connection"
    )
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
    pub(crate) fn take(&mut self, value: &[u8]) {
        for token in value.split(|b| *b == b',').map(<[u8]>::trim_ascii) {
            if token.eq_ignore_ascii_case(b"close") {
                self.close = true;
            } else if token.eq_ignore_ascii_case(b"keep-alive") {
                self.keep_alive = true;
            } else if let Ok(name) = HeaderName::from_bytes(token)
                && !is_hop_by_hop(name.as_ref())
                && !is_essential(&name)
            {
                self.named.push(name);
            }
        }
    }

    /// Whether it names an upgrade (RFC 9110 §7.8).
    fn names_upgrade(headers: &HeaderMap) -> bool {
        let values = headers.get_all(header::CONNECTION).iter();
        let mut tokens = values.flat_map(|value| value.as_bytes().split(|b| *b == b','));
        tokens.any(|token| token.trim_ascii().eq_ignore_ascii_case(b"upgrade"))
    }

    pub(crate) fn of(headers: &HeaderMap) -> Self {
        let mut connection = Self::default();
        headers.get_all(header::CONNECTION).iter().for_each(|value| connection.take(value.as_bytes()));
        connection
    }
}

/// Takes out what a client's `Connection` names, and leaves of it only whether a switch of protocols is asked for: what is
/// added from here on is not the client's to take away.
pub(crate) fn settle_connection(headers: &mut HeaderMap) {
    if !headers.contains_key(header::CONNECTION) {
        return;
    }
    for name in ConnectionHeader::of(headers).named {
        headers.remove(name);
    }
    match ConnectionHeader::names_upgrade(headers) {
        true => drop(headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"))),
        false => drop(headers.remove(header::CONNECTION)),
    }
}

/// The protocol to which a client of HTTP/1.1 asks to switch; `None` where it asks for none, or for one that is not passed
/// on: a list is left to be answered as if nothing was asked, and HTTP/2 or TLS on an open connection would carry
/// requests past everything that looks at requests here.
pub(crate) fn asked_upgrade(headers: &HeaderMap) -> Option<&HeaderValue> {
    let mut values = headers.get_all(header::UPGRADE).iter();
    let (protocol, None) = (values.next()?, values.next()) else { return None };
    let name = protocol.as_bytes();
    let is_token = |b: &u8| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~/".contains(b);
    let begins = |prefix: &[u8]| name.get(..prefix.len()).is_some_and(|start| start.eq_ignore_ascii_case(prefix));
    let good = !name.is_empty() && name.iter().all(is_token);
    let ours = begins(b"h2") || begins(b"http/") || begins(b"tls/");
    (good && !ours && ConnectionHeader::names_upgrade(headers)).then_some(protocol)
}

/// Headers without which a message would mean something else: naming one in `Connection` is an old way to make a proxy
/// drop it, and is not obeyed.
fn is_essential(name: &HeaderName) -> bool {
    [header::HOST, header::CONTENT_LENGTH, header::AUTHORIZATION, header::COOKIE].contains(name)
        || name.as_str().starts_with("x-forwarded-")
        || name == "x-real-ip"
}

/// Whether a client has said that it takes trailers; gRPC demands it (RFC 9110 §10.1.4).
pub(crate) fn takes_trailers(headers: &HeaderMap) -> bool {
    headers.get_all(header::TE).iter().any(names_trailers)
}

/// Whether a value of `TE` says so.
pub(crate) fn names_trailers(value: &HeaderValue) -> bool {
    let mut codings = value.as_bytes().split(|b| *b == b',');
    codings.any(|coding| coding.trim_ascii().eq_ignore_ascii_case(b"trailers"))
}

/// Whether a field is passed on where it stands behind a body (RFC 9110 §6.5.1): none that frames a message, names whom it
/// is for or from, or says how its content is to be read; these are acted on before they come.
pub(crate) fn may_trail(name: &HeaderName) -> bool {
    let is_too_late = matches!(
        name.as_str(),
        "content-encoding"
            | "content-type"
            | "content-range"
            | "set-cookie"
            | "cache-control"
            | "expect"
            | "max-forwards"
    );
    !(is_too_late || is_hop_by_hop(name.as_ref()) || is_essential(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upgrades_that_are_passed_on() {
        for (upgrade, connection, expected) in [
            (&["websocket"][..], "keep-alive, Upgrade", true),
            (&["SPDY/3.1"], "upgrade", true),
            (&["websocket"], "keep-alive", false),
            (&["websocket, x"], "upgrade", false),
            (&["websocket", "x"], "upgrade", false),
            (&["h2c"], "upgrade", false),
            (&["H2"], "upgrade", false),
            (&["HTTP/2.0"], "upgrade", false),
            (&["TLS/1.0"], "upgrade", false),
            (&["web socket"], "upgrade", false),
            (&[""], "upgrade", false),
            (&[], "upgrade", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.append("connection", HeaderValue::from_static(connection));
            for value in upgrade {
                headers.append("upgrade", HeaderValue::from_static(value));
            }
            assert_eq!(asked_upgrade(&headers).is_some(), expected, "{upgrade:?} {connection}");
        }
    }

    #[test]
    fn what_is_added_later_is_not_the_clients_to_take_away() {
        for (connection, left) in
            [("close, x-consumer-username", None), ("Upgrade, x-a, x-consumer-username", Some("upgrade"))]
        {
            let mut headers = HeaderMap::new();
            headers.insert("connection", HeaderValue::from_static(connection));
            headers.insert("x-consumer-username", HeaderValue::from_static("forged"));
            headers.insert("x-b", HeaderValue::from_static("b"));
            settle_connection(&mut headers);
            let connection = headers.get("connection").map(|value| value.to_str().unwrap());
            assert_eq!((connection, headers.contains_key("x-consumer-username")), (left, false));
            assert!(headers.contains_key("x-b") && ConnectionHeader::of(&headers).named.is_empty());
        }
    }

    #[test]
    fn connection_names_headers_and_says_how_it_ends() {
        let mut headers = HeaderMap::new();
        headers.append("connection", HeaderValue::from_static("Keep-Alive, X-Hop ,,upgrade"));
        headers.append("connection", HeaderValue::from_static("close, host, x-forwarded-for, b@d"));
        let connection = ConnectionHeader::of(&headers);
        assert!(connection.close && connection.keep_alive);
        assert_eq!(connection.named[..], [HeaderName::from_static("x-hop")]);
        for name in ["keep-alive", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade", "connection"] {
            assert!(is_hop_by_hop(name.as_bytes()), "{name}");
        }
        assert!(!is_hop_by_hop(b"host"));
        for (name, expected) in
            [("grpc-status", true), ("etag", true), ("host", false), ("te", false), ("expect", false)]
        {
            assert_eq!(may_trail(&HeaderName::from_static(name)), expected, "{name}");
        }
    }
}
