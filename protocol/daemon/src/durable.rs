//! Files that must survive a power cut.
//!
//! A write is durable when the file's content is synced *and* the directory that names it is: a rename alone can vanish.
//! Everything here therefore ends with a sync of the directory, and a crash at any point leaves the old file or the new.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::failpoint;

/// Ending of files that are being written. One that is found at start is left over from a crash and means nothing.
pub const TEMPORARY: &str = "tmp";

/// Puts `bytes` under `path`, in place of what was there.
///
/// # Errors
/// Those of the file system, with the path. The old file is then still there, whole.
pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = Replacement::begin(path)?;
    file.write_all(bytes).map_err(|e| at(path, e))?;
    file.commit()
}

/// The same, for its owner's eyes only.
///
/// # Errors
/// Those of the file system, with the path. The old file is then still there, whole.
pub fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = Replacement::begin(path)?;
    // Before there is anything in it.
    file.file.set_permissions(fs::Permissions::from_mode(0o600)).map_err(|e| at(path, e))?;
    file.write_all(bytes).map_err(|e| at(path, e))?;
    file.commit()
}

/// A file that takes the place of another when it is complete.
#[derive(Debug)]
pub struct Replacement {
    file: File,
    temporary: PathBuf,
    path: PathBuf,
    committed: bool,
}

impl Replacement {
    /// Begins to write what shall stand under `path`.
    ///
    /// # Errors
    /// Those of the file system, with the path.
    pub fn begin(path: &Path) -> io::Result<Self> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".");
        name.push(TEMPORARY);
        let temporary = path.with_file_name(name);
        let file = OpenOptions::new().write(true).create(true).truncate(true).open(&temporary);
        let file = file.map_err(|e| at(&temporary, e))?;
        Ok(Self { file, temporary, path: path.to_owned(), committed: false })
    }

    /// Syncs it and lets it take its place. When this returns, it is there after any crash.
    ///
    /// # Errors
    /// Those of the file system, with the path. What stood under the path is then still there.
    pub fn commit(self) -> io::Result<()> {
        let path = self.path.clone();
        self.commit_as(&path)
    }

    /// The same, under a name that is known only now, in the same directory.
    ///
    /// # Errors
    /// Those of the file system, with the path.
    pub fn commit_as(mut self, path: &Path) -> io::Result<()> {
        failpoint!("durable::before_sync", |_| Err(at(path, io::Error::other("injected"))));
        self.file.sync_all().map_err(|e| at(&self.temporary, e))?;
        failpoint!("durable::before_rename");
        fs::rename(&self.temporary, path).map_err(|e| at(path, e))?;
        self.committed = true;
        failpoint!("durable::before_directory_sync");
        sync_directory(path.parent().unwrap_or(Path::new(".")))?;
        failpoint!("durable::after_directory_sync");
        Ok(())
    }
}

impl Write for Replacement {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl Drop for Replacement {
    fn drop(&mut self) {
        if !self.committed {
            // It means nothing to anybody; a crash would leave it as well.
            let _ = fs::remove_file(&self.temporary);
        }
    }
}

/// Makes the names in a directory durable.
///
/// # Errors
/// Those of the file system, with the path.
pub fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path).and_then(|directory| directory.sync_all()).map_err(|e| at(path, e))
}

/// Makes a directory with all its parents, durably.
///
/// # Errors
/// Those of the file system, with the path.
pub fn create_directory(path: &Path) -> io::Result<()> {
    create_directory_with(path, &fs::DirBuilder::new())
}

/// The same, with a directory that nobody but its owner may enter. One that is there already stays as it is.
///
/// # Errors
/// Those of the file system, with the path.
pub fn create_private_directory(path: &Path) -> io::Result<()> {
    create_directory_with(path, fs::DirBuilder::new().mode(0o700))
}

/// `last` makes the directory itself; its parents are as everywhere.
fn create_directory_with(path: &Path, last: &fs::DirBuilder) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(parent) = parent {
        create_directory(parent)?;
    }
    match last.create(path) {
        Err(e) if e.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        result => result.map_err(|e| at(path, e))?,
    }
    sync_directory(parent.unwrap_or(Path::new(".")))
}

/// Removes a file, durably; that it is gone already is no error.
///
/// # Errors
/// Those of the file system, with the path.
pub fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
        result => result.map_err(|e| at(path, e))?,
    }
    sync_directory(path.parent().unwrap_or(Path::new(".")))
}

/// Takes a lock that lives as long as the returned file, so that two processes never share a directory.
///
/// # Errors
/// [`io::ErrorKind::WouldBlock`] when another process holds it, else those of the file system; with the path.
pub fn lock(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().write(true).create(true).truncate(false).open(path).map_err(|e| at(path, e))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(fs::TryLockError::WouldBlock) => {
            let message = format!("{}: another process uses this directory", path.display());
            Err(io::Error::new(io::ErrorKind::WouldBlock, message))
        }
        Err(fs::TryLockError::Error(e)) => Err(at(path, e)),
    }
}

/// Puts the path in front of an error.
pub fn at(path: &Path, e: io::Error) -> io::Error {
    io::Error::new(e.kind(), format!("{}: {e}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_nothing_is_left_over() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b/file");
        create_directory(path.parent().unwrap()).unwrap();
        write(&path, b"one").unwrap();
        write(&path, b"two").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"two");
        let mut unfinished = Replacement::begin(&path).unwrap();
        unfinished.write_all(b"three").unwrap();
        drop(unfinished);
        assert_eq!(fs::read(&path).unwrap(), b"two");
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 1);
    }

    #[test]
    fn errors_name_the_place() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("none/file");
        let error = write(&path, b"x").unwrap_err().to_string();
        assert!(error.contains("none/file.tmp"), "{error}");
    }

    #[test]
    fn a_directory_has_one_user() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let held = lock(&path).unwrap();
        assert_eq!(lock(&path).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        drop(held);
        assert!(lock(&path).is_ok());
    }
}
