//! What happened in a run: a run in which nothing happened proves nothing.

use std::collections::BTreeMap;
use std::fmt;

/// Counts by name.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Tally(pub BTreeMap<String, u64>);

impl Tally {
    /// One more.
    pub fn count(&mut self, what: &str) {
        self.add(what, 1);
    }

    /// So many more.
    pub fn add(&mut self, what: &str, more: u64) {
        *self.0.entry(what.to_owned()).or_default() += more;
    }

    /// How many.
    #[must_use]
    pub fn get(&self, what: &str) -> u64 {
        self.0.get(what).copied().unwrap_or_default()
    }
}

/// `name=count` each, in one line.
impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<String> = self.0.iter().map(|(what, count)| format!("{what}={count}")).collect();
        f.write_str(&words.join(" "))
    }
}

impl Tally {
    /// Reads what [`fmt::Display`] writes; words that are no counts are passed over.
    #[must_use]
    pub fn read(line: &str) -> Self {
        let pair = |word: &str| {
            let (what, count) = word.split_once('=')?;
            Some((what.to_owned(), count.parse().ok()?))
        };
        Self(line.split_whitespace().filter_map(pair).collect())
    }
}
