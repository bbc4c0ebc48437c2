//! A request as plugins see and change it.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use http::Method;
use http::header::{COOKIE, HeaderMap, HeaderName, HeaderValue};
use protocol::Text;
use protocol::resource::{Values, Variable};

use super::host::Host;

/// A request on its way to an upstream. It owns what it says: it is made only where a plugin looks at it.
#[derive(Clone, Debug)]
pub struct Request {
    /// The method that the upstream gets.
    pub method: Method,
    /// The path that the upstream gets; it starts with a slash, and every byte may stand in a request line.
    pub path: String,
    /// The query that the upstream gets, without its question mark.
    pub query: Option<String>,
    /// The headers that the upstream gets.
    pub headers: HeaderMap,
    /// The host that the upstream is told where it gets the client's; `None`: that one.
    pub authority: Option<String>,
    /// The client's address; what a plugin puts here is its address from then on.
    pub remote: IpAddr,
    /// The client's port; 0 where nobody said.
    pub remote_port: u16,
    /// Whether the client asked by TLS, as far as this proxy knows: it came by TLS, or somebody who is trusted says so.
    pub secure: bool,
    /// The largest body that the client may send, in bytes (0: any); `None`: as the proxy's settings say.
    pub body_bytes_max: Option<u64>,
    /// The route that takes it; empty when none does.
    pub route_id: Text,
    /// The service of that route.
    pub service_id: Option<Text>,
    /// Whose request it is, once a plugin has found out.
    pub identity: Option<Identity>,
    /// Where it goes, where a plugin says so: the one that is running sets it, and the last word counts.
    pub heading: Option<Heading>,
    /// Headers that the answer gets, whoever gives it.
    pub answer_headers: HeaderMap,
    /// What is let go when the request is over: when the last of its answer went, or nobody waits for it any more.
    pub held: Vec<Arc<dyn Held>>,
}

/// Where a plugin sends a request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Heading {
    /// Where its route says, whatever a plugin said before.
    Route,
    /// To the one of this number among the plugin's own [destinations](super::plugin::Behaviour::destinations).
    Destination(usize),
}

/// Something that a plugin keeps as long as a request lasts.
pub trait Held: fmt::Debug + Send + Sync {}

/// A consumer, as far as a request needs it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Identity {
    /// Its name.
    pub consumer: Text,
    /// By which credential it was known; `None`: by what stands in the consumer itself.
    pub credential: Option<Text>,
    /// What others call it.
    pub custom_id: Option<Text>,
    /// The group that it is in.
    pub group: Option<Text>,
}

const USERNAME: HeaderName = HeaderName::from_static("x-consumer-username");
const CREDENTIAL: HeaderName = HeaderName::from_static("x-credential-identifier");
const CUSTOM_ID: HeaderName = HeaderName::from_static("x-consumer-custom-id");

impl Request {
    /// Learns whose it is, and tells the upstream. What the client says of itself under these names is dropped.
    pub fn attach(&mut self, identity: &Identity) {
        let values = [
            (USERNAME, Some(&identity.consumer)),
            (CREDENTIAL, identity.credential.as_ref()),
            (CUSTOM_ID, identity.custom_id.as_ref()),
        ];
        for (name, value) in values {
            match value.and_then(|value| HeaderValue::from_bytes(value.as_bytes()).ok()) {
                Some(value) => self.headers.insert(name, value),
                None => self.headers.remove(name),
            };
        }
        self.identity = Some(identity.clone());
    }

    /// A header that is text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|value| str::from_utf8(value.as_bytes()).ok())
    }

    /// The values of variables, those that plugins add included.
    pub(crate) fn seen<'s>(&'s self, host: &'s dyn Host) -> Seen<'s> {
        Seen { request: self, came: host.values(), status: None }
    }

    /// Takes every cookie of that name out of the headers (RFC 6265 §4.2.1).
    pub(crate) fn remove_cookie(&mut self, name: &str) {
        let is_it =
            |pair: &[u8]| pair.split(|b| *b == b'=').next().is_some_and(|key| key.trim_ascii() == name.as_bytes());
        let pairs = |value: &HeaderValue| -> Vec<Vec<u8>> {
            value.as_bytes().split(|b| *b == b';').map(|pair| pair.trim_ascii().to_vec()).collect()
        };
        let all: Vec<Vec<u8>> = self.headers.get_all(COOKIE).iter().flat_map(pairs).collect();
        if !all.iter().any(|pair| is_it(pair)) {
            return;
        }
        let left: Vec<Vec<u8>> = all.into_iter().filter(|pair| !pair.is_empty() && !is_it(pair)).collect();
        match HeaderValue::from_bytes(&left.join(&b"; "[..])) {
            Ok(value) if !left.is_empty() => drop(self.headers.insert(COOKIE, value)),
            _ => drop(self.headers.remove(COOKIE)),
        }
    }

    /// Takes every argument of that name out of the query.
    pub(crate) fn remove_argument(&mut self, name: &str) {
        let Some(query) = &self.query else { return };
        let is_other = |part: &&str| {
            let key = part.split('=').next().unwrap_or_default();
            percent_encoding::percent_decode_str(key).decode_utf8_lossy() != name
        };
        let left: Vec<&str> = query.split('&').filter(is_other).collect();
        self.query = (!left.is_empty()).then(|| left.join("&"));
    }
}

/// The variables of a request as it came, and those that are known only while plugins run.
pub(crate) struct Seen<'s> {
    request: &'s Request,
    came: &'s dyn Values,
    /// The answer's status, once there is one.
    pub(crate) status: Option<u16>,
}

/// Names that [`Seen`] knows beside the request's own, sorted.
const NAMES: [&str; 5] = ["consumer_group_id", "consumer_name", "route_id", "service_id", "status"];

/// Whether a plugin knows a variable that a request does not.
pub(crate) fn knows(name: &str) -> bool {
    NAMES.binary_search(&name).is_ok()
}

impl Values for Seen<'_> {
    fn value(&self, variable: &Variable) -> Option<Cow<'_, [u8]>> {
        let Some(name) = variable.unknown() else { return self.came.value(variable) };
        let identity = self.request.identity.as_ref();
        let text = match name {
            "consumer_group_id" => identity?.group.as_ref()?,
            "consumer_name" => &identity?.consumer,
            "route_id" => &self.request.route_id,
            "service_id" => self.request.service_id.as_ref()?,
            "status" => return Some(Cow::Owned(self.status?.to_string().into_bytes())),
            _ => return None,
        };
        Some(Cow::Borrowed(text.as_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestHost, request};
    use super::*;

    #[test]
    fn an_identity_is_told_and_cannot_be_forged() {
        let mut it = request("GET", "/a");
        it.headers.insert(CREDENTIAL, HeaderValue::from_static("forged"));
        let identity = Identity { consumer: "jack".into(), credential: None, custom_id: Some("7".into()), group: None };
        it.attach(&identity);
        assert_eq!(it.header("x-consumer-username"), Some("jack"));
        assert_eq!((it.header("x-credential-identifier"), it.header("x-consumer-custom-id")), (None, Some("7")));
        let host = TestHost::default();
        let value = |name: &str| it.seen(&host).value(&Variable::parse(name)).map(Cow::into_owned);
        assert_eq!(value("consumer_name").as_deref(), Some(&b"jack"[..]));
        assert_eq!((value("consumer_group_id"), value("status"), value("nosuch")), (None, None, None));
    }

    #[test]
    fn arguments_are_taken_out() {
        for (query, left) in [
            (Some("apikey=1"), None),
            (Some("a=1&apikey=2&b=3&api%6bey=4"), Some("a=1&b=3")),
            (Some("a=apikey"), Some("a=apikey")),
            (None, None),
        ] {
            let mut it = request("GET", "/a");
            it.query = query.map(str::to_owned);
            it.remove_argument("apikey");
            assert_eq!(it.query.as_deref(), left, "{query:?}");
        }
    }
}
