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
            let step = match (named, value) {
                (Some(Some(Some(before))), value) => Step::Swap(before, *value),
                // On a write that never was.
                (Some(None | Some(None)), value) => Step::Swap(Value::MAX, *value),
                (None, Some(value)) if write.patch => Step::Patch(*value),
                (None, Some(value)) => Step::Write(*value),
                (None, None) => Step::Delete,
            };
            keys.entry(key).or_default().push(Entry { invoked: write.invoked, returned: write.returned, step });
        }
    }
    for op in ops(history) {
        let mut saw = |key, value| {
            let entry = Entry { invoked: op.invoked, returned: Some(op.returned), step: Step::Read(value) };
            keys.entry(key).or_default().push(entry);
        };
        match (&op.call, &op.outcome) {
            (Call::Read { stale: false, .. }, Outcome::Ok { found, .. }) => {
                found.iter().for_each(|(key, found)| saw(key, found.map(|found| found.value)));
            }
            // There was nothing to delete or to patch.
            (Call::Write { writes, .. }, Outcome::Fail { status: 404 }) => {
                writes.iter().take_while(|_| writes.len() == 1).for_each(|(key, _)| saw(key, None));
            }
            _ => {}
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
            Step::Write(_) | Step::Patch(_) | Step::Delete => false,
        })
    };
    // What was deleted or patched had been written, by whomever.
    let wants_something = |step: Step| matches!(step, Step::Delete | Step::Patch(_));
    let is_wanted = entries.iter().any(|entry| wants_something(entry.step) && entry.returned.is_some());
    let matters = |entry: &&Entry| match entry.step {
        Step::Write(value) | Step::Patch(value) | Step::Swap(_, Some(value)) => {
            entry.returned.is_some() || is_wanted || shows(value)
        }
        // What a delete leaves bears nobody's name.
        Step::Read(_) | Step::Delete | Step::Swap(_, None) => true,
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
    use super::super::sample::{breaches, cas, delete, nothing_to_delete, patch, read, unknown, write};

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

    #[test]
    fn it_knows_what_was_deleted() {
        let fine = [
            write("a", 1, 0, 1, Some(1)),
            delete(&["a"], 2, 3, Some(2)),
            nothing_to_delete("a", 4, 5),
            read("a", None, 2, 6, 7),
            write("a", 2, 8, 9, Some(3)),
        ];
        assert_eq!(breaches(super::check, &fine), 0);
        let unseen = [unknown("a", 1, 0, 1), delete(&["a"], 2, 3, Some(2)), read("a", None, 2, 4, 5)];
        assert_eq!(breaches(super::check, &unseen), 0, "nobody saw the write, and it was deleted");
        let left = [write("a", 1, 0, 1, Some(1)), delete(&["a"], 2, 3, Some(2)), read("a", Some((1, 1)), 2, 4, 5)];
        assert_eq!(breaches(super::check, &left), 1);
        let twice = [write("a", 1, 0, 1, Some(1)), delete(&["a"], 2, 3, Some(2)), delete(&["a"], 4, 5, Some(3))];
        assert_eq!(breaches(super::check, &twice), 1);
        let missed = [write("a", 1, 0, 1, Some(1)), nothing_to_delete("a", 2, 3)];
        assert_eq!(breaches(super::check, &missed), 1);
    }

    #[test]
    fn it_knows_that_only_what_is_there_can_be_patched() {
        let fine = [write("a", 1, 0, 1, Some(1)), patch(&[("a", 2)], 2, 3, Some(2)), read("a", Some((2, 2)), 2, 4, 5)];
        assert_eq!(breaches(super::check, &fine), 0);
        let unseen = [unknown("a", 1, 0, 1), patch(&[("a", 2)], 2, 3, Some(2)), read("a", Some((2, 2)), 2, 4, 5)];
        assert_eq!(breaches(super::check, &unseen), 0, "nobody was told of the write, and it was patched");
        assert_eq!(breaches(super::check, &[patch(&[("a", 2)], 2, 3, Some(2))]), 1, "there was nothing");
        let lost = [write("a", 1, 0, 1, Some(1)), patch(&[("a", 2)], 2, 3, Some(2)), read("a", Some((1, 1)), 2, 4, 5)];
        assert_eq!(breaches(super::check, &lost), 1);
    }
}
