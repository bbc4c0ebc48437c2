//! The record's PostgreSQL: a primary and its standby, which follows it a moment behind and may be promoted without the
//! tail. Each statement is carried out whole or not at all, under the conditions that the real ones have.

use std::collections::BTreeMap;
use std::sync::Arc;

use cp_node::record::{Answer, Cursor, Found, Hosts, Tables, Trouble};
use protocol::{Chain, ConfigState, Position, ResourceKey};
use raft_store::machine::OutboxItem;

use super::{Failed, Server};
use crate::plan::Mutant;

/// The system identifier that both hosts share.
const SYSTEM: u64 = 4_711;

/// How far behind a standby is, in milliseconds, at most.
const BEHIND_MAX: u64 = 300;

/// With a planted bug: every so many steps one is confirmed and not carried out.
const FORGOTTEN_EVERY: u64 = 5;

/// Both hosts.
pub(crate) struct Postgres {
    pub(crate) hosts: [Host; 2],
    /// Counts what has changed anything.
    pub(crate) changes: u64,
    /// How far the record has come on each timeline.
    pub(crate) furthest: BTreeMap<u32, u64>,
    mutant: Option<Mutant>,
    steps: u64,
    copied_millis: u64,
}

/// One of them.
#[derive(Clone)]
pub(crate) struct Host {
    pub(crate) timeline: u32,
    pub(crate) is_standby: bool,
    is_read_only: bool,
    is_up: bool,
    /// Counts its lives: a session is of one.
    life: u64,
    pub(crate) record: Record,
}

/// The tables of the record.
#[derive(Clone, Default)]
pub(crate) struct Record {
    pub(crate) cursor: Option<Cursor>,
    /// Where the history begins: after this revision.
    pub(crate) base: u64,
    pub(crate) history: Vec<Row>,
    /// What is current: body and revision.
    pub(crate) current: BTreeMap<ResourceKey, (Arc<str>, u64)>,
}

/// A change of one resource.
#[derive(Clone)]
pub(crate) struct Row {
    pub(crate) revision: u64,
    pub(crate) key: ResourceKey,
    pub(crate) body: Option<Arc<str>>,
    pub(crate) chain: Chain,
}

impl Postgres {
    pub(crate) fn new(mutant: Option<Mutant>) -> Self {
        let host = |is_standby| Host {
            timeline: 1,
            is_standby,
            is_read_only: false,
            is_up: true,
            life: 0,
            record: Record::default(),
        };
        let furthest = BTreeMap::new();
        Self { hosts: [host(false), host(true)], changes: 0, furthest, mutant, steps: 0, copied_millis: 0 }
    }

    /// The primary of the latest timeline.
    pub(crate) fn primary(&self) -> usize {
        let newest = |host: &&usize| (!self.hosts[**host].is_standby, self.hosts[**host].timeline);
        [0, 1].iter().max_by_key(newest).copied().expect("there are two")
    }

    /// Time goes on: a standby that follows comes after.
    pub(crate) fn tick(&mut self, now_millis: u64) {
        if now_millis < self.copied_millis + BEHIND_MAX {
            return;
        }
        self.copied_millis = now_millis;
        let (from, to) = (self.primary(), 1 - self.primary());
        if self.hosts[to].is_standby && self.hosts[from].is_up {
            self.hosts[to].record = self.hosts[from].record.clone();
            self.hosts[to].timeline = self.hosts[from].timeline;
        }
    }

    /// The primary dies, and its sessions with it; or it comes back.
    pub(crate) fn set_up(&mut self, is_up: bool) {
        let primary = self.primary();
        let host = &mut self.hosts[primary];
        (host.is_up, host.life) = (is_up, host.life + 1);
    }

    pub(crate) fn set_read_only(&mut self, is_read_only: bool) {
        let primary = self.primary();
        self.hosts[primary].is_read_only = is_read_only;
    }

    /// The standby takes over with what it has. The old primary dies, or goes on beside it as if nothing were.
    pub(crate) fn fail_over(&mut self, stays: bool) -> bool {
        let (old, new) = (self.primary(), 1 - self.primary());
        if !self.hosts[new].is_standby {
            return false;
        }
        let timeline = self.hosts[old].timeline + 1;
        let host = &mut self.hosts[new];
        (host.is_standby, host.timeline, host.life) = (false, timeline, host.life + 1);
        if let Some(cursor) = &host.record.cursor {
            self.furthest.insert(timeline, cursor.revision);
        }
        if !stays {
            (self.hosts[old].is_up, self.hosts[old].life) = (false, self.hosts[old].life + 1);
        }
        self.changes += 1;
        true
    }

    /// Everything is as it should be: one primary that takes writes, and the other host follows it.
    pub(crate) fn heal(&mut self) {
        let primary = self.primary();
        for (number, host) in self.hosts.iter_mut().enumerate() {
            host.life += u64::from(!host.is_up || (number != primary && !host.is_standby));
            (host.is_up, host.is_read_only, host.is_standby) = (true, false, number != primary);
        }
    }

    /// The host, for a session of one of its lives.
    fn session(&mut self, host: usize, life: u64) -> Result<&mut Host, Trouble> {
        let host = &mut self.hosts[host];
        match host.is_up && host.life == life {
            true => Ok(host),
            false => Err(Trouble::Unreachable("the connection is gone".to_owned())),
        }
    }

    /// Changes the record by one statement.
    fn write(
        &mut self,
        host: usize,
        life: u64,
        statement: impl FnOnce(&mut Record) -> Result<(), Trouble>,
    ) -> Result<(), Trouble> {
        let host = self.session(host, life)?;
        if host.is_standby || host.is_read_only {
            return Err(Trouble::ReadOnly);
        }
        statement(&mut host.record)?;
        let (timeline, cursor) = (host.timeline, host.record.cursor.as_ref().map_or(0, |cursor| cursor.revision));
        let furthest = self.furthest.entry(timeline).or_default();
        *furthest = cursor.max(*furthest);
        self.changes += 1;
        Ok(())
    }

    fn step(
        &mut self,
        (host, life): (usize, u64),
        at: &Cursor,
        items: &[Arc<OutboxItem>],
        next: &Cursor,
    ) -> Result<(), Trouble> {
        self.steps += 1;
        let (mutant, is_forgotten) = (self.mutant, self.steps.is_multiple_of(FORGOTTEN_EVERY));
        if mutant == Some(Mutant::RecordForgets) && is_forgotten {
            return Ok(());
        }
        self.write(host, life, |record| {
            let is_there = record.cursor.as_ref().is_some_and(|cursor| {
                let place = |cursor: &Cursor| {
                    (cursor.cluster.clone(), cursor.epoch, cursor.restore.clone(), cursor.revision, cursor.chain)
                };
                place(cursor) == place(at) && cursor.term <= at.term
            });
            if !is_there && mutant != Some(Mutant::RecordNotFenced) {
                return Err(Trouble::Moved);
            }
            record.cursor = Some(next.clone());
            let mut rows: Vec<_> = items.iter().flat_map(|item| item.rows()).collect();
            if mutant == Some(Mutant::RecordSkips) {
                rows.pop();
            }
            for row in rows {
                let body = row.entry.map(|entry| entry.body.clone());
                match &body {
                    Some(body) => record.current.insert(row.key.clone(), (body.clone(), row.position.revision)),
                    None => record.current.remove(row.key),
                };
                let (revision, key, chain) = (row.position.revision, row.key.clone(), *row.chain);
                record.history.push(Row { revision, key, body, chain });
            }
            Ok(())
        })
    }
}

impl Record {
    /// Moves the cursor from what was seen.
    fn exchange(&mut self, seen: Option<&Cursor>, next: &Cursor, is_fenced: bool) -> Result<(), Trouble> {
        if self.cursor.as_ref() != seen && is_fenced {
            return Err(Trouble::Moved);
        }
        self.cursor = Some(next.clone());
        Ok(())
    }
}

/// A client of both hosts.
#[derive(Clone)]
pub(crate) struct Client(pub(crate) Server<Postgres>);

struct Session {
    server: Server<Postgres>,
    host: usize,
    life: u64,
}

impl Client {
    fn trouble(failed: Failed) -> Trouble {
        match failed {
            Failed::Refused | Failed::Broken => Trouble::Unreachable(format!("{failed:?}")),
            Failed::Silent => Trouble::Silent(super::PATIENCE),
        }
    }
}

impl Hosts for Client {
    fn count(&self) -> usize {
        2
    }

    fn name(&self, host: usize) -> String {
        format!("pg{host}")
    }

    fn connect(&self, host: usize) -> Answer<'_, Box<dyn Tables>> {
        let server = self.0.clone();
        Box::pin(async move {
            let asked = server.ask(move |postgres| {
                let host = &postgres.hosts[host];
                host.is_up.then_some(host.life).ok_or(Trouble::Unreachable("it is down".to_owned()))
            });
            let life = asked.await.map_err(Self::trouble)??;
            Ok(Box::new(Session { server, host, life }) as Box<dyn Tables>)
        })
    }
}

impl Session {
    fn ask<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Postgres, (usize, u64)) -> Result<T, Trouble> + Send + 'static,
    ) -> Answer<'_, T> {
        let session = (self.host, self.life);
        Box::pin(async move {
            let asked = self.server.ask(move |postgres| work(postgres, session));
            asked.await.map_err(Client::trouble)?
        })
    }

    /// Asks for a statement that leaves the cursor where `next` says.
    fn write(
        &self,
        next: Cursor,
        statement: impl FnOnce(&mut Record, &Cursor, bool) -> Result<(), Trouble> + Send + 'static,
    ) -> Answer<'_, Cursor> {
        self.ask(move |postgres, (host, life)| {
            let is_fenced = postgres.mutant != Some(Mutant::RecordNotFenced);
            postgres.write(host, life, |record| statement(record, &next, is_fenced))?;
            Ok(next)
        })
    }
}

impl Tables for Session {
    fn look(&self) -> Answer<'_, Found> {
        self.ask(|postgres, (host, life)| {
            let host = postgres.session(host, life)?;
            Ok(Found {
                system: SYSTEM,
                timeline: if host.is_standby { 0 } else { host.timeline },
                is_standby: host.is_standby,
                is_read_only: host.is_standby || host.is_read_only,
                encoding: "UTF8".to_owned(),
            })
        })
    }

    fn migrate(&mut self) -> Answer<'_, ()> {
        self.ask(|postgres, (host, life)| postgres.session(host, life).map(drop))
    }

    fn cursor(&self) -> Answer<'_, Option<Cursor>> {
        self.ask(|postgres, (host, life)| Ok(postgres.session(host, life)?.record.cursor.clone()))
    }

    fn claim<'s>(&'s self, seen: &'s Cursor, position: Position, term: u64) -> Answer<'s, Cursor> {
        let (seen, restore) = (seen.clone(), position.epoch.restore.to_string());
        let next = Cursor { epoch: position.epoch.number, restore, term, ..seen.clone() };
        self.write(next, move |record, next, is_fenced| record.exchange(Some(&seen), next, is_fenced))
    }

    fn begin<'s>(&'s self, cluster: &'s str, term: u64, config: &'s ConfigState) -> Answer<'s, Cursor> {
        let Position { epoch, revision } = config.position();
        let (cluster, restore, chain) = (cluster.to_owned(), epoch.restore.to_string(), config.chain());
        let next = Cursor { cluster, epoch: epoch.number, restore, revision, chain, term, claimed: None };
        let body = |(key, entry): (&ResourceKey, &Arc<protocol::Entry>)| (key.clone(), (entry.body.clone(), revision));
        let current = config.iter().map(body).collect();
        self.write(next, move |record, next, _| {
            record.exchange(None, next, true)?;
            (record.base, record.current) = (revision, current);
            Ok(())
        })
    }

    fn rebase<'s>(&'s self, _: &'s Cursor, _: u64, _: &'s ConfigState) -> Answer<'s, Cursor> {
        Box::pin(async { Err(Trouble::Database("no cluster of a simulation is brought back".to_owned())) })
    }

    fn step<'s>(&'s self, at: &'s Cursor, items: &'s [Arc<OutboxItem>]) -> Answer<'s, Cursor> {
        let (at, items) = (at.clone(), items.to_vec());
        self.ask(move |postgres, session| {
            let Some(last) = items.last() else { return Ok(at) };
            let next = Cursor { revision: last.delta.position.revision, chain: last.chain, ..at.clone() };
            postgres.step(session, &at, &items, &next)?;
            Ok(next)
        })
    }
}
