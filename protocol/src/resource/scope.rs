//! Reads typed values out of JSON and collects what is wrong on the way.
//!
//! A model's constructor walks its body with these; so the constructor is the validator, and it finds every problem in
//! one pass. The messages are those of APISIX's schema checker, since its users match on them.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;

use serde_json::{Map, Value};

use crate::report::{Path, Problem, Report};

/// A value, its place, and where to report.
#[derive(Clone, Debug)]
pub struct Scope<'v, 'r> {
    /// The value.
    pub value: &'v Value,
    /// Its place.
    pub path: Path,
    problems: &'r RefCell<Vec<Problem>>,
}

/// An object, of which every field that nobody asked for is a problem in the end.
#[derive(Debug)]
pub struct Fields<'v, 'r> {
    members: &'v Map<String, Value>,
    known: RefCell<BTreeSet<&'static str>>,
    open: Cell<bool>,
    /// Its place.
    pub path: Path,
    problems: &'r RefCell<Vec<Problem>>,
}

/// Runs a constructor over a value. What it returns counts only when it reported nothing.
///
/// # Errors
/// A [`Report`] of everything that the constructor found.
pub fn check<T>(value: &Value, construct: impl FnOnce(Scope<'_, '_>) -> Option<T>) -> Result<T, Report> {
    let problems = RefCell::new(Vec::new());
    let built = construct(Scope { value, path: Path::default(), problems: &problems });
    let problems = problems.into_inner();
    match built {
        Some(built) if problems.is_empty() => Ok(built),
        _ => Err(Report { problems }),
    }
}

impl<'v, 'r> Scope<'v, 'r> {
    /// Reports a broken schema at this place.
    pub fn wrong(&self, message: impl Into<String>) {
        self.problem(Problem::schema(self.path.clone(), message));
    }

    /// Reports anything.
    pub fn problem(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    /// The same place with a report of its own, for alternatives of which one must hold.
    ///
    /// # Errors
    /// What the constructor found.
    pub fn try_as<T>(&self, construct: impl FnOnce(Scope<'v, '_>) -> Option<T>) -> Result<T, Vec<Problem>> {
        let problems = RefCell::new(Vec::new());
        let built = construct(Scope { value: self.value, path: self.path.clone(), problems: &problems });
        match (built, problems.into_inner()) {
            (Some(built), problems) if problems.is_empty() => Ok(built),
            (_, problems) => Err(problems),
        }
    }

    fn wrong_type<T>(&self, expected: &str) -> Option<T> {
        let got = match self.value {
            Value::Null => "null",
            Value::Bool(_) => "boolean",
            Value::Number(_) => "number",
            Value::String(_) => "string",
            Value::Array(_) => "array",
            Value::Object(_) => "object",
        };
        self.wrong(format!("wrong type: expected {expected}, got {got}"));
        None
    }

    /// The object.
    #[must_use]
    pub fn object(&self) -> Option<Fields<'v, 'r>> {
        let Value::Object(members) = self.value else { return self.wrong_type("object") };
        Some(Fields {
            members,
            known: RefCell::default(),
            open: Cell::new(false),
            path: self.path.clone(),
            problems: self.problems,
        })
    }

    /// `true` or `false`.
    #[must_use]
    pub fn boolean(&self) -> Option<bool> {
        let Value::Bool(b) = self.value else { return self.wrong_type("boolean") };
        Some(*b)
    }

    /// A string of `min` to `max` characters.
    pub fn string(&self, min: usize, max: usize) -> Option<&'v str> {
        let Value::String(s) = self.value else { return self.wrong_type("string") };
        let chars = s.chars().count();
        if chars < min {
            self.wrong(format!("string too short, expected at least {min}, got {chars}"));
            return None;
        }
        if chars > max {
            self.wrong(format!("string too long, expected at most {max}, got {chars}"));
            return None;
        }
        Some(s)
    }

    /// A string that `matches`, told as the pattern that APISIX has for it.
    pub fn pattern(&self, s: &'v str, pattern: &str, matches: impl FnOnce(&str) -> bool) -> Option<&'v str> {
        if matches(s) {
            return Some(s);
        }
        // Lua's %q: backslashes and quotes are escaped.
        let quoted = |s: &str| s.replace('\\', "\\\\").replace('"', "\\\"");
        self.wrong(format!("failed to match pattern \"{}\" with \"{}\"", quoted(pattern), quoted(s)));
        None
    }

    /// An integer within bounds. A float without a fraction is one too, as in APISIX.
    pub fn integer(&self, min: i64, max: i64) -> Option<i64> {
        let Value::Number(n) = self.value else { return self.wrong_type("integer") };
        let integer = n.as_i64().or_else(|| {
            #[expect(clippy::cast_possible_truncation, reason = "checked to be a whole number well inside i64")]
            n.as_f64().filter(|f| f.fract() == 0.0 && f.abs() < 9e15).map(|f| f as i64)
        });
        let Some(integer) = integer else {
            if n.is_u64() {
                self.wrong(format!("expected {n} to be at most {max}"));
                return None;
            }
            return self.wrong_type("integer");
        };
        if integer < min {
            self.wrong(format!("expected {integer} to be at least {min}"));
            return None;
        }
        if integer > max {
            self.wrong(format!("expected {integer} to be at most {max}"));
            return None;
        }
        Some(integer)
    }

    /// A number of at least 0, or over 0 when `positive`.
    pub fn number(&self, positive: bool) -> Option<f64> {
        let Value::Number(n) = self.value else { return self.wrong_type("number") };
        let number = n.as_f64()?;
        if positive && number <= 0.0 {
            self.wrong(format!("expected {n} to be greater than 0"));
            return None;
        }
        if number < 0.0 {
            self.wrong(format!("expected {n} to be at least 0"));
            return None;
        }
        Some(number)
    }

    /// One of a few words.
    pub fn one_of<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        let Value::String(s) = self.value else { return self.wrong_type("string") };
        let found = words.iter().find(|(word, _)| word == s).map(|(_, meaning)| *meaning);
        if found.is_none() {
            let known: Vec<_> = words.iter().map(|(word, _)| *word).collect();
            let message = format!("matches none of the enum values: {}", known.join(", "));
            self.problem(Problem::known_as(
                self.path.clone(),
                "matches none of the enum values",
                self.path.clone(),
                message,
            ));
        }
        found
    }

    /// The items of an array of at least `min` items.
    pub fn items(&self, min: usize) -> Option<Vec<Scope<'v, 'r>>> {
        let Value::Array(items) = self.value else { return self.wrong_type("array") };
        if items.len() < min {
            self.wrong(format!("expect array to have at least {min} items"));
            return None;
        }
        let scope = |(i, value)| Scope { value, path: self.path.item(i), problems: self.problems };
        Some(items.iter().enumerate().map(scope).collect())
    }

    /// The items of an array in which none may stand twice.
    pub fn unique_items(&self, min: usize) -> Option<Vec<Scope<'v, 'r>>> {
        let items = self.items(min)?;
        for (i, item) in items.iter().enumerate() {
            if let Some(j) = items[..i].iter().position(|earlier| earlier.value == item.value) {
                self.wrong(format!("expected unique items but items {} and {} are equal", j + 1, i + 1));
                return None;
            }
        }
        Some(items)
    }

    /// Reads every item, so that every problem is found; `None` when one is wrong.
    pub fn all<I, T>(&self, items: impl IntoIterator<Item = I>, read: impl FnMut(I) -> Option<T>) -> Option<Vec<T>> {
        let read: Vec<Option<T>> = items.into_iter().map(read).collect();
        read.into_iter().collect()
    }

    /// The members of an object whose names are data.
    pub fn members(&self) -> Option<Vec<(&'v str, Scope<'v, 'r>)>> {
        let Value::Object(members) = self.value else { return self.wrong_type("object") };
        let scope = |(name, value): (&'v String, &'v Value)| {
            (name.as_str(), Scope { value, path: self.path.member(name), problems: self.problems })
        };
        Some(members.iter().map(scope).collect())
    }
}

impl<'v, 'r> Fields<'v, 'r> {
    /// The field `name`, if it is there; from now on it is a known one.
    pub fn get(&self, name: &'static str) -> Option<Scope<'v, 'r>> {
        self.known.borrow_mut().insert(name);
        let value = self.members.get(name)?;
        Some(Scope { value, path: self.path.property(name), problems: self.problems })
    }

    /// Reads an optional field. `None` when it is missing, or wrong (then it is reported).
    pub fn optional<T>(&self, name: &'static str, read: impl FnOnce(Scope<'v, 'r>) -> Option<T>) -> Option<T> {
        self.get(name).and_then(read)
    }

    /// Reads a required field.
    pub fn required<T>(&self, name: &'static str, read: impl FnOnce(Scope<'v, 'r>) -> Option<T>) -> Option<T> {
        let Some(field) = self.get(name) else {
            self.wrong(format!("property \"{name}\" is required"));
            return None;
        };
        read(field)
    }

    /// Whether the field is there.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.members.contains_key(name)
    }

    /// Reports a broken schema of the object as a whole.
    pub fn wrong(&self, message: impl Into<String>) {
        self.problem(Problem::schema(self.path.clone(), message));
    }

    /// Reports a rule that has its own sentence.
    pub fn rule(&self, field: &str, sentence: impl Into<String>) {
        self.problem(Problem::rule(self.path.property(field), sentence));
    }

    /// Reports anything.
    pub fn problem(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    /// Fields that nobody asked for are fine here.
    pub fn allow_unknown(&self) {
        self.open.set(true);
    }

    /// The fields that nobody has asked for so far.
    #[must_use]
    pub fn unknown(&self) -> Vec<&'v str> {
        let known = self.known.borrow();
        self.members.keys().map(String::as_str).filter(|name| !known.contains(name)).collect()
    }

    /// Reports every field that nobody asked for.
    pub fn finish(self) {
        if self.open.get() {
            return;
        }
        for name in self.unknown() {
            let sentence = format!("additional properties forbidden, found {name}");
            self.problem(Problem::known_as(
                self.path.clone(),
                &sentence,
                self.path.property(name),
                format!("unknown field {name:?}"),
            ));
        }
    }
}
