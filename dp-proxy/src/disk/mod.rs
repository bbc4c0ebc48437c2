//! What a proxy keeps on its own disk, so that it serves again after a restart whoever else is gone.
//!
//! ```text
//!   <data_dir>/lock               held while a process uses the directory
//!   <data_dir>/key                this node's key: everything below is sealed with it
//!   <data_dir>/secrets            what vaults said last, sealed with the keyring ([`crate::secrets`])
//!   <data_dir>/cluster            whose configuration this is, since the first contact
//!   <data_dir>/config/base-<n>.snap      the configuration at one position
//!   <data_dir>/config/journal-<n>.log    what changed since: since base <n>, or since the end of journal <n-1>
//! ```
//!
//! An edit costs one appended record and one sync, whatever the size of the configuration. When the journals have
//! outgrown the base, a new journal is begun and the next base is written beside it, from a clone of the state; until it
//! stands, the old base and both journals say the same. The base before the newest and its journal are kept: damage to
//! any one file costs no more than what only that file knew, and never a start ([`recover`]).

mod base;
mod identity;
mod journal;
mod open;
mod recover;
mod store;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use protocol::{ConfigState, Entry, ResourceKey};

pub(crate) use identity::write_secret;
pub use open::{OpenError, Opened, open};
pub(crate) use open::{Place, open_locked};
pub use recover::{Finding, Recovered, Step};
pub use store::{DiskError, DiskStats, Store, mark};

/// Everything that a base holds: enough to start from.
#[derive(Clone, Debug)]
pub struct Image {
    /// The configuration.
    pub state: ConfigState,
    /// Entries that are served in place of newer ones that this build cannot serve.
    pub last_good: BTreeMap<ResourceKey, Arc<Entry>>,
}

/// Names of the files of one data directory.
#[derive(Clone, Debug)]
struct Layout {
    data_dir: PathBuf,
}

/// A base and the journal that starts from it share a number, which grows with every new pair.
type Generation = u64;

const BASE: (&str, &str) = ("base-", ".snap");
const JOURNAL: (&str, &str) = ("journal-", ".log");

impl Layout {
    fn lock(&self) -> PathBuf {
        self.data_dir.join("lock")
    }

    fn key(&self) -> PathBuf {
        self.data_dir.join("key")
    }

    fn cluster(&self) -> PathBuf {
        self.data_dir.join("cluster")
    }

    fn config(&self) -> PathBuf {
        self.data_dir.join("config")
    }

    fn base(&self, generation: Generation) -> PathBuf {
        self.config().join(format!("{}{generation:020}{}", BASE.0, BASE.1))
    }

    fn journal(&self, generation: Generation) -> PathBuf {
        self.config().join(format!("{}{generation:020}{}", JOURNAL.0, JOURNAL.1))
    }

    /// The generations of which there is a file, ascending.
    fn generations(&self, (prefix, suffix): (&str, &str)) -> Vec<Generation> {
        let number = |path: &Path| -> Option<Generation> {
            path.file_name()?.to_str()?.strip_prefix(prefix)?.strip_suffix(suffix)?.parse().ok()
        };
        let files = std::fs::read_dir(self.config()).into_iter().flatten().flatten();
        let mut generations: Vec<_> = files.filter_map(|file| number(&file.path())).collect();
        generations.sort_unstable();
        generations
    }
}
