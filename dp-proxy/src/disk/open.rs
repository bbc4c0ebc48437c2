//! Opens a data directory: takes its lock, reads what is there, and starts what keeps what comes.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use daemon::durable;
use protocol::Text;
use protocol::seam::{Random, WallClock};
use tracing::{error, warn};

use super::base::Owner;
use super::recover::{self, Recovered};
use super::store::{DiskStats, Store};
use super::{Layout, identity};

/// What was opened.
#[derive(Debug)]
pub struct Opened {
    /// What the disk held.
    pub recovered: Recovered,
    /// Where to keep what comes; `None` when nothing can be kept: the directory cannot be written to.
    pub store: Option<Store>,
    /// Figures.
    pub stats: Arc<DiskStats>,
    /// Where that is.
    pub(crate) place: Place,
    /// Held as long as this process uses the directory.
    lock: Option<File>,
}

/// A data directory cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("data_dir: {0}")]
pub struct OpenError(#[from] io::Error);

/// Where a configuration is kept, and by whom.
#[derive(Clone)]
pub(crate) struct Place {
    data_dir: PathBuf,
    group: Text,
    clock: Arc<dyn WallClock>,
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place").field("data_dir", &self.data_dir).field("group", &self.group).finish_non_exhaustive()
    }
}

/// Opens a data directory: reads what is there, and starts the thread that keeps what comes.
///
/// # Errors
/// When another process uses the directory, or it does not exist and cannot be made. A directory that can be read and
/// not written is no error: a proxy that restarts on a broken disk serves what it finds.
pub fn open(
    data_dir: &Path,
    group: &Text,
    clock: Arc<dyn WallClock>,
    random: &dyn Random,
) -> Result<Opened, OpenError> {
    let layout = Layout { data_dir: data_dir.to_owned() };
    if !data_dir.is_dir() {
        durable::create_private_directory(data_dir)?;
    }
    let lock = match durable::lock(&layout.lock()) {
        Ok(lock) => Some(lock),
        Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Err(e.into()),
        Err(e) => {
            error!(error = %e, "the data directory cannot be written, nothing will be kept");
            None
        }
    };
    let place = Place { data_dir: data_dir.to_owned(), group: group.clone(), clock };
    let opened = place.open(lock.is_some(), Arc::default(), random)?;
    Ok(Opened { lock, ..opened })
}

/// The same with a lock that this process was handed.
///
/// # Errors
/// Those of the operating system: no thread.
pub(crate) fn open_locked(
    data_dir: &Path,
    group: &Text,
    clock: Arc<dyn WallClock>,
    random: &dyn Random,
    lock: File,
) -> Result<Opened, OpenError> {
    let place = Place { data_dir: data_dir.to_owned(), group: group.clone(), clock };
    let opened = place.open(true, Arc::default(), random)?;
    Ok(Opened { lock: Some(lock), ..opened })
}

impl Place {
    /// Reads what is there, and starts the thread that keeps what comes, if this process holds the directory's lock.
    ///
    /// # Errors
    /// Those of the operating system: no thread.
    pub(crate) fn open(&self, is_held: bool, stats: Arc<DiskStats>, random: &dyn Random) -> Result<Opened, OpenError> {
        let Self { group, clock, .. } = self;
        let layout = Layout { data_dir: self.data_dir.clone() };
        let mut findings = Vec::new();
        let cluster = identity::cluster(&layout.cluster(), &mut findings);
        let key = identity::key(&layout.key(), random, &mut findings);
        let mut recovered = match &key {
            Ok(key) => recover::recover(&layout, cluster, group, key),
            Err(_) => Recovered::default(),
        };
        recovered.cluster = recovered.cluster.or(cluster);
        findings.append(&mut recovered.findings);
        recovered.findings = findings;
        for finding in &recovered.findings {
            error!(file = %finding.file.display(), offset = finding.offset, reason = %finding.reason, "found on the disk and not believed");
        }
        stats.findings.store(recovered.findings.len() as u64, Ordering::Relaxed);
        stats.base_bytes.store(recovered.base_bytes, Ordering::Relaxed);
        stats.journal_bytes.store(recovered.journal_bytes, Ordering::Relaxed);
        let ready = key.map_err(|e| e.to_string()).and_then(|key| {
            durable::create_directory(&layout.config()).map_err(|e| e.to_string())?;
            remove_unfinished(&layout.config());
            Ok(key)
        });
        let store = match ready {
            Err(e) => {
                error!(error = %e, "the data directory cannot be written, nothing will be kept");
                stats.errors.fetch_add(1, Ordering::Relaxed);
                None
            }
            Ok(_) if !is_held => None,
            Ok(key) => {
                let owner = Owner { cluster: recovered.cluster.unwrap_or_default(), group: group.clone(), key };
                Some(Store::start(layout, owner, clock.clone(), stats.clone(), &recovered)?)
            }
        };
        Ok(Opened { recovered, store, stats, place: self.clone(), lock: None })
    }
}

impl Opened {
    /// Takes the lock out, for whoever lives as long as the process.
    pub fn take_lock(&mut self) -> Option<File> {
        self.lock.take()
    }
}

/// Files that a crash left half written mean nothing.
fn remove_unfinished(directory: &Path) {
    for file in fs::read_dir(directory).into_iter().flatten().flatten() {
        let path = file.path();
        if path.extension().is_some_and(|extension| extension == durable::TEMPORARY)
            && let Err(e) = fs::remove_file(&path)
        {
            warn!(file = %path.display(), error = %e, "an unfinished file stays");
        }
    }
}
