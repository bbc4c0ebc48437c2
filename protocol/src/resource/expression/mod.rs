//! Conditions on variables of a request: the `vars` of a route, in the language of APISIX (`lua-resty-expr`).
//!
//! ```text
//!   [ ["arg_user", "==", "jack"], ["OR", ["http_x_beta", "~*", "^on$"], ["arg_n", "!", "<", 10]] ]
//! ```
//!
//! A list holds when everything in it does; one that starts with `AND`, `OR`, `!AND` or `!OR` combines what follows. Texts
//! are compared as bytes, numbers as numbers where the condition has a number. A variable that the request does not have
//! is equal to `null` and to nothing else, and no order, pattern or list takes it. Regular expressions run in time
//! linear in the text: those that cannot (look-around, back references) are refused.

mod read;
#[cfg(test)]
mod tests;

use ipnet::IpNet;
use regex::bytes::Regex;

pub use self::read::CONDITIONS_MAX;
use super::variable::{Values, Variable};

/// A condition that was checked.
#[derive(Clone, PartialEq, Debug)]
pub struct Expression {
    root: Node,
}

#[derive(Clone, PartialEq, Debug)]
enum Node {
    /// All of them (`true`: none of that kind, `!AND`).
    All {
        of: Box<[Node]>,
        negated: bool,
    },
    /// Any of them (`true`: none of them, `!OR`).
    Any {
        of: Box<[Node]>,
        negated: bool,
    },
    Compare(Comparison),
}

#[derive(Clone, PartialEq, Debug)]
struct Comparison {
    variable: Variable,
    test: Test,
    negated: bool,
}

/// What is asked of a variable's value.
#[derive(Clone, PartialEq, Debug)]
enum Test {
    Equal(Literal),
    NotEqual(Literal),
    /// `None` where the condition has no number: nothing is more or less than that.
    Greater(Option<f64>),
    GreaterOrEqual(Option<f64>),
    Less(Option<f64>),
    LessOrEqual(Option<f64>),
    Matches(Pattern),
    In(Box<[Box<[u8]>]>),
    /// Whether a list has this element; `None` where the condition has no text, which no list has.
    Has(Option<Box<[u8]>>),
    IpMatch(Box<[IpNet]>),
}

#[derive(Clone, PartialEq, Debug)]
enum Literal {
    Text(Box<[u8]>),
    Number(f64),
    /// `null`: what a variable is that the request does not have.
    Nothing,
    /// A truth value, a list or an object: no variable is one.
    Other,
}

/// A compiled pattern, known by its source.
#[derive(Clone, Debug)]
struct Pattern {
    regex: Regex,
    ignore_case: bool,
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.regex.as_str() == other.regex.as_str() && self.ignore_case == other.ignore_case
    }
}

impl Expression {
    /// Whether it holds for a request.
    #[must_use]
    pub fn holds(&self, values: &dyn Values) -> bool {
        self.root.holds(values)
    }

    /// Every variable in it.
    #[must_use]
    pub fn variables(&self) -> Vec<&Variable> {
        let mut variables = Vec::new();
        self.root.collect(&mut variables);
        variables
    }
}

impl Node {
    fn holds(&self, values: &dyn Values) -> bool {
        match self {
            Self::All { of, negated } => of.iter().all(|node| node.holds(values)) != *negated,
            Self::Any { of, negated } => of.iter().any(|node| node.holds(values)) != *negated,
            Self::Compare(Comparison { variable, test, negated }) => {
                let holds = match test {
                    Test::Has(element) => element.as_deref().is_some_and(|element| values.has(variable, element)),
                    test => test.takes(values.value(variable).as_deref()),
                };
                holds != *negated
            }
        }
    }

    fn collect<'n>(&'n self, variables: &mut Vec<&'n Variable>) {
        match self {
            Self::All { of, .. } | Self::Any { of, .. } => of.iter().for_each(|node| node.collect(variables)),
            Self::Compare(comparison) => variables.push(&comparison.variable),
        }
    }
}

impl Test {
    fn takes(&self, value: Option<&[u8]>) -> bool {
        let order = |bound: &Option<f64>, holds: fn(&f64, &f64) -> bool| match (value.and_then(number), bound) {
            (Some(value), Some(bound)) => holds(&value, bound),
            _ => false,
        };
        match self {
            Self::Equal(literal) => literal.is(value),
            Self::NotEqual(literal) => !literal.is(value),
            Self::Greater(bound) => order(bound, f64::gt),
            Self::GreaterOrEqual(bound) => order(bound, f64::ge),
            Self::Less(bound) => order(bound, f64::lt),
            Self::LessOrEqual(bound) => order(bound, f64::le),
            Self::Matches(pattern) => value.is_some_and(|value| pattern.regex.is_match(value)),
            Self::In(texts) => value.is_some_and(|value| texts.iter().any(|text| **text == *value)),
            // Asked of lists, which have no value.
            Self::Has(_) => false,
            Self::IpMatch(nets) => {
                let address = value.and_then(|value| str::from_utf8(value).ok()?.parse::<std::net::IpAddr>().ok());
                address.is_some_and(|address| nets.iter().any(|net| net.contains(&address)))
            }
        }
    }
}

impl Literal {
    fn is(&self, value: Option<&[u8]>) -> bool {
        match self {
            Self::Text(text) => value == Some(text),
            #[expect(clippy::float_cmp, reason = "equal is what the user wrote")]
            Self::Number(expected) => value.and_then(number).is_some_and(|number| number == *expected),
            Self::Nothing => value.is_none(),
            Self::Other => false,
        }
    }
}

/// The number that a text says: decimal or `0x`, white space around it allowed, as Lua reads it.
fn number(text: &[u8]) -> Option<f64> {
    let text = str::from_utf8(text).ok()?.trim_ascii();
    let (sign, digits) = text.strip_prefix('-').map_or((1.0, text), |digits| (-1.0, digits));
    if let Some(hex) = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X")) {
        let is_hex = hex.bytes().all(|b| b.is_ascii_hexdigit());
        #[expect(clippy::cast_precision_loss, reason = "numbers are floats here, as in Lua")]
        return u64::from_str_radix(hex, 16).ok().filter(|_| is_hex).map(|number| sign * number as f64);
    }
    // `inf` and `nan` are words, not numbers.
    let starts_like_one = digits.starts_with(|c: char| c.is_ascii_digit() || c == '.');
    starts_like_one.then(|| text.parse().ok())?
}
