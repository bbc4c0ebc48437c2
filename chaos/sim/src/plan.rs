//! What a seed decides before anything starts.

use std::time::Duration;

use rand::rngs::StdRng;

use crate::random::{below, millis, stream};

/// A bug planted on purpose, to see that it is found.
#[derive(Clone, Copy, PartialEq, Eq, Debug, clap::ValueEnum)]
pub enum Mutant {
    /// The disk says that it has synced, and has not.
    UnsyncedLog,
    /// A vote is not synced.
    UnsyncedVote,
    /// A node serves default reads from what it has, without a read index.
    StaleReads,
    /// A retried request is sent as a new one.
    NewKeyOnRetry,
    /// One proxy loses its disk with every restart, and says that it has not.
    ForgetfulProxy,
    /// The archive's store says that an object is there before it is.
    PointerBeforeBody,
    /// The archive's pointer is put whatever stands there.
    BlindPointer,
    /// Segments of the archive rot where they lie.
    RottenSegments,
    /// A base of the archive lacks a resource, and is signed.
    HalfABase,
    /// Proxies have no archive, though there is one.
    NoArchiveForProxies,
    /// The record takes steps from wherever they start, and from whichever leader.
    RecordNotFenced,
    /// The record leaves the last row of every step out.
    RecordSkips,
    /// The record confirms what it has not done, one step in five.
    RecordForgets,
    /// Nodes take changes however far the record is behind.
    BoundlessBacklog,
    /// A node that has lost its log and its votes in a power cut comes back under its old id.
    OldIdNewDisk,
    /// Votes that were taken away are not given back.
    VotesNotGivenBack,
}

/// Sizes, thresholds, faults and load of one run.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The seed.
    pub seed: u64,
    /// Control-plane nodes.
    pub nodes: u64,
    /// Proxies.
    pub proxies: u64,
    /// Clients.
    pub clients: u64,
    /// How long faults and load last.
    pub storm: Duration,
    /// Between two faults, at most.
    pub calm_max: Duration,
    /// Applied entries between two snapshots.
    pub snapshot_entries: u64,
    /// Entries that a purge keeps.
    pub keep_entries: u64,
    /// Heartbeat of consensus.
    pub heartbeat: Duration,
    /// Resources that clients fight over.
    pub keys: u64,
    /// Between two requests of a client, at most.
    pub think_max: Duration,
    /// The longest that a message takes between two hosts in good times.
    pub latency_max: Duration,
    /// How the archive is kept, where there is one.
    pub archive: Option<Archive>,
    /// How far the record may be behind, where there is one: in changes.
    pub record: Option<u64>,
    /// Between two changes of the membership, at most, where there are any.
    pub member_changes: Option<Duration>,
    /// Between two faults of what stands outside of the cluster, at most.
    pub outside_calm_max: Duration,
    /// The bug that is planted, if any.
    pub mutant: Option<Mutant>,
}

/// How the archive is kept.
#[derive(Clone, Copy, Debug)]
pub struct Archive {
    /// A change is archived after so long.
    pub interval: Duration,
    /// Or after so many changes.
    pub changes: u64,
    /// Bases that are kept.
    pub keep_bases: u64,
    /// Segments behind a base, at most.
    pub segments: u64,
}

impl Archive {
    fn of(rng: &mut StdRng) -> Option<Self> {
        let archive = Self {
            interval: millis(rng, 100, 800),
            changes: 5 + below(rng, 40),
            keep_bases: 1 + below(rng, 3),
            segments: 1 + below(rng, 8),
        };
        (below(rng, 4) > 0).then_some(archive)
    }
}

impl Plan {
    /// The plan of a seed.
    #[must_use]
    pub fn of(seed: u64, mutant: Option<Mutant>) -> Self {
        let rng: &mut StdRng = &mut stream(seed, 1);
        Self {
            seed,
            nodes: [3, 3, 3, 4, 5][usize::try_from(below(rng, 5)).expect("it is below 5")],
            proxies: 2 + below(rng, 4),
            clients: 2 + below(rng, 4),
            storm: millis(rng, 8_000, 16_000),
            calm_max: millis(rng, 200, 2_500),
            snapshot_entries: 5 + below(rng, 40),
            keep_entries: 3 + below(rng, 30),
            heartbeat: millis(rng, 50, 100),
            keys: 2 + below(rng, 6),
            think_max: millis(rng, 10, 150),
            latency_max: millis(rng, 1, 12),
            archive: Archive::of(rng),
            record: Some(5 + below(rng, 30)).filter(|_| below(rng, 3) > 0),
            member_changes: Some(millis(rng, 500, 3_000)).filter(|_| below(rng, 2) == 0),
            outside_calm_max: millis(rng, 200, 1_500),
            mutant,
        }
    }
}
