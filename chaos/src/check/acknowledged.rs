//! Every acknowledged write is in every later default read, or a later write or delete of its key is (law 1). What a client was
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
            let Some(writes) = truth.by_key.get(key) else { continue };
            let Some((revision, value)) = writes.iter().rev().find(|(revision, _)| {
                let write = &truth.writes[truth.by_revision[revision]];
                write.acknowledged && write.returned.is_some_and(|at| at < op.invoked)
            }) else {
                continue;
            };
            let lost = match found {
                Some(found) => found.modified < *revision,
                // Gone: it was a delete, or one came after it.
                None => {
                    !writes.range(revision..).any(|(_, value)| value.is_none()) && !truth.may_be_gone(key, op.returned)
                }
            };
            if lost {
                breaches.push(format!(
                    "{value:?} was acknowledged at {key} as revision {revision}; cp-{} read {found:?} at {position} later",
                    op.node
                ));
            }
        }
    }
    breaches
}

#[cfg(test)]
mod tests {
    use super::super::sample::{breaches, delete, read, write};

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

    #[test]
    fn a_delete_that_is_not_there_any_more_is_found() {
        let deleted = [write("a", 1, 0, 1, Some(1)), delete(&["a"], 2, 3, Some(2))];
        let then = |last| [deleted[0].clone(), deleted[1].clone(), last];
        assert_eq!(breaches(super::check, &then(read("a", None, 2, 4, 5))), 0);
        assert_eq!(breaches(super::check, &then(read("a", Some((1, 1)), 2, 4, 5))), 1, "it came back");
        assert_eq!(breaches(super::check, &then(read("a", Some((1, 1)), 1, 2, 5))), 0, "it was under way");
        let perhaps = [write("a", 1, 0, 1, Some(1)), delete(&["a"], 2, 3, None), read("a", None, 2, 4, 5)];
        assert_eq!(breaches(super::check, &perhaps), 0);
        let not_yet = [write("a", 1, 0, 1, Some(1)), read("a", None, 1, 2, 3), delete(&["a"], 4, 5, None)];
        assert_eq!(breaches(super::check, &not_yet), 1, "it was lost before anybody deleted it");
    }
}
