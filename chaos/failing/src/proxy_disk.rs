//! What a proxy keeps on its disk, without the proxy: key, cluster, bases and journals. It tells, line by line on its
//! standard output, what it found at its start, what it is about to keep, and what the disk has acknowledged; whoever
//! has killed it, or cut its power, holds the next life's findings against that.
//!
//! ```text
//!   failing-proxy-disk <directory> <seed> <operations>
//!
//!   finding <text>            something on the disk was not believed
//!   cluster <id>              whose configuration it is
//!   found <position> <digest> where it starts from; not there when there is no configuration
//!   ready                     everything that was found has been told
//!   pinned <id>               the cluster is remembered, durably
//!   do <position> <digest>    about to be kept; it may come to be, from now on
//!   ok <position>             kept
//!   end
//! ```

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use daemon::seams::{SystemClock, SystemRandom};
use dp_proxy::disk::{self, Image, Store};
use protocol::delta::Change;
use protocol::entry::Stamp;
use protocol::position::RestoreId;
use protocol::snapshot::ClusterId;
use protocol::{ConfigState, Delta, Entry, Epoch, Position, ResourceKey};

const CLUSTER: ClusterId = ClusterId([7; 16]);

/// Resources that are edited in turn.
const KEYS: u64 = 20;

/// The largest body: a few of them outgrow any base.
const BODY_BYTES_MAX: u64 = 60_000;

/// The most appends that are under way at once.
const GROUP_MAX: u64 = 4;

/// The most records in one append.
const FRAMES_MAX: u64 = 3;

fn main() -> Result<()> {
    let _failpoints = daemon::failpoint::from_environment();
    let mut args = std::env::args().skip(1);
    let mut next = || args.next().context("usage: failing-proxy-disk <directory> <seed> <operations>");
    let (directory, seed, operations) = (next()?, next()?.parse()?, next()?.parse::<u64>()?);
    let opened = disk::open(Path::new(&directory), &"default".into(), Arc::new(SystemClock), &SystemRandom)?;
    for finding in &opened.recovered.findings {
        println!("finding {finding}");
    }
    if let Some(cluster) = opened.recovered.cluster {
        println!("cluster {cluster}");
    }
    let state = opened.recovered.state().cloned();
    if let Some(state) = &state {
        println!("found {} {}", state.position(), state.digest());
    }
    println!("ready");
    let store = opened.store.as_ref().context("nothing can be kept")?;
    if opened.recovered.cluster.is_none() {
        wait(store.pin(CLUSTER))?;
        println!("pinned {CLUSTER}");
    }
    let fresh = || {
        let mut state = ConfigState::following();
        state.begin_epoch(Epoch { number: 1, restore: RestoreId([1; 16]) });
        state
    };
    let mut node = Node { state: state.clone().unwrap_or_else(fresh), luck: Luck(seed) };
    if state.is_none() {
        node.edit();
        node.rebase(store)?;
    }
    for _ in 0..operations {
        node.appends(store)?;
        if node.luck.below(20) == 0 {
            node.edit();
            node.rebase(store)?;
        }
    }
    drop(opened);
    println!("end");
    Ok(())
}

/// The configuration that is kept.
struct Node {
    state: ConfigState,
    luck: Luck,
}

impl Node {
    fn rebase(&mut self, store: &Store) -> Result<()> {
        self.announce();
        wait(store.rebase(self.image()))?;
        println!("ok {}", self.state.position());
        Ok(())
    }

    /// Some appends at once, of deltas and marks.
    fn appends(&mut self, store: &Store) -> Result<()> {
        let mut answers = Vec::new();
        for _ in 0..1 + self.luck.below(GROUP_MAX) {
            let mut frames = Vec::new();
            for _ in 0..1 + self.luck.below(FRAMES_MAX) {
                frames.push(if self.luck.below(6) == 0 { self.mark()? } else { self.edit() });
                self.announce();
            }
            answers.push((self.state.position(), store.append(frames, self.image())));
        }
        for (position, answer) in answers {
            wait(answer)?;
            println!("ok {position}");
        }
        Ok(())
    }

    fn announce(&self) {
        println!("do {} {}", self.state.position(), self.state.digest());
    }

    fn image(&self) -> Image {
        Image { state: self.state.clone(), last_good: BTreeMap::from([(key(0), entry("good", 1))]) }
    }

    fn edit(&mut self) -> Bytes {
        let position = self.state.position().next();
        let bound = if self.luck.below(4) == 0 { BODY_BYTES_MAX } else { 500 };
        let length = self.luck.below(bound);
        let body: String =
            (0..length).map(|_| char::from(b'a' + u8::try_from(self.luck.below(26)).unwrap_or(0))).collect();
        let entry = Some(entry(&body, position.revision));
        let changes = vec![Change { key: key(self.luck.below(KEYS)), entry }];
        let (prev, digest) = (self.state.changed_at(), self.state.digest_after(&changes));
        let delta = Delta { prev, position, changes, digest, cause: None };
        self.state.evolve(&delta).expect("it was made for this state");
        protocol::codec::seal(&delta).expect("it is small").into()
    }

    fn mark(&mut self) -> Result<Bytes> {
        let position: Position = self.state.position().next();
        self.state.bookmark(position)?;
        Ok(disk::mark(position))
    }
}

fn wait(answer: tokio::sync::oneshot::Receiver<Result<(), disk::DiskError>>) -> Result<()> {
    let answer = answer.blocking_recv();
    ensure!(answer.is_ok(), "the disk's thread is gone");
    Ok(answer??)
}

fn key(n: u64) -> ResourceKey {
    ResourceKey::new("routes", &format!("r{n}"))
}

fn entry(body: &str, revision: u64) -> Arc<Entry> {
    let stamp = Stamp { revision, time: 0 };
    Arc::new(Entry::new(body, "default", stamp))
}

/// The same seed does the same.
struct Luck(u64);

impl Luck {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }
}
