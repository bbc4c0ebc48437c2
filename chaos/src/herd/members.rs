//! The process that a herd is in: follows nodes until nobody listens to it any more, and answers how many are where.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use protocol::state::ConfigState;
use rustix::process::nice;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::task::JoinSet;

use super::Count;
use crate::luck::Luck;
use crate::subscriber::{Subscriber, Watcher};

/// A stream that says nothing for so long is left: a node of which two thousand ask at once may take a while.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// The pause before the next node is tried is drawn below this, as proxies draw it.
const PAUSE_MAX_MS: u64 = 1000;
/// Subscribers are elsewhere in truth: on a machine that has both, they leave its processors to those who are judged.
const NICE: i32 = 10;

/// Lets so many follow the nodes at these addresses, evenly spread, until the standard input ends. Each line of it is a
/// revision, and is answered with a [`Count`] in a line.
///
/// # Errors
/// When a line is no number.
pub async fn run(count: usize, endpoints: &[String]) -> Result<()> {
    nice(NICE)?;
    let endpoints: Arc<[String]> = endpoints.into();
    let seen: Vec<Arc<Seen>> = (0..count).map(|_| Arc::default()).collect();
    let mut members = JoinSet::new();
    for (number, seen) in seen.iter().enumerate() {
        members.spawn(follow(number, endpoints.clone(), seen.clone()));
    }
    let (mut asked, mut told) = (BufReader::new(tokio::io::stdin()).lines(), tokio::io::stdout());
    while let Some(line) = asked.next_line().await? {
        let revision = line.parse().with_context(|| format!("{line:?} is no revision"))?;
        let answer = serde_json::to_string(&counted(&seen, revision))?;
        told.write_all(format!("{answer}\n").as_bytes()).await?;
        told.flush().await?;
    }
    Ok(())
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

fn counted(seen: &[Arc<Seen>], revision: u64) -> Count {
    let is_there =
        |seen: &&Arc<Seen>| seen.follows.load(Ordering::Relaxed) && seen.revision.load(Ordering::Relaxed) >= revision;
    let sum = |of: fn(&Seen) -> &AtomicU64| seen.iter().map(|seen| of(seen).load(Ordering::Relaxed)).sum();
    Count {
        there: seen.iter().filter(is_there).count(),
        streams: sum(|seen| &seen.streams),
        fulls: sum(|seen| &seen.fulls),
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
