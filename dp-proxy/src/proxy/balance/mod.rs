//! Which node a request goes to.
//!
//! Nodes that are down are passed over while one is up, those of a lower priority while one of a higher is left. Among
//! the rest the upstream's algorithm chooses:
//!
//! - `roundrobin`: smooth weighted turns ([`turns`]);
//! - `chash`: the same node for the same key, on every worker and proxy ([`hash`]);
//! - `least_conn` and `ewma`: by what this worker knows of the nodes ([`loads`]).
//!
//! A node of weight 0 gets nothing, unless all of its priority have weight 0 (then each counts as 1).

mod hash;
mod loads;
mod turns;

use std::ops::Range;
use std::rc::Rc;

use protocol::resource::Values;
use smallvec::SmallVec;

use crate::table::{Balancing, Upstream};
pub(crate) use hash::digest;
pub(crate) use loads::{Loads, UnderWay};
use turns::Turns;

/// The nodes that a request was tried on, by their place among the upstream's nodes.
pub(crate) type Tried = SmallVec<[usize; 4]>;

/// A node that was chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Pick {
    /// Its place among the upstream's nodes.
    pub(crate) place: usize,
    /// Whether it is down, and chosen since all others are too.
    pub(crate) down: bool,
}

/// What one worker keeps for choosing.
#[derive(Debug)]
pub(crate) struct Balancer {
    turns: Turns,
    loads: Rc<Loads>,
}

/// Which nodes may be chosen.
#[derive(Clone, Copy)]
struct Choice<'u> {
    upstream: &'u Upstream,
    tried: &'u Tried,
    only_up: bool,
}

impl Balancer {
    pub(crate) fn new(worker: usize, loads: Rc<Loads>) -> Self {
        Self { turns: Turns::new(worker), loads }
    }

    /// The next node for a request, which was not tried yet.
    pub(crate) fn pick(&mut self, upstream: &Upstream, tried: &Tried, values: &dyn Values) -> Option<Pick> {
        if let [node] = &*upstream.nodes {
            return tried.is_empty().then(|| Pick { place: 0, down: !node.watch.is_up() });
        }
        let mut choice = Choice { upstream, tried, only_up: upstream.is_watched };
        if let Some(place) = self.choose(choice, values) {
            return Some(Pick { place, down: false });
        }
        if !upstream.is_watched {
            return None;
        }
        choice.only_up = false;
        self.choose(choice, values).map(|place| Pick { place, down: true })
    }

    fn choose(&mut self, choice: Choice<'_>, values: &dyn Values) -> Option<usize> {
        match &choice.upstream.balancing {
            Balancing::RoundRobin => self.turns.choose(choice),
            Balancing::Hash(key) => hash::choose(choice, key, values),
            Balancing::LeastConnections => self.loads.choose_least_busy(choice),
            Balancing::Ewma => self.loads.choose_quicker(choice),
        }
    }
}

impl<'u> Choice<'u> {
    /// The nodes of a tier that may be chosen, with the weight that counts.
    fn among(self, tier: &Range<usize>) -> impl Iterator<Item = (usize, u32)> + use<'u> {
        let nodes = &self.upstream.nodes;
        let all_zero = nodes[tier.clone()].iter().all(|node| node.weight == 0);
        tier.clone().filter_map(move |place| {
            let node = &nodes[place];
            let weight = if all_zero { 1 } else { node.weight };
            let may = weight > 0 && !self.tried.contains(&place) && (!self.only_up || node.watch.is_up());
            may.then_some((place, weight))
        })
    }
}

#[cfg(test)]
mod tests;
