//! The way from a pointer or a listing to the newest configuration that can be proved.

use std::cmp::Ordering;
use std::collections::BTreeMap;

use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use protocol::position::{EpochConflict, RestoreId};
use protocol::snapshot::ClusterId;
use protocol::{ConfigState, Epoch, Position, Revision};

use super::{Found, Have, Reader, Reason, Refused};
use crate::layout::{Part, View, parse_epoch, parse_object};
use crate::pointer::Pointer;
use crate::segment::{Segment, SegmentHeader};
use crate::store::{Version, list_all};

/// Objects of one epoch of a view that are looked at: far more than retention leaves.
const OBJECTS_MAX: usize = 100_000;

/// Bases that are tried, the newest first, before an epoch is given up.
const BASES_TRIED_MAX: usize = 8;

/// Epochs that are tried, the newest first.
const EPOCHS_TRIED_MAX: usize = 3;

/// Objects that are fetched at once: a far store answers each in tens of milliseconds.
const FETCHES_MAX: usize = 8;

/// The largest claim that is read.
const CLAIM_BYTES_MAX: u64 = 256;

impl Reader {
    pub(super) async fn only_cluster(&self) -> Result<Option<ClusterId>, Reason> {
        let folders = self.store.folders(&self.layout.clusters()).await?;
        let clusters: Vec<ClusterId> = folders.iter().filter_map(|folder| folder.parse().ok()).collect();
        match clusters[..] {
            [] => Ok(None),
            [cluster] => Ok(Some(cluster)),
            _ => Err(Reason::Clusters(clusters.len())),
        }
    }

    pub(super) async fn newest_of(
        &self,
        cluster: ClusterId,
        view: &View,
        have: Option<Have>,
        refused: &mut Vec<Refused>,
    ) -> Option<Found> {
        let known = have.map(|have| have.changed_at);
        let have = have.map(|have| have.position);
        let mut best = match self.pointer(cluster, view, None).await {
            Ok(Some((pointer, _))) if let Some(reason) = not_newer(pointer.position, have) => {
                // As new as what the reader has is no offence.
                if Some(pointer.position) != known {
                    refused.push(Refused { object: self.layout.pointer(cluster, view), reason });
                }
                None
            }
            Ok(Some((pointer, version))) => match self.follow(cluster, view, pointer, version, None).await {
                Ok(found) => Some(found),
                Err(e) => {
                    refused.push(e);
                    None
                }
            },
            Ok(None) => None,
            Err(e) => {
                refused.push(e);
                None
            }
        };
        let mut epochs = match self.epochs(cluster, view, have, refused).await {
            Ok(epochs) => epochs,
            Err(reason) => {
                refused.push(Refused { object: self.layout.view(cluster, view), reason });
                return best;
            }
        };
        epochs.truncate(EPOCHS_TRIED_MAX);
        for epoch in epochs {
            let than = best.as_ref().map(|found| found.state.position()).or(have);
            if than.is_some_and(|than| epoch.number < than.epoch.number) {
                break;
            }
            match self.newest_in(cluster, view, epoch, than, refused).await {
                Some(found) => {
                    best = Some(found);
                    break;
                }
                // Something of the newest epoch is there already.
                None if best.is_some() => break,
                None => {}
            }
        }
        best
    }

    /// The epochs of a view, the newest first. Of two with one number the one that the number was claimed for counts.
    async fn epochs(
        &self,
        cluster: ClusterId,
        view: &View,
        have: Option<Position>,
        refused: &mut Vec<Refused>,
    ) -> Result<Vec<Epoch>, Reason> {
        let folders = self.store.folders(&self.layout.view(cluster, view)).await?;
        let mut numbers: BTreeMap<u64, Vec<Epoch>> = BTreeMap::new();
        for epoch in folders.iter().filter_map(|folder| parse_epoch(folder)) {
            numbers.entry(epoch.number).or_default().push(epoch);
        }
        let mut epochs = Vec::new();
        for (number, candidates) in numbers.into_iter().rev() {
            let known = have.map(|have| have.epoch).filter(|epoch| epoch.number == number);
            let claimed = match (&known, candidates.len()) {
                (Some(known), _) => Some(known.restore),
                (None, 1) => None,
                (None, _) => self.claimed(cluster, number).await,
            };
            for epoch in candidates {
                match claimed {
                    Some(claimed) if claimed != epoch.restore => {
                        let winner = Epoch { number, restore: claimed };
                        let object = self.layout.epoch(cluster, view, epoch);
                        refused.push(Refused { object, reason: EpochConflict(epoch, winner).into() });
                    }
                    _ => epochs.push(epoch),
                }
            }
        }
        Ok(epochs)
    }

    async fn claimed(&self, cluster: ClusterId, number: u64) -> Option<RestoreId> {
        let claim = self.store.get(&self.layout.claim(cluster, number), CLAIM_BYTES_MAX, None).await.ok()??;
        std::str::from_utf8(&claim.body).ok()?.trim().parse().ok()
    }

    /// A segment with its key, to be waited for beside others.
    fn fetch_segment<'s>(
        &'s self,
        cluster: ClusterId,
        view: &'s View,
        key: String,
    ) -> BoxFuture<'s, (String, Result<Segment, Reason>)> {
        Box::pin(async move {
            let segment = self.segment(cluster, view, &key).await;
            (key, segment)
        })
    }

    /// Follows a pointer: from `state` where it leads on from there, else from the base.
    pub(super) async fn follow(
        &self,
        cluster: ClusterId,
        view: &View,
        pointer: Pointer,
        version: Version,
        state: Option<&ConfigState>,
    ) -> Result<Found, Refused> {
        let object =
            |part, position: Position| self.layout.object(cluster, view, position.epoch, part, position.revision);
        let from = state.and_then(|state| {
            let at = pointer.segments.iter().position(|segment| segment.prev == state.changed_at())?;
            Some((at, state.clone()))
        });
        let only_steps = from.is_some();
        let (first, mut found) = match from {
            Some((at, state)) => {
                (at, Found { cluster, state, chain: None, level: 0, steps: Some(Vec::new()), pointer: None })
            }
            None => {
                let key = object(Part::Base, pointer.base);
                let base = self.base(cluster, view, &key).await.and_then(|found| match found.state.position() {
                    at if at == pointer.base => Ok(found),
                    at => Err(Reason::Elsewhere { found: at, wanted: pointer.base }),
                });
                (0, base.map_err(|reason| Refused { object: key, reason })?)
            }
        };
        let keys: Vec<String> =
            pointer.segments[first..].iter().map(|segment| object(Part::Segment, segment.position)).collect();
        let fetches: Vec<_> = keys.into_iter().map(|key| self.fetch_segment(cluster, view, key)).collect();
        let mut segments = futures_util::stream::iter(fetches).buffered(FETCHES_MAX);
        while let Some((key, segment)) = segments.next().await {
            let taken = segment.and_then(|segment| take(&mut found, segment));
            taken.map_err(|reason| Refused { object: key, reason })?;
        }
        drop(segments);
        let (at, wanted) = (found.state.changed_at(), pointer.position);
        if at != wanted {
            let reason = Reason::Elsewhere { found: at, wanted };
            return Err(Refused { object: self.layout.pointer(cluster, view), reason });
        }
        if !only_steps {
            found.steps = None;
        }
        found.pointer = Some((pointer, version));
        Ok(found)
    }

    /// The newest that the objects of one epoch give, if it is newer than `than`.
    async fn newest_in(
        &self,
        cluster: ClusterId,
        view: &View,
        epoch: Epoch,
        than: Option<Position>,
        refused: &mut Vec<Refused>,
    ) -> Option<Found> {
        let folder = self.layout.epoch(cluster, view, epoch);
        let listed = match list_all(&*self.store, &folder, OBJECTS_MAX).await {
            Ok(listed) => listed,
            Err(e) => {
                refused.push(Refused { object: folder, reason: e.into() });
                return None;
            }
        };
        let objects: Vec<(Part, Revision)> = listed.iter().filter_map(|object| parse_object(&object.key)).collect();
        let newest = objects.iter().map(|(_, revision)| *revision).max()?;
        if let Some(reason) = not_newer(Position { epoch, revision: newest }, than) {
            if !matches!(&reason, Reason::Older { .. }) {
                refused.push(Refused { object: folder, reason });
            }
            return None;
        }
        let of = |part: Part| {
            let mut revisions: Vec<Revision> =
                objects.iter().filter(|(p, _)| *p == part).map(|(_, revision)| *revision).collect();
            revisions.sort_unstable();
            revisions
        };
        let segments = of(Part::Segment);
        for base in of(Part::Base).into_iter().rev().take(BASES_TRIED_MAX) {
            let key = self.layout.object(cluster, view, epoch, Part::Base, base);
            let wanted = Position { epoch, revision: base };
            let found = match self.base(cluster, view, &key).await {
                Ok(found) if found.state.position() == wanted => found,
                Ok(found) => {
                    let reason = Reason::Elsewhere { found: found.state.position(), wanted };
                    refused.push(Refused { object: key, reason });
                    continue;
                }
                Err(reason) => {
                    refused.push(Refused { object: key, reason });
                    continue;
                }
            };
            let later = segments.iter().copied().filter(|revision| *revision > base);
            let found = self.go_on(cluster, view, epoch, found, later.collect(), refused).await;
            match not_newer(found.state.position(), than) {
                None => return Some(found),
                Some(_) => return None,
            }
        }
        None
    }

    /// Takes every segment that follows from what is there. Two leaders may have written segments that overlap: the
    /// longest way counts.
    async fn go_on(
        &self,
        cluster: ClusterId,
        view: &View,
        epoch: Epoch,
        base: Found,
        revisions: Vec<Revision>,
        refused: &mut Vec<Refused>,
    ) -> Found {
        let mut reached = BTreeMap::from([(base.state.changed_at().revision, base)]);
        let keys: Vec<String> = revisions
            .into_iter()
            .map(|revision| self.layout.object(cluster, view, epoch, Part::Segment, revision))
            .collect();
        let fetches: Vec<_> = keys.into_iter().map(|key| self.fetch_segment(cluster, view, key)).collect();
        let mut segments = futures_util::stream::iter(fetches).buffered(FETCHES_MAX);
        while let Some((key, segment)) = segments.next().await {
            let taken = segment.and_then(|segment| {
                let SegmentHeader { prev, position, .. } = segment.header;
                // One that starts elsewhere belongs to another way.
                let Some(from) = reached.get(&prev.revision) else { return Ok(()) };
                let mut found = from.clone();
                take(&mut found, segment)?;
                reached.insert(position.revision, found);
                Ok(())
            });
            if let Err(reason) = taken {
                refused.push(Refused { object: key, reason });
            }
        }
        reached.pop_last().expect("the base is reached").1
    }
}

/// Evolves by a segment.
fn take(found: &mut Found, segment: Segment) -> Result<(), Reason> {
    let Segment { header, steps } = segment;
    for (delta, frame) in steps {
        found.state.evolve(&delta)?;
        if let Some(steps) = &mut found.steps {
            steps.push((delta, frame));
        }
    }
    if found.state.position() != header.position || found.state.digest() != header.digest {
        return Err(Reason::Elsewhere { found: found.state.position(), wanted: header.position });
    }
    (found.chain, found.level) = (header.chain, header.level);
    Ok(())
}

/// Why a position is of no use to a reader who has another one.
fn not_newer(found: Position, have: Option<Position>) -> Option<Reason> {
    let have = have?;
    match found.compare(&have) {
        Ok(Ordering::Greater) => None,
        Ok(Ordering::Less | Ordering::Equal) => Some(Reason::Older { found, have }),
        Err(conflict) => Some(conflict.into()),
    }
}
