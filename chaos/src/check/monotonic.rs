//! A proxy's position never goes back, over reconnects and restarts (law 4), unless the harness has taken its disk from it.

use std::collections::{HashMap, HashSet};

use super::Truth;
use crate::history::{Down, Event, Stand};

pub(super) fn check(history: &[Event], _truth: &Truth) -> Vec<String> {
    let mut last: HashMap<&str, &Stand> = HashMap::new();
    let mut breaches = Vec::new();
    // Whoever has no disk at this time that it could have kept anything on.
    let mut empty: HashSet<&str> = HashSet::new();
    for event in history {
        let stand = match event {
            Event::Stand(stand) if stand.who.starts_with("dp-") => stand,
            Event::Down(Down { dp, begins, emptied: true, .. }) => {
                let _ = if *begins { empty.insert(dp) } else { empty.remove(&**dp) };
                last.remove(&**dp);
                continue;
            }
            _ => continue,
        };
        if empty.contains(&*stand.who) {
            continue;
        }
        // Looks that overlap prove no order.
        match last.get(&*stand.who) {
            Some(before) if before.at < stand.asked && before.position > stand.position => breaches.push(format!(
                "{} stood at {} at {} us, and at {} at {} us",
                stand.who, before.position, before.at, stand.position, stand.at
            )),
            Some(before) if before.position >= stand.position => {}
            _ => {
                last.insert(&stand.who, stand);
            }
        }
    }
    breaches
}

#[cfg(test)]
mod tests {
    use super::super::sample::breaches;
    use crate::history::{At, Down, Event, Stand};

    #[test]
    fn a_proxy_that_goes_back_is_found() {
        let stand = |time, revision| {
            let who = "dp-1".to_owned();
            let position = At(1, revision);
            Event::Stand(Stand { who, asked: time, at: time + 1, position, digest: "x".into(), term: 0, follows: 1 })
        };
        assert_eq!(breaches(super::check, &[stand(1, 3), stand(3, 3), stand(5, 9)]), 0);
        assert_eq!(breaches(super::check, &[stand(1, 3), stand(3, 9), stand(5, 8)]), 1);
        let down = |at, dp: &str, begins| Event::Down(Down { at, dp: dp.to_owned(), begins, emptied: true });
        let judged = |dp: &str, last: &[Event]| {
            let (begins, ends) = (down(4, dp, true), down(6, dp, false));
            let emptied = [stand(1, 3), stand(3, 9), begins, stand(5, 8), ends, stand(7, 7)];
            breaches(super::check, &[&emptied[..], last].concat())
        };
        assert_eq!(judged("dp-1", &[]), 0);
        assert_eq!(judged("dp-1", &[stand(9, 6)]), 1);
        assert_eq!(judged("dp-2", &[]), 2, "another proxy's disk");
    }
}
