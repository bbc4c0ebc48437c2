//! Without a control plane: the configuration is a file on this machine, as APISIX has it in `apisix.yaml`.
//!
//! ```text
//!   file --watch--> text --read--> Configuration (admitted) --step--> Delta -> feed thread: compile, keep, publish
//! ```
//!
//! A file is taken whole or not at all: one that is not good leaves in force what was, and says where it is wrong. What was
//! taken is kept on the disk as what a control plane sends is, so that a restart with a bad file serves the last good one.
//! Positions have epoch 0, "no cluster yet": a control plane that is followed later is ahead of them all.

mod read;
mod step;
mod watch;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::crypto::Keyring;
use protocol::seam::{Random, WallClock};
use tracing::error;

pub use read::Configuration;
pub(crate) use step::{Stamping, step};
pub(crate) use watch::start;

/// What a proxy without a control plane works by.
#[derive(Clone)]
pub struct Standalone {
    /// The file.
    pub file: PathBuf,
    /// How often it is looked at.
    pub poll: Duration,
    /// Seals its secrets before they are kept.
    pub keyring: Keyring,
    /// Stamps what changes.
    pub clock: Arc<dyn WallClock>,
}

impl std::fmt::Debug for Standalone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Standalone").field("file", &self.file).field("poll", &self.poll).finish_non_exhaustive()
    }
}

/// Problems of a file that are shown; a file that is no configuration at all may have as many as lines.
const PROBLEMS_SHOWN: usize = 20;

/// How it goes with the file.
#[derive(Debug, Default)]
pub struct FileBoard {
    /// Configurations that were taken from it.
    pub taken: AtomicU64,
    /// Times that it was found changed and not good.
    pub refused: AtomicU64,
    told: Mutex<(Option<PathBuf>, Vec<String>)>,
}

impl FileBoard {
    fn told(&self) -> std::sync::MutexGuard<'_, (Option<PathBuf>, Vec<String>)> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where it is; `None`: there is none.
    #[must_use]
    pub fn path(&self) -> Option<PathBuf> {
        self.told().0.clone()
    }

    /// What is wrong with it as it stands; empty: nothing.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        self.told().1.clone()
    }

    /// The file is not good, or not there.
    fn refuse(&self, file: &Path, problems: Vec<String>) {
        self.refused.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        for problem in problems.iter().take(PROBLEMS_SHOWN) {
            error!(file = %file.display(), problem, "the file is refused, what was before stays in force");
        }
        self.told().1 = problems.into_iter().take(PROBLEMS_SHOWN).collect();
    }
}

/// The keys that seal what is kept of a file, where no keyring is set: this node's own, made at the first start.
///
/// # Errors
/// Those of the file system, with the path, and a file that is no keyring.
pub(crate) fn own_keyring(data_dir: &Path, random: &dyn Random) -> io::Result<Keyring> {
    let path = data_dir.join("keyring");
    let text = match std::fs::read_to_string(&path) {
        Ok(text) => text,
        Err(e) if e.kind() == io::ErrorKind::NotFound => {
            let key = [random.bytes16(), random.bytes16()].concat();
            let hex: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
            let text = format!("local {hex}\n");
            crate::disk::write_secret(&path, text.as_bytes())?;
            text
        }
        Err(e) => return Err(daemon::durable::at(&path, e)),
    };
    Keyring::parse(&text).map_err(|e| daemon::durable::at(&path, io::Error::other(e)))
}
