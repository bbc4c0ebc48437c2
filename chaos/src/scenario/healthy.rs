//! Whether everything was well before the first fault. Where it was not, the machine or a bug nobody looked for was at work,
//! and what comes after says nothing of the fault.

use crate::check::traffic::{Excused, LATE_MAX, SLOWED_MAX};
use crate::history::{Call, Event, Micros, Outcome, ops, rates, stands};

/// A request through a proxy that takes longer, while nothing is wrong, was starved.
const ANSWER_MAX: Micros = 2_000_000;

const SECOND: Micros = 1_000_000;
/// A machine on which one takes longer than this, while nothing is wrong, cannot tell what slows a request.
const BASELINE_MAX: Micros = SLOWED_MAX / 2;

/// What was not well before the first fault; in a run without faults, at any time.
pub(super) fn disturbance(history: &[Event]) -> Option<String> {
    let before = first_fault(history);
    let terms: Vec<u64> = stands(history).filter(|s| s.at < before && s.term > 0).map(|stand| stand.term).collect();
    if terms.iter().min() != terms.iter().max() {
        return Some("there was an election before any fault".to_owned());
    }
    let unwell = ops(history).find(|op| {
        let is_bad = match op.outcome {
            Outcome::Unknown { .. } => true,
            Outcome::Fail { status } => matches!(status, 0 | 503),
            Outcome::Ok { .. } => false,
        };
        is_bad && op.returned < before
    });
    if let Some(op) = unwell {
        let what = if matches!(op.call, Call::Write { .. }) { "a write" } else { "a read" };
        return Some(format!("before any fault {what} on cp-{} came to {:?}", op.node, op.outcome));
    }
    slow_before(history, ANSWER_MAX)
}

/// What says that the machine itself was slow: before any fault, or when the harness came to send a request.
pub(super) fn starved(history: &[Event]) -> Option<String> {
    let late = rates(history).find(|rate| rate.late > LATE_MAX);
    let late =
        late.map(|rate| format!("the harness itself sent a request to {} {} ms late", rate.dp, rate.late / 1000));
    slow_before(history, BASELINE_MAX).or(late)
}

/// A second whose slowest request cannot be judged, since the harness itself was late to send one of them.
pub(super) fn unjudged(history: &[Event]) -> Option<String> {
    let excused = Excused::of(history);
    let is_unjudged = |rate: &&crate::history::Rate| {
        let is_slow = rate.slowest > SLOWED_MAX && rate.late > LATE_MAX;
        is_slow && !excused.meets(&rate.dp, rate.at, rate.at + SECOND + rate.slowest)
    };
    rates(history).find(is_unjudged).map(|rate| {
        let (slowest, late) = (rate.slowest / 1000, rate.late / 1000);
        format!("a request to {} took {slowest} ms, in a second in which the harness was {late} ms late", rate.dp)
    })
}

fn first_fault(history: &[Event]) -> Micros {
    history
        .iter()
        .find_map(|event| if let Event::Fault(mark) = event { Some(mark.at) } else { None })
        .unwrap_or(Micros::MAX)
}

/// A request that took longer than that, and was over before the first fault.
fn slow_before(history: &[Event], most: Micros) -> Option<String> {
    let before = first_fault(history);
    let is_over = |rate: &&crate::history::Rate| rate.at.saturating_add(SECOND + rate.slowest) < before;
    let slow = rates(history).filter(is_over).find(|rate| rate.slowest > most);
    slow.map(|rate| format!("before any fault a request through {} took {} ms", rate.dp, rate.slowest / 1000))
}

#[cfg(test)]
mod tests {
    use super::{disturbance, starved, unjudged};
    use crate::history::{At, Call, Event, FaultMark, Op, Outcome, Rate, Stand};

    fn stand(at: u64, term: u64) -> Event {
        let who = "cp-1".to_owned();
        Event::Stand(Stand { who, asked: at, at, position: At(1, 1), digest: "x".into(), term, follows: 1 })
    }

    fn op(returned: u64, outcome: Outcome) -> Event {
        let call = Call::Read { keys: vec!["k".to_owned()], stale: false };
        Event::Op(Op { client: "a".to_owned(), node: 1, invoked: 1, returned, call, outcome })
    }

    fn rate(at: u64, slowest: u64) -> Event {
        Event::Rate(Rate { dp: "dp-1".to_owned(), at, sent: 1, slowest, ..Rate::default() })
    }

    #[test]
    fn what_is_not_well_before_the_first_fault_is_told_and_what_comes_after_it_is_not() {
        let fault = Event::Fault(FaultMark { at: 9_000_000, what: "kill".to_owned(), begins: true });
        let unknown = || Outcome::Unknown { why: "silence".to_owned() };
        let well = [stand(1, 2), op(2, Outcome::Fail { status: 412 }), rate(0, 5_000), fault.clone()];
        let after = [stand(9_500_000, 3), op(9_500_000, unknown()), rate(9_000_000, 3_000_000)];
        assert_eq!(disturbance(&[&well[..], &after].concat()), None);
        for bad in [stand(5, 3), op(5, unknown()), op(5, Outcome::Fail { status: 503 }), rate(1, 3_000_000)] {
            let history = [std::slice::from_ref(&bad), &well[..]].concat();
            assert!(disturbance(&history).is_some(), "{bad:?}");
            // Without any fault the whole run should have been well.
            assert!(disturbance(&[stand(1, 2), bad.clone()]).is_some(), "{bad:?}");
        }
    }
    #[test]
    fn a_machine_that_is_slow_by_itself_is_told_from_a_request_that_is_slowed() {
        let fault = Event::Fault(FaultMark { at: 9_000_000, what: "kill".to_owned(), begins: true });
        let late = |slowest, late| {
            let dp = "dp-1".to_owned();
            Event::Rate(Rate { dp, at: 12_000_000, sent: 1, slowest, late, ..Rate::default() })
        };
        assert_eq!(starved(&[rate(0, 20_000), fault.clone(), late(4_900_000, 3_000)]), None, "slowed in the fault");
        assert!(starved(&[rate(0, 700_000), fault.clone(), late(4_900_000, 3_000)]).is_some(), "slow before");
        assert!(starved(&[rate(0, 20_000), fault.clone(), late(20_000, 400_000)]).is_some(), "late");
        assert_eq!(unjudged(&[fault.clone(), late(900_000, 400_000)]), None, "late, and not slow");
        assert!(unjudged(&[fault, late(4_900_000, 400_000)]).is_some());
    }
}
