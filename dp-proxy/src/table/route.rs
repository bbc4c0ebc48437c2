//! A route and a service as the request path sees them.

use std::sync::Arc;

use ipnet::IpNet;
use plugins::Chain;
use protocol::Text;
use protocol::resource::{Expression, HostPattern, MethodSet, Timeouts};
use smallvec::SmallVec;

use super::paths::PathPattern;
use super::upstream::Upstream;
use super::{Ask, Handle, MatchedHost};

/// A compiled route.
#[derive(Clone, PartialEq, Debug)]
pub struct Route {
    /// Its id.
    pub id: Text,
    pub(crate) paths: Patterns,
    pub(crate) priority: i64,
    pub(crate) methods: MethodSet,
    /// More that it asks of a request.
    pub(crate) conditions: Option<Box<Conditions>>,
    pub(crate) target: Option<Target>,
    pub(crate) service: Option<Handle>,
    /// Its own plugins.
    pub(crate) plugins: Chain,
    /// Whether connections may be switched to another protocol; `None`: as its service says.
    pub(crate) upgrades: Option<bool>,
    /// What most routes do not say.
    pub(crate) seldom: Option<Box<Seldom>>,
}

/// The path patterns of a route: one, mostly, which then stands in the route itself.
pub(crate) type Patterns = SmallVec<[PathPattern; 1]>;

/// What a route asks of a request, beside path and method.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Conditions {
    /// The hosts it takes, where they are a condition; empty: all.
    pub(crate) hosts: Box<[HostPattern]>,
    /// The client addresses it takes; empty: all.
    pub(crate) remote_addrs: Box<[IpNet]>,
    pub(crate) vars: Option<Expression>,
}

/// What most routes do not say.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Seldom {
    /// Whose plugins it takes on.
    pub(crate) plugin_config: Option<Text>,
    /// Time limits that win over the upstream's.
    pub(crate) timeouts: Option<Timeouts>,
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
        self.conditions.as_ref().is_none_or(|conditions| conditions.hold(ask))
    }

    /// By which of the hosts that are a condition it takes this one.
    pub(crate) fn matched_host(&self, host: &str) -> MatchedHost {
        self.conditions.as_ref().map_or(MatchedHost::Any, |conditions| conditions.matched_host(host))
    }

    /// Whose plugins it takes on.
    pub(crate) fn plugin_config(&self) -> Option<&Text> {
        self.seldom.as_ref()?.plugin_config.as_ref()
    }

    /// Time limits that win over the upstream's.
    #[must_use]
    pub fn timeouts(&self) -> Option<Timeouts> {
        self.seldom.as_ref()?.timeouts
    }

    /// Why it answers every request with 503.
    pub(crate) fn sealed(&self) -> Option<&str> {
        self.seldom.as_ref()?.sealed.as_deref()
    }

    /// Its pattern of that number, as text.
    #[must_use]
    pub fn pattern(&self, number: u16) -> String {
        use super::template::Segment;
        match self.paths.get(usize::from(number)) {
            None => String::new(),
            Some(PathPattern::Exact(path)) => path.to_string(),
            Some(PathPattern::Prefix(prefix)) => format!("{prefix}*"),
            Some(PathPattern::Template(template)) => {
                let (literal, segments) = &**template;
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

impl Conditions {
    /// These, unless they take every request.
    pub(crate) fn boxed(self) -> Option<Box<Self>> {
        let takes_all = self.hosts.is_empty() && self.remote_addrs.is_empty() && self.vars.is_none();
        (!takes_all).then(|| Box::new(self))
    }

    fn hold(&self, ask: &Ask<'_>) -> bool {
        let address = ask.remote;
        let takes_host = self.hosts.is_empty() || self.matched_host(ask.host) != MatchedHost::Any;
        let takes_address = self.remote_addrs.is_empty() || self.remote_addrs.iter().any(|net| net.contains(&address));
        takes_host && takes_address && self.vars.as_ref().is_none_or(|vars| vars.holds(ask.values))
    }

    fn matched_host(&self, host: &str) -> MatchedHost {
        let takes = |pattern: &HostPattern| match pattern {
            HostPattern::Exact(exact) => (exact == host).then_some(MatchedHost::Exact),
            HostPattern::Suffix(suffix) => host.ends_with(&**suffix).then_some(MatchedHost::Suffix(suffix.len())),
        };
        self.hosts.iter().find_map(takes).unwrap_or(MatchedHost::Any)
    }
}

impl Seldom {
    /// This, unless it says nothing.
    pub(crate) fn boxed(self) -> Option<Box<Self>> {
        (self != Self::default()).then(|| Box::new(self))
    }
}
