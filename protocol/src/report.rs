//! What is wrong with a resource: every problem, each with its place.

use std::fmt;

/// Why a body was not admitted: one problem or more, in the order in which they were found.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// The problems.
    pub problems: Vec<Problem>,
}

/// One thing that is wrong.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Problem {
    /// Where.
    pub path: Path,
    /// What, in a few words that make sense beside the path.
    pub message: String,
    /// The whole sentence that clients of APISIX know for it.
    pub summary: String,
}

/// A place in a JSON document.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Path(Vec<Segment>);

#[derive(Clone, PartialEq, Eq, Debug)]
enum Segment {
    /// A named field of an object.
    Property(String),
    /// An item of an array, from 0.
    Item(usize),
    /// A field of an object whose names are data, such as a label.
    Member(String),
}

/// What every sentence of APISIX's schema checker starts with.
pub const SCHEMA_PREFIX: &str = "invalid configuration: ";

impl Path {
    /// This place's field `name`.
    #[must_use]
    pub fn property(&self, name: &str) -> Self {
        self.with(Segment::Property(name.to_owned()))
    }

    /// This place's item `index`, counted from 0.
    #[must_use]
    pub fn item(&self, index: usize) -> Self {
        self.with(Segment::Item(index))
    }

    /// This place's field `name`, where names are data (labels, nodes by address).
    #[must_use]
    pub fn member(&self, name: &str) -> Self {
        self.with(Segment::Member(name.to_owned()))
    }

    /// The place `inner` inside this one.
    #[must_use]
    pub fn join(&self, inner: &Self) -> Self {
        Self(self.0.iter().chain(&inner.0).cloned().collect())
    }

    fn with(&self, segment: Segment) -> Self {
        let mut path = self.clone();
        path.0.push(segment);
        path
    }

    /// The sentence APISIX's schema checker makes of a problem here.
    fn nested(&self, message: &str) -> String {
        let mut sentence = String::from(SCHEMA_PREFIX);
        for segment in &self.0 {
            match segment {
                Segment::Property(name) => sentence.push_str(&format!("property \"{name}\" validation failed: ")),
                // Lua counts from 1.
                Segment::Item(index) => sentence.push_str(&format!("failed to validate item {}: ", index + 1)),
                Segment::Member(name) => sentence.push_str(&format!("failed to validate {name} (matching \".*\"): ")),
            }
        }
        sentence.push_str(message);
        sentence
    }
}

impl Problem {
    /// A value that breaks its schema. The summary is composed from the path, as APISIX does.
    #[must_use]
    pub fn schema(path: Path, message: impl Into<String>) -> Self {
        let message = message.into();
        Self { summary: path.nested(&message), path, message }
    }

    /// A value that breaks a rule which APISIX words as a sentence of its own.
    #[must_use]
    pub fn rule(path: Path, sentence: impl Into<String>) -> Self {
        let message = sentence.into();
        Self { path, summary: message.clone(), message }
    }

    /// A value of which APISIX says less than we know: `known_as` is its sentence at `path`, `message` is ours.
    #[must_use]
    pub fn known_as(path: Path, known_as: &str, at: Path, message: impl Into<String>) -> Self {
        Self { summary: path.nested(known_as), path: at, message: message.into() }
    }
}

impl Report {
    /// A report of one problem.
    #[must_use]
    pub fn of(problem: Problem) -> Self {
        Self { problems: vec![problem] }
    }

    /// The same problems of a value that stands at `place` in a larger one. `context` takes the place of what sentences of
    /// the schema checker start with, and stands in front of all others.
    #[must_use]
    pub fn within(self, place: &Path, context: &str) -> Self {
        let moved = |problem: Problem| {
            let sentence = problem.summary.strip_prefix(SCHEMA_PREFIX).unwrap_or(&problem.summary);
            let summary = format!("{context}{sentence}");
            Problem { path: place.join(&problem.path), message: problem.message, summary }
        };
        Self { problems: self.problems.into_iter().map(moved).collect() }
    }

    /// The first problem's sentence: what goes into `error_msg`.
    #[must_use]
    pub fn summary(&self) -> &str {
        self.problems.first().map_or("", |p| &p.summary)
    }
}

/// JSONPath: `$.upstream.nodes["127.0.0.1:80"]`, `$.hosts[0]`.
impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("$")?;
        for segment in &self.0 {
            match segment {
                Segment::Property(name) | Segment::Member(name) if is_plain(name) => write!(f, ".{name}")?,
                Segment::Property(name) | Segment::Member(name) => write!(f, "[{name:?}]")?,
                Segment::Item(index) => write!(f, "[{index}]")?,
            }
        }
        Ok(())
    }
}

fn is_plain(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

/// Every problem on a line of its own: `<path>: <message>`.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, problem) in self.problems.iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}: {}", problem.path, problem.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Report {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_problem_is_told_twice_once_for_people_and_once_as_apisix_does() {
        let path = Path::default().property("timeout").property("connect");
        let problem = Problem::schema(path, "expected 0 to be greater than 0");
        assert_eq!(problem.path.to_string(), "$.timeout.connect");
        assert_eq!(
            problem.summary,
            "invalid configuration: property \"timeout\" validation failed: property \"connect\" validation failed: expected 0 to be greater than 0"
        );
    }

    #[test]
    fn a_report_about_a_part_is_one_about_its_place() {
        let inner = Path::default().property("key");
        let report = Report { problems: vec![Problem::schema(inner.clone(), "wrong"), Problem::rule(inner, "a rule")] };
        let report = report.within(&Path::default().property("plugins").property("key-auth"), "of key-auth: ");
        assert_eq!(report.problems[0].path.to_string(), "$.plugins[\"key-auth\"].key");
        assert_eq!(report.problems[0].summary, "of key-auth: property \"key\" validation failed: wrong");
        assert_eq!(report.problems[1].summary, "of key-auth: a rule");
    }

    #[test]
    fn odd_names_are_quoted_in_a_path() {
        let path = Path::default().property("nodes").member("127.0.0.1:80");
        assert_eq!(path.to_string(), r#"$.nodes["127.0.0.1:80"]"#);
        assert_eq!(Path::default().property("hosts").item(0).to_string(), "$.hosts[0]");
    }
}
