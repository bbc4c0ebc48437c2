//! PostgreSQL as the writer's host: each call is a statement or a few.

use std::sync::Arc;

use protocol::{ConfigState, Position};
use raft_store::machine::OutboxItem;
use tokio::sync::OnceCell;

use super::hosts::{Answer, Hosts, Tables};
use super::judge::{Cursor, Found};
use super::link::{Link, Session};
use super::step::{self, Statements};
use super::{restore, schema};

/// A session, and what is prepared in it once it is needed.
struct Postgres {
    session: Session,
    statements: OnceCell<Statements>,
}

impl Hosts for Link {
    fn count(&self) -> usize {
        self.hosts().count()
    }

    fn name(&self, host: usize) -> String {
        self.name(host)
    }

    fn connect(&self, host: usize) -> Answer<'_, Box<dyn Tables>> {
        Box::pin(async move {
            let session = self.connect(host).await?;
            Ok(Box::new(Postgres { session, statements: OnceCell::new() }) as Box<dyn Tables>)
        })
    }
}

impl Tables for Postgres {
    fn look(&self) -> Answer<'_, Found> {
        Box::pin(step::look(&self.session))
    }

    fn migrate(&mut self) -> Answer<'_, ()> {
        Box::pin(schema::migrate(&mut self.session))
    }

    fn cursor(&self) -> Answer<'_, Option<Cursor>> {
        Box::pin(step::cursor(&self.session))
    }

    fn claim<'s>(&'s self, seen: &'s Cursor, position: Position, term: u64) -> Answer<'s, Cursor> {
        Box::pin(step::claim(&self.session, seen, position, term))
    }

    fn begin<'s>(&'s self, cluster: &'s str, term: u64, config: &'s ConfigState) -> Answer<'s, Cursor> {
        Box::pin(step::begin(&self.session, cluster, term, config))
    }

    fn rebase<'s>(&'s self, seen: &'s Cursor, term: u64, config: &'s ConfigState) -> Answer<'s, Cursor> {
        Box::pin(restore::rebase(&self.session, seen, term, config))
    }

    fn step<'s>(&'s self, at: &'s Cursor, items: &'s [Arc<OutboxItem>]) -> Answer<'s, Cursor> {
        Box::pin(async move {
            let statements = self.statements.get_or_try_init(|| step::prepare(&self.session)).await?;
            step::step(&self.session, statements, at, items).await
        })
    }
}
