//! A herd of light subscribers: each has a connection and a stream of its own, keeps the whole configuration and checks every
//! step of it as a proxy does, and goes to the next node when its own is gone. All of them are in one process, two thousand
//! programs would measure the machine; and it is not the harness's own, which has requests to send in time.
//!
//! ```text
//!   harness --revision--> chaos herd-of --streams--> nodes
//!           <---Count----
//! ```

mod members;

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::Mutex;

use crate::binaries;

pub use members::run;

/// What the process is called with: this, how many there are, and the addresses of feeds.
pub const SUBCOMMAND: &str = "herd-of";
/// The pause between two looks at where everybody is.
const LOOK: Duration = Duration::from_millis(10);
/// How long the process may take to answer: it has two thousand streams, and whoever is judged goes first.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// Files that a process has open beside the herd's connections.
const OTHER_FILES: u64 = 1_000;

/// The herd. It is gone when this is dropped.
#[derive(Debug)]
pub struct Herd {
    count: usize,
    process: Mutex<Talk>,
}

/// A process that ends when its standard input does, and is killed when this is dropped.
#[derive(Debug)]
struct Talk {
    _child: Child,
    ask: ChildStdin,
    told: Lines<BufReader<ChildStdout>>,
}

/// How many are where.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Count {
    /// Those that follow a node, and are at the revision or beyond.
    pub there: usize,
    /// Streams that were opened so far.
    pub streams: u64,
    /// Full states that came so far.
    pub fulls: u64,
}

/// How long it took until so many of the herd had what was waited for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Back {
    /// Half of them.
    pub half: Duration,
    /// All but one of a hundred.
    pub most: Duration,
    /// All of them.
    pub all: Duration,
    /// How many were where in the end.
    pub count: Count,
}

impl Herd {
    /// Lets so many follow the nodes at these addresses, evenly spread.
    ///
    /// # Errors
    /// When its process cannot be started, or may not have so many connections.
    pub fn start(count: usize, endpoints: &[String]) -> Result<Self> {
        allow_files(count as u64 + OTHER_FILES)?;
        let mut command = Command::new(binaries::find("chaos")?);
        command.arg(SUBCOMMAND).arg(count.to_string()).args(endpoints).kill_on_drop(true);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().context("the herd's process")?;
        let ask = child.stdin.take().context("its standard input was asked for")?;
        let told = BufReader::new(child.stdout.take().context("its standard output was asked for")?).lines();
        Ok(Self { count, process: Mutex::new(Talk { _child: child, ask, told }) })
    }

    /// Waits until every one follows a node, and is at this revision or beyond.
    ///
    /// # Errors
    /// How many are not, when the time is up; or why their process does not say so.
    pub async fn reach(&self, revision: u64, within: Duration) -> Result<Back> {
        let began = Instant::now();
        let (mut half, mut most) = (None, None);
        loop {
            let count = self.look(revision).await?;
            let (there, took) = (count.there, began.elapsed());
            if there * 2 >= self.count {
                half.get_or_insert(took);
            }
            if there * 100 >= self.count * 99 {
                most.get_or_insert(took);
            }
            if there == self.count {
                return Ok(Back { half: half.unwrap_or(took), most: most.unwrap_or(took), all: took, count });
            }
            let missing = self.count - there;
            ensure!(took < within, "after {took:?} {missing} of {} subscribers are not at {revision}", self.count);
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn look(&self, revision: u64) -> Result<Count> {
        let mut talk = self.process.lock().await;
        let Talk { ask, told, .. } = &mut *talk;
        let asking = async {
            ask.write_all(format!("{revision}\n").as_bytes()).await?;
            told.next_line().await?.context("it has ended")
        };
        let answer = tokio::time::timeout(ANSWER_MAX, asking).await.context("it does not answer").flatten();
        Ok(serde_json::from_str(&answer.context("the herd's process")?)?)
    }
}

/// Lets this process, and those that it starts, have so many files open.
fn allow_files(count: u64) -> Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current.is_none_or(|current| current >= count) {
        return Ok(());
    }
    ensure!(maximum.is_none_or(|most| most >= count), "{count} open files are needed: raise `ulimit -n`");
    Ok(setrlimit(Resource::Nofile, Rlimit { current: Some(count), maximum })?)
}
