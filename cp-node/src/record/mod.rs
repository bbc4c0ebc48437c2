//! The durable record: PostgreSQL. It is told of every change, in order, exactly once; it orders, notifies and gates
//! nothing.
//!
//! ```text
//!   replicated outbox --> Writer (on the leader) -- one statement per step --> PostgreSQL
//!          ^                 |                      (moves the cursor by compare-and-set,
//!          |                 |                       inserts the history with it)
//!          +---- Recorded ---+  what PostgreSQL has confirmed is itself replicated
//! ```
//!
//! Nothing waits for PostgreSQL except a request that asked for it: apply, elections and traffic go on whatever it does.
//! This folder alone names `tokio-postgres`.

mod embedded;
mod history;
mod hosts;
mod judge;
mod lag;
mod link;
mod postgres;
pub(crate) mod restore;
mod schema;
mod step;
#[cfg(test)]
mod tests;
mod trouble;
mod verify;
mod writer;

use std::sync::{Arc, Mutex};

use protocol::Position;
use protocol::snapshot::ClusterId;
use raft_store::backlog::BacklogReader;
use raft_store::embedded::Embedded;
use serde::Serialize;
use tokio::time::Instant;

use embedded::Holds;
pub(crate) use history::{HistoryError, HistoryFilter, HistoryRow, PAGE_MAX, Told};
pub use hosts::{Answer, Hosts, Tables};
pub use judge::{Cursor, Found};
pub(crate) use lag::Lag;
pub use link::BadDsn;
pub(crate) use link::Link;
pub use trouble::Trouble;
pub(crate) use writer::Writer;

use crate::settings::{Durability, RecordSettings};

/// What this node knows and asks of the record. Clones share it.
#[derive(Clone)]
pub(crate) struct Record {
    shared: Arc<Shared>,
}

struct Shared {
    cluster: ClusterId,
    settings: RecordSettings,
    link: Option<Link>,
    /// What a node without a DSN keeps on its own disk.
    embedded: Option<Embedded>,
    backlog: BacklogReader,
    lag: lag::Ages,
    writing: Mutex<Writing>,
    history: tokio::sync::Mutex<Option<Arc<link::Session>>>,
}

/// What this node's writer is doing.
#[derive(Clone, Debug, Default)]
struct Writing {
    state: State,
    host: String,
    trouble: Option<Trouble>,
    cursor: Option<u64>,
    steps: u64,
    changes: u64,
    regressions: u64,
    regressed_changes: u64,
    troubles: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// This node has no DSN.
    #[default]
    None,
    /// Another node leads.
    Standby,
    /// It looks for a PostgreSQL that it may write to.
    Connecting,
    /// It writes.
    Writing,
}

/// The record as status shows it.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct RecordStatus {
    /// Whether the cluster keeps changes for a record.
    pub(crate) kept: bool,
    state: State,
    /// The host that this node's writer talks to.
    #[serde(skip_serializing_if = "String::is_empty")]
    host: String,
    /// Why it does not write: a word for programs.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// The same for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    /// Up to where the record is known to be, as replicated.
    recorded_revision: Option<u64>,
    /// Where this node's writer last saw the cursor.
    cursor_revision: Option<u64>,
    system: Option<String>,
    timeline: Option<u32>,
    pub(crate) lag_changes: u64,
    pub(crate) lag_bytes: u64,
    pub(crate) lag_age_ms: u64,
    kept_bytes: u64,
    pub(crate) steps: u64,
    pub(crate) changes: u64,
    pub(crate) regressions: u64,
    pub(crate) regressed_changes: u64,
    pub(crate) troubles: u64,
    /// The embedded record, on a node that keeps one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) embedded: Option<Holds>,
}

impl RecordStatus {
    /// Whether this node writes it now.
    pub(crate) fn is_writing(&self) -> bool {
        self.state == State::Writing
    }
}

impl Record {
    pub(crate) fn new(
        cluster: ClusterId,
        settings: RecordSettings,
        link: Option<Link>,
        embedded: Option<Embedded>,
        backlog: BacklogReader,
    ) -> Self {
        let lag = lag::Ages::new(settings.backlog_age.0);
        let (writing, history) = (Mutex::default(), Default::default());
        Self { shared: Arc::new(Shared { cluster, settings, link, embedded, backlog, lag, writing, history }) }
    }

    /// How far the record is behind.
    pub(crate) fn lag(&self) -> Lag {
        self.shared.lag.measure(&self.shared.backlog.now(), Instant::now())
    }

    /// Whether the cluster keeps changes for a record.
    pub(crate) fn is_kept(&self) -> bool {
        self.shared.backlog.now().outbox.is_on()
    }

    /// Whether one more change may be proposed.
    ///
    /// # Errors
    /// Which bound is reached, and why the record lags, in words for the client.
    pub(crate) fn check_room(&self) -> Result<(), String> {
        let (lag, settings) = (self.lag(), &self.shared.settings);
        let bound = if lag.changes >= settings.backlog_changes {
            format!("{} changes behind", lag.changes)
        } else if lag.bytes >= settings.backlog_bytes.0 {
            format!("{} bytes behind", lag.bytes)
        } else if lag.age > settings.backlog_age.0 {
            format!("{} s behind", lag.age.as_secs())
        } else {
            return Ok(());
        };
        let why = self.writing().trouble.map_or_else(String::new, |trouble| format!(" ({trouble})"));
        Err(format!("the record is {bound}, which is the bound{why}"))
    }

    /// Whether a write that does not say shall wait for the record.
    pub(crate) fn waits_by_default(&self) -> bool {
        self.shared.settings.durability == Durability::Record && self.is_kept()
    }

    /// Waits until the record is known to hold a change; `false` at the deadline, or when the node stops.
    pub(crate) async fn holds(&self, position: Position, deadline: Instant) -> bool {
        let mut backlog = self.shared.backlog.clone();
        let holds = backlog.wait_for(|backlog| {
            let mark = backlog.outbox.mark();
            backlog.config.position().epoch == position.epoch
                && mark.is_some_and(|mark| mark.revision >= position.revision)
        });
        tokio::time::timeout_at(deadline, holds).await.unwrap_or(false)
    }

    /// As status shows it.
    pub(crate) fn status(&self) -> RecordStatus {
        let (lag, writing) = (self.lag(), self.writing());
        let backlog = self.shared.backlog.now();
        let mark = backlog.outbox.mark().copied();
        RecordStatus {
            kept: backlog.outbox.is_on(),
            state: writing.state,
            host: writing.host,
            reason: writing.trouble.as_ref().map(Trouble::word),
            message: writing.trouble.as_ref().map(ToString::to_string),
            recorded_revision: mark.map(|mark| mark.revision),
            cursor_revision: writing.cursor,
            system: mark.and_then(|mark| mark.system).map(|system| system.to_string()),
            timeline: mark.map(|mark| mark.timeline),
            lag_changes: lag.changes,
            lag_bytes: lag.bytes,
            lag_age_ms: u64::try_from(lag.age.as_millis()).unwrap_or(u64::MAX),
            kept_bytes: backlog.outbox.bytes(),
            steps: writing.steps,
            changes: writing.changes,
            regressions: writing.regressions,
            regressed_changes: writing.regressed_changes,
            troubles: writing.troubles,
            embedded: self.shared.embedded.as_ref().map(|embedded| Holds::of(&embedded.reach())),
        }
    }

    fn writing(&self) -> Writing {
        self.shared.writing.lock().expect("no code panics while it holds this").clone()
    }

    fn note(&self, note: impl FnOnce(&mut Writing)) {
        note(&mut self.shared.writing.lock().expect("no code panics while it holds this"));
    }
}
