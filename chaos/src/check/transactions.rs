//! Nobody sees a part of a transaction (laws 2 and 5): not a read of several keys, not a step of a feed.

use std::collections::BTreeMap;

use super::Truth;
use crate::history::{Event, Found, FrameKind, Outcome, frames, ops};

pub(super) fn check(history: &[Event], truth: &Truth) -> Vec<String> {
    let mut breaches = Vec::new();
    for op in ops(history) {
        if let Outcome::Ok { position, found } = &op.outcome {
            let seen: BTreeMap<&str, Option<Found>> = found.iter().map(|(key, found)| (&**key, *found)).collect();
            breaches.extend(torn(&seen, truth).map(|what| format!("cp-{} at {position}: {what}", op.node)));
        }
    }
    for frame in frames(history) {
        if let FrameKind::Delta { changes, position, .. } = &frame.kind {
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
                let deletes = truth.by_key.get(key).and_then(|writes| writes.range(..=position.1).next_back());
                let Some((revision, None)) = deletes else { continue };
                let write = &truth.writes[truth.by_revision[revision]];
                if let Some((other, _)) = write.writes.iter().find(|(other, _)| !seen.contains_key(&**other)) {
                    breaches.push(format!(
                        "the step of cp-{} to {position} has {key} gone and not {other}, which were deleted together",
                        frame.node
                    ));
                }
            }
            breaches
                .extend(torn(&seen, truth).map(|what| format!("a step of cp-{} to {position}: {what}", frame.node)));
        }
    }
    breaches
}

/// Keys of which one shows a transaction, and another one something older.
fn torn<'a>(seen: &'a BTreeMap<&str, Option<Found>>, truth: &'a Truth) -> impl Iterator<Item = String> + 'a {
    seen.iter().filter_map(|(key, found)| {
        let found = (*found)?;
        let write = &truth.writes[*truth.by_value.get(&found.value)?];
        let older = write.writes.iter().find(|(other, _)| {
            seen.get(&**other).is_some_and(|other| other.is_none_or(|other| other.modified < found.modified))
        })?;
        Some(format!("{key} shows {found:?}, and {} is older, which was written with it", older.0))
    })
}

#[cfg(test)]
mod tests {
    use super::super::sample::{breaches, delete, reads, transaction};

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
        assert_eq!(breaches(super::check, &then(reads(&[("a", Some((3, 2))), ("b", None)], 3, false, 6, 7))), 1);
    }
}
