//! Which node of the control plane is dialled next, and after which pause.

use std::time::Duration;

use protocol::seam::Random;

/// Goes round the nodes. A node is stayed with while it is of use; after a failure comes the next, after a pause that
/// is drawn between nothing and a bound which doubles (full jitter: a fleet that lost its nodes together does not come
/// back together).
#[derive(Debug)]
pub(super) struct Choice {
    count: usize,
    at: usize,
    /// Failures since a node was last of use.
    failures: u32,
    min: Duration,
    max: Duration,
}

impl Choice {
    /// Begins with any of `count` nodes, so that a fleet spreads evenly.
    pub(super) fn new(count: usize, min: Duration, max: Duration, random: &dyn Random) -> Self {
        let at = usize::try_from(random.below(count as u64)).unwrap_or(0);
        Self { count, at, failures: 0, min, max }
    }

    /// The node to dial.
    pub(super) fn current(&self) -> usize {
        self.at
    }

    /// The node after this one; `None` when it is the only one.
    pub(super) fn other(&self, steps: usize) -> Option<usize> {
        (self.count > 1).then(|| (self.at + 1 + steps % (self.count - 1)) % self.count)
    }

    /// The node was of use.
    pub(super) fn good(&mut self) {
        self.failures = 0;
    }

    /// The node is taken from now on.
    pub(super) fn switch_to(&mut self, node: usize) {
        self.at = node;
        self.failures = 0;
    }

    /// The node was of no use: the next one is next.
    pub(super) fn bad(&mut self) {
        self.failures = self.failures.saturating_add(1);
        self.at = (self.at + 1) % self.count.max(1);
    }

    /// The node is asked again.
    pub(super) fn again(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    /// How long to wait before dialling.
    pub(super) fn pause(&self, random: &dyn Random) -> Duration {
        if self.failures == 0 {
            return Duration::ZERO;
        }
        let bound = self.min.saturating_mul(1 << (self.failures - 1).min(20)).min(self.max);
        Duration::from_micros(random.below(u64::try_from(bound.as_micros()).unwrap_or(u64::MAX)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Draws what it was told.
    struct Fixed(u64);

    impl Random for Fixed {
        fn next(&self) -> u64 {
            self.0
        }
    }

    #[test]
    fn it_goes_round_and_stays_where_it_is_good() {
        let mut choice = Choice::new(3, Duration::from_millis(100), Duration::from_secs(1), &Fixed(2));
        assert_eq!(choice.current(), 2, "the first is drawn");
        choice.bad();
        assert_eq!(choice.current(), 0);
        choice.good();
        choice.again();
        assert_eq!(choice.current(), 0, "asked again");
        assert_eq!((0..4).map(|n| choice.other(n).unwrap()).collect::<Vec<_>>(), [1, 2, 1, 2]);
        choice.switch_to(1);
        assert_eq!((choice.current(), choice.pause(&Fixed(u64::MAX - 1))), (1, Duration::ZERO));
        assert_eq!(Choice::new(1, Duration::ZERO, Duration::ZERO, &Fixed(7)).other(0), None);
    }

    #[test]
    fn pauses_are_drawn_below_a_bound_that_doubles() {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut choice = Choice::new(2, min, max, &Fixed(0));
        let mut bounds = Vec::new();
        for _ in 0..40 {
            choice.bad();
            assert_eq!(choice.pause(&Fixed(0)), Duration::ZERO);
            // The largest number below the bound.
            let longest = (0..64).map(|bit| choice.pause(&Fixed((1 << bit) - 1))).max().unwrap();
            bounds.push(longest.as_millis());
        }
        assert!(
            bounds[0] < 100 && bounds[1] < 200 && bounds[1] >= 100 && bounds.iter().all(|b| *b < 1000),
            "{bounds:?}"
        );
    }
}
