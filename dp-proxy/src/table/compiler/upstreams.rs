//! Compiles upstreams, shared ones and those of one route or service.

use std::sync::Arc;

use imbl::Vector;
use protocol::Text;
use protocol::resource::{self, Algorithm, Endpoints};

use super::super::Handle;
use super::super::route::Target;
use super::super::slots::Slots;
use super::super::ticket::{NamedTickets, Tickets};
use super::super::upstream::{Balancing, Node, NodeHost, Upstream, tiers};
use super::UPSTREAMS;
use crate::health::{Registry, Watch};

type Slab = Vector<Option<Arc<Upstream>>>;

/// The shared upstreams by id, and the tickets of all.
#[derive(Debug, Default)]
pub(super) struct Upstreams {
    shared: Slots,
    endpoints: NamedTickets<(NodeHost, u16)>,
    balances: Tickets,
    health: Arc<Registry>,
}

impl Upstreams {
    /// Upstreams whose nodes are watched there.
    pub(super) fn watching(health: Arc<Registry>) -> Self {
        Self { health, ..Self::default() }
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
        let listed: &[resource::Node] = match &model.endpoints {
            Endpoints::Nodes(nodes) => nodes,
            Endpoints::Discovered { .. } => &[],
        };
        let endpoints = &mut self.endpoints;
        let compiled = listed
            .iter()
            .map(|node| (node.priority, Node::compile(node, |host, port| endpoints.take((host.clone(), port)))));
        let (mut nodes, tiers) = tiers(compiled.collect());
        if let Some(checks) = &model.checks {
            for node in &mut nodes {
                node.watch = Watch(Some(self.health.watch(&node.host, node.port, &node.authority, checks)));
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
            keepalive: model.keepalive_pool,
            sealed: None,
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

fn balancing(model: &resource::Upstream) -> Balancing {
    match model.algorithm {
        Algorithm::RoundRobin => Balancing::RoundRobin,
        // A key that is not served was refused before.
        Algorithm::ConsistentHash => model.hash_key().map_or_else(Balancing::default, Balancing::Hash),
        Algorithm::LeastConnections => Balancing::LeastConnections,
        Algorithm::Ewma => Balancing::Ewma,
    }
}
