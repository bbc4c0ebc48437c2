//! Damage to the log's files: every flipped byte and every truncation either does no harm or is refused, with the place;
//! an acknowledged entry is never missing from a log that opens.

use std::path::{Path, PathBuf};

use openraft::storage::{RaftLogStorage, RaftLogStorageExt};
use openraft::{CommittedLeaderId, EntryPayload, RaftLogReader};
use raft_store::log::{LogError, LogStore, SledLog, SledLogSettings, WriterDriver};
use raft_store::types::{Entry, LogId, LogPayload, Vote};

fn entry(index: u64) -> Entry {
    let body = format!("entry {index} ").repeat(usize::try_from(40 + index * 13 % 900).unwrap());
    Entry {
        log_id: LogId::new(CommittedLeaderId::new(1, 2), index),
        payload: EntryPayload::Normal(LogPayload(body.into_bytes().into())),
    }
}

const VOTE: fn() -> Vote = || Vote::new_committed(1, 2);

fn open(dir: &Path) -> Result<LogStore, LogError> {
    LogStore::open(1, SledLog::open(dir, SledLogSettings::default())?, WriterDriver::Thread)
}

/// A directory with a log of some hundred entries, closed.
async fn original(dir: &Path, entries: u64) {
    let mut log = open(dir).unwrap();
    log.save_vote(&VOTE()).await.unwrap();
    for first in (0..entries).step_by(7) {
        log.blocking_append((first..entries.min(first + 7)).map(entry)).await.unwrap();
    }
    log.save_committed(Some(entry(entries - 1).log_id)).await.unwrap();
    log.close().await;
}

fn copy_tree(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for item in std::fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        let target = to.join(item.file_name());
        if item.file_type().unwrap().is_dir() {
            copy_tree(&item.path(), &target);
        } else {
            std::fs::copy(item.path(), target).unwrap();
        }
    }
}

fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for item in std::fs::read_dir(dir).unwrap() {
        let item = item.unwrap();
        if item.file_type().unwrap().is_dir() {
            found.extend(files(&item.path()));
        } else if item.metadata().unwrap().len() > 0 {
            found.push(item.path());
        }
    }
    found.sort();
    found
}

/// What came of opening a damaged copy.
#[derive(Debug, PartialEq)]
enum Verdict {
    Whole,
    Refused,
    Lost(String),
}

async fn judge(original: &Path, entries: u64, damage: impl FnOnce(&Path)) -> Verdict {
    let copy = tempfile::tempdir().unwrap();
    copy_tree(original, copy.path());
    damage(copy.path());
    let mut log = match open(copy.path()) {
        Ok(log) => log,
        Err(error) => {
            let text = error.to_string();
            // "The place": a path or the index of an entry.
            assert!(text.contains("log.") || text.contains("entr"), "{text}");
            return Verdict::Refused;
        }
    };
    let found = log.try_get_log_entries(..).await.unwrap();
    let expected: Vec<Entry> = (0..entries).map(entry).collect();
    let vote = log.read_vote().await.unwrap();
    if found == expected && vote == Some(VOTE()) {
        Verdict::Whole
    } else {
        Verdict::Lost(format!("{} of {entries} entries, vote {vote:?}", found.len()))
    }
}

async fn sweep(seed: u64, cases: usize) -> (usize, usize) {
    const ENTRIES: u64 = 200;
    let dir = tempfile::tempdir().unwrap();
    original(dir.path(), ENTRIES).await;
    // The writer's thread lets go of the lock a moment later; copies do not mind.
    let files = files(dir.path());
    assert!(files.iter().any(|path| path.ends_with("log.1/db")), "{files:?}");
    let mut random = seed;
    let mut next = |bound: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % bound
    };
    let (mut whole, mut refused) = (0, 0);
    for case in 0..cases {
        let path = &files[usize::try_from(next(files.len() as u64)).unwrap()];
        let inside = path.strip_prefix(dir.path()).unwrap().to_owned();
        let length = std::fs::metadata(path).unwrap().len();
        let (at, kind, bit) = (next(length), next(4), next(8));
        let verdict = judge(dir.path(), ENTRIES, |copy| {
            let path = copy.join(&inside);
            let mut bytes = std::fs::read(&path).unwrap();
            let at = usize::try_from(at).unwrap();
            match kind {
                0 => bytes.truncate(at),
                1 => {
                    let end = (at + 512).min(bytes.len());
                    bytes[at..end].fill(0);
                }
                _ => bytes[at] ^= 1 << bit,
            }
            std::fs::write(&path, bytes).unwrap();
        })
        .await;
        match verdict {
            Verdict::Whole => whole += 1,
            Verdict::Refused => refused += 1,
            Verdict::Lost(what) => {
                panic!("case {case} of seed {seed}: {} at {at}, kind {kind}: silently lost: {what}", inside.display())
            }
        }
    }
    (whole, refused)
}

#[tokio::test]
async fn damage_is_never_a_silent_loss() {
    let (whole, refused) = sweep(20_261_124, 300).await;
    // A sweep that never damaged anything that matters would prove nothing.
    assert!(refused > 30, "{whole} whole, {refused} refused");
}

#[tokio::test]
async fn a_missing_counter_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    original(dir.path(), 5).await;
    let verdict = judge(dir.path(), 5, |copy| std::fs::remove_file(copy.join("log.1.count")).unwrap()).await;
    assert_eq!(verdict, Verdict::Refused);
}

#[tokio::test]
async fn a_missing_sled_file_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    original(dir.path(), 5).await;
    let verdict = judge(dir.path(), 5, |copy| std::fs::remove_file(copy.join("log.1/db")).unwrap()).await;
    assert_eq!(verdict, Verdict::Refused);
}
