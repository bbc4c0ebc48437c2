//! Choices: shares, priorities, nodes that are down, keys that stay where they are.

use std::collections::BTreeMap;

use proptest::prelude::*;
use protocol::Entry;
use protocol::entry::Stamp;
use protocol::{ConfigState, ResourceKey};
use std::sync::Arc;

use super::*;
use crate::table::{Ask, Compiler, NoValues};

fn balancer(worker: usize) -> Balancer {
    Balancer::new(worker, Rc::default())
}

/// An upstream of nodes with weight and priority each.
fn upstream(nodes: &[(u32, i64)]) -> Arc<Upstream> {
    let nodes: Vec<_> = nodes
        .iter()
        .enumerate()
        .map(|(n, (weight, priority))| {
            serde_json::json!({"host": "127.0.0.1", "port": 1000 + n, "weight": weight, "priority": priority})
        })
        .collect();
    let body = serde_json::json!({"uri": "/", "upstream": {"nodes": nodes}}).to_string();
    let stamp = Stamp { revision: 1, time: 0 };
    let entry = Entry::new(body, protocol::entry::DEFAULT_GROUP, stamp);
    let position = protocol::Position::default().next();
    let entries = [(ResourceKey::new("routes", "r"), Arc::new(entry))];
    let following = ConfigState::following();
    let state = ConfigState::from_entries(following, position, position, protocol::Chain::default(), entries);
    let table = Compiler::fresh(&state, &BTreeMap::new()).table();
    let values = NoValues;
    let ask = Ask { host: "", path: "/", method: None, remote: [127, 0, 0, 1].into(), values: &values };
    table.upstream(table.find(&ask).unwrap().route).unwrap().clone()
}

fn port_of(upstream: &Upstream, place: usize) -> u16 {
    upstream.nodes[place].port - 1000
}

#[test]
fn turns_are_smooth() {
    let upstream = upstream(&[(5, 0), (1, 0), (1, 0)]);
    let mut turns = balancer(0);
    let picked: Vec<_> = (0..7).map(|_| turns.pick(&upstream, &Tried::new(), &NoValues).unwrap().place).collect();
    assert_eq!(picked, [0, 0, 1, 0, 2, 0, 0]);
}

#[test]
fn priorities_weights_of_zero_and_what_was_tried() {
    let up = upstream(&[(1, 0), (0, 5), (2, 5), (0, 0), (0, -1), (0, -1)]);
    let mut turns = balancer(3);
    let mut tried = Tried::new();
    let mut order = Vec::new();
    while let Some(Pick { place, .. }) = turns.pick(&up, &tried, &NoValues) {
        tried.push(place);
        order.push(port_of(&up, place));
    }
    assert_eq!(order[..2], [2, 0], "the higher priority first, weight 0 never");
    order[2..].sort_unstable();
    assert_eq!(order[2..], [4, 5], "where all have weight 0, all are used");
    assert_eq!(turns.pick(&upstream(&[]), &Tried::new(), &NoValues), None);
    assert_eq!(turns.pick(&upstream(&[(0, 0)]), &Tried::new(), &NoValues), Some(Pick { place: 0, down: false }));
}

#[test]
fn a_worker_begins_somewhere_else() {
    let upstream = upstream(&[(1, 0), (1, 0), (1, 0)]);
    let first: Vec<_> =
        (0..3).map(|worker| balancer(worker).pick(&upstream, &Tried::new(), &NoValues).unwrap().place).collect();
    assert_eq!(first, [0, 1, 2]);
}

proptest! {
    #[test]
    fn law_every_node_gets_its_share(weights in prop::collection::vec(0u32..10, 2..6)) {
        let upstream = upstream(&weights.iter().map(|w| (*w, 0)).collect::<Vec<_>>());
        let mut turns = balancer(0);
        let weights: Vec<_> = if weights.iter().all(|w| *w == 0) { vec![1; weights.len()] } else { weights };
        let total: u32 = weights.iter().sum();
        let mut counts = vec![0; weights.len()];
        for _ in 0..total * 3 {
            counts[turns.pick(&upstream, &Tried::new(), &NoValues).unwrap().place] += 1;
        }
        prop_assert_eq!(counts, weights.iter().map(|w| w * 3).collect::<Vec<_>>());
    }
}

/// A request with one argument.
struct Key(String);

impl Values for Key {
    fn value(&self, _: &protocol::resource::Variable) -> Option<std::borrow::Cow<'_, [u8]>> {
        Some(std::borrow::Cow::Borrowed(self.0.as_bytes()))
    }
}

fn hashing(nodes: &[(u32, i64)]) -> Upstream {
    let key = protocol::resource::HashKey::Variable(protocol::resource::Variable::parse("arg_k"));
    Upstream { balancing: Balancing::Hash(key), ..Upstream::clone(&upstream(nodes)) }
}

fn hashed(upstream: &Upstream, key: u32) -> u16 {
    let picked = balancer(0).pick(upstream, &Tried::new(), &Key(key.to_string())).unwrap();
    port_of(upstream, picked.place)
}

#[test]
fn keys_are_shared_out_by_weight_and_move_only_when_they_must() {
    const KEYS: u32 = 20_000;
    let three = hashing(&[(1, 0), (2, 0), (1, 0)]);
    let two = hashing(&[(1, 0), (2, 0)]);
    let mut counts = [0u32; 3];
    for key in 0..KEYS {
        let node = hashed(&three, key);
        counts[usize::from(node)] += 1;
        if node != 2 {
            assert_eq!(hashed(&two, key), node, "a node that goes takes only its own keys");
        }
    }
    for (count, share) in counts.iter().zip([0.25, 0.5, 0.25]) {
        assert!((f64::from(*count) / f64::from(KEYS) - share).abs() < 0.02, "{counts:?}");
    }
    // Frozen: another answer here sends clients elsewhere after an upgrade.
    assert_eq!((0..12).map(|key| hashed(&three, key)).collect::<Vec<_>>(), FROZEN);
}

const FROZEN: [u16; 12] = [1, 0, 1, 0, 0, 1, 1, 2, 1, 2, 1, 2];

#[test]
fn a_key_whose_node_was_tried_goes_to_the_next_and_not_round_in_circles() {
    let up = hashing(&[(1, 0), (1, 0), (1, 0), (1, -1)]);
    let mut tried = Tried::new();
    while let Some(pick) = balancer(0).pick(&up, &tried, &Key("k".into())) {
        tried.push(pick.place);
    }
    assert_eq!(tried.len(), 4);
    assert_eq!(port_of(&up, tried[3]), 3, "the lower priority last");
}

#[test]
fn the_least_busy_node_is_chosen_by_weight() {
    let up = Upstream { balancing: Balancing::LeastConnections, ..Upstream::clone(&upstream(&[(3, 0), (1, 0)])) };
    let mut balancer = balancer(0);
    let mut under_way = Vec::new();
    for _ in 0..40 {
        let place = balancer.pick(&up, &Tried::new(), &NoValues).unwrap().place;
        under_way.push((place, balancer.loads.begin(up.nodes[place].endpoint)));
    }
    assert_eq!(under_way.iter().filter(|(place, _)| *place == 0).count(), 30);
    // All requests at the heavy node end: it is chosen until it is as busy again.
    under_way.retain(|(place, _)| *place == 1);
    for _ in 0..20 {
        let place = balancer.pick(&up, &Tried::new(), &NoValues).unwrap().place;
        assert_eq!(place, 0);
        under_way.push((place, balancer.loads.begin(up.nodes[place].endpoint)));
    }
}

#[tokio::test(start_paused = true)]
async fn the_quicker_node_gets_the_requests_and_a_new_one_is_tried() {
    let up = Upstream { balancing: Balancing::Ewma, ..Upstream::clone(&upstream(&[(1, 0), (1, 0)])) };
    let mut balancer = balancer(0);
    let mut counts = [0; 2];
    for _ in 0..100 {
        let place = balancer.pick(&up, &Tried::new(), &NoValues).unwrap().place;
        let under_way = balancer.loads.begin(up.nodes[place].endpoint);
        tokio::time::sleep(std::time::Duration::from_millis(if place == 0 { 50 } else { 5 })).await;
        under_way.answered();
        counts[place] += 1;
    }
    assert!(counts[0] >= 1 && counts[1] > 80, "{counts:?}");
}
