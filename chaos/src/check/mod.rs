//! What must hold of a history. Each checker is a file, and a function from a history to breaches: no clock, no network.
//! `invariants of RELIABILITY` by their letters stand in docs/CHAOS.md.
//! docs/CHAOS.md has the list, with what each one is blind to.
mod acknowledged;
mod digest;
mod elections;
mod exactly_once;
mod healing;
mod last_good;
mod monotonic;
mod order;
pub mod outside;
mod rejected;
mod routed;
#[cfg(test)]
pub(crate) mod sample;
pub mod search;
mod stream;
mod terms;
pub mod traffic;
mod transactions;
mod truth;
mod wgl;

use crate::history::Event;

pub use elections::TERMS_MAX;
pub use healing::{Healed, after_heals};
pub use truth::Truth;

/// Something that must not be.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Breach {
    /// The checker that found it.
    pub law: &'static str,
    /// What is wrong, with what shows it.
    pub what: String,
}

/// So many breaches of one law are told; the first are those that matter.
const TOLD_MAX: usize = 20;

type Check = fn(&[Event], &Truth) -> Vec<String>;

/// Every checker with the name of its law.
pub const CHECKS: &[(&str, Check)] = &[
    ("acknowledged-writes-survive", acknowledged::check),
    ("equal-position-equal-digest", digest::check),
    ("elections-per-fault", elections::check),
    ("exactly-once", exactly_once::check),
    ("linearizable-by-search", wgl::check),
    ("positions-never-go-back", monotonic::check),
    ("one-order", order::check),
    ("proxies-name-what-they-reject", rejected::check),
    ("proxies-route-what-they-say", routed::check),
    ("stream-contract", stream::check),
    ("terms-never-go-back", terms::check),
    ("no-request-fails", traffic::no_failure),
    (traffic::SLOWED, traffic::no_delay),
    (outside::GATED, outside::check),
    ("generations-never-go-back", traffic::no_way_back),
    ("proxies-follow-after-a-heal", healing::check),
    ("one-generation-per-request", traffic::no_mixture),
    ("transactions-are-atomic", transactions::check),
];

/// Laws that are held outside of a history: in S3, in PostgreSQL, in logs, and by whoever runs a scenario.
const OUTSIDE: [&str; 7] = [
    "archive-is-the-cluster",
    "it-heals",
    "nobody-panics",
    "pointer-names-what-is-there",
    "pointer-never-goes-back",
    "record-is-a-gapless-prefix",
    "record-never-goes-back",
];

/// The names of all laws.
#[must_use]
pub fn laws() -> Vec<&'static str> {
    let checked = CHECKS.iter().map(|(law, _)| *law);
    checked.chain([truth::LAW]).chain(OUTSIDE).collect()
}

/// Holds a history against every law.
#[must_use]
pub fn all(history: &[Event]) -> Vec<Breach> {
    let truth = Truth::of(history);
    let mut breaches: Vec<Breach> =
        truth.contradictions.iter().map(|what| Breach { law: truth::LAW, what: what.clone() }).collect();
    for (law, check) in CHECKS {
        breaches.extend(check(history, &truth).into_iter().take(TOLD_MAX).map(|what| Breach { law, what }));
    }
    breaches
}
