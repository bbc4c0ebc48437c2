//! The writer: on the leader, in order, exactly once.

use std::sync::Arc;
use std::time::Duration;

use daemon::{failpoint, planted};
use protocol::command::{Action, Command, RecordAction, RecordMark};
use protocol::seam::{Random, WallClock};
use protocol::snapshot::ClusterId;
use raft_store::backlog::BacklogReader;
use raft_store::machine::OutboxItem;
use raft_store::types::{NodeId, Raft};
use tokio::sync::watch;
use tokio::time::Instant;

use super::hosts::Hosts;
use super::judge::{self, Cursor, Verdict};
use super::{Record, State, Trouble, step};
use crate::propose::Proposer;
use crate::read::ReadIndex;

/// Changes in one step while the record is close behind.
const STEP_CHANGES_MAX: usize = 512;

/// Changes in one step while it drains a backlog: fewer round trips and commits.
const DRAIN_CHANGES_MAX: usize = 4096;

/// Bytes in one step, so that one can be written within a statement's deadline; a single larger change goes alone.
const STEP_BYTES_MAX: u64 = 8 << 20;

/// How often a record at rest is looked at: a failover or a hand at the cursor is noticed without a change.
const LOOK: Duration = Duration::from_secs(5);

/// Between attempts to find a PostgreSQL that may be written to, at first and at most.
const PAUSE_FIRST: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How long a proposal of the writer's own may take.
const PROPOSE_MAX: Duration = Duration::from_secs(5);

/// The task that writes the record while this node leads.
pub(crate) struct Writer {
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    pub(crate) raft: Raft,
    pub(crate) reads: ReadIndex,
    pub(crate) proposer: Proposer,
    pub(crate) clock: Arc<dyn WallClock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) record: Record,
    /// Where the record may be; `None`: nowhere.
    pub(crate) hosts: Option<Arc<dyn Hosts>>,
}

/// Why a session ended.
enum Ended {
    /// This node does not lead any more, or stops.
    Deposed,
    Trouble(Trouble),
}

impl From<Trouble> for Ended {
    fn from(trouble: Trouble) -> Self {
        Self::Trouble(trouble)
    }
}

impl Writer {
    /// Runs until it is aborted.
    pub(crate) async fn run(self) {
        let Some(hosts) = self.hosts.clone() else { return };
        let mut pause = PAUSE_FIRST;
        let mut backlog = self.record.shared.backlog.clone();
        loop {
            let Some(term) = self.leading().await else { return };
            self.record.note(|writing| writing.state = State::Connecting);
            if !backlog.now().outbox.is_on() && !self.propose(RecordAction::On).await {
                tokio::time::sleep(PAUSE_FIRST).await;
                continue;
            }
            for host in 0..hosts.count() {
                match self.session(&*hosts, host, term, &mut backlog, &mut pause).await {
                    Ended::Deposed => break,
                    Ended::Trouble(trouble) => {
                        let host = hosts.name(host);
                        self.record.note(|writing| {
                            if writing.trouble.as_ref() != Some(&trouble) {
                                tracing::warn!(host, reason = trouble.word(), error = %trouble, "the record is not written");
                            }
                            writing.state = State::Connecting;
                            writing.troubles += 1;
                            (writing.host, writing.trouble) = (host, Some(trouble));
                        });
                    }
                }
            }
            let micros = u64::try_from(pause.as_micros()).unwrap_or(u64::MAX);
            tokio::time::sleep(pause / 2 + Duration::from_micros(self.random.below(micros / 2 + 1))).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    fn is_leading(&self, term: u64) -> bool {
        let metrics = self.raft.metrics();
        let metrics = metrics.borrow();
        metrics.current_leader == Some(self.node) && metrics.current_term == term
    }

    /// Waits until this node leads, and has applied what leaders before it have committed; gives its term.
    async fn leading(&self) -> Option<u64> {
        let mut metrics = self.raft.metrics();
        loop {
            let (leads, term) = {
                let now = metrics.borrow_and_update();
                (now.current_leader == Some(self.node), now.current_term)
            };
            if leads && self.reads.linearizable(Instant::now() + PROPOSE_MAX).await.is_ok() {
                return Some(term);
            }
            if leads {
                // It cannot show yet that it leads.
                tokio::time::sleep(PAUSE_FIRST).await;
                continue;
            }
            // A trouble stays visible while the same leader tries again; it is not another node's.
            self.record.note(|writing| {
                (writing.state, writing.trouble, writing.cursor) = (State::Standby, None, None);
                writing.host.clear();
            });
            metrics.changed().await.ok()?;
        }
    }

    async fn propose(&self, action: RecordAction) -> bool {
        propose(&self.proposer, self.clock.as_ref(), action).await
    }

    async fn session(
        &self,
        hosts: &dyn Hosts,
        host: usize,
        term: u64,
        backlog: &mut BacklogReader,
        pause: &mut Duration,
    ) -> Ended {
        match self.write(hosts, host, term, backlog, pause).await {
            Ok(()) => Ended::Deposed,
            Err(ended) => ended,
        }
    }

    /// Writes to one host until something is in the way.
    async fn write(
        &self,
        hosts: &dyn Hosts,
        host: usize,
        term: u64,
        backlog: &mut BacklogReader,
        pause: &mut Duration,
    ) -> Result<(), Ended> {
        let mut session = hosts.connect(host).await?;
        let found = session.look().await?;
        judge::system(&found, &backlog.now())?;
        session.migrate().await?;
        let now = backlog.now();
        let seen = session.cursor().await?;
        let cluster = self.cluster.to_string();
        let verdict = judge::content(seen.as_ref(), &cluster, term, &now)?;
        let mut cursor = match (verdict, seen) {
            (Verdict::GoOn { from, lost }, Some(seen)) => {
                if lost > 0 {
                    tracing::error!(
                        from,
                        lost,
                        timeline = found.timeline,
                        "the record had confirmed changes that it does not hold any more; they are written again"
                    );
                    self.record.note(|writing| {
                        writing.regressions += 1;
                        writing.regressed_changes += lost;
                    });
                }
                session.claim(&seen, now.config.position(), term).await?
            }
            (Verdict::NextLife { .. }, Some(seen)) => session.claim(&seen, now.config.position(), term).await?,
            (Verdict::Rebase { .. }, Some(seen)) => {
                let Some(config) = now.config_at_base() else { return Err(Ended::Deposed) };
                session.rebase(&seen, term, &config).await?
            }
            _ => {
                let Some(config) = now.config_at_base() else { return Err(Ended::Deposed) };
                session.begin(&cluster, term, &config).await?
            }
        };
        let mark = |cursor: &Cursor| RecordMark {
            revision: cursor.revision,
            chain: cursor.chain,
            system: found.system,
            timeline: found.timeline,
            term,
        };
        let (confirmed, marks) = watch::channel(mark(&cursor));
        let _marker = Marker(tokio::spawn(tell(marks, self.proposer.clone(), self.clock.clone())));
        tracing::info!(host = hosts.name(host), revision = cursor.revision, term, "the record is written from here");
        self.record.note(|writing| {
            (writing.state, writing.trouble) = (State::Writing, None);
            (writing.host, writing.cursor) = (hosts.name(host), Some(cursor.revision));
        });
        *pause = PAUSE_FIRST;
        while self.is_leading(term) || step::is_unfenced() {
            let items = next_step(backlog, cursor.revision);
            if items.is_empty() {
                match tokio::time::timeout(LOOK, backlog.changed()).await {
                    Ok(true) => continue,
                    Ok(false) => return Ok(()),
                    Err(_) => {}
                }
                judge::system(&session.look().await?, &backlog.now())?;
                if session.cursor().await?.as_ref() != Some(&cursor) {
                    return Err(Trouble::Moved.into());
                }
                continue;
            }
            let position = backlog.now().config.position();
            if position.epoch.number != cursor.epoch {
                // A restore has begun another life.
                return Err(Trouble::Moved.into());
            }
            if let Some(last) = items.last().filter(|_| planted!("record-told-before-commit")) {
                let ahead = Cursor { revision: last.delta.position.revision, chain: last.chain, ..cursor.clone() };
                self.propose(RecordAction::Recorded(mark(&ahead))).await;
            }
            cursor = session.step(&cursor, &items).await?;
            confirmed.send_replace(mark(&cursor));
            let changes: usize = items.iter().map(|item| item.delta.changes.len()).sum();
            self.record.note(|writing| {
                writing.steps += 1;
                writing.changes += changes as u64;
                writing.cursor = Some(cursor.revision);
            });
        }
        Ok(())
    }
}

/// The changes after a revision, up to the bounds of a step, and one at least where there is any.
fn next_step(backlog: &BacklogReader, after: u64) -> Vec<Arc<OutboxItem>> {
    let now = backlog.now();
    let is_draining = now.config.position().revision.saturating_sub(after) > STEP_CHANGES_MAX as u64;
    let changes_max = if is_draining { DRAIN_CHANGES_MAX } else { STEP_CHANGES_MAX };
    let (mut changes, mut bytes) = (0, 0);
    let mut items = Vec::new();
    for item in now.outbox.after(after) {
        changes += item.delta.changes.len();
        bytes += item.bytes;
        if !items.is_empty() && (changes > changes_max || bytes > STEP_BYTES_MAX) {
            break;
        }
        items.push(item.clone());
    }
    items
}

/// Ends with its session.
struct Marker(tokio::task::JoinHandle<()>);

impl Drop for Marker {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Makes what PostgreSQL has confirmed known to all: one proposal at a time, each with the newest.
async fn tell(mut marks: watch::Receiver<RecordMark>, proposer: Proposer, clock: Arc<dyn WallClock>) {
    loop {
        let mark = *marks.borrow_and_update();
        failpoint!("record::before_tell");
        if !propose(&proposer, clock.as_ref(), RecordAction::Recorded(mark)).await {
            // Not known to all yet: again, with what is newest by then.
            tokio::time::sleep(PAUSE_FIRST).await;
            marks.mark_changed();
        }
        failpoint!("record::after_tell");
        if marks.changed().await.is_err() {
            return;
        }
    }
}

async fn propose(proposer: &Proposer, clock: &dyn WallClock, action: RecordAction) -> bool {
    let command = Command {
        origin: None,
        idempotency: None,
        request: "record".into(),
        author: "system".into(),
        time: clock.now(),
        based_on: Vec::new(),
        action: Action::Record(action),
    };
    match proposer.propose(command, Instant::now() + PROPOSE_MAX).await {
        Ok(protocol::Outcome::Record) => true,
        // A refusal is final for this mark: a later leader knows better, or the record is no longer wanted.
        Ok(outcome) => {
            tracing::warn!(?outcome, "what was said of the record was refused");
            true
        }
        Err(_) => false,
    }
}
