//! Whoever stands at one position has one digest (law 3): nodes, proxies, feeds.

use std::collections::HashMap;

use super::Truth;
use crate::history::{At, Event, FrameKind};

pub(super) fn check(history: &[Event], _truth: &Truth) -> Vec<String> {
    let mut seen: HashMap<At, (String, String)> = HashMap::new();
    let mut breaches = Vec::new();
    let mut take = |who: String, at: At, digest: &str| {
        let (first, known) = seen.entry(at).or_insert_with(|| (who.clone(), digest.to_owned()));
        if known != digest {
            breaches.push(format!("at {at} {first} has the digest {known}, and {who} {digest}"));
        }
    };
    for event in history {
        match event {
            Event::Stand(stand) if stand.position.1 > 0 => take(stand.who.clone(), stand.position, &stand.digest),
            Event::Frame(frame) => {
                let who = format!("the feed of cp-{}", frame.node);
                match &frame.kind {
                    FrameKind::Delta { position, digest, reached, .. } => {
                        take(who.clone(), *position, digest);
                        take(format!("what came by {who}"), *position, reached);
                    }
                    FrameKind::Full { position, digest, .. } | FrameKind::Heartbeat { position, digest, .. }
                        if position.1 > 0 =>
                    {
                        take(who, *position, digest);
                    }
                    _ => {}
                }
            }
            _ => {}
        }
    }
    breaches
}

#[cfg(test)]
mod tests {
    use super::super::sample::breaches;
    use crate::history::{At, Event, Stand};

    #[test]
    fn two_digests_at_one_position_are_found() {
        let stand = |who: &str, revision, digest: &str| {
            let (who, digest) = (who.to_owned(), digest.to_owned());
            Event::Stand(Stand { who, asked: 0, at: 0, position: At(1, revision), digest, term: 1, follows: 1 })
        };
        assert_eq!(breaches(super::check, &[stand("a", 1, "x"), stand("b", 2, "y"), stand("b", 1, "x")]), 0);
        assert_eq!(breaches(super::check, &[stand("a", 1, "x"), stand("b", 1, "y")]), 1);
    }
}
