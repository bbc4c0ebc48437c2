//! Where in the history of the configuration something stands.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use bincode::{Decode, Encode};

/// The one order of configuration changes: strictly growing by one with every accepted change of a cluster. It is not
/// the Raft log index, which starts over with a new cluster. `0` means "before the first change".
pub type Revision = u64;

/// Random name of one life of a cluster, drawn when it is initialised or restored.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Encode, Decode)]
pub struct RestoreId(pub [u8; 16]);

/// Which life of the cluster a revision belongs to. A restore starts a new, higher number; equal numbers with different
/// restore ids are two histories that must never be mixed.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug, Encode, Decode)]
pub struct Epoch {
    /// Grows with every restore; a new cluster starts at 1. 0 stands for "no cluster yet".
    pub number: u64,
    /// Tells two lives with the same number apart.
    pub restore: RestoreId,
}

/// `(epoch, revision)`: a point in the history of the configuration.
#[derive(Clone, Copy, Default, PartialEq, Eq, Hash, Debug, Encode, Decode)]
pub struct Position {
    /// The life of the cluster.
    pub epoch: Epoch,
    /// The change within it.
    pub revision: Revision,
}

/// Two epochs with one number and different restore ids: their positions have no order.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("epoch {} exists twice, as {} and as {}: two clusters were restored apart from each other", .0.number, .0.restore, .1.restore)]
pub struct EpochConflict(pub Epoch, pub Epoch);

impl Position {
    /// The order of two positions: by epoch, then by revision.
    ///
    /// # Errors
    /// [`EpochConflict`] when both carry the same epoch number with different restore ids.
    pub fn compare(&self, other: &Self) -> Result<Ordering, EpochConflict> {
        if self.epoch.number == other.epoch.number && self.epoch.restore != other.epoch.restore {
            return Err(EpochConflict(self.epoch, other.epoch));
        }
        Ok((self.epoch.number, self.revision).cmp(&(other.epoch.number, other.revision)))
    }

    /// The position one change later.
    #[must_use]
    pub fn next(self) -> Self {
        Self { revision: self.revision + 1, ..self }
    }
}

impl fmt::Display for RestoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        crate::digest::write_hex(f, &self.0)
    }
}

impl fmt::Debug for RestoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// `<epoch number>-<revision>`, as in the header `X-Holdfast-Position`.
impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch.number, self.revision)
    }
}

/// A text that is no restore id.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("a restore id is 32 hexadecimal digits")]
pub struct BadRestoreId;

impl FromStr for RestoreId {
    type Err = BadRestoreId;
    fn from_str(s: &str) -> Result<Self, Self::Err> {
        crate::digest::parse_hex(s).map(Self).ok_or(BadRestoreId)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(number: u64, restore: u8, revision: u64) -> Position {
        Position { epoch: Epoch { number, restore: RestoreId([restore; 16]) }, revision }
    }

    #[test]
    fn positions_are_ordered_by_epoch_then_revision() {
        assert_eq!(at(1, 7, 5).compare(&at(1, 7, 6)), Ok(Ordering::Less));
        assert_eq!(at(2, 8, 1).compare(&at(1, 7, 600)), Ok(Ordering::Greater));
        assert_eq!(at(1, 7, 5).compare(&at(1, 7, 5)), Ok(Ordering::Equal));
    }

    #[test]
    fn one_epoch_number_with_two_restore_ids_has_no_order() {
        let err = at(3, 1, 5).compare(&at(3, 2, 9)).unwrap_err();
        assert!(err.to_string().contains("epoch 3 exists twice"), "{err}");
    }

    #[test]
    fn restore_ids_print_and_parse() {
        let id = RestoreId([0xab; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!("xyz".parse::<RestoreId>(), Err(BadRestoreId));
    }
}
