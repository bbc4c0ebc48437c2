//! Which node a request goes to.
//!
//! Smooth weighted round robin, per worker and upstream: a node of weight 5 among two of weight 1 gets five of seven
//! requests, spread out and not in a row. Nodes of a lower priority are used only when none of a higher one is left for
//! this request; a node of weight 0 gets nothing, unless all of its priority have weight 0 (then each counts as 1).

use smallvec::SmallVec;

use crate::table::Upstream;

/// The nodes that a request was tried on, by their place among the upstream's nodes.
pub(crate) type Tried = SmallVec<[usize; 4]>;

/// Whose turn it is, for every upstream of one worker.
#[derive(Debug, Default)]
pub(crate) struct Turns {
    /// By the upstream's ticket.
    upstreams: Vec<Turn>,
    /// How many turns a new upstream begins with: workers that all began with the first node would prefer it together.
    ahead: usize,
}

#[derive(Debug, Default)]
struct Turn {
    generation: Option<u32>,
    /// How much each node is owed.
    owed: Vec<i64>,
}

impl Turns {
    pub(crate) fn new(worker: usize) -> Self {
        Self { upstreams: Vec::new(), ahead: worker }
    }

    /// The place of the next node that was not tried yet.
    pub(crate) fn pick(&mut self, upstream: &Upstream, tried: &Tried) -> Option<usize> {
        if let [_] = *upstream.nodes {
            return tried.is_empty().then_some(0);
        }
        let index = upstream.balance.index as usize;
        if self.upstreams.len() <= index {
            self.upstreams.resize_with(index + 1, Turn::default);
        }
        let turn = &mut self.upstreams[index];
        if turn.generation != Some(upstream.balance.generation) {
            turn.generation = Some(upstream.balance.generation);
            turn.owed.clear();
            turn.owed.resize(upstream.nodes.len(), 0);
            for _ in 0..self.ahead % upstream.nodes.len().max(1) {
                turn.next(upstream, &Tried::new());
            }
        }
        turn.next(upstream, tried)
    }
}

impl Turn {
    fn next(&mut self, upstream: &Upstream, tried: &Tried) -> Option<usize> {
        upstream.tiers.iter().find_map(|tier| {
            let all_zero = upstream.nodes[tier.clone()].iter().all(|node| node.weight == 0);
            let mut total = 0;
            let mut best = None;
            for place in tier.clone().filter(|place| !tried.contains(place)) {
                let weight = if all_zero { 1 } else { i64::from(upstream.nodes[place].weight) };
                if weight == 0 {
                    continue;
                }
                total += weight;
                self.owed[place] += weight;
                if best.is_none_or(|best| self.owed[place] > self.owed[best]) {
                    best = Some(place);
                }
            }
            self.owed[best?] -= total;
            best
        })
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use protocol::Entry;
    use protocol::entry::Stamp;
    use protocol::{ConfigState, ResourceKey};
    use std::sync::Arc;

    use super::*;
    use crate::table::{Ask, Compiler};

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
        let entry = Entry {
            body: body.into(),
            references: vec![],
            claims: vec![],
            groups: vec![],
            created: stamp,
            modified: stamp,
            ttl_seconds: None,
        };
        let position = protocol::Position::default().next();
        let entries = [(ResourceKey::new("routes", "r"), Arc::new(entry))];
        let following = ConfigState::following();
        let state = ConfigState::from_entries(following, position, position, protocol::Chain::default(), entries);
        let table = Compiler::fresh(&state, &BTreeMap::new()).table();
        let values = crate::table::NoValues;
        let ask = Ask { host: "", path: "/", method: None, remote: [127, 0, 0, 1].into(), values: &values };
        table.upstream(table.find(&ask).unwrap().route).unwrap().clone()
    }

    fn port_of(upstream: &Upstream, place: usize) -> u16 {
        upstream.nodes[place].port - 1000
    }

    #[test]
    fn turns_are_smooth() {
        let upstream = upstream(&[(5, 0), (1, 0), (1, 0)]);
        let mut turns = Turns::new(0);
        let picked: Vec<_> = (0..7).map(|_| turns.pick(&upstream, &Tried::new()).unwrap()).collect();
        assert_eq!(picked, [0, 0, 1, 0, 2, 0, 0]);
    }

    #[test]
    fn priorities_weights_of_zero_and_what_was_tried() {
        let up = upstream(&[(1, 0), (0, 5), (2, 5), (0, 0), (0, -1), (0, -1)]);
        let mut turns = Turns::new(3);
        let mut tried = Tried::new();
        let mut order = Vec::new();
        while let Some(place) = turns.pick(&up, &tried) {
            tried.push(place);
            order.push(port_of(&up, place));
        }
        assert_eq!(order[..2], [2, 0], "the higher priority first, weight 0 never");
        order[2..].sort_unstable();
        assert_eq!(order[2..], [4, 5], "where all have weight 0, all are used");
        assert_eq!(turns.pick(&upstream(&[]), &Tried::new()), None);
        assert_eq!(turns.pick(&upstream(&[(0, 0)]), &Tried::new()), Some(0));
    }

    #[test]
    fn a_worker_begins_somewhere_else() {
        let upstream = upstream(&[(1, 0), (1, 0), (1, 0)]);
        let first: Vec<_> = (0..3).map(|worker| Turns::new(worker).pick(&upstream, &Tried::new()).unwrap()).collect();
        assert_eq!(first, [0, 1, 2]);
    }

    proptest! {
        #[test]
        fn law_every_node_gets_its_share(weights in prop::collection::vec(0u32..10, 2..6)) {
            let upstream = upstream(&weights.iter().map(|w| (*w, 0)).collect::<Vec<_>>());
            let mut turns = Turns::new(0);
            let weights: Vec<_> = if weights.iter().all(|w| *w == 0) { vec![1; weights.len()] } else { weights };
            let total: u32 = weights.iter().sum();
            let mut counts = vec![0; weights.len()];
            for _ in 0..total * 3 {
                counts[turns.pick(&upstream, &Tried::new()).unwrap()] += 1;
            }
            prop_assert_eq!(counts, weights.iter().map(|w| w * 3).collect::<Vec<_>>());
        }
    }
}
