//! What many runs have come to, in a line and as a page.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::scenario::{Figures, Outcome, Spread, Verdict};

/// Runs so far, by their scenarios.
#[derive(Debug, Default)]
pub struct Summary(BTreeMap<String, Row>);

/// What the runs of one scenario, or all, have come to.
#[derive(Debug, Default)]
struct Row {
    runs: u64,
    valid: u64,
    /// Those that say nothing.
    invalid: u64,
    acknowledged: u64,
    requests: u64,
    failed_requests: u64,
    power_cuts: u64,
    gaps_ms: Vec<u64>,
    converged_ms: Vec<u64>,
}

impl Summary {
    /// Takes in what came of a run.
    pub fn take(&mut self, scenario: &str, outcome: &Outcome) {
        let row = self.0.entry(scenario.to_owned()).or_default();
        row.runs += 1;
        row.valid += u64::from(outcome.verdict == Verdict::Valid);
        row.invalid += u64::from(matches!(outcome.verdict, Verdict::Invalid(_)));
        row.add(&outcome.figures);
    }

    /// Takes in that a run could not be made: it says nothing.
    pub fn take_failure(&mut self, scenario: &str) {
        let row = self.0.entry(scenario.to_owned()).or_default();
        row.runs += 1;
        row.invalid += 1;
    }

    /// Whether all of them held. One that says nothing has not.
    #[must_use]
    pub fn all_held(&self) -> bool {
        self.0.values().all(|row| row.valid == row.runs)
    }

    /// All of it in a few lines.
    #[must_use]
    pub fn told(&self) -> String {
        let all = self.all();
        format!(
            "{} of {} runs held, {} say nothing; {} writes acknowledged, {} of {} proxied requests failed, \
             {} faults cut the power\n\
             longest time without an acknowledged write in a fault, ms: {}\n\
             from a heal, or the first write after it, until every proxy has that one, ms: {}",
            all.valid,
            all.runs,
            all.invalid,
            all.acknowledged,
            all.failed_requests,
            all.requests,
            all.power_cuts,
            Spread::of(all.gaps_ms),
            Spread::of(all.converged_ms),
        )
    }

    /// A page: a line for each scenario, and all of it.
    #[must_use]
    pub fn page(&self) -> String {
        let mut page =
            "| scenario | runs that held | faults | writes acknowledged | proxied requests | of these failed | \
                        longest gap, ms | slowest to converge, ms |\n|---|---:|---:|---:|---:|---:|---:|---:|\n"
                .to_owned();
        for (name, row) in &self.0 {
            let most = |values: &[u64]| values.iter().max().copied().unwrap_or_default();
            let _ = writeln!(
                page,
                "| `{name}` | {} of {} | {} | {} | {} | {} | {} | {} |",
                row.valid,
                row.runs,
                row.converged_ms.len(),
                row.acknowledged,
                row.requests,
                row.failed_requests,
                most(&row.gaps_ms),
                most(&row.converged_ms)
            );
        }
        let _ = writeln!(page, "\n{}", self.told());
        page
    }

    fn all(&self) -> Row {
        let mut all = Row::default();
        for row in self.0.values() {
            all.runs += row.runs;
            all.valid += row.valid;
            all.invalid += row.invalid;
            all.acknowledged += row.acknowledged;
            all.requests += row.requests;
            all.failed_requests += row.failed_requests;
            all.power_cuts += row.power_cuts;
            all.gaps_ms.extend(&row.gaps_ms);
            all.converged_ms.extend(&row.converged_ms);
        }
        all
    }
}

impl Row {
    fn add(&mut self, figures: &Figures) {
        self.acknowledged += figures.acknowledged;
        self.requests += figures.requests;
        self.failed_requests += figures.failed_requests;
        self.power_cuts += figures.power_cuts;
        self.gaps_ms.extend(&figures.gaps_ms);
        self.converged_ms.extend(&figures.converged_ms);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::scenario::SaysNothing;

    fn outcome(verdict: Verdict, acknowledged: u64, converged_ms: &[u64]) -> Outcome {
        let figures = Figures {
            acknowledged,
            requests: 1000,
            power_cuts: 1,
            gaps_ms: vec![40],
            converged_ms: converged_ms.to_vec(),
            ..Figures::default()
        };
        Outcome { verdict, figures, directory: "nowhere".into(), took: Duration::ZERO }
    }

    #[test]
    fn runs_of_one_scenario_share_a_line_and_one_that_says_nothing_has_not_held() {
        let mut summary = Summary::default();
        summary.take("power-cut", &outcome(Verdict::Valid, 70, &[300, 500]));
        assert!(summary.all_held());
        let nothing = Verdict::Invalid(SaysNothing::Idle("nothing happened".to_owned()));
        summary.take("power-cut", &outcome(nothing, 7, &[200]));
        summary.take("drain", &outcome(Verdict::Valid, 3, &[100]));
        summary.take_failure("drain");
        assert!(!summary.all_held());
        let page = summary.page();
        for wanted in [
            "| `drain` | 1 of 2 | 1 | 3 | 1000 | 0 | 40 | 100 |\n",
            "| `power-cut` | 1 of 2 | 3 | 77 | 2000 | 0 | 40 | 500 |\n",
            "2 of 4 runs held, 2 say nothing; 80 writes acknowledged, 0 of 3000 proxied requests failed, 3 faults",
            "p50 200, p99 500, most 500, of 4",
        ] {
            assert!(page.contains(wanted), "{wanted} is not in\n{page}");
        }
    }
}
