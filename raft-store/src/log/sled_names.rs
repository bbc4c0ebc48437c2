//! Sled's own snapshots, kept from a power cut.
//!
//! Sled 0.34 reads its file from where its newest `snap.<hex>` stands, and cannot do without: what lies before may have
//! been overwritten. At every opening it writes the next one, and then removes the one before:
//!
//! ```text
//!   create snap.B.generating, write, sync; rename to snap.B; remove snap.A                no sync of the directory
//! ```
//!
//! A cut may keep the removal and lose the name: then there is none, and sled comes up empty without a word. It may also
//! leave a part of `snap.B.generating`, which sled takes for its newest and finds corrupted. So before sled opens,
//! `snap.A` has a second name that sled does not know, `kept.A`, and half-made ones go; after it has, the directory is
//! synced. Sled writes no snapshot at any other time.

use std::fs;
use std::io;
use std::path::Path;

use daemon::durable;

/// Sled's snapshots, whole once they have this name and no more behind it.
const SNAPSHOT: &str = "snap.";
/// Of one that sled has not finished.
const UNFINISHED: &str = ".generating";
/// Our name for the snapshot of before the last opening.
const KEPT: &str = "kept.";

/// Puts names in order, and keeps the newest snapshot. To be called before sled opens the directory, which need not exist.
pub(super) fn before_opening(path: &Path) -> io::Result<()> {
    if !path.exists() {
        return Ok(());
    }
    let (mut snapshots, mut kept) = (Vec::new(), Vec::new());
    for item in fs::read_dir(path)? {
        let name = item?.file_name().to_string_lossy().into_owned();
        if let Some(number) = name.strip_prefix(SNAPSHOT) {
            if number.ends_with(UNFINISHED) {
                // Whatever it was to replace is still there, under one of the two names.
                fs::remove_file(path.join(&name))?;
            } else {
                snapshots.push(number.to_owned());
            }
        } else if let Some(number) = name.strip_prefix(KEPT) {
            kept.push(number.to_owned());
        }
    }
    let file = |prefix: &str, number: &str| path.join(format!("{prefix}{number}"));
    // They are hexadecimal numbers of one length.
    if snapshots.is_empty()
        && let Some(number) = kept.iter().max()
    {
        fs::hard_link(file(KEPT, number), file(SNAPSHOT, number))?;
        snapshots.push(number.clone());
    }
    if let Some(newest) = snapshots.iter().max() {
        if !kept.contains(newest) {
            fs::hard_link(file(SNAPSHOT, newest), file(KEPT, newest))?;
        }
        // The older ones go only when this one stays.
        durable::sync_directory(path)?;
        for number in kept.iter().filter(|number| *number != newest) {
            fs::remove_file(file(KEPT, number))?;
        }
    }
    durable::sync_directory(path)
}

/// Makes the names of what sled has written stay. To be called when sled has opened the directory, before anything is
/// written to it.
pub(super) fn after_opening(path: &Path) -> io::Result<()> {
    durable::sync_directory(path)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::log::backend::{LogBackend, WriteOp};
    use crate::log::sled::open_sled_alone;
    use crate::log::{SledLog, SledLogSettings};
    use crate::types::{Entry, LogId, LogPayload};

    const SETTINGS: SledLogSettings =
        SledLogSettings { cache_bytes: 1 << 20, rewrite_bytes: u64::MAX, rewrite_factor: 2 };

    fn id(index: u64) -> LogId {
        LogId::new(openraft::CommittedLeaderId::new(1, 1), index)
    }

    /// A log that sled finds empty when its snapshot is gone: its first segment was given free, and no later one says that
    /// nothing is missing before it. Gives sled's directory and the last entry.
    fn fragile_log(dir: &Path) -> (PathBuf, u64) {
        let path = dir.join("log.1");
        let mut next = 0;
        for _ in 0..40 {
            let mut log = SledLog::open(dir, SETTINGS).unwrap();
            log.recover().unwrap();
            for _ in 0..30 {
                let payload = openraft::EntryPayload::Normal(LogPayload(vec![7; 1000].into()));
                let entry = Entry { log_id: id(next), payload };
                log.write(&[WriteOp::Append((&entry).into())]).unwrap();
                if next > 0 {
                    log.write(&[WriteOp::PurgeTo(id(next - 1).into())]).unwrap();
                }
                log.sync().unwrap();
                next += 1;
            }
            drop(log);
            let copy = tempfile::tempdir().unwrap();
            for name in ["conf", "db"] {
                fs::copy(path.join(name), copy.path().join(name)).unwrap();
            }
            if open_sled_alone(copy.path(), SETTINGS.cache_bytes).unwrap().is_empty() {
                return (path, next - 1);
            }
        }
        panic!("sled can do without its snapshots");
    }

    fn names(path: &Path, prefix: &str) -> Vec<PathBuf> {
        let files = fs::read_dir(path).unwrap().map(|item| item.unwrap().path());
        files.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(prefix)).collect()
    }

    fn last_entry(dir: &Path) -> u64 {
        SledLog::open(dir, SETTINGS).unwrap().recover().unwrap().entries.last().unwrap().log_id.index
    }

    #[test]
    fn a_log_whose_snapshot_of_sleds_has_lost_its_name_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        let (path, last) = fragile_log(dir.path());
        before_opening(&path).unwrap();
        drop(open_sled_alone(&path, SETTINGS.cache_bytes).unwrap());
        // The power goes before the directory is synced: the removal of the old name is kept, the new name is lost.
        names(&path, SNAPSHOT).iter().for_each(|snapshot| fs::remove_file(snapshot).unwrap());
        assert_eq!(last_entry(dir.path()), last);
        assert_eq!(names(&path, KEPT).len(), 1);
    }

    #[test]
    fn what_sled_has_not_finished_is_not_taken_for_its_newest() {
        let dir = tempfile::tempdir().unwrap();
        let (path, last) = fragile_log(dir.path());
        fs::write(path.join("snap.00000000FFFFFFFF.generating"), b"half of").unwrap();
        assert_eq!(last_entry(dir.path()), last);
    }
}
