//! Whether everything was well before the first fault. Where it was not, the machine or a bug nobody looked for was at work,
//! and what comes after says nothing of the fault.

use crate::history::{Call, Event, Micros, Outcome, ops, stands};

/// A request through a proxy that takes longer, while nothing is wrong, was starved.
const ANSWER_MAX: Micros = 2_000_000;

/// What was not well before the first fault; in a run without faults, at any time.
pub(super) fn disturbance(history: &[Event]) -> Option<String> {
    let first = history.iter().find_map(|event| if let Event::Fault(mark) = event { Some(mark.at) } else { None });
    let before = first.unwrap_or(Micros::MAX);
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
    let starved = history.iter().find_map(|event| match event {
        // A second is noted when it is over.
        Event::Rate(rate) if rate.at + 1_000_000 + rate.slowest < before && rate.slowest > ANSWER_MAX => Some(rate),
        _ => None,
    });
    starved.map(|rate| format!("before any fault a request through {} took {} ms", rate.dp, rate.slowest / 1000))
}

#[cfg(test)]
mod tests {
    use super::disturbance;
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
        Event::Rate(Rate { dp: "dp-1".to_owned(), at, sent: 1, failed: 0, slowest })
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
}
