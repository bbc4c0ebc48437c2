//! A real process: started, paused, ended as roughly as a scenario wants it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::leftovers;
use crate::namespaces::Namespace;

/// Sends a process what Ctrl-C sends it (SIGINT).
///
/// # Errors
/// When there is no such process.
pub fn interrupt(pid: u32) -> Result<()> {
    let pid = Pid::from_raw(pid.cast_signed()).context("0 is no process")?;
    Ok(kill_process(pid, Signal::INT)?)
}

/// How long a killed process may take to be gone.
const GONE_MAX: Duration = Duration::from_secs(5);

/// A process that is ours. It is killed when this is dropped, and gone afterwards.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// What a process costs.
#[derive(Clone, Copy, Debug)]
pub struct Cost {
    /// Memory that it has now, in KiB.
    pub resident_kib: u64,
    /// The most that it ever had, in KiB.
    pub most_resident_kib: u64,
    /// Processor time.
    pub cpu: Duration,
}

impl Process {
    /// Starts a program; what it prints is appended to `<dir>/<name>.log`. It gets none of our `HOLDFAST_…` variables.
    ///
    /// # Errors
    /// Why it cannot be started.
    pub fn spawn(name: &str, program: &Path, args: &[impl AsRef<OsStr>], dir: &Path) -> Result<Self> {
        Self::spawn_with(name, program, args, dir, &[], None)
    }

    /// The same with variables of its environment, and in a network namespace where one is given.
    ///
    /// # Errors
    /// Why it cannot be started.
    pub fn spawn_with(
        name: &str,
        program: &Path,
        args: &[impl AsRef<OsStr>],
        dir: &Path,
        environment: &[(OsString, OsString)],
        namespace: Option<&Namespace>,
    ) -> Result<Self> {
        if let Some(namespace) = namespace {
            let (program, args) = namespace.command(program, args, environment)?;
            return Self::spawn_with(name, &program, &args, dir, &[], None);
        }
        let log = dir.join(format!("{name}.log"));
        let out = File::options().create(true).append(true).open(&log).with_context(|| log.display().to_string())?;
        let mut command = Command::new(program);
        command.args(args).stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        for (key, _) in std::env::vars_os().filter(|(key, _)| key.to_string_lossy().starts_with("HOLDFAST_")) {
            command.env_remove(key);
        }
        command.envs(environment.iter().map(|(key, value)| (key, value)));
        let child = command.spawn().with_context(|| format!("{} cannot be started", program.display()))?;
        let process = Self { name: name.to_owned(), child, log };
        if let Some(pid) = process.pid() {
            leftovers::note(dir, pid)?;
        }
        Ok(process)
    }

    /// Its process id; `None` when it has ended.
    #[must_use]
    pub fn pid(&self) -> Option<u32> {
        self.child.id()
    }

    /// What it has printed so far, in all its lives under this name.
    #[must_use]
    pub fn printed(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// What it has cost so far.
    ///
    /// # Errors
    /// When it has ended.
    pub fn cost(&self) -> Result<Cost> {
        let pid = self.pid().with_context(|| format!("{} has ended", self.name))?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let kib = |name: &str| -> Result<u64> {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).context("a process has a size")?;
            Ok(line.trim().trim_end_matches(" kB").parse()?)
        };
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // Behind the name, which may hold anything: user and system time are the 12th and 13th there, in ticks.
        let fields = stat.rsplit(')').next().context("a process has a state")?.split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum();
        let cpu = Duration::from_millis(ticks * 1000 / rustix::param::clock_ticks_per_second());
        Ok(Cost { resident_kib: kib("VmRSS:")?, most_resident_kib: kib("VmHWM:")?, cpu })
    }

    /// Whether it still runs.
    pub fn runs(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Ends it as a crash does (SIGKILL), and waits until it is gone.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub async fn kill(mut self) -> Result<()> {
        self.child.kill().await.with_context(|| format!("{} cannot be killed", self.name))
    }

    /// Asks it to end (SIGTERM), and gives its exit status.
    ///
    /// # Errors
    /// When it has not ended `within`.
    pub async fn terminate(mut self, within: Duration) -> Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.ended(within).await
    }

    /// Waits until it ends by itself.
    ///
    /// # Errors
    /// When it has not ended `within`.
    pub async fn ended(&mut self, within: Duration) -> Result<ExitStatus> {
        match tokio::time::timeout(within, self.child.wait()).await {
            Ok(status) => Ok(status?),
            Err(_) => bail!("{} has not ended within {within:?}", self.name),
        }
    }

    /// Stops it where it stands (SIGSTOP): its connections stay open, and say nothing.
    ///
    /// # Errors
    /// When it has ended.
    pub fn pause(&self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Errors
    /// When it has ended.
    pub fn resume(&self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        let pid = self.pid().and_then(|pid| Pid::from_raw(pid.cast_signed()));
        let pid = pid.with_context(|| format!("{} has ended", self.name))?;
        kill_process(pid, signal).with_context(|| format!("{} cannot be sent {signal:?}", self.name))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error says that it has ended already.
        let _ = self.child.start_kill();
        let deadline = Instant::now() + GONE_MAX;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
