//! Asks DNS who a service is.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use protocol::Text;
use protocol::resource::{Node, split_service};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;

use crate::dns::{Answers, DnsError, Resolver, Service, bounded};

/// Nodes of one service that are used. Far more than a balancer has a use for.
const NODES_MAX: usize = 512;
/// Targets of one service that are asked for at once.
const TARGETS_AT_ONCE: usize = 16;

/// Sends for services that are due, and has what came back.
#[derive(Debug)]
pub(crate) struct Searches {
    resolver: Arc<Resolver>,
    sender: mpsc::UnboundedSender<Found>,
    pub(crate) found: mpsc::UnboundedReceiver<Found>,
}

/// What came of asking for a service: its nodes and how long that holds, or why there are none.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) service: Text,
    pub(crate) nodes: Result<(Vec<Node>, Duration), String>,
}

impl Searches {
    pub(crate) fn new(resolver: Arc<Resolver>) -> Self {
        let (sender, found) = mpsc::unbounded_channel();
        Self { resolver, sender, found }
    }

    /// Asks for a service beside everything else. It is answered in any case.
    pub(crate) fn send(&self, service: Text) {
        let (resolver, sender) = (self.resolver.clone(), self.sender.clone());
        tokio::spawn(async move {
            let nodes = find(&resolver, &service).await;
            // Should the feed have ended, nobody wants to know.
            let _ = sender.send(Found { service, nodes });
        });
    }
}

/// The nodes that SRV records name (RFC 2782), else the addresses of the name with the service's own port.
async fn find(resolver: &Arc<Resolver>, service: &str) -> Result<(Vec<Node>, Duration), String> {
    let (name, port) = split_service(service).ok_or_else(|| "it is no name".to_owned())?;
    let services = resolver.services(&name).await.map_err(|e| e.to_string())?;
    let (mut nodes, ttl) = if services.records.is_empty() {
        let Answers { records, ttl } = resolver.addresses(&name).await.map_err(|e| e.to_string())?;
        (records.into_iter().map(|address| node(address, port, 1, 0)).collect(), ttl)
    } else {
        of_targets(resolver, services).await?
    };
    if nodes.is_empty() {
        return Err("it has neither SRV records nor addresses".to_owned());
    }
    nodes.truncate(NODES_MAX);
    // Servers give records in turns; the same ones in another order are the same nodes.
    nodes.sort_by(|a, b| (a.priority, &a.host, a.port, a.weight).cmp(&(b.priority, &b.host, b.port, b.weight)));
    Ok((nodes, bounded(ttl)))
}

/// The addresses of each target. One that cannot be found does not take the others with it.
async fn of_targets(resolver: &Arc<Resolver>, services: Answers<Service>) -> Result<(Vec<Node>, Duration), String> {
    let Answers { mut records, mut ttl } = services;
    records.truncate(NODES_MAX);
    let found = addresses(resolver, records.iter().map(|service| service.target.clone()).collect()).await;
    let mut nodes = Vec::new();
    let mut failure = None;
    for Service { target, port, weight, priority } in records {
        match &found[&target] {
            Ok(found) => {
                ttl = ttl.min(found.ttl);
                // The lowest priority comes first in DNS, the highest does with us. A weight of 0 there is a small one.
                let of_target = |address| node(address, Some(port), u32::from(weight).max(1), -i64::from(priority));
                nodes.extend(found.records.iter().copied().map(of_target));
            }
            Err(e) => failure = Some(format!("{target}: {e}")),
        }
    }
    match failure {
        Some(failure) if nodes.is_empty() => Err(failure),
        _ => Ok((nodes, ttl)),
    }
}

/// The addresses of names, each asked for once.
async fn addresses(
    resolver: &Arc<Resolver>,
    names: BTreeSet<String>,
) -> BTreeMap<String, Result<Answers<IpAddr>, DnsError>> {
    let turns = Arc::new(Semaphore::new(TARGETS_AT_ONCE));
    let mut asking = JoinSet::new();
    for name in names {
        let (resolver, turns) = (resolver.clone(), turns.clone());
        asking.spawn(async move {
            let _turn = turns.acquire_owned().await;
            let found = resolver.addresses(&name).await;
            (name, found)
        });
    }
    asking.join_all().await.into_iter().collect()
}

fn node(address: IpAddr, port: Option<u16>, weight: u32, priority: i64) -> Node {
    Node { host: address.to_string(), port, weight, priority }
}
