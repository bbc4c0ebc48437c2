//! The wall clock of one process, which a scenario sets: see `chaos/power-cut`, whose library shows it to the process.

use std::ffi::OsString;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use crate::binaries;
use crate::power_cut::record;

/// A clock that is right until somebody sets it.
#[derive(Debug)]
pub struct Clock {
    path: PathBuf,
    file: File,
}

impl Clock {
    /// A right one; `path` is its file's, which must be there as long as a process looks at it.
    ///
    /// # Errors
    /// When the file cannot be made.
    pub fn new(path: &Path) -> Result<Self> {
        let file = File::create(path).with_context(|| path.display().to_string())?;
        file.set_len(record::CLOCK_BYTES as u64)?;
        Ok(Self { path: path.to_owned(), file })
    }

    /// What makes a process go by this clock.
    ///
    /// # Errors
    /// When the library is not built.
    pub fn environment(&self) -> Result<[(OsString, OsString); 2]> {
        let library = binaries::find("libpower_cut.so")
            .context("the library that shifts clocks is missing: build it with `cargo build -p power-cut`")?;
        Ok([("LD_PRELOAD".into(), library.into()), (record::CLOCK.into(), self.path.clone().into())])
    }

    /// It is `seconds` off at once, back or forth, and from now on gains `rate_ppm` microseconds each second.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set(&self, seconds: i64, rate_ppm: i64) -> Result<()> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let numbers = [seconds * 1_000_000_000, rate_ppm, i64::try_from(now.as_nanos())?];
        Ok(self.file.write_all_at(numbers.map(i64::to_ne_bytes).as_flattened(), 0)?)
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use super::*;

    /// Seconds since 1970, as a program says that goes by this clock.
    fn told(clock: &Clock) -> i64 {
        let mut date = Command::new("date");
        let output = date.arg("+%s").envs(clock.environment().unwrap()).output().unwrap();
        String::from_utf8(output.stdout).unwrap().trim().parse().unwrap()
    }

    #[test]
    fn a_program_sees_the_time_that_its_clock_is_set_to() {
        let dir = tempfile::tempdir().unwrap();
        let clock = Clock::new(&dir.path().join("clock")).unwrap();
        let now =
            || i64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()).unwrap();
        assert!((told(&clock) - now()).abs() <= 5, "it is right at first");
        clock.set(-86_400, 0).unwrap();
        assert!((told(&clock) - now() + 86_400).abs() <= 5, "a day back");
        clock.set(0, 1_000_000_000).unwrap();
        std::thread::sleep(Duration::from_millis(100));
        assert!(told(&clock) - now() > 90, "a thousand times as fast");
    }
}
