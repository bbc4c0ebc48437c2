//! A proxy's position never goes back, over reconnects and restarts (law 4), unless the harness has taken its disk from it.

use std::collections::HashMap;

use super::Truth;
use crate::history::{BEGUN, Event, Stand};

/// The fault that begins with the last proxy's disk thrown away; when it has begun, the proxy serves from its own again.
const EMPTIES_A_PROXY: &str = "cut_proxy_write";

pub(super) fn check(history: &[Event], _truth: &Truth) -> Vec<String> {
    let mut last: HashMap<&str, &Stand> = HashMap::new();
    let mut breaches = Vec::new();
    let emptied =
        history.iter().filter_map(|event| if let Event::Stand(stand) = event { Some(&*stand.who) } else { None });
    let emptied = emptied.filter(|who| who.starts_with("dp-")).max().unwrap_or_default();
    // While that proxy has no disk that it could have kept anything on.
    let mut is_empty = false;
    for event in history {
        let stand = match event {
            Event::Stand(stand) if stand.who.starts_with("dp-") => stand,
            Event::Fault(mark) if mark.what.starts_with(EMPTIES_A_PROXY) => {
                is_empty = !mark.what.ends_with(BEGUN) && mark.begins;
                last.remove(emptied);
                continue;
            }
            _ => continue,
        };
        if is_empty && stand.who == emptied {
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
    use crate::history::{At, Event, FaultMark, Stand};

    #[test]
    fn a_proxy_that_goes_back_is_found() {
        let stand = |time, revision| {
            let who = "dp-1".to_owned();
            let position = At(1, revision);
            Event::Stand(Stand { who, asked: time, at: time + 1, position, digest: "x".into(), term: 0, follows: 1 })
        };
        assert_eq!(breaches(super::check, &[stand(1, 3), stand(3, 3), stand(5, 9)]), 0);
        assert_eq!(breaches(super::check, &[stand(1, 3), stand(3, 9), stand(5, 8)]), 1);
        let mark = |at, what: &str| Event::Fault(FaultMark { at, what: what.to_owned(), begins: true });
        let (begins, begun) = (mark(4, "cut_proxy_write"), mark(6, "cut_proxy_write has begun"));
        let emptied = [stand(1, 3), stand(3, 9), begins, stand(5, 8), begun, stand(7, 7)];
        assert_eq!(breaches(super::check, &emptied), 0);
        assert_eq!(breaches(super::check, &[&emptied[..], &[stand(9, 6)]].concat()), 1);
    }
}
