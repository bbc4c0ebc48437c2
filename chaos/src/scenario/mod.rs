//! Scenarios: what is started, what goes wrong in it, and what must have been seen for the run to say anything.

mod catalog;
mod circumstances;
mod composed;
pub(crate) mod gaps;
mod healthy;
mod logs;
mod place;
mod report;
mod run;
mod sometimes;
mod spread;
mod verdict;

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::arena::Needs;
use crate::check::Breach;
use crate::fault::Fault;
use crate::luck::Luck;

pub use catalog::{ALL, COMPOSED, find};
pub use place::{faults, plan_luck};
pub use run::{Order, run};
pub use sometimes::Sometimes;
pub use spread::Spread;

/// A scenario.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its name on the command line.
    pub name: &'static str,
    /// What is held against what, in a line.
    pub about: &'static str,
    /// What it takes.
    pub needs: Needs,
    /// What goes wrong, by the seed.
    pub plan: fn(&mut Luck) -> Vec<Step>,
    /// What must have been seen.
    pub wants: &'static [Sometimes],
}

/// One fault of a schedule.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Step {
    /// How long everything is well before it.
    pub after_ms: u64,
    /// What it is.
    pub fault: Fault,
    /// How long it goes on, or how long until the next begins beside it.
    pub lasts_ms: u64,
    /// Whether it begins before what came before it is healed; all of them are healed together, in any order.
    #[serde(default)]
    pub beside: bool,
}

/// Whether a run held, or says nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Verdict {
    /// Everything held, and enough happened.
    Valid,
    /// It says nothing.
    Invalid(SaysNothing),
    /// A law was broken.
    Failed(Vec<Breach>),
}

/// Why a run says nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SaysNothing {
    /// Something was not well before the first fault: the machine, or a bug nobody looked for. Another run may say more.
    #[error("{0}")]
    Disturbed(String),
    /// What it is about did not happen: another run of it would say no more.
    #[error("{0}")]
    Idle(String),
    /// The harness could not do its part: nothing is held against a law, and none is held.
    #[error("{0}")]
    Harness(String),
}

/// Marks an error as one of the harness itself: what it needs was not there, or did not start.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the harness could not do its part")]
pub struct OfTheHarness;

/// What came of a run.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The verdict.
    pub verdict: Verdict,
    /// What was counted.
    pub figures: Figures,
    /// Where everything about it is.
    pub directory: PathBuf,
    /// How long it took.
    pub took: Duration,
}

/// What a run has counted.
#[derive(Clone, Debug, Default)]
pub struct Figures {
    /// Acknowledged writes.
    pub acknowledged: u64,
    /// Writes whose outcome was not learned.
    pub unknown: u64,
    /// Operations in all.
    pub operations: u64,
    /// Frames of feeds.
    pub frames: u64,
    /// Proxied requests.
    pub requests: u64,
    /// Those that failed, the excused ones too.
    pub failed_requests: u64,
    /// Terms that the run took.
    pub terms: u64,
    /// For each fault: the longest time without an acknowledged write from its beginning on, until it was healed.
    pub gaps_ms: Vec<u64>,
    /// For each fault: from its heal, or from the first write that is acknowledged after it, until every proxy has that one.
    pub converged_ms: Vec<u64>,
    /// Faults that cut the power of nodes.
    pub power_cuts: u64,
    /// How long proxied requests took while a fault went on, in microseconds; not at a proxy that the harness had down.
    pub took_in_faults: Spread,
    /// The same while none did.
    pub took_otherwise: Spread,
    /// What was seen.
    pub seen: Vec<Sometimes>,
    /// What else was measured, in words.
    pub remarks: Vec<String>,
}
