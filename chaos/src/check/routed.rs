//! A proxy serves what is there at the position that it says, or at a later one (laws 5 and 11): what was deleted is answered
//! 404, what is there with its value, and what no proxy can compile with the last good value of before it, or 503 where there is
//! none. Blind to a proxy that is ahead of what it says; it is asked where it stands first.

use super::Truth;
use super::last_good::{Served, Servings};
use crate::history::{Event, Routed};

/// The answer of a proxy that has no such route, and of one that has it and cannot serve it.
const NOT_FOUND: u16 = 404;
const UNAVAILABLE: u16 = 503;

pub(super) fn check(history: &[Event], truth: &Truth) -> Vec<String> {
    let servings = Servings::of(history, truth);
    let routed = history.iter().filter_map(|event| if let Event::Routed(routed) = event { Some(routed) } else { None });
    routed.filter_map(|routed| judge(routed, &servings, truth)).collect()
}

fn judge(routed: &Routed, servings: &Servings<'_>, truth: &Truth) -> Option<String> {
    let Routed { dp, key, position, at, status, value } = routed;
    let mut lawful = servings.at(dp, key, position.1);
    for (revision, _) in truth.by_key.get(key).into_iter().flat_map(|writes| writes.range(position.1 + 1..)) {
        if truth.writes[truth.by_revision[revision]].invoked <= *at {
            lawful.extend(servings.at(dp, key, *revision));
        }
    }
    lawful.extend(servings.perhaps(key, *at));
    let answered = match (*status, *value) {
        (NOT_FOUND, _) => Served::Nothing,
        (_, Some(value)) => Served::Value(value),
        (UNAVAILABLE, None) => Served::Sealed,
        // An answer of the route that does not say of which value.
        _ if lawful.iter().any(|served| *served != Served::Nothing) => return None,
        _ => return Some(format!("{dp}, at {position} or later, answered {status} for {key}, which is not there")),
    };
    (!lawful.contains(&answered))
        .then(|| format!("{dp}, at {position} or later, answered {status} for {key}: {answered:?}, and not {lawful:?}"))
}

#[cfg(test)]
mod tests {
    use super::super::sample::{breaches, delete, stand_of, unknown, write};
    use crate::history::{At, Event, POISON, Routed};

    fn routed(revision: u64, at: u64, status: u16, value: Option<u64>) -> Event {
        let (dp, key) = ("dp-1".to_owned(), "a".to_owned());
        Event::Routed(Routed { dp, key, position: At(1, revision), at, status, value })
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
            (1, 5, 503, true, "it can be served"),
        ] {
            assert_eq!(judged(Some(2), routed(position, at, status, None)) > 0, breach, "{what}");
        }
        let none = |status| judged(None, routed(2, 20, status, None));
        assert_eq!(none(404) + none(502), 0, "nobody knows");
    }

    #[test]
    fn another_value_than_that_of_its_position_is_found() {
        let history = |answer| vec![write("a", 1, 0, 1, Some(1)), write("a", 2, 10, 11, Some(2)), answer];
        let judged = |answer| breaches(super::check, &history(answer)) > 0;
        assert!(!judged(routed(1, 5, 200, Some(1))), "it is there");
        assert!(!judged(routed(1, 10, 200, Some(2))), "the proxy is ahead of what it says");
        assert!(judged(routed(1, 5, 200, Some(2))), "nobody has written it yet");
        assert!(judged(routed(2, 20, 200, Some(1))), "it was replaced");
        let perhaps = [write("a", 1, 0, 1, Some(1)), unknown("a", 2, 3, 4), routed(2, 20, 200, Some(2))];
        assert_eq!(breaches(super::check, &perhaps), 0, "perhaps it was written");
    }

    #[test]
    fn in_the_place_of_poison_the_last_good_value_is_served_and_nothing_laxer() {
        // Good, poison, deleted, poison, good.
        let history = |more: &[Event]| {
            let mut all = vec![
                write("a", 1, 0, 1, Some(1)),
                write("a", POISON + 2, 2, 3, Some(3)),
                delete(&["a"], 4, 5, Some(5)),
                write("a", POISON + 3, 6, 7, Some(7)),
                write("a", 4, 8, 9, Some(9)),
            ];
            all.extend_from_slice(more);
            all
        };
        let judged = |seen: &[u64], answer: Event| {
            let mut more: Vec<Event> = seen.iter().map(|revision| stand_of("dp-1", *revision)).collect();
            more.push(answer);
            breaches(super::check, &history(&more)) > 0
        };
        assert!(!judged(&[2], routed(3, 3, 200, Some(1))), "the last good one");
        assert!(judged(&[2], routed(3, 3, 503, None)), "it was at the good one, and has lost it");
        assert!(!judged(&[], routed(3, 3, 503, None)), "perhaps it never saw the good one");
        assert!(judged(&[], routed(3, 3, 404, None)), "its requests fall through");
        assert!(judged(&[2], routed(3, 3, 200, Some(POISON + 2))), "nobody can serve it");
        assert!(!judged(&[2, 6], routed(7, 7, 503, None)), "none is left since it was deleted");
        assert!(judged(&[2, 6], routed(7, 7, 200, Some(1))), "what was deleted came back");
        assert!(!judged(&[2], routed(7, 7, 200, Some(1))), "perhaps it never saw it deleted");
        assert!(!judged(&[2], routed(9, 9, 200, Some(4))), "mended");
        assert!(judged(&[2], routed(9, 9, 503, None)), "mended, and not served");
    }
}
