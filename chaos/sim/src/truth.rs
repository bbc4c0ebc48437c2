//! The one history: a state machine of the checker's own, fed with what any node has applied.
//!
//! It decides again what each committed entry did, so that every answer, digest and position can be held against it.

use std::collections::{BTreeMap, BTreeSet};

use openraft::EntryPayload;
use protocol::command::{Action, Batch};
use protocol::{Chain, Digest, Epoch, ResourceKey, codec};
use raft_store::machine::{Outbox, State};
use raft_store::types::{Entry, LogId};

/// What a revision left behind.
pub(crate) struct Revision {
    /// The digest of everything.
    pub(crate) digest: Digest,
    /// The digest of what proxies see.
    pub(crate) view: Digest,
    /// The chain up to it.
    pub(crate) chain: Chain,
    /// Which resources it changed.
    pub(crate) keys: Vec<ResourceKey>,
}

/// A resource at a revision: its body, or that it was not there.
pub(crate) type Body = Option<std::sync::Arc<str>>;

/// The history.
pub(crate) struct Truth {
    epoch: Epoch,
    state: State,
    /// The log id of every committed entry, by index.
    committed: Vec<LogId>,
    /// By revision, from 0.
    pub(crate) revisions: Vec<Revision>,
    /// Every version of every resource, by revision.
    versions: BTreeMap<ResourceKey, Vec<(u64, Body)>>,
    /// Which revisions a request made, by its id.
    requests: BTreeMap<String, BTreeSet<u64>>,
    /// Which revisions carry a client's mark in a body.
    marks: BTreeMap<String, BTreeSet<u64>>,
}

/// The mark that a client has put into a body.
pub(crate) fn mark(body: &str) -> Option<&str> {
    body.split_once("\"desc\":\"")?.1.split_once('"').map(|(mark, _)| mark)
}

impl Truth {
    pub(crate) fn new(epoch: Epoch) -> Self {
        let state = State::new(epoch);
        let first = Revision {
            digest: state.config.digest(),
            view: state.config.view("default").digest().total(),
            chain: state.config.chain(),
            keys: Vec::new(),
        };
        Self {
            epoch,
            state,
            committed: Vec::new(),
            revisions: vec![first],
            versions: BTreeMap::new(),
            requests: BTreeMap::new(),
            marks: BTreeMap::new(),
        }
    }

    /// The life of the cluster.
    pub(crate) fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The newest revision.
    pub(crate) fn head(&self) -> u64 {
        self.revisions.len() as u64 - 1
    }

    /// The index of the next entry that it needs.
    pub(crate) fn next_index(&self) -> u64 {
        self.committed.len() as u64
    }

    /// The committed entry at an index.
    pub(crate) fn committed(&self, index: u64) -> Option<LogId> {
        self.committed.get(usize::try_from(index).ok()?).copied()
    }

    /// Takes the next committed entry.
    pub(crate) fn take(&mut self, entry: &Entry) -> Result<(), String> {
        self.committed.push(entry.log_id);
        let EntryPayload::Normal(payload) = &entry.payload else { return Ok(()) };
        let batch: Batch = codec::open(&payload.0).map_err(|e| format!("a committed entry does not decode: {e}"))?;
        let mut commands = batch.commands.iter();
        let mut problem = None;
        let Self { state, revisions, versions, requests, marks, .. } = self;
        let applied = state.apply_entry(&payload.0, |state, effect| {
            let command = commands.next().expect("each command has one effect");
            let Some(changed) = effect.change else { return };
            let revision = changed.full.position.revision;
            if revision != revisions.len() as u64 {
                problem = Some(format!("revision {revision} follows {}", revisions.len() - 1));
            }
            let mut keys = Vec::new();
            for change in &changed.full.changes {
                if let Some(mark) = change.entry.as_ref().and_then(|entry| mark(&entry.body)) {
                    marks.entry(mark.to_owned()).or_default().insert(revision);
                }
                let body = state.config.get(&change.key).map(|entry| entry.body.clone());
                versions.entry(change.key.clone()).or_default().push((revision, body));
                keys.push(change.key.clone());
            }
            revisions.push(Revision {
                digest: state.config.digest(),
                view: state.config.view("default").digest().total(),
                chain: changed.chain,
                keys,
            });
            if !matches!(command.action, Action::Expire { .. }) {
                requests.entry(command.request.to_string()).or_default().insert(revision);
            }
        });
        applied.map_err(|e| e.to_string())?;
        problem.map_or(Ok(()), Err)
    }

    /// What the record may not have yet.
    pub(crate) fn outbox(&self) -> &Outbox {
        &self.state.outbox
    }

    /// Every resource as of a revision, by its key.
    pub(crate) fn all_at(&self, revision: u64) -> Vec<(&ResourceKey, &str)> {
        let there = |key| self.at(key, revision).map(|(_, body)| (key, body));
        self.versions.keys().filter_map(there).collect()
    }

    /// Every resource that ever was.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &ResourceKey> {
        self.versions.keys()
    }

    /// The revisions that a client's request made.
    pub(crate) fn made_by(&self, request: &str) -> BTreeSet<u64> {
        let named = self.requests.get(request).into_iter().flatten();
        named.chain(self.marks.get(request).into_iter().flatten()).copied().collect()
    }

    /// A resource as of a revision, with the revision of its last change.
    pub(crate) fn at(&self, key: &ResourceKey, revision: u64) -> Option<(u64, &str)> {
        let versions = self.versions.get(key)?;
        let at = versions.partition_point(|(made, _)| *made <= revision);
        let (made, body) = versions.get(at.checked_sub(1)?)?;
        body.as_deref().map(|body| (*made, body))
    }
}
