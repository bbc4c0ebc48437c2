//! What a feed promises (E1 to E3): ordered, unique, atomic, reliable, resumable, committed only, and its bookmark true.
//!
//! One client per node keeps what it got over reconnects, as a proxy does; this walks its frames once.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Truth;
use crate::history::{At, Event, Found, Frame, FrameKind, Micros, frames};

pub(super) fn check(history: &[Event], truth: &Truth) -> Vec<String> {
    let mut clients: BTreeMap<u16, Client> = BTreeMap::new();
    for frame in frames(history) {
        clients.entry(frame.node).or_default().take(frame, truth);
    }
    clients.into_values().flat_map(|client| client.breaches).collect()
}

#[derive(Default)]
struct Client {
    position: At,
    changed_at: At,
    state: HashMap<String, Found>,
    open: bool,
    breaches: Vec<String>,
}

impl Client {
    fn take(&mut self, frame: &Frame, truth: &Truth) {
        let who = format!("the feed of cp-{} at {} us", frame.node, frame.at);
        let mut breach = |what: String| self.breaches.push(format!("{who}: {what}"));
        match &frame.kind {
            FrameKind::Opened { position, changed_at } => {
                if (*position, *changed_at) != (self.position, self.changed_at) {
                    breach(format!("resumed at {position}, it stood at {}", self.position));
                }
                self.open = true;
            }
            FrameKind::Ended { .. } => self.open = false,
            _ if !self.open => breach("a frame on no stream".to_owned()),
            FrameKind::Full { position, changed_at, state, .. } => {
                if *position < self.position {
                    breach(format!("a full state of {position} behind {}", self.position));
                }
                self.state = state.iter().cloned().collect();
                (self.position, self.changed_at) = (*position, *changed_at);
                self.complete(&who, frame.at, truth);
            }
            FrameKind::Delta { prev, position, changes, .. } => {
                if *prev != self.changed_at {
                    breach(format!("a step from {prev}, its last change was at {}", self.changed_at));
                }
                if *position <= self.position {
                    breach(format!("a step to {position}, it stood at {}", self.position));
                }
                let mut keys = BTreeSet::new();
                for (key, found) in changes {
                    if !keys.insert(key) {
                        breach(format!("{key} twice in one step"));
                    }
                    if let Some(found) = found
                        && !(prev.1 < found.modified && found.modified <= position.1)
                    {
                        breach(format!("{key} of revision {} in a step from {prev} to {position}", found.modified));
                    }
                    match found {
                        Some(found) => self.state.insert(key.clone(), *found),
                        None => self.state.remove(key),
                    };
                }
                (self.position, self.changed_at) = (*position, *position);
                let missing = truth
                    .changed(prev.1, position.1)
                    .filter(|key| !keys.contains(key))
                    .map(|key| format!("{key} was changed between {prev} and {position}, the step does not have it"));
                let wrong = changes.iter().filter_map(|(key, found)| {
                    let what = truth.denies(key, position.1, *found, frame.at)?;
                    Some(format!("the step to {position} has {what}"))
                });
                missing.chain(wrong).for_each(breach);
            }
            FrameKind::Heartbeat { position, changed_at, .. } => {
                if *position < self.position {
                    breach(format!("a bookmark of {position}, it stood at {}", self.position));
                }
                if *changed_at != self.changed_at {
                    breach(format!("a bookmark speaks of a change at {changed_at}, the last was {}", self.changed_at));
                }
                let untold = truth.changed(self.position.1, position.1).next().cloned();
                if let Some(key) = untold {
                    breach(format!("a bookmark of {position}, but {key} was changed behind {}", self.position));
                }
                self.position = self.position.max(*position);
            }
        }
    }

    /// A full state has the last write of every key up to its position, and nothing that was deleted.
    fn complete(&mut self, who: &str, time: Micros, truth: &Truth) {
        for key in truth.by_key.keys() {
            if let Some(what) = truth.denies(key, self.position.1, self.state.get(key).copied(), time) {
                self.breaches.push(format!("{who}: the full state has {what}"));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{breaches, delete, gone, write};
    use crate::history::{At, Event, Found, Frame, FrameKind};

    fn frame(kind: FrameKind) -> Event {
        Event::Frame(Frame { node: 1, at: 9, kind })
    }

    fn opened(revision: u64) -> Event {
        let at = if revision == 0 { At(0, 0) } else { At(1, revision) };
        frame(FrameKind::Opened { position: at, changed_at: at })
    }

    fn full(revision: u64, state: &[(&str, u64, u64)]) -> Event {
        let state = state
            .iter()
            .map(|(k, value, modified)| ((*k).to_owned(), Found { value: *value, modified: *modified, put: None }));
        let at = At(1, revision);
        frame(FrameKind::Full { position: at, changed_at: at, state: state.collect(), digest: "x".into() })
    }

    fn step(prev: u64, to: u64, changes: &[(&str, u64, u64)]) -> Event {
        let changes = changes.iter().map(|(k, value, modified)| {
            ((*k).to_owned(), Some(Found { value: *value, modified: *modified, put: None }))
        });
        let digest = "x".to_owned();
        frame(FrameKind::Delta {
            prev: At(1, prev),
            position: At(1, to),
            changes: changes.collect(),
            reached: digest.clone(),
            digest,
        })
    }

    fn bookmark(revision: u64, changed_at: u64) -> Event {
        frame(FrameKind::Heartbeat { position: At(1, revision), changed_at: At(1, changed_at), digest: "x".into() })
    }

    fn written() -> Vec<Event> {
        vec![write("a", 1, 0, 1, Some(1)), write("b", 2, 2, 3, Some(2)), write("a", 3, 4, 5, Some(3))]
    }

    #[test]
    fn of_what_was_deleted_a_feed_tells_in_the_step_that_deletes_it_and_a_full_state_has_nothing() {
        let judged = |deleted: Event, frames: &[Event]| {
            let mut history = written();
            history.extend([deleted, opened(0), full(3, &[("a", 3, 3), ("b", 2, 2)])]);
            history.extend_from_slice(frames);
            breaches(super::check, &history)
        };
        let told = || delete(&["b"], 6, 7, Some(4));
        let untold = || delete(&["b"], 6, 7, None);
        assert_eq!(judged(told(), &[gone(3, 4, "b", 9), bookmark(4, 4), full(4, &[("a", 3, 3)])]), 0);
        assert_eq!(judged(untold(), &[gone(3, 4, "b", 9), bookmark(4, 4), full(4, &[("a", 3, 3)])]), 0);
        assert_eq!(judged(told(), &[bookmark(4, 3)]), 1, "left out");
        assert_eq!(judged(told(), &[gone(3, 4, "a", 9)]), 2, "another one, and not this one");
        assert_eq!(judged(told(), &[step(3, 4, &[("b", 2, 2)])]), 2, "still there, and from before the step");
        assert_eq!(judged(told(), &[full(4, &[("a", 3, 3), ("b", 2, 2)])]), 1, "still there in a full state");
        assert_eq!(
            judged(untold(), &[gone(3, 4, "b", 9), full(4, &[("a", 3, 3), ("b", 2, 2)])]),
            1,
            "a step showed it"
        );
    }

    fn judged(frames: &[Event]) -> usize {
        let mut history = written();
        history.extend_from_slice(frames);
        breaches(super::check, &history)
    }

    #[test]
    fn what_a_feed_may_do_is_let_through() {
        let all: &[&[Event]] = &[
            &[
                opened(0),
                full(1, &[("a", 1, 1)]),
                step(1, 2, &[("b", 2, 2)]),
                step(2, 3, &[("a", 3, 3)]),
                bookmark(3, 3),
            ],
            &[opened(0), full(1, &[("a", 1, 1)]), step(1, 3, &[("a", 3, 3), ("b", 2, 2)])],
            &[opened(0), full(2, &[("a", 1, 1), ("b", 2, 2)]), opened(2), step(2, 3, &[("a", 3, 3)])],
        ];
        for frames in all {
            assert_eq!(judged(frames), 0, "{frames:?}");
        }
    }

    #[test]
    fn every_way_to_break_it_is_found() {
        let begin = || vec![opened(0), full(1, &[("a", 1, 1)])];
        let all: &[(&str, &[Event])] = &[
            ("a gap", &[step(2, 3, &[("a", 3, 3)])]),
            ("a step twice", &[step(1, 2, &[("b", 2, 2)]), step(1, 2, &[("b", 2, 2)])]),
            ("a step back", &[step(1, 3, &[("a", 3, 3), ("b", 2, 2)]), step(3, 2, &[("b", 2, 2)])]),
            ("a change left out", &[step(1, 3, &[("a", 3, 3)])]),
            ("a change of before", &[step(1, 2, &[("a", 1, 1), ("b", 2, 2)])]),
            ("a bookmark too far", &[bookmark(2, 1)]),
            ("a bookmark back", &[step(1, 2, &[("b", 2, 2)]), bookmark(1, 2)]),
            ("a full state back", &[step(1, 2, &[("b", 2, 2)]), full(1, &[("a", 1, 1)])]),
            ("a full state with a hole", &[full(2, &[("a", 1, 1)])]),
            ("a resume elsewhere", &[opened(0)]),
        ];
        for (name, frames) in all {
            let mut history = begin();
            history.extend_from_slice(frames);
            assert!(judged(&history) > 0, "{name}");
        }
    }
}
