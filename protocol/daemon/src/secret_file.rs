//! Files that hold a secret.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// What everybody on the machine may do with a file (POSIX permission bits).
const OTHERS: u32 = 0o007;

/// Reads a file that holds a secret. One that everybody on the machine may read is read all the same, and warned of.
///
/// # Errors
/// Those of the file system.
pub fn read(path: &Path) -> io::Result<String> {
    let text = fs::read_to_string(path)?;
    if is_open_to_all(path)? {
        tracing::warn!(
            path = %path.display(),
            "everybody on this machine may read or write this file, which holds a secret: chmod o-rwx it"
        );
    }
    Ok(text)
}

fn is_open_to_all(path: &Path) -> io::Result<bool> {
    Ok(fs::metadata(path)?.mode() & OTHERS != 0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn only_a_file_that_is_open_to_all_is_warned_of() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, "secret").unwrap();
        for (mode, open) in [(0o600, false), (0o640, false), (0o400, false), (0o644, true), (0o602, true)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(is_open_to_all(&path).unwrap(), open, "{mode:o}");
        }
        assert_eq!(read(&path).unwrap(), "secret");
        assert!(read(&dir.path().join("none")).is_err());
    }
}
