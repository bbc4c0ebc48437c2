//! The record, after every change of it: on each timeline a gapless prefix of the history that never goes back (law 9),
//! written by no leader after a later one; and what is said of it is not ahead of it.

use std::collections::{BTreeMap, VecDeque};

use super::Checker;
use crate::hosts::World;
use crate::outside::postgres::{Host, Postgres};
use crate::truth::Truth;

/// What was seen of the record.
#[derive(Default)]
pub(super) struct Seen {
    changes: u64,
    /// By timeline.
    primaries: BTreeMap<u32, Primary>,
    /// Entries of the log whose marks were looked at.
    entries: u64,
    /// What was said last of the record.
    mark: u64,
    /// How many changes may wait for it now.
    allowed: u64,
    /// When clients gave writes up of which they do not know what became.
    given_up: VecDeque<u64>,
}

/// A write that was given up may lie in the log of a leader without a quorum, admitted when less was waiting, and be committed
/// by the next one: longer than any outage lasts.
const GIVEN_UP_MILLIS: u64 = 8_000;

/// What was seen of the primary of a timeline.
#[derive(Clone, Copy, Default)]
struct Primary {
    revision: u64,
    term: u64,
    /// Rows of the history that are known to be good.
    rows: usize,
}

impl Checker {
    pub(super) fn check_record(&mut self, world: &mut World, now_millis: u64) -> Result<(), String> {
        let Some(server) = self.outside.postgres.clone() else { return Ok(()) };
        server.look(|postgres| {
            self.check_marks(world, postgres, now_millis)?;
            if self.record.changes == postgres.changes {
                return Ok(());
            }
            self.record.changes = postgres.changes;
            let truth = self.truth.as_ref().expect("it is there once a node is");
            for host in postgres.hosts.iter().filter(|host| !host.is_standby) {
                let seen = self.record.primaries.entry(host.timeline).or_default();
                let before = seen.revision;
                primary(host, seen, truth).map_err(|e| format!("the record on timeline {}: {e}", host.timeline))?;
                if seen.revision != before {
                    world.tally.count("record_moves");
                    self.trace.note(format!("{now_millis} the record is at {}", seen.revision));
                }
            }
            Ok(())
        })
    }

    /// What is replicated of the record was true when it was said, and what waits for it is bounded.
    fn check_marks(&mut self, world: &mut World, postgres: &Postgres, now_millis: u64) -> Result<(), String> {
        let truth = self.truth.as_ref().expect("it is there once a node is");
        if self.record.entries == truth.next_index() {
            return Ok(());
        }
        self.record.entries = truth.next_index();
        let outbox = truth.outbox();
        if let Some(mark) = outbox.mark() {
            let furthest = postgres.furthest.get(&mark.timeline).copied().unwrap_or(0);
            if mark.revision > furthest {
                let (said, timeline) = (mark.revision, mark.timeline);
                return Err(format!(
                    "the record is said to be at {said} on timeline {timeline}, and was at {furthest}"
                ));
            }
        }
        let (backlog, bound) = (outbox.backlog_changes(), self.backlog_max);
        while self.record.given_up.front().is_some_and(|at| at + GIVEN_UP_MILLIS < now_millis) {
            self.record.given_up.pop_front();
        }
        let under_way = self.under_way + self.record.given_up.len() as u64;
        // What the record took back waits for it again, beyond the bound, and no more than that.
        let mark = outbox.mark().map_or(0, |mark| mark.revision);
        let allowed = if mark < self.record.mark { u64::MAX } else { self.record.allowed };
        (self.record.mark, self.record.allowed) = (mark, allowed.min(backlog + under_way).max(bound + under_way));
        if backlog > self.record.allowed {
            return Err(format!("{backlog} changes wait for the record, the bound is {bound}"));
        }
        if backlog >= bound {
            world.tally.count("backlog_full");
        }
        Ok(())
    }

    /// A client does not know what became of a write, and waits for it no more.
    pub(super) fn given_up(&mut self, now_millis: u64) {
        self.record.given_up.push_back(now_millis);
    }

    /// Whether the record has held a revision, on any timeline (law 1).
    pub(super) fn is_recorded(&self, revision: u64) -> Result<(), String> {
        let furthest = self.outside.postgres.as_ref().and_then(|p| p.look(|p| p.furthest.values().max().copied()));
        match furthest.is_some_and(|furthest| furthest >= revision) {
            true => Ok(()),
            false => Err(format!("{revision} was acknowledged as recorded, the record came to {furthest:?}")),
        }
    }

    /// Whether the record holds everything, and everybody knows.
    pub(super) fn record_is_at(&self, head: u64) -> Result<(), String> {
        let Some(server) = &self.outside.postgres else { return Ok(()) };
        let cursor = server.look(|postgres| postgres.hosts[postgres.primary()].record.cursor.clone());
        let cursor = cursor.map(|cursor| cursor.revision);
        let mark = self.truth().outbox().mark().map(|mark| mark.revision);
        match cursor == Some(head) && mark == Some(head) {
            true => Ok(()),
            false => Err(format!("the record is at {cursor:?} and known to be at {mark:?}, the head is {head}")),
        }
    }
}

fn primary(host: &Host, seen: &mut Primary, truth: &Truth) -> Result<(), String> {
    let record = &host.record;
    let Some(cursor) = &record.cursor else { return Ok(()) };
    if cursor.revision < seen.revision {
        return Err(format!("it went back from {} to {}", seen.revision, cursor.revision));
    }
    if cursor.term < seen.term {
        return Err(format!("the leader of term {} wrote after the one of {}", cursor.term, seen.term));
    }
    let at = |revision: u64| {
        let known = truth.revisions.get(usize::try_from(revision).expect("it fits"));
        known.ok_or_else(|| format!("it holds {revision}, which was never committed"))
    };
    if at(cursor.revision)?.chain != cursor.chain {
        return Err(format!("its chain at {} is another history's", cursor.revision));
    }
    // Row after row the changes of each revision, and no other.
    let mut expected = record.history[..seen.rows].last().map_or(record.base, |row| row.revision) + 1;
    let mut rows = record.history[seen.rows..].iter();
    while expected <= cursor.revision {
        let revision = at(expected)?;
        for key in &revision.keys {
            let body = truth.at(key, expected).map(|(_, body)| body);
            match rows.next() {
                Some(row)
                    if row.revision == expected
                        && row.key == *key
                        && row.body.as_deref() == body
                        && row.chain == revision.chain => {}
                Some(row) => {
                    return Err(format!("{expected} of {key} is due, {} of {} follows", row.revision, row.key));
                }
                None => return Err(format!("it lacks {expected} of {key} and says that it has it")),
            }
        }
        expected += 1;
    }
    if let Some(row) = rows.next() {
        return Err(format!("behind its cursor at {} it has {} of {}", cursor.revision, row.revision, row.key));
    }
    let current: Vec<_> = record.current.iter().map(|(key, (body, _))| (key, &**body)).collect();
    if current != truth.all_at(cursor.revision) {
        return Err(format!("what is current in it is not what was at {}", cursor.revision));
    }
    *seen = Primary { revision: cursor.revision, term: cursor.term, rows: record.history.len() };
    Ok(())
}
