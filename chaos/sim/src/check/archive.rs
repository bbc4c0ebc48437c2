//! The archive, after every change of its objects: what its pointers name is there, they never go back, and whatever a
//! reader builds from it alone is the history at that position (laws 3, 7, 10).

use std::collections::BTreeMap;
use std::sync::Arc;

use archive::layout::Part;
use archive::{Layout, Pointer, Reader, View};
use protocol::Position;
use protocol::crypto::TrustedKeys;
use protocol::snapshot::ClusterId;

use super::Checker;
use crate::hosts::World;
use crate::outside::bucket::{self, Bucket, Frozen};
use crate::truth::Truth;

/// What every key begins with: the default of `archive.prefix`.
const PREFIX: &str = "holdfast";

/// What was seen of the archive.
#[derive(Default)]
pub(super) struct Seen {
    changes: u64,
    /// Where each view's pointer was.
    pointers: BTreeMap<View, Position>,
    /// Proxies that must come up from it, how far at least, and when they must have.
    awaited: Vec<Awaited>,
}

/// A proxy with an empty disk, while no node runs.
#[derive(Clone, Copy, Debug)]
struct Awaited {
    proxy: u64,
    revision: u64,
    until_millis: u64,
}

impl Seen {
    /// Whether all of it has come to this revision; where there is no archive, it has.
    pub(super) fn is_at(&self, head: u64) -> Result<(), String> {
        match self.pointers.iter().find(|(_, position)| position.revision != head) {
            Some((view, position)) => Err(format!("the archive of {view:?} is at {position}, the head is {head}")),
            None => Ok(()),
        }
    }

    /// Nothing is awaited of a proxy that was killed.
    pub(super) fn proxy_died(&mut self, number: u64) {
        self.awaited.retain(|awaited| awaited.proxy != number);
    }
}

impl Checker {
    /// A proxy has lost its disk and there is no node: from here on it has until then to serve what the archive holds.
    pub(crate) fn expect_boot_from_archive(&mut self, proxy: u64, until_millis: u64) {
        self.proxies.remove(&proxy);
        if let Some(position) = self.archive.pointers.get(&View::Group("default".into())) {
            self.archive.awaited.push(Awaited { proxy, revision: position.revision, until_millis });
        }
    }

    pub(super) fn check_archive(&mut self, world: &mut World, now_millis: u64) -> Result<(), String> {
        self.check_awaited(world, now_millis)?;
        let Some(server) = &self.outside.bucket else { return Ok(()) };
        let frozen = server.look(|bucket| {
            (bucket.changes != self.archive.changes).then(|| {
                self.archive.changes = bucket.changes;
                Frozen::of(bucket)
            })
        });
        let Some(frozen) = frozen else { return Ok(()) };
        let frozen = Arc::new(frozen);
        let Some(cluster) = frozen.bucket().objects.keys().find_map(|key| cluster_of(key)) else { return Ok(()) };
        let truth = self.truth.as_ref().expect("it is there once a node is");
        for view in [View::Whole, View::Group("default".into())] {
            let reached = self.readers.block_on(read(&frozen, cluster, &view, truth))?;
            let Some(pointer) = pointer(frozen.bucket(), cluster, &view)? else { continue };
            let moved = self.archive.pointers.insert(view.clone(), pointer.position);
            if moved.is_some_and(|before| before.revision > pointer.position.revision) {
                return Err(format!("the pointer of {view:?} went back from {moved:?} to {}", pointer.position));
            }
            if reached.is_none_or(|reached| reached < pointer.position.revision) {
                let pointer = pointer.position;
                return Err(format!("the pointer of {view:?} says {pointer}, a reader comes to {reached:?}"));
            }
            if moved != Some(pointer.position) {
                world.tally.count("pointer_moves");
                self.trace.note(format!("{now_millis} the archive of {view:?} is at {}", pointer.position));
            }
        }
        Ok(())
    }

    fn check_awaited(&mut self, world: &mut World, now_millis: u64) -> Result<(), String> {
        let (due, awaited) =
            std::mem::take(&mut self.archive.awaited).into_iter().partition(|a: &Awaited| a.until_millis <= now_millis);
        self.archive.awaited = awaited;
        for Awaited { proxy, revision, .. } in due {
            let at = world.proxies.get(&proxy).map(|proxy| proxy.board.read().position.revision);
            if at.is_none_or(|at| at < revision) {
                return Err(format!("dp{proxy} had the archive alone, which was at {revision}, and came to {at:?}"));
            }
            world.tally.count("boots_from_archive");
        }
        Ok(())
    }
}

fn cluster_of(key: &str) -> Option<ClusterId> {
    key.strip_prefix(PREFIX)?.split('/').nth(1)?.parse().ok()
}

fn trusted() -> TrustedKeys {
    TrustedKeys::new([bucket::signing_key().public()])
}

/// The pointer of a view, once it is known that everything that it names is there.
fn pointer(bucket: &Bucket, cluster: ClusterId, view: &View) -> Result<Option<Pointer>, String> {
    let layout = Layout::new(PREFIX);
    let Some(bytes) = bucket.objects.get(&layout.pointer(cluster, view)) else { return Ok(None) };
    let pointer = Pointer::open(bytes, cluster, &view.text(), &trusted());
    let pointer = pointer.map_err(|e| format!("the pointer of {view:?}: {e}"))?;
    let segments = pointer.segments.iter().map(|segment| (Part::Segment, segment.position));
    for (part, position) in std::iter::once((Part::Base, pointer.base)).chain(segments) {
        let key = layout.object(cluster, view, position.epoch, part, position.revision);
        if !bucket.objects.contains_key(&key) {
            return Err(format!("the pointer of {view:?} at {} names {key}, which is not there", pointer.position));
        }
    }
    Ok(Some(pointer))
}

/// How far a reader comes with the archive alone; what it comes to is the history there.
async fn read(frozen: &Arc<Frozen>, cluster: ClusterId, view: &View, truth: &Truth) -> Result<Option<u64>, String> {
    let reader = Reader::new(frozen.clone(), Layout::new(PREFIX), trusted(), bucket::LIMITS);
    let (found, _) = reader.newest(Some(cluster), view, None).await;
    let Some(found) = found else { return Ok(None) };
    let position = found.state.position();
    let Some(revision) = truth.revisions.get(usize::try_from(position.revision).expect("it fits")) else {
        return Err(format!("the archive of {view:?} holds {position}, which was never committed"));
    };
    let is_true = match view {
        View::Whole => found.state.digest() == revision.digest && found.chain == Some(revision.chain),
        View::Group(_) => found.state.digest() == revision.view,
    };
    match position.epoch == truth.epoch() && is_true {
        true => Ok(Some(position.revision)),
        false => Err(format!("the archive of {view:?} differs from the committed history at {position}")),
    }
}
