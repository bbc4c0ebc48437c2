//! Prometheus metrics. Nothing is counted twice: each scrape reads the counters where they are kept.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::text::encode;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};

use crate::propose::{Batcher, Proposer};
use crate::status::Describe;

/// Where metrics come from. Clones share it.
#[derive(Clone)]
pub(crate) struct Metrics {
    registry: Arc<Registry>,
    pub(crate) admin: AdminMetrics,
}

/// What the Admin API counts.
#[derive(Clone, Default)]
pub(crate) struct AdminMetrics {
    requests: Family<Vec<(String, String)>, prometheus_client::metrics::counter::Counter>,
    seconds: Arc<Latency>,
    under_way: Arc<AtomicU64>,
}

/// Counts one request among those under way for as long as it lives.
#[derive(Debug)]
pub(crate) struct UnderWay(Arc<AtomicU64>);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The histogram of write latencies.
#[derive(Debug)]
struct Latency(Histogram);

impl Default for Latency {
    fn default() -> Self {
        let buckets = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0];
        Self(Histogram::new(buckets))
    }
}

impl AdminMetrics {
    /// A request begins: its guard, and how many others are under way.
    pub(crate) fn begin(&self) -> (UnderWay, u64) {
        let others = self.under_way.fetch_add(1, Ordering::Relaxed);
        (UnderWay(self.under_way.clone()), others)
    }

    /// A request has been answered.
    pub(crate) fn answered(&self, method: &str, status: u16, write_took: Option<Duration>) {
        let labels = vec![("method".to_owned(), method.to_owned()), ("code".to_owned(), status.to_string())];
        self.requests.get_or_create(&labels).inc();
        if let Some(took) = write_took {
            self.seconds.0.observe(took.as_secs_f64());
        }
    }
}

impl Metrics {
    pub(crate) fn new(describe: Describe, batcher: Batcher, proposer: Proposer) -> Self {
        let admin = AdminMetrics::default();
        let mut registry = Registry::with_prefix("holdfast_cp");
        registry.register("admin_requests", "Answers of the Admin API", admin.requests.clone());
        registry.register_with_unit(
            "admin_write",
            "From a write's arrival to its answer",
            Unit::Seconds,
            admin.seconds.0.clone(),
        );
        registry.register_collector(Box::new(Live { describe, batcher, proposer, admin: admin.clone() }));
        Self { registry: Arc::new(registry), admin }
    }

    /// The text of a scrape.
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        encode(&mut text, &self.registry).expect("writing to memory cannot fail");
        text
    }
}

/// Reads everything else at the time of the scrape.
struct Live {
    describe: Describe,
    batcher: Batcher,
    proposer: Proposer,
    admin: AdminMetrics,
}

impl std::fmt::Debug for Live {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Live")
    }
}

impl Collector for Live {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), std::fmt::Error> {
        let mut put = Put(&mut encoder);
        self.encode_raft(&mut put)?;
        self.encode_log(&mut put)?;
        self.encode_feed(&mut put)?;
        self.encode_archive(&mut put)?;
        self.encode_record(&mut put)?;
        self.encode_proposals(&mut put)
    }
}

impl Live {
    fn encode_raft(&self, put: &mut Put<'_, '_>) -> std::fmt::Result {
        let status = self.describe.status();
        put.gauge("raft_term", "The current term", status.term)?;
        put.gauge("raft_is_leader", "Whether this node leads", u64::from(status.role == "leader"))?;
        put.gauge("raft_leader_id", "Who leads as far as this node knows; 0: nobody", status.leader.unwrap_or(0))?;
        put.gauge("raft_last_log_index", "The last entry in the log", status.last_log_index)?;
        put.gauge("raft_applied_index", "The last applied entry", status.applied_index)?;
        if let Some(credentials) = &self.describe.credentials {
            put.seconds(
                "certificate_not_after_timestamp",
                "Until when this node's certificate holds, since 1970",
                Duration::from_secs(credentials.not_after()),
            )?;
        }
        put.gauge("raft_peers_unreachable", "Peers that did not answer the last call", self.describe.reach.failing())?;
        put.gauge("config_revision", "The revision of the configuration", status.revision)?;
        put.gauge("config_epoch", "The life of the cluster", status.epoch)?;
        put.gauge("config_resources", "Resources in the configuration", self.describe.feed.config().len() as u64)?;
        let applied = self.describe.applied.borrow().clone();
        put.gauge(
            "raft_snapshot_index",
            "The last entry in the newest snapshot",
            applied.snapshot.map_or(0, |id| id.index),
        )?;
        put.gauge("raft_snapshot_bytes", "The size of the newest snapshot", applied.snapshot_bytes)?;
        put.gauge("staged_bytes", "Parts of transactions that wait for their commit", applied.staged_bytes)?;
        put.gauge("remembered_requests", "Idempotency keys that are remembered", applied.remembered_requests)?;
        put.gauge("level", "The level of the cluster", u64::from(applied.level))?;
        let (purged, quorum_age) = {
            let metrics = self.describe.raft.metrics();
            let metrics = metrics.borrow();
            (metrics.purged.map_or(0, |id| id.index), metrics.millis_since_quorum_ack)
        };
        put.gauge("raft_purged_index", "The last entry that is no longer in the log", purged)?;
        let age = match quorum_age {
            Some(age) if status.role == "leader" => Duration::from_millis(age),
            _ => self.describe.contact.age(),
        };
        put.seconds("leader_contact_age", "Since the last word from the leader; on a leader, from a quorum", age)
    }

    fn encode_log(&self, put: &mut Put<'_, '_>) -> std::fmt::Result {
        let (size, writer) = (self.describe.log.size(), self.describe.log.writer_report());
        put.gauge("log_entries", "Entries in the log", size.entries)?;
        put.gauge("log_memory_bytes", "What they take in memory", size.bytes)?;
        put.gauge("log_disk_bytes", "What the log takes on disk", writer.disk_bytes)?;
        put.gauge("log_queue_length", "Operations that wait for the log's writer", writer.queued)?;
        put.counter("log_syncs", "Syncs of the log", writer.syncs)?;
        put.counter("log_operations", "Operations written to the log", writer.ops)?;
        let busy = Duration::from_micros(writer.busy_micros);
        put.counter_seconds("log_sync", "Time in write and sync of the log", busy)?;
        let slowest = Duration::from_micros(writer.slowest_micros);
        put.seconds("log_sync_slowest", "The slowest write and sync since the last scrape", slowest)
    }

    fn encode_feed(&self, put: &mut Put<'_, '_>) -> std::fmt::Result {
        let fleet = &self.describe.fleet;
        put.gauge("feed_streams", "Proxies connected to this node", fleet.connected() as u64)?;
        put.counter("feed_connections", "Connections of proxies", fleet.connected_ever())?;
        put.counter(
            "feed_questions",
            "Questions about the proxies at this node, by who waits for them",
            fleet.asked_ever(),
        )?;
        let revision = self.describe.feed.position().revision;
        let lag = fleet.lowest_revision().map_or(0, |lowest| revision.saturating_sub(lowest));
        put.gauge("feed_lag_revisions", "How far the slowest connected proxy is behind this node", lag)
    }

    fn encode_archive(&self, put: &mut Put<'_, '_>) -> std::fmt::Result {
        let Some(archiver) = self.describe.archiver.get() else { return Ok(()) };
        let figures = archiver.report().figures();
        put.gauge("archive_keeps", "Whether this node keeps the archive: the leader does", u64::from(figures.keeps))?;
        put.gauge("archive_revision", "The last revision that this node has brought there", figures.revision)?;
        put.seconds("archive_behind", "For how long the archive has lacked something", figures.behind)?;
        if let Some(age) = figures.age {
            put.seconds("archive_age", "Since this node last found everything in the archive", age)?;
        }
        put.counter("archive_failures", "Attempts to write the archive that failed", figures.failures)?;
        put.counter("archive_segments", "Segments put into the archive", figures.done.segments)?;
        put.counter("archive_bases", "Bases put into the archive", figures.done.bases)?;
        put.counter("archive_put_bytes", "Bytes put into the archive", figures.done.bytes)?;
        put.counter("archive_removed_objects", "Objects that retention took away", figures.done.removed)
    }

    fn encode_record(&self, put: &mut Put<'_, '_>) -> std::fmt::Result {
        let record = self.describe.record.status();
        put.gauge("record_is_kept", "Whether the cluster keeps changes for a record", u64::from(record.kept))?;
        put.gauge("record_is_writing", "Whether this node writes the record", u64::from(record.is_writing()))?;
        put.gauge("record_lag_changes", "Changes that the record is not known to hold", record.lag_changes)?;
        put.gauge("record_lag_bytes", "What these take", record.lag_bytes)?;
        let age = Duration::from_millis(record.lag_age_ms);
        put.seconds("record_lag_age", "Since this node saw the oldest of them", age)?;
        put.counter("record_steps", "Steps that this node wrote", record.steps)?;
        put.counter("record_changes", "Changes of resources in them", record.changes)?;
        put.counter("record_troubles", "Attempts to write that failed or were refused", record.troubles)?;
        put.counter("record_regressions", "Times that the record had lost what it confirmed", record.regressions)?;
        put.counter(
            "record_regressed_revisions",
            "Revisions lost in them and written again",
            record.regressed_changes,
        )?;
        let (rows, bytes, gaps) = record.embedded.map_or((0, 0, 0), |embedded| embedded.figures());
        put.gauge("record_embedded_rows", "Changes of resources that this node's own record holds", rows)?;
        put.gauge("record_embedded_bytes", "What these take", bytes)?;
        put.gauge("record_embedded_gaps", "Gaps in them", gaps)
    }

    fn encode_proposals(&self, put: &mut Put<'_, '_>) -> std::fmt::Result {
        let (batches, proposals) = (self.batcher.report(), self.proposer.report());
        put.counter("proposed_commands", "Commands that this node proposed as the leader", batches.commands)?;
        put.counter("proposed_entries", "Log entries that they went into", batches.entries)?;
        put.gauge("proposal_queue_length", "Commands that wait for a log entry", batches.waiting)?;
        put.gauge("proposals_under_way", "This node's own commands under way", proposals.under_way)?;
        put.counter("proposal_retries", "Attempts after the first", proposals.retries)?;
        put.counter("forwarded_commands", "Commands sent to another leader", proposals.forwarded)?;
        put.gauge("admin_requests_under_way", "Requests to the Admin API", self.admin.under_way.load(Ordering::Relaxed))
    }
}

/// Writes one metric after the other.
struct Put<'p, 'e>(&'p mut DescriptorEncoder<'e>);

impl Put<'_, '_> {
    fn gauge(&mut self, name: &str, help: &str, value: u64) -> std::fmt::Result {
        let value = ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX));
        value.encode(self.0.encode_descriptor(name, help, None, value.metric_type())?)
    }

    fn seconds(&mut self, name: &str, help: &str, value: Duration) -> std::fmt::Result {
        let value = ConstGauge::new(value.as_secs_f64());
        value.encode(self.0.encode_descriptor(name, help, Some(&Unit::Seconds), value.metric_type())?)
    }

    fn counter(&mut self, name: &str, help: &str, value: u64) -> std::fmt::Result {
        let value = ConstCounter::new(value);
        value.encode(self.0.encode_descriptor(name, help, None, value.metric_type())?)
    }

    fn counter_seconds(&mut self, name: &str, help: &str, value: Duration) -> std::fmt::Result {
        let value = ConstCounter::new(value.as_secs_f64());
        value.encode(self.0.encode_descriptor(name, help, Some(&Unit::Seconds), value.metric_type())?)
    }
}
