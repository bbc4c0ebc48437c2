//! A node's term never goes back, over its restarts: whoever forgets the term in which he voted may vote in it again, and
//! two nodes then lead with a quorum each.
//!
//! That is what is held, and not "one leader in a term": consensus orders leaders by term and node, and two of them in one
//! term are legal, of which only the higher one can commit anything.

use std::collections::HashMap;

use super::Truth;
use crate::history::{Event, Stand, stands};

pub(super) fn check(history: &[Event], _truth: &Truth) -> Vec<String> {
    let mut highest: HashMap<&str, &Stand> = HashMap::new();
    let mut breaches = Vec::new();
    // A node that has not joined yet has no term.
    for stand in stands(history).filter(|stand| stand.who.starts_with("cp-") && stand.term > 0) {
        match highest.get(&*stand.who) {
            // Looks that overlap prove no order.
            Some(before) if before.at < stand.asked && before.term > stand.term => breaches.push(format!(
                "{} told term {} at {} us, and {} at {} us: it has forgotten what it has voted",
                stand.who, before.term, before.at, stand.term, stand.at
            )),
            Some(before) if before.term >= stand.term => {}
            _ => drop(highest.insert(&stand.who, stand)),
        }
    }
    breaches
}

#[cfg(test)]
mod tests {
    use super::super::sample::breaches;
    use crate::history::{At, Event, Stand};

    #[test]
    fn a_node_that_forgets_its_term_is_found() {
        let stand = |who: &str, time, term| {
            let (who, position) = (who.to_owned(), At(1, 1));
            Event::Stand(Stand { who, asked: time, at: time + 1, position, digest: "x".into(), term, follows: 1 })
        };
        let fine = [stand("cp-1", 1, 3), stand("cp-2", 3, 2), stand("cp-1", 5, 3), stand("cp-1", 7, 0)];
        assert_eq!(breaches(super::check, &fine), 0);
        let forgot = [stand("cp-1", 1, 3), stand("cp-1", 3, 4), stand("cp-1", 5, 3)];
        assert_eq!(breaches(super::check, &forgot), 1);
        let overlap = [stand("cp-1", 1, 4), stand("cp-1", 2, 3)];
        assert_eq!(breaches(super::check, &overlap), 0);
    }
}
