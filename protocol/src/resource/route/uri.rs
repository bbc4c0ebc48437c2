//! Which paths a route takes: a path, a prefix, or a template with parameters.

use std::fmt;

use crate::text::Text;

/// The longest path pattern.
pub const URI_CHARS_MAX: usize = 4096;

/// Which paths a route takes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum UriPattern {
    /// This path.
    Exact(Text),
    /// Every path that starts so: `/api/*`, `/api*`, `*`.
    Prefix(Text),
    /// Every path that starts with the literal and goes on as the parts say: `/users/:id/posts`, `/files/*rest/raw`.
    Template {
        /// Everything in front of the first `:` or `*` segment.
        literal: Text,
        /// What follows, segment by segment.
        parts: Vec<Part>,
    },
}

/// One segment of a path template.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Part {
    /// Exactly this segment.
    Literal(Text),
    /// Any one segment that is not empty, under a name.
    Parameter(Text),
    /// Any text, slashes included, also none.
    Rest(Text),
}

impl UriPattern {
    /// Reads a pattern; every text is one. A segment that starts with `:` is a parameter, one that starts with `*` takes
    /// any text, and a `*` at the very end makes a prefix.
    #[must_use]
    pub fn parse(uri: &str) -> Self {
        let is_special = |segment: &str| segment.starts_with(':') || segment.starts_with('*');
        let mut literal_bytes = 0;
        for segment in uri.split('/') {
            if is_special(segment) {
                break;
            }
            literal_bytes += segment.len() + 1;
        }
        if literal_bytes > uri.len() {
            return match uri.strip_suffix('*') {
                Some(prefix) => Self::Prefix(prefix.into()),
                None => Self::Exact(uri.into()),
            };
        }
        let (literal, rest) = uri.split_at(literal_bytes);
        if rest == "*" {
            return Self::Prefix(literal.into());
        }
        let part = |segment: &str| {
            if let Some(name) = segment.strip_prefix(':') {
                Part::Parameter(name.into())
            } else if let Some(name) = segment.strip_prefix('*') {
                Part::Rest(name.into())
            } else {
                Part::Literal(segment.into())
            }
        };
        Self::Template { literal: literal.into(), parts: rest.split('/').map(part).collect() }
    }
}

/// The pattern as a user writes it.
impl fmt::Display for UriPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(path) => f.write_str(path),
            Self::Prefix(prefix) => write!(f, "{prefix}*"),
            Self::Template { literal, parts } => {
                f.write_str(literal)?;
                for (i, part) in parts.iter().enumerate() {
                    let slash = if i > 0 { "/" } else { "" };
                    match part {
                        Part::Literal(text) => write!(f, "{slash}{text}")?,
                        Part::Parameter(name) => write!(f, "{slash}:{name}")?,
                        Part::Rest(name) => write!(f, "{slash}*{name}")?,
                    }
                }
                Ok(())
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn uri_patterns() {
        let parameter = |name: &str| Part::Parameter(name.into());
        for (uri, expected) in [
            ("/", UriPattern::Exact("/".into())),
            ("/a/b", UriPattern::Exact("/a/b".into())),
            ("/a:b", UriPattern::Exact("/a:b".into())),
            ("*", UriPattern::Prefix("".into())),
            ("/*", UriPattern::Prefix("/".into())),
            ("/a*", UriPattern::Prefix("/a".into())),
            ("/a/*", UriPattern::Prefix("/a/".into())),
            ("/u/:id", UriPattern::Template { literal: "/u/".into(), parts: vec![parameter("id")] }),
            (
                "/u/:id/p/*rest",
                UriPattern::Template {
                    literal: "/u/".into(),
                    parts: vec![parameter("id"), Part::Literal("p".into()), Part::Rest("rest".into())],
                },
            ),
            (
                "/f/*/raw",
                UriPattern::Template {
                    literal: "/f/".into(),
                    parts: vec![Part::Rest("".into()), Part::Literal("raw".into())],
                },
            ),
        ] {
            assert_eq!(UriPattern::parse(uri), expected, "{uri}");
        }
    }

    proptest! {
        #[test]
        fn a_pattern_prints_as_it_was_written(uri in "[/a:*]{0,12}") {
            prop_assert_eq!(UriPattern::parse(&uri).to_string(), uri);
        }
    }
}
