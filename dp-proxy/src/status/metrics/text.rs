//! The text format of Prometheus.

use std::fmt::{Display, Write};

/// A page of metrics.
#[derive(Debug, Default)]
pub(super) struct Page {
    text: String,
}

/// What a family of metrics is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Type {
    Counter,
    Gauge,
    Histogram,
}

/// Labels of one sample.
pub(super) type Labels<'l> = &'l [(&'l str, &'l str)];

impl Page {
    /// Begins a family. Its samples follow.
    pub(super) fn family(&mut self, name: &str, kind: Type, help: &str) {
        let kind = match kind {
            Type::Counter => "counter",
            Type::Gauge => "gauge",
            Type::Histogram => "histogram",
        };
        self.line(format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
    }

    /// One sample.
    pub(super) fn sample(&mut self, name: &str, labels: Labels<'_>, value: impl Display) {
        self.text.push_str(name);
        if !labels.is_empty() {
            self.text.push('{');
            for (i, (label, text)) in labels.iter().enumerate() {
                if i > 0 {
                    self.text.push(',');
                }
                self.text.push_str(label);
                self.text.push_str("=\"");
                self.escaped(text);
                self.text.push('"');
            }
            self.text.push('}');
        }
        self.line(format_args!(" {value}\n"));
    }

    /// A family of one sample.
    pub(super) fn single(&mut self, name: &str, kind: Type, help: &str, value: impl Display) {
        self.family(name, kind, help);
        self.sample(name, &[], value);
    }

    /// The samples of a histogram. `counts` are per bucket, the last over all bounds.
    pub(super) fn histogram(&mut self, name: &str, labels: Labels<'_>, bounds: &[String], counts: &[u64], sum: f64) {
        let mut total = 0;
        for (i, count) in counts.iter().enumerate() {
            total += count;
            let bound = bounds.get(i).map_or("+Inf", String::as_str);
            let labels: Vec<_> = labels.iter().copied().chain([("le", bound)]).collect();
            self.sample(&format!("{name}_bucket"), &labels, total);
        }
        self.sample(&format!("{name}_sum"), labels, sum);
        self.sample(&format!("{name}_count"), labels, total);
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }

    fn escaped(&mut self, text: &str) {
        for c in text.chars() {
            match c {
                '\\' => self.text.push_str("\\\\"),
                '"' => self.text.push_str("\\\""),
                '\n' => self.text.push_str("\\n"),
                c => self.text.push(c),
            }
        }
    }

    fn line(&mut self, text: std::fmt::Arguments<'_>) {
        self.text.write_fmt(text).expect("memory takes every text");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_format() {
        let mut page = Page::default();
        page.single("a_total", Type::Counter, "Help.", 7);
        page.family("h_seconds", Type::Histogram, "Help.");
        page.histogram("h_seconds", &[("x", "a\"\\\n")], &["0.1".into()], &[2, 1], 0.25);
        let expected = "# HELP a_total Help.\n# TYPE a_total counter\na_total 7\n\
            # HELP h_seconds Help.\n# TYPE h_seconds histogram\n\
            h_seconds_bucket{x=\"a\\\"\\\\\\n\",le=\"0.1\"} 2\nh_seconds_bucket{x=\"a\\\"\\\\\\n\",le=\"+Inf\"} 3\n\
            h_seconds_sum{x=\"a\\\"\\\\\\n\"} 0.25\nh_seconds_count{x=\"a\\\"\\\\\\n\"} 3\n";
        assert_eq!(page.into_text(), expected);
    }
}
