//! Reads the bodies of a whole configuration ahead of its compiler, on threads of its own.
//!
//! ```text
//!   reader 0: batches 0, 2, 4, …  \\
//!                                   each_model: batch 0, 1, 2, … in the order of the entries -> take
//!   reader 1: batches 1, 3, 5, …  /
//! ```
//!
//! What a body says is read without looking at anything else, and is about half of the work; to put it into the table is
//! the other half, and goes one after the other. Readers are nicer than the threads that carry traffic, and wait when
//! they are far ahead.

use std::iter;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use protocol::resource::{KindInfo, Model};
use protocol::{Entry, ResourceKey};

use super::is_read_alone;
use super::plan::model_of;

/// What was read of an entry.
pub(super) type Read = Result<Model, String>;

type Keyed<'s> = (&'s ResourceKey, &'s Arc<Entry>);

/// Entries that one reader reads at a time.
const BATCH: usize = 128;
/// Batches that a reader may be ahead: what was read of them stands in memory.
const BATCHES_AHEAD: usize = 4;
/// Fewer entries are read before a thread has started.
const WORTH_THREADS: usize = 1_000;
/// More would wait for the compiler.
const READERS_MAX: usize = 3;
/// How much nicer than others readers are (nice(2)).
const NICE: i32 = 10;

/// Calls `take` with every entry, in their order, and with what was read of it; with `None` where that says too little.
pub(super) fn each_model(
    kind: &'static KindInfo,
    entries: &[Keyed<'_>],
    take: impl FnMut(&ResourceKey, &Arc<Entry>, Option<Read>),
) {
    // To ask for the cores takes longer than to read a few entries.
    let others = || thread::available_parallelism().map_or(0, |cores| cores.get() - 1);
    let readers = if entries.len() < WORTH_THREADS { 0 } else { others().min(READERS_MAX) };
    each_model_by(readers, kind, entries, take);
}

fn each_model_by(
    readers: usize,
    kind: &'static KindInfo,
    entries: &[Keyed<'_>],
    mut take: impl FnMut(&ResourceKey, &Arc<Entry>, Option<Read>),
) {
    if readers == 0 || !is_read_alone(kind.name) {
        entries.iter().for_each(|(key, entry)| take(key, entry, None));
        return;
    }
    thread::scope(|scope| {
        let reader = |first: usize| {
            let (send, read) = sync_channel(BATCHES_AHEAD);
            let batches = entries.chunks(BATCH).skip(first).step_by(readers);
            let named = thread::Builder::new().name(format!("reader-{first}"));
            // Without a thread nothing is read ahead.
            let _ = named.spawn_scoped(scope, move || read_all(kind, batches, &send));
            read
        };
        let lanes: Vec<Receiver<Vec<Read>>> = (0..readers).map(reader).collect();
        for (batch, lane) in entries.chunks(BATCH).zip(lanes.iter().cycle()) {
            let read = lane.recv().unwrap_or_default().into_iter().map(Some).chain(iter::repeat_with(|| None));
            batch.iter().zip(read).for_each(|((key, entry), read)| take(key, entry, read));
        }
    });
}

fn read_all<'s>(kind: &KindInfo, batches: impl Iterator<Item = &'s [Keyed<'s>]>, send: &SyncSender<Vec<Read>>) {
    // Who may not be nicer is as the others are.
    let _ = rustix::process::nice(NICE);
    for batch in batches {
        let read = batch.iter().map(|(_, entry)| model_of(kind, entry)).collect();
        if send.send(read).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use protocol::entry::Stamp;

    use super::*;

    #[test]
    fn every_entry_comes_once_and_in_order_with_what_it_says() {
        let stamp = Stamp { revision: 1, time: 0 };
        let entry = |number: usize| {
            // Each hundredth cannot be read.
            let uri = if number % 100 == 7 { "7".to_owned() } else { format!("\"/{number}\"") };
            Arc::new(Entry {
                body: format!("{{\"uri\":{uri},\"upstream_id\":\"u\"}}").into(),
                references: vec![],
                claims: vec![],
                groups: vec!["default".into()],
                created: stamp,
                modified: stamp,
                ttl_seconds: None,
            })
        };
        for count in [0, 1, BATCH, BATCH * 7 + 3] {
            let owned: Vec<_> = (0..count).map(|n| (ResourceKey::new("routes", &n.to_string()), entry(n))).collect();
            let entries: Vec<_> = owned.iter().map(|(key, entry)| (key, entry)).collect();
            let kind = KindInfo::find("routes").unwrap();
            for readers in 0..4 {
                let mut taken = 0;
                each_model_by(readers, kind, &entries, |key, entry, read| {
                    assert_eq!(key.id, taken.to_string().as_str());
                    assert_eq!(read.is_some(), readers > 0);
                    assert!(read.is_none_or(|read| read == model_of(kind, entry)));
                    taken += 1;
                });
                assert_eq!(taken, count);
            }
        }
    }
}
