//! What a run leaves behind that was killed itself: directories under the place of temporary ones, and processes. Each directory
//! says whose it is and which processes were started for it, so that nothing is taken from a run that goes on.
//!
//! A process is known by its id and the time of its start: ids are given again. That a process ends with its parent could be
//! asked of the kernel, but only between fork and exec, which is `unsafe` in Rust.

use std::fs::{self, File};
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

/// What all of these directories are called at first.
const PREFIX: &str = "holdfast-";
/// In such a directory: the process that made it.
const OWNER: &str = ".owner";
/// In such a directory: the processes that were started for it, a line each.
const STARTED: &str = ".started";

/// A process: its id, and when it was started, in ticks since the machine was.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Known {
    pid: u32,
    started: u64,
}

/// Makes a directory of this process, `holdfast-<what>…`.
///
/// # Errors
/// When there is no room for it.
pub fn directory(what: &str) -> Result<TempDir> {
    let directory = tempfile::Builder::new().prefix(&format!("{PREFIX}{what}")).tempdir()?;
    let own = Known::of(std::process::id()).context("this process is not in /proc")?;
    fs::write(directory.path().join(OWNER), own.line())?;
    Ok(directory)
}

/// Notes that a process was started for a directory, where that is one of these.
pub(crate) fn note(directory: &Path, pid: u32) -> Result<()> {
    if !directory.join(OWNER).is_file() {
        return Ok(());
    }
    // One that has ended already is of no matter.
    let Some(known) = Known::of(pid) else { return Ok(()) };
    let path = directory.join(STARTED);
    let mut file = File::options().create(true).append(true).open(&path).with_context(|| path.display().to_string())?;
    Ok(file.write_all(known.line().as_bytes())?)
}

/// Ends the processes of directories in `place` whose owner is gone, and removes them; tells of each. One that does not say
/// whose it is stays.
///
/// # Errors
/// What could not be removed.
pub fn collect(place: &Path, mut tell: impl FnMut(String)) -> Result<()> {
    for item in fs::read_dir(place).with_context(|| place.display().to_string())? {
        let item = item?;
        let directory = item.path();
        if !item.file_name().to_string_lossy().starts_with(PREFIX) || !directory.is_dir() {
            continue;
        }
        let Some(owner) = read(&directory.join(OWNER)).first().copied() else {
            tell(format!("{} stays: it does not say whose it is", directory.display()));
            continue;
        };
        if owner.runs() {
            tell(format!("{} stays: process {} goes on", directory.display(), owner.pid));
            continue;
        }
        for process in read(&directory.join(STARTED)).into_iter().filter(|process| process.runs()) {
            tell(format!("ending process {}", process.pid));
            // It may have ended by now.
            let _ = kill_process(Pid::from_raw(process.pid.cast_signed()).context("0 is no process")?, Signal::KILL);
        }
        tell(format!("removing {}", directory.display()));
        fs::remove_dir_all(&directory).with_context(|| directory.display().to_string())?;
    }
    Ok(())
}

/// The processes that a file names; none when there is no such file.
fn read(path: &Path) -> Vec<Known> {
    fs::read_to_string(path).unwrap_or_default().lines().filter_map(Known::parse).collect()
}

impl Known {
    /// The process that has this id now. One that has ended and was not waited for is none any more.
    fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Behind the name, which may hold anything, the state is the first, and the time the 20th (proc_pid_stat(5)).
        let mut fields = stat.rsplit_once(')')?.1.split_whitespace();
        if matches!(fields.next()?, "Z" | "X") {
            return None;
        }
        Some(Self { pid, started: fields.nth(18)?.parse().ok()? })
    }

    fn runs(self) -> bool {
        Self::of(self.pid) == Some(self)
    }

    fn line(self) -> String {
        format!("{} {}\n", self.pid, self.started)
    }

    fn parse(line: &str) -> Option<Self> {
        let (pid, started) = line.split_once(' ')?;
        Some(Self { pid: pid.parse().ok()?, started: started.parse().ok()? })
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    #[test]
    fn what_a_dead_run_has_left_is_ended_and_removed_and_nothing_else() {
        let place = tempfile::tempdir().unwrap();
        let make = |name: &str, owner: Option<Known>| {
            let directory = place.path().join(name);
            fs::create_dir(&directory).unwrap();
            if let Some(owner) = owner {
                fs::write(directory.join(OWNER), owner.line()).unwrap();
            }
            directory
        };
        let own = Known::of(std::process::id()).unwrap();
        // Another process has had its id before.
        let gone = Known { started: own.started - 1, ..own };
        let left = make("holdfast-s3-left", Some(gone));
        let stay =
            [make("holdfast-live", Some(own)), make("holdfast-nobodys", None), make("something-else", Some(gone))];
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        note(&left, child.id()).unwrap();
        let noted = format!("{}{}", gone.line(), fs::read_to_string(left.join(STARTED)).unwrap());
        fs::write(left.join(STARTED), noted).unwrap();
        let mut told = Vec::new();
        collect(place.path(), |what| told.push(what)).unwrap();
        assert!(!left.exists(), "{told:?}");
        assert!(stay.iter().all(|directory| directory.exists()), "{told:?}");
        assert_eq!(child.wait().unwrap().signal(), Some(9), "{told:?}");
    }

    #[test]
    fn a_process_that_was_not_waited_for_runs_no_more() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let known = Known::of(child.id()).unwrap();
        assert!(known.runs());
        kill_process(Pid::from_raw(known.pid.cast_signed()).unwrap(), Signal::KILL).unwrap();
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(5);
        while known.runs() {
            assert!(std::time::Instant::now() < deadline, "it is killed, and still runs");
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
        child.wait().unwrap();
    }

    #[test]
    fn a_directory_says_whose_it_is() {
        let directory = directory("test-").unwrap();
        assert!(read(&directory.path().join(OWNER))[0].runs());
        note(directory.path(), std::process::id()).unwrap();
        assert_eq!(read(&directory.path().join(STARTED)).len(), 1);
    }
}
