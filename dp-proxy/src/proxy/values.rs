//! What the variables of a request stand for: read from the request when a condition, a hash or a format asks.
//!
//! Nothing is computed ahead and little is copied: what stands in the request is borrowed from it.

use std::borrow::Cow;
use std::net::SocketAddr;

use http::header::{self, HeaderMap};
use http::request::Parts;
use protocol::Text;
use protocol::resource::{CONSUMER_NAME, Known, Values, Variable};

use super::asked_body::AskedBody;

/// One request, for whoever asks about it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestValues<'r> {
    pub(crate) parts: &'r Parts,
    /// Its headers: those that it came with, or what plugins made of them.
    pub(crate) headers: &'r HeaderMap,
    /// In lower case, without port.
    pub(crate) host: &'r str,
    /// In its canonical form.
    pub(crate) path: &'r str,
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    /// Whether it came by TLS.
    pub(crate) secure: bool,
    /// Whose it is, where that is known.
    pub(crate) consumer: Option<&'r Text>,
    /// What stands in its body, for those who may ask.
    pub(crate) asked: Option<&'r AskedBody>,
}

/// A request of which nothing could be read: what is known of it is its connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Unread {
    pub(crate) peer: SocketAddr,
    pub(crate) local: SocketAddr,
    /// Whether it came by TLS.
    pub(crate) secure: bool,
}

impl Values for Unread {
    fn value(&self, variable: &Variable) -> Value<'_> {
        Some(match variable {
            Variable::Known(Known::RemoteAddr) => owned(self.peer.ip()),
            Variable::Known(Known::RemotePort) => owned(self.peer.port()),
            Variable::Known(Known::Scheme) => borrowed(if self.secure { "https" } else { "http" }),
            Variable::Known(Known::ServerAddr) => owned(self.local.ip().to_canonical()),
            Variable::Known(Known::ServerPort) => owned(self.local.port()),
            _ => return None,
        })
    }
}

type Value<'v> = Option<Cow<'v, [u8]>>;

impl Values for RequestValues<'_> {
    fn value(&self, variable: &Variable) -> Value<'_> {
        match variable {
            Variable::Known(known) => self.known(*known),
            Variable::Argument(name) => argument(self.parts.uri.query()?.as_bytes(), name.as_bytes()),
            Variable::Header(name) => self.header(name),
            Variable::Cookie(name) => self.cookie(name.as_bytes()),
            Variable::Unknown(name) if **name == *CONSUMER_NAME => self.consumer.map(|name| borrowed(name)),
            Variable::Unknown(_) => None,
            Variable::PostArgument(_) | Variable::GraphQl(_) => self.asked?.value(self.parts, variable),
        }
    }

    fn has(&self, variable: &Variable, element: &[u8]) -> bool {
        self.asked.is_some_and(|asked| asked.has(variable, element))
    }
}

impl RequestValues<'_> {
    fn known(&self, known: Known) -> Value<'_> {
        let uri = &self.parts.uri;
        Some(match known {
            Known::ContentLength => return self.header(header::CONTENT_LENGTH.as_str()),
            Known::ContentType => return self.header(header::CONTENT_TYPE.as_str()),
            Known::Host => borrowed(self.host),
            Known::IsArgs => borrowed(if uri.query().is_some_and(|query| !query.is_empty()) { "?" } else { "" }),
            Known::QueryString => borrowed(uri.query()?),
            Known::RemoteAddr => owned(self.peer.ip()),
            Known::RemotePort => owned(self.peer.port()),
            Known::RequestMethod => borrowed(self.parts.method.as_str()),
            Known::RequestUri => borrowed(uri.path_and_query().map_or(uri.path(), |target| target.as_str())),
            Known::Scheme => borrowed(if self.secure { "https" } else { "http" }),
            Known::ServerAddr => owned(self.local.ip().to_canonical()),
            Known::ServerPort => owned(self.local.port()),
            Known::ServerProtocol => owned(format_args!("{:?}", self.parts.version)),
            Known::Uri => borrowed(self.path),
        })
    }

    /// A header; several of one name as one list (RFC 9110 §5.3).
    fn header(&self, name: &str) -> Value<'_> {
        let mut values = self.headers.get_all(name).iter().map(http::HeaderValue::as_bytes);
        let first = values.next()?;
        let mut joined = Cow::Borrowed(first);
        for more in values {
            let all = joined.to_mut();
            all.extend_from_slice(b", ");
            all.extend_from_slice(more);
        }
        Some(joined)
    }

    fn cookie(&self, name: &[u8]) -> Value<'_> {
        let headers = self.headers.get_all(header::COOKIE).iter();
        let mut cookies = headers.flat_map(|value| value.as_bytes().split(|b| *b == b';'));
        cookies.find_map(|cookie| {
            let cookie = cookie.trim_ascii();
            let rest = cookie.strip_prefix(name)?.strip_prefix(b"=")?;
            Some(Cow::Borrowed(rest))
        })
    }
}

fn borrowed(text: &str) -> Cow<'_, [u8]> {
    Cow::Borrowed(text.as_bytes())
}

fn owned(value: impl std::fmt::Display) -> Cow<'static, [u8]> {
    Cow::Owned(value.to_string().into_bytes())
}

/// The first argument of that name in a query or a form; empty when it has no value.
pub(crate) fn argument<'q>(query: &'q [u8], name: &[u8]) -> Value<'q> {
    query.split(|b| *b == b'&').find_map(|pair| {
        let at = memchr::memchr(b'=', pair);
        let (key, value) = at.map_or((pair, &b""[..]), |at| (&pair[..at], &pair[at + 1..]));
        (decode(key) == name && !pair.is_empty()).then(|| decode(value))
    })
}

/// Decodes `%xx` and `+`. An escape that is none stays as it is.
fn decode(text: &[u8]) -> Cow<'_, [u8]> {
    if memchr::memchr2(b'%', b'+', text).is_none() {
        return Cow::Borrowed(text);
    }
    let digit = |at: usize| text.get(at).and_then(|b| char::from(*b).to_digit(16));
    let mut out = Vec::with_capacity(text.len());
    let mut at = 0;
    while let Some(byte) = text.get(at) {
        match (byte, digit(at + 1), digit(at + 2)) {
            (b'%', Some(high), Some(low)) => {
                out.push(u8::try_from(high << 4 | low).expect("two digits make a byte"));
                at += 3;
                continue;
            }
            (b'+', ..) => out.push(b' '),
            _ => out.push(*byte),
        }
        at += 1;
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;

    #[test]
    fn every_variable_has_its_value() {
        let (parts, ()) = Request::get("/A%62?x=1%202&y=a+b&z&x=3&%6b=v&=none")
            .header("host", "H.com:81")
            .header("x-two", "1")
            .header("x-two", "2")
            .header("content-type", "text/plain")
            .header("cookie", "a=1; Sid=x=y;b=")
            .header("cookie", "late=7")
            .body(())
            .unwrap()
            .into_parts();
        let consumer = Text::from("jack");
        let values = RequestValues {
            parts: &parts,
            headers: &parts.headers,
            consumer: Some(&consumer),
            asked: None,
            host: "h.com",
            path: "/Ab",
            peer: "[::1]:5".parse().unwrap(),
            local: "127.0.0.1:9080".parse().unwrap(),
            secure: false,
        };
        for (name, expected) in [
            ("uri", Some("/Ab")),
            ("request_uri", Some("/A%62?x=1%202&y=a+b&z&x=3&%6b=v&=none")),
            ("args", Some("x=1%202&y=a+b&z&x=3&%6b=v&=none")),
            ("is_args", Some("?")),
            ("host", Some("h.com")),
            ("http_host", Some("H.com:81")),
            ("http_x_two", Some("1, 2")),
            ("http_none", None),
            ("http_ not a header", None),
            ("content_type", Some("text/plain")),
            ("content_length", None),
            ("request_method", Some("GET")),
            ("scheme", Some("http")),
            ("server_protocol", Some("HTTP/1.1")),
            ("server_addr", Some("127.0.0.1")),
            ("server_port", Some("9080")),
            ("remote_addr", Some("::1")),
            ("remote_port", Some("5")),
            ("arg_x", Some("1 2")),
            ("arg_y", Some("a b")),
            ("arg_z", Some("")),
            ("arg_k", Some("v")),
            ("arg_", Some("none")),
            ("arg_X", None),
            ("cookie_a", Some("1")),
            ("cookie_Sid", Some("x=y")),
            ("cookie_sid", None),
            ("cookie_b", Some("")),
            ("cookie_late", Some("7")),
            ("consumer_name", Some("jack")),
            ("nosuch", None),
        ] {
            let value =
                values.value(&Variable::parse(name)).map(|value| String::from_utf8(value.into_owned()).unwrap());
            assert_eq!(value.as_deref(), expected, "{name}");
        }
        assert_eq!(&*decode(b"%4%zz%41+"), b"%4%zzA ");
    }

    #[test]
    fn fuzz_arguments_and_cookies_are_found_or_not() {
        let seeds: [&[u8]; 5] = [b"a=1&b=2+3&%61=4&=none&c", b"a=%zz%41%", b"a=1; b=2;b=3", b"=;a;=a", b"a==b&&a"];
        fuzz::hammer(1, &seeds, |bytes| {
            let decoded = decode(bytes);
            assert!(decoded.len() <= bytes.len());
            let escaped: String = bytes.iter().map(|byte| format!("%{byte:02x}")).collect();
            assert_eq!(&*decode(escaped.as_bytes()), bytes, "whatever is escaped comes back");
            let (name, value) = bytes.split_at(bytes.len() / 2);
            if let Ok(query) = str::from_utf8(bytes) {
                let first = argument(query.as_bytes(), b"a");
                assert_eq!(
                    argument(format!("{query}&a=last").as_bytes(), b"a"),
                    first.or(Some(Cow::Borrowed(b"last")))
                );
            }
            let query: String =
                [name, value].map(|part| part.iter().map(|byte| format!("%{byte:02x}")).collect::<String>()).join("=");
            assert_eq!(argument(query.as_bytes(), name).as_deref(), Some(value));
            let Ok(cookies) = http::HeaderValue::from_bytes(bytes) else { return };
            let (mut parts, ()) = Request::new(()).into_parts();
            parts.headers.insert(header::COOKIE, cookies);
            let values = RequestValues {
                parts: &parts,
                headers: &parts.headers,
                consumer: None,
                asked: None,
                host: "",
                path: "/",
                peer: "127.0.0.1:1".parse().unwrap(),
                local: "127.0.0.1:2".parse().unwrap(),
                secure: false,
            };
            assert!(values.cookie(b"a").is_none_or(|value| !value.contains(&b';')));
        });
    }
}
