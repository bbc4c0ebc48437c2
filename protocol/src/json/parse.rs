//! The strict reader of JSON.
//!
//! serde_json does the reading. What it would let through in silence is refused here: names that occur twice (the last
//! would win), integers wider than 64 bits (they would turn into floats), `\u0000` (PostgreSQL's text cannot hold it),
//! and deep nesting.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

/// How deep arrays and objects may stand in each other.
pub const DEPTH_MAX: usize = 64;

/// Why a text is not JSON that we take, and where.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{message} at line {line} column {column}")]
pub struct JsonError {
    /// What is wrong.
    pub message: String,
    /// The line, from 1.
    pub line: usize,
    /// The column in bytes, from 1.
    pub column: usize,
}

/// Reads one JSON value that fills `text`.
///
/// # Errors
/// [`JsonError`] for anything that is not JSON, and for what [`crate::json`] refuses.
pub fn parse(text: &[u8]) -> Result<Value, JsonError> {
    refuse_wide_integers(text)?;
    let depth = Cell::new(0);
    let mut reader = serde_json::Deserializer::from_slice(text);
    let value = Strict { depth: &depth }.deserialize(&mut reader).map_err(json_error)?;
    reader.end().map_err(json_error)?;
    Ok(value)
}

fn json_error(e: serde_json::Error) -> JsonError {
    let (line, column) = (e.line(), e.column());
    // serde_json puts the place behind its message; ours stands in fields of its own.
    let text = e.to_string();
    let message = text.rsplit_once(" at line ").map_or(text.as_str(), |(message, _)| message).to_owned();
    JsonError { message, line, column }
}

/// Looks at every number outside of strings. Text that is not JSON may be misread here; the reader refuses it anyway.
fn refuse_wide_integers(text: &[u8]) -> Result<(), JsonError> {
    let mut at = 0;
    while at < text.len() {
        match text[at] {
            b'"' => {
                at += 1;
                while at < text.len() && text[at] != b'"' {
                    at += if text[at] == b'\\' { 2 } else { 1 };
                }
                at += 1;
            }
            b'-' | b'0'..=b'9' => {
                let len = text[at..]
                    .iter()
                    .position(|b| !matches!(b, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9'))
                    .unwrap_or(text.len() - at);
                let number = &text[at..at + len];
                let is_integer = !number.iter().any(|b| matches!(b, b'.' | b'e' | b'E'));
                let fits = || {
                    let number = str::from_utf8(number).unwrap_or_default();
                    number.parse::<i64>().is_ok() || number.parse::<u64>().is_ok()
                };
                // Nineteen digits are the first that may not fit.
                if is_integer && len >= 19 && !fits() {
                    let before = &text[..at];
                    let line_start = before.iter().rposition(|b| *b == b'\n').map_or(0, |nl| nl + 1);
                    return Err(JsonError {
                        message: "integer wider than 64 bits".into(),
                        line: 1 + before.iter().filter(|b| **b == b'\n').count(),
                        column: at - line_start + 1,
                    });
                }
                at += len;
            }
            _ => at += 1,
        }
    }
    Ok(())
}

/// Builds a [`Value`] and refuses what the module says.
struct Strict<'d> {
    depth: &'d Cell<usize>,
}

impl<'de> DeserializeSeed<'de> for Strict<'_> {
    type Value = Value;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl Strict<'_> {
    fn deeper<T, E: serde::de::Error>(&self, inside: impl FnOnce() -> Result<T, E>) -> Result<T, E> {
        if self.depth.get() == DEPTH_MAX {
            return Err(E::custom(format_args!("nested deeper than {DEPTH_MAX} levels")));
        }
        self.depth.set(self.depth.get() + 1);
        let result = inside();
        self.depth.set(self.depth.get() - 1);
        result
    }
}

fn refuse_nul<E: serde::de::Error>(s: &str) -> Result<(), E> {
    if s.contains('\0') { Err(E::custom("the character \\u0000 is not allowed")) } else { Ok(()) }
}

impl<'de> Visitor<'de> for Strict<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, v: bool) -> Result<Value, E> {
        Ok(Value::Bool(v))
    }

    fn visit_i64<E>(self, v: i64) -> Result<Value, E> {
        Ok(Value::from(v))
    }

    fn visit_u64<E>(self, v: u64) -> Result<Value, E> {
        Ok(Value::from(v))
    }

    fn visit_f64<E: serde::de::Error>(self, v: f64) -> Result<Value, E> {
        Number::from_f64(v).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E: serde::de::Error>(self, v: &str) -> Result<Value, E> {
        refuse_nul(v)?;
        Ok(Value::String(v.to_owned()))
    }

    fn visit_string<E: serde::de::Error>(self, v: String) -> Result<Value, E> {
        refuse_nul(&v)?;
        Ok(Value::String(v))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        self.deeper(|| {
            let mut items = Vec::new();
            while let Some(item) = seq.next_element_seed(Strict { depth: self.depth })? {
                items.push(item);
            }
            Ok(Value::Array(items))
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        self.deeper(|| {
            let mut members = Map::new();
            while let Some(name) = map.next_key::<String>()? {
                refuse_nul(&name)?;
                if members.contains_key(&name) {
                    return Err(A::Error::custom(format_args!("the name {name:?} stands twice in one object")));
                }
                members.insert(name, map.next_value_seed(Strict { depth: self.depth })?);
            }
            Ok(Value::Object(members))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(text: &str) -> String {
        parse(text.as_bytes()).expect_err(text).to_string()
    }

    #[test]
    fn what_is_refused_says_why_and_where() {
        for (text, why) in [
            ("{\"uri\": ", "EOF while parsing a value at line 1 column 8"),
            ("{\"a\":1,\n \"a\":2}", "the name \"a\" stands twice in one object at line 2 column 4"),
            ("[18446744073709551616]", "integer wider than 64 bits at line 1 column 2"),
            ("{\n\"a\": -9223372036854775809}", "integer wider than 64 bits at line 2 column 6"),
            ("\"a\\u0000b\"", "the character \\u0000 is not allowed at line 1 column 10"),
            ("{\"\\u0000\":1}", "the character \\u0000 is not allowed at line 1 column 9"),
            ("\"\\ud800\"", "unexpected end of hex escape at line 1 column 8"),
            ("1 2", "trailing characters at line 1 column 3"),
            ("{'a':1}", "key must be a string at line 1 column 2"),
            ("[1e999]", "number out of range at line 1 column 6"),
            ("", "EOF while parsing a value at line 1 column 0"),
        ] {
            assert_eq!(refused(text), why, "{text}");
        }
        assert!(parse(b"\"\xff\"").is_err(), "not UTF-8");
    }

    #[test]
    fn nesting_is_bounded_exactly() {
        let nested = |n: usize| format!("{}{}", "[".repeat(n), "]".repeat(n));
        assert!(parse(nested(DEPTH_MAX).as_bytes()).is_ok());
        assert!(refused(&nested(DEPTH_MAX + 1)).starts_with("nested deeper than 64 levels"));
        // Far beyond the stack: refused, not crashed.
        assert!(parse(nested(100_000).as_bytes()).is_err());
    }

    #[test]
    fn digits_in_strings_are_not_numbers() {
        assert!(parse(br#""99999999999999999999 \" 99999999999999999999""#).is_ok());
        assert!(parse(b"99999999999999999999.5").is_ok(), "a float may have many digits");
    }
}
