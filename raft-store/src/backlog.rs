//! What the writer of the durable record reads: the outbox and the configuration, as of one log entry.
//!
//! A reader is woken by every apply and takes what is newest; a slow one holds nothing up and misses nothing, since the
//! outbox keeps everything that the record is not known to hold.

use std::collections::BTreeMap;
use std::sync::Arc;

use protocol::{ConfigState, Entry, ResourceKey, Revision};
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
        let entries = self.entries_at(base.position.revision)?;
        let position = base.position;
        Some(ConfigState::from_entries(ConfigState::following(), position, position, base.chain, entries))
    }

    /// Every resource as of a revision: the newest ones, with the changes after it taken back. `None` where the outbox
    /// does not reach back that far, or the revision is not applied here.
    #[must_use]
    pub fn entries_at(&self, revision: Revision) -> Option<BTreeMap<ResourceKey, Arc<Entry>>> {
        if revision < self.outbox.base()?.position.revision || revision > self.config.position().revision {
            return None;
        }
        let mut entries: BTreeMap<_, _> = self.config.iter().map(|(key, entry)| (key.clone(), entry.clone())).collect();
        for item in self.outbox.newest_first().take_while(|item| item.delta.position.revision > revision) {
            for (change, before) in item.delta.changes.iter().zip(&item.before) {
                match before {
                    Some(entry) => entries.insert(change.key.clone(), entry.clone()),
                    None => entries.remove(&change.key),
                };
            }
        }
        Some(entries)
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
