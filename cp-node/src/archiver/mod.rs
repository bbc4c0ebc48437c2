//! Keeps the archive: on the leader, every change is signed and in the object store a few seconds after it was committed.
//!
//! ```text
//!   feed --newest state--> Archiver --one Writer per view--> object store
//! ```
//!
//! It is a reader of the feed and nothing waits for it: a store that fails costs the age that is shown, and no write, no
//! stream and no election. It asks for the newest state when the time has come, so that it holds no queue.

mod report;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use archive::read::Limits;
use archive::write::{Archive, Done, WriteError};
use archive::{ArchiveSettings, BadArchive, Layout, OpenStore, View, Writer};
use protocol::crypto::{SigningKey, TrustedKeys};
use protocol::seam::WallClock;
use protocol::snapshot::ClusterId;
use protocol::{ConfigState, Position};
use raft_store::Applied;
use raft_store::feed::Feed;
use raft_store::types::{NodeId, Raft};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior};

use crate::node::Tasks;

pub(crate) use report::{ArchiveStatus, Report};

/// How often is looked whether something is due.
const TICK: Duration = Duration::from_millis(250);

/// After a failure, the pause before the next attempt: short beside the seconds that the archive may be behind.
const RETRY: Duration = Duration::from_secs(2);

/// How long a node that stops waits for its last changes to be archived. Whoever leads next archives what is missing.
const FLUSH_MAX: Duration = Duration::from_secs(3);

/// Requests to archive at once that may wait: there is one who asks.
const FLUSHES_MAX: usize = 4;

/// The archiver of a node that has an archive. Clones share it.
#[derive(Clone)]
pub(crate) struct Archiver {
    report: Arc<Report>,
    key: Arc<SigningKey>,
    trusted: Arc<TrustedKeys>,
    limits: Limits,
    flush: mpsc::Sender<oneshot::Sender<()>>,
}

/// What it works with.
pub(crate) struct Start {
    pub(crate) archive: Archive,
    pub(crate) interval: Duration,
    pub(crate) changes: u64,
    pub(crate) cluster: ClusterId,
    pub(crate) node: NodeId,
    pub(crate) raft: Raft,
    pub(crate) feed: Feed,
    pub(crate) applied: watch::Receiver<Applied>,
    pub(crate) clock: Arc<dyn WallClock>,
}

/// The archive that is written to, as it is set; `None`: there is none.
///
/// # Errors
/// [`BadArchive`].
pub(crate) async fn open(settings: &ArchiveSettings, stores: &dyn OpenStore) -> Result<Option<Archive>, BadArchive> {
    if !settings.is_set() {
        return Ok(None);
    }
    let key = Arc::new(settings.signing_key()?);
    let trusted: TrustedKeys = settings.trusted_with(key.public())?;
    Ok(Some(Archive {
        store: stores.open(settings).await?,
        layout: Layout::new(&settings.prefix),
        key,
        trusted,
        limits: Limits { object_max: settings.object_max.0, unpacked_max: settings.unpacked_max.0 },
        keep_bases: usize::try_from(settings.keep_bases).unwrap_or(usize::MAX),
        segments_max: usize::try_from(settings.segments).unwrap_or(usize::MAX),
    }))
}

impl Archiver {
    /// Starts it on the current runtime.
    pub(crate) fn start(tasks: &Tasks, start: Start) -> (Self, tokio::task::JoinHandle<()>) {
        let report = Arc::new(Report::new(start.archive.store.place()));
        let key = start.archive.key.clone();
        let (trusted, limits) = (Arc::new(start.archive.trusted.clone()), start.archive.limits);
        let (flush, flushes) = mpsc::channel(FLUSHES_MAX);
        let work = Work {
            start,
            report: report.clone(),
            writers: BTreeMap::new(),
            term: 0,
            behind: None,
            unknown: None,
            pause: None,
        };
        (Self { report, key, trusted, limits, flush }, tasks.spawn("archiver", work.run(flushes)))
    }

    /// How it is doing.
    pub(crate) fn report(&self) -> &Report {
        &self.report
    }

    /// The key that signs.
    pub(crate) fn key(&self) -> Arc<SigningKey> {
        self.key.clone()
    }

    /// The keys whose signatures count, this node's among them.
    pub(crate) fn trusted(&self) -> Arc<TrustedKeys> {
        self.trusted.clone()
    }

    /// How large a snapshot may be.
    pub(crate) fn limits(&self) -> Limits {
        self.limits
    }

    /// Archives what there is, and waits for that, within a bound.
    pub(crate) async fn flush(&self) {
        let (done, wait) = oneshot::channel();
        if self.flush.try_send(done).is_ok() && tokio::time::timeout(FLUSH_MAX, wait).await.is_err() {
            tracing::warn!(waited = ?FLUSH_MAX, "the last changes are not in the archive yet, the next leader brings them there");
        }
    }
}

struct Work {
    start: Start,
    report: Arc<Report>,
    writers: BTreeMap<View, Writer>,
    term: u64,
    /// What the archive holds in full, and since when it lacks something.
    behind: Option<Behind>,
    /// Since when it has not been known what the archive has.
    unknown: Option<Instant>,
    /// After a failure: not before.
    pause: Option<Instant>,
}

#[derive(Clone, Copy)]
struct Behind {
    archived: Position,
    since: Option<Instant>,
}

impl Work {
    async fn run(mut self, mut flushes: mpsc::Receiver<oneshot::Sender<()>>) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let flush = tokio::select! {
                _ = ticks.tick() => None,
                flush = flushes.recv() => match flush {
                    Some(flush) => Some(flush),
                    // The node is gone.
                    None => return,
                },
            };
            if self.leads() {
                let config = self.start.feed.config();
                if self.is_due(&config, flush.is_some()) {
                    self.archive(&config).await;
                }
            }
            if let Some(flush) = flush {
                // Whoever asked may have stopped waiting.
                let _ = flush.send(());
            }
        }
    }

    /// Whether this node leads. With every new term it is looked up anew what is there.
    fn leads(&mut self) -> bool {
        let (leader, term) = {
            let metrics = self.start.raft.metrics();
            let metrics = metrics.borrow();
            (metrics.current_leader, metrics.current_term)
        };
        let leads = leader == Some(self.start.node);
        if !leads || term != self.term {
            self.writers.clear();
            (self.term, self.behind, self.unknown, self.pause) = (term, None, None, None);
        }
        self.report.set_leads(leads);
        leads
    }

    fn is_due(&mut self, config: &ConfigState, at_once: bool) -> bool {
        let now = Instant::now();
        let position = config.position();
        if position.revision == 0 {
            return false;
        }
        let Some(behind) = &mut self.behind else {
            // What the archive has is not known before the first attempt.
            self.report.set_behind(Some(*self.unknown.get_or_insert(now)));
            return self.pause.is_none_or(|pause| at_once || now >= pause);
        };
        if behind.archived == position {
            behind.since = None;
            self.report.set_behind(None);
            return false;
        }
        let since = *behind.since.get_or_insert(now);
        self.report.set_behind(Some(since));
        let many = position.revision.saturating_sub(behind.archived.revision) >= self.start.changes;
        let due = at_once || many || now.duration_since(since) >= self.start.interval;
        due && self.pause.is_none_or(|pause| at_once || now >= pause)
    }

    /// Brings every view to where `config` is.
    async fn archive(&mut self, config: &ConfigState) {
        let views = std::iter::once(View::Whole).chain(config.groups().map(|group| View::Group(group.clone())));
        let level = self.start.applied.borrow().level;
        let mut failed = None;
        let mut sum = Done::default();
        for view in views {
            let writer = self
                .writers
                .entry(view.clone())
                .or_insert_with(|| Writer::new(&self.start.archive, self.start.cluster, view.clone()));
            match writer.bring(config, level, self.start.clock.now()).await {
                Ok(done) => {
                    sum.segments += done.segments;
                    sum.bases += done.bases;
                    sum.bytes += done.bytes;
                    sum.removed += done.removed;
                }
                Err(error) => {
                    self.tell(&view, &error);
                    failed = Some(error);
                }
            }
        }
        self.report.done(&sum);
        match failed {
            None => {
                tracing::debug!(position = %config.position(), segments = sum.segments, bases = sum.bases, "archived");
                self.report.succeeded(config.position());
                self.behind = Some(Behind { archived: config.position(), since: None });
                (self.unknown, self.pause) = (None, None);
            }
            Some(error) => {
                self.report.failed(&error);
                self.pause = Some(Instant::now() + RETRY);
            }
        }
    }

    fn tell(&self, view: &View, error: &WriteError) {
        // A store that is away is told once a change of its reason.
        if self.report.is_news(error) {
            tracing::error!(?view, %error, reason = error.name(), retry_in = ?RETRY, "the archive is not kept");
        }
    }
}
