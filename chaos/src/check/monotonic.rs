//! A proxy's position never goes back, over reconnects and restarts (law 4).

use std::collections::HashMap;

use super::Truth;
use crate::history::{Event, Stand, stands};

pub(super) fn check(history: &[Event], _truth: &Truth) -> Vec<String> {
    let mut last: HashMap<&str, &Stand> = HashMap::new();
    let mut breaches = Vec::new();
    for stand in stands(history).filter(|stand| stand.who.starts_with("dp-")) {
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
    use crate::history::{At, Event, Stand};

    #[test]
    fn a_proxy_that_goes_back_is_found() {
        let stand = |time, revision| {
            let who = "dp-1".to_owned();
            let position = At(1, revision);
            Event::Stand(Stand { who, asked: time, at: time + 1, position, digest: "x".into(), term: 0, follows: 1 })
        };
        assert_eq!(breaches(super::check, &[stand(1, 3), stand(3, 3), stand(5, 9)]), 0);
        assert_eq!(breaches(super::check, &[stand(1, 3), stand(3, 9), stand(5, 8)]), 1);
    }
}
