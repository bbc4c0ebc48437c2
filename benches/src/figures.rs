//! Numbers: quantiles, medians, and the table that a bench prints.

use std::time::Duration;

use serde_json::{Map, Value, json};

use crate::machine;

/// What a bench has measured, with what it was measured on.
pub(crate) struct Results {
    name: &'static str,
    notes: Vec<String>,
    head: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Results {
    pub(crate) fn new(name: &'static str, head: &[&'static str]) -> Self {
        Self { name, notes: Vec::new(), head: head.to_vec(), rows: Vec::new() }
    }

    /// A sentence under the table.
    pub(crate) fn note(&mut self, sentence: String) {
        self.notes.push(sentence);
    }

    pub(crate) fn row(&mut self, row: Vec<String>) {
        assert_eq!(row.len(), self.head.len(), "a row has a cell for each column");
        self.rows.push(row);
    }

    pub(crate) fn markdown(&self) -> String {
        let mut text = format!("## {}\n\n", self.name);
        for (name, fact) in machine::facts() {
            text.push_str(&format!("- {name}: {fact}\n"));
        }
        text.push('\n');
        text.push_str(&format!("| {} |\n", self.head.join(" | ")));
        text.push_str(&format!("|{}\n", "---:|".repeat(self.head.len())));
        for row in &self.rows {
            text.push_str(&format!("| {} |\n", row.join(" | ")));
        }
        if !self.notes.is_empty() {
            text.push('\n');
        }
        for note in &self.notes {
            text.push_str(&format!("- {note}\n"));
        }
        text
    }

    pub(crate) fn json(&self) -> Value {
        let facts: Map<String, Value> =
            machine::facts().into_iter().map(|(name, fact)| (name.to_owned(), fact.into())).collect();
        let named = |row: &Vec<String>| -> Map<String, Value> {
            self.head.iter().zip(row).map(|(name, cell)| ((*name).to_owned(), cell.as_str().into())).collect()
        };
        let rows: Vec<_> = self.rows.iter().map(named).collect();
        json!({ "bench": self.name, "machine": facts, "rows": rows, "notes": self.notes })
    }
}

/// Times, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Times(Vec<Duration>);

impl Times {
    pub(crate) fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    pub(crate) fn count(&self) -> usize {
        self.0.len()
    }

    /// The time that `share` of all do not exceed (nearest rank); nothing when there are none.
    pub(crate) fn quantile(&self, share: f64) -> Duration {
        let rank = (share * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.clamp(1, self.0.len().max(1)) - 1).copied().unwrap_or_default()
    }
}

/// The middle of the numbers; the mean of the two middles when they are even.
pub(crate) fn median(numbers: &[f64]) -> f64 {
    let mut sorted = numbers.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => 0.0,
        len if len % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// Milliseconds to three digits or so.
pub(crate) fn millis(millis: f64) -> String {
    match millis {
        large if large >= 100.0 => format!("{large:.0}"),
        middle if middle >= 1.0 => format!("{middle:.2}"),
        small if small >= 0.01 => format!("{small:.4}"),
        tiny => format!("{tiny:.6}"),
    }
}

pub(crate) fn as_millis(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_times_that_were_measured() {
        let times = Times::new((1..=100).rev().map(Duration::from_millis).collect());
        let at = |share| times.quantile(share).as_millis();
        assert_eq!((at(0.5), at(0.99), at(1.0), at(0.0)), (50, 99, 100, 1));
        assert_eq!(Times::new(vec![Duration::from_secs(1)]).quantile(0.99), Duration::from_secs(1));
        assert_eq!(Times::default().quantile(0.5), Duration::ZERO);
    }

    #[test]
    fn medians() {
        assert_eq!(median(&[3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median(&[4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(median(&[]), 0.0);
    }
}
