//! A search for an order that explains a history (Wing and Gong, with Lowe's memory of what was tried): knows nothing of
//! revisions, so it does not believe what the system says of itself. One key at a time; bounded in steps.

use std::collections::HashSet;

use crate::history::{Micros, Value};

/// An operation on one key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// When it was invoked.
    pub invoked: Micros,
    /// When it had returned; `None`: it may take effect at any later time, or never.
    pub returned: Option<Micros>,
    /// What it did.
    pub step: Step,
}

/// What an operation does to a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Saw this.
    Read(Option<Value>),
    /// Wrote this.
    Write(Value),
    /// Deleted what was there: there was something.
    Delete,
    /// Wrote this into what was there: there was something.
    Patch(Value),
    /// Wrote the second where the first was, or deleted it.
    Swap(Value, Option<Value>),
}

/// What came of a search.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// There is such an order.
    Legal,
    /// There is none.
    Illegal,
    /// The bound was reached first.
    Undecided,
}

/// Steps of one search; a key's history of a run takes some thousands.
pub const STEPS_MAX: usize = 2_000_000;

/// Looks for an order of the operations of one key.
#[must_use]
pub fn search(entries: &[Entry], steps_max: usize) -> Verdict {
    let mut entries = entries.to_vec();
    entries.sort_by_key(|entry| entry.invoked);
    let required = entries.iter().filter(|entry| entry.returned.is_some()).count();
    let mut done = Done::new(entries.len());
    let mut tried: HashSet<(Done, Option<Value>)> = HashSet::new();
    let mut path: Vec<Frame> = Vec::new();
    let (mut state, mut settled, mut next) = (None, 0, 0);
    for _ in 0..steps_max {
        if settled == required {
            return Verdict::Legal;
        }
        let mut found = None;
        // Only what was invoked before the earliest return of what is left may come next.
        let first_open = done.first_open;
        let limit = earliest(&entries, &done);
        let deadline = entries[first_open..]
            .iter()
            .enumerate()
            .take_while(|(_, entry)| entry.invoked <= limit)
            .map(|(offset, _)| first_open + offset)
            .last();
        if let Some(last) = deadline {
            for (index, entry) in entries.iter().enumerate().take(last + 1).skip(next.max(first_open)) {
                if done.has(index) {
                    continue;
                }
                let Some(after) = apply(state, entry.step) else { continue };
                let mut with = done.clone();
                with.set(index);
                if tried.insert((with.clone(), after)) {
                    found = Some((index, with, after));
                    break;
                }
            }
        }
        match found {
            Some((index, with, after)) => {
                path.push(Frame { index, state, done: std::mem::replace(&mut done, with) });
                settled += usize::from(entries[index].returned.is_some());
                (state, next) = (after, 0);
            }
            None => {
                let Some(frame) = path.pop() else { return Verdict::Illegal };
                settled -= usize::from(entries[frame.index].returned.is_some());
                (state, done, next) = (frame.state, frame.done, frame.index + 1);
            }
        }
    }
    Verdict::Undecided
}

struct Frame {
    index: usize,
    state: Option<Value>,
    done: Done,
}

/// The earliest return of what has not taken effect.
fn earliest(entries: &[Entry], done: &Done) -> Micros {
    let mut earliest = Micros::MAX;
    for (index, entry) in entries.iter().enumerate().skip(done.first_open) {
        // Sorted by invocation: nobody behind here returns earlier.
        if entry.invoked > earliest {
            break;
        }
        if !done.has(index) {
            earliest = earliest.min(entry.returned.unwrap_or(Micros::MAX));
        }
    }
    earliest
}

fn apply(state: Option<Value>, step: Step) -> Option<Option<Value>> {
    match step {
        Step::Read(seen) => (seen == state).then_some(state),
        Step::Write(value) => Some(Some(value)),
        Step::Delete => state.is_some().then_some(None),
        Step::Patch(value) => state.is_some().then_some(Some(value)),
        Step::Swap(from, to) => (state == Some(from)).then_some(to),
    }
}

/// Which operations have taken effect: all below `first_open`, and some above.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Done {
    first_open: usize,
    above: Vec<u64>,
    len: usize,
}

impl Done {
    fn new(len: usize) -> Self {
        Self { first_open: 0, above: Vec::new(), len }
    }

    fn has(&self, index: usize) -> bool {
        index < self.first_open || {
            let word = index / 64 - self.first_open / 64;
            self.above.get(word).is_some_and(|bits| bits & (1 << (index % 64)) != 0)
        }
    }

    fn set(&mut self, index: usize) {
        let word = index / 64 - self.first_open / 64;
        if self.above.len() <= word {
            self.above.resize(word + 1, 0);
        }
        self.above[word] |= 1 << (index % 64);
        let before = self.first_open / 64;
        let mut open = self.first_open;
        while open < self.len && self.above.get(open / 64 - before).is_some_and(|bits| bits & (1 << (open % 64)) != 0) {
            open += 1;
        }
        let words = (open / 64 - before).min(self.above.len());
        self.above.drain(..words);
        self.first_open = open;
        while self.above.last() == Some(&0) {
            self.above.pop();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn r(seen: u64, invoked: u64, returned: u64) -> Entry {
        Entry { invoked, returned: Some(returned), step: Step::Read((seen > 0).then_some(seen)) }
    }
    fn w(value: u64, invoked: u64, returned: u64) -> Entry {
        Entry { invoked, returned: Some(returned), step: Step::Write(value) }
    }
    fn u(value: u64, invoked: u64) -> Entry {
        Entry { invoked, returned: None, step: Step::Write(value) }
    }
    fn s(from: u64, to: u64, invoked: u64, returned: u64) -> Entry {
        Entry { invoked, returned: Some(returned), step: Step::Swap(from, Some(to)) }
    }
    fn p(value: u64, invoked: u64, returned: u64) -> Entry {
        Entry { invoked, returned: Some(returned), step: Step::Patch(value) }
    }
    fn d(invoked: u64, returned: u64) -> Entry {
        Entry { invoked, returned: Some(returned), step: Step::Delete }
    }

    #[test]
    fn legal_histories_have_an_order() {
        let all: &[&[Entry]] = &[
            &[],
            &[r(0, 0, 1)],
            &[w(1, 0, 1), r(1, 2, 3)],
            &[w(1, 0, 5), r(0, 1, 2), r(1, 3, 4)],
            &[w(1, 0, 9), w(2, 0, 9), r(2, 1, 2), r(1, 3, 4)],
            &[u(1, 0), r(0, 1, 2), r(1, 3, 4)],
            &[u(1, 0), r(0, 1, 2), r(0, 3, 4)],
            &[u(1, 0), w(2, 1, 2), r(2, 3, 4), r(1, 5, 6)],
            &[w(1, 0, 1), s(1, 2, 2, 3), r(2, 4, 5)],
            &[w(1, 0, 1), s(1, 2, 2, 9), s(2, 3, 2, 9), r(3, 10, 11)],
            &[w(1, 0, 1), u(9, 1), s(9, 2, 2, 3), r(2, 4, 5)],
            &[w(1, 0, 4), w(2, 1, 5), w(3, 2, 6), r(1, 3, 9), r(2, 3, 9), r(3, 3, 9)],
            &[w(1, 0, 1), d(2, 9), r(1, 3, 4), r(0, 5, 6), w(2, 10, 11), r(2, 12, 13)],
            &[w(1, 0, 1), Entry { returned: None, ..d(2, 0) }, r(0, 3, 4)],
            &[w(1, 0, 1), p(2, 2, 3), r(2, 4, 5)],
            &[d(2, 9), p(2, 2, 9), w(1, 0, 1), r(2, 3, 4), r(0, 10, 11)],
        ];
        for history in all {
            assert_eq!(search(history, STEPS_MAX), Verdict::Legal, "{history:?}");
        }
    }

    #[test]
    fn illegal_histories_have_none() {
        let all: &[&[Entry]] = &[
            &[r(1, 0, 1)],
            &[w(1, 0, 1), r(0, 2, 3)],
            &[r(1, 0, 1), w(1, 2, 3)],
            &[w(1, 0, 1), w(2, 2, 3), r(1, 4, 5)],
            &[w(1, 0, 9), r(1, 1, 2), r(0, 3, 4)],
            &[w(1, 0, 9), w(2, 0, 9), r(1, 1, 2), r(2, 3, 4), r(1, 5, 6)],
            &[u(1, 0), r(1, 1, 2), r(0, 3, 4)],
            &[u(1, 5), r(1, 1, 2)],
            &[w(1, 0, 1), s(2, 3, 2, 3)],
            &[w(1, 0, 1), s(1, 2, 2, 9), s(1, 3, 2, 9)],
            &[w(1, 0, 1), s(1, 2, 2, 3), r(1, 4, 5)],
            &[w(1, 0, 1), u(2, 2), r(2, 3, 4), r(1, 5, 6)],
            &[w(1, 0, 1), w(2, 2, 9), w(3, 2, 9), r(2, 3, 4), r(3, 5, 6), r(2, 7, 8)],
            &[d(0, 1)],
            &[w(1, 0, 1), d(2, 3), r(1, 4, 5)],
            &[w(1, 0, 1), d(2, 3), d(4, 5)],
            &[w(1, 0, 1), d(2, 9), r(0, 3, 4), r(1, 5, 6)],
            &[w(1, 0, 1), d(2, 3), s(1, 2, 4, 5)],
            &[p(1, 0, 1)],
            &[w(1, 0, 1), d(2, 3), p(2, 4, 5)],
            &[w(1, 0, 1), p(2, 2, 3), r(1, 4, 5)],
        ];
        for history in all {
            assert_eq!(search(history, STEPS_MAX), Verdict::Illegal, "{history:?}");
        }
    }

    /// Small numbers from a seed.
    struct Luck(u64);
    impl Luck {
        fn below(&mut self, bound: u64) -> u64 {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) % bound
        }
    }

    /// A history that was really lived: operations take effect at a moment within their time.
    fn lived(luck: &mut Luck, count: u64) -> Vec<Entry> {
        let mut moments: Vec<u64> = (0..count).map(|n| n * 10 + 5 + luck.below(5)).collect();
        moments.sort_unstable();
        let mut state = None;
        let mut value = 0;
        moments
            .iter()
            .map(|moment| {
                let (before, after) = (luck.below(30), luck.below(30));
                let step = if luck.below(2) == 0 {
                    Step::Read(state)
                } else {
                    value += 1;
                    let step = match state {
                        Some(old) if luck.below(3) == 0 => Step::Swap(old, (luck.below(4) > 0).then_some(value)),
                        Some(_) if luck.below(5) == 0 => Step::Delete,
                        _ => Step::Write(value),
                    };
                    state = apply(state, step).expect("it was made for this state");
                    step
                };
                let lost = matches!(step, Step::Write(_) | Step::Delete) && luck.below(10) == 0;
                let returned = (!lost).then_some(moment + after + 1);
                Entry { invoked: moment.saturating_sub(before), returned, step }
            })
            .collect()
    }

    #[test]
    fn of_five_hundred_lived_histories_all_are_legal_and_none_that_shows_what_was_long_replaced() {
        let mut luck = Luck(7);
        let mut spoiled = 0;
        for number in 0..500 {
            let mut history = lived(&mut luck, 40);
            assert_eq!(search(&history, STEPS_MAX), Verdict::Legal, "history {number}: {history:?}");
            // One more read, after everything, of a value that a later write has surely replaced.
            let end = history.iter().filter_map(|entry| entry.returned).max().unwrap_or(0);
            let writes: Vec<Entry> =
                history.iter().copied().filter(|e| !matches!(e.step, Step::Read(_)) && e.returned.is_some()).collect();
            let (Some(first), Some(last)) = (writes.first(), writes.last()) else { continue };
            let (Step::Write(old) | Step::Swap(_, Some(old))) = first.step else { continue };
            if first.returned < Some(last.invoked) {
                history.push(r(old, end + 1, end + 2));
                assert_eq!(search(&history, STEPS_MAX), Verdict::Illegal, "history {number}: {history:?}");
                spoiled += 1;
            }
        }
        assert!(spoiled > 300, "{spoiled} histories were spoiled");
    }
}
