//! What request bodies that are kept whole may take of this process: memory, and threads on which they are looked through.
//!
//! A body is kept only where a plugin or a condition of a route wants all of it. Each has a bound of its own; this is the bound of all of them
//! together, over all workers, since a thousand clients can send a thousand bodies that are each small enough.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::downstream::body::BodyError;

/// What a body gets before any of it has come, in bytes, where it does not say that it is shorter: who announces much must
/// still send it.
const FIRST_BYTES: u64 = 64 << 10;

/// What all of them share.
#[derive(Debug)]
pub struct Buffers {
    /// 0: without a bound.
    bytes_max: u64,
    taken: AtomicU64,
    refused: AtomicU64,
    turns: Arc<Semaphore>,
}

impl Buffers {
    /// At most `bytes_max` bytes at once (0: any).
    pub(crate) fn new(bytes_max: u64) -> Arc<Self> {
        // What a check makes of a body can be many times as large as the body (a tree of JSON): not many at once. Half of the
        // cores are left to workers.
        let turns = thread::available_parallelism().map_or(1, usize::from).div_ceil(2);
        Arc::new(Self {
            bytes_max,
            taken: AtomicU64::new(0),
            refused: AtomicU64::new(0),
            turns: Arc::new(Semaphore::new(turns)),
        })
    }

    /// Bytes that are kept now.
    #[must_use]
    pub fn taken(&self) -> u64 {
        self.taken.load(Ordering::Relaxed)
    }

    /// Bodies for which there was no room.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Room for a body that says how long it is, or does not.
    ///
    /// # Errors
    /// [`BodyError::NoRoom`].
    pub(crate) fn begin(self: &Arc<Self>, length: Option<u64>) -> Result<Buffer, BodyError> {
        let share = Share { buffers: self.clone(), bytes: 0 };
        let length = length.and_then(|length| usize::try_from(length).ok());
        let mut buffer = Buffer { bytes: Vec::new(), length: length.unwrap_or(usize::MAX), share };
        let first = usize::try_from(FIRST_BYTES).expect("64 KiB");
        buffer.grow(first.min(buffer.length))?;
        Ok(buffer)
    }

    /// One's turn to look through a large body off the workers. It lasts until what is returned is dropped.
    pub(crate) async fn turn(&self) -> OwnedSemaphorePermit {
        self.turns.clone().acquire_owned().await.expect("it is never closed")
    }

    fn take(&self, bytes: u64) -> Result<(), BodyError> {
        // Nothing else is read with it: any order will do.
        let fits = |taken: u64| {
            let taken = taken.checked_add(bytes)?;
            (self.bytes_max == 0 || taken <= self.bytes_max).then_some(taken)
        };
        match self.taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(_) => Ok(()),
            Err(_) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                Err(BodyError::NoRoom)
            }
        }
    }
}

/// A body that is coming.
pub(crate) struct Buffer {
    bytes: Vec<u8>,
    /// How long it says it is; the largest number where it does not.
    length: usize,
    share: Share,
}

impl Buffer {
    /// # Errors
    /// [`BodyError::NoRoom`].
    pub(crate) fn append(&mut self, data: &[u8]) -> Result<(), BodyError> {
        let needed = self.bytes.len() + data.len();
        if needed > self.bytes.capacity() {
            // Twice as much each time, so that no byte is moved often; never more than was announced.
            self.grow(self.bytes.capacity().saturating_mul(2).min(self.length).max(needed))?;
        }
        self.bytes.extend_from_slice(data);
        Ok(())
    }

    /// The body as it is. Its room is given back with the last copy of what is returned.
    pub(crate) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }

    /// Makes its capacity that large.
    fn grow(&mut self, capacity: usize) -> Result<(), BodyError> {
        self.share.extend(capacity as u64)?;
        self.bytes.reserve_exact(capacity - self.bytes.len());
        Ok(())
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer").field("bytes", &self.bytes.len()).field("share", &self.share.bytes).finish()
    }
}

/// What one body has of it.
struct Share {
    buffers: Arc<Buffers>,
    bytes: u64,
}

impl Share {
    /// Makes it that large.
    fn extend(&mut self, bytes: u64) -> Result<(), BodyError> {
        self.buffers.take(bytes - self.bytes)?;
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.buffers.taken.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_takes_twice_its_size_at_most_however_it_comes() {
        let buffers = Buffers::new(0);
        let mut trickling = buffers.begin(None).unwrap();
        assert_eq!(buffers.taken(), FIRST_BYTES);
        let sent = 300_000;
        for byte in 0..sent {
            trickling.append(&[u8::try_from(byte % 251).unwrap()]).unwrap();
        }
        assert!(buffers.taken() < 2 * sent && trickling.bytes.capacity() as u64 == buffers.taken());
        let body = trickling.freeze();
        assert!(body.len() as u64 == sent && body.iter().enumerate().all(|(at, byte)| usize::from(*byte) == at % 251));
        let copy = body.slice(7..9);
        drop(body);
        assert!(buffers.taken() > sent, "a part of it keeps all of it");
        drop(copy);
        assert_eq!(buffers.taken(), 0);
    }

    #[test]
    fn what_is_announced_is_not_given_before_it_comes_and_bounds_what_is() {
        let buffers = Buffers::new(0);
        let small = buffers.begin(Some(10)).unwrap();
        assert_eq!(buffers.taken(), 10);
        drop(small);
        let mut large = buffers.begin(Some(100_000)).unwrap();
        assert_eq!(buffers.taken(), FIRST_BYTES);
        large.append(&[0; 70_000]).unwrap();
        assert_eq!(buffers.taken(), 100_000);
    }

    #[test]
    fn all_bodies_together_have_a_bound() {
        let buffers = Buffers::new(100_000);
        let mut first = buffers.begin(None).unwrap();
        assert_eq!(buffers.begin(None).unwrap_err(), BodyError::NoRoom);
        let mut small = buffers.begin(Some(30_000)).unwrap();
        small.append(&[0; 30_000]).unwrap();
        assert_eq!(first.append(&[0; 65_537]), Err(BodyError::NoRoom));
        assert_eq!(buffers.refused(), 2);
        drop((first, small));
        assert_eq!(buffers.taken(), 0);
        let mut again = buffers.begin(Some(100_000)).unwrap();
        again.append(&[0; 100_000]).unwrap();
        assert_eq!(buffers.taken(), 100_000);
    }
}
