//! A proxy goes on to every position, and names there what it cannot serve: each resource that is poison at its position, and no
//! other one (law 11).

use std::collections::BTreeMap;

use super::Truth;
use super::last_good::{Served, Servings, is_poison};
use crate::history::{Event, Rejections};

pub(super) fn check(history: &[Event], truth: &Truth) -> Vec<String> {
    let servings = Servings::of(history, truth);
    let told = history.iter().filter_map(|event| if let Event::Rejected(told) = event { Some(told) } else { None });
    told.flat_map(|told| judge(told, &servings, truth)).collect()
}

fn judge(told: &Rejections, servings: &Servings<'_>, truth: &Truth) -> Vec<String> {
    let Rejections { dp, position, at, keys } = told;
    let named: BTreeMap<&str, bool> = keys.iter().map(|(key, last_good)| (&**key, *last_good)).collect();
    let mut breaches = Vec::new();
    let unknown = named.keys().filter(|key| !truth.by_key.contains_key(**key)).map(|key| (*key).to_owned());
    for key in truth.by_key.keys().cloned().chain(unknown) {
        if truth.may_differ(&key, *at) {
            continue;
        }
        let held = truth.held(&key, position.1);
        let lawful = servings.at(dp, &key, position.1);
        let serves_one = |served: &Served| matches!(served, Served::Value(_));
        let what = match (held.is_some_and(is_poison), named.get(&*key)) {
            (true, None) => "does not name",
            (false, Some(_)) => "can serve, and names as rejected,",
            (true, Some(true)) if !lawful.iter().any(serves_one) => "cannot have a last good one of",
            (true, Some(false)) if !lawful.contains(&Served::Sealed) => "has lost the last good one of",
            _ => continue,
        };
        breaches.push(format!("{dp} at {position} {what} {key}: it holds {held:?}"));
    }
    breaches
}

#[cfg(test)]
mod tests {
    use super::super::sample::{breaches, delete, stand_of, unknown, write};
    use crate::history::{At, Event, POISON, Rejections};

    fn told(revision: u64, keys: &[(&str, bool)]) -> Event {
        let keys = keys.iter().map(|(key, last_good)| ((*key).to_owned(), *last_good)).collect();
        Event::Rejected(Rejections { dp: "dp-1".to_owned(), position: At(1, revision), at: 99, keys })
    }

    #[test]
    fn what_is_poison_is_named_and_nothing_else() {
        let written = [
            write("a", 1, 0, 1, Some(1)),
            write("a", POISON + 2, 2, 3, Some(2)),
            write("b", POISON + 3, 4, 5, Some(3)),
            write("a", 4, 6, 7, Some(4)),
            delete(&["b"], 8, 9, Some(5)),
        ];
        let judged = |stood: u64, told: Event| {
            breaches(super::check, &[&written[..], &[stand_of("dp-1", stood), told]].concat()) > 0
        };
        for (revision, keys, breach, what) in [
            (1, &[][..], false, "all is well"),
            (2, &[("a", true)], false, "the last good one is served"),
            (2, &[], true, "it is not named"),
            (2, &[("a", false)], true, "it was at the good one"),
            (3, &[("a", true), ("b", false)], false, "both"),
            (3, &[("a", true), ("b", true)], true, "there never was a good one"),
            (4, &[("b", false)], false, "one is mended"),
            (4, &[("a", true), ("b", false)], true, "mended, and still named"),
            (5, &[], false, "the other is deleted"),
            (5, &[("c", false)], true, "nobody wrote it"),
        ] {
            assert_eq!(judged(1, told(revision, keys)), breach, "{what}");
        }
        assert!(!judged(3, told(2, &[("a", false)])), "perhaps it never was at the good one");
        let perhaps = [write("a", 1, 0, 1, Some(1)), unknown("a", POISON + 2, 2, 3)];
        let judged = |told| breaches(super::check, &[&perhaps[..], &[told]].concat());
        assert_eq!(judged(told(2, &[("a", true)])) + judged(told(2, &[])), 0, "nobody knows");
    }
}
