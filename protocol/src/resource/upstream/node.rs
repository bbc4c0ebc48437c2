//! The nodes of an upstream.

use super::super::common::host;
use super::super::scope::Scope;
use crate::report::Problem;

/// One node of an upstream.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Node {
    /// A name or an address; IPv6 without brackets.
    pub host: String,
    /// The port; `None`: the scheme's.
    pub port: Option<u16>,
    /// Its share; 0: no requests.
    pub weight: u32,
    /// Nodes of a lower priority are used when none of a higher one is left.
    pub priority: i64,
}

/// Reads `nodes`: an object `{"host:port": weight}`, or an array of objects.
pub(super) fn read_nodes(scope: Scope<'_, '_>) -> Option<Vec<Node>> {
    let read = |s: Scope<'_, '_>| {
        if s.value.is_object() {
            s.all(s.members()?, |(address, weight)| read_member(address, &weight))
        } else {
            // None of two alternatives holds for anything else; `items` says that an array is expected.
            s.all(s.items(0)?, read_item)
        }
    };
    match scope.try_as(read) {
        Ok(nodes) => Some(nodes),
        Err(problems) => {
            // APISIX says only that none of its alternatives matched; the place and the reason are ours.
            for problem in problems {
                scope.problem(Problem::known_as(
                    scope.path.clone(),
                    "object matches none of the required",
                    problem.path,
                    problem.message,
                ));
            }
            None
        }
    }
}

fn read_member(address: &str, weight: &Scope<'_, '_>) -> Option<Node> {
    let Some((host, port)) = split_address(address) else {
        weight.wrong(format!("{address:?} is no host, host:port or [IPv6]:port"));
        return None;
    };
    Some(Node { host, port, weight: read_weight(weight)?, priority: 0 })
}

fn read_item(scope: Scope<'_, '_>) -> Option<Node> {
    let fields = scope.object()?;
    fields.allow_unknown();
    let host = fields.required("host", |s| {
        let text = host(&s)?;
        Some(text.trim_start_matches('[').trim_end_matches(']').to_owned())
    });
    let weight = fields.required("weight", |s| read_weight(&s));
    let port = fields.optional("port", |s| u16::try_from(s.integer(1, 65_535)?).ok());
    let priority = fields.optional("priority", |s| s.integer(i64::MIN, i64::MAX)).unwrap_or(0);
    fields.optional("metadata", |s| s.object().map(|_| ()));
    fields.finish();
    Some(Node { host: host?, port, weight: weight?, priority })
}

fn read_weight(scope: &Scope<'_, '_>) -> Option<u32> {
    u32::try_from(scope.integer(0, i64::from(u32::MAX))?).ok()
}

/// The name and, where it has one, the port of a service that a discovery knows: `name` or `name:port`.
#[must_use]
pub fn split_service(service: &str) -> Option<(String, Option<u16>)> {
    split_address(service).filter(|(name, _)| name.parse::<std::net::IpAddr>().is_err())
}

/// Splits `host`, `host:port`, `[v6]`, `[v6]:port`.
fn split_address(address: &str) -> Option<(String, Option<u16>)> {
    let port = |text: &str| text.parse::<u16>().ok().filter(|port| *port > 0);
    let (host, port) = if let Some(rest) = address.strip_prefix('[') {
        let (host, tail) = rest.split_once(']')?;
        host.parse::<std::net::Ipv6Addr>().ok()?;
        match tail.strip_prefix(':') {
            Some(text) => (host, Some(port(text)?)),
            None if tail.is_empty() => (host, None),
            None => return None,
        }
    } else if let Some((host, text)) = address.rsplit_once(':') {
        if host.contains(':') {
            // An IPv6 address without brackets: it cannot carry a port.
            address.parse::<std::net::Ipv6Addr>().ok()?;
            (address, None)
        } else {
            (host, Some(port(text)?))
        }
    } else {
        (address, None)
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b':');
    (!host.is_empty() && host.bytes().all(plain)).then(|| (host.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (address, expected) in [
            ("127.0.0.1:80", Some(("127.0.0.1", Some(80)))),
            ("127.0.0.1", Some(("127.0.0.1", None))),
            ("a.example:8080", Some(("a.example", Some(8080)))),
            ("[::1]:80", Some(("::1", Some(80)))),
            ("[::1]", Some(("::1", None))),
            ("::1", Some(("::1", None))),
            ("a:70000", None),
            ("a:0", None),
            ("a:", None),
            (":80", None),
            ("", None),
            ("a b:1", None),
            ("[x]:1", None),
            ("[::1]x", None),
            ("1:2:x", None),
        ] {
            let expected = expected.map(|(host, port)| (host.to_owned(), port));
            assert_eq!(split_address(address), expected, "{address:?}");
        }
    }

    #[test]
    fn services_have_names() {
        assert_eq!(split_service("_http._tcp.a.example"), Some(("_http._tcp.a.example".to_owned(), None)));
        assert_eq!(split_service("a.example:8080"), Some(("a.example".to_owned(), Some(8080))));
        for other in ["10.0.0.1:80", "::1", "a b", "a:b", ""] {
            assert_eq!(split_service(other), None, "{other:?}");
        }
    }
}
