//! There is one order, that of revisions, and it agrees with real time (laws 1 and 2): what had returned before another
//! operation was invoked stands before it. A read shows exactly what that order leads to at the position it names. Costs
//! a sort; needs no search, since the system says itself where each operation stands, and is held to it.

use super::Truth;
use crate::history::{Call, Event, Micros, Op, Outcome, ops};

pub(super) fn check(history: &[Event], truth: &Truth) -> Vec<String> {
    let mut breaches = real_time(history, truth);
    breaches.extend(ops(history).flat_map(|op| contents(op, truth)));
    breaches.extend(conditions(truth));
    breaches
}

/// What an operation proves of time: `at` is reached when it returns, and it must stand above all that was before.
struct Point {
    invoked: Micros,
    returned: Option<Micros>,
    at: u64,
    /// Must be above what was reached (a write), or not below (a read); nothing for a stale read.
    floor: Option<bool>,
    what: String,
}

fn real_time(history: &[Event], truth: &Truth) -> Vec<String> {
    let writes = truth.writes.iter().filter_map(|write| {
        let at = write.revision?;
        let what = format!("the write of {:?}", write.writes);
        Some(Point { invoked: write.invoked, returned: write.returned, at, floor: Some(true), what })
    });
    let reads = ops(history).filter_map(|op| match (&op.call, &op.outcome) {
        (Call::Read { keys, stale }, Outcome::Ok { position, .. }) => Some(Point {
            invoked: op.invoked,
            returned: Some(op.returned),
            at: position.1,
            floor: if *stale { None } else { Some(false) },
            what: format!("a read of {keys:?} from cp-{}", op.node),
        }),
        _ => None,
    });
    let mut points: Vec<Point> = writes.chain(reads).collect();
    points.sort_by_key(|point| point.invoked);
    let mut returns: Vec<(Micros, usize)> =
        points.iter().enumerate().filter_map(|(index, point)| Some((point.returned?, index))).collect();
    returns.sort_unstable();
    let mut returned = returns.into_iter().peekable();
    let mut highest: Option<usize> = None;
    let mut breaches = Vec::new();
    for point in &points {
        while let Some((_, index)) = returned.next_if(|(at, _)| *at < point.invoked) {
            if highest.is_none_or(|other| points[other].at < points[index].at) {
                highest = Some(index);
            }
        }
        let Some(before) = highest.map(|index| &points[index]) else { continue };
        let holds = match point.floor {
            Some(true) => point.at > before.at,
            Some(false) => point.at >= before.at,
            None => true,
        };
        if !holds {
            breaches.push(format!(
                "{} stands at revision {}, invoked at {} us; {} stood at {} and had returned at {:?} us",
                point.what, point.at, point.invoked, before.what, before.at, before.returned
            ));
        }
    }
    breaches
}

/// A read shows the last write of each key up to its position, or nothing when that was a delete.
fn contents(op: &Op, truth: &Truth) -> Vec<String> {
    let Outcome::Ok { position, found } = &op.outcome else { return Vec::new() };
    let mut breaches = Vec::new();
    for (key, found) in found {
        if let Some(what) = truth.denies(key, position.1, *found, op.returned) {
            breaches.push(format!("cp-{} showed {what}", op.node));
        }
        if let Some(found) = found
            && let Some(index) = truth.by_value.get(&found.value)
            && truth.writes[*index].invoked > op.returned
        {
            breaches.push(format!("cp-{} showed {found:?} at {key} before it was written", op.node));
        }
    }
    breaches
}

/// A write under a condition stands directly after the write that it names.
fn conditions(truth: &Truth) -> Vec<String> {
    let mut breaches = Vec::new();
    for write in &truth.writes {
        let (Some(revision), Some(wanted), [(key, value)]) = (write.revision, write.if_match, &write.writes[..]) else {
            continue;
        };
        let before = truth.held(key, revision - 1).map_or(0, |found| found.modified);
        if before != wanted {
            breaches.push(format!(
                "{value:?} was written at {key} as revision {revision} on the condition that {wanted} was its last \
                 change; that was {before}"
            ));
        }
    }
    breaches
}

#[cfg(test)]
mod tests {
    use super::super::sample::{breaches, cas, delete, read, request, stale, unknown, write};

    #[test]
    fn legal_histories_are_let_through() {
        let all: &[&[_]] = &[
            &[write("a", 1, 0, 1, Some(1)), write("b", 2, 2, 3, Some(2)), read("a", Some((1, 1)), 2, 4, 5)],
            &[write("a", 1, 0, 9, Some(2)), write("b", 2, 1, 8, Some(1))],
            &[write("a", 1, 0, 1, Some(1)), write("a", 2, 2, 3, Some(2)), stale("a", Some((1, 1)), 1, 4, 5)],
            &[unknown("a", 1, 0, 1), read("a", None, 0, 2, 3), read("a", Some((1, 1)), 1, 4, 5)],
            &[write("a", 1, 0, 1, Some(1)), cas("a", 2, 1, 2, 3, 2), cas("a", 3, 2, 4, 5, 3)],
            &[write("a", 1, 0, 1, Some(1)), delete(&["a"], 2, 3, Some(2)), read("a", None, 2, 4, 5)],
            &[write("a", 1, 0, 1, Some(1)), delete(&["a"], 2, 3, Some(2)), stale("a", Some((1, 1)), 1, 4, 5)],
            &[write("a", 1, 0, 1, Some(1)), delete(&["a"], 2, 3, None), read("a", None, 2, 4, 5)],
            &[write("a", 1, 0, 1, Some(1)), delete(&["a"], 2, 3, None), read("a", Some((1, 1)), 2, 4, 5)],
        ];
        for history in all {
            assert_eq!(breaches(super::check, history), 0, "{history:?}");
        }
    }

    #[test]
    fn illegal_histories_are_found() {
        let all: &[&[_]] = &[
            // A read that is older than a write that had returned.
            &[write("a", 1, 0, 1, Some(1)), read("a", None, 0, 2, 3)],
            // A read that is older than a read that had returned.
            &[write("a", 1, 0, 9, Some(1)), read("a", Some((1, 1)), 1, 1, 2), read("a", None, 0, 3, 4)],
            // Writes against real time.
            &[write("a", 1, 0, 1, Some(2)), write("b", 2, 2, 3, Some(1))],
            // The wrong value at the position that it names.
            &[write("a", 1, 0, 1, Some(1)), write("a", 2, 2, 3, Some(2)), read("a", Some((1, 1)), 2, 4, 5)],
            // A stale read that shows what its position does not hold.
            &[write("a", 1, 0, 1, Some(1)), write("a", 2, 2, 3, Some(2)), stale("a", Some((2, 2)), 1, 4, 5)],
            // A lost update.
            &[write("a", 1, 0, 1, Some(1)), cas("a", 2, 1, 2, 3, 2), cas("a", 3, 1, 4, 5, 3)],
            // From the future.
            &[read("a", Some((1, 1)), 1, 0, 1), write("a", 1, 2, 3, Some(1))],
            // A delete that left it there, and one that took it before it was asked for.
            &[write("a", 1, 0, 1, Some(1)), delete(&["a"], 2, 3, Some(2)), read("a", Some((1, 1)), 2, 4, 5)],
            &[write("a", 1, 0, 1, Some(1)), read("a", None, 1, 2, 3), delete(&["a"], 4, 5, Some(2))],
            // A delete against real time.
            &[write("a", 1, 0, 1, Some(2)), delete(&["a"], 2, 3, Some(1))],
            // A condition that names what was deleted since.
            &[write("a", 1, 0, 1, Some(1)), delete(&["a"], 2, 3, Some(2)), cas("a", 2, 1, 4, 5, 3)],
            // A request id excuses nothing: a read between the acknowledgement and a second attempt must see the first.
            &[request("a", 1, "id", 0, 1, Some(1)), read("a", None, 0, 2, 3), request("a", 1, "id", 4, 5, Some(1))],
        ];
        for history in all {
            assert!(breaches(super::check, history) > 0, "{history:?}");
        }
    }
}
