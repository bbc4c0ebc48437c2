//! Files and directories by name: what is in a directory, or what a cut has left of it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use anyhow::{Context, Result};

/// A directory's content, by name.
pub type Tree = BTreeMap<String, Node>;

/// What has a name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Node {
    /// A file with its bytes.
    File {
        /// Tells files with two names apart from two files.
        inode: u64,
        /// What is in it.
        bytes: Vec<u8>,
    },
    /// A directory.
    Directory {
        /// Its inode.
        inode: u64,
        /// What is in it.
        entries: Tree,
    },
}

/// Reads a directory with all files and directories in it. A socket has no content, and is left out.
///
/// # Errors
/// Those of the file system.
pub(super) fn read(directory: &Path) -> Result<Tree> {
    let mut tree = Tree::new();
    for item in fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let item = item?;
        let path = item.path();
        let name = item.file_name().into_string().ok().with_context(|| format!("{}: no text", path.display()))?;
        let inode = item.metadata()?.ino();
        let kind = item.file_type()?;
        if kind.is_socket() {
            continue;
        }
        let node = if kind.is_dir() {
            Node::Directory { inode, entries: read(&path)? }
        } else {
            Node::File { inode, bytes: fs::read(&path).with_context(|| path.display().to_string())? }
        };
        tree.insert(name, node);
    }
    Ok(tree)
}

/// Puts a tree into a directory in place of what is there.
///
/// # Errors
/// Those of the file system.
pub(super) fn replace(directory: &Path, tree: &Tree) -> Result<()> {
    fs::remove_dir_all(directory).with_context(|| directory.display().to_string())?;
    write(directory, tree)
}

fn write(directory: &Path, tree: &Tree) -> Result<()> {
    fs::create_dir(directory).with_context(|| directory.display().to_string())?;
    for (name, node) in tree {
        let path = directory.join(name);
        match node {
            Node::File { bytes, .. } => fs::write(&path, bytes).with_context(|| path.display().to_string())?,
            Node::Directory { entries, .. } => write(&path, entries)?,
        }
    }
    Ok(())
}

/// Copies a directory with all files and directories in it, in the place of what is there.
///
/// # Errors
/// Those of the file system.
pub fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    let tree = read(from)?;
    if to.exists() {
        fs::remove_dir_all(to).with_context(|| to.display().to_string())?;
    }
    write(to, &tree)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixListener;

    use super::*;

    #[test]
    fn a_proxys_directory_is_copied_without_the_socket_of_its_hot_restart() {
        let dir = tempfile::tempdir().unwrap();
        let (from, to) = (dir.path().join("dp-1"), dir.path().join("copy"));
        fs::create_dir_all(from.join("config")).unwrap();
        fs::write(from.join("config/base"), "x").unwrap();
        drop(UnixListener::bind(from.join("handover.sock")).unwrap());
        copy_tree(&from, &to).unwrap();
        assert_eq!(fs::read(to.join("config/base")).unwrap(), b"x");
        assert!(!to.join("handover.sock").exists());
    }
}
