//! The writer of canonical JSON.

use serde_json::{Number, Value};

/// The canonical text of a value.
#[must_use]
pub fn canonical(value: &Value) -> String {
    let mut out = String::with_capacity(256);
    write_value(&mut out, value);
    out
}

fn write_value(out: &mut String, value: &Value) {
    match value {
        Value::Null => out.push_str("null"),
        Value::Bool(true) => out.push_str("true"),
        Value::Bool(false) => out.push_str("false"),
        Value::Number(n) => write_number(out, n),
        Value::String(s) => write_string(out, s),
        Value::Array(items) => {
            out.push('[');
            for (i, item) in items.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_value(out, item);
            }
            out.push(']');
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_unstable_by(|a, b| a.0.as_bytes().cmp(b.0.as_bytes()));
            out.push('{');
            for (i, (name, member)) in members.into_iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                write_string(out, name);
                out.push(':');
                write_value(out, member);
            }
            out.push('}');
        }
    }
}

fn write_number(out: &mut String, n: &Number) {
    // Integers print as integers; a float prints as the shortest decimal that reads back as the same float.
    out.push_str(&n.to_string());
}

/// Escapes what JSON requires (RFC 8259 §7) and nothing else: `"`, `\`, and control characters, the short forms where
/// there are any, else `\u00xx` in lower case.
fn write_string(out: &mut String, s: &str) {
    out.push('"');
    let mut plain_from = 0;
    for (at, byte) in s.bytes().enumerate() {
        let escape = match byte {
            b'"' => "\\\"",
            b'\\' => "\\\\",
            0x08 => "\\b",
            0x0c => "\\f",
            b'\n' => "\\n",
            b'\r' => "\\r",
            b'\t' => "\\t",
            0x00..=0x1f => "",
            _ => continue,
        };
        out.push_str(&s[plain_from..at]);
        plain_from = at + 1;
        if escape.is_empty() {
            out.push_str(&format!("\\u{byte:04x}"));
        } else {
            out.push_str(escape);
        }
    }
    out.push_str(&s[plain_from..]);
    out.push('"');
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;
    use crate::json::parse;

    #[test]
    fn members_are_sorted_by_bytes_whatever_their_order_was() {
        let text = canonical(&parse(r#"{ "b": 1, "a": {"z": [], "é": 2, "Z": 3}, "": null }"#.as_bytes()).unwrap());
        assert_eq!(text, r#"{"":null,"a":{"Z":3,"z":[],"é":2},"b":1}"#);
    }

    #[test]
    fn numbers_keep_their_kind() {
        for (given, written) in [
            ("0", "0"),
            ("-9223372036854775808", "-9223372036854775808"),
            ("18446744073709551615", "18446744073709551615"),
            ("1.0", "1.0"),
            ("0.1", "0.1"),
            ("1e2", "100.0"),
            ("1E400", ""),
            ("123456789012345680000.0", "1.2345678901234568e+20"),
            ("2.2250738585072014e-308", "2.2250738585072014e-308"),
        ] {
            match parse(given.as_bytes()) {
                Ok(value) => assert_eq!(canonical(&value), written, "{given}"),
                Err(e) => assert!(written.is_empty(), "{given}: {e}"),
            }
        }
    }

    #[test]
    fn strings_are_escaped_only_where_json_asks_for_it() {
        let value = json!("a\"b\\c/\n\r\t\u{8}\u{c}\u{1}\u{7f}é😀");
        assert_eq!(canonical(&value), "\"a\\\"b\\\\c/\\n\\r\\t\\b\\f\\u0001\u{7f}é😀\"");
    }

    /// Any JSON value of bounded size, floats from all bit patterns included.
    pub(crate) fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<u64>().prop_map(|bits| Number::from_f64(f64::from_bits(bits)).map_or(Value::Null, Value::Number)),
            "[^\u{0}]{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map("[^\u{0}]{0,4}", inner, 0..5)
                    .prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn canonical_text_reads_back_and_is_its_own_canonical_text(value in any_value()) {
            let text = canonical(&value);
            let again = parse(text.as_bytes()).expect("our own writing is accepted");
            prop_assert_eq!(canonical(&again), text);
        }
    }
}
