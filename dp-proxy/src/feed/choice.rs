//! Which node of the control plane is dialled next, and after which pause.

use std::time::Duration;

use protocol::seam::Random;

/// Goes round the nodes. A node is stayed with while it is of use; after a failure comes the next. Pauses are drawn
/// between nothing and a bound (full jitter: a fleet that lost its nodes together does not come back together). Within a
/// round the bound is the shortest one, since the next node may well be of use; it doubles with every whole round of
/// which none was, up to the longest. So once a node is of use again, every one is tried within the longest pause and a
/// round of shortest ones, however long the outage was.
#[derive(Debug)]
pub(super) struct Choice {
    count: usize,
    at: usize,
    /// Failures since a node was last of use.
    failures: u32,
    min: Duration,
    max: Duration,
    /// Why each node was last of no use, since one was.
    reasons: Vec<Option<String>>,
}

impl Choice {
    /// Begins with any of `count` nodes, so that a fleet spreads evenly.
    pub(super) fn new(count: usize, min: Duration, max: Duration, random: &dyn Random) -> Self {
        let at = usize::try_from(random.below(count as u64)).unwrap_or(0);
        Self { count, at, failures: 0, min, max, reasons: vec![None; count] }
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
        self.reasons.fill(None);
    }

    /// The node is taken from now on.
    pub(super) fn switch_to(&mut self, node: usize) {
        self.at = node;
        self.good();
    }

    /// Whether the node was not of no use for this same reason when it was last tried: an outage of hours is a line of
    /// the log for each node, not one for each attempt.
    pub(super) fn is_news(&mut self, reason: &str) -> bool {
        let Some(last) = self.reasons.get_mut(self.at) else { return true };
        let is_news = last.as_deref() != Some(reason);
        if is_news {
            *last = Some(reason.to_owned());
        }
        is_news
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
        let count = u32::try_from(self.count.max(1)).unwrap_or(u32::MAX);
        let bound = match (self.failures / count, self.failures % count) {
            (rounds @ 1.., 0) => self.min.saturating_mul(1 << (rounds - 1).min(20)).min(self.max),
            _ => self.min,
        };
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
    fn a_reason_is_news_once_for_each_node_until_one_is_of_use() {
        let mut choice = Choice::new(2, Duration::ZERO, Duration::ZERO, &Fixed(0));
        let mut told = Vec::new();
        for reason in ["refused", "refused", "refused", "no answer", "refused", "no answer"] {
            told.push(choice.is_news(reason));
            choice.bad();
        }
        assert_eq!(told, [true, true, false, true, false, false]);
        choice.good();
        assert!(choice.is_news("refused"), "after it was of use");
    }

    /// The largest pause that could be drawn now, up to a factor of two.
    fn longest(choice: &Choice) -> Duration {
        (0..64).map(|bit| choice.pause(&Fixed((1 << bit) - 1))).max().unwrap()
    }

    #[test]
    fn pauses_are_drawn_below_a_bound_that_doubles_with_every_round() {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(1));
        let mut choice = Choice::new(2, min, max, &Fixed(0));
        let mut bounds = Vec::new();
        for _ in 0..40 {
            choice.bad();
            assert_eq!(choice.pause(&Fixed(0)), Duration::ZERO);
            bounds.push(longest(&choice).as_millis());
        }
        assert!(bounds.iter().step_by(2).all(|within_a_round| *within_a_round < 100), "{bounds:?}");
        let rounds: Vec<u128> = bounds.iter().skip(1).step_by(2).copied().collect();
        assert!(rounds[0] < 100 && (100..200).contains(&rounds[1]) && (200..400).contains(&rounds[2]), "{rounds:?}");
        assert!(rounds.iter().all(|bound| *bound < 1000) && rounds[19] >= 500, "{rounds:?}");
    }

    #[test]
    fn after_any_outage_every_node_is_tried_within_the_longest_pause_and_a_round() {
        let (min, max) = (Duration::from_millis(100), Duration::from_secs(3));
        for failures in 0..200 {
            let mut choice = Choice::new(3, min, max, &Fixed(0));
            (0..failures).for_each(|_| choice.bad());
            let mut waited = Duration::ZERO;
            for _ in 0..3 {
                waited += longest(&choice);
                choice.bad();
            }
            assert!(waited <= max + 2 * min, "{waited:?} after {failures} failures");
        }
    }
}
