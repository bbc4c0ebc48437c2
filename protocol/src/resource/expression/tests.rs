//! Conditions, as tables: what holds for which request, and what is refused with which words.

use std::borrow::Cow;

use serde_json::{Value, json};

use super::*;
use crate::resource::scope::check;
use crate::resource::variable::GraphQl;

/// Arguments of a request, by name.
struct Arguments(&'static [(&'static str, &'static str)]);

impl Values for Arguments {
    fn value(&self, variable: &Variable) -> Option<Cow<'_, [u8]>> {
        let Variable::Argument(name) = variable else { return None };
        let found = self.0.iter().find(|(known, _)| *known == name.as_str());
        found.map(|(_, value)| Cow::Borrowed(value.as_bytes()))
    }

    fn has(&self, variable: &Variable, element: &[u8]) -> bool {
        *variable == Variable::GraphQl(GraphQl::RootFields) && [&b"owner"[..], b"repo"].contains(&element)
    }
}

fn read(vars: &Value) -> Result<Option<Expression>, String> {
    check(vars, |scope| Some(Expression::read(&scope))).map_err(|report| report.to_string())
}

#[test]
fn what_holds() {
    let request =
        Arguments(&[("a", "Jack"), ("n", "10"), ("hex", "0x1f"), ("ip", "10.1.2.3"), ("v6", "::1"), ("e", "")]);
    for (vars, expected) in [
        (json!([]), true),
        (json!([["arg_a", "==", "Jack"]]), true),
        (json!([["arg_a", "==", "jack"]]), false),
        (json!([["arg_A", "==", "Jack"]]), false),
        (json!([["arg_a", "~=", "jack"]]), true),
        (json!([["arg_a", "!", "==", "Jack"]]), false),
        (json!([["arg_a", "!", "~=", "Jack"]]), true),
        // Numbers are compared as numbers where the condition has one.
        (json!([["arg_n", "==", 10]]), true),
        (json!([["arg_n", "==", 10.0]]), true),
        (json!([["arg_n", "==", "10.0"]]), false),
        (json!([["arg_hex", "==", 31]]), true),
        (json!([["arg_a", "==", 10]]), false),
        (json!([["arg_a", "~=", 10]]), true),
        (json!([["arg_n", ">", 9]]), true),
        (json!([["arg_n", ">", "9"]]), true),
        (json!([["arg_n", ">", 10]]), false),
        (json!([["arg_n", ">=", 10]]), true),
        (json!([["arg_n", "<", 11]]), true),
        (json!([["arg_n", "<=", 9]]), false),
        (json!([["arg_n", "!", "<", 10]]), true),
        (json!([["arg_a", ">", 1]]), false),
        (json!([["arg_n", ">", "x"]]), false),
        // What is missing.
        (json!([["arg_none", "==", null]]), true),
        (json!([["arg_none", "=="]]), true),
        (json!([["arg_none", "~=", null]]), false),
        (json!([["arg_a", "~=", null]]), true),
        (json!([["arg_none", "==", ""]]), false),
        (json!([["arg_e", "==", ""]]), true),
        (json!([["arg_none", "~=", "x"]]), true),
        (json!([["arg_none", "<", 1]]), false),
        (json!([["arg_none", "!", "<", 1]]), true),
        (json!([["arg_none", "~~", ".*"]]), false),
        (json!([["arg_none", "in", [""]]]), false),
        // Patterns, lists, addresses.
        (json!([["arg_a", "~~", "^J"]]), true),
        (json!([["arg_a", "~~", "^j"]]), false),
        (json!([["arg_a", "~*", "^jA"]]), true),
        (json!([["arg_a", "~~*", "ck$"]]), true),
        (json!([["arg_a", "!", "~~", "^j"]]), true),
        (json!([["arg_a", "in", ["x", "Jack"]]]), true),
        (json!([["arg_a", "IN", ["x"]]]), false),
        (json!([["arg_n", "in", [10]]]), false),
        (json!([["arg_a", "in", "Jack"]]), false),
        (json!([["arg_a", "has", "Jack"]]), false),
        (json!([["graphql_root_fields", "has", "owner"]]), true),
        (json!([["graphql_root_fields", "has", "user"]]), false),
        (json!([["graphql_root_fields", "!", "has", "user"]]), true),
        (json!([["graphql_root_fields", "has", 7]]), false),
        (json!([["graphql_root_fields", "has"]]), false),
        (json!([["arg_ip", "ipmatch", ["192.168.0.0/16", "10.0.0.0/8"]]]), true),
        (json!([["arg_ip", "ipmatch", "10.1.2.3"]]), true),
        (json!([["arg_ip", "!", "ipmatch", ["10.0.0.0/8"]]]), false),
        (json!([["arg_v6", "ipmatch", ["::/64"]]]), true),
        (json!([["arg_a", "ipmatch", ["0.0.0.0/0"]]]), false),
        (json!([["arg_a", "==", true]]), false),
        // The short form.
        (json!([["arg_n", "10"]]), true),
        (json!([["arg_a", "Jack"]]), false),
        // Combinations.
        (json!([["arg_a", "==", "Jack"], ["arg_n", ">", 10]]), false),
        (json!(["AND", ["arg_a", "==", "Jack"], ["arg_n", ">", 9]]), true),
        (json!(["or", ["arg_a", "==", "x"], ["arg_n", ">", 9]]), true),
        (json!(["OR", ["arg_a", "==", "x"], ["arg_n", ">", 10]]), false),
        (json!(["!AND", ["arg_a", "==", "x"], ["arg_n", ">", 9]]), true),
        (json!(["!OR", ["arg_a", "==", "x"], ["arg_n", ">", 10]]), true),
        (json!(["!OR", ["arg_a", "==", "Jack"], ["arg_n", ">", 10]]), false),
        (json!([["OR", ["arg_a", "==", "x"], ["!OR", ["arg_n", "==", 1], ["arg_n", "==", 2]]]]), true),
        (json!([["arg_n", ">", 1], [["arg_n", "<", 20], ["arg_a", "~=", "x"]]]), true),
    ] {
        let expression = read(&vars).unwrap();
        let holds = expression.is_none_or(|expression| expression.holds(&request));
        assert_eq!(holds, expected, "{vars}");
    }
}

#[test]
fn what_is_refused() {
    let many = vec![json!(["arg_a", "==", "x"]); 513];
    for (vars, reason) in [
        (
            json!(["arg_a", "==", "b"]),
            "$: failed to validate the 'vars' expression: rule should be wrapped inside brackets",
        ),
        (json!([[]]), "$[0]: failed to validate the 'vars' expression: rule too short"),
        (json!(["AND", ["arg_a", "==", "b"]]), "$: failed to validate the 'vars' expression: rule too short"),
        (json!([["arg_a"]]), "$[0]: failed to validate the 'vars' expression: invalid expression"),
        (json!([["arg_a", "like", "b"]]), "$[0]: failed to validate the 'vars' expression: invalid operator 'like'"),
        (json!([["arg_a", "?", "==", "b"]]), "$[0]: failed to validate the 'vars' expression: bad 'not' expression"),
        (json!([["arg_a", "!", "==", "b", "c"]]), "$[0]: failed to validate the 'vars' expression: invalid expression"),
        (json!([["arg_a", 1, "b"]]), "$[0]: failed to validate the 'vars' expression: invalid expression"),
        (json!([7]), "$: failed to validate the 'vars' expression: invalid expression"),
        (
            json!([["OR", ["arg_a", "==", "b"], "x"]]),
            "$[0][2]: failed to validate the 'vars' expression: invalid expression",
        ),
        (json!([["arg_a", "~~", 7]]), "$[0]: failed to validate the 'vars' expression: a pattern is a string"),
        (
            json!([["arg_a", "ipmatch", ["10.0.0.0/33"]]]),
            "$[0]: failed to validate the 'vars' expression: invalid ip address: \"10.0.0.0/33\"",
        ),
        (json!(many), "$[512]: failed to validate the 'vars' expression: more than 512 conditions"),
        (
            json!([["arg_a", "~~", "x".repeat(4097)]]),
            "$[0]: failed to validate the 'vars' expression: a pattern is at most 4096 bytes",
        ),
    ] {
        assert_eq!(read(&vars).unwrap_err(), reason, "{vars}");
    }
    // Look-around and patterns that grow too large are refused with the reason.
    for (pattern, part) in [("(?=a)", "look-around"), ("(a{1000}){1000}", "size limit")] {
        let why = read(&json!([["arg_a", "~~", pattern]])).unwrap_err();
        assert!(why.contains(part), "{why}");
    }
}

#[test]
fn a_pattern_takes_no_longer_than_its_text() {
    // A pattern on which backtracking takes 2^n steps.
    let expression = read(&json!([["arg_a", "~~", "^(a|aa)+$"]])).unwrap().unwrap();
    struct Long(Vec<u8>);
    impl Values for Long {
        fn value(&self, _: &Variable) -> Option<Cow<'_, [u8]>> {
            Some(Cow::Borrowed(&self.0))
        }
    }
    let mut text = vec![b'a'; 60_000];
    text.push(b'!');
    assert!(!expression.holds(&Long(text)));
}

#[test]
fn every_variable_is_named() {
    let vars = json!([["arg_a", "==", "1"], ["OR", ["uri", "~~", "x"], ["nosuch", "==", "1"]]]);
    let expression = read(&vars).unwrap().unwrap();
    assert_eq!(expression.variables().len(), 3);
    assert_eq!(expression.variables().iter().filter_map(|variable| variable.unknown()).collect::<Vec<_>>(), ["nosuch"]);
}
