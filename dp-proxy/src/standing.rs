//! How this proxy stands: what it serves, from whom, and what it could not do. Written by the feed, read by whoever asks.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use arc_swap::ArcSwap;
use protocol::snapshot::ClusterId;
use protocol::{ConfigState, Digest, Position, ResourceKey};
use tokio::time::Instant;

use crate::archive::ArchiveBoard;
use crate::feed::Node;
use crate::secrets::SecretStanding;
use crate::standalone::FileBoard;
use crate::table::Rejected;

/// What a proxy serves, and from whom.
#[derive(Clone, Debug, Default)]
pub struct Standing {
    /// Where the configuration is.
    pub position: Position,
    /// Its last change.
    pub changed_at: Position,
    /// Its digest.
    pub digest: Digest,
    /// How many resources it has.
    pub resources: usize,
    /// Whose it is.
    pub cluster: Option<ClusterId>,
    /// Where it came from.
    pub source: Source,
    /// The control-plane node that it is followed from.
    pub connected: Option<Connected>,
    /// Whether the position is not on the disk: a restart may take it back.
    pub volatile: bool,
    /// Resources whose newest entry is not served.
    pub rejected: Arc<BTreeMap<ResourceKey, Rejected>>,
    /// The secrets that are kept elsewhere and referred to.
    pub secrets: Vec<SecretStanding>,
    /// All resources. A clone of it shares everything.
    pub state: Option<ConfigState>,
}

/// Where a configuration came from.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Source {
    /// There is none.
    #[default]
    None,
    /// From this proxy's disk; no control plane has confirmed it since the start.
    Disk,
    /// From the archive or a given file; no control plane has confirmed it since the start.
    Archive,
    /// From the file of a proxy without a control plane.
    File,
    /// From a control plane, or confirmed by one since the start.
    ControlPlane,
}

/// A control-plane node.
#[derive(Clone, Debug)]
pub struct Connected {
    /// Its address.
    pub endpoint: String,
    /// Who it is.
    pub node: Node,
    /// How long ago it last heard from its leader, as of its last word.
    pub leader_contact_age: Option<Duration>,
}

/// Where the newest [`Standing`] is found, with counts over the life of the process.
#[derive(Debug, Default)]
pub struct Board {
    standing: ArcSwap<Standing>,
    /// A table was published: there is something to serve.
    pub has_table: AtomicBool,
    /// Streams that were opened.
    pub connects: AtomicU64,
    /// Attempts that failed, and streams that ended.
    pub disconnects: AtomicU64,
    /// Repairs that were asked for.
    pub mends: AtomicU64,
    /// Steps that were put to use.
    pub updates: AtomicU64,
    /// Steps that could not be kept on the disk in time.
    pub disk_misses: AtomicU64,
    /// Replaced tables that some worker still reads.
    pub retained_tables: AtomicU64,
    /// From a step's arrival to its being served.
    pub update_time: Histogram,
    /// The archive.
    pub archive: Arc<ArchiveBoard>,
    /// The file of a proxy without a control plane.
    pub file: Arc<FileBoard>,
}

impl Board {
    /// How the proxy stands.
    #[must_use]
    pub fn read(&self) -> Arc<Standing> {
        self.standing.load_full()
    }

    pub(crate) fn write(&self, standing: Standing) {
        self.standing.store(Arc::new(standing));
    }
}

/// Counts durations into buckets.
#[derive(Debug, Default)]
pub struct Histogram {
    counts: [AtomicU64; Self::BOUNDS.len() + 1],
    micros: AtomicU64,
}

impl Histogram {
    /// Upper bounds of the buckets: from what compiling one edit takes to what a full configuration does.
    pub const BOUNDS: [Duration; 14] = [
        Duration::from_micros(10),
        Duration::from_micros(25),
        Duration::from_micros(50),
        Duration::from_micros(100),
        Duration::from_micros(250),
        Duration::from_micros(500),
        Duration::from_millis(1),
        Duration::from_micros(2500),
        Duration::from_millis(5),
        Duration::from_millis(10),
        Duration::from_millis(25),
        Duration::from_millis(100),
        Duration::from_millis(500),
        Duration::from_millis(2500),
    ];

    pub(crate) fn observe_since(&self, start: Instant) {
        let taken = start.elapsed();
        let bucket = Self::BOUNDS.iter().position(|bound| taken <= *bound).unwrap_or(Self::BOUNDS.len());
        self.counts[bucket].fetch_add(1, Ordering::Relaxed);
        self.micros.fetch_add(u64::try_from(taken.as_micros()).unwrap_or(u64::MAX), Ordering::Relaxed);
    }

    /// The count of every bucket (the last: over all bounds), and the sum in microseconds.
    #[must_use]
    pub fn read(&self) -> (Vec<u64>, u64) {
        (self.counts.iter().map(|count| count.load(Ordering::Relaxed)).collect(), self.micros.load(Ordering::Relaxed))
    }
}
