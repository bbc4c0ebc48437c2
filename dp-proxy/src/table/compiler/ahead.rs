//! Reads the bodies of a whole configuration ahead of its compiler, on threads of its own.
//!
//! ```text
//!   readers:  claim the next batch, read it, send it
//!   compiler: batch 0, 1, 2, … in the order of the entries: what was sent, or else reads it itself
//! ```
//!
//! What a body says is read without looking at anything else, and is a good part of the work; to put it into the table
//! goes one after the other. Readers are nicer than the threads that carry traffic, and wait when they are far ahead.
//! Nobody waits for them: where they get no processor, the compiler does as without them.

use std::collections::HashMap;
use std::iter;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use protocol::resource::{KindInfo, Model};
use protocol::{Entry, ResourceKey};

use super::is_read_alone;
use super::plan::model_of;

/// What was read of an entry.
pub(super) type Read = Result<Model, String>;

type Keyed<'s> = (&'s ResourceKey, &'s Arc<Entry>);

/// Entries that are read at a time.
const BATCH: usize = 64;
/// Batches that a reader may be ahead: what was read of them stands in memory.
const BATCHES_AHEAD: usize = 8;
/// Fewer entries are read before a thread has started.
const WORTH_THREADS: usize = 2_000;
/// More would be further ahead than they may.
const READERS_MAX: usize = 3;
/// How much nicer than others readers are (nice(2)).
const NICE: i32 = 10;

/// Calls `take` with every entry, in their order, and with what was read of it ahead, if anything was.
pub(super) fn each_model(
    kind: &'static KindInfo,
    entries: &[Keyed<'_>],
    take: impl FnMut(&ResourceKey, &Arc<Entry>, Option<Read>),
) {
    // To ask for the cores takes longer than to read a few entries.
    let others = || thread::available_parallelism().map_or(0, |cores| cores.get() - 1);
    let is_worth_it = is_read_alone(kind.name) && entries.len() >= WORTH_THREADS;
    each_model_by(if is_worth_it { others().min(READERS_MAX) } else { 0 }, kind, entries, take);
}

fn each_model_by(
    readers: usize,
    kind: &'static KindInfo,
    entries: &[Keyed<'_>],
    mut take: impl FnMut(&ResourceKey, &Arc<Entry>, Option<Read>),
) {
    let unclaimed = AtomicUsize::new(0);
    thread::scope(|scope| {
        let (send, sent) = sync_channel(readers * BATCHES_AHEAD);
        for reader in 0..readers {
            let (unclaimed, send) = (&unclaimed, send.clone());
            let named = thread::Builder::new().name(format!("reader-{reader}"));
            // Without a thread less is read ahead.
            let _ = named.spawn_scoped(scope, move || {
                // Who may not be nicer is as the others are.
                let _ = rustix::process::nice(NICE);
                read_ahead(kind, entries, unclaimed, &send);
            });
        }
        let mut early = HashMap::new();
        for (number, batch) in entries.chunks(BATCH).enumerate() {
            let mut read = early.remove(&number);
            while read.is_none()
                && let Ok((other, models)) = sent.try_recv()
            {
                if other == number {
                    read = Some(models);
                } else if other > number {
                    early.insert(other, models);
                }
            }
            if read.is_none() {
                unclaimed.fetch_max(number + 1, Ordering::Relaxed);
            }
            let read = read.into_iter().flatten().map(Some).chain(iter::repeat_with(|| None));
            batch.iter().zip(read).for_each(|((key, entry), read)| take(key, entry, read));
        }
    });
}

/// Reads batches that nobody has claimed, until there are none or nobody wants them any more.
fn read_ahead(kind: &KindInfo, entries: &[Keyed<'_>], unclaimed: &AtomicUsize, send: &SyncSender<(usize, Vec<Read>)>) {
    loop {
        let number = unclaimed.fetch_add(1, Ordering::Relaxed);
        let Some(batch) = entries.chunks(BATCH).nth(number) else { return };
        let read = batch.iter().map(|(_, entry)| model_of(kind, entry)).collect();
        if send.send((number, read)).is_err() {
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
            Arc::new(Entry::new(format!("{{\"uri\":{uri},\"upstream_id\":\"u\"}}"), "default", stamp))
        };
        let kind = KindInfo::find("routes").unwrap();
        for count in [0, 1, BATCH, BATCH * 7 + 3] {
            let owned: Vec<_> = (0..count).map(|n| (ResourceKey::new("routes", &n.to_string()), entry(n))).collect();
            let entries: Vec<_> = owned.iter().map(|(key, entry)| (key, entry)).collect();
            for readers in 0..4 {
                let mut taken = 0;
                each_model_by(readers, kind, &entries, |key, entry, read| {
                    assert_eq!(key.id, taken.to_string().as_str());
                    assert!(read.is_none_or(|read| read == model_of(kind, entry)));
                    taken += 1;
                });
                assert_eq!(taken, count);
            }
            // A reader that has the time for it reads all that nobody has claimed.
            let (send, sent) = sync_channel(count);
            read_ahead(kind, &entries, &AtomicUsize::new(2), &send);
            drop(send);
            let numbers: Vec<_> = sent.iter().map(|(number, read)| (number, read.len())).collect();
            let expected: Vec<_> = entries.chunks(BATCH).map(<[_]>::len).enumerate().skip(2).collect();
            assert_eq!(numbers, expected);
        }
    }
}
