//! A route and a service as the request path sees them.

use std::sync::Arc;

use ipnet::IpNet;
use plugins::Chain;
use protocol::Text;
use protocol::resource::{Expression, HostPattern, MethodSet, Timeouts};

use super::paths::PathPattern;
use super::upstream::Upstream;
use super::{Ask, Handle, MatchedHost};

/// A compiled route.
#[derive(Clone, PartialEq, Debug)]
pub struct Route {
    /// Its id.
    pub id: Text,
    pub(crate) paths: Box<[PathPattern]>,
    /// The hosts it takes, where they are a condition; empty: all.
    pub(crate) hosts: Box<[HostPattern]>,
    pub(crate) priority: i64,
    pub(crate) methods: MethodSet,
    /// The client addresses it takes; empty: all.
    pub(crate) remote_addrs: Box<[IpNet]>,
    /// More that it asks of a request.
    pub(crate) vars: Option<Box<Expression>>,
    pub(crate) target: Option<Target>,
    pub(crate) service: Option<Handle>,
    /// Its own plugins.
    pub(crate) plugins: Chain,
    /// Whose plugins it takes on.
    pub(crate) plugin_config: Option<Text>,
    /// Whether connections may be switched to another protocol; `None`: as its service says.
    pub(crate) upgrades: Option<bool>,
    /// Time limits that win over the upstream's.
    pub timeouts: Option<Box<Timeouts>>,
    /// Why it answers every request with 503.
    pub(crate) sealed: Option<Box<str>>,
}

/// A compiled service.
#[derive(Clone, PartialEq, Debug)]
pub struct Service {
    /// Its id.
    pub id: Text,
    /// The hosts of its routes that name none.
    pub(crate) hosts: Arc<[HostPattern]>,
    /// Set when it names hosts of which none could be read.
    pub(crate) hosts_unreadable: bool,
    pub(crate) target: Option<Target>,
    /// The plugins of its routes.
    pub(crate) plugins: Chain,
    /// Whether connections may be switched to another protocol, where a route does not say.
    pub(crate) upgrades: Option<bool>,
    /// Why its routes answer every request with 503.
    pub(crate) sealed: Option<Box<str>>,
}

/// Where requests go.
#[derive(Clone, PartialEq, Debug)]
pub(crate) enum Target {
    /// To an upstream of the resource's own.
    Own(Arc<Upstream>),
    /// To a shared one, whatever stands under its handle when the request comes.
    Shared(Handle),
}

impl Route {
    /// Whether it takes a request whose host, path and method it takes.
    pub(crate) fn takes(&self, ask: &Ask<'_>) -> bool {
        let address = ask.remote;
        let takes_host = self.hosts.is_empty() || self.matched_host(ask.host) != MatchedHost::Any;
        let takes_address = self.remote_addrs.is_empty() || self.remote_addrs.iter().any(|net| net.contains(&address));
        takes_host && takes_address && self.vars.as_ref().is_none_or(|vars| vars.holds(ask.values))
    }

    /// By which of the hosts that are a condition it takes this one.
    pub(crate) fn matched_host(&self, host: &str) -> MatchedHost {
        let takes = |pattern: &HostPattern| match pattern {
            HostPattern::Exact(exact) => (exact == host).then_some(MatchedHost::Exact),
            HostPattern::Suffix(suffix) => host.ends_with(&**suffix).then_some(MatchedHost::Suffix(suffix.len())),
        };
        self.hosts.iter().find_map(takes).unwrap_or(MatchedHost::Any)
    }

    /// Its pattern of that number, as text.
    #[must_use]
    pub fn pattern(&self, number: u16) -> String {
        use super::template::Segment;
        match self.paths.get(usize::from(number)) {
            None => String::new(),
            Some(PathPattern::Exact(path)) => path.to_string(),
            Some(PathPattern::Prefix(prefix)) => format!("{prefix}*"),
            Some(PathPattern::Template(literal, segments)) => {
                let segment = |segment: &Segment| match segment {
                    Segment::Literal(text) => text.to_string(),
                    Segment::One => ":".to_owned(),
                    Segment::Many => "*".to_owned(),
                };
                format!("{literal}{}", segments.iter().map(segment).collect::<Vec<_>>().join("/"))
            }
        }
    }
}
