//! Many numbers in three: the median, the 99th of a hundred, and the largest.

use std::fmt;

/// The spread of some numbers, or of none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Spread {
    /// How many there are.
    pub count: usize,
    /// The median.
    pub p50: u64,
    /// So many are below it that one of a hundred is left.
    pub p99: u64,
    /// The largest.
    pub most: u64,
}

impl Spread {
    /// Of these.
    #[must_use]
    pub fn of(mut values: Vec<u64>) -> Self {
        values.sort_unstable();
        let at = |of_100: usize| {
            values.get((values.len() * of_100).div_ceil(100).saturating_sub(1)).copied().unwrap_or_default()
        };
        Self { count: values.len(), p50: at(50), p99: at(99), most: at(100) }
    }
}

impl fmt::Display for Spread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { count: 0, .. } => f.write_str("none"),
            Self { count, p50, p99, most } => write!(f, "p50 {p50}, p99 {p99}, most {most}, of {count}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Spread;

    #[test]
    fn median_and_ninety_ninth_are_numbers_that_were_given() {
        let spread = Spread::of((1..=200).rev().collect());
        assert_eq!(spread, Spread { count: 200, p50: 100, p99: 198, most: 200 });
        assert_eq!(Spread::of(vec![7]), Spread { count: 1, p50: 7, p99: 7, most: 7 });
        assert_eq!(Spread::of(Vec::new()).to_string(), "none");
    }
}
