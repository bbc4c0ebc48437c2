//! What a run has counted, and whether that says anything.

use super::{Figures, SaysNothing, Scenario, Sometimes, Spread, Verdict, gaps, healthy, sometimes};
use crate::arena::Needs;
use crate::check::outside::GATED;
use crate::check::traffic::{SLOWED, took};
use crate::check::{Breach, Truth, after_heals};
use crate::history::{BEGUN, Call, Event, Outcome, faults, ops, rates, stands};

/// Acknowledged writes without which nothing was tried.
pub(super) const WRITES_MIN: u64 = 20;
/// Of a hundred requests that the probe should have sent, it has sent so many at least.
const SENT_MIN_OF_100: u64 = 80;
/// Faults that cut the power of nodes begin with these.
const POWER_CUTS: [&str; 2] = ["power_cut", "vote_cut"];

/// Counts.
pub(super) fn count(history: &[Event], remarks: Vec<String>) -> Figures {
    let mut figures = Figures { remarks, ..Figures::default() };
    for op in ops(history) {
        figures.operations += 1;
        if matches!(op.call, Call::Write { .. }) {
            match op.outcome {
                Outcome::Ok { .. } => figures.acknowledged += 1,
                Outcome::Unknown { .. } => figures.unknown += 1,
                Outcome::Fail { .. } => {}
            }
        }
    }
    for event in history {
        match event {
            Event::Frame(_) => figures.frames += 1,
            Event::Rate(rate) => figures.requests += rate.sent,
            Event::Failure(_) => figures.failed_requests += 1,
            _ => {}
        }
    }
    let begun = faults(history).filter(|mark| mark.begins && !mark.what.ends_with(BEGUN));
    let cuts = begun.filter(|mark| POWER_CUTS.iter().any(|cut| mark.what.starts_with(cut)));
    figures.power_cuts = cuts.count() as u64;
    figures.gaps_ms = gaps::in_faults(history).iter().map(|gap| gap / 1000).collect();
    // Whoever was not seen there any more makes no figure; the law says whether he had to be.
    let slowest = |took: &std::collections::BTreeMap<String, Option<u64>>| took.values().flatten().max().copied();
    figures.converged_ms =
        after_heals(history).iter().filter_map(|heal| slowest(&heal.took)).map(|t| t / 1000).collect();
    let (within, without) = took(history);
    (figures.took_in_faults, figures.took_otherwise) = (Spread::of(within), Spread::of(without));
    let terms: Vec<u64> = stands(history).map(|stand| stand.term).filter(|term| *term > 0).collect();
    figures.terms = terms.iter().max().zip(terms.iter().min()).map_or(0, |(most, least)| most - least);
    figures.seen = sometimes::seen(history);
    figures
}

/// Judges. `trouble` is why the harness could not do its part, if it could not.
pub(super) fn judge(
    scenario: &Scenario,
    history: &[Event],
    figures: &Figures,
    breaches: Vec<Breach>,
    trouble: Option<String>,
) -> Verdict {
    let disturbed = |why| Verdict::Invalid(SaysNothing::Disturbed(why));
    let idle = |why| Verdict::Invalid(SaysNothing::Idle(why));
    if !breaches.is_empty() {
        // What is only slow may be so because everything is.
        let is_only_slow = breaches.iter().all(|breach| [SLOWED, GATED].contains(&breach.law));
        return match healthy::starved(history).filter(|_| is_only_slow) {
            Some(why) => disturbed(format!("{}; {why}", breaches[0].what)),
            None => Verdict::Failed(breaches),
        };
    }
    if let Some(why) = trouble {
        return Verdict::Invalid(SaysNothing::Harness(why));
    }
    if let Some(why) = healthy::disturbance(history).or_else(|| healthy::unjudged(history)) {
        return disturbed(why);
    }
    if figures.acknowledged < WRITES_MIN || figures.frames == 0 || !stands(history).any(|stand| stand.term > 0) {
        return idle(format!("too little happened: {figures:?}"));
    }
    if let Some(why) = too_little_traffic(history, &scenario.needs) {
        return idle(why);
    }
    let missing: Vec<&Sometimes> = scenario.wants.iter().filter(|wanted| !figures.seen.contains(wanted)).collect();
    if !missing.is_empty() {
        return idle(format!("it never saw {missing:?}"));
    }
    // A truth that knows of no write proves nothing of writes.
    if Truth::of(history).by_key.len() < 3 {
        return idle("hardly any key was written".to_owned());
    }
    Verdict::Valid
}

/// Which proxy got too few requests for the time that the run took.
fn too_little_traffic(history: &[Event], needs: &Needs) -> Option<String> {
    let lasted = stands(history).map(|stand| stand.at).max()? - stands(history).map(|stand| stand.at).min()?;
    let wanted = needs.size.rate * lasted / 1_000_000;
    (1..=needs.dps).find_map(|number| {
        let dp = format!("dp-{number}");
        let sent: u64 = rates(history).filter(|rate| rate.dp == dp).map(|rate| rate.sent).sum();
        let is_too_little = sent == 0 || sent * 100 < wanted * SENT_MIN_OF_100;
        is_too_little.then(|| format!("too little traffic: {dp} was sent {sent} requests of {wanted}"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::{At, Found, Frame, FrameKind, Op, Rate, Stand};
    use crate::scenario::find;

    /// Ten seconds in which all is well, with so many requests through each proxy, and the slowest and the latest of one.
    fn run(sent: [u64; 2], slowest: u64, late: u64) -> Vec<Event> {
        let stand = |at| {
            let (who, position) = ("cp-1".to_owned(), At(1, 1));
            Event::Stand(Stand { who, asked: at, at, position, digest: "x".into(), term: 1, follows: 1 })
        };
        let write = |number: u64| {
            let writes = vec![(format!("routes/k{}", number % 8), Some(number))];
            let call = Call::Write { writes, if_match: None, request: None, patch: false };
            let outcome = Outcome::Ok { position: At(1, number), found: Vec::new() };
            let (invoked, returned) = (number * 1000, number * 1000 + 1);
            Event::Op(Op { client: "c".to_owned(), node: 1, invoked, returned, call, outcome })
        };
        let found = Found { value: 1, modified: 1, put: None };
        let (digest, state) = ("x".to_owned(), vec![("routes/k1".to_owned(), found)]);
        let frame = FrameKind::Full { position: At(1, 1), changed_at: At(1, 1), state, digest };
        let rates = sent.iter().enumerate().map(|(index, sent)| {
            Event::Rate(Rate { dp: format!("dp-{}", index + 1), at: 0, sent: *sent, slowest, late, ..Rate::default() })
        });
        let mut history = vec![stand(0), stand(10_000_000), Event::Frame(Frame { node: 1, at: 1, kind: frame })];
        history.extend((1..=30).map(write));
        history.extend(rates);
        history
    }

    fn judged(history: &[Event], laws: &[&'static str], trouble: Option<&str>) -> Verdict {
        let scenario = Scenario { wants: &[], ..*find("calm").unwrap() };
        let breaches = laws.iter().map(|law| Breach { law, what: "so it is".to_owned() }).collect();
        judge(&scenario, history, &count(history, Vec::new()), breaches, trouble.map(str::to_owned))
    }

    #[test]
    fn a_run_with_less_traffic_than_it_should_have_says_nothing() {
        assert_eq!(judged(&run([2400, 2100], 0, 0), &[], None), Verdict::Valid);
        for sent in [[2400, 1900], [1900, 2400], [2400, 0]] {
            let verdict = judged(&run(sent, 0, 0), &[], None);
            assert!(matches!(verdict, Verdict::Invalid(SaysNothing::Idle(_))), "{sent:?}: {verdict:?}");
        }
    }

    #[test]
    fn trouble_of_the_harness_breaks_no_law_and_hides_none() {
        let well = run([2400, 2400], 0, 0);
        let trouble = Some("strace is missing");
        assert!(matches!(judged(&well, &[], trouble), Verdict::Invalid(SaysNothing::Harness(_))));
        assert!(matches!(judged(&[], &[], trouble), Verdict::Invalid(SaysNothing::Harness(_))), "nothing began");
        assert!(matches!(judged(&well, &["stream-contract"], trouble), Verdict::Failed(_)));
    }

    #[test]
    fn what_is_slow_on_a_machine_that_was_slow_before_any_fault_says_nothing_and_on_a_calm_one_it_is_a_breach() {
        let [fast, slow, slow_by_itself] = [(20_000, 0), (1_200_000, 60_000), (1_200_000, 5_000)]
            .map(|(slowest, late)| run([2400, 2400], slowest, late));
        assert!(matches!(judged(&fast, &[SLOWED], None), Verdict::Failed(_)));
        assert!(matches!(judged(&slow, &[SLOWED], None), Verdict::Invalid(SaysNothing::Disturbed(_))));
        assert!(matches!(judged(&slow_by_itself, &[SLOWED], None), Verdict::Failed(_)), "before any fault too");
        assert!(matches!(judged(&slow, &[SLOWED, "exactly-once"], None), Verdict::Failed(_)), "and another law");
        assert!(matches!(judged(&fast, &[GATED], None), Verdict::Failed(_)));
        assert!(matches!(judged(&slow, &[GATED, SLOWED], None), Verdict::Invalid(SaysNothing::Disturbed(_))));
        assert_eq!(judged(&slow, &[], None), Verdict::Valid);
    }
}
