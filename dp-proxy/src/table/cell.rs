//! How a table reaches the workers: one writer publishes, every worker reads at its own pace.
//!
//! A worker looks once per request whether there is a newer table: one load of a shared pointer that nobody writes but
//! the publisher. The table is then counted within the worker, without touching a shared counter. What was replaced is
//! kept by the publisher until nobody else has it, so that it is taken apart on the publisher's thread and never while a
//! request waits.

use std::ops::Deref;
use std::rc::Rc;
use std::sync::Arc;

use arc_swap::ArcSwap;
use arc_swap::cache::Cache;

use super::Table;
use crate::health::Registry;

/// The table in force.
#[derive(Clone, Debug, Default)]
pub struct TableCell {
    current: Arc<ArcSwap<Table>>,
    health: Arc<Registry>,
}

/// Puts tables in force.
#[derive(Debug)]
pub struct Publisher {
    cell: TableCell,
    /// Tables that somebody may still read.
    replaced: Vec<Arc<Table>>,
}

/// A table as the requests of one worker hold it: on a counter of that worker's own, not on one that all workers write.
#[derive(Clone, Debug)]
pub struct Generation(
    #[expect(
        clippy::redundant_allocation,
        reason = "the outer counter is the worker's own, the inner one is everybody's"
    )]
    Rc<Arc<Table>>,
);

impl Deref for Generation {
    type Target = Table;

    fn deref(&self) -> &Table {
        &self.0
    }
}

/// A worker's view.
#[derive(Debug)]
pub struct Reader {
    cache: Cache<Arc<ArcSwap<Table>>, Arc<Table>>,
    local: Generation,
}

impl TableCell {
    /// The table in force, for whoever looks now and then.
    #[must_use]
    pub fn load(&self) -> Arc<Table> {
        self.current.load_full()
    }

    /// What is known of the health of nodes, across all tables.
    #[must_use]
    pub fn health(&self) -> &Arc<Registry> {
        &self.health
    }

    /// A view for one worker.
    #[must_use]
    pub fn reader(&self) -> Reader {
        let mut cache = Cache::new(self.current.clone());
        let local = Generation(Rc::new(cache.load().clone()));
        Reader { cache, local }
    }
}

impl Publisher {
    /// The publisher of a cell. There must be one only.
    #[must_use]
    pub fn new(cell: TableCell) -> Self {
        Self { cell, replaced: Vec::new() }
    }

    /// Puts a table in force: every request that starts from now on sees it.
    pub fn publish(&mut self, table: Table) {
        self.replaced.push(self.cell.current.swap(Arc::new(table)));
        self.reclaim();
    }

    /// Takes apart the replaced tables that nobody reads any more.
    pub fn reclaim(&mut self) {
        self.replaced.retain(|table| Arc::strong_count(table) > 1);
    }

    /// How many replaced tables somebody may still read.
    #[must_use]
    pub fn retained(&self) -> usize {
        self.replaced.len()
    }
}

impl Reader {
    /// The table in force. Whoever holds it sees this one generation.
    pub fn current(&mut self) -> Generation {
        let current = self.cache.load();
        if !Arc::ptr_eq(current, &self.local.0) {
            self.local = Generation(Rc::new(current.clone()));
        }
        self.local.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(revision: u64) -> Table {
        let mut table = Table::default();
        table.position.revision = revision;
        table
    }

    #[test]
    fn a_reader_keeps_its_generation_and_sees_the_next_when_it_asks() {
        let cell = TableCell::default();
        let mut publisher = Publisher::new(cell.clone());
        publisher.publish(table(1));
        let mut reader = cell.reader();
        let held = reader.current();
        publisher.publish(table(2));
        assert_eq!((held.position.revision, publisher.retained()), (1, 1));
        assert_eq!(reader.current().position.revision, 2);
        drop(held);
        publisher.reclaim();
        assert_eq!(publisher.retained(), 0, "the old one is taken apart by the publisher");
    }
}
