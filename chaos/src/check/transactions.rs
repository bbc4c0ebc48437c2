//! Nobody sees a part of a transaction (laws 2 and 5): not a read of several keys, not a step of a feed.

use std::collections::BTreeMap;

use super::Truth;
use crate::history::{Event, Found, FrameKind, Micros, Outcome, Value, frames, ops};

pub(super) fn check(history: &[Event], truth: &Truth) -> Vec<String> {
    let mut breaches = Vec::new();
    for op in ops(history) {
        if let Outcome::Ok { position, found } = &op.outcome {
            let seen: BTreeMap<&str, Option<Found>> = found.iter().map(|(key, found)| (&**key, *found)).collect();
            let torn = torn(&seen, position.1, op.returned, truth);
            breaches.extend(torn.map(|what| format!("cp-{} at {position}: {what}", op.node)));
        }
    }
    for frame in frames(history) {
        if let FrameKind::Delta { prev, changes, position, .. } = &frame.kind {
            let seen: BTreeMap<&str, Option<Found>> = changes.iter().map(|(key, found)| (&**key, *found)).collect();
            for (key, found) in &seen {
                let Some(write) = found.and_then(|f| truth.by_value.get(&f.value)).map(|i| &truth.writes[*i]) else {
                    continue;
                };
                if let Some((other, _)) = write.writes.iter().find(|(other, _)| !seen.contains_key(&**other)) {
                    breaches.push(format!(
                        "the step of cp-{} to {position} has {key} and not {other}, which were written together",
                        frame.node
                    ));
                }
            }
            for key in seen.iter().filter(|(_, found)| found.is_none()).map(|(key, _)| *key) {
                let deletes = truth.by_key.get(key).and_then(|w| w.range(prev.1 + 1..=position.1).next_back());
                let Some((revision, None)) = deletes else { continue };
                let write = &truth.writes[truth.by_revision[revision]];
                if let Some((other, _)) = write.writes.iter().find(|(other, _)| !seen.contains_key(&**other)) {
                    breaches.push(format!(
                        "the step of cp-{} to {position} has {key} gone and not {other}, which were deleted together",
                        frame.node
                    ));
                }
            }
            let torn = torn(&seen, position.1, frame.at, truth);
            breaches.extend(torn.map(|what| format!("a step of cp-{} to {position}: {what}", frame.node)));
        }
    }
    breaches
}

/// Keys of which one shows a transaction, and another one something older, seen at a revision and a time.
fn torn<'a>(
    seen: &'a BTreeMap<&str, Option<Found>>,
    at: u64,
    time: Micros,
    truth: &'a Truth,
) -> impl Iterator<Item = String> + 'a {
    let is_gone = move |key: &str, since: u64| {
        let deleted =
            |writes: &BTreeMap<u64, Option<Value>>| writes.range(since..=at).any(|(_, value)| value.is_none());
        truth.by_key.get(key).is_some_and(deleted) || truth.may_be_gone(key, time)
    };
    seen.iter().filter_map(move |(key, found)| {
        let found = (*found)?;
        let write = &truth.writes[*truth.by_value.get(&found.value)?];
        let is_older = |other: &str| match seen.get(other) {
            Some(Some(other)) => other.modified < found.modified,
            // It may have been deleted since, by itself.
            Some(None) => !is_gone(other, found.modified),
            None => false,
        };
        let (older, _) = write.writes.iter().find(|(other, _)| is_older(other))?;
        Some(format!("{key} shows {found:?}, and {older} is older, which was written with it"))
    })
}

#[cfg(test)]
mod tests {
    use super::super::sample::{breaches, delete, reads, transaction, write};
    use crate::history::{At, Event, Frame, FrameKind};

    #[test]
    fn half_a_transaction_is_found() {
        let both = transaction(&[("a", 1), ("b", 2)], 0, 1, Some(1));
        let next = transaction(&[("a", 3), ("b", 4)], 2, 3, Some(2));
        let whole = reads(&[("a", Some((3, 2))), ("b", Some((4, 2)))], 2, false, 4, 5);
        assert_eq!(breaches(super::check, &[both.clone(), next.clone(), whole]), 0);
        let half = reads(&[("a", Some((3, 2))), ("b", Some((2, 1)))], 2, false, 4, 5);
        assert_eq!(breaches(super::check, &[both.clone(), next.clone(), half]), 1);
        let none = reads(&[("a", Some((1, 1))), ("b", None)], 1, false, 4, 5);
        assert_eq!(breaches(super::check, &[both.clone(), none]), 1);
        let gone = [both, next, delete(&["a", "b"], 4, 5, Some(3))];
        let then = |last| gone.iter().cloned().chain([last]).collect::<Vec<_>>();
        assert_eq!(breaches(super::check, &then(reads(&[("a", None), ("b", None)], 3, false, 6, 7))), 0);
        let half = reads(&[("a", Some((3, 2))), ("b", None)], 2, false, 6, 7);
        assert_eq!(breaches(super::check, &then(half)), 1, "b was there at that revision");
    }

    #[test]
    fn a_key_of_a_transaction_that_was_written_alone_since_is_no_half_of_it() {
        let both = || transaction(&[("a", 1), ("b", 2)], 0, 1, Some(1));
        let judged = |then: &[Event]| breaches(super::check, &[&[both()], then].concat());
        let alone = |b| reads(&[("a", Some((1, 1))), ("b", b)], 2, false, 4, 5);
        assert_eq!(judged(&[write("b", 3, 2, 3, Some(2)), alone(Some((3, 2)))]), 0, "replaced");
        assert_eq!(judged(&[delete(&["b"], 2, 3, Some(2)), alone(None)]), 0, "deleted");
        assert_eq!(judged(&[delete(&["b"], 2, 3, None), alone(None)]), 0, "perhaps it was deleted");
        assert_eq!(judged(&[write("c", 3, 2, 3, Some(2)), alone(None)]), 1, "it never came");
        let mixed = [delete(&["b", "c"], 2, 3, Some(2)), step(1, 2, &["b"])];
        assert_eq!(judged(&mixed), 1, "c was deleted with it");
        let apart = [delete(&["b", "c"], 2, 3, Some(2)), write("b", 3, 4, 5, Some(3)), step(2, 4, &["b"])];
        assert_eq!(judged(&apart), 0, "it was deleted once more, by whomever");
    }

    /// A step of the first node's feed that shows these gone.
    fn step(prev: u64, to: u64, keys: &[&str]) -> Event {
        let changes = keys.iter().map(|key| ((*key).to_owned(), None)).collect();
        let (prev, position, digest) = (At(1, prev), At(1, to), "x".to_owned());
        let kind = FrameKind::Delta { prev, position, changes, reached: digest.clone(), digest };
        Event::Frame(Frame { node: 1, at: 9, kind })
    }
}
