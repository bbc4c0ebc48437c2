//! A control-plane node's disk at work, without the node: log, snapshots, identity. It tells, line by line on its
//! standard output, what it found at its start, what it is about to do, and what it was acknowledged; whoever has
//! killed it, or cut its power, holds the next life's findings against that.
//!
//! ```text
//!   failing-store <directory> <seed> <operations>
//!
//!   claiming                  it is about to make the directory its own
//!   identity <name>           the directory is its own, durably
//!   boot <n>                  this start was counted, durably
//!   found vote|committed|purged|entry|snapshot …
//!   ready                     everything that was found has been told
//!   do <n> <operation>        about to be given to the log; it may come to be, from now on
//!   ok <n>                    acknowledged
//!   saving|saved <snapshot>   about to be written; acknowledged
//!   end
//! ```
//!
//! Ids are written `index/term/node`, entries `index/term/node/bytes/hash`, snapshots `index/bytes/hash`.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{Read, Write};
use std::path::Path;
use std::pin::Pin;

use anyhow::{Context, Result};
use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::{CommittedLeaderId, EntryPayload, RaftLogReader};
use protocol::Epoch;
use protocol::snapshot::ClusterId;
use raft_store::disk::{DataDir, Identity};
use raft_store::log::{LogStore, SledLog, SledLogSettings, WriterDriver};
use raft_store::snapshots::{SnapshotFiles, SnapshotStore};
use raft_store::types::{Entry, LogId, LogPayload, NodeId, Vote};

/// This node, and another one that leads at times.
const ME: NodeId = 1;
const OTHER: NodeId = 2;

/// The log's file is rewritten often here.
const SETTINGS: SledLogSettings = SledLogSettings { cache_bytes: 32 << 20, rewrite_bytes: 1 << 20, rewrite_factor: 2 };

/// The most operations that are under way at once.
const GROUP_MAX: u64 = 8;

/// The most entries in one append.
const APPEND_ENTRIES_MAX: u64 = 4;

/// The largest entry: a full one of the log.
const ENTRY_BYTES_MAX: u64 = protocol::command::LOG_ENTRY_BYTES_MAX as u64;

/// The largest snapshot.
const SNAPSHOT_BYTES_MAX: u64 = 200 << 10;

/// Snapshots that are kept.
const SNAPSHOTS_KEPT: usize = 2;

fn main() -> Result<()> {
    let _failpoints = daemon::failpoint::from_environment();
    let mut args = std::env::args().skip(1);
    let mut next = || args.next().context("usage: failing-store <directory> <seed> <operations>");
    let (directory, seed, operations) = (next()?, next()?.parse()?, next()?.parse()?);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build()?;
    runtime.block_on(live(Path::new(&directory), seed, operations))
}

async fn live(directory: &Path, seed: u64, operations: u64) -> Result<()> {
    let data = DataDir::open(directory)?;
    let identity = match data.identity()? {
        Some(identity) => identity,
        None => {
            say("claiming");
            let identity = Identity {
                cluster: ClusterId([1; 16]),
                epoch: Epoch::default(),
                node: ME,
                uuid: [2; 16],
                name: format!("named-{seed}").as_str().into(),
                left: false,
            };
            data.claim(&identity)?;
            identity
        }
    };
    say(&format!("identity {}", identity.name));
    say(&format!("boot {}", data.count_boot()?));
    let mut log = LogStore::open(ME, SledLog::open(&data.log()?, SETTINGS)?, WriterDriver::Thread)?;
    let mut plan = Plan::found(&mut log, seed).await?;
    let snapshots = SnapshotFiles::open(&data.snapshots())?;
    let mut last_snapshot = 0;
    for handle in snapshots.list()? {
        let mut bytes = Vec::new();
        handle.open()?.read_to_end(&mut bytes)?;
        say(&format!("found snapshot {}/{}/{}", handle.last_index(), bytes.len(), hash(&bytes)));
        last_snapshot = last_snapshot.max(handle.last_index());
    }
    say("ready");
    let mut number = 0;
    while number < operations {
        let mut group: Vec<Pin<Box<dyn Future<Output = Result<()>>>>> = Vec::new();
        for _ in 0..1 + plan.luck.below(GROUP_MAX) {
            number += 1;
            group.push(plan.operation(number, &log));
        }
        // Polled in this order, so given to the log in this order.
        for result in futures_util::future::join_all(group).await {
            result?;
        }
        if plan.luck.below(8) == 0 {
            last_snapshot += 1 + plan.luck.below(100);
            save(&snapshots, last_snapshot, &mut plan.luck)?;
        }
    }
    log.close().await;
    say("end");
    Ok(())
}

fn save(snapshots: &SnapshotFiles, index: u64, luck: &mut Luck) -> Result<()> {
    let bytes = luck.bytes(SNAPSHOT_BYTES_MAX);
    let name = format!("{index}/{}/{}", bytes.len(), hash(&bytes));
    say(&format!("saving {name}"));
    let mut writer = snapshots.begin()?;
    for part in bytes.chunks(30_000) {
        writer.write_all(part)?;
    }
    writer.commit(index)?;
    say(&format!("saved {name}"));
    Ok(snapshots.retain(SNAPSHOTS_KEPT)?)
}

/// What it does next: only what consensus would do.
struct Plan {
    luck: Luck,
    vote: Vote,
    entries: BTreeMap<u64, LogId>,
    next: u64,
    committed: Option<LogId>,
    purged: Option<LogId>,
}

impl Plan {
    /// Goes on from what is there, and tells it.
    async fn found(log: &mut LogStore, seed: u64) -> Result<Self> {
        let vote = log.read_vote().await?;
        let text = vote.map_or("-".to_owned(), |vote| vote_text(&vote));
        say(&format!("found vote {text}"));
        let state = log.get_log_state().await?;
        let (committed, purged) = (log.read_committed().await?, state.last_purged_log_id);
        say(&format!("found committed {}", committed.map_or("-".to_owned(), |id| id_text(&id))));
        say(&format!("found purged {}", purged.map_or("-".to_owned(), |id| id_text(&id))));
        let mut entries = BTreeMap::new();
        for entry in log.try_get_log_entries(..).await? {
            say(&format!("found entry {}", entry_text(&entry)));
            entries.insert(entry.log_id.index, entry.log_id);
        }
        let next = state.last_log_id.map_or(0, |last| last.index + 1);
        let vote = vote.unwrap_or_default();
        Ok(Self { luck: Luck(seed), vote, entries, next, committed, purged })
    }

    /// The next operation; it has been announced, and happens when it is polled.
    fn operation(&mut self, number: u64, log: &LogStore) -> Pin<Box<dyn Future<Output = Result<()>>>> {
        let mut log = log.clone();
        // Nobody appends before there is a leader.
        let choice = if self.vote.committed { self.luck.below(20) } else { 0 };
        match choice {
            0 => {
                let node = if self.luck.below(2) == 0 { ME } else { OTHER };
                self.vote = Vote::new_committed(self.vote.leader_id.term + 1, node);
                let vote = self.vote;
                say(&format!("do {number} vote {}", vote_text(&vote)));
                Box::pin(async move {
                    log.save_vote(&vote).await?;
                    acknowledged(number)
                })
            }
            // The leader never cuts its own log; committed entries stay with everybody.
            1 if self.vote.leader_id.node_id != ME && self.next > self.uncommitted() => {
                let from = self.uncommitted() + self.luck.below(self.next - self.uncommitted());
                self.entries.split_off(&from);
                self.next = from;
                say(&format!("do {number} truncate {from}"));
                let id = LogId::new(CommittedLeaderId::new(0, 0), from);
                Box::pin(async move {
                    log.truncate(id).await?;
                    acknowledged(number)
                })
            }
            2 | 3 if self.next > self.uncommitted() => {
                let index = self.uncommitted() + self.luck.below(self.next - self.uncommitted());
                self.committed = Some(self.entries[&index]);
                let committed = self.committed;
                say(&format!("do {number} committed {}", id_text(&self.entries[&index])));
                Box::pin(async move { Ok(log.save_committed(committed).await?) })
            }
            4 if self.committed.is_some_and(|committed| self.entries.contains_key(&committed.index)) => {
                let id = self.committed.context("it was just looked at").expect("there is one");
                self.entries = self.entries.split_off(&(id.index + 1));
                self.purged = Some(id);
                say(&format!("do {number} purge {}", id_text(&id)));
                Box::pin(async move { Ok(log.purge(id).await?) })
            }
            _ => {
                let entries: Vec<Entry> = (0..1 + self.luck.below(APPEND_ENTRIES_MAX)).map(|_| self.entry()).collect();
                let mut line = format!("do {number} append");
                for entry in &entries {
                    let _ = write!(line, " {}", entry_text(entry));
                }
                say(&line);
                let last = self.next - 1;
                Box::pin(async move {
                    log.blocking_append(entries).await?;
                    // A leader's own entries are reported before they are safe.
                    log.durability().wait_safe(last).await?;
                    acknowledged(number)
                })
            }
        }
    }

    fn entry(&mut self) -> Entry {
        let leader = self.vote.leader_id;
        let log_id = LogId::new(CommittedLeaderId::new(leader.term, leader.node_id), self.next);
        self.entries.insert(self.next, log_id);
        self.next += 1;
        // Most are small; some take many chunks.
        let bound = if self.luck.below(10) == 0 { ENTRY_BYTES_MAX } else { 1000 };
        Entry { log_id, payload: EntryPayload::Normal(LogPayload(self.luck.bytes(bound).into())) }
    }

    /// The first index that is not known to be committed.
    fn uncommitted(&self) -> u64 {
        let first = self.purged.map_or(0, |purged| purged.index + 1);
        self.committed.map_or(0, |committed| committed.index + 1).max(first)
    }
}

/// One write for each line: what was said before a crash has been said.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // Without a listener there is nobody to be wrong to.
    let _ = out.write_all(format!("{line}\n").as_bytes());
}

fn acknowledged(number: u64) -> Result<()> {
    say(&format!("ok {number}"));
    Ok(())
}

fn vote_text(vote: &Vote) -> String {
    format!("{} {} {}", vote.leader_id.term, vote.leader_id.node_id, vote.committed)
}

fn id_text(id: &LogId) -> String {
    format!("{}/{}/{}", id.index, id.leader_id.term, id.leader_id.node_id)
}

fn entry_text(entry: &Entry) -> String {
    let bytes = match &entry.payload {
        EntryPayload::Normal(payload) => &payload.0[..],
        EntryPayload::Blank | EntryPayload::Membership(_) => &[],
    };
    format!("{}/{}/{}", id_text(&entry.log_id), bytes.len(), hash(bytes))
}

fn hash(bytes: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    bytes.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// The same seed does the same.
struct Luck(u64);

impl Luck {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    /// Up to so many bytes that do not compress.
    fn bytes(&mut self, bound: u64) -> Vec<u8> {
        let length = self.below(bound + 1);
        (0..length).map(|_| u8::try_from(self.below(256)).unwrap_or_default()).collect()
    }
}
