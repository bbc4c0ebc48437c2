//! A herd of light subscribers: each has a connection and a stream of its own, keeps the whole configuration and checks every
//! step of it as a proxy does, and goes to the next node when its own is gone. All of them are in this process: two thousand
//! programs would measure the machine.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use protocol::state::ConfigState;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::task::JoinSet;

use crate::luck::Luck;
use crate::subscriber::{Subscriber, Watcher};

/// A stream that says nothing for so long is left: a node of which two thousand ask at once may take a while.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// The pause before the next node is tried is drawn below this, as proxies draw it.
const PAUSE_MAX_MS: u64 = 1000;
/// Files that this process has open beside the herd's connections.
const OTHER_FILES: u64 = 1000;
/// The pause between two looks at where everybody is.
const LOOK: Duration = Duration::from_millis(10);

/// The herd. It is gone when this is dropped.
#[derive(Debug)]
pub struct Herd {
    _members: JoinSet<()>,
    seen: Vec<Arc<Seen>>,
}

/// What is known of a member.
#[derive(Debug, Default)]
struct Seen {
    /// Whether it has a stream on which something has come.
    follows: AtomicBool,
    revision: AtomicU64,
    streams: AtomicU64,
    fulls: AtomicU64,
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
}

impl Herd {
    /// Lets so many follow the nodes at these addresses, evenly spread.
    ///
    /// # Errors
    /// When this process may not have so many connections.
    pub fn start(count: usize, endpoints: &[String]) -> Result<Self> {
        allow_files(count as u64 + OTHER_FILES)?;
        let endpoints: Arc<[String]> = endpoints.into();
        let seen: Vec<Arc<Seen>> = (0..count).map(|_| Arc::default()).collect();
        let mut members = JoinSet::new();
        for (number, seen) in seen.iter().enumerate() {
            members.spawn(follow(number, endpoints.clone(), seen.clone()));
        }
        Ok(Self { _members: members, seen })
    }

    /// Waits until every one follows a node, and is at this revision or beyond.
    ///
    /// # Errors
    /// How many are not, when the time is up.
    pub async fn reach(&self, revision: u64, within: Duration) -> Result<Back> {
        let (began, count) = (Instant::now(), self.seen.len());
        let (mut half, mut most) = (None, None);
        loop {
            let is_there = |seen: &&Arc<Seen>| {
                seen.follows.load(Ordering::Relaxed) && seen.revision.load(Ordering::Relaxed) >= revision
            };
            let (there, took) = (self.seen.iter().filter(is_there).count(), began.elapsed());
            if there * 2 >= count {
                half.get_or_insert(took);
            }
            if there * 100 >= count * 99 {
                most.get_or_insert(took);
            }
            if there == count {
                return Ok(Back { half: half.unwrap_or(took), most: most.unwrap_or(took), all: took });
            }
            ensure!(took < within, "after {took:?} {} of {count} subscribers are not at {revision}", count - there);
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Streams that were opened so far.
    #[must_use]
    pub fn streams(&self) -> u64 {
        self.seen.iter().map(|seen| seen.streams.load(Ordering::Relaxed)).sum()
    }

    /// Full states that came so far.
    #[must_use]
    pub fn fulls(&self) -> u64 {
        self.seen.iter().map(|seen| seen.fulls.load(Ordering::Relaxed)).sum()
    }
}

struct Look(Arc<Seen>);

impl Watcher for Look {
    fn opened(&mut self, _held: &ConfigState) {
        self.0.streams.fetch_add(1, Ordering::Relaxed);
    }

    fn full(&mut self, _state: &ConfigState) {
        self.0.fulls.fetch_add(1, Ordering::Relaxed);
    }

    fn moved(&mut self, held: &ConfigState) {
        self.0.follows.store(true, Ordering::Relaxed);
        self.0.revision.store(held.position().revision, Ordering::Relaxed);
    }
}

async fn follow(number: usize, endpoints: Arc<[String]>, seen: Arc<Seen>) {
    // It goes on until it is dropped.
    let stop = AtomicBool::new(false);
    let mut luck = Luck::of(&[number as u64, 2_000]);
    let mut subscriber = Subscriber::new(format!("herd-{number:04}"), 1_000 + number as u64, SILENCE_MAX);
    let mut watcher = Look(seen);
    for at in number.. {
        // Whatever ended it: the next node is tried.
        drop(subscriber.follow(&endpoints[at % endpoints.len()], &stop, &mut watcher).await);
        watcher.0.follows.store(false, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(luck.below(PAUSE_MAX_MS))).await;
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
