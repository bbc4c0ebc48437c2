//! The table: the compiled, immutable form of the configuration at one position.
//!
//! ```text
//!   ConfigState --changes--> Compiler --clone--> Table --publish--> workers: find(host, path, method, address) -> route
//! ```
//!
//! Hosts and paths stand in persistent trees, whose leaves are handles into persistent slabs of routes, services and
//! upstreams. So a clone is cheap, an edit of an upstream or service touches its slot alone, and an edit of a route
//! touches its slot and its own places in the trees, however many routes there are. The order in which routes are asked
//! is that of APISIX's routers: see [`Table::find`].

mod access;
mod cell;
mod client_auth;
mod client_tls;
mod compiler;
mod hosts;
mod outline;
mod paths;
mod radix;
mod route;
mod router;
mod slots;
mod ssl;
mod streams;
mod template;
#[cfg(test)]
mod tests;
mod ticket;
mod upstream;

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;

use imbl::{HashMap, Vector};
use plugins::Chain;
use protocol::resource::{Method, Scheme, Values, Variable};
use protocol::{Position, Text};
use rustls::ClientConfig;
use smallvec::SmallVec;

pub(crate) use access::Access;
use access::Layer;
pub use cell::{Generation, Publisher, Reader, TableCell};
pub(crate) use client_tls::Alpn;
pub use client_tls::{BadTrust, ClientTls, Trust};
pub use compiler::{Compiler, Rejected};
pub(crate) use hosts::HOST_BYTES_MAX;
pub use hosts::MatchedHost;
pub use route::{Route, Service};
pub use router::Router;
pub(crate) use ssl::order_for;
pub use ssl::{Ssl, SslSlot, TlsTerms};
pub use streams::{Arrival, StreamRoute};
pub use ticket::Ticket;
pub use upstream::{Balancing, Node, NodeHost, NodeTls, Upstream};

use client_tls::ClientTlsSlot;
use hosts::Hosts;
use route::Target;
use ssl::Ssls;
use streams::Streams;

/// Where a resource stands in its slab.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Handle(u32);

/// Everything that a request needs of the configuration. A clone shares all of it.
#[derive(Clone, Debug, Default)]
pub struct Table {
    /// Of which configuration it is.
    pub position: Position,
    hosts: Hosts,
    routes: Vector<Option<Arc<Route>>>,
    services: Vector<Option<Arc<Service>>>,
    upstreams: Vector<Option<Arc<Upstream>>>,
    ssls: Ssls,
    streams: Streams,
    access: Access,
    /// Where plugins may send requests to, by the resource that they stand in.
    destinations: HashMap<Text, Arc<[PluginTarget]>>,
    /// What nodes are shown, by the ids of ssls.
    client_tls: HashMap<Text, ClientTlsSlot>,
    /// TLS to nodes that are shown nothing.
    anonymous: Arc<ClientTls>,
    /// A rule for every request that cannot be enforced: none may pass.
    barred: Option<Text>,
}

/// A destination of the plugin of that name.
type PluginTarget = (&'static str, Target);

/// What is asked of a table.
#[derive(Clone, Copy)]
#[expect(missing_debug_implementations, reason = "the values of a request are not for printing")]
pub struct Ask<'a> {
    /// The host in lower case, without a port; empty when there is none.
    pub host: &'a str,
    /// The path in its [canonical](crate::path) form.
    pub path: &'a str,
    /// The method; `None` for one that no route can name.
    pub method: Option<Method>,
    /// The client's address.
    pub remote: IpAddr,
    /// Everything else about the request, for routes that ask for more.
    pub values: &'a dyn Values,
}

/// A request of which nothing is known but what [`Ask`] says itself.
#[derive(Clone, Copy, Debug)]
pub struct NoValues;

impl Values for NoValues {
    fn value(&self, _: &Variable) -> Option<Cow<'_, [u8]>> {
        None
    }
}

/// The route that takes a request.
#[derive(Clone, Copy, Debug)]
pub struct Found<'t> {
    /// It.
    pub route: &'t Arc<Route>,
    /// By which of its patterns.
    pub pattern: u16,
    /// By which pattern of hosts.
    pub host: MatchedHost,
}

/// Why a route leads nowhere.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Unavailable {
    /// Something that it uses cannot be served by this build.
    #[error("{what} cannot be served: {reason}")]
    Sealed {
        /// Which resource.
        what: String,
        /// Why.
        reason: String,
    },
    /// The upstream that it names is gone: somebody deleted it by force.
    #[error("its upstream does not exist")]
    NoSuchUpstream,
    /// The service that it names is gone.
    #[error("its service does not exist")]
    NoSuchService,
    /// It names no upstream.
    #[error("it has no upstream")]
    NoUpstream,
    /// Something with plugins that it, or its consumer, names is gone.
    #[error("{0} does not exist")]
    NoSuchPlugins(String),
}

impl Table {
    /// The route that takes a request.
    ///
    /// Hosts are asked by falling specificity: the host itself, wildcards from the longest, routes without hosts; where
    /// nothing in one takes the request, the next is asked. Within a host, exact paths come before prefixes, longer
    /// literals before shorter ones; within one literal the higher priority wins, then the pattern that says more, then
    /// the lower id. With a [`Router`] that asks paths first, every route stands among those without hosts, and its hosts are
    /// a condition.
    #[must_use]
    pub fn find(&self, ask: &Ask<'_>) -> Option<Found<'_>> {
        let (found, host) = self.hosts.find(ask.host, |paths| paths.find(&self.routes, ask))?;
        let host = if host == MatchedHost::Any { found.0.matched_host(ask.host) } else { host };
        Some(Found { route: found.0, pattern: found.1, host })
    }

    /// How TLS is made to the nodes of an upstream; `None` where it is not spoken.
    ///
    /// # Errors
    /// [`Unavailable`] when what the nodes are to be shown is not there, or may not be used.
    pub fn client_config(&self, upstream: &Upstream) -> Result<Option<&Arc<ClientConfig>>, Unavailable> {
        let Some(NodeTls { verify, shown }) = &upstream.tls else { return Ok(None) };
        let tls = match shown {
            None => &self.anonymous,
            Some(id) => match self.client_tls.get(id) {
                Some(ClientTlsSlot::Ready(tls)) => tls,
                Some(ClientTlsSlot::Sealed(reason)) => return Err(sealed(&format!("ssls/{id}"), reason)),
                None => return Err(sealed(&format!("ssls/{id}"), "there is no such ssl of type client")),
            },
        };
        Ok(Some(tls.config(*verify, upstream.alpn())))
    }

    /// The rule for every request that cannot be enforced, if there is one.
    #[must_use]
    pub fn barred(&self) -> Option<&str> {
        self.barred.as_deref()
    }

    /// The certificates for a name, which is in lower case; `None` when nobody has any.
    #[must_use]
    pub fn ssl(&self, name: &str) -> Option<&SslSlot> {
        self.ssls.find(name)
    }

    /// Whether clients are asked for certificates under any name.
    #[must_use]
    pub fn any_ssl_asks(&self) -> bool {
        self.ssls.any_asks()
    }

    /// The service of a route.
    #[must_use]
    pub fn service(&self, route: &Route) -> Option<&Arc<Service>> {
        self.services.get(route.service?.index())?.as_ref()
    }

    /// Whether a route's connections may be switched to another protocol.
    #[must_use]
    pub fn takes_upgrades(&self, route: &Route) -> bool {
        route.upgrades.or_else(|| self.service(route)?.upgrades).unwrap_or(false)
    }

    /// Where a route sends its requests: to its own upstream, to the one that it names, or else as its service says.
    ///
    /// # Errors
    /// [`Unavailable`] when there is no such place, or none that may be used.
    pub fn upstream<'t>(&'t self, route: &'t Route) -> Result<&'t Arc<Upstream>, Unavailable> {
        let service = self.usable_service(route)?;
        for_requests(self.target(route.target.as_ref(), service)?)
    }

    /// Where a plugin sends a request: its destination of that number, in the configuration that stands in `owner`.
    ///
    /// # Errors
    /// [`Unavailable`] when there is no such place, or none that may be used.
    pub(crate) fn destination(&self, owner: &Text, plugin: &str, number: usize) -> Result<&Arc<Upstream>, Unavailable> {
        let all = self.destinations.get(owner).into_iter().flat_map(|all| all.iter());
        let target = all.filter(|(name, _)| *name == plugin).nth(number).map(|(_, target)| target);
        for_requests(self.target(Some(target.ok_or(Unavailable::NoUpstream)?), None)?)
    }

    /// The stream route that takes a connection: see [`streams`].
    #[must_use]
    pub fn find_stream(&self, arrival: &Arrival<'_>) -> Option<&Arc<StreamRoute>> {
        self.streams.find(arrival)
    }

    /// Where a stream route sends its connections, as [`Table::upstream`].
    ///
    /// # Errors
    /// [`Unavailable`] when there is no such place, or none that may be used. Plugins of a service are not run on streams:
    /// what they would stop must not pass.
    pub fn stream_upstream<'t>(&'t self, route: &'t StreamRoute) -> Result<&'t Arc<Upstream>, Unavailable> {
        if let Some(reason) = &route.sealed {
            return Err(sealed(&format!("stream_routes/{}", route.id), reason));
        }
        let service = self.ready_service(route.service)?;
        if let Some(service) = service.filter(|service| !service.plugins.is_empty()) {
            return Err(sealed(&format!("services/{}", service.id), "it has plugins, which are not run on streams"));
        }
        let upstream = self.target(route.target.as_ref(), service)?;
        match upstream.scheme {
            Scheme::Http | Scheme::Tcp | Scheme::Tls => Ok(upstream),
            _ => Err(sealed(&upstream.label, "its scheme is not for stream routes")),
        }
    }

    /// What is meant by a target, or else by the service's.
    fn target<'t>(
        &'t self,
        own: Option<&'t Target>,
        service: Option<&'t Arc<Service>>,
    ) -> Result<&'t Arc<Upstream>, Unavailable> {
        let target = own.or_else(|| service.and_then(|service| service.target.as_ref()));
        let upstream = match target.ok_or(Unavailable::NoUpstream)? {
            Target::Own(upstream) => upstream,
            Target::Shared(handle) => {
                self.upstreams.get(handle.index()).and_then(Option::as_ref).ok_or(Unavailable::NoSuchUpstream)?
            }
        };
        match &upstream.sealed {
            Some(reason) => Err(sealed(&upstream.label, reason)),
            None => Ok(upstream),
        }
    }

    /// The service of a route that may be used itself.
    fn usable_service<'t>(&'t self, route: &'t Route) -> Result<Option<&'t Arc<Service>>, Unavailable> {
        match route.sealed() {
            Some(reason) => Err(sealed(&format!("routes/{}", route.id), reason)),
            None => self.ready_service(route.service),
        }
    }

    fn ready_service(&self, handle: Option<Handle>) -> Result<Option<&Arc<Service>>, Unavailable> {
        let Some(handle) = handle else { return Ok(None) };
        let service = self.services.get(handle.index()).and_then(Option::as_ref).ok_or(Unavailable::NoSuchService)?;
        match &service.sealed {
            Some(reason) => Err(sealed(&format!("services/{}", service.id), reason)),
            None => Ok(Some(service)),
        }
    }

    /// What is run on every request, rule by rule.
    pub(crate) fn global_rules(&self) -> impl Iterator<Item = &Chain> {
        self.access.global_rules.values()
    }

    /// Who is known, and by what.
    pub(crate) fn access(&self) -> &Access {
        &self.access
    }

    /// The plugins of a route's requests, those that have their way first: of the consumer and its group (when one is
    /// known), of the route, of its plugin config, of its service.
    ///
    /// # Errors
    /// [`Unavailable`] when one of them is gone, or may not be used.
    pub(crate) fn chains<'t>(&'t self, route: &'t Route, consumer: Option<&str>) -> Result<Chains<'t>, Unavailable> {
        let mut chains = Chains::new();
        if let Some(consumer) = consumer.and_then(|name| self.access.consumers.get(name)) {
            chains.push(&consumer.plugins);
            if let Some(group) = &consumer.identity.group {
                chains.push(named("consumer_groups", group, self.access.consumer_groups.get(group))?);
            }
        }
        chains.push(&route.plugins);
        if let Some(config) = route.plugin_config() {
            chains.push(named("plugin_configs", config, self.access.plugin_configs.get(config))?);
        }
        if let Some(service) = self.usable_service(route)? {
            chains.push(&service.plugins);
        }
        Ok(chains)
    }

    /// Every upstream, those of single routes, services and plugins included.
    pub fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        let of_routes = self.routes.iter().flatten().map(|route| &route.target);
        let of_services = self.services.iter().flatten().map(|service| &service.target);
        let of_streams = self.streams.all().map(|route| &route.target);
        let of_plugins = self.destinations.values().flat_map(|all| all.iter()).map(|(_, target)| Some(target));
        let targets = of_routes.chain(of_services).chain(of_streams).map(Option::as_ref).chain(of_plugins);
        let owned = targets.filter_map(|target| match target {
            Some(Target::Own(upstream)) => Some(upstream),
            _ => None,
        });
        self.upstreams.iter().flatten().chain(owned)
    }

    /// How many routes it holds, those that are switched off included.
    #[must_use]
    pub fn routes(&self) -> usize {
        self.routes.iter().flatten().count()
    }

    /// Everything in it as text, one fact a line, without handles and tickets: equal for tables that do the same.
    #[must_use]
    pub fn dump(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (host, paths) in self.hosts.dump() {
            for (literal, candidates) in paths.dump() {
                let names: Vec<String> = candidates
                    .iter()
                    .map(|(handle, pattern)| {
                        let route = self.routes[handle.index()].as_ref().expect("a candidate's route is in the table");
                        format!("{} by {}", route.id, route.pattern(*pattern))
                    })
                    .collect();
                lines.push(format!("{host} {literal}: {}", names.join(", ")));
            }
        }
        let shown = |upstream: &Upstream| {
            let nodes: Vec<_> =
                upstream.nodes.iter().map(|node| (node.address(), node.weight, node.watch.is_watched())).collect();
            let plain = Upstream { nodes: Box::default(), balance: Ticket::default(), ..Upstream::clone(upstream) };
            format!("{plain:?} {nodes:?}")
        };
        for route in self.routes.iter().flatten() {
            let upstream = self.upstream(route).map(|upstream| shown(upstream));
            let service = self.service(route).map(|service| &service.id);
            let Route { id, priority, methods, conditions, seldom, .. } = &**route;
            let upgrades = self.takes_upgrades(route);
            lines.push(format!(
                "route {id}: {priority} {methods:?} {conditions:?} {seldom:?} {upgrades} {service:?} {upstream:?}"
            ));
            let of_service = self.service(route).map(|service| service.plugins.to_string());
            lines.push(format!("plugins of {id}: {} {of_service:?}", route.plugins));
        }
        lines.extend(self.streams.dump(|route| format!("{:?}", self.stream_upstream(route).map(|it| shown(it)))));
        for (owner, all) in &self.destinations {
            let shown: Vec<_> =
                all.iter().map(|(_, target)| self.target(Some(target), None).map(|it| shown(it))).collect();
            lines.push(format!("destinations of {owner}: {shown:?}"));
        }
        lines.extend(self.access.dump());
        lines.extend(self.barred.iter().map(|rule| format!("barred by {rule}")));
        lines.extend(self.ssls.dump());
        lines.extend(self.client_tls.iter().map(|(id, slot)| match slot {
            ClientTlsSlot::Ready(_) => format!("client ssl {id}"),
            ClientTlsSlot::Sealed(reason) => format!("client ssl {id} sealed: {reason}"),
        }));
        lines.sort();
        lines
    }
}

/// Refuses an upstream whose scheme no request can speak.
fn for_requests(upstream: &Arc<Upstream>) -> Result<&Arc<Upstream>, Unavailable> {
    match upstream.scheme.is_for_streams() {
        true => Err(sealed(&upstream.label, "its scheme is for stream routes")),
        false => Ok(upstream),
    }
}

/// Plugins of several resources, those that have their way first.
pub(crate) type Chains<'t> = SmallVec<[&'t Chain; 5]>;

fn sealed(what: &str, reason: &str) -> Unavailable {
    Unavailable::Sealed { what: what.to_owned(), reason: reason.to_owned() }
}

fn named<'t>(kind: &str, id: &Text, layer: Option<&'t Layer>) -> Result<&'t Chain, Unavailable> {
    match layer {
        Some(Layer::Ready(chain)) => Ok(chain),
        Some(Layer::Sealed(reason)) => Err(sealed(&format!("{kind}/{id}"), reason)),
        None => Err(Unavailable::NoSuchPlugins(format!("{kind}/{id}"))),
    }
}

impl Handle {
    fn index(self) -> usize {
        self.0 as usize
    }
}
