//! What goes wrong in each scenario, and when.

use crate::fault::Fault::{self, *};
use crate::fault::Whom::{All, Follower, Leader};
use crate::fault::{Hindrance, Tear};
use crate::fault::{Outside, Way};
use crate::luck::Luck;
use crate::s3;
use crate::scenario::Step;
use crate::sweep;

fn step(luck: &mut Luck, fault: Fault, lasts_ms: (u64, u64)) -> Step {
    Step { after_ms: luck.between(300, 1200), fault, lasts_ms: luck.between(lasts_ms.0, lasts_ms.1), beside: false }
}

fn place(luck: &mut Luck, of: usize) -> usize {
    usize::try_from(luck.below(of as u64)).expect("a place in a list")
}

fn any<T: Copy>(luck: &mut Luck, of: &[T]) -> T {
    of[place(luck, of.len())]
}

pub(super) fn calm(_luck: &mut Luck) -> Vec<Step> {
    Vec::new()
}

pub(super) fn leader_kill(luck: &mut Luck) -> Vec<Step> {
    (0..4).map(|_| step(luck, Kill { whom: Leader }, (800, 2500))).collect()
}

pub(super) fn drain(luck: &mut Luck) -> Vec<Step> {
    (0..3).map(|_| step(luck, Stop { whom: Leader }, (500, 1500))).collect()
}

pub(super) fn leader_pause(luck: &mut Luck) -> Vec<Step> {
    (0..3).map(|_| step(luck, Pause { whom: Leader }, (1500, 4000))).collect()
}

pub(super) fn isolated_leader(luck: &mut Luck) -> Vec<Step> {
    // Whoever waits at it gives up after `admin.deadline`, 1.9 s, and is refused when it asks again.
    (0..3).map(|_| step(luck, Isolate { whom: Leader }, (3000, 5000))).collect()
}

pub(super) fn one_way(luck: &mut Luck) -> Vec<Step> {
    [Deaf { whom: Leader }, Mute { whom: Leader }, Mute { whom: Follower }, Deaf { whom: Follower }]
        .into_iter()
        .map(|fault| step(luck, fault, (2000, 3500)))
        .collect()
}

pub(super) fn partial(luck: &mut Luck) -> Vec<Step> {
    (0..3).map(|_| step(luck, Partial, (2000, 4000))).collect()
}

pub(super) fn cut_feed(luck: &mut Luck) -> Vec<Step> {
    [true, false, true].into_iter().map(|one_way| step(luck, CutFeed { one_way }, (5000, 6500))).collect()
}

pub(super) fn slow_wires(luck: &mut Luck) -> Vec<Step> {
    vec![step(luck, Delay { ms: 30 }, (4000, 6000))]
}

pub(super) fn lossy_wires(luck: &mut Luck) -> Vec<Step> {
    vec![step(luck, Loss { of_100: 10 }, (4000, 6000))]
}

pub(super) fn lagging(luck: &mut Luck) -> Vec<Step> {
    (0..2).map(|_| step(luck, Lagging, (1500, 2500))).collect()
}

pub(super) fn slow_proxy(luck: &mut Luck) -> Vec<Step> {
    (0..2).map(|_| step(luck, PauseProxy, (3000, 6000))).collect()
}

pub(super) fn short_log(luck: &mut Luck) -> Vec<Step> {
    vec![step(luck, Kill { whom: Follower }, (5000, 7000)), step(luck, PauseProxy, (5000, 7000))]
}

pub(super) fn nobody_left(luck: &mut Luck) -> Vec<Step> {
    vec![step(luck, NobodyLeft, (2000, 4000))]
}

pub(super) fn proxy_kill(luck: &mut Luck) -> Vec<Step> {
    (0..3).map(|_| step(luck, KillProxies, (500, 1500))).collect()
}

pub(super) fn power_cut(luck: &mut Luck) -> Vec<Step> {
    (0..5).map(|_| step(luck, PowerCut { whom: All }, (10, 500))).collect()
}

pub(super) fn one_power_cut(luck: &mut Luck) -> Vec<Step> {
    [Leader, Follower, Leader, Follower].into_iter().map(|whom| step(luck, PowerCut { whom }, (300, 1500))).collect()
}

pub(super) fn vote_cut(luck: &mut Luck) -> Vec<Step> {
    (0..3).map(|_| step(luck, VoteCut, (10, 200))).collect()
}

pub(super) fn all_kill(luck: &mut Luck) -> Vec<Step> {
    (0..3).map(|_| step(luck, Kill { whom: All }, (100, 1500))).collect()
}

pub(super) fn wiped(luck: &mut Luck) -> Vec<Step> {
    vec![step(luck, Wipe, (500, 1000))]
}

pub(super) fn replaced(luck: &mut Luck) -> Vec<Step> {
    (0..2).map(|_| step(luck, Replace, (300, 800))).collect()
}

pub(super) fn flipped(luck: &mut Luck) -> Vec<Step> {
    (0..4).map(|_| step(luck, Flip, (200, 500))).collect()
}

pub(super) fn failed_sync(luck: &mut Luck) -> Vec<Step> {
    vec![step(luck, FailedSync { whom: Leader }, (500, 1500)), step(luck, FailedSync { whom: Follower }, (500, 1500))]
}

pub(super) fn full_disk(luck: &mut Luck) -> Vec<Step> {
    vec![step(luck, FullDisk { whom: Leader }, (500, 1500)), step(luck, FullDisk { whom: Follower }, (500, 1500))]
}

pub(super) fn failed_proxy_syncs(luck: &mut Luck) -> Vec<Step> {
    vec![step(luck, FailedProxySyncs, (3000, 5000))]
}

pub(super) fn slow_disk(luck: &mut Luck) -> Vec<Step> {
    let slow = |whom| SlowDisk { whom, ms: 300 };
    vec![step(luck, slow(Leader), (3000, 4000)), step(luck, slow(Follower), (3000, 4000))]
}

pub(super) fn rolling(luck: &mut Luck) -> Vec<Step> {
    vec![step(luck, Rolling, (100, 200))]
}

pub(super) fn read_only(luck: &mut Luck) -> Vec<Step> {
    let on = |whom| ReadOnlyDisk { whom };
    vec![step(luck, on(Leader), (500, 1500)), step(luck, on(Follower), (500, 1500))]
}

pub(super) fn cut_proxy_write(luck: &mut Luck) -> Vec<Step> {
    (0..3).map(|_| step(luck, CutProxyWrite, (100, 500))).collect()
}

pub(super) fn clocks(luck: &mut Luck) -> Vec<Step> {
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

pub(super) fn members(luck: &mut Luck) -> Vec<Step> {
    (0..3).map(|_| step(luck, Demote, (300, 1200))).collect()
}

pub(super) fn archive_faults(luck: &mut Luck) -> Vec<Step> {
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
pub(super) fn overlapping(luck: &mut Luck) -> Vec<Step> {
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

pub(super) fn herd(luck: &mut Luck) -> Vec<Step> {
    vec![step(luck, Kill { whom: All }, (500, 1500)), step(luck, Rolling, (100, 200))]
}

/// What is served in the place of poison has to outlive whoever serves it, with nodes and without.
pub(super) fn poison(luck: &mut Luck) -> Vec<Step> {
    vec![
        step(luck, KillProxies, (500, 1500)),
        step(luck, Kill { whom: Leader }, (800, 1500)),
        step(luck, PauseProxy, (1500, 3000)),
        step(luck, NobodyLeft, (1000, 2000)),
    ]
}

pub(super) fn full_state(luck: &mut Luck) -> Vec<Step> {
    vec![step(luck, Bury, (100, 500))]
}

pub(super) fn from_golden(luck: &mut Luck) -> Vec<Step> {
    vec![step(luck, Rolling, (100, 200)), step(luck, Kill { whom: Leader }, (800, 1500))]
}

pub(super) fn forged(luck: &mut Luck) -> Vec<Step> {
    let forge_and_kill =
        |luck: &mut Luck| [step(luck, Forge, (300, 600)), step(luck, Kill { whom: Leader }, (500, 1000))];
    (0..2).flat_map(|_| forge_and_kill(luck)).collect()
}

pub(super) fn postgres_failover(luck: &mut Luck) -> Vec<Step> {
    vec![step(luck, FailOverPostgres, (2500, 4000)), step(luck, Kill { whom: Leader }, (500, 1000))]
}

pub(super) fn postgres_kill(luck: &mut Luck) -> Vec<Step> {
    vec![step(luck, KillPostgres, (2000, 4000)), step(luck, Kill { whom: Leader }, (500, 1000))]
}

pub(super) fn torn_files(luck: &mut Luck) -> Vec<Step> {
    let tears = [Tear::Cut, Tear::LastBlock, Tear::Zeros, Tear::Old];
    let each = |tear| [TearNode { tear }, TearProxy { tear }];
    tears.into_iter().flat_map(each).map(|fault| step(luck, fault, (200, 500))).collect()
}

pub(super) fn failpoints(luck: &mut Luck) -> Vec<Step> {
    sweep::a_few(luck, 4)
}

pub(super) fn postgres_freeze(luck: &mut Luck) -> Vec<Step> {
    vec![step(luck, FreezePostgres, (4000, 6000))]
}

/// In the last round the server dies behind the wire that is cut, and nobody tells the leader.
pub(super) fn cut_record(luck: &mut Luck) -> Vec<Step> {
    let cut = |whom, way| CutOutside { whom, from: Outside::Record, way };
    vec![
        step(luck, cut(All, Way::Both), (4000, 6000)),
        step(luck, cut(Leader, Way::Back), (4000, 6000)),
        step(luck, cut(Leader, Way::There), (4000, 6000)),
        step(luck, cut(All, Way::Both), (200, 1000)),
        Step { beside: true, ..step(luck, KillPostgres, (3000, 5000)) },
    ]
}

pub(super) fn cut_archive(luck: &mut Luck) -> Vec<Step> {
    let cut = |whom, way| CutOutside { whom, from: Outside::Archive, way };
    [cut(All, Way::Both), cut(Leader, Way::Back), cut(Leader, Way::There)]
        .into_iter()
        .map(|fault| step(luck, fault, (4000, 6000)))
        .collect()
}

/// When it is refused, the archive has a newer configuration that nobody who counts has signed; in the last round it is older than
/// what the proxy's disk has.
pub(super) fn lone_proxy(luck: &mut Luck) -> Vec<Step> {
    use s3::{Call, Fault as How};
    let starts = |emptied, alone, archive| StartProxy { emptied, alone, archive };
    vec![
        step(luck, starts(true, false, Hindrance::Cut), (500, 1500)),
        step(luck, starts(true, true, Hindrance::Cut), (2000, 4000)),
        step(luck, Forge, (200, 400)),
        step(luck, starts(true, true, Hindrance::Refused), (2000, 3000)),
        step(luck, starts(true, true, Hindrance::Slow), (500, 1500)),
        step(luck, starts(false, true, Hindrance::Cut), (500, 1500)),
        step(luck, S3 { call: Some(Call::Put), how: How::Status(500) }, (1500, 2500)),
        Step { beside: true, ..step(luck, starts(false, true, Hindrance::Slow), (2000, 3000)) },
    ]
}

pub(super) fn lost_link(luck: &mut Luck) -> Vec<Step> {
    let lost = |whom, dies| LostLink { whom, dies };
    [lost(Leader, false), lost(Leader, true), lost(Follower, false), lost(Follower, true)]
        .into_iter()
        .map(|fault| step(luck, fault, (3000, 5000)))
        .collect()
}
