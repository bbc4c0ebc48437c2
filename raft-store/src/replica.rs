//! The replicated state machine as consensus drives it: applies what is committed, publishes it to the feed, builds and
//! installs snapshots.
//!
//! The state is in memory. What makes it durable is the log and the newest snapshot; a restart reads the snapshot and
//! applies the log from there up to what was known to be committed.

use std::io::{self, Read};
use std::sync::Arc;

use daemon::{blocking, failpoint, planted};
use openraft::storage::RaftStateMachine;
use openraft::{AnyError, EntryPayload, OptionalSend, RaftSnapshotBuilder, StorageIOError};
use protocol::codec;
use protocol::seam::WallClock;
use protocol::snapshot::{self, ClusterId, Expected, Header, Loaded, SectionTag, SnapshotError, Unsealed};
use protocol::{ConfigState, Delta, Epoch, Outcome, Text};
use tokio::sync::watch;

use crate::backlog::{Backlog, BacklogReader};
use crate::embedded::{Tail, TailReader};
use crate::feed::Feed;
use crate::log::Durability;
use crate::machine::{self, ControlRecord, ControlState, OutboxItem, State};
use crate::snapshots::{SnapshotHandle, SnapshotStore, SnapshotWriter};
use crate::types::{Entry, LogId, Outcomes, Snapshot, SnapshotMeta, StorageError, StoredMembership, TypeConfig};
use crate::wire::SnapshotMetaRecord;

/// How many snapshots are kept: the newest, and the one before it in case the newest turns out to be unreadable.
const SNAPSHOTS_KEPT: usize = 2;

/// The state machine of one node.
pub struct Replica {
    cluster: ClusterId,
    state: State,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    newest: Option<Snapshot>,
    feed: Feed,
    backlog: watch::Sender<Arc<Backlog>>,
    /// The last changes in full, where somebody on this node wants them.
    tail: Option<watch::Sender<Arc<Tail>>>,
    applied: watch::Sender<Applied>,
    durability: Durability,
    snapshots: Arc<dyn SnapshotStore>,
    clock: Arc<dyn WallClock>,
}

/// What a replica starts from.
pub struct ReplicaStart {
    /// Whose state it is.
    pub cluster: ClusterId,
    /// The life of the cluster, for a node that has no snapshot yet.
    pub epoch: Epoch,
    /// The account of what is safe to apply, from the log.
    pub durability: Durability,
    /// Where snapshots are.
    pub snapshots: Arc<dyn SnapshotStore>,
    /// Stamps snapshots, for people.
    pub clock: Arc<dyn WallClock>,
}

/// How far a replica has come, for those who watch it.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Applied {
    /// The last applied log entry.
    pub log_id: Option<LogId>,
    /// The level of the cluster.
    pub level: u32,
    /// The last entry in the newest snapshot.
    pub snapshot: Option<LogId>,
    /// The size of the newest snapshot, in bytes.
    pub snapshot_bytes: u64,
    /// Bytes of staged parts.
    pub staged_bytes: u64,
    /// Client requests that are remembered.
    pub remembered_requests: u64,
}

/// Why a replica cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ReplicaError {
    /// The snapshots cannot be listed.
    #[error("snapshots: {0}")]
    Io(#[from] io::Error),
    /// No snapshot can be read. The log alone may not reach back far enough.
    #[error("{name}: {error}")]
    Snapshot {
        /// The newest snapshot.
        name: String,
        /// Why it is refused.
        error: Box<SnapshotError>,
    },
}

impl Replica {
    /// Starts from the newest snapshot that can be read, or empty where there is none.
    ///
    /// An unreadable one is passed over with an error in the log; whether the log reaches back far enough to the one
    /// before it is the caller's to check ([`Self::last_applied`]).
    ///
    /// # Errors
    /// [`ReplicaError`] when there are snapshots and none can be read.
    pub fn open(start: ReplicaStart) -> Result<Self, ReplicaError> {
        let mut replica = Self {
            cluster: start.cluster,
            state: State::new(start.epoch),
            last_applied: None,
            membership: StoredMembership::default(),
            newest: None,
            feed: Feed::new(State::new(start.epoch).config),
            backlog: watch::Sender::new(Arc::new(Backlog::of(&State::new(start.epoch)))),
            tail: None,
            applied: watch::Sender::new(Applied::default()),
            durability: start.durability,
            snapshots: start.snapshots,
            clock: start.clock,
        };
        let mut refused = None;
        for handle in replica.snapshots.list()? {
            match load(&handle, replica.cluster) {
                Ok((state, meta)) => {
                    replica.adopt(state, meta, handle);
                    refused = None;
                    break;
                }
                Err(error) => {
                    let name = handle.name();
                    tracing::error!(snapshot = name, %error, "a snapshot cannot be read, the one before it is tried");
                    refused.get_or_insert(ReplicaError::Snapshot { name, error: Box::new(error) });
                }
            }
        }
        match refused {
            Some(error) => Err(error),
            None => Ok(replica),
        }
    }

    /// Readers begin here.
    #[must_use]
    pub fn feed(&self) -> Feed {
        self.feed.clone()
    }

    /// The writer of the durable record begins here.
    #[must_use]
    pub fn backlog(&self) -> BacklogReader {
        BacklogReader::new(self.backlog.subscribe())
    }

    /// The embedded record begins here. From now on the last changes are kept for it.
    pub fn tail(&mut self) -> TailReader {
        let tail = self.tail.get_or_insert_with(|| watch::Sender::new(Arc::new(Tail::new(&self.state.config))));
        TailReader::new(tail.subscribe())
    }

    /// How far it has come.
    #[must_use]
    pub fn applied(&self) -> watch::Receiver<Applied> {
        self.applied.subscribe()
    }

    /// The last log entry that its state contains.
    #[must_use]
    pub fn last_applied(&self) -> Option<LogId> {
        self.last_applied
    }

    /// The state, for tests and consistency checks.
    #[must_use]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Takes a snapshot's state for its own.
    fn adopt(&mut self, state: State, meta: SnapshotMeta, handle: SnapshotHandle) {
        self.state = state;
        self.last_applied = meta.last_log_id;
        self.membership = meta.last_membership.clone();
        self.newest = Some(Snapshot { meta, snapshot: Box::new(handle) });
        self.feed.replace(self.state.config.clone());
        self.backlog.send_replace(Arc::new(Backlog::of(&self.state)));
        if let Some(tail) = &self.tail {
            tail.send_replace(Arc::new(Tail::new(&self.state.config)));
        }
        self.newest.iter().for_each(|snapshot| report_snapshot(&self.applied, snapshot));
        self.report();
    }

    fn report(&self) {
        self.applied.send_modify(|applied| {
            applied.log_id = self.last_applied;
            applied.level = self.state.control.level();
            applied.staged_bytes = self.state.control.staged_bytes();
            applied.remembered_requests = self.state.control.remembered_requests() as u64;
        });
    }
}

impl RaftStateMachine<TypeConfig> for Replica {
    type SnapshotBuilder = Builder;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembership), StorageError> {
        Ok((self.last_applied, self.membership.clone()))
    }

    async fn apply<I>(&mut self, entries: I) -> Result<Vec<Outcomes>, StorageError>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let Some(last) = entries.last().map(|entry| entry.log_id) else { return Ok(Vec::new()) };
        // What is applied becomes visible, so it must be on this node's disk too.
        self.durability.wait_safe(last.index).await.map_err(|e| StorageIOError::apply(last, AnyError::new(&e)))?;
        failpoint!("replica::before_apply");
        let mut replies = Vec::with_capacity(entries.len());
        let mut steps: Vec<(Text, Delta)> = Vec::new();
        let mut changes: Vec<Arc<OutboxItem>> = Vec::new();
        let wants_changes = self.tail.is_some();
        let mut restored = false;
        for entry in entries {
            let mut outcomes = Outcomes::default();
            match entry.payload {
                EntryPayload::Blank => {}
                EntryPayload::Membership(membership) => {
                    self.membership = StoredMembership::new(Some(entry.log_id), membership);
                }
                EntryPayload::Normal(payload) => {
                    let applied = self.state.apply_entry(&payload.0, |_, effect| {
                        if let Outcome::Restored { .. } = effect.outcome {
                            // No step leads from one life of the cluster to the next.
                            restored = true;
                            steps.clear();
                            changes.clear();
                        }
                        outcomes.0.push(effect.outcome);
                        if let Some(change) = effect.change {
                            steps.extend(change.views);
                            if wants_changes {
                                changes.push(Arc::new(OutboxItem::new(change.full, change.before, change.chain)));
                            }
                        }
                    });
                    applied.map_err(|halt| {
                        tracing::error!(log_index = entry.log_id.index, error = %halt, "this node cannot go on");
                        StorageIOError::apply(entry.log_id, AnyError::new(&halt))
                    })?;
                }
            }
            self.last_applied = Some(entry.log_id);
            replies.push(outcomes);
        }
        if restored {
            self.feed.replace(self.state.config.clone());
        } else {
            self.feed.publish(self.state.config.clone(), steps);
        }
        self.backlog.send_replace(Arc::new(Backlog::of(&self.state)));
        if let Some(tail) = &self.tail {
            let newest = if restored { Tail::new(&self.state.config) } else { tail.borrow().then(changes) };
            tail.send_replace(Arc::new(newest));
        }
        self.report();
        failpoint!("replica::after_apply");
        Ok(replies)
    }

    async fn get_snapshot_builder(&mut self) -> Builder {
        Builder {
            cluster: self.cluster,
            state: self.state.clone(),
            last_applied: self.last_applied,
            membership: self.membership.clone(),
            snapshots: self.snapshots.clone(),
            applied: self.applied.clone(),
            clock: self.clock.clone(),
        }
    }

    /// Snapshots are received by the network layer, straight into the store, and arrive complete with
    /// [`Self::install_snapshot`]; what consensus hands out here before is an empty place for one.
    async fn begin_receiving_snapshot(&mut self) -> Result<Box<SnapshotHandle>, StorageError> {
        Ok(Box::new(SnapshotHandle::nothing()))
    }

    /// The snapshot is already in this node's store, complete and durable.
    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Box<SnapshotHandle>,
    ) -> Result<(), StorageError> {
        failpoint!("replica::before_install");
        let error = |e: &SnapshotError| StorageIOError::read_snapshot(Some(meta.signature()), AnyError::new(e));
        let (cluster, handle) = (self.cluster, (*snapshot).clone());
        let (state, found) = blocking::run(move || load(&handle, cluster)).await.map_err(|e| error(&e))?;
        if found.last_log_id != meta.last_log_id {
            return Err(error(&SnapshotError::Damaged("it is of another log entry than was announced")).into());
        }
        tracing::info!(position = %state.config.position(), log_index = ?meta.last_log_id.map(|id| id.index), "a snapshot was installed");
        self.adopt(state, found, *snapshot);
        retain(&self.snapshots);
        failpoint!("replica::after_install");
        Ok(())
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<Snapshot>, StorageError> {
        // A builder works beside this; the store knows what it has finished.
        let io = |e: io::Error| StorageIOError::read_snapshot(None, AnyError::new(&e));
        let newest = self.snapshots.list().map_err(io)?.into_iter().next();
        let known = self.newest.as_ref().map(|snapshot| snapshot.snapshot.last_index());
        if let Some(handle) = newest.filter(|handle| Some(handle.last_index()) > known) {
            let (cluster, read) = (self.cluster, handle.clone());
            match blocking::run(move || load(&read, cluster)).await {
                Ok((_, meta)) => self.newest = Some(Snapshot { meta, snapshot: Box::new(handle) }),
                // The one before it serves; the next build replaces it.
                Err(error) => tracing::error!(snapshot = handle.name(), %error, "a snapshot cannot be read"),
            }
        }
        Ok(self.newest.clone())
    }
}

fn load(handle: &SnapshotHandle, cluster: ClusterId) -> Result<(State, SnapshotMeta), SnapshotError> {
    let mut input = handle.open().map_err(SnapshotError::Io)?;
    read_snapshot(&mut input, cluster)
}

/// Builds a snapshot from a clone of the state, beside everything else.
pub struct Builder {
    cluster: ClusterId,
    state: State,
    last_applied: Option<LogId>,
    membership: StoredMembership,
    snapshots: Arc<dyn SnapshotStore>,
    applied: watch::Sender<Applied>,
    clock: Arc<dyn WallClock>,
}

impl RaftSnapshotBuilder<TypeConfig> for Builder {
    async fn build_snapshot(&mut self) -> Result<Snapshot, StorageError> {
        let last_index = self.last_applied.map_or(0, |id| id.index);
        let meta = SnapshotMeta {
            last_log_id: self.last_applied,
            last_membership: self.membership.clone(),
            snapshot_id: format!("{last_index}"),
        };
        let (mut state, store, cluster) = (self.state.clone(), self.snapshots.clone(), self.cluster);
        if planted!("snapshot-loses-a-resource") {
            let (position, changed_at, chain) =
                (state.config.position(), state.config.changed_at(), state.config.chain());
            let others: Vec<_> = state.config.iter().skip(1).map(|(key, entry)| (key.clone(), entry.clone())).collect();
            state.config = ConfigState::from_entries(ConfigState::serving(), position, changed_at, chain, others);
        }
        let (record, created) = (SnapshotMetaRecord::from(&meta), self.clock.now());
        let write = move || -> io::Result<SnapshotHandle> {
            let header = Header {
                cluster,
                view: None,
                position: state.config.position(),
                changed_at: state.config.changed_at(),
                chain: Some(state.config.chain()),
                digest: state.config.digest(),
                entries: state.config.len() as u64,
                level: state.control.level(),
                created,
            };
            let control = codec::seal(&ControlRecord::from(&state.control)).map_err(io::Error::other)?;
            let raft = codec::seal(&record).map_err(io::Error::other)?;
            let outbox = machine::outbox_section(&state.outbox).map_err(io::Error::other)?;
            let restoring = machine::restoring_section(state.restoring.as_ref()).map_err(io::Error::other)?;
            let mut writer = store.begin()?;
            let mut sections: Vec<(SectionTag, &[u8])> =
                vec![(SectionTag::CONTROL, &control), (SectionTag::RAFT, &raft)];
            sections.extend(outbox.as_deref().map(|outbox| (SectionTag::OUTBOX, outbox)));
            sections.extend(restoring.as_deref().map(|restoring| (SectionTag::RESTORE, restoring)));
            snapshot::write(&mut writer, &header, &state.config, &sections, &Unsealed)?;
            failpoint!("snapshot::before_commit");
            let handle = writer.commit(last_index)?;
            failpoint!("snapshot::after_commit");
            Ok(handle)
        };
        let handle = blocking::run(write)
            .await
            .map_err(|e| StorageIOError::write_snapshot(Some(meta.signature()), AnyError::new(&e)))?;
        tracing::info!(snapshot = handle.name(), bytes = handle.bytes(), "a snapshot was written");
        retain(&self.snapshots);
        let snapshot = Snapshot { meta, snapshot: Box::new(handle) };
        report_snapshot(&self.applied, &snapshot);
        Ok(snapshot)
    }
}

/// Tells those who watch of a snapshot, unless they know of a newer one: one may be installed while another is built.
fn report_snapshot(applied: &watch::Sender<Applied>, snapshot: &Snapshot) {
    applied.send_if_modified(|applied| {
        let is_newer = snapshot.meta.last_log_id > applied.snapshot;
        if is_newer {
            applied.snapshot = snapshot.meta.last_log_id;
            applied.snapshot_bytes = snapshot.snapshot.bytes();
        }
        is_newer
    });
}

/// Reads a snapshot of the control plane: the state, and what Raft knows of it.
fn read_snapshot(input: &mut impl Read, cluster: ClusterId) -> Result<(State, SnapshotMeta), SnapshotError> {
    let expected = Expected { cluster: Some(cluster), view: None };
    let Loaded { state, sections, .. } = snapshot::read(input, ConfigState::serving(), &expected, &Unsealed)?;
    let section = |tag: SectionTag, what| sections.get(&tag.0).ok_or(SnapshotError::Damaged(what));
    let control = section(SectionTag::CONTROL, "it has no section with the control plane's state")?;
    let control: ControlRecord = codec::open(control).map_err(|e| SnapshotError::Record("control section", e))?;
    let control = ControlState::try_from(control).map_err(|e| SnapshotError::Newer(e.to_string()))?;
    let raft = section(SectionTag::RAFT, "it has no section with Raft's membership")?;
    let raft: SnapshotMetaRecord = codec::open(raft).map_err(|e| SnapshotError::Record("raft section", e))?;
    let section = |tag: SectionTag| sections.get(&tag.0).map(Vec::as_slice);
    let outbox =
        machine::read_outbox(section(SectionTag::OUTBOX)).map_err(|e| SnapshotError::Record("outbox section", e))?;
    let restoring = machine::read_restoring(section(SectionTag::RESTORE))
        .map_err(|e| SnapshotError::Record("restore section", e))?;
    Ok((State { config: state, control, outbox, restoring }, raft.into()))
}

/// Receives a snapshot into a node's own store: reads it to its end, checks everything, and only then lets it be seen.
///
/// # Errors
/// [`SnapshotError`] when it is refused or cannot be stored; then nothing of it is left.
pub fn receive_snapshot(
    input: &mut impl Read,
    cluster: ClusterId,
    meta: &SnapshotMeta,
    store: &dyn SnapshotStore,
) -> Result<SnapshotHandle, SnapshotError> {
    struct Tee<'t, R> {
        input: &'t mut R,
        copy: Box<dyn SnapshotWriter>,
    }
    impl<R: Read> Read for Tee<'_, R> {
        fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
            let read = self.input.read(buffer)?;
            self.copy.write_all(&buffer[..read])?;
            Ok(read)
        }
    }
    let mut tee = Tee { input, copy: store.begin().map_err(SnapshotError::Io)? };
    let (_, found) = read_snapshot(&mut tee, cluster)?;
    if found.last_log_id != meta.last_log_id {
        return Err(SnapshotError::Damaged("it is of another log entry than was announced"));
    }
    tee.copy.commit(found.last_log_id.map_or(0, |id| id.index)).map_err(SnapshotError::Io)
}

/// Removes snapshots that are no longer needed. That it fails costs disk, nothing else.
fn retain(snapshots: &Arc<dyn SnapshotStore>) {
    if let Err(error) = snapshots.retain(SNAPSHOTS_KEPT) {
        tracing::warn!(%error, "old snapshots could not be removed");
    }
}
