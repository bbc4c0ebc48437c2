//! How long nothing is acknowledged while a fault goes on: what it costs whoever writes.

use crate::history::{BEGUN, Call, Event, Micros, Outcome, ops};

/// A fault of a history, or all of those that overlap.
pub(crate) struct Gap<'h> {
    /// What they are called.
    pub faults: Vec<&'h str>,
    /// The longest time without an acknowledged write that ends after the beginning and begins before the heal. What was before
    /// does not count. Nothing when no answer comes after the beginning.
    pub longest: Option<Micros>,
}

/// The longest time without an acknowledged write in each of them.
pub(super) fn in_faults(history: &[Event]) -> Vec<Micros> {
    gaps(history).into_iter().filter_map(|gap| gap.longest).collect()
}

/// Every fault that was healed.
pub(crate) fn gaps(history: &[Event]) -> Vec<Gap<'_>> {
    let mut answers: Vec<Micros> = ops(history)
        .filter(|op| matches!((&op.call, &op.outcome), (Call::Write { .. }, Outcome::Ok { .. })))
        .map(|op| op.returned)
        .collect();
    answers.sort_unstable();
    let marks = history.iter().filter_map(|event| if let Event::Fault(mark) = event { Some(mark) } else { None });
    let (mut gaps, mut faults) = (Vec::new(), Vec::new());
    let (mut from, mut open) = (0, 0_usize);
    for mark in marks.filter(|mark| !mark.what.ends_with(BEGUN)) {
        if mark.begins {
            from = if open == 0 { mark.at } else { from };
            open += 1;
            faults.push(mark.what.as_str());
            continue;
        }
        if open == 1 {
            gaps.push(Gap { faults: std::mem::take(&mut faults), longest: longest(&answers, from, mark.at) });
        }
        open = open.saturating_sub(1);
    }
    gaps
}

/// Nothing when no answer comes after `from`.
fn longest(answers: &[Micros], from: Micros, to: Micros) -> Option<Micros> {
    let first = answers.partition_point(|at| *at <= from);
    let mut before = from;
    let mut longest = None;
    for at in &answers[first..] {
        if before >= to {
            break;
        }
        longest = longest.max(Some(at - before));
        before = *at;
    }
    longest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::sample::write;
    use crate::history::FaultMark;

    #[test]
    fn faults_that_overlap_have_one_gap() {
        let mark = |at, what: &str, begins| Event::Fault(FaultMark { at, what: what.to_owned(), begins });
        let write = |n: u64, at| write("c", n, at - 1, at, Some(n));
        let faults =
            [mark(10, "a", true), mark(20, "b", true), mark(60, "a", false), mark(80, "b", false), mark(90, "c", true)];
        let writes = [write(1, 15), write(2, 75), write(3, 95)];
        let history = [&faults[..], &[mark(100, "c", false)], &writes].concat();
        assert_eq!(in_faults(&history), [60, 5]);
    }

    #[test]
    fn the_longest_silence_from_the_beginning_of_a_fault_counts() {
        let answers = [10, 20, 25, 900, 905, 2000, 9000];
        assert_eq!(longest(&answers, 22, 1000), Some(1095), "it began within the fault");
        assert_eq!(longest(&answers, 22, 905), Some(875));
        assert_eq!(longest(&answers, 30, 100), Some(870), "what was before does not count");
        assert_eq!(longest(&answers, 9000, 9500), None);
    }
}
