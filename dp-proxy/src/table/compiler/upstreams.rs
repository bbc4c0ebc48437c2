//! Compiles upstreams, shared ones and those of one route or service.

use std::sync::Arc;

use imbl::Vector;
use protocol::Text;
use protocol::resource::{self, ActiveCheck, Algorithm, CheckType, Endpoints, Scheme};

use super::super::Handle;
use super::super::client_tls::{Alpn, ClientTls};
use super::super::route::Target;
use super::super::slots::Slots;
use super::super::ticket::{NamedTickets, Tickets};
use super::super::upstream::{Balancing, HTTP_PORT, HTTPS_PORT, Node, NodeHost, NodeTls, Upstream, tiers};
use super::UPSTREAMS;
use crate::discovery::Services;
use crate::health::{ProbeTls, Registry, Watch};

type Slab = Vector<Option<Arc<Upstream>>>;

/// The shared upstreams by id, and the tickets of all.
#[derive(Debug, Default)]
pub(super) struct Upstreams {
    shared: Slots,
    endpoints: NamedTickets<(NodeHost, u16)>,
    balances: Tickets,
    health: Arc<Registry>,
    services: Services,
    anonymous: Arc<ClientTls>,
}

impl Upstreams {
    /// Upstreams whose nodes are watched there.
    pub(super) fn watching(health: Arc<Registry>) -> Self {
        health.forget_identities();
        Self { health, ..Self::default() }
    }

    /// TLS to nodes that are shown nothing.
    pub(super) fn set_anonymous(&mut self, tls: Arc<ClientTls>) {
        self.anonymous = tls;
    }

    /// The services whose nodes DNS knows.
    pub(super) fn services_mut(&mut self) -> &mut Services {
        &mut self.services
    }

    /// What probes show where an upstream names this ssl; `None`: there is no such ssl.
    pub(super) fn set_identity(&self, ssl: &Text, tls: Option<Arc<ClientTls>>) {
        self.health.set_identity(ssl, tls);
    }

    /// Puts a shared upstream in place, or seals it for a reason.
    pub(super) fn put(&mut self, id: &Text, model: Result<&resource::Upstream, &str>, slab: &mut Slab) {
        let old = self.shared.get(id).and_then(|handle| slab.get(handle.index())?.clone());
        let label = format!("{UPSTREAMS}/{id}");
        let new = match model {
            Ok(model) => self.compile(&label, model, old.as_deref()),
            Err(reason) => self.sealed(&label, reason, old.as_deref()),
        };
        self.shared.put(id, slab, new);
    }

    pub(super) fn remove(&mut self, id: &Text, slab: &mut Slab) {
        if let Some(old) = self.shared.remove(id, slab) {
            self.give_back(&old, false);
        }
    }

    pub(super) fn refer(&mut self, id: &Text, slab: &mut Slab) -> Handle {
        self.shared.refer(id, slab)
    }

    pub(super) fn release(&mut self, id: &Text) {
        self.shared.release(id);
    }

    /// Compiles the upstream of one resource, in place of what it had.
    pub(super) fn compile_own(
        &mut self,
        owner: &str,
        model: &resource::Upstream,
        old: Option<&Target>,
    ) -> Arc<Upstream> {
        let old = match old {
            Some(Target::Own(old)) => Some(&**old),
            _ => None,
        };
        self.compile(owner, model, old)
    }

    /// Gives back what the upstream of one resource held.
    pub(super) fn release_own(&mut self, old: Option<&Target>) {
        if let Some(Target::Own(old)) = old {
            self.give_back(old, false);
        }
    }

    fn compile(&mut self, label: &str, model: &resource::Upstream, old: Option<&Upstream>) -> Arc<Upstream> {
        let found;
        let listed: &[resource::Node] = match &model.endpoints {
            Endpoints::Nodes(nodes) => nodes,
            Endpoints::Discovered { service_name, .. } => {
                found = self.services.nodes(service_name);
                &found
            }
        };
        let tls = node_tls(model);
        if let Some(NodeTls { verify, shown: None }) = &tls {
            // The certificates of authorities are read now, and not while a request waits.
            self.anonymous.config(*verify, Alpn::of(model.scheme));
        }
        let scheme_port = if tls.is_some() { HTTPS_PORT } else { HTTP_PORT };
        let endpoints = &mut self.endpoints;
        // As in APISIX: of these no port is the usual one. Listed nodes were refused without.
        let must_have_port = matches!(model.scheme, Scheme::Tcp | Scheme::Tls);
        let listed = listed.iter().filter(|node| node.port.is_some() || !must_have_port);
        let compiled = listed.map(|node| {
            let take = |host: &NodeHost, port| endpoints.take((host.clone(), port));
            (node.priority, Node::compile(node, scheme_port, take))
        });
        let (mut nodes, tiers) = tiers(compiled.collect());
        if let Some(checks) = &model.checks {
            let tls = self.probe_tls(model, &checks.active);
            for node in &mut nodes {
                let monitor = self.health.watch(label, &node.host, node.port, &node.authority, checks, tls.clone());
                node.watch = Watch(Some(monitor));
            }
        }
        let balance = self.balance_over(&nodes, old);
        let others = u32::try_from(nodes.len().saturating_sub(1)).unwrap_or(u32::MAX);
        Arc::new(Upstream {
            label: label.into(),
            balance,
            nodes,
            tiers,
            balancing: balancing(model),
            is_watched: model.checks.is_some(),
            pass_host: model.pass_host,
            upstream_host: model.upstream_host.as_deref().map(Into::into),
            retries: model.retries.unwrap_or(others),
            retry_timeout: model.retry_timeout,
            timeouts: model.timeouts,
            scheme: model.scheme,
            tls,
            keepalive: model.keepalive_pool,
            sealed: None,
        })
    }

    /// How probes make TLS: they show what requests show.
    fn probe_tls(&self, model: &resource::Upstream, check: &ActiveCheck) -> Option<ProbeTls> {
        if check.kind != CheckType::Https {
            return None;
        }
        Some(match shown(model) {
            Some(ssl) => ProbeTls::Showing(ssl),
            None => ProbeTls::Anonymous(self.anonymous.config(check.https_verify_certificate, Alpn::Http1).clone()),
        })
    }

    fn sealed(&mut self, label: &str, reason: &str, old: Option<&Upstream>) -> Arc<Upstream> {
        Arc::new(Upstream {
            label: label.into(),
            balance: self.balance_over(&[], old),
            nodes: Box::default(),
            tiers: Box::default(),
            balancing: Balancing::default(),
            is_watched: false,
            pass_host: resource::PassHost::default(),
            upstream_host: None,
            retries: 0,
            retry_timeout: None,
            timeouts: None,
            scheme: Scheme::default(),
            tls: None,
            keepalive: resource::KeepalivePool::default(),
            sealed: Some(reason.into()),
        })
    }

    /// The ticket of a new upstream: its predecessor's where the nodes are the same. The predecessor gives back the rest.
    fn balance_over(&mut self, nodes: &[Node], old: Option<&Upstream>) -> super::super::Ticket {
        let Some(old) = old else { return self.balances.take() };
        let same = *old.nodes == *nodes;
        self.give_back(old, same);
        if same { old.balance } else { self.balances.take() }
    }

    fn give_back(&mut self, old: &Upstream, keep_balance: bool) {
        if !keep_balance {
            self.balances.give_back(old.balance);
        }
        for node in &*old.nodes {
            self.endpoints.give_back(&(node.host.clone(), node.port));
        }
    }
}

fn node_tls(model: &resource::Upstream) -> Option<NodeTls> {
    if !matches!(model.scheme, Scheme::Https | Scheme::Grpcs | Scheme::Tls) {
        return None;
    }
    Some(NodeTls { verify: model.tls.as_ref().is_some_and(|tls| tls.verify), shown: shown(model) })
}

/// The ssl whose certificate the nodes are shown.
fn shown(model: &resource::Upstream) -> Option<Text> {
    model.tls.as_ref()?.client_cert_id.as_ref().map(|ssl| ssl.id.clone())
}

fn balancing(model: &resource::Upstream) -> Balancing {
    match model.algorithm {
        Algorithm::RoundRobin => Balancing::RoundRobin,
        // A key that is not served was refused before.
        Algorithm::ConsistentHash => model.hash_key().map_or_else(Balancing::default, Balancing::Hash),
        Algorithm::LeastConnections => Balancing::LeastConnections,
        Algorithm::Ewma => Balancing::Ewma,
    }
}
