//! The embedded record: what a node without PostgreSQL keeps of its own history, on its own disk.
//!
//! It is a projection of what the node applies, for `history`, `at_revision` and `revert` on one machine. It fences
//! nothing, confirms nothing and holds nothing up: it may lag, and after a crash it goes on from where its own disk ends.
//! What it could not see is stated as a gap: what came in a snapshot, and what was applied while it was too slow.
//!
//! ```text
//!   Replica::apply --> Tail (the last changes, in memory) --> follow --> rows on sled --> history
//! ```

mod store;
mod tail;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{Arc, RwLock};
use std::time::Duration;

use bincode::{Decode, Encode};
use daemon::blocking;
use protocol::{ConfigState, Entry, Position, ResourceKey};
use tokio::sync::watch;
use tokio::time::Instant;

pub use store::{Row, RowId, StoreError};
pub use tail::{TAIL_BYTES_MAX, TAIL_CHANGES_MAX, Tail, TailReader};

use store::Store;
use tail::Next;

/// Changes that are taken in as one step.
const STEP_CHANGES_MAX: usize = 512;

/// Bytes of changes in one step; a single larger one goes alone.
const STEP_BYTES_MAX: u64 = 8 << 20;

/// How long what was taken in may stay unsynced: the log's disk is often the same one.
const SYNC_EVERY: Duration = Duration::from_secs(1);

/// The pause after the disk has failed, before it is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Rows that are looked at before the writer may go on.
const LOOK_ROWS: usize = 256;

/// How much is kept. The oldest changes beyond either are let go of; the newest is kept whatever it takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct EmbeddedSettings {
    /// Rows: a change has one for each resource that it writes.
    pub rows_max: u64,
    /// What they take, in bytes.
    pub bytes_max: u64,
}

/// Changes that the record does not hold: those after `after`, up to `upto`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Encode, Decode)]
pub struct Gap {
    /// The last change before the gap.
    pub after: Position,
    /// The last change in it.
    pub upto: Position,
}

/// How far the record reaches.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reach {
    /// Everything up to here was taken in, or is in a gap.
    pub position: Position,
    /// Nothing is known of changes up to here; later ones are there but for the gaps.
    pub since: Position,
    /// What lacks, oldest first.
    pub gaps: Vec<Gap>,
    /// Rows that are held.
    pub rows: u64,
    /// What they take.
    pub bytes: u64,
}

/// Which rows are wanted, newest first.
#[derive(Clone, Debug, Default)]
pub struct RowFilter {
    /// The resource's kind.
    pub kind: Option<String>,
    /// The resource's id.
    pub id: Option<String>,
    /// Who changed it.
    pub author: Option<String>,
    /// From this time on.
    pub since: Option<u64>,
    /// Before this time.
    pub until: Option<u64>,
    /// Only this revision.
    pub revision: Option<u64>,
    /// Only revisions above this.
    pub above: Option<u64>,
    /// Only revisions up to this.
    pub upto: Option<u64>,
    /// Older than this row.
    pub before: Option<RowId>,
    /// So many rows at most.
    pub limit: usize,
}

/// A resource as it was.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Then {
    /// It was this.
    There(Arc<Entry>),
    /// It did not exist.
    Absent,
    /// A change that the record does not hold stands between.
    Unknown,
    /// The record does not reach to that revision yet.
    Later,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// It could not be opened, or has failed, and is tried again; or the node stops.
    #[error("the embedded record is not open: {0}")]
    Closed(String),
    /// The disk failed.
    #[error("the embedded record: {0}")]
    Store(#[from] StoreError),
}

/// The record. Clones share it.
#[derive(Clone, Debug)]
pub struct Embedded {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    settings: EmbeddedSettings,
    open: RwLock<Open>,
    reach: watch::Sender<Reach>,
}

/// The rows while they can be used, and otherwise why not.
#[derive(Debug)]
enum Open {
    Rows(Box<Store>),
    Closed(String),
}

/// How a step went.
enum Stepped {
    /// Something was taken in.
    Forward,
    /// There was nothing.
    Still,
}

impl Embedded {
    /// The record in `dir`; [`Self::follow`] opens it. Nothing that is wrong with it ever stops a node.
    #[must_use]
    pub fn new(dir: &Path, settings: EmbeddedSettings) -> Self {
        let open = RwLock::new(Open::Closed("it is not open yet".to_owned()));
        let shared = Shared { dir: dir.to_owned(), settings, open, reach: watch::Sender::default() };
        Self { shared: Arc::new(shared) }
    }

    /// How far it reaches.
    #[must_use]
    pub fn reach(&self) -> Reach {
        self.shared.reach.borrow().clone()
    }

    /// Waits until it has taken in everything up to a position; `false` at the deadline. Cancel-safe.
    pub async fn reached(&self, position: Position, deadline: Instant) -> bool {
        let mut reach = self.shared.reach.subscribe();
        let reached = reach.wait_for(|reach| {
            matches!(reach.position.compare(&position), Ok(std::cmp::Ordering::Equal | std::cmp::Ordering::Greater))
        });
        matches!(tokio::time::timeout_at(deadline, reached).await, Ok(Ok(_)))
    }

    /// Takes in what the node applies until the node stops. Then everything is durable, and closed.
    pub async fn follow(self, mut tail: TailReader) {
        let mut unsynced: Option<Instant> = None;
        let mut runs = true;
        loop {
            let newest = tail.now();
            let this = self.clone();
            let stepped = blocking::run(move || this.step(&newest)).await;
            let wait = match stepped {
                Ok(Stepped::Forward) => {
                    unsynced = unsynced.or_else(|| Some(Instant::now() + SYNC_EVERY));
                    if unsynced.is_some_and(|due| Instant::now() >= due) {
                        unsynced = None;
                        self.sync().await;
                    }
                    continue;
                }
                Ok(Stepped::Still) if !runs => break,
                Ok(Stepped::Still) => unsynced,
                Err(error) => {
                    tracing::error!(%error, "the embedded record fails; it is opened again in a while");
                    self.close(&error.to_string());
                    unsynced = None;
                    if !runs {
                        break;
                    }
                    Some(Instant::now() + RETRY)
                }
            };
            let Some(wait) = wait else {
                runs = tail.changed().await;
                continue;
            };
            let is_open = self.is_open();
            tokio::select! {
                // While it cannot be opened, changes do not hasten the next attempt.
                more = tail.changed(), if is_open => runs = more,
                () = tokio::time::sleep_until(wait) => {
                    unsynced = None;
                    if is_open {
                        self.sync().await;
                    }
                }
            }
        }
        self.sync().await;
        self.close("the node stops");
    }

    fn is_open(&self) -> bool {
        matches!(&*self.read(), Open::Rows(_))
    }

    async fn sync(&self) {
        let this = self.clone();
        let synced = blocking::run(move || match &mut *this.write() {
            Open::Rows(store) => store.sync(),
            Open::Closed(_) => Ok(()),
        });
        if let Err(error) = synced.await {
            tracing::error!(%error, "the embedded record could not be made durable; it is opened again");
            self.close(&error.to_string());
        }
    }

    fn close(&self, why: &str) {
        *self.write() = Open::Closed(why.to_owned());
    }

    /// Takes in the next changes, up to the bounds of a step.
    fn step(&self, tail: &Tail) -> Result<Stepped, StoreError> {
        let mut open = self.write();
        if let Open::Closed(_) = &*open {
            *open = Open::Rows(Box::new(self.open_rows()?));
        }
        let Open::Rows(store) = &mut *open else { return Ok(Stepped::Still) };
        let here = store.head().map(|head| (head.position, head.chain));
        let next = match here {
            None => Next::Gap(tail.base()),
            Some((position, chain)) => tail.after(position, chain),
        };
        match next {
            Next::Nothing => {
                self.report(store);
                return Ok(Stepped::Still);
            }
            Next::Items(items) => store.take(&items[..step_of(&items)], &self.shared.settings)?,
            Next::Gap(base) => {
                if let Some((position, _)) = here {
                    tracing::warn!(after = %position, upto = %base.position, "the embedded record has a gap");
                }
                store.skip_to(base)?;
            }
            Next::Other(base) => {
                tracing::error!(at = ?here.map(|(position, _)| position), "the embedded record holds another history than this node; it begins anew");
                *open = Open::Closed("it begins anew".to_owned());
                Store::wipe(&self.shared.dir)?;
                let mut store = Store::open(&self.shared.dir)?;
                store.begin(base)?;
                self.report(&store);
                *open = Open::Rows(Box::new(store));
                return Ok(Stepped::Forward);
            }
        }
        self.report(store);
        Ok(Stepped::Forward)
    }

    /// Opens the rows. Damaged ones are given up: what they told can be told by nobody, and the history begins anew.
    fn open_rows(&self) -> Result<Store, StoreError> {
        match Store::open(&self.shared.dir) {
            Err(error @ StoreError::Damaged { .. }) => {
                tracing::error!(%error, "the embedded record is damaged; it begins anew");
                Store::wipe(&self.shared.dir)?;
                Store::open(&self.shared.dir)
            }
            result => result,
        }
    }

    fn report(&self, store: &Store) {
        let Some(head) = store.head() else { return };
        let (position, since, gaps) = (head.position, head.since, head.gaps.clone());
        let reach = Reach { position, since, gaps, rows: head.rows, bytes: head.bytes };
        self.shared.reach.send_if_modified(|known| {
            let is_news = *known != reach;
            *known = reach;
            is_news
        });
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Open> {
        // A panic while it was held has left the rows as some batch left them.
        self.shared.open.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Open> {
        self.shared.open.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Rows that fit, newest first.
    ///
    /// # Errors
    /// [`EmbeddedError`].
    pub async fn rows(&self, filter: RowFilter) -> Result<Vec<(RowId, Row)>, EmbeddedError> {
        let this = self.clone();
        blocking::run(move || this.find(&filter)).await
    }

    fn find(&self, filter: &RowFilter) -> Result<Vec<(RowId, Row)>, EmbeddedError> {
        let key = match (&filter.kind, &filter.id) {
            (Some(kind), Some(id)) => Some(ResourceKey::new(kind, id)),
            _ => None,
        };
        let (mut found, mut before) = (Vec::new(), filter.before);
        // Revisions are the order within an epoch: the newest that is wanted is where to begin.
        let top = filter.revision.or(filter.upto).map(|top| RowId {
            epoch: self.reach().position.epoch.number,
            revision: top.saturating_add(1),
            seq: 0,
        });
        let has_lives = self.reach().since.epoch.number != self.reach().position.epoch.number;
        if let Some(top) = top.filter(|_| !has_lives) {
            before = Some(before.map_or(top, |before| before.min(top)));
        }
        while found.len() < filter.limit {
            let rows = match &*self.read() {
                Open::Rows(store) => match &key {
                    Some(key) => store.rows_of(key, before, LOOK_ROWS)?,
                    None => store.rows_before(before, LOOK_ROWS)?,
                },
                Open::Closed(why) => return Err(EmbeddedError::Closed(why.clone())),
            };
            let Some((last, _)) = rows.last() else { break };
            let floor = filter.revision.or(filter.above.map(|above| above + 1)).filter(|_| !has_lives);
            let is_past = floor.is_some_and(|floor| last.revision < floor);
            before = Some(*last);
            found.extend(rows.into_iter().filter(|(id, row)| filter.fits(*id, row)));
            if is_past {
                break;
            }
        }
        found.truncate(filter.limit);
        Ok(found)
    }

    /// A resource as it was at a revision of the current epoch. `now` is the configuration as this node has it.
    ///
    /// An entry names the revision that made it: so one that is older than the revision asked for is the answer, also
    /// where the record lacks what came before it.
    ///
    /// # Errors
    /// [`EmbeddedError`].
    pub async fn entry_at(&self, key: &ResourceKey, revision: u64, now: ConfigState) -> Result<Then, EmbeddedError> {
        let (this, key) = (self.clone(), key.clone());
        blocking::run(move || this.find_entry(&key, revision, &now)).await
    }

    fn find_entry(&self, key: &ResourceKey, revision: u64, now: &ConfigState) -> Result<Then, EmbeddedError> {
        let epoch = now.position().epoch.number;
        let first = match &*self.read() {
            Open::Rows(store) => store.first_after(key, epoch, revision)?,
            Open::Closed(why) => return Err(EmbeddedError::Closed(why.clone())),
        };
        // What stands nearest after the revision: a change's old entry, or what there is now.
        let (upto, entry) = match first {
            Some((id, row)) => (id.revision, row.before),
            None if revision > now.position().revision => return Ok(Then::Later),
            None => (now.position().revision + 1, now.get(key).cloned()),
        };
        if let Some(entry) = entry {
            let is_it = entry.modified.revision <= revision;
            return Ok(if is_it { Then::There(entry) } else { Then::Unknown });
        }
        // It may have come and gone where nobody looked.
        Ok(if self.reach().is_complete(epoch, revision, upto) { Then::Absent } else { Then::Unknown })
    }
}

impl Reach {
    /// Whether every change after `revision` and before `upto` is held.
    #[must_use]
    pub fn is_complete(&self, epoch: u64, revision: u64, upto: u64) -> bool {
        let is_after = |position: Position, other: u64| (position.epoch.number, position.revision) > (epoch, other);
        let lacks = |upto_gap: Position, after_gap: u64| is_after(upto_gap, revision) && after_gap + 1 < upto;
        let before = (self.since.epoch.number, self.since.revision) > (epoch, revision);
        let gap = self.gaps.iter().any(|gap| {
            let after = if gap.after.epoch.number < epoch { 0 } else { gap.after.revision };
            gap.upto.epoch.number >= epoch && lacks(gap.upto, after)
        });
        // What was applied and not yet taken in is not held either.
        let behind = self.position.epoch.number == epoch && self.position.revision + 1 < upto;
        !before && !gap && !behind
    }
}

impl RowFilter {
    fn fits(&self, id: RowId, row: &Row) -> bool {
        self.kind.as_ref().is_none_or(|kind| row.key.kind.as_str() == kind)
            && self.id.as_ref().is_none_or(|wanted| row.key.id.as_str() == wanted)
            && self.author.as_ref().is_none_or(|author| row.author.as_str() == author)
            && self.since.is_none_or(|since| row.time >= since)
            && self.until.is_none_or(|until| row.time < until)
            && self.revision.is_none_or(|revision| id.revision == revision)
            && self.above.is_none_or(|above| id.revision > above)
            && self.upto.is_none_or(|upto| id.revision <= upto)
    }
}

/// How many of the changes go into one step: one at least.
fn step_of(items: &[Arc<crate::machine::OutboxItem>]) -> usize {
    let mut bytes = 0;
    let fits = items.iter().take(STEP_CHANGES_MAX).take_while(|item| {
        bytes += item.bytes;
        bytes <= STEP_BYTES_MAX
    });
    fits.count().max(1)
}
