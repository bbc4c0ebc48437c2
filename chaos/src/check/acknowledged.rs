//! Every acknowledged write is in every later default read, or a later write of its key is (law 1). What a client was
//! told last of all keys by final reads of every node is part of the history, so nothing is lost behind its end.

use super::Truth;
use crate::history::{Call, Event, Outcome, ops};

pub(super) fn check(history: &[Event], truth: &Truth) -> Vec<String> {
    let mut breaches = Vec::new();
    for op in ops(history) {
        let (Call::Read { stale: false, .. }, Outcome::Ok { position, found }) = (&op.call, &op.outcome) else {
            continue;
        };
        for (key, found) in found {
            let Some((revision, value)) = truth.by_key.get(key).and_then(|writes| {
                let before = writes.iter().rev().find(|(_, value)| {
                    let write = &truth.writes[truth.by_value[value]];
                    write.acknowledged && write.returned.is_some_and(|at| at < op.invoked)
                });
                before.map(|(revision, value)| (*revision, *value))
            }) else {
                continue;
            };
            if found.is_none_or(|found| found.modified < revision) {
                breaches.push(format!(
                    "{value} was acknowledged at {key} as revision {revision}; cp-{} read {found:?} at {position} later",
                    op.node
                ));
            }
        }
    }
    breaches
}

#[cfg(test)]
mod tests {
    use super::super::sample::{breaches, read, write};

    #[test]
    fn a_lost_write_is_found_and_a_replaced_one_is_not_missed() {
        let fine = [write("a", 1, 0, 1, Some(1)), write("a", 2, 2, 3, Some(2)), read("a", Some((2, 2)), 2, 4, 5)];
        assert_eq!(breaches(super::check, &fine), 0);
        let lost = [write("a", 1, 0, 1, Some(1)), read("a", None, 1, 2, 3)];
        assert_eq!(breaches(super::check, &lost), 1);
        let back = [write("a", 1, 0, 1, Some(1)), write("a", 2, 2, 3, Some(2)), read("a", Some((1, 1)), 2, 4, 5)];
        assert_eq!(breaches(super::check, &back), 1);
        let concurrent = [write("a", 1, 0, 5, Some(1)), read("a", None, 0, 2, 3)];
        assert_eq!(breaches(super::check, &concurrent), 0);
    }
}
