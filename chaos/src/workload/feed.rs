//! A client of one node's feed that notes every frame. It goes to its node only: what another one would hide is seen here.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use protocol::delta::{Change, Delta};
use protocol::state::ConfigState;
use protocol::{Digest, Entry, Position, ResourceKey};

use tokio::sync::watch;

use super::Shared;
use super::resources::{self, is_clients};
use crate::history::{At, Event, Found, Frame, FrameKind, HUNG_UP, Recorder};
use crate::luck::Luck;
use crate::subscriber::{Subscriber, Watcher};

/// A stream that says nothing for so long is left.
const SILENCE_MAX: Duration = Duration::from_secs(3);
/// The pause before another attempt when a node has ended the stream.
const PAUSE: Duration = Duration::from_millis(100);
/// A stream is hung up after a time between these, so that resuming is seen where nothing else ends streams.
const HANG_UP_MS: (u64, u64) = (500, 2000);
/// The pause after that: few changes are missed in it, so that each of them counts.
const HANG_UP_PAUSE: Duration = Duration::from_millis(20);

pub(super) struct Reader {
    address: String,
    luck: Luck,
    subscriber: Subscriber,
    notes: Notes,
    /// While this is so it has no stream.
    away: watch::Receiver<bool>,
}

/// Puts what comes into the history.
struct Notes {
    node: u16,
    recorder: Recorder,
    shared: Arc<Shared>,
}

impl Reader {
    pub(super) fn new(node: u16, address: &str, seed: u64, recorder: &Recorder, shared: &Arc<Shared>) -> Self {
        let subscriber = Subscriber::new(format!("watcher-{node}"), u64::from(node), SILENCE_MAX);
        let notes = Notes { node, recorder: recorder.clone(), shared: shared.clone() };
        // Nobody sends it away.
        let (_, away) = watch::channel(false);
        Self { address: address.to_owned(), luck: Luck::of(&[seed, u64::from(node), 100]), subscriber, notes, away }
    }

    /// Has it without a stream while this is so.
    pub(super) fn leave_when(&mut self, away: watch::Receiver<bool>) {
        self.away = away;
    }

    pub(super) async fn run(mut self, stop: Arc<AtomicBool>) {
        while !stop.load(Ordering::Relaxed) {
            if *self.away.borrow_and_update() {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
            let lasts = Duration::from_millis(self.luck.between(HANG_UP_MS.0, HANG_UP_MS.1));
            let following = self.subscriber.follow(&self.address, &stop, &mut self.notes);
            let leave = async {
                // Without anybody who could, nobody ever sends it away.
                if self.away.wait_for(|away| *away).await.is_err() {
                    std::future::pending::<()>().await;
                }
            };
            let (pause, why) = tokio::select! {
                followed = tokio::time::timeout(lasts, following) => match followed {
                    Ok(Ok(())) => return,
                    Ok(Err(why)) => (PAUSE, format!("{why:#}")),
                    Err(_) => (HANG_UP_PAUSE, HUNG_UP.to_owned()),
                },
                () = leave => (PAUSE, HUNG_UP.to_owned()),
            };
            self.notes.note(FrameKind::Ended { why });
            tokio::time::sleep(pause).await;
        }
    }
}

impl Notes {
    fn note(&self, kind: FrameKind) {
        self.recorder.note(Event::Frame(Frame { node: self.node, at: self.recorder.now(), kind }));
    }
}

impl Watcher for Notes {
    fn opened(&mut self, held: &ConfigState) {
        self.note(FrameKind::Opened { position: at(held.position()), changed_at: at(held.changed_at()) });
    }

    fn heartbeat(&mut self, position: Position, changed_at: Position, digest: Digest) {
        let (position, changed_at) = (at(position), at(changed_at));
        self.note(FrameKind::Heartbeat { position, changed_at, digest: digest.to_string() });
    }

    fn delta(&mut self, delta: &Delta, reached: Digest) {
        self.note(FrameKind::Delta {
            prev: at(delta.prev),
            position: at(delta.position),
            changes: delta.changes.iter().filter_map(seen).collect(),
            digest: delta.digest.to_string(),
            reached: reached.to_string(),
        });
    }

    fn full(&mut self, state: &ConfigState) {
        self.shared.fulls.fetch_add(1, Ordering::Relaxed);
        let held = state.iter().filter_map(|(key, entry)| Some((name(key)?, found(entry)?)));
        self.note(FrameKind::Full {
            position: at(state.position()),
            changed_at: at(state.changed_at()),
            state: held.collect(),
            digest: state.digest().to_string(),
        });
    }
}

fn at(position: Position) -> At {
    At(position.epoch.number, position.revision)
}

fn name(key: &ResourceKey) -> Option<String> {
    let (kind, id) = (key.kind.as_str(), key.id.as_str());
    is_clients(kind, id).then(|| format!("{kind}/{id}"))
}

fn found(entry: &Entry) -> Option<Found> {
    resources::found(&serde_json::from_str(&entry.body).ok()?, entry.modified.revision)
}

fn seen(change: &Change) -> Option<(String, Option<Found>)> {
    let name = name(&change.key)?;
    Some((name, change.entry.as_ref().and_then(|entry| found(entry))))
}
