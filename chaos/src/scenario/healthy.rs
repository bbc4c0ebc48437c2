//! Whether everything was well before the first fault. Where it was not, the machine or a bug nobody looked for was at work,
//! and what comes after says nothing of the fault.

use crate::check::traffic::{LATE_MAX, Late, SLOWED_MAX, slowed};
use crate::history::{Call, Event, Micros, Outcome, Rate, ops, rates, stands};

/// A request through a proxy that takes longer, while nothing is wrong, was starved.
const ANSWER_MAX: Micros = 2_000_000;

const SECOND: Micros = 1_000_000;
/// A machine on which one takes longer than this, while nothing is wrong, cannot tell what slows a request; where the harness
/// has its time all the while, it is not the machine.
const BASELINE_MAX: Micros = SLOWED_MAX / 2;
/// A harness that was never later than this has had its time. It is 30 ms late at most on a machine of two cores that has nothing else
/// to do, and was over 100 ms late in runs in which requests took 200 ms before any fault.
const CALM_MAX: Micros = 50_000;

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
    slow_before(history, ANSWER_MAX).map(told_slow)
}

/// What says that the machine itself was slow: the harness came late to send a request; or requests were slow before any
/// fault, and it was not quite in time itself.
pub(super) fn starved(history: &[Event]) -> Option<String> {
    let late = |most: Micros, before: Micros| {
        let late = rates(history).filter(|rate| rate.at < before).max_by_key(|rate| rate.late)?;
        let told = format!("the harness itself sent a request to {} {} ms late", late.dp, late.late / 1000);
        (late.late > most).then_some(told)
    };
    late(LATE_MAX, Micros::MAX).or_else(|| {
        let slow = slow_before(history, BASELINE_MAX)?;
        Some(format!("{}, and {}", told_slow(slow), late(CALM_MAX, first_fault(history))?))
    })
}

/// A second whose slowest request cannot be judged, since the harness itself was late while that was under way.
pub(super) fn unjudged(history: &[Event]) -> Option<String> {
    let late = Late::of(history);
    let unjudged = slowed(history).find(|rate| late.while_under_way(rate) > LATE_MAX)?;
    let (slowest, late) = (unjudged.slowest / 1000, late.while_under_way(unjudged) / 1000);
    Some(format!("a request to {} took {slowest} ms, while the harness was {late} ms late itself", unjudged.dp))
}

fn first_fault(history: &[Event]) -> Micros {
    history
        .iter()
        .find_map(|event| if let Event::Fault(mark) = event { Some(mark.at) } else { None })
        .unwrap_or(Micros::MAX)
}

/// A second with a request that had taken longer than that when the first fault began, whenever it was over.
fn slow_before(history: &[Event], most: Micros) -> Option<&Rate> {
    let before = first_fault(history);
    rates(history).find(|rate| rate.slowest > most && rate.at.saturating_add(SECOND + most) <= before)
}

fn told_slow(rate: &Rate) -> String {
    format!("before any fault a request through {} took {} ms", rate.dp, rate.slowest / 1000)
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
        let second = |at, slowest, late| {
            let dp = "dp-1".to_owned();
            Event::Rate(Rate { dp, at, sent: 1, slowest, late, ..Rate::default() })
        };
        let slowed = second(12_000_000, 4_900_000, 3_000);
        for (before, at_last, is_starved, what) in [
            (second(0, 20_000, 0), slowed.clone(), false, "slowed in the fault"),
            (second(0, 700_000, 60_000), slowed.clone(), true, "slow before, on a machine that was busy"),
            (second(0, 700_000, 40_000), slowed.clone(), false, "slow before, on a calm one"),
            (second(7_500_000, 4_900_000, 60_000), slowed.clone(), true, "slow before the fault, and over after it"),
            (second(7_600_000, 4_900_000, 60_000), slowed.clone(), false, "it may be slow by the fault"),
            (second(0, 700_000, 0), second(12_000_000, 20_000, 240_000), false, "busy in the fault alone"),
            (second(0, 20_000, 0), second(12_000_000, 20_000, 400_000), true, "late"),
        ] {
            assert_eq!(starved(&[before, fault.clone(), at_last]).is_some(), is_starved, "{what}");
        }
        assert_eq!(unjudged(&[fault.clone(), second(12_000_000, 900_000, 400_000)]), None, "late, and not slow");
        assert!(unjudged(&[fault, second(12_000_000, 4_900_000, 400_000)]).is_some());
    }
}
