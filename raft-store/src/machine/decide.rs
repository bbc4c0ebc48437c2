//! Decides what a committed command changes. Called only by [`super::State`].
//! Knows no clock, disk or HTTP: one log, one state, on every replica.

use std::collections::BTreeMap;
use std::sync::Arc;

use daemon::planted;
use protocol::command::{Command, Draft, Write};
use protocol::delta::{Cause, Change};
use protocol::entry::Stamp;
use protocol::outcome::{Written, WrittenHow};
use protocol::{ConfigState, Delta, Entry, Rejection, ResourceKey, Revision};

/// Decides a command that writes resources, all or nothing.
///
/// Conditions are checked against the state as it is; references, groups and unique values against the state as it would
/// be, so that a transaction may bring a route and its upstream together, in any order.
///
/// # Errors
/// The [`Rejection`] of the first condition that does not hold.
pub fn decide(
    state: &ConfigState,
    command: &Command,
    writes: &[Write],
    if_revision: Option<Revision>,
) -> Result<(Vec<Written>, Delta), Rejection> {
    check_conditions(state, command, if_revision)?;
    let position = state.position().next();
    let stamp = Stamp { revision: position.revision, time: command.time };
    let mut draft = After { state, entries: BTreeMap::new() };
    let mut written = Vec::with_capacity(writes.len());
    for write in writes {
        written.push(draft.write(write, stamp, writes.len())?);
    }
    for write in writes {
        draft.check(write, stamp)?;
    }
    let mut changes: Vec<Change> = draft.entries.into_iter().map(|(key, entry)| Change { key, entry }).collect();
    if changes.len() > 1 && planted!("half-a-transaction") {
        changes.pop();
    }
    if changes.is_empty() {
        return Err(Rejection::Malformed { why: "a transaction needs at least one write".into() });
    }
    let digest = state.digest_after(&changes);
    let cause = Cause { author: command.author.clone(), request: command.request.clone(), time: command.time };
    Ok((written, Delta { prev: state.changed_at(), position, changes, digest, cause: Some(cause) }))
}

fn check_conditions(state: &ConfigState, command: &Command, if_revision: Option<Revision>) -> Result<(), Rejection> {
    let found = state.position().revision;
    if let Some(wanted) = if_revision.filter(|wanted| *wanted != found) {
        return Err(Rejection::RevisionMoved { wanted, found });
    }
    match command.based_on.iter().find(|read| state.modified(&read.key) != read.modified) {
        Some(_) if planted!("patch-loses-an-update") => Ok(()),
        Some(stale) => Err(Rejection::Stale { key: stale.key.clone() }),
        None => Ok(()),
    }
}

/// The state as it would be.
struct After<'s> {
    state: &'s ConfigState,
    entries: BTreeMap<ResourceKey, Option<Arc<Entry>>>,
}

impl After<'_> {
    fn get(&self, key: &ResourceKey) -> Option<&Arc<Entry>> {
        match self.entries.get(key) {
            Some(entry) => entry.as_ref(),
            None => self.state.get(key),
        }
    }

    fn write(&mut self, write: &Write, stamp: Stamp, of: usize) -> Result<Written, Rejection> {
        let key = match write {
            Write::Put { key, .. } | Write::Delete { key, .. } => key.clone(),
            Write::Post { kind, .. } if of == 1 => {
                ResourceKey { kind: kind.clone(), id: format!("{:020}", stamp.revision).into() }
            }
            Write::Post { .. } => {
                return Err(Rejection::Malformed { why: "a write without an id must stand alone".into() });
            }
        };
        if self.entries.contains_key(&key) {
            return Err(Rejection::Twice { key });
        }
        let old = self.state.get(&key);
        let (entry, how) = match write {
            Write::Put { draft, if_match, only_new, .. } => {
                check_match(&key, old, *if_match)?;
                if *only_new && old.is_some() {
                    return Err(Rejection::Exists { key });
                }
                let created = old.map_or(stamp, |old| old.created);
                let how = match old {
                    Some(old) => WrittenHow::Replaced { created: old.created, modified: stamp },
                    None => WrittenHow::Created { stamp },
                };
                (Some(entry(draft, created, stamp)), how)
            }
            Write::Post { draft, .. } => {
                if old.is_some() {
                    return Err(Rejection::Exists { key });
                }
                (Some(entry(draft, stamp, stamp)), WrittenHow::Created { stamp })
            }
            Write::Delete { if_match, .. } => {
                check_match(&key, old, *if_match)?;
                let Some(old) = old else { return Err(Rejection::NotFound { key }) };
                (planted!("delete-leaves-it").then(|| old.clone()), WrittenHow::Deleted)
            }
        };
        let entry = if planted!("replicas-differ") { old.cloned() } else { entry };
        self.entries.insert(key.clone(), entry);
        Ok(Written { key, how })
    }

    /// Checks what a write brought against everything else as it would be.
    fn check(&self, write: &Write, stamp: Stamp) -> Result<(), Rejection> {
        match write {
            Write::Put { key, .. } => self.check_entry(key),
            Write::Post { kind, .. } => {
                self.check_entry(&ResourceKey { kind: kind.clone(), id: format!("{:020}", stamp.revision).into() })
            }
            Write::Delete { force: true, .. } => Ok(()),
            Write::Delete { key, .. } => {
                let still = |by: &&ResourceKey| self.get(by).is_some_and(|entry| entry.references.contains(key));
                match self.state.referrers(key).find(still) {
                    Some(by) => Err(Rejection::StillReferenced { key: key.clone(), by: by.clone() }),
                    None => Ok(()),
                }
            }
        }
    }

    fn check_entry(&self, key: &ResourceKey) -> Result<(), Rejection> {
        let Some(entry) = self.get(key) else { return Ok(()) };
        for to in &entry.references {
            let Some(target) = self.get(to) else {
                return Err(Rejection::MissingReference { from: key.clone(), to: to.clone() });
            };
            if let Some(group) = entry.groups.iter().find(|group| !target.is_in(group)) {
                return Err(Rejection::ForeignGroup { from: key.clone(), to: to.clone(), group: group.clone() });
            }
        }
        // The other way round: what refers to this one must still share its groups.
        for from in self.state.referrers(key).filter(|from| !self.entries.contains_key(*from)) {
            let Some(referrer) = self.get(from) else { continue };
            if let Some(group) = referrer.groups.iter().find(|group| !entry.is_in(group)) {
                return Err(Rejection::ForeignGroup { from: from.clone(), to: key.clone(), group: group.clone() });
            }
        }
        for claim in &entry.claims {
            let holds = |holder: &ResourceKey| {
                holder != key && self.get(holder).is_some_and(|entry| entry.claims.contains(claim))
            };
            let before = self.state.claimed_by(claim).filter(|holder| holds(holder));
            let among = || self.entries.keys().find(|holder| holds(holder));
            if let Some(by) = before.or_else(among) {
                return Err(Rejection::Claimed { key: key.clone(), space: claim.space.clone(), by: by.clone() });
            }
        }
        Ok(())
    }
}

fn check_match(key: &ResourceKey, old: Option<&Arc<Entry>>, if_match: Option<Revision>) -> Result<(), Rejection> {
    let found = old.map(|old| old.modified.revision);
    if planted!("condition-ignored") {
        return Ok(());
    }
    match if_match {
        Some(wanted) if found != Some(wanted) => Err(Rejection::Mismatch { key: key.clone(), wanted, found }),
        _ => Ok(()),
    }
}

fn entry(draft: &Draft, created: Stamp, modified: Stamp) -> Arc<Entry> {
    Arc::new(Entry {
        body: draft.body.clone(),
        references: draft.references.clone(),
        claims: draft.claims.clone(),
        groups: draft.groups.clone(),
        created,
        modified,
        ttl_seconds: draft.ttl_seconds,
    })
}
