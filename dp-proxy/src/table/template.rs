//! Path templates: `/users/:id/posts`, `/files/*rest/raw`.

use protocol::Text;
use protocol::resource::Part;

use crate::path::canonical_pattern;

/// One segment of a template, in canonical spelling.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Segment {
    /// Exactly this text.
    Literal(Text),
    /// Any one segment that is not empty.
    One,
    /// One segment or more, also an empty one.
    Many,
}

/// The segments of a template's parts. Names of parameters are for people: nothing reads them yet.
pub(crate) fn compile(parts: &[Part]) -> Box<[Segment]> {
    let segment = |part: &Part| match part {
        Part::Literal(text) => Segment::Literal((&*canonical_pattern(text)).into()),
        Part::Parameter(_) => Segment::One,
        Part::Rest(_) => Segment::Many,
    };
    parts.iter().map(segment).collect()
}

/// Whether the rest of a path, behind the template's literal beginning, is what the segments say.
///
/// A mismatch goes back only to the last [`Segment::Many`]: what stands before it matched as early as it could, which
/// leaves the most for what follows. So the cost is at most `segments` times the length of the path, whatever the path.
pub(crate) fn matches(segments: &[Segment], rest: &str) -> bool {
    // `None` is behind the last segment; the text behind the last slash is one, even when it is empty.
    let mut left = Some(rest);
    let mut at = 0;
    let mut retry: Option<(usize, Option<&str>)> = None;
    loop {
        let step = match (segments.get(at), left) {
            (None, None) => return true,
            (Some(Segment::Many), Some(text)) => {
                retry = Some((at, after_one(text).1));
                Some(after_one(text).1)
            }
            (Some(Segment::One), Some(text)) => {
                let (one, after) = after_one(text);
                (!one.is_empty()).then_some(after)
            }
            (Some(Segment::Literal(literal)), Some(text)) => {
                let (one, after) = after_one(text);
                (one == literal.as_str()).then_some(after)
            }
            (None, Some(_)) | (Some(_), None) => None,
        };
        match step {
            Some(after) => (left, at) = (after, at + 1),
            None => {
                // The last run of segments takes one more.
                let Some((many, Some(text))) = retry else { return false };
                let after = after_one(text).1;
                retry = Some((many, after));
                (left, at) = (after, many + 1);
            }
        }
    }
}

/// The first segment, and what follows its slash if there is one.
fn after_one(text: &str) -> (&str, Option<&str>) {
    match text.split_once('/') {
        Some((one, after)) => (one, Some(after)),
        None => (text, None),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use protocol::resource::UriPattern;

    use super::*;

    fn template(uri: &str) -> Box<[Segment]> {
        let UriPattern::Template { parts, .. } = UriPattern::parse(uri) else { panic!("{uri} is no template") };
        compile(&parts)
    }

    #[test]
    fn segments_match() {
        for (uri, rest, expected) in [
            ("/:id", "7", true),
            ("/:id", "", false),
            ("/:id", "7/", false),
            ("/:id", "7/8", false),
            ("/:id/x", "7/x", true),
            ("/:id/x", "7/y", false),
            ("/:id/", "7/", true),
            ("/:id/*", "7", false),
            ("/:id/*", "7/", true),
            ("/:id/*", "7/8/9", true),
            ("/*a/raw", "x/raw", true),
            ("/*a/raw", "x/y/raw", true),
            ("/*a/raw", "raw", false),
            ("/*a/raw", "/raw", true),
            ("/*a/raw/raw", "raw/raw/raw", true),
            ("/*a/:b/c/*d/e", "1/2/c/3/4/c/5/e", true),
            ("/*a/:b/c/*d/e", "1/c/e", false),
            ("/*a/x/:b", "x/x/x/", false),
        ] {
            assert_eq!(matches(&template(uri), rest), expected, "{uri} on {rest}");
        }
    }

    /// Every way to cut the path, tried one after the other.
    fn naive(segments: &[Segment], rest: &[&str]) -> bool {
        match (segments.split_first(), rest.split_first()) {
            (None, None) => true,
            (Some((Segment::Many, more)), Some(_)) => (1..=rest.len()).any(|taken| naive(more, &rest[taken..])),
            (Some((Segment::One, more)), Some((first, after))) => !first.is_empty() && naive(more, after),
            (Some((Segment::Literal(text), more)), Some((first, after))) => text == first && naive(more, after),
            _ => false,
        }
    }

    proptest! {
        #[test]
        fn it_finds_what_trying_everything_finds(parts in prop::collection::vec(prop::sample::select(vec![":p", "*r", "a", "b", ""]), 1..6), rest in "[ab/]{0,12}") {
            let uri = format!("/:x/{}", parts.join("/"));
            let segments = &template(&uri)[1..];
            let pieces: Vec<_> = rest.split('/').collect();
            prop_assert_eq!(matches(segments, &rest), naive(segments, &pieces), "{} on {}", uri, rest);
        }
    }

    #[test]
    fn a_hostile_path_costs_little() {
        let segments = template("/*a/x/*b/x/*c/x/*d/y");
        assert!(!matches(&segments, &"x/".repeat(100_000)));
    }
}
