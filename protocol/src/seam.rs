//! The seams through which time and randomness reach code that decides. They are traits here and nothing more: programs
//! hand in the real ones, simulations their own.

use crate::entry::UnixMillis;

/// The wall clock. Monotonic time is `tokio::time`'s, which a simulation steers by itself.
pub trait WallClock: Send + Sync + 'static {
    /// Milliseconds since 1970-01-01 UTC.
    fn now(&self) -> UnixMillis;
}

/// A source of random numbers.
pub trait Random: Send + Sync + 'static {
    /// Sixty-four random bits.
    fn next(&self) -> u64;

    /// A random number below `bound`; 0 when `bound` is 0. The bias is below `bound / 2^64`.
    fn below(&self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.next() % bound }
    }

    /// Sixteen random bytes.
    fn bytes16(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.next().to_le_bytes());
        bytes[8..].copy_from_slice(&self.next().to_le_bytes());
        bytes
    }
}
