//! A library to preload into a process (`LD_PRELOAD`): it notes, in order, everything that the process does to the files
//! of one directory, so that afterwards a power cut can be played on that directory.
//!
//! ```text
//!   process --- open, write, rename, fsync, … --> this library --- the same, by system call --> kernel
//!                                                      |
//!                                                      +--- appends a record --> journal --> `chaos::power_cut`
//! ```
//!
//! Every call really happens; what would have been lost is worked out from the journal by whoever cuts the power. The
//! record is written after the call has succeeded and before it returns, under one lock, so the order of the records is
//! the order of the effects.
//!
//! Only `fsync` and `fdatasync` make anything durable. `sync_file_range`, `msync`, `sync` and `close` are not even
//! intercepted: they count as nothing. What the library could not follow (a writable shared mapping, `fallocate`, a
//! symbolic link) ends the process, loudly, rather than make a proof worthless.
//!
//! Besides, it shows a process a wall clock that is set from outside ([`record::CLOCK`]); it can do either without the other.
//!
//! Nothing in here may touch a file through `std`: it would come back to this library, and find its lock taken.

mod clock;
mod intercept;
mod layer;
pub mod record;
