//! Bringing back a configuration that a disaster has taken, as a new life of the cluster.
//!
//! Parts of a snapshot are held until all are there; then, in one step, the configuration is what the snapshot says,
//! under the new epoch. Before that step nothing of it is visible, and after it nothing of what was before.

use std::sync::Arc;

use imbl::OrdMap;
use protocol::command::STAGE_PART_BYTES_MAX;
use protocol::position::RestoreId;
use protocol::snapshot::{self, Expected, Loaded, Unsealed};
use protocol::{ConfigState, Epoch, Position, Rejection};
use sha2::{Digest, Sha256};

use super::LEVEL_MAX;

/// The largest snapshot that can be brought back, compressed as it is: what each replica holds until the end.
pub const RESTORE_BYTES_MAX: u64 = 512 << 20;

/// A restore under way.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Restoring {
    pub(super) epoch: Epoch,
    pub(super) bytes: u64,
    pub(super) parts: OrdMap<u32, Arc<[u8]>>,
}

/// What a restore comes to.
pub(super) struct Restored {
    pub(super) config: ConfigState,
    pub(super) level: u32,
}

fn refused<T>(why: impl Into<String>) -> Result<T, Rejection> {
    Err(Rejection::Restore { why: why.into().into() })
}

/// Begins a restore. One that is under way for another life is dropped: whoever began it last goes on.
pub(super) fn begin(now: Position, under_way: &mut Option<Restoring>, epoch: Epoch) -> Result<(), Rejection> {
    if epoch == now.epoch {
        return refused(format!("epoch {} with this restore id has begun already", epoch.number));
    }
    if epoch.number <= now.epoch.number {
        return refused(format!("epoch {} is not above the current one, {}", epoch.number, now.epoch.number));
    }
    if under_way.as_ref().is_none_or(|restoring| restoring.epoch != epoch) {
        *under_way = Some(Restoring { epoch, bytes: 0, parts: OrdMap::new() });
    }
    Ok(())
}

/// Holds a part. The same part again is no harm.
pub(super) fn part(
    under_way: &mut Option<Restoring>,
    restore: RestoreId,
    part: u32,
    bytes: &[u8],
) -> Result<(), Rejection> {
    let Some(restoring) = under_way.as_mut().filter(|restoring| restoring.epoch.restore == restore) else {
        return refused("it has not begun, or another one has begun since");
    };
    if bytes.len() > STAGE_PART_BYTES_MAX {
        return refused("a part is larger than its bound");
    }
    if let Some(held) = restoring.parts.get(&part) {
        return if **held == *bytes { Ok(()) } else { refused("a part came twice with other bytes") };
    }
    let added = bytes.len() as u64;
    if restoring.bytes + added > RESTORE_BYTES_MAX {
        return refused("there is no room for more parts");
    }
    restoring.bytes += added;
    restoring.parts.insert(part, bytes.into());
    Ok(())
}

/// Puts the parts together. When they do not fit, they stay: missing ones can still come.
pub(super) fn end(
    now: Position,
    under_way: &Option<Restoring>,
    restore: RestoreId,
    parts: u32,
    sha256: &[u8; 32],
) -> Result<Restored, Rejection> {
    let Some(restoring) = under_way.as_ref().filter(|restoring| restoring.epoch.restore == restore) else {
        return refused("it has not begun, or another one has begun since");
    };
    if restoring.epoch.number <= now.epoch.number {
        return refused(format!("epoch {} has begun meanwhile", now.epoch.number));
    }
    if !restoring.parts.keys().copied().eq(0..parts) {
        return refused(format!("{} of {parts} parts are there", restoring.parts.len()));
    }
    let mut hash = Sha256::new();
    restoring.parts.values().for_each(|part| hash.update(part));
    if hash.finalize()[..] != sha256[..] {
        return refused("its parts are not those that were sent");
    }
    let mut input = Parts { parts: restoring.parts.values().cloned().collect(), at: 0, offset: 0 };
    let read = snapshot::read(&mut input, ConfigState::following(), &Expected::default(), &Unsealed);
    let Loaded { header, state, .. } = match read {
        Ok(loaded) => loaded,
        Err(e) => return refused(e.to_string()),
    };
    if header.level > LEVEL_MAX {
        return refused(format!("it is of level {}, this version of holdfast knows up to {LEVEL_MAX}", header.level));
    }
    let Some(chain) = header.chain else { return refused("it does not hold everything: it has no chain") };
    let position = Position { epoch: restoring.epoch, revision: header.position.revision };
    let entries = state.iter().map(|(key, entry)| (key.clone(), entry.clone()));
    let config = ConfigState::from_entries(ConfigState::serving(), position, position, chain, entries);
    Ok(Restored { config, level: header.level })
}

/// Reads the parts one after the other, without a copy of the whole.
struct Parts {
    parts: Vec<Arc<[u8]>>,
    at: usize,
    offset: usize,
}

impl std::io::Read for Parts {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        while let Some(part) = self.parts.get(self.at) {
            let rest = &part[self.offset..];
            if rest.is_empty() {
                (self.at, self.offset) = (self.at + 1, 0);
                continue;
            }
            let read = rest.len().min(buffer.len());
            buffer[..read].copy_from_slice(&rest[..read]);
            self.offset += read;
            return Ok(read);
        }
        Ok(0)
    }
}
