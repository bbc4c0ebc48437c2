//! Where chance comes from: the seed, and nothing else.
//!
//! Code that asks the operating system (maps, consensus' timeouts, the order in which `select!` polls) is answered from
//! the seed too: `mad-turmoil` stands in for libc's `getrandom`, for the whole process. So a process runs one seed.

use std::sync::Mutex;
use std::time::Duration;

use protocol::entry::UnixMillis;
use protocol::seam::{Random, WallClock};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// From now on everything in this process that is drawn comes from `seed`. Once per process.
pub fn seed_everything(seed: u64) {
    mad_turmoil::rand::set_rng(StdRng::seed_from_u64(seed));
    daemon::blocking::run_inline_on_this_thread();
}

/// A source of its own for one part of the world, so that what one part draws does not shift what another does.
pub(crate) fn stream(seed: u64, part: u64) -> StdRng {
    StdRng::seed_from_u64(seed ^ part.wrapping_mul(0x9e37_79b9_7f4a_7c15))
}

/// The same, as the product takes it.
pub(crate) struct SimRandom(Mutex<StdRng>);

impl SimRandom {
    pub(crate) fn new(seed: u64, part: u64) -> Self {
        Self(Mutex::new(stream(seed, part)))
    }
}

impl Random for SimRandom {
    fn next(&self) -> u64 {
        self.0.lock().expect("no code panics while it holds it").next_u64()
    }
}

/// Draws below a bound.
pub(crate) fn below(rng: &mut StdRng, bound: u64) -> u64 {
    if bound == 0 { 0 } else { rng.next_u64() % bound }
}

/// Draws from a range of milliseconds.
pub(crate) fn millis(rng: &mut StdRng, from: u64, to: u64) -> Duration {
    Duration::from_millis(from + below(rng, to - from + 1))
}

/// The wall clock of a simulated machine: it starts in 2026, and each is wrong by a little.
pub(crate) struct SimClock {
    pub(crate) skew_millis: u64,
}

/// 2026-01-01 in milliseconds.
const START: UnixMillis = 1_767_225_600_000;

impl WallClock for SimClock {
    fn now(&self) -> UnixMillis {
        let elapsed = turmoil::sim_elapsed().unwrap_or_default();
        START + self.skew_millis + u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX / 2)
    }
}
