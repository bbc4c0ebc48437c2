//! The harness is proved by planted bugs: each is turned on in real programs (`planted!` in the source, and the feature
//! `failpoints`; never in a release), and a scenario must break a law over it.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

use crate::arena::Planted;
use crate::binaries;
use crate::layout::Layout;
use crate::luck::Luck;
use crate::scenario::{self, Order, SaysNothing, Verdict};
use crate::sweep;

/// Runs on a machine that is disturbed before a control is given up.
const CONTROLS_MAX: usize = 3;

/// Programs that could have a bug planted, and have none.
pub const NOTHING: &str = "nothing";

/// A bug that is planted.
#[derive(Clone, Copy, Debug)]
pub struct Mutant {
    /// Its name in the source.
    pub name: &'static str,
    /// What goes wrong with it, in a line.
    pub about: &'static str,
    /// How often it is there: a task of the crate `fail`.
    pub when: &'static str,
    /// The scenario that must notice.
    pub scenario: &'static str,
    /// The laws that say so: one of them must be broken.
    pub laws: &'static [&'static str],
    /// The failpoint that programs must end at for it to show, in place of what the scenario does by its seed.
    pub point: Option<&'static str>,
}

impl Mutant {
    /// It shows when programs end at this failpoint.
    const fn at(self, point: &'static str) -> Self {
        Self { point: Some(point), ..self }
    }
}

const fn mutant(
    name: &'static str,
    when: &'static str,
    scenario: &'static str,
    laws: &'static [&'static str],
    about: &'static str,
) -> Mutant {
    Mutant { name, about, when, scenario, laws, point: None }
}

const ALWAYS: &str = "return";
/// One time in a hundred: often enough to be there, and seldom enough that a cluster works.
const SELDOM: &str = "1%return";
/// Not the first times, in which a cluster starts and its proxies come to serve.
const LATER: &str = "25*off->return";

/// All of them. Each that is in the source is in here, and each that is in here is in the source.
pub const ALL: &[Mutant] = &[
    mutant(
        "log-not-synced",
        ALWAYS,
        "power-cut",
        &["it-heals", "acknowledged-writes-survive"],
        "an entry is acknowledged before its disk has it",
    ),
    mutant("vote-not-synced", ALWAYS, "vote-cut", &["terms-never-go-back"], "a vote is given before its disk has it"),
    mutant(
        "follower-writes-nothing",
        ALWAYS,
        "all-kill",
        &["it-heals", "acknowledged-writes-survive"],
        "a follower acknowledges entries that it never writes",
    ),
    mutant("failed-sync-tried-again", ALWAYS, "failed-sync", &["it-heals"], "a failed sync is tried again"),
    mutant(
        "retry-carried-out-again",
        ALWAYS,
        "leader-kill",
        &["exactly-once"],
        "a command that comes again is carried out again",
    ),
    mutant(
        "request-id-forgotten",
        ALWAYS,
        "calm",
        &["exactly-once"],
        "a client's retry under its request id is carried out again",
    ),
    mutant(
        "half-a-transaction",
        ALWAYS,
        "calm",
        &["transactions-are-atomic"],
        "the last write of a transaction is left out",
    ),
    mutant("condition-ignored", ALWAYS, "calm", &["one-order"], "a write on a condition is made whatever stands there"),
    mutant(
        "patch-loses-an-update",
        ALWAYS,
        "calm",
        &["one-order", "stream-contract"],
        "a patch is merged into what was there when it was asked for, whoever has written since",
    ),
    mutant(
        "delete-leaves-it",
        ALWAYS,
        "calm",
        &["acknowledged-writes-survive", "proxies-route-what-they-say"],
        "what was deleted stays",
    ),
    mutant(
        "replicas-differ",
        SELDOM,
        "calm",
        &["equal-position-equal-digest"],
        "one replica leaves a write out that the others make",
    ),
    mutant(
        "snapshot-loses-a-resource",
        ALWAYS,
        "short-log",
        &["equal-position-equal-digest"],
        "a snapshot lacks a resource",
    ),
    mutant(
        "read-without-index",
        ALWAYS,
        "isolated-leader",
        &["acknowledged-writes-survive", "one-order"],
        "a read asks nobody whether this node is up to date",
    ),
    mutant(
        "answer-names-another-revision",
        SELDOM,
        "calm",
        &["one-history", "one-order"],
        "an answer names the revision after its own",
    ),
    mutant(
        "resume-off-by-one",
        ALWAYS,
        "calm",
        &["stream-contract"],
        "a feed resumes one revision after where its reader stands",
    ),
    mutant(
        "gap-after-reconnect",
        ALWAYS,
        "calm",
        &["stream-contract"],
        "a feed that resumes leaves its first step out",
    ),
    mutant("feed-skips-a-step", SELDOM, "calm", &["stream-contract"], "a feed leaves a step out"),
    mutant("feed-repeats-a-step", SELDOM, "calm", &["stream-contract"], "a feed sends a step twice"),
    mutant(
        "bookmark-runs-ahead",
        LATER,
        "slow-proxy",
        &["stream-contract"],
        "a bookmark names a position whose changes were not sent",
    ),
    mutant(
        "no-pre-vote",
        ALWAYS,
        "one-way",
        &["elections-per-fault"],
        "a node that hears nobody stands for election again and again",
    ),
    mutant(
        "record-skips-a-change",
        SELDOM,
        "two-writers",
        &["record-is-a-gapless-prefix"],
        "a step moves the record's cursor without all of its rows",
    ),
    mutant(
        "record-not-fenced",
        ALWAYS,
        "two-writers",
        &["record-never-goes-back"],
        "a leader that was deposed writes to the record",
    ),
    mutant(
        "any-signature-counts",
        ALWAYS,
        "forged-archive",
        &["archive-is-the-cluster"],
        "what nobody has signed is taken from an archive",
    ),
    mutant(
        "pointer-before-body",
        ALWAYS,
        "archive-faults",
        &["pointer-names-what-is-there"],
        "the archive's pointer names what is not there yet",
    ),
    mutant(
        "pointer-moved-blindly",
        ALWAYS,
        "two-archivers",
        &["pointer-never-goes-back"],
        "the archive's pointer is moved without a comparison",
    ),
    mutant(
        "two-generations",
        ALWAYS,
        "calm",
        &["one-generation-per-request"],
        "a request takes its route and its upstream from two generations",
    ),
    mutant(
        "full-state-loses-a-resource",
        ALWAYS,
        "full-state",
        &["equal-position-equal-digest", "stream-contract"],
        "a feed's full state lacks a resource",
    ),
    mutant(
        "rejected-is-left-out",
        ALWAYS,
        "poison",
        &["proxies-route-what-they-say"],
        "a proxy has no route where it cannot serve it",
    ),
    mutant(
        "last-good-is-forgotten",
        ALWAYS,
        "poison",
        &["proxies-name-what-they-reject", "proxies-route-what-they-say"],
        "a proxy refuses what it served until it was poison",
    ),
    mutant(
        "proxy-goes-back",
        ALWAYS,
        "lagging-follower",
        &["positions-never-go-back"],
        "a proxy takes an older configuration",
    ),
    mutant(
        "proxy-forgets-its-disk",
        ALWAYS,
        "nobody-left",
        &["it-heals"],
        "a proxy that was restarted begins with nothing",
    ),
    mutant(
        "proxy-without-a-node-serves-nothing",
        ALWAYS,
        "nobody-left",
        &["positions-never-go-back", "no-request-fails"],
        "a proxy throws its configuration away when it loses its node",
    ),
    mutant(
        "record-told-before-commit",
        ALWAYS,
        "failpoints",
        &["record-never-goes-back"],
        "the cluster is told that the record has what is only about to be sent to it",
    )
    .at("record::before_step"),
    mutant(
        "name-of-joining-forgotten",
        ALWAYS,
        "failpoints",
        &["it-heals"],
        "a node that died while it joined asks for another place",
    )
    .at("join::before_claim"),
];

/// What came of a hunt.
#[derive(Clone, Debug)]
pub struct Hunt {
    /// Whether a law was broken that says so.
    pub found: bool,
    /// The laws that were broken; none: nobody noticed anything.
    pub broken: Vec<&'static str>,
    /// How many runs it took, or were made in vain.
    pub runs: u64,
    /// How long they took.
    pub took: Duration,
    /// What was said of runs that were neither valid nor failed.
    pub invalid: Vec<String>,
}

/// The programs with a bug planted, or with [`NOTHING`].
///
/// # Errors
/// When they are not built, or there is no such bug.
pub fn programs(name: &str) -> Result<Planted> {
    let (cp, dp) = (binaries::failing("failing-cp-node")?, binaries::failing("failing-dp-proxy")?);
    if name == NOTHING {
        return Ok(Planted { name: NOTHING, cp, dp, environment: None });
    }
    let mutant = ALL.iter().find(|mutant| mutant.name == name);
    let mutant = mutant.with_context(|| format!("no bug {name} is planted: see `chaos mutants`"))?;
    let planting = format!("plant::{}={}", mutant.name, mutant.when);
    Ok(Planted { name: mutant.name, cp, dp, environment: Some(("FAILPOINTS".into(), planting.into())) })
}

/// Runs a scenario with the programs of a hunt and no bug: it must hold, or what is found shows nothing. Tells what it took.
///
/// # Errors
/// When it did not hold.
pub async fn control(name: &str, layout: Layout, reports: PathBuf) -> Result<String> {
    let mut disturbed = Vec::new();
    while disturbed.len() < CONTROLS_MAX {
        let mut order = order(name, 1, layout, reports.join(NOTHING))?;
        order.planted = Some(programs(NOTHING)?);
        let outcome = scenario::run(&order).await?;
        match outcome.verdict {
            Verdict::Valid => return Ok(format!("held in {} s, as it must", outcome.took.as_secs())),
            Verdict::Invalid(SaysNothing::Disturbed(why)) => disturbed.push(why),
            verdict => bail!("{name} does not hold with no bug planted: {verdict:?}"),
        }
    }
    bail!("{name} with no bug planted was disturbed each time: {disturbed:?}")
}

/// Runs a mutant's scenario with it, under up to so many seeds, until a law is broken that says so.
///
/// # Errors
/// When programs with planted bugs are not built, or there is no such scenario.
pub async fn hunt(mutant: &Mutant, layout: Layout, seeds: u64, reports: PathBuf) -> Result<Hunt> {
    let began = Instant::now();
    let mut hunt = Hunt { found: false, broken: Vec::new(), runs: 0, took: Duration::ZERO, invalid: Vec::new() };
    while !hunt.found && hunt.runs < seeds {
        hunt.runs += 1;
        let mut order = order(mutant.scenario, hunt.runs, layout, reports.join(mutant.name))?;
        order.planted = Some(programs(mutant.name)?);
        order.schedule = mutant.point.and_then(sweep::find).map(|point| vec![sweep::step(point, &mut luck(hunt.runs))]);
        match scenario::run(&order).await?.verdict {
            Verdict::Valid => {}
            Verdict::Invalid(why) => hunt.invalid.push(why.to_string()),
            Verdict::Failed(breaches) => {
                let laws: BTreeSet<&str> = breaches.iter().map(|breach| breach.law).collect();
                hunt.found = laws.iter().any(|law| mutant.laws.contains(law));
                hunt.broken = laws.into_iter().collect();
            }
        }
    }
    hunt.took = began.elapsed();
    Ok(hunt)
}

fn luck(seed: u64) -> Luck {
    scenario::plan_luck(seed)
}

fn order(name: &str, seed: u64, layout: Layout, reports: PathBuf) -> Result<Order> {
    let scenario = scenario::find(name).with_context(|| format!("no scenario {name}"))?;
    Ok(Order::new(scenario, seed, reports, layout))
}

#[cfg(test)]
mod tests {
    use super::ALL;

    #[test]
    fn the_bugs_in_the_source_are_those_that_are_hunted() {
        let mut hunted: Vec<&str> = ALL.iter().map(|mutant| mutant.name).collect();
        hunted.sort_unstable();
        assert_eq!(crate::failpoints::planted().unwrap(), hunted);
        let unknown: Vec<_> = ALL.iter().filter(|mutant| crate::scenario::find(mutant.scenario).is_none()).collect();
        assert!(unknown.is_empty(), "{unknown:?}");
        let nowhere = |mutant: &&super::Mutant| mutant.point.is_some_and(|point| crate::sweep::find(point).is_none());
        assert!(!ALL.iter().any(|mutant| nowhere(&mutant)), "a bug is to show at a failpoint that is not there");
    }

    #[test]
    fn every_bug_is_to_break_laws_that_there_are() {
        let laws = crate::check::laws();
        for mutant in ALL {
            assert!(!mutant.laws.is_empty(), "{}", mutant.name);
            let unknown: Vec<_> = mutant.laws.iter().filter(|law| !laws.contains(law)).collect();
            assert!(unknown.is_empty(), "{}: there is no law {unknown:?}", mutant.name);
        }
    }
}
