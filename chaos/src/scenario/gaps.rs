//! How long nothing is acknowledged while a fault goes on: what it costs whoever writes.

use crate::history::{BEGUN, Call, Event, Micros, Outcome, ops};

/// For each fault of a history, the longest time without an acknowledged write that ends after the fault's beginning, and
/// begins before its heal. What was before the fault does not count.
pub(super) fn in_faults(history: &[Event]) -> Vec<Micros> {
    let mut answers: Vec<Micros> = ops(history)
        .filter(|op| matches!((&op.call, &op.outcome), (Call::Write { .. }, Outcome::Ok { .. })))
        .map(|op| op.returned)
        .collect();
    answers.sort_unstable();
    let marks = history.iter().filter_map(|event| if let Event::Fault(mark) = event { Some(mark) } else { None });
    let mut gaps = Vec::new();
    let mut begun = None;
    for mark in marks.filter(|mark| !mark.what.ends_with(BEGUN)) {
        match (mark.begins, begun) {
            (true, _) => begun = Some(mark.at),
            (false, Some(from)) => {
                gaps.extend(longest(&answers, from, mark.at));
                begun = None;
            }
            (false, None) => {}
        }
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

    #[test]
    fn the_longest_silence_from_the_beginning_of_a_fault_counts() {
        let answers = [10, 20, 25, 900, 905, 2000, 9000];
        assert_eq!(longest(&answers, 22, 1000), Some(1095), "it began within the fault");
        assert_eq!(longest(&answers, 22, 905), Some(875));
        assert_eq!(longest(&answers, 30, 100), Some(870), "what was before does not count");
        assert_eq!(longest(&answers, 9000, 9500), None);
    }
}
