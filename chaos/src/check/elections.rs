//! A fault costs few elections, and none are had without one (H1).

use super::Truth;
use crate::history::{BEGUN, Event, stands};

/// Terms that one fault may cost, its end included.
pub const TERMS_MAX: u64 = 3;

pub(super) fn check(history: &[Event], _truth: &Truth) -> Vec<String> {
    let highest = |from: u64, to: u64| {
        stands(history).filter(|stand| stand.term > 0 && (from..to).contains(&stand.at)).map(|stand| stand.term).max()
    };
    let begins: Vec<_> = history
        .iter()
        .filter_map(|event| match event {
            Event::Fault(mark) if mark.begins && !mark.what.ends_with(BEGUN) => Some(mark),
            _ => None,
        })
        .collect();
    let mut breaches = Vec::new();
    for (index, mark) in begins.iter().enumerate() {
        let until = begins.get(index + 1).map_or(u64::MAX, |next| next.at);
        let before = highest(0, mark.at);
        let Some(after) = highest(mark.at, until) else { continue };
        let cost = after.saturating_sub(before.unwrap_or(after));
        // Where every node is restarted, one after the other, each is a fault of its own; and where they are started with a
        // failpoint, end at it, and are started without it.
        let is_many = ["rolling", "end_at"].iter().any(|many| mark.what.starts_with(many));
        let allowed = if is_many { 3 * TERMS_MAX } else { TERMS_MAX };
        if cost > allowed {
            breaches.push(format!("{}: {cost} terms, at most {allowed} are allowed", mark.what));
        }
    }
    breaches
}

#[cfg(test)]
mod tests {
    use super::super::sample::breaches;
    use crate::history::{At, Event, FaultMark, Stand};

    #[test]
    fn a_fault_that_costs_many_terms_is_found() {
        let stand = |at, term| {
            let who = "cp-1".to_owned();
            Event::Stand(Stand { who, asked: at, at, position: At(1, 1), digest: "x".into(), term, follows: 1 })
        };
        let fault = Event::Fault(FaultMark { at: 5, what: "kill".to_owned(), begins: true });
        assert_eq!(breaches(super::check, &[stand(1, 1), fault.clone(), stand(6, 2), stand(9, 4)]), 0);
        assert_eq!(breaches(super::check, &[stand(1, 1), fault, stand(6, 2), stand(9, 5)]), 1);
    }
}
