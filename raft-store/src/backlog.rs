//! What the writer of the durable record reads: the outbox and the configuration, as of one log entry.
//!
//! A reader is woken by every apply and takes what is newest; a slow one holds nothing up and misses nothing, since the
//! outbox keeps everything that the record is not known to hold.

use std::sync::Arc;

use protocol::ConfigState;
use tokio::sync::watch;

use crate::machine::{Outbox, State};

/// The outbox, and the configuration that it leads to.
#[derive(Clone, Debug)]
pub struct Backlog {
    /// The configuration.
    pub config: ConfigState,
    /// What the record may not have yet.
    pub outbox: Outbox,
}

impl Backlog {
    pub(crate) fn of(state: &State) -> Self {
        Self { config: state.config.clone(), outbox: state.outbox.clone() }
    }

    /// The configuration where the outbox begins: the newest one, with every change that is kept taken back.
    ///
    /// It costs as much as the outbox is long.
    #[must_use]
    pub fn config_at_base(&self) -> Option<ConfigState> {
        let base = self.outbox.base()?;
        let mut entries: std::collections::BTreeMap<_, _> =
            self.config.iter().map(|(key, entry)| (key.clone(), entry.clone())).collect();
        for item in self.outbox.newest_first() {
            for (change, before) in item.delta.changes.iter().zip(&item.before) {
                match before {
                    Some(entry) => entries.insert(change.key.clone(), entry.clone()),
                    None => entries.remove(&change.key),
                };
            }
        }
        let position = base.position;
        Some(ConfigState::from_entries(ConfigState::following(), position, position, base.chain, entries))
    }
}

/// A reader. Clones read on their own.
#[derive(Clone, Debug)]
pub struct BacklogReader {
    newest: watch::Receiver<Arc<Backlog>>,
}

impl BacklogReader {
    pub(crate) fn new(newest: watch::Receiver<Arc<Backlog>>) -> Self {
        Self { newest }
    }

    /// The newest.
    #[must_use]
    pub fn now(&self) -> Arc<Backlog> {
        self.newest.borrow().clone()
    }

    /// Waits until something was applied since the last call; `false` when the node has stopped. Cancel-safe.
    pub async fn changed(&mut self) -> bool {
        self.newest.changed().await.is_ok()
    }

    /// Waits until `holds` for the newest; `false` when the node has stopped. Cancel-safe.
    pub async fn wait_for(&mut self, mut holds: impl FnMut(&Backlog) -> bool) -> bool {
        self.newest.wait_for(|newest| holds(newest)).await.is_ok()
    }
}
