//! Lives of the programs that fail where they are told to: started, ended, and what they have said until then.

use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use chaos::binaries;
use chaos::power_cut::watched;

/// A signal's number.
const ABORT: i32 = 6;
const KILL: i32 = 9;

/// One of `chaos/failing`'s programs with its directory.
#[derive(Debug)]
pub(crate) struct Program {
    name: &'static str,
    pub(crate) directory: PathBuf,
}

/// How a life is lived.
#[derive(Clone, Debug)]
pub(crate) struct Fate {
    /// Makes it do the same as another life with this seed.
    pub(crate) seed: u64,
    pub(crate) operations: u64,
    /// As in the environment variable of the same name.
    pub(crate) failpoints: String,
    /// It is killed when it has said so many lines, and so much later.
    pub(crate) kill: Option<(usize, Duration)>,
}

/// How a life has ended.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum End {
    /// It had done all that it was asked for.
    Done,
    /// At a failpoint.
    Aborted,
    /// By SIGKILL.
    Killed,
    /// With an error of its own.
    Failed,
}

/// A life that is over.
#[derive(Debug)]
pub(crate) struct Life {
    pub(crate) lines: Vec<String>,
    pub(crate) end: End,
    pub(crate) errors: String,
}

impl Program {
    /// The program with an empty directory in `place`.
    pub(crate) fn new(name: &'static str, place: &Path) -> Self {
        let directory = place.canonicalize().unwrap().join("disk");
        std::fs::create_dir(&directory).unwrap();
        Self { name, directory }
    }

    /// Lets it live once. With a journal, what it does to its directory is noted there.
    pub(crate) fn live(&self, fate: &Fate, journal: Option<&Path>) -> Life {
        let mut command = Command::new(binaries::failing(self.name).unwrap());
        command.arg(&self.directory).arg(fate.seed.to_string()).arg(fate.operations.to_string());
        command.env("FAILPOINTS", &fate.failpoints).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(journal) = journal {
            watched(&mut command, &self.directory, journal).unwrap();
        }
        let mut child = Reaped(command.spawn().unwrap());
        let mut errors_of = child.0.stderr.take().unwrap();
        let errors = std::thread::spawn(move || {
            let mut errors = Vec::new();
            let _ = errors_of.read_to_end(&mut errors);
            String::from_utf8_lossy(&errors).into_owned()
        });
        let mut said = BufReader::new(child.0.stdout.take().unwrap());
        let mut lines = Vec::new();
        let mut line = String::new();
        while said.read_line(&mut line).unwrap() > 0 {
            // A line that a crash has cut short was not said.
            if let Some(whole) = line.strip_suffix('\n') {
                lines.push(whole.to_owned());
            }
            line.clear();
            if let Some((after, pause)) = fate.kill
                && lines.len() == after
            {
                std::thread::sleep(pause);
                child.0.kill().unwrap();
            }
        }
        let status = child.0.wait().unwrap();
        let end = match status.signal() {
            Some(ABORT) => End::Aborted,
            Some(KILL) => End::Killed,
            _ if status.success() => End::Done,
            _ => End::Failed,
        };
        Life { lines, end, errors: errors.join().unwrap() }
    }
}

/// A process that does not outlive its test.
struct Reaped(Child);

impl Drop for Reaped {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The same seed gives the same numbers.
#[derive(Debug)]
pub(crate) struct Luck(pub(crate) u64);

impl Luck {
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    pub(crate) fn seed(&mut self) -> u64 {
        self.below(u64::from(u32::MAX))
    }

    pub(crate) fn pick<'a>(&mut self, names: &'a [String]) -> &'a str {
        &names[usize::try_from(self.below(names.len() as u64)).unwrap()]
    }

    /// A life that ends at a moment of no meaning, or at one of these failpoints the first or a later time.
    pub(crate) fn fate(&mut self, points: &[String], lines: u64) -> Fate {
        let seed = self.seed();
        let (mut failpoints, mut kill) = (String::new(), None);
        if !points.is_empty() && self.below(5) < 2 {
            let (name, before) = (self.pick(points).to_owned(), self.below(12));
            failpoints = format!("{name}={before}*off->return(abort)");
        } else {
            let after = usize::try_from(1 + self.below(lines)).unwrap();
            kill = Some((after, Duration::from_micros(self.below(1500))));
        }
        Fate { seed, operations: 60 + self.below(200), failpoints, kill }
    }
}
