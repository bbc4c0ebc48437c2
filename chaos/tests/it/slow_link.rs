//! A configuration of a hundred megabytes over slow links: it costs time, and no election.

use std::time::Duration;

use chaos::cluster::Cluster;
use chaos::layout::Layout;
use chaos::link::Link;
use protocol::seam::Random;
use serde_json::{Value, json};

const BITS_PER_SECOND: u64 = 20_000_000;
const TRANSACTION_BYTES: usize = 100 << 20;
/// Nodes of one upstream; their names are text that does not compress well.
const NODES: usize = 500;

fn name(random: &impl Random) -> String {
    let letters = b"abcdefghijklmnopqrstuvwxyz012345";
    (0..3).flat_map(|_| random.bytes16()).map(|byte| char::from(letters[usize::from(byte % 32)])).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_transaction_causes_no_election() {
    let layout = Layout::Test { cluster: 0 };
    let mut cluster = Cluster::new(layout).unwrap();
    let mut links = Vec::new();
    for number in 1..=3 {
        // Whatever the others send to a node comes over its link.
        links.push(Link::start(&layout.link(number), &layout.cp(number).peer, BITS_PER_SECOND).await.unwrap());
        let advertise = format!("peer.advertise={}", layout.link(number));
        cluster.add_cp(number, &[&advertise, "admin.transaction_max=160MiB"]).await.unwrap();
    }
    let leader = cluster.leader().await.unwrap();
    let before = cluster.cp(leader).api().status().await.unwrap();

    let random = daemon::seams::SystemRandom;
    let mut operations = Vec::new();
    let mut bytes = 0;
    while bytes < TRANSACTION_BYTES {
        let nodes: serde_json::Map<String, Value> =
            (0..NODES).map(|_| (format!("{}.example:80", name(&random)), json!(1))).collect();
        let value = json!({"type": "roundrobin", "nodes": nodes});
        bytes += value.to_string().len();
        let id = format!("u{}", operations.len());
        operations.push(json!({"op": "put", "kind": "upstreams", "id": id, "value": value}));
    }
    let count = operations.len();
    let body = json!({"operations": operations}).to_string();
    drop(operations);
    let mut api = cluster.cp(leader).api().patient(Duration::from_secs(160));
    let reply = api.call("POST", "/v1/transactions", &[], body).await.unwrap();
    assert_eq!(reply.status, 200, "{}", &reply.text()[..reply.text().len().min(500)]);

    let (position, _) = cluster.agree(Duration::from_secs(60)).await.unwrap();
    assert_eq!(position, "1-1", "{count} resources are one revision");
    for number in 1..=3 {
        let after = cluster.cp(number).api().status().await.unwrap();
        assert_eq!((after.leader, after.term), (before.leader, before.term), "there was an election");
    }
    let carried: u64 = links.iter().map(|link| link.carried().0).sum();
    // Parts are compressed; five of eight bits of each letter are chance, so that much is left of them, twice.
    assert!(carried > TRANSACTION_BYTES as u64 * 3 / 4, "only {carried} bytes went over the links");
}
