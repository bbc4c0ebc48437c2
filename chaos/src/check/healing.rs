//! After a heal every proxy comes to what was acknowledged by then within seconds, by itself (law 8). The time runs from the
//! heal, or from the first write that is acknowledged after it: before that, nodes may have had no leader.

use std::collections::BTreeMap;

use super::Truth;
use crate::history::{At, Call, Event, Micros, Outcome, Stand, faults, ops, stands};

/// How long a proxy may take.
const FOLLOW_MAX: Micros = 5_000_000;

/// What came of a heal.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Healed {
    /// Of which fault.
    pub what: String,
    /// From when the time runs.
    pub from: Micros,
    /// What was acknowledged at the latest by then: where every proxy has to come.
    pub head: At,
    /// How long each took from there until it was seen to be there; nothing: it was not seen so any more.
    pub took: BTreeMap<String, Option<Micros>>,
}

/// What came of each heal of a history.
#[must_use]
pub fn after_heals(history: &[Event]) -> Vec<Healed> {
    let mut acknowledged: Vec<(Micros, At)> = ops(history)
        .filter_map(|op| match (&op.call, &op.outcome) {
            (Call::Write { .. }, Outcome::Ok { position, .. }) => Some((op.returned, *position)),
            _ => None,
        })
        .collect();
    acknowledged.sort_unstable();
    let mut proxies: BTreeMap<&str, Vec<&Stand>> = BTreeMap::new();
    for stand in stands(history).filter(|stand| stand.who.starts_with("dp-")) {
        proxies.entry(&stand.who).or_default().push(stand);
    }
    let healed = |mark: &crate::history::FaultMark| {
        let first = acknowledged.iter().map(|(at, _)| *at).find(|at| *at > mark.at);
        let from = first.unwrap_or(mark.at);
        let head = acknowledged.iter().filter(|(at, _)| *at <= from).map(|(_, position)| *position).max()?;
        let took = proxies.iter().map(|(dp, seen)| {
            let there = seen.iter().filter(|stand| stand.position >= head).map(|stand| stand.at.saturating_sub(from));
            ((*dp).to_owned(), there.min())
        });
        Some(Healed { what: mark.what.clone(), from, head, took: took.collect() })
    };
    faults(history).filter(|mark| !mark.begins).filter_map(healed).collect()
}

pub(super) fn check(history: &[Event], _truth: &Truth) -> Vec<String> {
    let end = stands(history).map(|stand| stand.at).max().unwrap_or_default();
    let mut breaches = Vec::new();
    for Healed { what, from, head, took } in after_heals(history) {
        for (dp, took) in took {
            match took {
                Some(took) if took <= FOLLOW_MAX => {}
                Some(took) => breaches.push(format!(
                    "{dp} came to {head} {} ms after {from} us, when {what} was healed and a write acknowledged",
                    took / 1000
                )),
                // A history that ends before says nothing.
                None if end <= from + FOLLOW_MAX => {}
                None => breaches.push(format!("{dp} never came to {head}, acknowledged by {from} us, after {what}")),
            }
        }
    }
    breaches
}

#[cfg(test)]
mod tests {
    use super::super::sample::{breaches, write};
    use super::*;
    use crate::history::FaultMark;

    const SECOND: Micros = 1_000_000;

    fn stand(who: &str, at: Micros, revision: u64) -> Event {
        let (who, position) = (who.to_owned(), At(1, revision));
        Event::Stand(Stand { who, asked: at, at, position, digest: "x".into(), term: 0, follows: 1 })
    }

    /// A fault that is healed at 10 s; before it a write was acknowledged as revision 7, and after 12 s one as 8.
    fn healed() -> Vec<Event> {
        let mark = |at, begins| Event::Fault(FaultMark { at, what: "kill".to_owned(), begins });
        vec![
            write("a", 1, SECOND, 2 * SECOND, Some(7)),
            mark(3 * SECOND, true),
            mark(10 * SECOND, false),
            write("a", 2, 11 * SECOND, 12 * SECOND, Some(8)),
            stand("dp-1", 13 * SECOND, 8),
        ]
    }

    #[test]
    fn a_proxy_that_follows_late_or_never_is_found() {
        let judged = |stands: &[Event]| breaches(check, &[&healed()[..], stands].concat());
        assert_eq!(judged(&[stand("dp-2", 16 * SECOND, 8)]), 0, "four seconds after the first write");
        assert_eq!(judged(&[stand("dp-2", 16 * SECOND, 7), stand("dp-2", 18 * SECOND, 9)]), 1, "six seconds");
        assert_eq!(judged(&[stand("dp-2", 20 * SECOND, 7)]), 1, "never");
        assert_eq!(judged(&[stand("dp-2", 15 * SECOND, 7)]), 0, "it ends too early");
    }

    #[test]
    fn the_time_runs_from_the_first_write_that_is_acknowledged_after_the_heal() {
        let all = after_heals(&healed());
        let took = BTreeMap::from([("dp-1".to_owned(), Some(SECOND))]);
        assert_eq!(all, [Healed { what: "kill".to_owned(), from: 12 * SECOND, head: At(1, 8), took }]);
    }
}
