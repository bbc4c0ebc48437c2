//! Paths that are made of other paths: by a pattern and what takes its place.

use percent_encoding::{AsciiSet, CONTROLS, percent_encode};
use protocol::report::Problem;
use protocol::resource::scope::Scope;
use regex::bytes::{Regex, RegexBuilder, RegexSet, RegexSetBuilder};

/// What one compiled pattern may take, in bytes.
const PATTERN_MEMORY_MAX: usize = 1 << 20;

/// Patterns with what takes their place; the first that matches counts.
#[derive(Debug)]
pub(crate) struct RegexUri(Vec<(Regex, Box<[u8]>)>);

/// A pattern that takes time linear in the text.
pub(crate) fn pattern(scope: &Scope<'_, '_>) -> Option<Regex> {
    let text = scope.string(1, 4096)?;
    let built = RegexBuilder::new(text).unicode(false).size_limit(PATTERN_MEMORY_MAX).build();
    match built {
        Ok(regex) => Some(regex),
        Err(e) => {
            let why = e.to_string();
            let why = why.lines().last().unwrap_or_default();
            let sentence = format!("the pattern {text:?} cannot be compiled: {why}");
            scope.problem(Problem::rule(scope.path.clone(), sentence));
            None
        }
    }
}

/// Several patterns, of which any may match.
pub(crate) fn pattern_set(scope: &Scope<'_, '_>, texts: &[&str], case_insensitive: bool) -> Option<RegexSet> {
    let mut builder = RegexSetBuilder::new(texts);
    let built = builder.unicode(false).case_insensitive(case_insensitive).size_limit(PATTERN_MEMORY_MAX).build();
    match built {
        Ok(set) => Some(set),
        Err(e) => {
            let why = e.to_string();
            let sentence = format!("a pattern cannot be compiled: {}", why.lines().last().unwrap_or_default());
            scope.problem(Problem::rule(scope.path.clone(), sentence));
            None
        }
    }
}

impl RegexUri {
    /// Reads `[pattern, replacement, …]`.
    pub(crate) fn read(scope: Scope<'_, '_>) -> Option<Self> {
        let items = scope.items(2)?;
        if items.len() % 2 != 0 {
            scope.problem(Problem::rule(scope.path.clone(), "The length of regex_uri should be an even number"));
            return None;
        }
        let pairs = scope.all(items.chunks(2), |pair| {
            let regex = pattern(&pair[0]);
            let text = pair[1].string(0, 4096);
            let (regex, text) = (regex?, text?);
            let replacement = replacement(text, regex.captures_len()).or_else(|| {
                let sentence = format!("{text:?} names a group that {:?} does not have", regex.as_str());
                pair[1].problem(Problem::rule(pair[1].path.clone(), sentence));
                None
            });
            Some((regex, replacement?.into_bytes().into()))
        });
        pairs.map(Self)
    }

    /// What becomes of a path; `None` when no pattern matches.
    pub(crate) fn apply(&self, path: &str) -> Option<String> {
        let (regex, replacement) = self.0.iter().find(|(regex, _)| regex.is_match(path.as_bytes()))?;
        let replaced = regex.replace(path.as_bytes(), &**replacement);
        Some(String::from_utf8_lossy(&replaced).into_owned())
    }
}

/// `$1` and `${1}`, as nginx has them, in the form that the engine reads: there `$1a` would be a group named `1a`. `None`
/// when it names a group that the pattern does not have.
fn replacement(text: &str, groups: usize) -> Option<String> {
    let mut out = String::with_capacity(text.len() + 4);
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let braced = rest.strip_prefix('{').and_then(|inner| inner.split_once('}'));
        let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let (group, next) = match braced {
            Some((name, next)) if !name.is_empty() && name.bytes().all(|b| b.is_ascii_digit()) => (name, next),
            _ => rest.split_at(digits),
        };
        if group.is_empty() {
            rest = rest.strip_prefix('$').unwrap_or(rest);
            out.push_str("$$");
            continue;
        }
        group.parse::<usize>().ok().filter(|group| *group < groups)?;
        out.push_str(&format!("${{{group}}}"));
        rest = next;
    }
    out.push_str(rest);
    Some(out)
}

/// Bytes that may not stand in a path as they are (RFC 3986 §3.3). A percent sign is what it is: paths come encoded.
const NOT_IN_PATH: &AsciiSet = &CONTROLS
    .add(b' ')
    .add(b'"')
    .add(b'<')
    .add(b'>')
    .add(b'`')
    .add(b'{')
    .add(b'}')
    .add(b'|')
    .add(b'\\')
    .add(b'^')
    .add(b'#');

/// A text whose bytes may all stand in a target.
pub(crate) fn encoded(text: &[u8]) -> String {
    percent_encode(text, NOT_IN_PATH).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_nginxs() {
        for (text, expected) in [
            ("/a/$1b", Some("/a/${1}b")),
            ("/${1}/$0", Some("/${1}/${0}")),
            ("/$2", None),
            ("$", Some("$$")),
            ("$$1", Some("$$1")),
            ("/$name", Some("/$$name")),
        ] {
            assert_eq!(replacement(text, 2).as_deref(), expected, "{text}");
        }
    }
}
