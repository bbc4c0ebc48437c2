//! A proxy has the routes of the position that it says, or of a later one (law 5): what was deleted is answered 404, and what
//! is there is not. Blind to a proxy that is ahead of what it says; it is asked where it stands first.

use super::Truth;
use crate::history::{Event, Routed};

/// The answer of a proxy that has no such route.
const NOT_FOUND: u16 = 404;

pub(super) fn check(history: &[Event], truth: &Truth) -> Vec<String> {
    let routed = history.iter().filter_map(|event| if let Event::Routed(routed) = event { Some(routed) } else { None });
    routed.filter_map(|routed| judge(routed, truth)).collect()
}

fn judge(routed: &Routed, truth: &Truth) -> Option<String> {
    let Routed { dp, key, position, at, status } = routed;
    let mut there = vec![truth.held(key, position.1).is_some()];
    for (revision, value) in truth.by_key.get(key).into_iter().flat_map(|writes| writes.range(position.1 + 1..)) {
        if truth.writes[truth.by_revision[revision]].invoked <= *at {
            there.push(value.is_some());
        }
    }
    if truth.may_be_gone(key, *at) {
        there.push(false);
    }
    let answered = *status != NOT_FOUND;
    let what = if answered { "was deleted, or never written" } else { "is there" };
    (!there.contains(&answered))
        .then(|| format!("{dp}, at {position} or later, answered {status} for {key}, which {what}"))
}

#[cfg(test)]
mod tests {
    use super::super::sample::{breaches, delete, write};
    use crate::history::{At, Event, Routed};

    fn routed(revision: u64, at: u64, status: u16) -> Event {
        Event::Routed(Routed { dp: "dp-1".to_owned(), key: "a".to_owned(), position: At(1, revision), at, status })
    }

    fn judged(last: Option<u64>, answer: Event) -> usize {
        breaches(super::check, &[write("a", 1, 0, 1, Some(1)), delete(&["a"], 10, 11, last), answer])
    }

    #[test]
    fn a_deleted_route_that_is_served_is_found_and_so_is_one_that_is_not_served() {
        for (position, at, status, breach, what) in [
            (1, 5, 502, false, "it is there"),
            (1, 5, 404, true, "it is there, and nobody has asked to delete it"),
            (1, 10, 404, false, "it is being deleted"),
            (1, 20, 502, false, "the proxy says that it is behind"),
            (2, 20, 404, false, "it is gone"),
            (2, 20, 502, true, "it is gone, and served"),
        ] {
            assert_eq!(judged(Some(2), routed(position, at, status)) > 0, breach, "{what}");
        }
        assert_eq!(judged(None, routed(2, 20, 404)) + judged(None, routed(2, 20, 502)), 0, "nobody knows");
    }
}
