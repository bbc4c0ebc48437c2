//! The search for an order, over every key of a history: a cross-check that believes no revision (law 2). Keys are
//! searched apart, which linearizability allows; transactions count as a write of each of their keys.

use std::collections::BTreeMap;

use super::Truth;
use super::search::{Entry, STEPS_MAX, Step, Verdict, search};
use crate::history::{Call, Event, Micros, Outcome, Value, ops};

/// The longest stretch of one key that is searched at once.
const STRETCH: usize = 4000;

pub(super) fn check(history: &[Event], truth: &Truth) -> Vec<String> {
    let mut keys: BTreeMap<&str, Vec<Entry>> = BTreeMap::new();
    for write in truth.writes.iter().filter(|write| write.acknowledged || write.possible) {
        for (key, value) in &write.writes {
            // Which value a condition named is known from the revision, as a client knows it that has read it.
            let named = write.if_match.map(|revision| truth.by_key.get(key).and_then(|w| w.get(&revision)).copied());
            let step = match named {
                Some(Some(before)) => Step::Swap(before, *value),
                // On a write that never was.
                Some(None) => Step::Swap(Value::MAX, *value),
                None => Step::Write(*value),
            };
            keys.entry(key).or_default().push(Entry { invoked: write.invoked, returned: write.returned, step });
        }
    }
    for op in ops(history) {
        let (Call::Read { stale: false, .. }, Outcome::Ok { found, .. }) = (&op.call, &op.outcome) else { continue };
        for (key, found) in found {
            let step = Step::Read(found.map(|found| found.value));
            keys.entry(key).or_default().push(Entry { invoked: op.invoked, returned: Some(op.returned), step });
        }
    }
    let judge = |(key, entries): (&&str, &Vec<Entry>)| match search(&seen(entries)[..], STEPS_MAX) {
        Verdict::Legal => None,
        Verdict::Illegal => Some(format!("no order of the {} operations on {key} explains them", entries.len())),
        Verdict::Undecided => Some(format!("{key}: no verdict within {STEPS_MAX} steps")),
    };
    keys.iter().filter_map(judge).collect()
}

/// Without what cannot matter: a write whose outcome nobody knows and whose value nobody saw need not have happened.
fn seen(entries: &[Entry]) -> Vec<Entry> {
    let shows = |value: Value| {
        entries.iter().any(|entry| match entry.step {
            Step::Read(seen) => seen == Some(value),
            Step::Swap(from, _) => from == value,
            Step::Write(_) => false,
        })
    };
    let matters = |entry: &&Entry| match entry.step {
        Step::Write(value) | Step::Swap(_, value) => entry.returned.is_some() || shows(value),
        Step::Read(_) => true,
    };
    let mut kept: Vec<Entry> = entries.iter().filter(matters).copied().collect();
    kept.sort_by_key(|entry| entry.invoked);
    kept.truncate(STRETCH);
    // A cut end may leave reads of values whose write was cut off with it.
    let end: Micros = kept.last().map_or(0, |entry| entry.invoked);
    if entries.len() > STRETCH {
        kept.retain(|entry| entry.returned.is_none_or(|at| at < end));
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::super::sample::{breaches, cas, read, unknown, write};

    #[test]
    fn it_agrees_with_what_is_plain() {
        let fine = [
            write("a", 1, 0, 1, Some(1)),
            unknown("a", 2, 2, 3),
            cas("a", 3, 1, 4, 5, 2),
            read("a", Some((3, 2)), 2, 6, 7),
        ];
        assert_eq!(breaches(super::check, &fine), 0);
        // A revision that lies does not help.
        let stale = [write("a", 1, 0, 1, Some(1)), write("a", 2, 2, 3, Some(2)), read("a", Some((1, 1)), 9, 4, 5)];
        assert_eq!(breaches(super::check, &stale), 1);
        let double = [write("a", 1, 0, 1, Some(1)), cas("a", 2, 1, 2, 3, 2), cas("a", 3, 1, 4, 5, 3)];
        assert_eq!(breaches(super::check, &double), 1);
    }
}
