//! No proxied request fails, none is slowed, and none sees parts of two generations or an older one than before, whatever
//! becomes of the control plane (laws 4, 5, 6).
//!
//! Excused is what the harness itself does to one proxy, as its marks say ([`Down`]): while it has that one down.

use std::collections::{BTreeMap, HashMap};

use super::Truth;
use crate::history::{BEGUN, Down, Event, Failure, Micros, Rate, faults, rates};

/// The law that a machine without breath breaks as well as a bug.
pub const SLOWED: &str = "no-request-is-slowed";

/// A request that takes longer, from the time at which it is meant to be sent, was slowed.
pub const SLOWED_MAX: Micros = 1_000_000;

/// While the harness sends requests so much too late, nothing is said of how long one takes: it reads answers as late.
pub const LATE_MAX: Micros = 250_000;

/// How long a second lasts.
const SECOND: Micros = 1_000_000;

fn failures(history: &[Event]) -> impl Iterator<Item = &Failure> {
    history.iter().filter_map(|event| if let Event::Failure(failure) = event { Some(failure) } else { None })
}

pub(super) fn no_failure(history: &[Event], _truth: &Truth) -> Vec<String> {
    let tell = |f: &Failure| {
        let origin = if f.reached_origin { "an origin saw it" } else { "no origin saw it" };
        format!("{} at {}: meant for {} us, failed at {} us: {}; {origin}", f.dp, f.position, f.intended, f.at, f.why)
    };
    let (excused, late) = (Excused::of(history), Late::of(history));
    failures(history)
        .filter(|failure| !failure.mixed && !failure.back && !excused.meets(&failure.dp, failure.intended, failure.at))
        .filter(|failure| !failure.silent || late.most(failure.intended, failure.at) <= LATE_MAX)
        .map(tell)
        .collect()
}

pub(super) fn no_delay(history: &[Event], _truth: &Truth) -> Vec<String> {
    let late = Late::of(history);
    slowed(history)
        .map(|rate| (rate, late.while_under_way(rate)))
        .filter(|(_, late)| *late <= LATE_MAX)
        .map(|(rate, late)| {
            let (slowest, late) = (rate.slowest / 1000, late / 1000);
            format!(
                "{}: of the second at {} us one took {slowest} ms; {late} ms is what was sent late",
                rate.dp, rate.at
            )
        })
        .collect()
}

/// Seconds of which one request took too long, and no proxy was down that had it.
pub fn slowed(history: &[Event]) -> impl Iterator<Item = &Rate> {
    let excused = Excused::of(history);
    let is_slow = |rate: &&Rate| rate.slowest > SLOWED_MAX;
    rates(history)
        .filter(is_slow)
        .filter(move |rate| !excused.meets(&rate.dp, rate.at, rate.at + SECOND + rate.slowest))
}

/// How late the harness itself was, whichever proxy a request was for.
pub struct Late(BTreeMap<Micros, Micros>);

impl Late {
    /// That of a history, second by second.
    #[must_use]
    pub fn of(history: &[Event]) -> Self {
        let mut seconds = BTreeMap::new();
        for rate in rates(history) {
            let most: &mut Micros = seconds.entry(rate.at).or_default();
            *most = rate.late.max(*most);
        }
        Self(seconds)
    }

    /// The most that it was late from one time to another.
    #[must_use]
    pub fn most(&self, from: Micros, to: Micros) -> Micros {
        self.0.range(from.saturating_sub(SECOND - 1)..=to).map(|(_, late)| *late).max().unwrap_or_default()
    }

    /// The most that it was late while requests of this second were under way.
    #[must_use]
    pub fn while_under_way(&self, rate: &Rate) -> Micros {
        self.most(rate.at, rate.at + SECOND + rate.slowest)
    }
}

pub(super) fn no_mixture(history: &[Event], _truth: &Truth) -> Vec<String> {
    failures(history).filter(|f| f.mixed).map(|f| format!("{} at {}: {}", f.dp, f.position, f.why)).collect()
}

pub(super) fn no_way_back(history: &[Event], _truth: &Truth) -> Vec<String> {
    let emptied = emptied(history);
    failures(history)
        .filter(|f| f.back && !emptied.meets(&f.dp, f.intended, f.at))
        .map(|f| format!("{} at {}: {}", f.dp, f.position, f.why))
        .collect()
}

/// From when a proxy's disk is thrown away to the heal of the fault that does it: by then it is where the others are.
fn emptied(history: &[Event]) -> Excused {
    let mut windows: HashMap<String, Vec<(Micros, Micros)>> = HashMap::new();
    for (index, event) in history.iter().enumerate() {
        if let Event::Down(Down { at, dp, begins: true, emptied: true }) = event {
            let heal = faults(&history[index..]).find(|mark| !mark.begins).map_or(Micros::MAX, |mark| mark.at);
            windows.entry(dp.clone()).or_default().push((*at, heal));
        }
    }
    Excused(windows)
}

/// When the harness itself has which proxy down: from the beginning until it serves again.
pub struct Excused(HashMap<String, Vec<(Micros, Micros)>>);

impl Excused {
    /// Those of a history.
    #[must_use]
    pub fn of(history: &[Event]) -> Self {
        let mut windows: HashMap<String, Vec<(Micros, Micros)>> = HashMap::new();
        for event in history {
            let Event::Down(Down { at, dp, begins, .. }) = event else { continue };
            let of_one = windows.entry(dp.clone()).or_default();
            match (begins, of_one.last_mut()) {
                (true, _) => of_one.push((*at, Micros::MAX)),
                (false, Some(last)) => last.1 = *at,
                (false, None) => {}
            }
        }
        Self(windows)
    }

    /// Whether this proxy was down at some moment from one time to another.
    #[must_use]
    pub fn meets(&self, dp: &str, from: Micros, to: Micros) -> bool {
        self.0.get(dp).is_some_and(|windows| windows.iter().any(|(begin, end)| from <= *end && to >= *begin))
    }
}

/// How long requests took, from the time at which each was meant to be sent: while a fault went on, and while none did.
/// Not those of seconds in which the harness itself had the proxy down.
#[must_use]
pub fn took(history: &[Event]) -> (Vec<Micros>, Vec<Micros>) {
    let excused = Excused::of(history);
    let mut windows: Vec<(Micros, Micros)> = Vec::new();
    for mark in faults(history).filter(|mark| !mark.what.ends_with(BEGUN)) {
        match (mark.begins, windows.last_mut()) {
            (true, _) => windows.push((mark.at, Micros::MAX)),
            (false, Some(last)) => last.1 = mark.at,
            (false, None) => {}
        }
    }
    let (mut within, mut without) = (Vec::new(), Vec::new());
    for rate in rates(history).filter(|rate| !excused.meets(&rate.dp, rate.at, rate.at + SECOND + rate.slowest)) {
        let in_fault = windows.iter().any(|(from, to)| rate.at <= *to && rate.at + SECOND >= *from);
        if in_fault { &mut within } else { &mut without }.extend(&rate.took);
    }
    (within, without)
}

#[cfg(test)]
mod tests {
    use super::super::sample::breaches;
    use super::*;
    use crate::history::{At, FaultMark};

    /// A request through a proxy that failed.
    fn failed(dp: &str, intended: Micros, at: Micros) -> Failure {
        let (dp, why, position) = (dp.to_owned(), "503".to_owned(), At(1, 1));
        Failure { dp, intended, at, why, position, ..Failure::default() }
    }

    fn down(at: Micros, dp: &str, begins: bool, emptied: bool) -> Event {
        Event::Down(Down { at, dp: dp.to_owned(), begins, emptied })
    }

    fn fault(at: Micros, what: &str, begins: bool) -> Event {
        Event::Fault(FaultMark { at, what: what.to_owned(), begins })
    }

    /// The harness pauses the second proxy from 100 to 200.
    fn paused() -> Vec<Event> {
        let (begins, ends) = (down(100, "dp-2", true, false), down(200, "dp-2", false, false));
        vec![fault(99, "pause_proxy", true), begins, ends, fault(201, "pause_proxy", false)]
    }

    #[test]
    fn a_request_fails_without_blame_only_at_the_proxy_that_is_down_and_only_while_it_is() {
        let judged = |failure: Failure| breaches(no_failure, &[&paused()[..], &[Event::Failure(failure)]].concat());
        for (dp, intended, at, breach, what) in [
            ("dp-2", 120, 180, 0, "it is down"),
            ("dp-2", 90, 110, 0, "it was under way when it went down"),
            ("dp-2", 190, 260, 0, "it was sent before it came back"),
            ("dp-1", 120, 180, 1, "another one is down, and not this one"),
            ("dp-2", 50, 90, 1, "it was over before it went down"),
            ("dp-2", 210, 260, 1, "it was sent after it came back"),
        ] {
            assert_eq!(judged(failed(dp, intended, at)), breach, "{what}");
        }
        let nobody = [fault(99, "nobody_left", true), Event::Failure(failed("dp-1", 120, 180))];
        assert_eq!(breaches(no_failure, &nobody), 1, "nodes die, and no proxy");
    }

    #[test]
    fn a_mixture_is_a_breach_also_at_a_proxy_that_is_down() {
        let mixed = Event::Failure(Failure { mixed: true, ..failed("dp-2", 120, 180) });
        let history = [&paused()[..], &[mixed]].concat();
        assert_eq!((breaches(no_mixture, &history), breaches(no_failure, &history)), (1, 0));
    }

    #[test]
    fn an_answer_of_an_older_generation_is_found_unless_the_proxys_disk_was_taken_from_it() {
        let back = |dp: &str, at| Event::Failure(Failure { back: true, ..failed(dp, at, at + 10) });
        assert_eq!(breaches(no_way_back, &[back("dp-2", 10)]), 1);
        assert_eq!(breaches(no_failure, &[back("dp-2", 10)]), 0, "it is told once");
        assert_eq!(breaches(no_way_back, &[&paused()[..], &[back("dp-2", 150)]].concat()), 1, "it keeps what it has");
        let emptied =
            [down(100, "dp-2", true, true), down(150, "dp-2", false, true), fault(200, "cut_proxy_write", false)];
        for (dp, at, breach) in [("dp-2", 160, 0), ("dp-2", 250, 1), ("dp-2", 80, 1), ("dp-1", 160, 1)] {
            assert_eq!(breaches(no_way_back, &[&emptied[..], &[back(dp, at)]].concat()), breach, "{dp} at {at}");
        }
    }

    #[test]
    fn a_request_that_is_slowed_is_found_unless_its_proxy_is_down_or_the_harness_was_late() {
        let rate = |dp: &str, at, slowest, late| {
            Event::Rate(Rate { dp: dp.to_owned(), at, sent: 250, slowest, late, ..Rate::default() })
        };
        let judged = |rate: Event| {
            let (begins, ends) = (down(10_000_000, "dp-2", true, false), down(12_000_000, "dp-2", false, false));
            breaches(no_delay, &[begins, ends, rate])
        };
        for (dp, at, slowest, late, breach, what) in [
            ("dp-1", 10_000_000, 900_000, 0, 0, "fast enough"),
            ("dp-1", 10_000_000, 4_900_000, 0, 1, "an answer that is waited for, and comes late"),
            ("dp-1", 10_000_000, 4_900_000, 600_000, 0, "the harness itself was starved"),
            ("dp-2", 11_000_000, 4_900_000, 0, 0, "it is down"),
            ("dp-2", 8_000_000, 1_100_000, 0, 0, "it was under way when the proxy went down"),
            ("dp-2", 6_000_000, 1_100_000, 0, 1, "it was over before"),
            ("dp-2", 13_000_000, 1_100_000, 0, 1, "it was sent after it came back"),
        ] {
            assert_eq!(judged(rate(dp, at, slowest, late)), breach, "{what}");
        }
    }

    #[test]
    fn a_request_without_an_answer_is_a_failure_unless_the_harness_was_late_while_it_waited() {
        let second =
            |at, late| Event::Rate(Rate { dp: "dp-2".to_owned(), at, sent: 250, slowest: 0, late, ..Rate::default() });
        let judged = |silent: bool, seconds: &[Event]| {
            let failure = Failure { silent, ..failed("dp-1", 10_500_000, 15_500_000) };
            breaches(no_failure, &[seconds, &[Event::Failure(failure)]].concat())
        };
        for (at, late, breach, what) in [
            (12_000_000, 200_000, 1, "it was in time"),
            (12_000_000, 300_000, 0, "it was late meanwhile, wherever that request went"),
            (10_000_000, 300_000, 0, "it was late when it sent it"),
            (15_000_000, 300_000, 0, "it was late when it should have read an answer"),
            (9_000_000, 900_000, 1, "it was late before"),
            (16_000_000, 900_000, 1, "it was late afterwards"),
        ] {
            assert_eq!(judged(true, &[second(at, late)]), breach, "{what}");
            assert_eq!(judged(false, &[second(at, late)]), 1, "an answer that is an error is one at any time");
        }
    }

    #[test]
    fn what_requests_took_is_told_apart_by_whether_a_fault_went_on() {
        let rate = |at, took: &[Micros]| {
            Event::Rate(Rate { dp: "dp-1".to_owned(), at, took: took.to_vec(), ..Rate::default() })
        };
        let history = [
            rate(0, &[1, 2]),
            fault(2_500_000, "kill", true),
            fault(2_600_000, "kill has begun", true),
            rate(2_000_000, &[30]),
            fault(4_000_000, "kill", false),
            rate(9_000_000, &[4]),
        ];
        assert_eq!(took(&history), (vec![30], vec![1, 2, 4]));
    }
}
