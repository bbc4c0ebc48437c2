//! The sweep: for each failpoint there is, programs end at it under load, come back, and every law holds.
//!
//! ```text
//!   points of a cluster --a few to a run, one after the other--> scenario `failpoints`, with just these --> verdict of each
//!   points of a node by itself --> [`alone`]: a command or a start ends there, is made again, and all is there
//! ```
//!
//! Nodes, proxies, the record and the archive are real. A point that nobody comes by is a failure of the sweep, and said.

mod alone;
mod points;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

pub use points::{ALL, Met, Point, find};

use crate::arena::Planted;
use crate::check::Breach;
use crate::fault::Fault;
use crate::history;
use crate::layout::Layout;
use crate::luck::Luck;
use crate::mutants;
use crate::scenario::{self, Order, SaysNothing, Step, Verdict};

/// The scenario that points of a cluster are swept in.
const SCENARIO: &str = "failpoints";
/// Points in one run: more are swept faster, and leave more to be swept again when one breaks something.
const RUN_POINTS: usize = 8;
/// How often a run is made again when the machine was disturbed before anything was done to it.
const DISTURBED_MAX: u32 = 3;
/// What breaks a run off: whatever was not done yet is done in another.
const BROKEN_OFF: &str = "it-heals";

/// Nobody has ended at a point.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("nobody came by {0}")]
pub struct NotReached(pub &'static str);

/// What is to be swept.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The points.
    pub points: Vec<Point>,
    /// Decides how often a point is passed, and on whom it is.
    pub seed: u64,
    /// Where reports are left.
    pub reports: PathBuf,
    /// Which addresses are taken.
    pub layout: Layout,
    /// The programs; they must have failpoints. A bug may be planted in them.
    pub programs: Planted,
}

/// What came of a point.
#[derive(Clone, Debug)]
pub struct Swept {
    /// Which.
    pub point: Point,
    /// What was broken, or that nobody came by; nothing: all laws held.
    pub broken: Option<String>,
    /// How long the run took in which it was swept.
    pub took: Duration,
}

impl Plan {
    /// A plan for the points whose names contain one of `only`; for all, where it is empty.
    ///
    /// # Errors
    /// When there is no such point, or the programs are not built.
    pub fn new(only: &[String], seed: u64, reports: PathBuf, layout: Layout) -> Result<Self> {
        let wanted = |point: &&Point| only.is_empty() || only.iter().any(|part| point.name.contains(part));
        let points: Vec<Point> = ALL.iter().filter(wanted).copied().collect();
        anyhow::ensure!(!points.is_empty(), "no failpoint has a name with {only:?}: see `chaos sweep --list`");
        Ok(Self { points, seed, reports, layout, programs: mutants::programs(mutants::NOTHING)? })
    }
}

/// Sweeps them; `tell` is told of each, as it comes.
///
/// # Errors
/// When the harness cannot do its part.
pub async fn run(plan: &Plan, mut tell: impl FnMut(&Swept)) -> Result<Vec<Swept>> {
    let mut all = Vec::new();
    let mut note = |swept: Swept| {
        tell(&swept);
        all.push(swept);
    };
    let in_cluster: Vec<Point> = plan.points.iter().copied().filter(|point| point.met.is_in_a_cluster()).collect();
    let mut queue: VecDeque<Vec<Point>> = in_cluster.chunks(RUN_POINTS).map(<[Point]>::to_vec).collect();
    let mut runs = 0;
    while let Some(points) = queue.pop_front() {
        runs += 1;
        let Verdicts { swept, left } = in_a_cluster(plan, &points, runs).await?;
        swept.into_iter().for_each(&mut note);
        left.into_iter().rev().for_each(|points| queue.push_front(points));
    }
    for point in plan.points.iter().filter(|point| !point.met.is_in_a_cluster()) {
        if point.met == Met::LargeFile {
            continue;
        }
        let began = Instant::now();
        let broken = alone::sweep(plan, *point).await.err().map(|why| format!("{why:#}"));
        note(Swept { point: *point, broken, took: began.elapsed() });
    }
    Ok(all)
}

/// What a run has said of its points.
struct Verdicts {
    swept: Vec<Swept>,
    /// Those of which it has said nothing, by the run that they are to be swept in.
    left: Vec<Vec<Point>>,
}

async fn in_a_cluster(plan: &Plan, points: &[Point], run: u64) -> Result<Verdicts> {
    let mut luck = Luck::of(&[plan.seed, run]);
    let schedule = points.iter().map(|point| step(*point, &mut luck)).collect();
    let scenario = scenario::find(SCENARIO).context("the sweep has a scenario")?;
    let reports = plan.reports.join(format!("{run}"));
    let order = Order {
        schedule: Some(schedule),
        planted: Some(plan.programs.clone()),
        ..Order::new(scenario, plan.seed, reports, plan.layout)
    };
    let mut disturbed = 0;
    loop {
        let outcome = scenario::run(&order).await?;
        let healed = healed(&history::read(&outcome.directory.join("history.jsonl"))?);
        let swept = |point: Point, broken| Swept { point, broken, took: outcome.took };
        match outcome.verdict {
            Verdict::Valid => {
                let swept = points.iter().map(|point| swept(*point, None)).collect();
                return Ok(Verdicts { swept, left: Vec::new() });
            }
            Verdict::Invalid(SaysNothing::Disturbed(why)) if disturbed < DISTURBED_MAX => {
                disturbed += 1;
                println!("    once more: {why}");
            }
            Verdict::Invalid(why) => anyhow::bail!("{why}; see {}", outcome.directory.display()),
            Verdict::Failed(breaches) => {
                let told = told(&breaches, &outcome.directory);
                let (before, at_fault, after) = blame(points, healed, &breaches);
                let mut all: Vec<Swept> = before.iter().map(|point| swept(*point, None)).collect();
                all.extend(at_fault.map(|point| swept(point, Some(told))));
                return Ok(Verdicts { swept: all, left: after });
            }
        }
    }
}

/// Of points that were swept in a run that broke laws: those that held, the one that broke them where that is known, and those
/// of which nothing is known, by the run that they are to be swept in.
fn blame(points: &[Point], healed: usize, breaches: &[Breach]) -> (Vec<Point>, Option<Point>, Vec<Vec<Point>>) {
    if let [point] = points {
        return (Vec::new(), Some(*point), Vec::new());
    }
    let is_only_broken_off = breaches.iter().all(|breach| breach.law == BROKEN_OFF);
    match points.get(healed) {
        Some(at_fault) if is_only_broken_off => {
            let after = points[healed + 1..].to_vec();
            let after = if after.is_empty() { Vec::new() } else { vec![after] };
            // What came back last was still to be seen to work: it is swept again.
            let (before, doubtful) = points[..healed].split_at(healed.saturating_sub(1));
            (before.to_vec(), Some(*at_fault), doubtful.iter().map(|point| vec![*point]).chain(after).collect())
        }
        _ => (Vec::new(), None, points.iter().map(|point| vec![*point]).collect()),
    }
}

/// How many faults of a history were healed.
fn healed(history: &[history::Event]) -> usize {
    history::faults(history).filter(|mark| !mark.begins).count()
}

fn told(breaches: &[Breach], directory: &std::path::Path) -> String {
    let first = breaches.first().map(|breach| format!("{}: {:.400}", breach.law, breach.what)).unwrap_or_default();
    format!("{first} ({} in all; see {})", breaches.len(), directory.display())
}

/// A point as a step of a schedule.
pub(crate) fn step(point: Point, luck: &mut Luck) -> Step {
    let (after_ms, lasts_ms) = (luck.between(200, 500), luck.between(50, 300));
    Step { after_ms, fault: Fault::EndAt { point }, lasts_ms, beside: false }
}

/// A few points of a cluster, by chance.
pub(crate) fn a_few(luck: &mut Luck, count: usize) -> Vec<Step> {
    let mut left: Vec<Point> = ALL.iter().copied().filter(|point| point.met.is_in_a_cluster()).collect();
    let mut steps = Vec::new();
    while steps.len() < count && !left.is_empty() {
        let at = usize::try_from(luck.below(left.len() as u64)).expect("a place in a list");
        let point = left.swap_remove(at);
        steps.push(step(point, luck));
    }
    steps
}

/// What came of a sweep, as a table in Markdown.
#[must_use]
pub fn page(all: &[Swept]) -> String {
    let mut page = String::from("| failpoint | met by | verdict |\n|---|---|---|\n");
    for Swept { point, broken, .. } in all {
        let verdict = broken.as_deref().unwrap_or("held").replace(['\n', '|'], " ");
        page.push_str(&format!("| `{}` | {:?} | {verdict} |\n", point.name, point.met));
    }
    page
}

#[cfg(test)]
mod tests {
    use super::*;

    fn breach(law: &'static str) -> Breach {
        Breach { law, what: "so it is".to_owned() }
    }

    #[test]
    fn a_run_that_is_broken_off_blames_the_point_that_it_came_to() {
        let points = &ALL[..5];
        let (before, at_fault, left) = blame(points, 3, &[breach(BROKEN_OFF)]);
        assert_eq!((&before[..], at_fault), (&points[..2], Some(points[3])));
        assert_eq!(left, [vec![points[2]], vec![points[4]]]);
    }

    #[test]
    fn a_law_that_several_points_may_have_broken_is_looked_for_point_by_point() {
        let points = &ALL[..3];
        let one_by_one: Vec<Vec<Point>> = points.iter().map(|point| vec![*point]).collect();
        for (healed, laws) in [(1, vec![BROKEN_OFF, "stream-contract"]), (3, vec![BROKEN_OFF]), (3, vec!["one-order"])]
        {
            let breaches: Vec<Breach> = laws.into_iter().map(breach).collect();
            assert_eq!(blame(points, healed, &breaches), (Vec::new(), None, one_by_one.clone()));
        }
        assert_eq!(blame(&points[..1], 1, &[breach("one-order")]), (Vec::new(), Some(points[0]), Vec::new()));
    }
}
