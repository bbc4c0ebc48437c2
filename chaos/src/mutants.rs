//! The harness is proved by planted bugs: each is turned on in real programs (`planted!` in the source, and the feature
//! `failpoints`; never in a release), and a scenario must break a law over it.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use crate::arena::Planted;
use crate::binaries;
use crate::layout::Layout;
use crate::scenario::{self, Order, Verdict};

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
}

const fn mutant(name: &'static str, when: &'static str, scenario: &'static str, about: &'static str) -> Mutant {
    Mutant { name, about, when, scenario }
}

const ALWAYS: &str = "return";
/// One time in a hundred: often enough to be there, and seldom enough that a cluster works.
const SELDOM: &str = "1%return";

/// All of them. Each that is in the source is in here, and each that is in here is in the source.
pub const ALL: &[Mutant] = &[
    mutant("log-not-synced", ALWAYS, "power-cut", "an entry is acknowledged before its disk has it"),
    mutant("vote-not-synced", ALWAYS, "vote-cut", "a vote is given before its disk has it"),
    mutant("follower-writes-nothing", ALWAYS, "all-kill", "a follower acknowledges entries that it never writes"),
    mutant("failed-sync-tried-again", ALWAYS, "failed-sync", "a failed sync is tried again"),
    mutant("retry-carried-out-again", ALWAYS, "leader-kill", "a command that comes again is carried out again"),
    mutant("request-id-forgotten", ALWAYS, "calm", "a client's retry under its request id is carried out again"),
    mutant("half-a-transaction", ALWAYS, "calm", "the last write of a transaction is left out"),
    mutant("condition-ignored", ALWAYS, "calm", "a write on a condition is made whatever stands there"),
    mutant("delete-leaves-it", ALWAYS, "calm", "what was deleted stays"),
    mutant("replicas-differ", SELDOM, "calm", "one replica leaves a write out that the others make"),
    mutant("snapshot-loses-a-resource", ALWAYS, "short-log", "a snapshot lacks a resource"),
    mutant("read-without-index", ALWAYS, "isolated-leader", "a read asks nobody whether this node is up to date"),
    mutant("answer-names-another-revision", SELDOM, "calm", "an answer names the revision after its own"),
    mutant("resume-off-by-one", ALWAYS, "calm", "a feed resumes one revision after where its reader stands"),
    mutant("gap-after-reconnect", ALWAYS, "calm", "a feed that resumes leaves its first step out"),
    mutant("feed-skips-a-step", SELDOM, "calm", "a feed leaves a step out"),
    mutant("feed-repeats-a-step", SELDOM, "calm", "a feed sends a step twice"),
    mutant("bookmark-runs-ahead", ALWAYS, "calm", "a bookmark names a position whose changes were not sent"),
    mutant("no-pre-vote", ALWAYS, "one-way", "a node that hears nobody stands for election again and again"),
    mutant("record-skips-a-change", SELDOM, "two-writers", "a step moves the record's cursor without all of its rows"),
    mutant("record-not-fenced", ALWAYS, "two-writers", "a leader that was deposed writes to the record"),
    mutant("any-signature-counts", ALWAYS, "forged-archive", "what nobody has signed is taken from an archive"),
    mutant("pointer-before-body", ALWAYS, "archive-faults", "the archive's pointer names what is not there yet"),
    mutant("pointer-moved-blindly", ALWAYS, "two-archivers", "the archive's pointer is moved without a comparison"),
    mutant("two-generations", ALWAYS, "calm", "a request takes its route and its upstream from two generations"),
    mutant("proxy-goes-back", ALWAYS, "lagging-follower", "a proxy takes an older configuration"),
    mutant("proxy-forgets-its-disk", ALWAYS, "nobody-left", "a proxy that was restarted begins with nothing"),
    mutant(
        "proxy-without-a-node-serves-nothing",
        ALWAYS,
        "nobody-left",
        "a proxy throws its configuration away when it loses its node",
    ),
];

/// What came of a hunt.
#[derive(Clone, Debug)]
pub struct Hunt {
    /// The laws that were broken; none: nobody noticed.
    pub broken: Vec<&'static str>,
    /// How many runs it took, or were made in vain.
    pub runs: u64,
    /// How long they took.
    pub took: Duration,
    /// What was said of runs that were neither valid nor failed.
    pub invalid: Vec<String>,
}

/// Runs a mutant's scenario with it, under up to so many seeds, until a law is broken.
///
/// # Errors
/// When programs with planted bugs are not built, or there is no such scenario.
pub async fn hunt(mutant: &Mutant, layout: Layout, seeds: u64, reports: PathBuf) -> Result<Hunt> {
    let planted = Planted {
        cp: binaries::failing("failing-cp-node")?,
        dp: binaries::failing("failing-dp-proxy")?,
        environment: ("FAILPOINTS".into(), format!("plant::{}={}", mutant.name, mutant.when).into()),
    };
    let scenario = scenario::find(mutant.scenario).with_context(|| format!("no scenario {}", mutant.scenario))?;
    let began = Instant::now();
    let mut hunt = Hunt { broken: Vec::new(), runs: 0, took: Duration::ZERO, invalid: Vec::new() };
    while hunt.broken.is_empty() && hunt.runs < seeds {
        hunt.runs += 1;
        let (reports, planted) = (reports.join(mutant.name), Some(planted.clone()));
        let order = Order { scenario, seed: hunt.runs, schedule: None, reports, layout, planted };
        match scenario::run(&order).await {
            Ok(outcome) => match outcome.verdict {
                Verdict::Valid => {}
                Verdict::Invalid(why) => hunt.invalid.push(why.to_string()),
                Verdict::Failed(breaches) => {
                    hunt.broken = breaches.iter().map(|breach| breach.law).collect();
                    hunt.broken.sort_unstable();
                    hunt.broken.dedup();
                }
            },
            // The harness could not do its part: no verdict.
            Err(why) => hunt.invalid.push(format!("{why:#}")),
        }
    }
    hunt.took = began.elapsed();
    Ok(hunt)
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
    }
}
