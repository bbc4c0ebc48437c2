//! The scenarios. One more is an entry here.

use super::Sometimes::{
    Behind, CaughtUp, ClockOff, Election, Ended, FoundOut, FullAtProxy, FullAtReader, LastGood, Lost, NewId,
    NotBelieved, RecordLag, Refused, Resume, S3Hit, Sealed, SlowWrites, Snapshot, Unserved, Volatile, WireUsed,
};
use super::{Scenario, Sometimes, Step, composed};
use crate::arena::Needs;
use crate::fault::Fault::{self, *};
use crate::fault::Tear;
use crate::fault::Whom::{All, Follower, Leader};
use crate::fault::{Outside, Way};
use crate::golden;
use crate::luck::Luck;
use crate::s3;
use crate::sweep;
use crate::workload::Size;

/// Three nodes and two proxies.
const PLAIN: Needs = Needs {
    cps: 3,
    dps: 2,
    postgres: false,
    standby: false,
    archive: false,
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

fn step(luck: &mut Luck, fault: Fault, lasts_ms: (u64, u64)) -> Step {
    Step { after_ms: luck.between(300, 1200), fault, lasts_ms: luck.between(lasts_ms.0, lasts_ms.1), beside: false }
}

fn place(luck: &mut Luck, of: usize) -> usize {
    usize::try_from(luck.below(of as u64)).expect("a place in a list")
}

fn any<T: Copy>(luck: &mut Luck, of: &[T]) -> T {
    of[place(luck, of.len())]
}

fn calm(_luck: &mut Luck) -> Vec<Step> {
    Vec::new()
}

fn leader_kill(luck: &mut Luck) -> Vec<Step> {
    (0..4).map(|_| step(luck, Kill { whom: Leader }, (800, 2500))).collect()
}

fn drain(luck: &mut Luck) -> Vec<Step> {
    (0..3).map(|_| step(luck, Stop { whom: Leader }, (500, 1500))).collect()
}

fn leader_pause(luck: &mut Luck) -> Vec<Step> {
    (0..3).map(|_| step(luck, Pause { whom: Leader }, (1500, 4000))).collect()
}

fn isolated_leader(luck: &mut Luck) -> Vec<Step> {
    // Whoever waits at it gives up after `admin.deadline`, 1.9 s, and is refused when it asks again.
    (0..3).map(|_| step(luck, Isolate { whom: Leader }, (3000, 5000))).collect()
}

fn one_way(luck: &mut Luck) -> Vec<Step> {
    [Deaf { whom: Leader }, Mute { whom: Leader }, Mute { whom: Follower }, Deaf { whom: Follower }]
        .into_iter()
        .map(|fault| step(luck, fault, (2000, 3500)))
        .collect()
}

fn partial(luck: &mut Luck) -> Vec<Step> {
    (0..3).map(|_| step(luck, Partial, (2000, 4000))).collect()
}

fn cut_feed(luck: &mut Luck) -> Vec<Step> {
    [true, false, true].into_iter().map(|one_way| step(luck, CutFeed { one_way }, (5000, 6500))).collect()
}

fn slow_wires(luck: &mut Luck) -> Vec<Step> {
    vec![step(luck, Delay { ms: 30 }, (4000, 6000))]
}

fn lossy_wires(luck: &mut Luck) -> Vec<Step> {
    vec![step(luck, Loss { of_100: 10 }, (4000, 6000))]
}

fn lagging(luck: &mut Luck) -> Vec<Step> {
    (0..2).map(|_| step(luck, Lagging, (1500, 2500))).collect()
}

fn slow_proxy(luck: &mut Luck) -> Vec<Step> {
    (0..2).map(|_| step(luck, PauseProxy, (3000, 6000))).collect()
}

fn short_log(luck: &mut Luck) -> Vec<Step> {
    vec![step(luck, Kill { whom: Follower }, (5000, 7000)), step(luck, PauseProxy, (5000, 7000))]
}

fn nobody_left(luck: &mut Luck) -> Vec<Step> {
    vec![step(luck, NobodyLeft, (2000, 4000))]
}

fn proxy_kill(luck: &mut Luck) -> Vec<Step> {
    (0..3).map(|_| step(luck, KillProxies, (500, 1500))).collect()
}

fn power_cut(luck: &mut Luck) -> Vec<Step> {
    (0..5).map(|_| step(luck, PowerCut { whom: All }, (10, 500))).collect()
}

fn one_power_cut(luck: &mut Luck) -> Vec<Step> {
    [Leader, Follower, Leader, Follower].into_iter().map(|whom| step(luck, PowerCut { whom }, (300, 1500))).collect()
}

fn vote_cut(luck: &mut Luck) -> Vec<Step> {
    (0..3).map(|_| step(luck, VoteCut, (10, 200))).collect()
}

fn all_kill(luck: &mut Luck) -> Vec<Step> {
    (0..3).map(|_| step(luck, Kill { whom: All }, (100, 1500))).collect()
}

fn wiped(luck: &mut Luck) -> Vec<Step> {
    vec![step(luck, Wipe, (500, 1000))]
}

fn replaced(luck: &mut Luck) -> Vec<Step> {
    (0..2).map(|_| step(luck, Replace, (300, 800))).collect()
}

fn flipped(luck: &mut Luck) -> Vec<Step> {
    (0..4).map(|_| step(luck, Flip, (200, 500))).collect()
}

fn failed_sync(luck: &mut Luck) -> Vec<Step> {
    vec![step(luck, FailedSync { whom: Leader }, (500, 1500)), step(luck, FailedSync { whom: Follower }, (500, 1500))]
}

fn full_disk(luck: &mut Luck) -> Vec<Step> {
    vec![step(luck, FullDisk { whom: Leader }, (500, 1500)), step(luck, FullDisk { whom: Follower }, (500, 1500))]
}

fn failed_proxy_syncs(luck: &mut Luck) -> Vec<Step> {
    vec![step(luck, FailedProxySyncs, (3000, 5000))]
}

fn slow_disk(luck: &mut Luck) -> Vec<Step> {
    let slow = |whom| SlowDisk { whom, ms: 300 };
    vec![step(luck, slow(Leader), (3000, 4000)), step(luck, slow(Follower), (3000, 4000))]
}

fn rolling(luck: &mut Luck) -> Vec<Step> {
    vec![step(luck, Rolling, (100, 200))]
}

fn read_only(luck: &mut Luck) -> Vec<Step> {
    let on = |whom| ReadOnlyDisk { whom };
    vec![step(luck, on(Leader), (500, 1500)), step(luck, on(Follower), (500, 1500))]
}

fn cut_proxy_write(luck: &mut Luck) -> Vec<Step> {
    (0..3).map(|_| step(luck, CutProxyWrite, (100, 500))).collect()
}

fn clocks(luck: &mut Luck) -> Vec<Step> {
    let step_of = |whom, seconds| ClockStep { whom, seconds };
    let rate_of = |whom, ppm| ClockRate { whom, ppm };
    [
        step_of(Leader, 3_600),
        step_of(Leader, -86_400),
        step_of(Follower, -3_600),
        rate_of(Leader, 500_000),
        rate_of(All, -500_000),
        step_of(All, 40 * 365 * 86_400),
    ]
    .into_iter()
    .map(|fault| step(luck, fault, (1000, 1500)))
    .collect()
}

fn members(luck: &mut Luck) -> Vec<Step> {
    (0..3).map(|_| step(luck, Demote, (300, 1200))).collect()
}

fn archive_faults(luck: &mut Luck) -> Vec<Step> {
    use s3::{Call, Fault as How};
    let all = [
        (Some(Call::Put), How::Status(500)),
        (Some(Call::Put), How::LostAnswer(500)),
        (Some(Call::Put), How::TornUpload),
        (Some(Call::Put), How::Status(409)),
        (Some(Call::Put), How::Status(412)),
        (Some(Call::Put), How::Silence),
        (Some(Call::Get), How::Status(503)),
        (Some(Call::Get), How::CutBody),
        (Some(Call::Get), How::FlippedBit),
        (Some(Call::Get), How::SlowBody),
        (Some(Call::List), How::StaleList),
        (None, How::Status(403)),
    ];
    let mut steps = Vec::new();
    for (number, (call, how)) in all.into_iter().enumerate() {
        steps.push(step(luck, S3 { call, how }, (1200, 2000)));
        // A new leader begins its archiver on what the last fault has left.
        if number % 4 == 2 {
            steps.push(step(luck, Kill { whom: Leader }, (300, 600)));
        }
    }
    steps
}

/// In each round nodes, record and archive fail at the same time, one after the other in some order.
fn overlapping(luck: &mut Luck) -> Vec<Step> {
    use s3::{Call, Fault as How};
    let nodes = [
        Kill { whom: Leader },
        Kill { whom: Follower },
        Pause { whom: Leader },
        Isolate { whom: Leader },
        Mute { whom: Leader },
        Partial,
        Delay { ms: 20 },
    ];
    let archive = [
        S3 { call: None, how: How::Status(403) },
        S3 { call: Some(Call::Put), how: How::Silence },
        S3 { call: Some(Call::Put), how: How::LostAnswer(500) },
        S3 { call: Some(Call::Get), how: How::FlippedBit },
    ];
    let round = |number: u64, luck: &mut Luck| {
        // One election there is in any case.
        let node = if number == 0 { Kill { whom: Leader } } else { any(luck, &nodes) };
        let mut left = vec![node, any(luck, &[KillPostgres, FreezePostgres]), any(luck, &archive)];
        let mut steps = Vec::new();
        while !left.is_empty() {
            let fault = left.swap_remove(place(luck, left.len()));
            let lasts_ms = if left.is_empty() { (1500, 3000) } else { (200, 1000) };
            steps.push(Step { beside: !steps.is_empty(), ..step(luck, fault, lasts_ms) });
        }
        steps
    };
    (0..4).flat_map(|number| round(number, luck)).collect()
}

fn herd(luck: &mut Luck) -> Vec<Step> {
    vec![step(luck, Kill { whom: All }, (500, 1500)), step(luck, Rolling, (100, 200))]
}

/// What is served in the place of poison has to outlive whoever serves it, with nodes and without.
fn poison(luck: &mut Luck) -> Vec<Step> {
    vec![
        step(luck, KillProxies, (500, 1500)),
        step(luck, Kill { whom: Leader }, (800, 1500)),
        step(luck, PauseProxy, (1500, 3000)),
        step(luck, NobodyLeft, (1000, 2000)),
    ]
}

fn full_state(luck: &mut Luck) -> Vec<Step> {
    vec![step(luck, Bury, (100, 500))]
}

fn from_golden(luck: &mut Luck) -> Vec<Step> {
    vec![step(luck, Rolling, (100, 200)), step(luck, Kill { whom: Leader }, (800, 1500))]
}

fn forged(luck: &mut Luck) -> Vec<Step> {
    let forge_and_kill =
        |luck: &mut Luck| [step(luck, Forge, (300, 600)), step(luck, Kill { whom: Leader }, (500, 1000))];
    (0..2).flat_map(|_| forge_and_kill(luck)).collect()
}

fn postgres_failover(luck: &mut Luck) -> Vec<Step> {
    vec![step(luck, FailOverPostgres, (2500, 4000)), step(luck, Kill { whom: Leader }, (500, 1000))]
}

fn postgres_kill(luck: &mut Luck) -> Vec<Step> {
    vec![step(luck, KillPostgres, (2000, 4000)), step(luck, Kill { whom: Leader }, (500, 1000))]
}

fn torn_files(luck: &mut Luck) -> Vec<Step> {
    let tears = [Tear::Cut, Tear::LastBlock, Tear::Zeros, Tear::Old];
    let each = |tear| [TearNode { tear }, TearProxy { tear }];
    tears.into_iter().flat_map(each).map(|fault| step(luck, fault, (200, 500))).collect()
}

fn failpoints(luck: &mut Luck) -> Vec<Step> {
    sweep::a_few(luck, 4)
}

fn postgres_freeze(luck: &mut Luck) -> Vec<Step> {
    vec![step(luck, FreezePostgres, (4000, 6000))]
}

/// In the last round the server dies behind the wire that is cut, and nobody tells the leader.
fn cut_record(luck: &mut Luck) -> Vec<Step> {
    let cut = |whom, way| CutOutside { whom, from: Outside::Record, way };
    vec![
        step(luck, cut(All, Way::Both), (4000, 6000)),
        step(luck, cut(Leader, Way::Back), (4000, 6000)),
        step(luck, cut(Leader, Way::There), (4000, 6000)),
        step(luck, cut(All, Way::Both), (200, 1000)),
        Step { beside: true, ..step(luck, KillPostgres, (3000, 5000)) },
    ]
}

fn cut_archive(luck: &mut Luck) -> Vec<Step> {
    let cut = |whom, way| CutOutside { whom, from: Outside::Archive, way };
    [cut(All, Way::Both), cut(Leader, Way::Back), cut(Leader, Way::There)]
        .into_iter()
        .map(|fault| step(luck, fault, (4000, 6000)))
        .collect()
}

fn lost_link(luck: &mut Luck) -> Vec<Step> {
    let lost = |whom, dies| LostLink { whom, dies };
    [lost(Leader, false), lost(Leader, true), lost(Follower, false), lost(Follower, true)]
        .into_iter()
        .map(|fault| step(luck, fault, (3000, 5000)))
        .collect()
}
