//! The gRPC messages and services, generated from `proto/holdfast/v1/`, and their way to the types of this crate.

#[expect(
    missing_docs,
    unused_qualifications,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::large_enum_variant,
    reason = "generated; documented in the .proto files"
)]
mod generated {
    tonic::include_proto!("holdfast.v1");
}

pub use generated::*;

use crate::digest::{BUCKETS, Digest};
use crate::position::{Epoch, Position as Place, RestoreId};

/// A message whose fields do not have the shape that its .proto file says.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("malformed field {0}")]
pub struct Malformed(pub &'static str);

impl From<Place> for Position {
    fn from(place: Place) -> Self {
        Self { epoch: place.epoch.number, restore_id: place.epoch.restore.0.to_vec().into(), revision: place.revision }
    }
}

impl TryFrom<Position> for Place {
    type Error = Malformed;
    fn try_from(message: Position) -> Result<Self, Malformed> {
        let restore = match message.restore_id.len() {
            0 => [0; 16],
            _ => message.restore_id[..].try_into().map_err(|_| Malformed("restore_id"))?,
        };
        Ok(Self { epoch: Epoch { number: message.epoch, restore: RestoreId(restore) }, revision: message.revision })
    }
}

/// A position that a message must carry.
///
/// # Errors
/// [`Malformed`] when it is missing or has another shape.
pub fn position(message: Option<Position>, field: &'static str) -> Result<Place, Malformed> {
    message.ok_or(Malformed(field))?.try_into()
}

/// A digest from its 32 bytes.
///
/// # Errors
/// [`Malformed`] when there are more or fewer.
pub fn digest(bytes: &[u8], field: &'static str) -> Result<Digest, Malformed> {
    Ok(Digest(bytes.try_into().map_err(|_| Malformed(field))?))
}

/// The sums of all buckets as [`Mend`] carries them.
#[must_use]
pub fn buckets_to_bytes(buckets: &[Digest; BUCKETS]) -> Vec<u8> {
    buckets.iter().flat_map(|digest| digest.0).collect()
}

/// The sums of all buckets from [`Mend`].
///
/// # Errors
/// [`Malformed`] when there are not 256 of 32 bytes.
pub fn buckets_from_bytes(bytes: &[u8]) -> Result<[Digest; BUCKETS], Malformed> {
    if bytes.len() != BUCKETS * 32 {
        return Err(Malformed("buckets"));
    }
    let mut buckets = [Digest::default(); BUCKETS];
    for (bucket, sum) in buckets.iter_mut().zip(bytes.chunks_exact(32)) {
        bucket.0.copy_from_slice(sum);
    }
    Ok(buckets)
}
