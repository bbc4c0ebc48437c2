//! Finds the newest position that an archive can prove.
//!
//! The pointer is followed first; then a listing says whether there is anything newer, or anything else when the pointer
//! leads nowhere. Whatever cannot be believed is passed over with its reason, and the next candidate is tried.

mod refused;
mod search;

use std::cmp::Ordering;
use std::sync::Arc;

use bytes::Bytes;
use protocol::crypto::TrustedKeys;
use protocol::snapshot::{self, ClusterId, Expected, SnapshotError};
use protocol::{Chain, ConfigState, Delta, Position};

use crate::layout::{Layout, View};
use crate::pointer::{POINTER_BYTES_MAX, Pointer};
use crate::segment::{self, Segment, Signatures};
use crate::store::{Object, ObjectStore, StoreError, Version};

pub use refused::{Reason, Refused};

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

    /// An object as it lies there.
    pub(crate) async fn fetch(&self, key: &str) -> Result<Object, StoreError> {
        self.store.get(key, self.limits.object_max, None).await?.ok_or(StoreError::Missing)
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
