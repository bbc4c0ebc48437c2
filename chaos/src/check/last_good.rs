//! What a proxy may serve of a key at a revision, when some of its values are poison: the last good one of those that it was
//! at. It need not have been at each: a step may lead over many revisions.

use std::collections::{BTreeSet, HashMap};

use super::Truth;
use super::truth::Write;
use crate::history::{Event, Found, Micros, POISON, Value, stands};

/// What is served of a key.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Served {
    /// There is no such resource.
    Nothing,
    /// This value.
    Value(Value),
    /// Its requests are taken and refused.
    Sealed,
}

/// What proxies may serve.
pub(super) struct Servings<'a> {
    truth: &'a Truth,
    /// The revisions that each proxy was seen at.
    stood: HashMap<&'a str, BTreeSet<u64>>,
}

impl<'a> Servings<'a> {
    pub(super) fn of(history: &'a [Event], truth: &'a Truth) -> Self {
        let mut stood: HashMap<&str, BTreeSet<u64>> = HashMap::new();
        for stand in stands(history).filter(|stand| stand.who.starts_with("dp-")) {
            stood.entry(&stand.who).or_default().insert(stand.position.1);
        }
        Self { truth, stood }
    }

    /// What this proxy may serve at a revision; which one is not known where it was not seen at those before.
    pub(super) fn at(&self, dp: &str, key: &str, revision: u64) -> Vec<Served> {
        let revisions = self.truth.by_key.get(key).into_iter().flat_map(|writes| writes.range(..=revision).rev());
        let (mut lawful, mut replaced_at) = (Vec::new(), None);
        for (since, _) in revisions {
            let served = match self.truth.held(key, *since) {
                Some(held) if is_poison(held) => None,
                // What is patched is not what is answered with.
                Some(held) => Some(Served::Value(held.whole())),
                None if replaced_at.is_none() => Some(Served::Nothing),
                // Without a last good one since then.
                None => Some(Served::Sealed),
            };
            lawful.extend(served);
            let is_sure = match replaced_at {
                None => true,
                Some(until) => self.stood.get(dp).is_some_and(|at| at.range(since..&until).next().is_some()),
            };
            if served.is_some() && is_sure {
                return lawful;
            }
            replaced_at = Some(*since);
        }
        lawful.push(if replaced_at.is_some() { Served::Sealed } else { Served::Nothing });
        lawful
    }

    /// What else may be served: of writes that nobody was told of, and nothing has shown, before this time.
    pub(super) fn perhaps(&self, key: &str, before: Micros) -> Vec<Served> {
        let unseen = |write: &&Write| write.possible && write.revision.is_none() && write.invoked <= before;
        let unseen = self.truth.writes.iter().filter(|write| unseen(write) && !write.patch);
        let values = unseen.flat_map(|write| &write.writes).filter(|(other, _)| other == key).map(|(_, value)| *value);
        let served = |value: Option<Value>| match value {
            // And none is left to be served in the place of poison that comes next.
            None => vec![Served::Nothing, Served::Sealed],
            Some(value) if value >= POISON => vec![Served::Sealed],
            Some(value) => vec![Served::Value(value)],
        };
        values.flat_map(served).collect()
    }
}

/// Whether no proxy can serve this: it was put as poison, whatever was patched since.
pub(super) fn is_poison(held: Found) -> bool {
    held.whole() >= POISON
}
