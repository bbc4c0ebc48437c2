//! What a history proves to have been written, from all of its witnesses: answers, feeds, reads.

use std::collections::{BTreeMap, HashMap};

use crate::history::{Call, Event, Found, FrameKind, Micros, Op, Outcome, Value};

/// One logical write: several attempts under one request id are one.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Write {
    /// What was written together.
    pub writes: Vec<(String, Value)>,
    /// Its condition.
    pub if_match: Option<u64>,
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
    /// Of each key, its writes that are known to have happened, by revision.
    pub by_key: BTreeMap<String, BTreeMap<u64, Value>>,
    /// By revision: the keys that it wrote.
    revisions: BTreeMap<u64, Vec<String>>,
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
        for (key, writes) in &truth.by_key {
            for revision in writes.keys() {
                truth.revisions.entry(*revision).or_default().push(key.clone());
            }
        }
        truth
    }

    /// Keys that are known to have been written after one revision and up to another.
    pub(super) fn by_revision(&self, after: u64, up_to: u64) -> impl Iterator<Item = &String> {
        let range = if after < up_to { after + 1..up_to + 1 } else { 0..0 };
        self.revisions.range(range).flat_map(|(_, keys)| keys)
    }

    fn take_op<'a>(&mut self, op: &'a Op, by_request: &mut HashMap<&'a str, usize>) {
        let Call::Write { writes, if_match, request } = &op.call else { return };
        let known = request.as_deref().and_then(|request| by_request.get(request).copied());
        let index = known.unwrap_or_else(|| {
            self.writes.push(Write {
                writes: writes.clone(),
                if_match: *if_match,
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
        let mut by_revision: BTreeMap<u64, usize> = BTreeMap::new();
        for (index, write) in self.writes.iter().enumerate() {
            for (key, value) in &write.writes {
                if self.by_value.insert(*value, index).is_some() {
                    self.contradictions.push(format!("the workload wrote {value} twice"));
                }
                if let Some(revision) = write.revision {
                    self.by_key.entry(key.clone()).or_default().insert(revision, *value);
                }
            }
            if let Some(revision) = write.revision
                && let Some(other) = by_revision.insert(revision, index)
            {
                let other = &self.writes[other];
                self.contradictions.push(format!("revision {revision} was given to two writes: {other:?}, {write:?}"));
            }
        }
    }

    fn witness(&mut self, who: &str, key: &str, found: Option<Found>) {
        let Some(Found { value, modified }) = found else { return };
        let Some(index) = self.by_value.get(&value).copied() else {
            return self.contradictions.push(format!("{who} saw {value} at {key}, which nobody wrote"));
        };
        let write = &mut self.writes[index];
        if !write.acknowledged && !write.possible {
            self.contradictions.push(format!("{who} saw {value} at {key}, whose write was refused"));
        }
        if !write.writes.contains(&(key.to_owned(), value)) {
            self.contradictions.push(format!("{who} saw {value} at {key}, which was written elsewhere: {write:?}"));
        }
        match write.revision {
            Some(revision) if revision != modified => self
                .contradictions
                .push(format!("{who} saw {value} at {key} with revision {modified}; elsewhere it has {revision}")),
            Some(_) => {}
            None => {
                write.revision = Some(modified);
                for (key, value) in &write.writes.clone() {
                    self.by_key.entry(key.clone()).or_default().insert(modified, *value);
                }
            }
        }
    }

    /// The last write of a key that is known, up to a revision.
    #[must_use]
    pub fn last(&self, key: &str, up_to: u64) -> Option<(u64, Value)> {
        let (revision, value) = self.by_key.get(key)?.range(..=up_to).next_back()?;
        Some((*revision, *value))
    }
}
