//! Finds the newest position that an archive can prove.
//!
//! The pointer is followed first; then a listing says whether there is anything newer, or anything else when the pointer
//! leads nowhere. Whatever cannot be believed is passed over with its reason, and the next candidate is tried.

use std::cmp::Ordering;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use protocol::crypto::TrustedKeys;
use protocol::position::EpochConflict;
use protocol::snapshot::{self, ClusterId, Expected, SnapshotError};
use protocol::state::EvolveError;
use protocol::{Chain, ConfigState, Delta, Epoch, Position, Revision};

use crate::layout::{Layout, Part, View, parse_epoch, parse_object};
use crate::pointer::{POINTER_BYTES_MAX, Pointer};
use crate::segment::{self, Segment, SegmentHeader, Signatures, SignedError};
use crate::store::{Object, ObjectStore, StoreError, Version, list_all};

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

/// How large an object may be.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Limits {
    /// As it lies there, in bytes.
    pub object_max: u64,
    /// Unpacked, in bytes.
    pub unpacked_max: u64,
}

/// Reads one archive. Clones share the store.
#[derive(Clone, Debug)]
pub struct Reader {
    store: Arc<dyn ObjectStore>,
    layout: Layout,
    trusted: TrustedKeys,
    limits: Limits,
}

/// What a reader has already.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Have {
    /// Where it is.
    pub position: Position,
    /// Its last change.
    pub changed_at: Position,
}

impl Have {
    /// What somebody has who holds this state; `None`: nothing.
    #[must_use]
    pub fn of(state: &ConfigState) -> Option<Self> {
        let (position, changed_at) = (state.position(), state.changed_at());
        (position != Position::default()).then_some(Self { position, changed_at })
    }
}

/// A configuration that was found and proved.
#[derive(Clone, Debug)]
pub struct Found {
    /// Whose.
    pub cluster: ClusterId,
    /// The configuration.
    pub state: ConfigState,
    /// The chain at its position; only of the whole.
    pub chain: Option<Chain>,
    /// The level of the cluster there; 0 in a group's view.
    pub level: u32,
    /// When all of it follows from what the caller holds: the steps, each with its frame.
    pub steps: Option<Vec<(Delta, Bytes)>>,
    /// The pointer that led there.
    pub pointer: Option<(Pointer, Version)>,
}

/// Something in an archive that was not taken.
#[derive(Debug)]
pub struct Refused {
    /// The object, or the folder.
    pub object: String,
    /// Why.
    pub reason: Reason,
}

/// Why something in an archive is not taken.
#[derive(Debug, thiserror::Error)]
pub enum Reason {
    /// It cannot be had.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A base is not good.
    #[error(transparent)]
    Base(#[from] SnapshotError),
    /// A segment or the pointer is not good.
    #[error(transparent)]
    Signed(#[from] SignedError),
    /// What it holds does not follow from what stands before it.
    #[error(transparent)]
    Evolve(#[from] EvolveError),
    /// It is not what its name or the pointer says.
    #[error("it ends at {found}, it should at {wanted}")]
    Elsewhere {
        /// Where it ends.
        found: Position,
        /// Where it should.
        wanted: Position,
    },
    /// It is behind what the reader has.
    #[error("it is at {found}, behind {have}")]
    Older {
        /// Where it is.
        found: Position,
        /// What the reader has.
        have: Position,
    },
    /// Two lives with one number.
    #[error(transparent)]
    Conflict(#[from] EpochConflict),
    /// Several clusters, and nobody said which.
    #[error("there are {0} clusters here: set archive.cluster to the one that is meant")]
    Clusters(usize),
}

impl Reason {
    /// Whether it is not as anybody wrote it: cut short, or changed on its way or where it lies.
    #[must_use]
    pub fn is_damage(&self) -> bool {
        matches!(self.name(), "truncated" | "damaged") && !matches!(self, Self::Store(_))
    }

    /// A short name, for metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Store(e) => e.name(),
            Self::Base(e) => match e {
                SnapshotError::Short | SnapshotError::Io(_) => "truncated",
                SnapshotError::Newer(_) => "newer_format",
                SnapshotError::Cluster { .. } => "cluster",
                SnapshotError::View { .. } => "view",
                SnapshotError::Seal(_) => "signature",
                SnapshotError::TooLarge { .. } => "too_large",
                SnapshotError::Digest { .. } => "digest",
                SnapshotError::Magic | SnapshotError::Record(..) | SnapshotError::Damaged(_) => "damaged",
            },
            Self::Signed(e) => match e {
                SignedError::Size { .. } => "truncated",
                SignedError::Record(..) | SignedError::Damaged => "damaged",
                SignedError::Seal(_) => "signature",
                SignedError::TooLarge { .. } => "too_large",
                SignedError::Cluster { .. } => "cluster",
                SignedError::View { .. } => "view",
            },
            Self::Evolve(EvolveError::Digest { .. }) => "digest",
            Self::Evolve(_) => "gap",
            Self::Elsewhere { .. } => "position",
            Self::Older { .. } => "older",
            Self::Conflict(_) => "epoch",
            Self::Clusters(_) => "clusters",
        }
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.reason)
    }
}

/// What a look at the pointer gave.
#[derive(Debug)]
pub enum Polled {
    /// Nothing newer.
    Nothing,
    /// Something newer, proved.
    Found(Box<Found>),
}

impl Reader {
    /// A reader.
    #[must_use]
    pub fn new(store: Arc<dyn ObjectStore>, layout: Layout, trusted: TrustedKeys, limits: Limits) -> Self {
        Self { store, layout, trusted, limits }
    }

    /// Where the archive is, for people.
    #[must_use]
    pub fn place(&self) -> String {
        self.store.place()
    }

    /// The newest configuration of a view that can be proved and is newer than `have`, and what was not taken.
    ///
    /// Without a `cluster`, the only one there is meant.
    pub async fn newest(
        &self,
        cluster: Option<ClusterId>,
        view: &View,
        have: Option<Have>,
    ) -> (Option<Found>, Vec<Refused>) {
        let mut refused = Vec::new();
        let found = match cluster {
            Some(cluster) => self.newest_of(cluster, view, have, &mut refused).await,
            None => match self.only_cluster().await {
                Ok(None) => None,
                Ok(Some(cluster)) => self.newest_of(cluster, view, have, &mut refused).await,
                Err(reason) => {
                    refused.push(Refused { object: self.layout.clusters(), reason });
                    None
                }
            },
        };
        (found, refused)
    }

    /// Looks at the pointer alone, and fetches no more than what leads on from `state`.
    ///
    /// `seen` is the version of the pointer that was looked at last, which is kept there.
    ///
    /// # Errors
    /// [`Refused`]: what the pointer leads to is not taken; a listing may find more.
    pub async fn poll(
        &self,
        cluster: ClusterId,
        view: &View,
        state: &ConfigState,
        seen: &mut Option<Version>,
    ) -> Result<Polled, Refused> {
        let Some((pointer, version)) = self.pointer(cluster, view, seen.as_ref()).await? else {
            return Ok(Polled::Nothing);
        };
        let refuse = |reason: Reason| Refused { object: self.layout.pointer(cluster, view), reason };
        let have = state.position();
        match pointer.position.compare(&have).map_err(|e| refuse(e.into()))? {
            // A view's position is that of its last change; a proxy's may be later by a heartbeat.
            Ordering::Less if pointer.position == state.changed_at() => {}
            Ordering::Less => return Err(refuse(Reason::Older { found: pointer.position, have })),
            Ordering::Equal => {}
            Ordering::Greater => {
                let found = self.follow(cluster, view, pointer, version.clone(), Some(state)).await?;
                *seen = Some(version);
                return Ok(Polled::Found(Box::new(found)));
            }
        }
        *seen = Some(version);
        Ok(Polled::Nothing)
    }

    /// The pointer of a view; `None` when it is the version that was seen.
    ///
    /// # Errors
    /// [`Refused`].
    pub async fn pointer(
        &self,
        cluster: ClusterId,
        view: &View,
        seen: Option<&Version>,
    ) -> Result<Option<(Pointer, Version)>, Refused> {
        let key = self.layout.pointer(cluster, view);
        let refuse = |reason| Refused { object: key.clone(), reason };
        let object = self.store.get(&key, POINTER_BYTES_MAX as u64, seen).await.map_err(|e| refuse(e.into()))?;
        let Some(object) = object else { return Ok(None) };
        let pointer = Pointer::open(&object.body, cluster, &view.text(), &self.trusted);
        Ok(Some((pointer.map_err(|e| refuse(e.into()))?, object.version)))
    }

    /// A pointer from its bytes, if it can be believed.
    pub(crate) fn parse_pointer(&self, bytes: &[u8], cluster: ClusterId, view: &View) -> Option<Pointer> {
        Pointer::open(bytes, cluster, &view.text(), &self.trusted).ok()
    }

    /// Reads a base and checks everything about it.
    ///
    /// # Errors
    /// Why it is refused.
    pub async fn base(&self, cluster: ClusterId, view: &View, key: &str) -> Result<Found, Reason> {
        let body = self.fetch(key).await?.body;
        self.check_base(cluster, view, body).await
    }

    /// Checks everything about what should be a base.
    pub(crate) async fn check_base(&self, cluster: ClusterId, view: &View, body: Bytes) -> Result<Found, Reason> {
        let (expected, reader) = (Expected { cluster: Some(cluster), view: view.text() }, self.clone());
        let read = daemon::blocking::spawn(move || open_base(&body, &expected, &reader.trusted, reader.limits));
        Ok(read.await.map_err(|e| StoreError::Unavailable(e.to_string()))??)
    }

    /// Reads a segment and checks everything about it.
    ///
    /// # Errors
    /// Why it is refused.
    pub async fn segment(&self, cluster: ClusterId, view: &View, key: &str) -> Result<Segment, Reason> {
        let body = self.fetch(key).await?.body;
        self.check_segment(cluster, view, &body)
    }

    /// Checks everything about what should be a segment.
    pub(crate) fn check_segment(&self, cluster: ClusterId, view: &View, body: &[u8]) -> Result<Segment, Reason> {
        Ok(segment::read(body, cluster, &view.text(), &self.trusted, self.limits.unpacked_max)?)
    }

    /// The same, with its key, to be waited for beside others.
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

    /// An object as it lies there.
    pub(crate) async fn fetch(&self, key: &str) -> Result<Object, StoreError> {
        self.store.get(key, self.limits.object_max, None).await?.ok_or(StoreError::Missing)
    }

    async fn only_cluster(&self) -> Result<Option<ClusterId>, Reason> {
        let folders = self.store.folders(&self.layout.clusters()).await?;
        let clusters: Vec<ClusterId> = folders.iter().filter_map(|folder| folder.parse().ok()).collect();
        match clusters[..] {
            [] => Ok(None),
            [cluster] => Ok(Some(cluster)),
            _ => Err(Reason::Clusters(clusters.len())),
        }
    }

    async fn newest_of(
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

    async fn claimed(&self, cluster: ClusterId, number: u64) -> Option<protocol::position::RestoreId> {
        let claim = self.store.get(&self.layout.claim(cluster, number), CLAIM_BYTES_MAX, None).await.ok()??;
        std::str::from_utf8(&claim.body).ok()?.trim().parse().ok()
    }

    /// Follows a pointer: from `state` where it leads on from there, else from the base.
    async fn follow(
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

/// Reads a snapshot that a trusted key must have signed: first who made it and what it unpacks to, then its content.
///
/// # Errors
/// [`SnapshotError`].
pub fn open_base(
    bytes: &[u8],
    expected: &Expected,
    trusted: &TrustedKeys,
    limits: Limits,
) -> Result<Found, SnapshotError> {
    let signatures = Signatures(trusted);
    snapshot::examine(&mut &bytes[..], expected, &signatures, limits.unpacked_max)?;
    let empty = if expected.view.is_some() { ConfigState::following() } else { ConfigState::serving() };
    let loaded = snapshot::read(&mut &bytes[..], empty, expected, &signatures)?;
    let header = loaded.header;
    Ok(Found {
        cluster: header.cluster,
        state: loaded.state,
        chain: header.chain,
        level: header.level,
        steps: None,
        pointer: None,
    })
}
