//! What one worker knows of the nodes: requests under way, and how quick their answers were.
//!
//! Kept only for upstreams whose algorithm asks for it. A worker judges by its own traffic: nothing is shared.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::time::Instant;

use super::Choice;
use crate::table::{Ticket, Upstream};

/// After so long without news an average has lost most of its weight (APISIX's figure).
const DECAY: Duration = Duration::from_secs(10);

/// What a request that came to nothing counts at least: longer than any but the slowest answers take.
const FAILURE_MIN: Duration = Duration::from_secs(5);

/// A worker's knowledge, by the ticket of the node's address.
#[derive(Debug, Default)]
pub(crate) struct Loads {
    nodes: RefCell<Vec<Load>>,
    /// Moves on with every choice, so that equals take turns.
    turn: Cell<u64>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Load {
    generation: u32,
    under_way: u32,
    /// The moving average of times to the head of an answer, in seconds, and when it was last added to.
    average: Option<(f64, Instant)>,
}

/// A request under way at a node; over when this is dropped.
#[derive(Debug)]
pub(crate) struct UnderWay {
    loads: Rc<Loads>,
    endpoint: Ticket,
    begun: Instant,
}

impl Loads {
    /// A request goes to a node.
    pub(crate) fn begin(self: &Rc<Self>, endpoint: Ticket) -> UnderWay {
        self.with(endpoint, |load| load.under_way += 1);
        UnderWay { loads: self.clone(), endpoint, begun: Instant::now() }
    }

    fn with<T>(&self, endpoint: Ticket, change: impl FnOnce(&mut Load) -> T) -> T {
        let mut nodes = self.nodes.borrow_mut();
        let index = endpoint.index as usize;
        if nodes.len() <= index {
            nodes.resize(index + 1, Load::default());
        }
        let load = &mut nodes[index];
        if load.generation != endpoint.generation {
            *load = Load { generation: endpoint.generation, ..Load::default() };
        }
        change(load)
    }

    fn of(&self, upstream: &Upstream, place: usize) -> Load {
        let endpoint = upstream.nodes[place].endpoint;
        let nodes = self.nodes.borrow();
        let known = nodes.get(endpoint.index as usize).filter(|load| load.generation == endpoint.generation);
        known.copied().unwrap_or_default()
    }

    fn next_turn(&self) -> u64 {
        let turn = self.turn.get();
        self.turn.set(turn.wrapping_add(1));
        turn
    }

    /// The node with the fewest requests under way for its weight; equals take turns.
    pub(super) fn choose_least_busy(&self, choice: Choice<'_>) -> Option<usize> {
        let turn = self.next_turn();
        choice.upstream.tiers.iter().find_map(|tier| {
            let mut best: SmallVec<[usize; 8]> = SmallVec::new();
            let mut least = (1, 0);
            for (place, weight) in choice.among(tier) {
                let busy = u64::from(self.of(choice.upstream, place).under_way) + 1;
                // busy / weight against least, without a division.
                let (ours, theirs) = (busy * least.1, least.0 * u64::from(weight));
                if best.is_empty() || ours < theirs {
                    best.clear();
                    least = (busy, u64::from(weight));
                    best.push(place);
                } else if ours == theirs {
                    best.push(place);
                }
            }
            pick(&best, turn)
        })
    }

    /// The quicker of two nodes that chance has chosen. One of which nothing is known gets one request at a time until
    /// it has answered.
    pub(super) fn choose_quicker(&self, choice: Choice<'_>) -> Option<usize> {
        let chance = scatter(self.next_turn());
        let now = Instant::now();
        choice.upstream.tiers.iter().find_map(|tier| {
            let places: SmallVec<[usize; 8]> = choice.among(tier).map(|(place, _)| place).collect();
            let one = pick(&places, chance)?;
            let others: SmallVec<[usize; 8]> = places.iter().copied().filter(|place| *place != one).collect();
            let Some(other) = pick(&others, chance >> 32) else { return Some(one) };
            let slow = |place| {
                let load = self.of(choice.upstream, place);
                match load.average {
                    Some((average, at)) => average * remaining(now.saturating_duration_since(at)),
                    None if load.under_way == 0 => 0.0,
                    None => f64::INFINITY,
                }
            };
            Some(if slow(other) < slow(one) { other } else { one })
        })
    }
}

impl UnderWay {
    /// The head of its answer is there.
    pub(crate) fn answered(&self) {
        self.took(self.begun.elapsed());
    }

    /// No answer came of it. However soon that was known, a node that fails is not a quick one.
    pub(crate) fn failed(&self) {
        self.took(self.begun.elapsed().max(FAILURE_MIN));
    }

    fn took(&self, time: Duration) {
        let (now, took) = (Instant::now(), time.as_secs_f64());
        self.loads.with(self.endpoint, |load| {
            let average = load.average.map_or(took, |(average, at)| {
                let rest = remaining(now.saturating_duration_since(at));
                average * rest + took * (1.0 - rest)
            });
            load.average = Some((average, now));
        });
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        let Ticket { index, generation } = self.endpoint;
        let mut nodes = self.loads.nodes.borrow_mut();
        if let Some(load) = nodes.get_mut(index as usize).filter(|load| load.generation == generation) {
            load.under_way = load.under_way.saturating_sub(1);
        }
    }
}

/// What is left of an average after some time without news.
fn remaining(time: Duration) -> f64 {
    (-time.as_secs_f64() / DECAY.as_secs_f64()).exp()
}

fn pick(places: &[usize], number: u64) -> Option<usize> {
    let count = u64::try_from(places.len()).ok().filter(|count| *count > 0)?;
    places.get(usize::try_from(number % count).ok()?).copied()
}

/// Scatters a counter over all numbers (SplitMix64).
fn scatter(turn: u64) -> u64 {
    let mut bits = turn.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    bits ^ (bits >> 31)
}
