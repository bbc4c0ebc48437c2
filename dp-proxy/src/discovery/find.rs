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
/// Into how many parts a weight may be cut to be shared out among addresses. Past it shares are rounded.
const SHARES_MAX: u64 = 1 << 16;
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
    let (nodes, ttl) = if services.records.is_empty() {
        let Answers { records, ttl } = resolver.addresses(&name).await.map_err(|e| e.to_string())?;
        (one_family(&records).map(|address| node(address, port, 1, 0)).collect(), ttl)
    } else {
        of_targets(resolver, services, port).await?
    };
    if nodes.is_empty() {
        return Err("it has neither SRV records nor addresses".to_owned());
    }
    Ok((in_order(nodes), bounded(ttl)))
}

/// Servers give records in turns; the same ones in another order are the same nodes. Those that come first stay where there
/// are too many.
fn in_order(mut nodes: Vec<Node>) -> Vec<Node> {
    nodes.sort_by(|a, b| (b.priority, &a.host, a.port, a.weight).cmp(&(a.priority, &b.host, b.port, b.weight)));
    nodes.truncate(NODES_MAX);
    nodes
}

/// The nodes of each target. One that cannot be found does not take the others with it.
async fn of_targets(
    resolver: &Arc<Resolver>,
    services: Answers<Service>,
    port: Option<u16>,
) -> Result<(Vec<Node>, Duration), String> {
    let Answers { mut records, mut ttl } = services;
    records.sort_by(|a, b| (a.priority, &a.target, a.port).cmp(&(b.priority, &b.target, b.port)));
    records.truncate(NODES_MAX);
    let found = addresses(resolver, records.iter().map(|service| service.target.clone()).collect()).await;
    let mut targets = Vec::new();
    let mut failure = None;
    for service in records {
        match &found[&service.target] {
            Ok(found) => {
                ttl = ttl.min(found.ttl);
                targets.push((service, one_family(&found.records).collect::<Vec<_>>()));
            }
            Err(e) => failure = Some(format!("{}: {e}", service.target)),
        }
    }
    let nodes = shared_out(&targets, port);
    match failure {
        Some(failure) if nodes.is_empty() => Err(failure),
        _ => Ok((nodes, ttl)),
    }
}

/// The nodes of targets with these addresses, as APISIX makes them: the addresses of one share its weight, and `port`, which
/// the service's own name has, goes before the target's, of which 0 is none.
fn shared_out(targets: &[(Service, Vec<IpAddr>)], port: Option<u16>) -> Vec<Node> {
    let counts = targets.iter().map(|(_, addresses)| addresses.len() as u64).filter(|count| *count > 0);
    let whole =
        counts.fold(1, |whole: u64, count| (whole / greatest_common_divisor(whole, count) * count).min(SHARES_MAX));
    let of_target = |(service, addresses): &(Service, Vec<IpAddr>)| {
        // A weight of 0 is a small one.
        let weight = u64::from(service.weight).max(1) * whole / (addresses.len() as u64).max(1);
        let weight = u32::try_from(weight).expect("at most 2^16 times 2^16 - 1").max(1);
        let port = port.or(Some(service.port).filter(|port| *port > 0));
        // The lowest priority comes first in DNS, the highest does with us.
        let priority = -i64::from(service.priority);
        addresses.iter().map(move |address| node(*address, port, weight, priority)).collect::<Vec<_>>()
    };
    targets.iter().flat_map(of_target).collect()
}

fn greatest_common_divisor(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { greatest_common_divisor(b, a % b) }
}

/// The addresses of IPv4, or those of IPv6 where there are none. Each is a node of its own: who has two addresses is not to
/// count twice, nor to fail half of the time where this machine knows no way by one family.
fn one_family(addresses: &[IpAddr]) -> impl Iterator<Item = IpAddr> {
    let has_four = addresses.iter().any(IpAddr::is_ipv4);
    addresses.iter().copied().filter(move |address| address.is_ipv4() == has_four)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn target(priority: u16, weight: u16, port: u16, addresses: &[&str]) -> (Service, Vec<IpAddr>) {
        let service = Service { target: "a.example".to_owned(), port, weight, priority };
        (service, addresses.iter().map(|address| address.parse().unwrap()).collect())
    }

    fn told(nodes: &[Node]) -> Vec<String> {
        let port = |node: &Node| node.port.map_or("-".to_owned(), |port| port.to_string());
        nodes.iter().map(|node| format!("{}:{} {} {}", node.host, port(node), node.weight, node.priority)).collect()
    }

    #[test]
    fn the_addresses_of_a_target_share_its_weight() {
        let targets = [
            target(1, 10, 80, &["10.0.0.1"]),
            target(1, 10, 81, &["10.0.0.2", "10.0.0.3"]),
            target(2, 0, 82, &["10.0.0.4", "10.0.0.5", "10.0.0.6"]),
            target(2, 7, 83, &[]),
        ];
        let expected = [
            "10.0.0.1:80 60 -1",
            "10.0.0.2:81 30 -1",
            "10.0.0.3:81 30 -1",
            "10.0.0.4:82 2 -2",
            "10.0.0.5:82 2 -2",
            "10.0.0.6:82 2 -2",
        ];
        assert_eq!(told(&shared_out(&targets, None)), expected);
        assert_eq!(told(&shared_out(&[target(0, 3, 80, &["10.0.0.1"])], None)), ["10.0.0.1:80 3 0"]);
        // As many parts as there may be, and more.
        let many: Vec<_> = (1..40_u8).map(|count| target(0, u16::MAX, 80, &vec!["10.0.0.1"; count.into()])).collect();
        let weights: Vec<_> = shared_out(&many, None).iter().map(|node| node.weight).collect();
        assert!(weights.is_sorted_by(|a, b| a >= b) && weights[0] == u32::from(u16::MAX) << 16, "{weights:?}");
    }

    #[test]
    fn the_port_of_the_services_name_goes_before_that_of_targets_and_none_is_the_schemes() {
        for (own, of_target, expected) in [(None, 81, "81"), (None, 0, "-"), (Some(80), 81, "80"), (Some(80), 0, "80")]
        {
            let nodes = shared_out(&[target(0, 1, of_target, &["10.0.0.1"])], own);
            assert_eq!(told(&nodes), [format!("10.0.0.1:{expected} 1 0")]);
        }
    }

    #[test]
    fn a_family_is_used_and_not_both() {
        for (all, expected) in [
            (&["10.0.0.1", "::1", "10.0.0.2"][..], &["10.0.0.1", "10.0.0.2"][..]),
            (&["::1", "::2"], &["::1", "::2"]),
            (&[], &[]),
        ] {
            let all: Vec<IpAddr> = all.iter().map(|address| address.parse().unwrap()).collect();
            assert_eq!(one_family(&all).map(|address| address.to_string()).collect::<Vec<_>>(), expected);
        }
    }

    #[test]
    fn of_too_many_nodes_the_same_ones_are_used_and_the_first() {
        let bound = i64::try_from(NODES_MAX).unwrap();
        let kept = |priorities: &mut dyn Iterator<Item = i64>| {
            in_order(priorities.map(|priority| node(IpAddr::from([10, 0, 0, 1]), None, 1, priority)).collect())
        };
        let nodes = kept(&mut (0..2 * bound).map(|at| -at));
        assert_eq!((nodes.len(), nodes[0].priority, nodes[NODES_MAX - 1].priority), (NODES_MAX, 0, 1 - bound));
        assert_eq!(kept(&mut (1 - 2 * bound..=0)), nodes);
    }
}
