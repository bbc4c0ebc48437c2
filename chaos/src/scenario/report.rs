//! What is left of a run for people: a page with what was counted and what was broken, and a picture of its time.

use std::fmt::Write as _;
use std::fs;

use anyhow::Result;

use super::run::Order;
use super::{Outcome, Step, Verdict};
use crate::history::{BEGUN, Event, stands};

/// The picture's size.
const WIDTH: f64 = 1000.0;
const BAND: f64 = 120.0;
/// Dots of each node and proxy that are drawn.
const DOTS_MAX: usize = 400;

pub(super) fn write(
    order: &Order,
    schedule: &[Step],
    history: &[Event],
    circumstances: &[String],
    outcome: &Outcome,
) -> Result<()> {
    let page = page(order, schedule, circumstances, outcome);
    fs::write(outcome.directory.join("report.md"), &page)?;
    let text = page.replace('&', "&amp;").replace('<', "&lt;");
    let html = format!(
        "<!doctype html><meta charset=utf-8><title>{0}</title><style>body{{font:14px sans-serif;margin:2em}}</style>\n\
         <h1>{0}</h1>\n{1}\n<pre>{text}</pre>\n",
        order.scenario.name,
        picture(history)
    );
    fs::write(outcome.directory.join("report.html"), html)?;
    Ok(())
}

impl Verdict {
    /// In a word.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Valid => "valid",
            Self::Invalid(_) => "invalid",
            Self::Failed(_) => "FAILED",
        }
    }
}

fn page(order: &Order, schedule: &[Step], circumstances: &[String], outcome: &Outcome) -> String {
    let (figures, mut page) = (&outcome.figures, String::new());
    let mut line = |text: String| {
        let _ = writeln!(page, "{text}");
    };
    line(format!("# {} (seed {}): {}\n", order.scenario.name, order.seed, outcome.verdict.word()));
    line(format!("{}. Took {:.1} s.\n", order.scenario.about, outcome.took.as_secs_f64()));
    if let Some(planted) = &order.planted {
        line(format!("With a bug planted: {}.\n", planted.name));
    }
    circumstances.iter().for_each(|circumstance| line(format!("- {circumstance}")));
    line(String::new());
    match &outcome.verdict {
        Verdict::Valid => {}
        Verdict::Invalid(why) => line(format!("It says nothing: {why}\n")),
        Verdict::Failed(breaches) => {
            line("## Broken\n".to_owned());
            breaches.iter().for_each(|breach| line(format!("- **{}**: {}", breach.law, breach.what)));
            line(String::new());
        }
    }
    line("## Counted\n\n| what | how much |\n|---|---|".to_owned());
    let rows = [
        ("operations of clients", figures.operations.to_string()),
        ("writes acknowledged", figures.acknowledged.to_string()),
        ("writes of unknown outcome", figures.unknown.to_string()),
        ("frames of feeds", figures.frames.to_string()),
        ("proxied requests", figures.requests.to_string()),
        ("of these failed", figures.failed_requests.to_string()),
        ("terms", figures.terms.to_string()),
        ("longest ms without an acknowledgement in each fault", format!("{:?}", figures.gaps_ms)),
        (
            "ms from each heal, or the first write after it, until every proxy has that",
            format!("{:?}", figures.converged_ms),
        ),
        ("us that a request took while a fault went on", figures.took_in_faults.to_string()),
        ("us that a request took otherwise", figures.took_otherwise.to_string()),
        ("faults that cut the power", figures.power_cuts.to_string()),
        ("seen", format!("{:?}", figures.seen)),
    ];
    rows.iter().for_each(|(what, value)| line(format!("| {what} | {value} |")));
    figures.remarks.iter().for_each(|remark| line(format!("\n{remark}")));
    line("\n## Schedule\n".to_owned());
    schedule.iter().for_each(|step| {
        let beside = if step.beside { ", beside what was before it" } else { "" };
        line(format!("- after {} ms: {} for {} ms{beside}", step.after_ms, step.fault.describe(), step.lasts_ms));
    });
    page
}

/// Three bands over one time: faults and the revision of everybody, requests a second, failures.
fn picture(history: &[Event]) -> String {
    let end = stands(history).map(|stand| stand.at).max().unwrap_or(1).max(1) as f64;
    let head = stands(history).map(|stand| stand.position.1).max().unwrap_or(1).max(1) as f64;
    let x = |at: u64| at as f64 / end * WIDTH;
    let mut svg = format!("<svg viewBox='0 0 {WIDTH} {:.0}' width='100%' font-size='9'>", BAND * 2.0 + 40.0);
    let mut open: Option<(u64, String)> = None;
    for event in history {
        let Event::Fault(mark) = event else { continue };
        match (mark.begins, mark.what.ends_with(BEGUN)) {
            (true, true) => {}
            (true, false) => open = Some((mark.at, mark.what.clone())),
            (false, _) => {
                let Some((from, what)) = open.take() else { continue };
                let _ = write!(
                    svg,
                    "<rect x='{:.1}' y='0' width='{:.1}' height='{:.0}' fill='#fdd'/><text x='{:.1}' y='10'>{what}</text>",
                    x(from),
                    x(mark.at) - x(from),
                    BAND * 2.0,
                    x(from)
                );
            }
        }
    }
    let mut names: Vec<&str> = stands(history).map(|stand| &*stand.who).collect();
    names.sort_unstable();
    names.dedup();
    for (index, name) in names.iter().enumerate() {
        let of_one: Vec<_> = stands(history).filter(|stand| stand.who == *name).collect();
        let every = of_one.len() / DOTS_MAX + 1;
        let points: Vec<String> = of_one
            .iter()
            .step_by(every)
            .map(|s| format!("{:.1},{:.1}", x(s.at), BAND - s.position.1 as f64 / head * (BAND - 20.0)))
            .collect();
        let hue = index * 360 / names.len();
        let _ = write!(
            svg,
            "<polyline fill='none' stroke='hsl({hue} 70% 40%)' points='{}'/><text x='{}' y='{:.0}' \
             fill='hsl({hue} 70% 40%)'>{name}</text>",
            points.join(" "),
            index * 50,
            BAND * 2.0 + 30.0
        );
    }
    let rates: Vec<_> =
        history.iter().filter_map(|e| if let Event::Rate(rate) = e { Some(rate) } else { None }).collect();
    let most = rates.iter().map(|rate| rate.sent).max().unwrap_or(1).max(1) as f64;
    let width = x(1_000_000);
    for rate in rates {
        let bar = |count: u64| count as f64 / most * (BAND - 20.0);
        for (count, colour) in [(rate.sent, "#9c9"), (rate.failed, "#c00")] {
            let _ = write!(
                svg,
                "<rect x='{:.1}' y='{:.1}' width='{width:.1}' height='{:.1}' fill='{colour}' fill-opacity='0.6'/>",
                x(rate.at),
                BAND * 2.0 - bar(count),
                bar(count)
            );
        }
    }
    svg.push_str("</svg>");
    svg
}
