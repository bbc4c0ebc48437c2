//! Writes one view into an archive: the first time a base, then what changed, and a base again when the segments have
//! outgrown it. So an edit costs O(edit), whatever the size of the configuration.
//!
//! Only the leader writes; that two who both think to lead do no harm is held here: objects are never replaced, and the
//! pointer moves by compare-and-set and never backwards. One exception: what was damaged on its way is put again, by
//! compare-and-set as well, else nothing could be written under its name for ever.

mod objects;

use std::cmp::Ordering;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use daemon::{failpoint, planted};
use protocol::crypto::{SigningKey, TrustedKeys};
use protocol::delta::Change;
use protocol::entry::UnixMillis;
use protocol::position::EpochConflict;
use protocol::snapshot::{self, ClusterId, Header};
use protocol::{ConfigState, Delta, Position};

use crate::layout::{Layout, Part, View, parse_object};
use crate::pointer::{Pointer, SEGMENTS_MAX, SegmentRef};
use crate::read::{Limits, Reader, Reason, Refused};
use crate::store::{ObjectStore, StoreError, Version, When, list_all};

/// Segments may take this much before a base is written, however small the last one was: a base costs several requests.
const SEGMENTS_BYTES_MIN: u64 = 1 << 20;

/// Uploads that began longer ago than this are nobody's any more.
const LEFT_OVER: Duration = Duration::from_secs(24 * 3600);

/// Objects that retention looks at.
const OBJECTS_MAX: usize = 100_000;

/// Attempts to move the pointer when somebody else moves it too.
const POINTER_ATTEMPTS_MAX: u32 = 3;

/// Writes one view. Clones of the parts are shared among the writers of a node.
#[derive(Debug)]
pub struct Writer {
    store: Arc<dyn ObjectStore>,
    layout: Layout,
    reader: Reader,
    cluster: ClusterId,
    view: View,
    key: Arc<SigningKey>,
    keep_bases: usize,
    segments_max: usize,
    standing: Option<Standing>,
    /// Whether the store knows conditional puts, as far as that is known.
    conditional: bool,
}

/// What is in the archive.
#[derive(Clone, Debug)]
struct Standing {
    /// The whole configuration when it was brought there; `None`: another node did, and this is the view that it wrote.
    whole: Option<ConfigState>,
    written: ConfigState,
    pointer: Pointer,
    version: Option<Version>,
}

/// What was done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Done {
    /// Segments put.
    pub segments: u64,
    /// Bases put.
    pub bases: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that retention took away.
    pub removed: u64,
}

/// Why a view could not be brought into the archive. The next attempt begins with what is there.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// A call to the store.
    #[error("{key}: {error}")]
    Store {
        /// The object.
        key: String,
        /// Why.
        error: StoreError,
    },
    /// What was put does not come back as it was put.
    #[error("read back: {0}")]
    ReadBack(Refused),
    /// The archive is ahead of this node: it is no leader any more, or has not caught up.
    #[error("the archive is at {theirs}, ahead of this node at {ours}")]
    Ahead {
        /// Where the archive is.
        theirs: Position,
        /// Where we are.
        ours: Position,
    },
    /// The archive holds another life of this cluster.
    #[error(transparent)]
    Conflict(#[from] EpochConflict),
    /// It cannot be written as a snapshot.
    #[error("it cannot be encoded: {0}")]
    Encode(std::io::Error),
}

impl WriteError {
    /// A short name, for metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Store { error, .. } => error.name(),
            Self::ReadBack(refused) => refused.reason.name(),
            Self::Ahead { .. } => "ahead",
            Self::Conflict(_) => "epoch",
            Self::Encode(_) => "encode",
        }
    }
}

/// What a writer needs.
#[derive(Clone, Debug)]
pub struct Archive {
    /// Where.
    pub store: Arc<dyn ObjectStore>,
    /// Under which keys.
    pub layout: Layout,
    /// Who vouches for it.
    pub key: Arc<SigningKey>,
    /// Whose signatures count when what is there is read; the public half of `key` belongs to them.
    pub trusted: TrustedKeys,
    /// Bounds on what is read.
    pub limits: Limits,
    /// Bases that are kept; at least 1.
    pub keep_bases: usize,
    /// Segments that stand behind a base at most; at most [`SEGMENTS_MAX`].
    pub segments_max: usize,
}

impl Writer {
    /// A writer of one view of one cluster.
    #[must_use]
    pub fn new(archive: &Archive, cluster: ClusterId, view: View) -> Self {
        let Archive { store, layout, key, trusted, limits, keep_bases, segments_max } = archive.clone();
        let reader = Reader::new(store.clone(), layout.clone(), trusted, limits);
        let (keep_bases, segments_max) = (keep_bases.max(1), segments_max.min(SEGMENTS_MAX));
        Self { store, layout, reader, cluster, view, key, keep_bases, segments_max, standing: None, conditional: true }
    }

    /// The position that is in the archive, once that is known.
    #[must_use]
    pub fn position(&self) -> Option<Position> {
        self.standing.as_ref().map(|standing| standing.pointer.position)
    }

    /// Forgets what it knows: somebody else may write.
    pub fn forget(&mut self) {
        self.standing = None;
    }

    /// Brings what `config` (the whole) has of this view into the archive. When this returns, it is there, was read back,
    /// and the pointer names it.
    ///
    /// # Errors
    /// [`WriteError`].
    pub async fn bring(&mut self, config: &ConfigState, level: u32, now: UnixMillis) -> Result<Done, WriteError> {
        let result = self.try_bring(config, level, now).await;
        if result.is_err() {
            self.standing = None;
        }
        result
    }

    async fn try_bring(&mut self, config: &ConfigState, level: u32, now: UnixMillis) -> Result<Done, WriteError> {
        let mut done = Done::default();
        if self.standing.is_none() {
            self.standing = self.resume(config).await?;
        }
        let Some(mut standing) = self.standing.clone() else {
            let pointer = self.put_base(config, level, now, &mut done).await?;
            let mut standing =
                Standing { whole: Some(config.clone()), written: ConfigState::following(), pointer, version: None };
            self.move_pointer(&mut standing).await?;
            self.standing = Some(standing);
            return Ok(done);
        };
        let Some(delta) = self.delta(&standing, config) else {
            standing.whole = Some(config.clone());
            standing.written = ConfigState::following();
            self.standing = Some(standing);
            return Ok(done);
        };
        let outgrown = standing.pointer.segments_bytes() > standing.pointer.base_bytes.max(SEGMENTS_BYTES_MIN)
            || standing.pointer.segments.len() >= self.segments_max;
        if planted!("pointer-before-body") {
            let mut early = standing.clone();
            early.pointer.segments.push(SegmentRef { prev: delta.prev, position: delta.position, bytes: 0 });
            (early.pointer.position, early.pointer.digest) = (delta.position, delta.digest);
            self.move_pointer(&mut early).await?;
            standing.version = early.version;
        }
        // The segment is written even where a base follows: should that one be damaged, the way goes on past it.
        let segment = self.put_segment(&delta, config, level, &mut done).await?;
        match segment {
            Some(segment) if !outgrown => {
                standing.pointer.segments.push(segment);
                standing.pointer.position = delta.position;
                standing.pointer.digest = delta.digest;
                standing.pointer.written = now;
            }
            _ => standing.pointer = self.put_base(config, level, now, &mut done).await?,
        }
        standing.whole = Some(config.clone());
        standing.written = ConfigState::following();
        self.move_pointer(&mut standing).await?;
        if done.bases > 0 {
            // What it costs is room: it is tried again with the next base.
            match self.retain(standing.pointer.base).await {
                Ok(removed) => done.removed = removed,
                Err(error) => tracing::warn!(%error, "old objects stay in the archive"),
            }
        }
        self.standing = Some(standing);
        Ok(done)
    }

    /// What is there already, if this node can go on from it.
    async fn resume(&self, config: &ConfigState) -> Result<Option<Standing>, WriteError> {
        let (found, refused) = self.reader.newest(Some(self.cluster), &self.view, None).await;
        for refused in &refused {
            if let Reason::Store(error) = &refused.reason
                && *error != StoreError::Missing
            {
                // Not knowing what is there is no reason to write over it.
                return Err(WriteError::Store { key: refused.object.clone(), error: error.clone() });
            }
            if !matches!(refused.reason, Reason::Store(_)) {
                tracing::warn!(object = refused.object, reason = %refused.reason, "refused in the archive");
            }
        }
        let Some(found) = found else { return Ok(None) };
        let (theirs, ours) = (found.state.position(), config.position());
        if theirs.compare(&ours)? == Ordering::Greater {
            return Err(WriteError::Ahead { theirs, ours });
        }
        // A new life of the cluster begins with a base of its own; so does what no pointer names.
        match found.pointer {
            Some((pointer, version)) if theirs.epoch == ours.epoch => {
                Ok(Some(Standing { whole: None, written: found.state, pointer, version: Some(version) }))
            }
            _ => Ok(None),
        }
    }

    /// What leads from what is in the archive to `config`; `None`: nothing changed in this view.
    fn delta(&self, standing: &Standing, config: &ConfigState) -> Option<Delta> {
        let prev = standing.pointer.position;
        let (position, digest) = match &self.view {
            View::Whole => (config.changed_at(), config.digest()),
            View::Group(group) => {
                let view = config.view(group);
                (view.changed_at(), view.digest().total())
            }
        };
        if position == prev && digest == standing.pointer.digest {
            return None;
        }
        let changes = match &standing.whole {
            None => seen(config, &self.view).changes_since(&standing.written),
            Some(whole) => {
                let changes = config.changes_since(whole).into_iter();
                match &self.view {
                    View::Whole => changes.collect(),
                    View::Group(group) => {
                        let narrowed = changes.filter_map(|Change { key, entry }| {
                            let was = whole.get(&key).is_some_and(|entry| entry.is_in(group));
                            let entry = entry.filter(|entry| entry.is_in(group));
                            (was || entry.is_some()).then_some(Change { key, entry })
                        });
                        narrowed.collect()
                    }
                }
            }
        };
        Some(Delta { prev, position, changes, digest, cause: None })
    }

    /// Lets the pointer name what is there: by compare-and-set, and never backwards. It is read back, too: one that was
    /// damaged on its way would lead nobody anywhere until the next change.
    async fn move_pointer(&mut self, standing: &mut Standing) -> Result<(), WriteError> {
        let key = self.layout.pointer(self.cluster, &self.view);
        let failed = |error| WriteError::Store { key: key.clone(), error };
        let body = Bytes::from(standing.pointer.seal(&self.key));
        for _ in 0..POINTER_ATTEMPTS_MAX {
            let when = match &standing.version {
                _ if !self.conditional || planted!("pointer-moved-blindly") => When::Always,
                Some(version) => When::Is(version.clone()),
                None => When::Absent,
            };
            failpoint!("archive::before_pointer");
            match self.store.put(&key, body.clone(), when).await {
                // Of an attempt whose answer was lost, the next one says that somebody was first: ourselves.
                Ok(_) | Err(StoreError::Lost) => {}
                Err(StoreError::Unconditional) => {
                    tracing::warn!("the store knows no conditional puts: the newest is found by listing");
                    self.conditional = false;
                }
                Err(error) => return Err(failed(error)),
            }
            failpoint!("archive::after_pointer");
            standing.version = match self.store.get(&key, crate::pointer::POINTER_BYTES_MAX as u64, None).await {
                Ok(Some(object)) => {
                    let lies = self.reader.parse_pointer(&object.body, self.cluster, &self.view);
                    if lies.as_ref() == Some(&standing.pointer) {
                        standing.version = Some(object.version);
                        return Ok(());
                    }
                    let ours = standing.pointer.position;
                    if let Some(theirs) = lies.map(|pointer| pointer.position)
                        && theirs.compare(&ours)? == Ordering::Greater
                    {
                        return Err(WriteError::Ahead { theirs, ours });
                    }
                    Some(object.version)
                }
                Ok(None) | Err(StoreError::Missing) => None,
                Err(error) => return Err(failed(error)),
            };
        }
        Err(failed(StoreError::Lost))
    }

    /// Takes away what no reader needs: everything of this epoch before the oldest base that is kept. `newest` was just
    /// read back, and stays whatever happens.
    async fn retain(&self, newest: Position) -> Result<u64, WriteError> {
        let folder = self.layout.epoch(self.cluster, &self.view, newest.epoch);
        let failed = |error| WriteError::Store { key: folder.clone(), error };
        let listed = list_all(&*self.store, &folder, OBJECTS_MAX).await.map_err(failed)?;
        let objects: Vec<_> =
            listed.into_iter().filter_map(|object| Some((parse_object(&object.key)?, object.key))).collect();
        let mut bases: Vec<_> = objects
            .iter()
            .filter(|((part, revision), _)| *part == Part::Base && *revision <= newest.revision)
            .map(|((_, revision), _)| *revision)
            .collect();
        bases.sort_unstable_by(|a, b| b.cmp(a));
        let Some(oldest) = bases.get(self.keep_bases - 1).copied() else { return Ok(0) };
        let mut removed = 0;
        for ((_, revision), key) in objects {
            if revision < oldest {
                failpoint!("archive::before_delete");
                self.store.delete(&key).await.map_err(failed)?;
                failpoint!("archive::after_delete");
                removed += 1;
            }
        }
        let uploads = self.layout.view(self.cluster, &self.view);
        self.store.clean(&uploads, LEFT_OVER).await.map_err(failed)?;
        Ok(removed)
    }
}

/// What a view sees of the whole, as its readers hold it.
fn seen(config: &ConfigState, view: &View) -> ConfigState {
    let View::Group(group) = view else { return config.clone() };
    let entries =
        config.iter().filter(|(_, entry)| entry.is_in(group)).map(|(key, entry)| (key.clone(), entry.clone()));
    let changed_at = config.view(group).changed_at();
    ConfigState::from_entries(ConfigState::following(), config.position(), changed_at, config.chain(), entries)
}

/// A signed snapshot of a view.
///
/// # Errors
/// Those of encoding.
pub fn encode_base(
    cluster: ClusterId,
    view: &View,
    config: &ConfigState,
    level: u32,
    now: UnixMillis,
    key: &SigningKey,
) -> std::io::Result<(Header, Vec<u8>)> {
    let state = seen(config, view);
    let is_whole = *view == View::Whole;
    let header = Header {
        cluster,
        view: view.text(),
        position: state.position(),
        changed_at: state.changed_at(),
        chain: is_whole.then(|| config.chain()),
        digest: state.digest(),
        entries: state.len() as u64,
        level: if is_whole { level } else { 0 },
        created: now,
    };
    let mut bytes = Vec::new();
    snapshot::write(&mut bytes, &header, &state, &[], key)?;
    Ok((header, bytes))
}
