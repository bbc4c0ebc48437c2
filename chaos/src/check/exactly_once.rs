//! A request that is sent again under its id is carried out once (B2): every attempt that is acknowledged names the same
//! revision, and no feed shows its value under two.

use std::collections::{BTreeMap, HashMap};

use super::Truth;
use crate::history::{Call, Event, FrameKind, Outcome, Value, frames, ops};

pub(super) fn check(history: &[Event], _truth: &Truth) -> Vec<String> {
    let mut breaches = Vec::new();
    let mut told: HashMap<&str, u64> = HashMap::new();
    for op in ops(history) {
        if let (Call::Write { request: Some(request), .. }, Outcome::Ok { position, .. }) = (&op.call, &op.outcome) {
            let first = *told.entry(request).or_insert(position.1);
            if first != position.1 {
                breaches.push(format!("request {request} was acknowledged as revision {first} and as {}", position.1));
            }
        }
    }
    let mut shown: BTreeMap<(&str, Value), u64> = BTreeMap::new();
    for frame in frames(history) {
        if let FrameKind::Delta { changes, .. } = &frame.kind {
            for (key, found) in changes {
                let Some(found) = found else { continue };
                let first = *shown.entry((key, found.value)).or_insert(found.modified);
                if first != found.modified {
                    breaches.push(format!("{} came to {key} as revision {first} and {}", found.value, found.modified));
                }
            }
        }
    }
    breaches
}

#[cfg(test)]
mod tests {
    use super::super::sample::{breaches, request};

    #[test]
    fn a_request_that_took_effect_twice_is_found() {
        let once = [
            request("a", 1, "id", 0, 1, None),
            request("a", 1, "id", 2, 3, Some(7)),
            request("a", 1, "id", 4, 5, Some(7)),
        ];
        assert_eq!(breaches(super::check, &once), 0);
        let twice = [request("a", 1, "id", 0, 1, Some(6)), request("a", 1, "id", 2, 3, Some(7))];
        assert_eq!(breaches(super::check, &twice), 1);
    }
}
