//! What a history proves to have been written, from all of its witnesses: answers, feeds, reads.

use std::collections::{BTreeMap, HashMap};

use crate::history::{Call, Event, Found, Frame, FrameKind, Micros, Op, Outcome, Value, frames};

/// The law that its witnesses do not contradict each other.
pub(super) const LAW: &str = "one-history";

/// One logical write: several attempts under one request id are one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    /// What was written together; nothing where it was deleted.
    pub writes: Vec<(String, Option<Value>)>,
    /// Its condition.
    pub if_match: Option<u64>,
    /// Whether its values were merged into what was there.
    pub patch: bool,
    /// The first time that it was asked for.
    pub invoked: Micros,
    /// The first time that it was acknowledged.
    pub returned: Option<Micros>,
    /// Its revision: as acknowledged, or as others saw it.
    pub revision: Option<u64>,
    /// Whether a client was told so.
    pub acknowledged: bool,
    /// Whether an attempt's outcome is not known. When there is none, and nothing acknowledged, it must never be seen.
    pub possible: bool,
}

/// Everything that was written, or may have been.
#[derive(Debug, Default)]
pub struct Truth {
    /// In order of invocation.
    pub writes: Vec<Write>,
    /// By value: which write it is of.
    pub by_value: HashMap<Value, usize>,
    /// Of each key, its writes and deletes that are known to have happened, by revision.
    pub by_key: BTreeMap<String, BTreeMap<u64, Option<Value>>>,
    /// By revision: which write it is.
    pub by_revision: BTreeMap<u64, usize>,
    /// Witnesses that cannot both be right.
    pub contradictions: Vec<String>,
}

impl Truth {
    /// Works it out.
    #[must_use]
    pub fn of(history: &[Event]) -> Self {
        let mut truth = Self::default();
        let mut by_request: HashMap<&str, usize> = HashMap::new();
        for op in crate::history::ops(history) {
            truth.take_op(op, &mut by_request);
        }
        truth.index();
        for event in history {
            match event {
                Event::Op(Op { outcome: Outcome::Ok { found, .. }, client, .. }) => {
                    for (key, found) in found {
                        truth.witness(client, key, *found);
                    }
                }
                Event::Frame(frame) => {
                    let who = format!("the feed of cp-{}", frame.node);
                    match &frame.kind {
                        FrameKind::Full { state, .. } => {
                            state.iter().for_each(|(key, found)| truth.witness(&who, key, Some(*found)));
                        }
                        FrameKind::Delta { changes, .. } => {
                            changes.iter().for_each(|(key, found)| truth.witness(&who, key, *found));
                        }
                        _ => {}
                    }
                }
                _ => {}
            }
        }
        // When all that has a value is known: conditions tell deletes apart.
        frames(history).for_each(|frame| truth.witness_deletes(frame));
        truth
    }

    /// Keys that are known to have been written or deleted after one revision and up to another.
    pub(super) fn changed(&self, after: u64, up_to: u64) -> impl Iterator<Item = &String> {
        let range = if after < up_to { after + 1..up_to + 1 } else { 0..0 };
        self.by_revision.range(range).flat_map(|(_, index)| self.writes[*index].writes.iter().map(|(key, _)| key))
    }

    fn take_op<'a>(&mut self, op: &'a Op, by_request: &mut HashMap<&'a str, usize>) {
        let Call::Write { writes, if_match, request, patch } = &op.call else { return };
        let known = request.as_deref().and_then(|request| by_request.get(request).copied());
        let index = known.unwrap_or_else(|| {
            self.writes.push(Write {
                writes: writes.clone(),
                if_match: *if_match,
                patch: *patch,
                invoked: op.invoked,
                returned: None,
                revision: None,
                acknowledged: false,
                possible: false,
            });
            self.writes.len() - 1
        });
        if let Some(request) = request {
            by_request.insert(request, index);
        }
        let write = &mut self.writes[index];
        write.invoked = write.invoked.min(op.invoked);
        match &op.outcome {
            Outcome::Ok { position, .. } => {
                write.acknowledged = true;
                write.revision.get_or_insert(position.1);
                write.returned = Some(write.returned.map_or(op.returned, |at| at.min(op.returned)));
            }
            Outcome::Unknown { .. } => write.possible = true,
            Outcome::Fail { .. } => {}
        }
    }

    fn index(&mut self) {
        for index in 0..self.writes.len() {
            for value in self.writes[index].writes.iter().filter_map(|(_, value)| *value) {
                if self.by_value.insert(value, index).is_some() {
                    self.contradictions.push(format!("the workload wrote {value} twice"));
                }
            }
            if let Some(revision) = self.writes[index].revision {
                self.place(index, revision);
            }
        }
    }

    /// A write has this revision.
    fn place(&mut self, index: usize, revision: u64) {
        let write = &mut self.writes[index];
        write.revision = Some(revision);
        for (key, value) in &write.writes {
            self.by_key.entry(key.clone()).or_default().insert(revision, *value);
        }
        if let Some(other) = self.by_revision.insert(revision, index).filter(|other| *other != index) {
            let (one, other) = (&self.writes[index], &self.writes[other]);
            self.contradictions.push(format!("revision {revision} was given to two writes: {other:?}, {one:?}"));
        }
    }

    /// A delete leaves no value that names it. Where nobody was told of it, a step that does nothing else shows its revision,
    /// and it is taken to be the first of those that are possible there.
    fn witness_deletes(&mut self, frame: &Frame) {
        let FrameKind::Delta { prev, position, changes, .. } = &frame.kind else { return };
        let revision = position.1;
        let gone: Vec<&String> = changes.iter().filter(|(_, found)| found.is_none()).map(|(key, _)| key).collect();
        if gone.is_empty() || prev.1 + 1 != revision || self.by_revision.contains_key(&revision) {
            return;
        }
        let possible = self.writes.iter().position(|write| {
            let of_these = write.writes.iter().all(|(key, value)| value.is_none() && gone.contains(&key));
            let holds = |wanted: u64| {
                write
                    .writes
                    .iter()
                    .all(|(key, _)| self.held(key, revision - 1).is_some_and(|held| held.modified == wanted))
            };
            of_these
                && write.revision.is_none()
                && write.possible
                && write.invoked <= frame.at
                && write.if_match.is_none_or(holds)
        });
        match possible {
            Some(index) => self.place(index, revision),
            None => {
                let who = format!("the feed of cp-{}", frame.node);
                self.contradictions.push(format!("{who} saw {gone:?} deleted at {position}, which nobody asked for"));
            }
        }
    }

    /// Whether a key may have been deleted before this time by somebody who was not told, and whom no step showed.
    #[must_use]
    pub fn may_be_gone(&self, key: &str, before: Micros) -> bool {
        let deletes = |write: &&Write| write.writes.iter().any(|(other, value)| other == key && value.is_none());
        let unseen = |write: &&Write| write.possible && write.revision.is_none() && write.invoked <= before;
        self.writes.iter().filter(unseen).any(|write| deletes(&write))
    }

    /// Whether somebody who was not told may have written this key before this time, which nothing has shown.
    #[must_use]
    pub fn may_differ(&self, key: &str, before: Micros) -> bool {
        let of_key = |write: &&Write| write.writes.iter().any(|(other, _)| other == key);
        let unseen = |write: &&Write| write.possible && write.revision.is_none() && write.invoked <= before;
        self.writes.iter().filter(unseen).any(|write| of_key(&write))
    }

    fn witness(&mut self, who: &str, key: &str, found: Option<Found>) {
        let Some(Found { value, modified, put }) = found else { return };
        if let Some(put) = put {
            let of_key = |write: &Write| write.writes.iter().any(|written| *written == (key.to_owned(), Some(put)));
            let index = self.by_value.get(&put).filter(|index| of_key(&self.writes[**index]));
            if index.is_none_or(|index| !self.writes[*index].acknowledged && !self.writes[*index].possible) {
                let what = format!("{who} saw {value} at {key}, patched into {put}, which nobody wrote there");
                self.contradictions.push(what);
            }
        }
        let Some(index) = self.by_value.get(&value).copied() else {
            return self.contradictions.push(format!("{who} saw {value} at {key}, which nobody wrote"));
        };
        let write = &mut self.writes[index];
        if !write.acknowledged && !write.possible {
            self.contradictions.push(format!("{who} saw {value} at {key}, whose write was refused"));
        }
        if !write.writes.contains(&(key.to_owned(), Some(value))) {
            self.contradictions.push(format!("{who} saw {value} at {key}, which was written elsewhere: {write:?}"));
        }
        match write.revision {
            Some(revision) if revision != modified => self
                .contradictions
                .push(format!("{who} saw {value} at {key} with revision {modified}; elsewhere it has {revision}")),
            Some(_) => {}
            None => self.place(index, modified),
        }
    }

    /// What a key holds at a revision, and since which, as far as it is known.
    #[must_use]
    pub fn held(&self, key: &str, at: u64) -> Option<Found> {
        let mut newest_first = self.by_key.get(key)?.range(..=at).rev().map(|(revision, value)| (*revision, *value));
        let (modified, value) = newest_first.next()?;
        let value = value?;
        let is_patch = |value: &Value| self.by_value.get(value).is_some_and(|index| self.writes[*index].patch);
        let mut before = newest_first.map_while(|(_, value)| value);
        let put = if is_patch(&value) { before.find(|value| !is_patch(value)) } else { None };
        Some(Found { value, modified, put })
    }

    /// Whether what was patched here may have been put by somebody who was not told, and that nothing else has shown.
    fn may_be_put(&self, key: &str, seen: Found, held: Found, before: Micros) -> bool {
        let of_unseen = |put: Value| {
            let write = self.by_value.get(&put).map(|index| &self.writes[*index]);
            write.is_some_and(|write| write.possible && write.revision.is_none() && write.invoked <= before)
        };
        (seen.value, seen.modified) == (held.value, held.modified)
            && seen.put.is_some_and(of_unseen)
            && self.may_differ(key, before)
    }

    /// What is wrong with what somebody saw of a key at a revision, at this time.
    #[must_use]
    pub fn denies(&self, key: &str, at: u64, seen: Option<Found>, time: Micros) -> Option<String> {
        let held = self.held(key, at);
        let deleted = seen.is_none() && self.may_be_gone(key, time);
        let put = seen.zip(held).is_some_and(|(seen, held)| self.may_be_put(key, seen, held, time));
        (seen != held && !deleted && !put).then(|| format!("{seen:?} at {key} as of {at}; up to there it is {held:?}"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::sample::{breaches, cas_delete, delete, gone, patch, patched, unknown, write};
    use crate::history::Found;

    #[test]
    fn a_delete_that_only_a_step_has_shown_is_one_whose_condition_holds_there() {
        let none = |_: &[crate::history::Event], truth: &super::Truth| truth.contradictions.clone();
        let before = [write("a", 1, 0, 1, Some(1)), cas_delete("a", 1, 2, 3), write("a", 2, 4, 5, Some(2))];
        let told = |last: &[crate::history::Event]| [&before[..], last].concat();
        assert_eq!(breaches(none, &told(&[delete(&["a"], 6, 7, None), gone(2, 3, "a", 9)])), 0);
        assert_eq!(breaches(none, &told(&[gone(2, 3, "a", 9)])), 1, "its condition does not hold there");
    }

    #[test]
    fn a_patch_leaves_all_else_as_the_last_put_has_made_it() {
        let before = [write("a", 1, 0, 1, Some(1)), write("a", 2, 2, 3, Some(2)), patch(&[("a", 3)], 4, 5, Some(3))];
        let judged = |put, at| {
            let read = patched("a", Found { value: 3, modified: 3, put }, at, 6, 7);
            crate::check::all(&[&before[..], &[read]].concat()).len()
        };
        assert_eq!(judged(Some(2), 3), 0);
        assert!(judged(Some(1), 3) > 0, "it was merged into what had been replaced");
        assert!(judged(None, 3) > 0, "all else is gone");
        assert!(judged(Some(9), 3) > 0, "nobody wrote that");
        let unseen = [write("a", 1, 0, 1, Some(1)), unknown("a", 2, 2, 3), patch(&[("a", 3)], 4, 5, Some(3))];
        let read = patched("a", Found { value: 3, modified: 3, put: Some(2) }, 3, 6, 7);
        assert_eq!(crate::check::all(&[&unseen[..], &[read]].concat()), [], "it was written after all");
    }
}
