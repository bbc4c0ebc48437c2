//! The scenarios. One more is an entry here, and a function in [`plans`].

mod plans;

use super::Sometimes::{
    Behind, CaughtUp, ClockOff, Election, Ended, FoundOut, FromArchive, FullAtProxy, FullAtReader, LastGood, Lost,
    NewId, NotBelieved, RecordLag, Refused, Resume, S3Hit, Sealed, SlowWrites, Snapshot, Unserved, Volatile, WireUsed,
};
use super::{Scenario, Sometimes, Step, composed};
use crate::arena::Needs;
use crate::golden;
use crate::luck::Luck;
use crate::workload::Size;
use plans::*;

/// Three nodes and two proxies.
const PLAIN: Needs = Needs {
    cps: 3,
    dps: 2,
    postgres: false,
    standby: false,
    archive: false,
    archived_proxies: false,
    clocks: false,
    watched_disks: false,
    feed_wires: false,
    golden: false,
    outside_wires: false,
    subscribers: 0,
    failpoints: false,
    size: Size::FULL,
    settings: &[],
};
/// The log is cut off early, so that who was away needs a snapshot.
const SHORT_LOG: Needs = Needs { settings: &["raft.snapshot_entries=200", "raft.keep_entries=100"], ..PLAIN };
/// A node syncs nothing but its log: whatever fails is the log's.
const LOG_ALONE: Needs = Needs { settings: &["record.embedded_changes=0"], ..PLAIN };
const RECORD: Needs = Needs { postgres: true, ..PLAIN };
const STANDBY: Needs = Needs { standby: true, ..RECORD };
const ARCHIVE: Needs = Needs { archive: true, ..PLAIN };
const RECORD_WIRES: Needs = Needs { outside_wires: true, ..RECORD };
const ARCHIVE_WIRES: Needs = Needs { outside_wires: true, ..BUSY_ARCHIVE };
/// Proxies have the archive beside the nodes, and can be cut off from each.
const LONE_PROXY: Needs = Needs { archived_proxies: true, feed_wires: true, ..ARCHIVE_WIRES };
const ALL_OUTSIDE: Needs = Needs { archive: true, ..RECORD };
/// Archived all the time, so that whoever stops is in the middle of it.
const BUSY_ARCHIVE: Needs = Needs { settings: &["archive.interval=500ms"], ..ARCHIVE };
const CLOCKS: Needs = Needs { clocks: true, ..PLAIN };
/// As many as a large fleet has proxies.
const HERD: Needs = Needs { subscribers: 2000, size: Size::FEW_CHANGES, ..PLAIN };
/// Of what clients write, some is nothing that a proxy can serve.
const POISON: Needs = Needs { size: Size::WITH_POISON, ..PLAIN };
/// A history of what is made to be deleted at once would say nothing.
const BURIAL: Needs = Needs { settings: LOG_ALONE.settings, feed_wires: true, ..POISON };
const GOLDEN: Needs = Needs { golden: true, cps: golden::CPS, dps: golden::DPS, ..PLAIN };
const EVERYTHING: Needs = Needs { clocks: true, size: Size::WITH_POISON, ..ALL_OUTSIDE };
const FEED_WIRES: Needs = Needs { feed_wires: true, ..PLAIN };
const POWER: Needs = Needs { watched_disks: true, ..PLAIN };
/// Whatever has durable steps is there, and does them often.
const FAILPOINTS: Needs = Needs {
    failpoints: true,
    size: Size::LIGHT,
    settings: &[
        "raft.snapshot_entries=100",
        "raft.keep_entries=50",
        "archive.interval=300ms",
        "archive.segments=2",
        "archive.keep_bases=1",
    ],
    ..ALL_OUTSIDE
};

/// The scenario whose faults the seed puts together.
pub const COMPOSED: &Scenario = &plain(
    "composed",
    "two to four faults at a time, of nodes, proxies, record, archive and clocks, put together by the seed",
    EVERYTHING,
    composed::plan,
    &[Election, LastGood],
);

/// Every scenario.
pub const ALL: &[Scenario] = &[
    plain("calm", "nothing goes wrong", PLAIN, calm, &[Lost]),
    plain("leader-kill", "kill -9 of the leader under load", PLAIN, leader_kill, &[Election, Resume]),
    plain("drain", "the leader is asked to stop, and hands over", PLAIN, drain, &[Election, Resume]),
    plain(
        "leader-pause",
        "the leader stops where it stands, and goes on after another was elected",
        PLAIN,
        leader_pause,
        &[Election],
    ),
    plain(
        "isolated-leader",
        "the leader is cut off from other nodes; clients still talk to it",
        PLAIN,
        isolated_leader,
        &[Election, Refused, WireUsed],
    ),
    plain("one-way", "the leader hears nobody, then nobody hears it", PLAIN, one_way, &[Election, WireUsed]),
    plain("partial", "two nodes do not reach each other, the third reaches both", PLAIN, partial, &[WireUsed]),
    plain("cut-feed", "a proxy and its node do not reach each other", FEED_WIRES, cut_feed, &[WireUsed]),
    plain("slow-wires", "everything between nodes takes 30 ms longer, each way", PLAIN, slow_wires, &[WireUsed]),
    plain("lossy-wires", "a tenth of what nodes send is lost once", PLAIN, lossy_wires, &[WireUsed]),
    plain("lagging-follower", "proxies come back to a node that is behind them", PLAIN, lagging, &[Election, Resume]),
    plain("slow-proxy", "a proxy stops reading while writes go on", PLAIN, slow_proxy, &[Behind]),
    plain("short-log", "a node comes back to where the log is gone", SHORT_LOG, short_log, &[Resume, Snapshot]),
    plain("nobody-left", "every node dies, and proxies are restarted meanwhile", PLAIN, nobody_left, &[Resume]),
    plain("proxy-kill", "proxies die and start from their own disks", PLAIN, proxy_kill, &[Unserved]),
    plain("power-cut", "the power of all nodes goes at once", POWER, power_cut, &[Election]),
    plain(
        "one-power-cut",
        "the power of one node goes, of the leader or not",
        POWER,
        one_power_cut,
        &[Election, Resume],
    ),
    plain("vote-cut", "the power of all nodes goes when one has just voted", POWER, vote_cut, &[Election]),
    plain("all-kill", "every node dies at once, and comes back", PLAIN, all_kill, &[Resume]),
    plain("wiped-disk", "a follower comes back with an empty disk", PLAIN, wiped, &[NewId, CaughtUp]),
    plain("replaced-node", "a new node takes a lost one's place while the leader dies", PLAIN, replaced, &[Election]),
    plain("flipped-bits", "bits of a stopped node's files are flipped", PLAIN, flipped, &[FoundOut]),
    plain("failed-sync", "a sync of a node's log fails", LOG_ALONE, failed_sync, &[Ended]),
    plain("full-disk", "nothing can be written to a node's disk any more", PLAIN, full_disk, &[Ended]),
    plain("read-only-disk", "nothing on a node's disk can be changed any more", PLAIN, read_only, &[Ended]),
    plain(
        "cut-proxy-write",
        "a proxy dies while it writes its first configuration",
        PLAIN,
        cut_proxy_write,
        &[Ended, Unserved],
    ),
    plain("failed-proxy-syncs", "no sync of a proxy's disk succeeds", PLAIN, failed_proxy_syncs, &[Volatile]),
    plain("slow-disk", "syncs of the leader, then of a follower, take 300 ms", PLAIN, slow_disk, &[SlowWrites]),
    plain("rolling", "every node is restarted in order", PLAIN, rolling, &[Election, Resume]),
    plain("postgres-kill", "the record dies and comes back", RECORD, postgres_kill, &[RecordLag]),
    plain("postgres-freeze", "the record answers nothing", RECORD, postgres_freeze, &[RecordLag]),
    plain(
        "postgres-failover",
        "the record fails over, and has lost its tail",
        STANDBY,
        postgres_failover,
        &[RecordLag],
    ),
    plain("clocks", "wall clocks jump, and run too fast and too slowly", CLOCKS, clocks, &[ClockOff]),
    plain("members", "a follower loses its vote while the leader dies", PLAIN, members, &[Election]),
    plain(
        "archive-faults",
        "S3 fails, call by call, while leaders change",
        ARCHIVE,
        archive_faults,
        &[Election, S3Hit],
    ),
    plain(
        "overlapping",
        "nodes, record and archive fail at the same time, and are healed in any order",
        ALL_OUTSIDE,
        overlapping,
        &[Election, RecordLag, S3Hit],
    ),
    plain("herd", "every node dies, and 2,000 subscribers come back at once", HERD, herd, &[Resume]),
    plain("forged-archive", "who has no key writes to the archive while leaders change", ARCHIVE, forged, &[Election]),
    plain("two-archivers", "a paused leader comes back, with an archive", BUSY_ARCHIVE, leader_pause, &[Election]),
    plain(
        "poison",
        "a fifth of what clients write cannot be served, and proxies die, stall, and lose their nodes",
        POISON,
        poison,
        &[Election, LastGood, Sealed],
    ),
    plain(
        "full-state",
        "more is deleted than tombstones are kept of, while a proxy reaches no node and a feed's reader is away",
        BURIAL,
        full_state,
        &[FullAtProxy, FullAtReader],
    ),
    plain(
        "golden",
        "a cluster goes on under load from what an earlier build has left: node by node, then restarted, then without its leader",
        GOLDEN,
        from_golden,
        &[Election, Resume, Snapshot],
    ),
    *COMPOSED,
    plain("two-writers", "a paused leader comes back, with a record", RECORD, leader_pause, &[Election]),
    plain(
        "cut-record",
        "nodes and the record do not reach each other",
        RECORD_WIRES,
        cut_record,
        &[RecordLag, WireUsed],
    ),
    plain("lost-link", "a node's link is lost and comes back, in namespaces alone", PLAIN, lost_link, &[Election]),
    plain("cut-archive", "nodes and the archive do not reach each other", ARCHIVE_WIRES, cut_archive, &[WireUsed]),
    plain(
        "lone-proxy",
        "a proxy starts, with its disk and without, while the archive fails it and nodes are out of its reach, or are not",
        LONE_PROXY,
        lone_proxy,
        &[FromArchive, S3Hit, WireUsed],
    ),
    plain(
        "torn-files",
        "files of nodes and proxies end early, and lack pages",
        SHORT_LOG,
        torn_files,
        &[FoundOut, NotBelieved],
    ),
    plain("failpoints", "programs end at failpoints, a few by the seed", FAILPOINTS, failpoints, &[Ended]),
];

/// The scenario of this name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|scenario| scenario.name == name)
}

const fn plain(
    name: &'static str,
    about: &'static str,
    needs: Needs,
    plan: fn(&mut Luck) -> Vec<Step>,
    wants: &'static [Sometimes],
) -> Scenario {
    Scenario { name, about, needs, plan, wants }
}
