//! The host that a request asks for.

use std::borrow::Cow;

use http::header;
use http::request::Parts;
use http::{HeaderValue, Version};

use super::error::Refusal;
use crate::table::HOST_BYTES_MAX;

/// The host of a request, in two forms.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Host<'r> {
    /// As the client said it, with its port; empty when it said none.
    pub(crate) authority: &'r str,
    /// In lower case, without port and final dot: what routes are matched by.
    pub(crate) name: Cow<'r, str>,
}

impl<'r> Host<'r> {
    /// Reads it from the target where that names one (RFC 9112 §3.2.2), else from the header.
    ///
    /// # Errors
    /// A [`Refusal`] when there is none where there must be, more than one, or one that is no host.
    pub(crate) fn of(request: &'r Parts) -> Result<Self, Refusal> {
        let mut hosts = request.headers.get_all(header::HOST).iter();
        let header = hosts.next();
        if hosts.next().is_some() {
            return Err(Refusal::BadRequest("more than one Host"));
        }
        let is_named_by_target = request.version == Version::HTTP_2 && request.uri.authority().is_some();
        if header.is_none() && request.version >= Version::HTTP_11 && !is_named_by_target {
            return Err(Refusal::BadRequest("no Host"));
        }
        let text = |value: &'r HeaderValue| str::from_utf8(value.as_bytes()).ok();
        let authority = match (request.uri.authority(), header) {
            // RFC 9113 §8.3.1: with HTTP/2 they must say the same.
            (Some(authority), Some(header))
                if request.version == Version::HTTP_2
                    && !header.as_bytes().eq_ignore_ascii_case(authority.as_str().as_bytes()) =>
            {
                return Err(Refusal::BadRequest("Host is not what the target says"));
            }
            (Some(authority), _) => authority.as_str(),
            (None, Some(header)) => text(header).ok_or(BAD)?,
            (None, None) => "",
        };
        let name = name_of(authority).ok_or(BAD)?;
        Ok(Self { authority, name })
    }
}

/// The bytes that a name may have (RFC 3986 §3.2.2), and the brackets and colons of an IPv6 address.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        plain[byte] = (byte as u8).is_ascii_alphanumeric();
        byte += 1;
    }
    let others = b"-._~!$&'()*+,;=%[]:";
    let mut at = 0;
    while at < others.len() {
        plain[others[at] as usize] = true;
        at += 1;
    }
    plain
};

const BAD: Refusal = Refusal::BadRequest("malformed Host");

/// The name in an authority, as [`Host::name`] has it; `None` for what is no authority.
pub(crate) fn name_of(authority: &str) -> Option<Cow<'_, str>> {
    let (name, port) = if let Some(rest) = authority.strip_prefix('[') {
        // An IPv6 address keeps its brackets, as in patterns.
        let end = rest.find(']')? + 2;
        rest[..end - 2].parse::<std::net::Ipv6Addr>().ok()?;
        authority.split_at(end)
    } else {
        authority.split_at(authority.find(':').unwrap_or(authority.len()))
    };
    let port_is_good = match port.strip_prefix(':') {
        Some(digits) => digits.len() <= 5 && digits.bytes().all(|b| b.is_ascii_digit()),
        None => port.is_empty(),
    };
    if !port_is_good || name.len() > HOST_BYTES_MAX || !name.bytes().all(|b| PLAIN[usize::from(b)]) {
        return None;
    }
    let name = name.strip_suffix('.').unwrap_or(name);
    Some(match name.bytes().any(|b| b.is_ascii_uppercase()) {
        true => Cow::Owned(name.to_ascii_lowercase()),
        false => Cow::Borrowed(name),
    })
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn names() {
        for (authority, expected) in [
            ("a.com", Some("a.com")),
            ("A.Com:8080", Some("a.com")),
            ("a.com.", Some("a.com")),
            ("a.com:", Some("a.com")),
            ("[::1]:80", Some("[::1]")),
            ("[::1]", Some("[::1]")),
            ("", Some("")),
            ("a_b.c", Some("a_b.c")),
            ("[::1", None),
            ("[x]", None),
            ("[::1]x", None),
            ("::1", None),
            ("a.com:x", None),
            ("a.com:123456", None),
            ("a b", None),
            ("a/b", None),
            ("a@b", None),
            ("é", None),
        ] {
            assert_eq!(name_of(authority).as_deref(), expected, "{authority}");
        }
        assert!(name_of(&"a".repeat(256)).is_none());
    }

    #[test]
    fn the_target_wins_and_the_header_must_stand_once() {
        let parts = |uri: &str, version, hosts: &[&str]| {
            let mut request = Request::builder().uri(uri).version(version);
            for host in hosts {
                request = request.header("host", *host);
            }
            request.body(()).unwrap().into_parts().0
        };
        for (uri, version, hosts, expected) in [
            ("/", Version::HTTP_11, &["a.com"][..], Ok("a.com")),
            ("http://b.com:81/", Version::HTTP_11, &["a.com"], Ok("b.com")),
            ("/", Version::HTTP_10, &[], Ok("")),
            ("/", Version::HTTP_11, &[], Err("no Host")),
            ("/", Version::HTTP_11, &["a", "a"], Err("more than one Host")),
            ("/", Version::HTTP_11, &["a b"], Err("malformed Host")),
        ] {
            let parts = parts(uri, version, hosts);
            let host = Host::of(&parts).map(|host| host.name.into_owned()).map_err(|e| e.to_string());
            assert_eq!(host, expected.map(str::to_owned).map_err(str::to_owned), "{uri} {hosts:?}");
        }
    }

    #[test]
    fn fuzz_names_are_their_own_names() {
        let seeds: [&[u8]; 6] = [b"a.Example:8080", b"[2001:db8::1]:443", b"127.0.0.1", b"a.b.", b"a:99999", b"[::]x"];
        fuzz::hammer(1, &seeds, |bytes| {
            let Ok(authority) = str::from_utf8(bytes) else { return };
            let Some(name) = name_of(authority) else { return };
            assert!(name.len() <= HOST_BYTES_MAX && !name.bytes().any(|b| b.is_ascii_uppercase()), "{name}");
            assert!(name.starts_with('[') || !name.contains(':'), "{name}");
            // One dot at the end is left out; a second one is no root.
            let with_port = format!("{name}:80");
            let again = name_of(&with_port);
            assert!(again.as_deref() == Some(&*name) || name.ends_with('.'), "{name}");
        });
    }
}
