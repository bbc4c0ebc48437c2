//! From JSON to a checked condition. The reasons are worded as `lua-resty-expr` words them.

use ipnet::IpNet;
use regex::bytes::RegexBuilder;
use serde_json::Value;

use super::{Comparison, Expression, Literal, Node, Pattern, Test};
use crate::report::{Path, Problem};
use crate::resource::scope::Scope;
use crate::resource::variable::Variable;

/// Conditions in one expression: each costs a look at the request.
pub const CONDITIONS_MAX: usize = 512;
/// The longest pattern, in bytes.
const PATTERN_BYTES_MAX: usize = 4096;
/// What one compiled pattern may take, in bytes, and its cache as much again.
const PATTERN_MEMORY_MAX: usize = 1 << 20;

/// What is wrong, and where.
type Wrong = (Path, String);

impl Expression {
    /// Reads the value of `vars`. `None` where it is empty (it always holds), and where it is wrong.
    #[must_use]
    pub fn read(scope: &Scope<'_, '_>) -> Option<Self> {
        let items = scope.items(0)?;
        let first = items.first()?;
        let mut left = CONDITIONS_MAX;
        let root = match first.value {
            Value::String(word) if Combination::parse(word).is_none() => {
                Err((scope.path.clone(), "rule should be wrapped inside brackets".to_owned()))
            }
            _ => node(scope.value, &scope.path, &mut left),
        };
        match root {
            Ok(root) => Some(Self { root }),
            Err((path, why)) => {
                scope.problem(Problem::rule(path, format!("failed to validate the 'vars' expression: {why}")));
                None
            }
        }
    }
}

/// How a list is combined.
#[derive(Clone, Copy)]
struct Combination {
    all: bool,
    negated: bool,
}

impl Combination {
    fn parse(word: &str) -> Option<Self> {
        let (word, negated) = word.strip_prefix('!').map_or((word, false), |word| (word, true));
        let all = word.eq_ignore_ascii_case("AND");
        (all || word.eq_ignore_ascii_case("OR")).then_some(Self { all, negated })
    }
}

fn node(value: &Value, path: &Path, left: &mut usize) -> Result<Node, Wrong> {
    let wrong = |why: &str| Err((path.clone(), why.to_owned()));
    let Value::Array(items) = value else { return wrong("invalid expression") };
    let (combination, skip) = match items.first() {
        None => return wrong("rule too short"),
        Some(Value::Array(_)) => (Combination { all: true, negated: false }, 0),
        Some(Value::String(word)) => match Combination::parse(word) {
            Some(_) if items.len() <= 2 => return wrong("rule too short"),
            Some(combination) => (combination, 1),
            None => return comparison(word, &items[1..], path, left).map(Node::Compare),
        },
        Some(_) => return wrong("invalid expression"),
    };
    let of = items.iter().enumerate().skip(skip).map(|(i, item)| node(item, &path.item(i), left));
    let of = of.collect::<Result<_, _>>()?;
    let negated = combination.negated;
    Ok(if combination.all { Node::All { of, negated } } else { Node::Any { of, negated } })
}

fn comparison(variable: &str, rest: &[Value], path: &Path, left: &mut usize) -> Result<Comparison, Wrong> {
    let wrong = |why: String| Err((path.clone(), why));
    *left = match left.checked_sub(1) {
        Some(left) => left,
        None => return wrong(format!("more than {CONDITIONS_MAX} conditions")),
    };
    let (negated, operator, operand) = match rest {
        [not, operator, operand] => {
            if not != "!" {
                return wrong("bad 'not' expression".to_owned());
            }
            (true, operator, operand)
        }
        [operator, operand] => (false, operator, operand),
        [operator] => (false, operator, &Value::Null),
        _ => return wrong("invalid expression".to_owned()),
    };
    let Value::String(operator) = operator else { return wrong("invalid expression".to_owned()) };
    let operator = operator.to_lowercase();
    let test = match operator.as_str() {
        "==" => Test::Equal(literal(operand)),
        "~=" => Test::NotEqual(literal(operand)),
        ">" => Test::Greater(bound(operand)),
        ">=" => Test::GreaterOrEqual(bound(operand)),
        "<" => Test::Less(bound(operand)),
        "<=" => Test::LessOrEqual(bound(operand)),
        "~~" => Test::Matches(pattern(operand, false).map_err(|why| (path.clone(), why))?),
        "~*" | "~~*" => Test::Matches(pattern(operand, true).map_err(|why| (path.clone(), why))?),
        "in" => Test::In(texts(operand)),
        "has" => Test::Has(operand.as_str().map(|text| text.as_bytes().into())),
        "ipmatch" => Test::IpMatch(nets(operand).map_err(|why| (path.clone(), why))?),
        // An old short form: `[variable, text]`, and the text in lower case.
        _ if rest.len() == 1 => Test::Equal(Literal::Text(operator.as_bytes().into())),
        _ => return wrong(format!("invalid operator '{operator}'")),
    };
    Ok(Comparison { variable: Variable::parse(variable), test, negated })
}

fn literal(value: &Value) -> Literal {
    match value {
        Value::String(text) => Literal::Text(text.as_bytes().into()),
        Value::Number(number) => number.as_f64().map_or(Literal::Other, Literal::Number),
        Value::Null => Literal::Nothing,
        _ => Literal::Other,
    }
}

fn bound(value: &Value) -> Option<f64> {
    match value {
        Value::String(text) => super::number(text.as_bytes()),
        value => value.as_f64(),
    }
}

/// Texts of a list. A number in it equals no variable, which are texts: so it is in Lua.
fn texts(value: &Value) -> Box<[Box<[u8]>]> {
    let items = value.as_array().into_iter().flatten();
    items.filter_map(|item| Some(item.as_str()?.as_bytes().into())).collect()
}

fn nets(value: &Value) -> Result<Box<[IpNet]>, String> {
    let items = match value {
        Value::Array(items) => items.as_slice(),
        one => std::slice::from_ref(one),
    };
    let net = |item: &Value| {
        let text = item.as_str().unwrap_or_default();
        let net = text.parse().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from));
        net.ok_or_else(|| format!("invalid ip address: {item}"))
    };
    items.iter().map(net).collect()
}

fn pattern(value: &Value, ignore_case: bool) -> Result<Pattern, String> {
    let Value::String(source) = value else { return Err("a pattern is a string".to_owned()) };
    if source.len() > PATTERN_BYTES_MAX {
        return Err(format!("a pattern is at most {PATTERN_BYTES_MAX} bytes"));
    }
    let mut builder = RegexBuilder::new(source);
    // Bytes, as PCRE takes them without its flag for UTF-8.
    builder.unicode(false).case_insensitive(ignore_case);
    builder.size_limit(PATTERN_MEMORY_MAX).dfa_size_limit(PATTERN_MEMORY_MAX);
    match builder.build() {
        Ok(regex) => Ok(Pattern { regex, ignore_case }),
        Err(e) => {
            // The last line is the reason; those before it draw the place.
            let text = e.to_string();
            let reason = text.lines().last().unwrap_or_default().trim_start_matches("error: ");
            Err(format!("pattern {source:?}: {reason}"))
        }
    }
}
