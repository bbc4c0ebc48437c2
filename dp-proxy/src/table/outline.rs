//! What can be read of a route or service that this build cannot compile.
//!
//! Such a resource is sealed: it goes on taking its requests and answers them with 503, so that none falls through to a
//! route that asks for less. Which requests are its own is read from the body as far as that goes:
//!
//! - what cannot be read of methods and addresses counts as "all", of priority as "the highest": a seal may take more
//!   than its route would, never less;
//! - of hosts and paths, what can be read counts, and when of one of them nothing can be read, it counts as "all" as
//!   long as the other narrows the seal down;
//! - when neither narrows it, the route takes nothing. It would take everything else: one unreadable route would stop
//!   all traffic, which is worse than what it could prevent, since nobody knows what that is. It is reported like every
//!   other seal.

use ipnet::IpNet;
use protocol::Text;
use protocol::resource::{HostPattern, Method, MethodSet, UriPattern};
use serde_json::{Map, Value};

use super::streams::Place;

/// What could be read of a route.
#[derive(PartialEq, Debug, Default)]
pub(super) struct RouteOutline {
    pub(super) uris: Vec<UriPattern>,
    pub(super) hosts: Hosts,
    pub(super) methods: MethodSet,
    pub(super) remote_addrs: Vec<IpNet>,
    pub(super) priority: i64,
    pub(super) service: Option<Text>,
    /// Whether it is certain that it takes nothing.
    pub(super) disabled: bool,
}

/// What could be read of a stream route.
#[derive(PartialEq, Debug, Default)]
pub(super) struct StreamOutline {
    /// Where it stands; `None` when what would narrow it cannot be read, and nothing else does.
    pub(super) place: Option<Place>,
    pub(super) remote_addr: Option<IpNet>,
    pub(super) server_addr: Option<IpNet>,
}

impl StreamOutline {
    pub(super) fn read(body: &str) -> Self {
        let Some(fields) = object(body) else { return Self::default() };
        let read = |name: &str| fields.get(name).map(|value| value.as_str().and_then(net));
        let (remote, server) = (read("remote_addr"), read("server_addr"));
        let port = fields.get("server_port").map(|value| value.as_u64().and_then(|port| u16::try_from(port).ok()));
        let sni = fields.get("sni").map(|value| value.as_str().filter(is_host).map(|text| text.to_ascii_lowercase()));
        let is_unreadable = [&remote, &server].contains(&&Some(None)) || port == Some(None) || sni == Some(None);
        let (remote_addr, server_addr, port, sni) = (remote.flatten(), server.flatten(), port.flatten(), sni.flatten());
        let is_narrow = remote_addr.is_some() || server_addr.is_some() || port.is_some() || sni.is_some();
        let place = (is_narrow || !is_unreadable).then(|| (sni.map(Text::from), port));
        Self { place, remote_addr, server_addr }
    }
}

/// What could be read of a resource's hosts.
#[derive(Clone, PartialEq, Debug, Default)]
pub(super) enum Hosts {
    /// It names none.
    #[default]
    None,
    /// This one, at least.
    One(HostPattern),
    /// These, at least.
    Many(Box<[HostPattern]>),
    /// It names some, and none can be read.
    Unreadable,
}

impl RouteOutline {
    pub(super) fn read(body: &str) -> Self {
        let Some(fields) = object(body) else { return Self::default() };
        Self {
            uris: strings(&fields, "uri", "uris").unwrap_or_default().map(UriPattern::parse).collect(),
            hosts: Hosts::read(&fields),
            methods: methods(&fields),
            remote_addrs: addresses(&fields),
            priority: fields.get("priority").map_or(0, |value| value.as_i64().unwrap_or(i64::MAX)),
            service: reference(&fields, "service_id"),
            disabled: fields.get("status").and_then(Value::as_i64) == Some(0),
        }
    }
}

/// The hosts of a service.
pub(super) fn service_hosts(body: &str) -> Hosts {
    object(body).map_or(Hosts::Unreadable, |fields| Hosts::read(&fields))
}

impl Hosts {
    /// Those of a resource that can be read.
    pub(super) fn of(hosts: Vec<HostPattern>) -> Self {
        match <[HostPattern; 1]>::try_from(hosts) {
            Ok([host]) => Self::One(host),
            Err(hosts) if hosts.is_empty() => Self::None,
            Err(hosts) => Self::Many(hosts.into()),
        }
    }

    /// Those that can be read.
    pub(super) fn readable(&self) -> &[HostPattern] {
        match self {
            Self::None | Self::Unreadable => &[],
            Self::One(host) => std::slice::from_ref(host),
            Self::Many(hosts) => hosts,
        }
    }

    fn read(fields: &Map<String, Value>) -> Self {
        let Some(texts) = strings(fields, "host", "hosts") else { return Self::None };
        let pattern = |text: &str| {
            let text = text.to_ascii_lowercase();
            match text.strip_prefix('*') {
                Some(suffix) => HostPattern::Suffix(suffix.into()),
                None => HostPattern::Exact(text.into()),
            }
        };
        let hosts: Vec<_> = texts.filter(is_host).map(pattern).collect();
        if hosts.is_empty() { Self::Unreadable } else { Self::of(hosts) }
    }
}

fn is_host(text: &&str) -> bool {
    let plain = text.strip_prefix('*').unwrap_or(text);
    plain.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'[' | b']' | b':'))
        && !text.is_empty()
}

fn net(text: &str) -> Option<IpNet> {
    text.parse().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from))
}

fn object(body: &str) -> Option<Map<String, Value>> {
    match serde_json::from_str(body) {
        Ok(Value::Object(fields)) => Some(fields),
        _ => None,
    }
}

/// The strings under `one` and in the array under `many`; `None` when both are missing.
fn strings<'f>(
    fields: &'f Map<String, Value>,
    one: &str,
    many: &str,
) -> Option<impl Iterator<Item = &'f str> + Default> {
    let (one, many) = (fields.get(one), fields.get(many));
    if one.is_none() && many.is_none() {
        return None;
    }
    let many = many.and_then(Value::as_array).into_iter().flatten();
    let all: Vec<_> = one.into_iter().chain(many).filter_map(Value::as_str).collect();
    Some(all.into_iter())
}

fn methods(fields: &Map<String, Value>) -> MethodSet {
    let all = MethodSet::default();
    let Some(names) = fields.get("methods").and_then(Value::as_array) else { return all };
    let read: Option<Vec<Method>> = names.iter().map(|name| Method::parse(name.as_str()?)).collect();
    read.map_or(all, |methods| methods.into_iter().fold(all, MethodSet::with))
}

fn addresses(fields: &Map<String, Value>) -> Vec<IpNet> {
    let Some(texts) = strings(fields, "remote_addr", "remote_addrs") else { return Vec::new() };
    texts.map(net).collect::<Option<_>>().unwrap_or_default()
}

fn reference(fields: &Map<String, Value>, name: &str) -> Option<Text> {
    match fields.get(name)? {
        Value::String(id) => Some(id.as_str().into()),
        Value::Number(id) => Some(id.to_string().into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exact(host: &str) -> HostPattern {
        HostPattern::Exact(host.into())
    }

    #[test]
    fn what_can_be_read_counts_and_what_cannot_counts_as_all() {
        let outline = RouteOutline::read(
            r#"{"uris":["/a",7],"hosts":["A.com",{"re":"x"}],"methods":["GET","FETCH"],"remote_addr":"10.0.0.0/8","priority":"max","service_id":3,"vars":[["x","like","y"]]}"#,
        );
        assert_eq!(outline.uris, [UriPattern::Exact("/a".into())]);
        assert_eq!(outline.hosts, Hosts::One(exact("a.com")));
        assert_eq!(outline.methods, MethodSet::default(), "an unknown method: all");
        assert_eq!(outline.remote_addrs.len(), 1);
        assert_eq!((outline.priority, outline.service), (i64::MAX, Some("3".into())));
    }

    #[test]
    fn a_stream_route_takes_no_more_than_what_can_be_read_narrows() {
        let place = |sni: Option<&str>, port| Some((sni.map(Text::from), port));
        for (body, expected) in [
            (r#"{"upstream":{"scheme":"quic"}}"#, place(None, None)),
            (r#"{"server_port":9100,"sni":"*.A.com"}"#, place(Some("*.a.com"), Some(9100))),
            (r#"{"server_port":"ninety","remote_addr":"10.0.0.0/8"}"#, place(None, None)),
            (r#"{"server_port":"ninety"}"#, None),
            (r#"{"sni":["a.com"]}"#, None),
            ("not json", None),
        ] {
            assert_eq!(StreamOutline::read(body).place, expected, "{body}");
        }
    }

    #[test]
    fn hosts() {
        for (body, expected) in [
            (r#"{"uri":"/a"}"#, Hosts::None),
            (r#"{"host":"*.a.com"}"#, Hosts::One(HostPattern::Suffix(".a.com".into()))),
            (r#"{"hosts":["a.com","b.com"]}"#, Hosts::Many([exact("a.com"), exact("b.com")].into())),
            (r#"{"host":"~^a"}"#, Hosts::Unreadable),
            (r#"{"hosts":[]}"#, Hosts::Unreadable),
            (r#"{"hosts":{"a":1}}"#, Hosts::Unreadable),
            ("not json", Hosts::Unreadable),
        ] {
            assert_eq!(service_hosts(body), expected, "{body}");
        }
        assert_eq!(RouteOutline::read("[1]"), RouteOutline::default());
    }
}
