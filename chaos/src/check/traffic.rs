//! No proxied request fails, and none sees parts of two generations, whatever becomes of the control plane (laws 5, 6).

use super::Truth;
use crate::history::{BEGUN, Event, Failure, FaultMark, Micros};

fn failures(history: &[Event]) -> impl Iterator<Item = &Failure> {
    history.iter().filter_map(|event| if let Event::Failure(failure) = event { Some(failure) } else { None })
}

pub(super) fn no_failure(history: &[Event], _truth: &Truth) -> Vec<String> {
    let tell = |f: &Failure| {
        let origin = if f.reached_origin { "an origin saw it" } else { "no origin saw it" };
        format!("{} at {}: meant for {} us, failed at {} us: {}; {origin}", f.dp, f.position, f.intended, f.at, f.why)
    };
    let excused = excused(history);
    let is_excused = |f: &Failure| excused.iter().any(|(from, to)| f.intended <= *to && f.at >= *from);
    failures(history).filter(|failure| !failure.mixed && !is_excused(failure)).map(tell).collect()
}

/// Times at which the harness itself has a proxy down: from the beginning until it serves again.
fn excused(history: &[Event]) -> Vec<(Micros, Micros)> {
    let marks: Vec<&FaultMark> =
        history.iter().filter_map(|event| if let Event::Fault(mark) = event { Some(mark) } else { None }).collect();
    let windows = marks.iter().enumerate().filter(|(_, mark)| mark.begins).filter_map(|(index, mark)| {
        let is_begun = |later: &&&FaultMark| later.what.ends_with(BEGUN) || !later.begins;
        let is_healed = |later: &&&FaultMark| !later.begins;
        let end = match mark.what.split(',').next()? {
            "kill_proxies" | "nobody_left" | "cut_proxy_write" => marks[index + 1..].iter().find(is_begun),
            "pause_proxy" => marks[index + 1..].iter().find(is_healed),
            _ => return None,
        };
        Some((mark.at, end.map_or(Micros::MAX, |mark| mark.at)))
    });
    windows.collect()
}

pub(super) fn no_mixture(history: &[Event], _truth: &Truth) -> Vec<String> {
    failures(history).filter(|f| f.mixed).map(|f| format!("{} at {}: {}", f.dp, f.position, f.why)).collect()
}
