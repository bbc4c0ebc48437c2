//! What the disk itself allows: small appends, each made durable, one after the other.

use std::fs::File;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::figures::Times;

/// The size of an append: a page, as much as a log's write is at least.
const APPEND_BYTES: usize = 4096;

/// How long each of `write` and `fdatasync` took together, for so long.
pub(crate) fn syncs(dir: &Path, time: Duration) -> Result<Times> {
    let path = dir.join("syncs");
    let mut file = File::create(&path)?;
    let page = [0x5a; APPEND_BYTES];
    let mut times = Vec::new();
    let began = Instant::now();
    while began.elapsed() < time {
        let append = Instant::now();
        file.write_all(&page)?;
        file.sync_data()?;
        times.push(append.elapsed());
    }
    std::fs::remove_file(path)?;
    Ok(Times::new(times))
}
