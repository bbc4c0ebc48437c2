//! What the writer needs of the hosts on which a record may be: PostgreSQL, or the model of a simulation.
//!
//! What to write, and whether to, is decided by the writer and by `judge`; here is only what a server does.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use protocol::{ConfigState, Position};
use raft_store::machine::OutboxItem;

use super::Trouble;
use super::judge::{Cursor, Found};

/// What comes of a question to a host. Every call ends within a bound of its own, whatever the other side does.
pub type Answer<'s, T> = BoxFuture<'s, Result<T, Trouble>>;

/// The hosts, in the order in which they are tried.
pub trait Hosts: Send + Sync {
    /// How many there are.
    fn count(&self) -> usize;

    /// What people call one.
    fn name(&self, host: usize) -> String;

    /// Opens a session with one.
    fn connect(&self, host: usize) -> Answer<'_, Box<dyn Tables>>;
}

/// A session with one host, and the tables of the record there. After a trouble it must not be used again, and whether the
/// last call was carried out is told by the cursor alone.
pub trait Tables: Send + Sync {
    /// Asks the host who it is.
    fn look(&self) -> Answer<'_, Found>;

    /// Makes the tables, or brings them up to date.
    fn migrate(&mut self) -> Answer<'_, ()>;

    /// Where the record is; `None`: there is none yet.
    fn cursor(&self) -> Answer<'_, Option<Cursor>>;

    /// Puts this leader's term and its life of the cluster into the cursor: from now on no earlier one moves it.
    /// [`Trouble::Moved`] when the cursor is not as it was `seen`.
    fn claim<'s>(&'s self, seen: &'s Cursor, position: Position, term: u64) -> Answer<'s, Cursor>;

    /// Writes the configuration at which the history begins, all or nothing. [`Trouble::Moved`] when there is a cursor.
    fn begin<'s>(&'s self, cluster: &'s str, term: u64, config: &'s ConfigState) -> Answer<'s, Cursor>;

    /// Takes the record over for a life that came back from something else than the record; it was claimed for it.
    fn rebase<'s>(&'s self, seen: &'s Cursor, term: u64, config: &'s ConfigState) -> Answer<'s, Cursor>;

    /// Moves the record by some changes, all or nothing. [`Trouble::Moved`] when the cursor is not `at`: nothing was
    /// written.
    fn step<'s>(&'s self, at: &'s Cursor, items: &'s [Arc<OutboxItem>]) -> Answer<'s, Cursor>;
}
