//! Smooth weighted round robin, per worker and upstream: a node of weight 5 among two of weight 1 gets five of seven
//! requests, spread out and not in a row.

use super::{Choice, Tried};

/// Whose turn it is, for every upstream of one worker.
#[derive(Debug, Default)]
pub(super) struct Turns {
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
    pub(super) fn new(worker: usize) -> Self {
        Self { upstreams: Vec::new(), ahead: worker }
    }

    /// The place of the node whose turn it is.
    pub(super) fn choose(&mut self, choice: Choice<'_>) -> Option<usize> {
        let upstream = choice.upstream;
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
                turn.next(Choice { upstream, tried: &Tried::new(), only_up: false });
            }
        }
        turn.next(choice)
    }
}

impl Turn {
    fn next(&mut self, choice: Choice<'_>) -> Option<usize> {
        choice.upstream.tiers.iter().find_map(|tier| {
            let mut total = 0;
            let mut best = None;
            for (place, weight) in choice.among(tier) {
                total += i64::from(weight);
                self.owed[place] += i64::from(weight);
                if best.is_none_or(|best| self.owed[place] > self.owed[best]) {
                    best = Some(place);
                }
            }
            self.owed[best?] -= total;
            best
        })
    }
}
