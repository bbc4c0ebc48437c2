//! A route and a service as the request path sees them.

use std::sync::Arc;

use ipnet::IpNet;
use plugins::Chain;
use protocol::Text;
use protocol::resource::{Expression, HostPattern, MethodSet, Timeouts};

use super::paths::PathPattern;
use super::upstream::Upstream;
use super::{Ask, Handle};

/// A compiled route.
#[derive(Clone, PartialEq, Debug)]
pub struct Route {
    /// Its id.
    pub id: Text,
    pub(crate) paths: Box<[PathPattern]>,
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
        let takes_address = self.remote_addrs.is_empty() || self.remote_addrs.iter().any(|net| net.contains(&address));
        takes_address && self.vars.as_ref().is_none_or(|vars| vars.holds(ask.values))
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
