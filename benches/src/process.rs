//! A process under test: it ends with the bench, and what it used of the processor is counted.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// A process that is ours. It is killed when this is dropped, and gone afterwards.
pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a program; what it prints goes to `<dir>/<name>.log`.
    pub(crate) fn spawn(name: &str, program: &Path, args: &[impl AsRef<OsStr>], dir: &Path) -> Result<Self> {
        Self::spawn_with(name, program, args, &[], dir)
    }

    /// The same with these variables.
    pub(crate) fn spawn_with(
        name: &str,
        program: &Path,
        args: &[impl AsRef<OsStr>],
        env: &[(&str, &OsStr)],
        dir: &Path,
    ) -> Result<Self> {
        let log = dir.join(format!("{name}.log"));
        let out = File::options().create(true).append(true).open(&log).with_context(|| log.display().to_string())?;
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        for (key, _) in std::env::vars_os() {
            if ["HOLDFAST_", "ETCD_"].iter().any(|prefix| key.to_string_lossy().starts_with(prefix)) {
                command.env_remove(key);
            }
        }
        command.envs(env.iter().copied());
        let child = command.spawn().with_context(|| format!("{} cannot be started", program.display()))?;
        Ok(Self { child, log })
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it ends by itself, and wants it to have succeeded.
    pub(crate) fn succeed(mut self) -> Result<()> {
        let status = self.child.wait()?;
        ensure!(status.success(), "{status}: {}", self.printed());
        Ok(())
    }

    /// Fails when it has ended, with what it printed.
    pub(crate) fn runs(&mut self) -> Result<()> {
        let ended = self.child.try_wait()?;
        ensure!(ended.is_none(), "it has ended: {}", self.printed());
        Ok(())
    }

    /// The end of what it has printed.
    fn printed(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(10)..].join("\n")
    }

    /// The most memory that it has held so far, in bytes.
    pub(crate) fn peak_memory(&self) -> u64 {
        peak_memory_of(self.child.id())
    }

    /// Bytes of it that are in memory.
    ///
    /// # Errors
    /// It has ended.
    pub(crate) fn resident(&self) -> Result<u64> {
        resident_of(&self.child.id().to_string())
    }

    /// What it has used of the processor so far.
    pub(crate) fn processor(&self) -> Duration {
        processor_of(&self.child.id().to_string())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Errors say that it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What this process has used of the processor so far.
pub(crate) fn own_processor() -> Duration {
    processor_of("self")
}

/// Bytes of a process, by its number or `self`, that are in memory.
///
/// # Errors
/// It has ended.
pub(crate) fn resident_of(process: &str) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("it has no memory any more")?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib << 10)
}

/// proc(5): utime and stime are the 14th and 15th fields, in ticks; the name before them may hold blanks.
fn processor_of(pid: &str) -> Duration {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks: u64 = rest.split_whitespace().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_secs_f64(ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

/// The most memory that a process has held so far, in bytes (proc(5): VmHWM, in KiB); 0 when it has ended.
pub(crate) fn peak_memory_of(pid: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kib| kib << 10)
}

/// A program of the same build as this one.
pub(crate) fn find(program: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("this program's own file cannot be found")?;
    let path = own.with_file_name(program);
    ensure!(path.is_file(), "{} is missing: cargo build --release -p cp-node -p dp-proxy -p benches", path.display());
    Ok(path)
}

/// A directory for data, on the disk that the build is on: /tmp is memory on many machines, which is no disk to measure.
pub(crate) fn directory() -> Result<tempfile::TempDir> {
    let own = std::env::current_exe().context("this program's own file cannot be found")?;
    let beside = own.parent().context("this program's file has no folder")?;
    tempfile::Builder::new().prefix("bench-").tempdir_in(beside).with_context(|| beside.display().to_string())
}
