//! What is written to outside of the cluster gates nothing: while the record or the archive alone fail, writes go on as before.

use super::Truth;
use crate::history::{Event, Micros};
use crate::scenario::gaps::gaps;

/// The law.
pub const GATED: &str = "outside-gates-no-write";
/// So long none of all clients may be without an acknowledged write. Whoever waited for the record would wait for a statement's
/// deadline, which is 2 s in an arena.
const GAP_MAX: Micros = 1_500_000;
/// What faults of the record and the archive are called.
const OUTSIDE: [&str; 5] = ["cut_outside", "fail_over_postgres", "freeze_postgres", "kill_postgres", "s3"];

pub(super) fn check(history: &[Event], _truth: &Truth) -> Vec<String> {
    let is_outside = |fault: &&str| OUTSIDE.contains(&fault.split(',').next().unwrap_or_default());
    let gaps = gaps(history).into_iter().filter(|gap| gap.faults.iter().all(is_outside));
    gaps.filter_map(|gap| match gap.longest {
        Some(longest) if longest > GAP_MAX => {
            Some(format!("{}: {} ms without an acknowledged write", gap.faults.join(" beside "), longest / 1000))
        }
        Some(_) => None,
        None => Some(format!("{}: no write is acknowledged any more", gap.faults.join(" beside "))),
    })
    .collect()
}

#[cfg(test)]
mod tests {
    use super::super::sample::{breaches, write};
    use crate::history::{Event, FaultMark};

    #[test]
    fn writes_that_wait_for_what_is_outside_are_found_and_those_that_wait_for_a_node_are_not() {
        let mark = |at, what: &str, begins| Event::Fault(FaultMark { at, what: what.to_owned(), begins });
        let history = |faults: &[&str], silence: u64| {
            let mut history = vec![write("c", 1, 5, 10, Some(1))];
            history.extend(faults.iter().map(|what| mark(20, what, true)));
            history.push(write("c", 2, 25, 30, Some(2)));
            history.push(write("c", 3, 35, 30 + silence, Some(3)));
            history.extend(faults.iter().map(|what| mark(40 + silence, what, false)));
            history.push(write("c", 4, 45 + silence, 50 + silence, Some(4)));
            history
        };
        let cut = "cut_outside,whom:leader,from:record,way:both";
        for (faults, silence, wanted) in [
            (&[cut][..], 1_400_000, 0),
            (&[cut], 1_600_000, 1),
            (&["s3,call:put,how:silence", "kill_postgres"], 1_600_000, 1),
            (&["kill,whom:leader"], 1_600_000, 0),
            (&[cut, "kill,whom:leader"], 1_600_000, 0),
        ] {
            assert_eq!(breaches(super::check, &history(faults, silence)), wanted, "{faults:?} {silence}");
        }
        assert_eq!(breaches(super::check, &[mark(20, cut, true), mark(40, cut, false)]), 1, "none at all");
    }
}
