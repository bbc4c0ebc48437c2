//! The node's key, and the cluster it belongs to.
//!
//! The key vouches that what is on the disk was written by this node: a file from another node, or one that was changed
//! by hand, does not pass. It protects against mix-ups and damage; whoever can read the key can forge what it seals.

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use bincode::{Decode, Encode};
use daemon::{durable, failpoint};
use protocol::codec::{self, Record};
use protocol::seam::Random;
use protocol::snapshot::{ClusterId, MacKey};

use super::recover::Finding;

/// The key's file.
#[derive(Encode, Decode, PartialEq, Debug)]
pub(super) struct KeyRecord {
    pub(super) key: [u8; 32],
}

impl Record for KeyRecord {
    const TAG: [u8; 4] = *b"mkey";
    const VERSION: u16 = 1;
    const PAYLOAD_BYTES_MAX: usize = 64;
}

/// The cluster's file. It has a checksum: a flipped bit in a bare id would make the configuration look foreign.
#[derive(Encode, Decode, PartialEq, Debug)]
pub(super) struct ClusterRecord {
    pub(super) cluster: ClusterId,
}

impl Record for ClusterRecord {
    const TAG: [u8; 4] = *b"clus";
    const VERSION: u16 = 1;
    const PAYLOAD_BYTES_MAX: usize = 64;
}

/// Reads the node's key; makes one where there is none. A damaged key is replaced: what it sealed is refused from then
/// on, and comes again from the control plane.
///
/// # Errors
/// Those of the file system, when there is no key and none can be written.
pub(super) fn key(path: &Path, random: &dyn Random, findings: &mut Vec<Finding>) -> io::Result<MacKey> {
    match fs::read(path) {
        Ok(bytes) => match codec::open::<KeyRecord>(&bytes) {
            Ok(record) => return Ok(MacKey(record.key)),
            Err(e) => findings.push(Finding::whole(path, format!("{e}; a new key is made"))),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => {}
        Err(e) => return Err(durable::at(path, e)),
    }
    let mut key = [0; 32];
    key[..16].copy_from_slice(&random.bytes16());
    key[16..].copy_from_slice(&random.bytes16());
    let bytes = codec::seal(&KeyRecord { key }).map_err(io::Error::other)?;
    write_secret(path, &bytes)?;
    Ok(MacKey(key))
}

/// Puts bytes under `path` that only this user may read.
///
/// # Errors
/// Those of the file system, with the path.
pub(crate) fn write_secret(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let temporary = path.with_extension(durable::TEMPORARY);
    let write = || {
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
        file.write_all(bytes)?;
        failpoint!("dp::key::before_sync");
        file.sync_all()?;
        fs::rename(&temporary, path)
    };
    write().map_err(|e| durable::at(path, e))?;
    durable::sync_directory(path.parent().unwrap_or(Path::new(".")))
}

/// The cluster that this directory belongs to, if it was in contact with one. Where that cannot be read, the cluster of
/// the configuration counts.
pub(super) fn cluster(path: &Path, findings: &mut Vec<Finding>) -> Option<ClusterId> {
    let reason = match fs::read(path) {
        Ok(bytes) => match codec::open::<ClusterRecord>(&bytes) {
            Ok(record) => return Some(record.cluster),
            Err(e) => e.to_string(),
        },
        Err(e) if e.kind() == io::ErrorKind::NotFound => return None,
        Err(e) => e.to_string(),
    };
    findings.push(Finding::whole(path, reason));
    None
}

/// Remembers the cluster.
///
/// # Errors
/// Those of the file system.
pub(super) fn pin_cluster(path: &Path, cluster: ClusterId) -> io::Result<()> {
    failpoint!("dp::cluster::before_write");
    let bytes = codec::seal(&ClusterRecord { cluster }).map_err(io::Error::other)?;
    durable::write(path, &bytes)
}
