//! `uri-blocker`: refuses requests by what they ask for.

use http::StatusCode;
use protocol::report::Problem;
use protocol::resource::scope::{Fields, Scope};
use protocol::resource::{Known, Variable};
use regex::bytes::RegexSet;
use serde_json::{Value, json};

use super::answer::Answer;
use super::host::Host;
use super::plugin::{Behaviour, Plugin, Step};
use super::regex_uri::pattern_set;
use super::request::Request;

/// See the module.
pub(crate) static PLUGIN: Plugin =
    Plugin { name: "uri-blocker", priority: 2900, version: 0.1, schema, read, auth: None, secrets: &[] };

#[derive(Debug)]
struct UriBlocker {
    rules: RegexSet,
    code: StatusCode,
    message: Option<Box<str>>,
}

fn read(fields: &Fields<'_, '_>) -> Option<Box<dyn Behaviour>> {
    let insensitive = fields.optional("case_insensitive", |s| s.boolean()).unwrap_or(false);
    let rules = fields.required("block_rules", |s: Scope<'_, '_>| {
        let texts = s.all(s.unique_items(0)?, |item| item.string(1, 4096))?;
        pattern_set(&s, &texts, insensitive)
    });
    let code = fields.optional("rejected_code", |s| {
        let code = u16::try_from(s.integer(200, 999)?).ok()?;
        StatusCode::from_u16(code).map_err(|_| s.problem(Problem::rule(s.path.clone(), "is no status"))).ok()
    });
    let message = fields.optional("rejected_msg", |s| s.string(1, usize::MAX)).map(Box::from);
    Some(Box::new(UriBlocker { rules: rules?, code: code.unwrap_or(StatusCode::FORBIDDEN), message }))
}

impl Behaviour for UriBlocker {
    fn rewrite(&self, _: &mut Request, host: &dyn Host) -> Step {
        // What was sent, as in APISIX, and its path as everything behind reads it: a letter that is escaped in a path must not
        // get past a rule.
        let hits = |known| {
            let value = host.values().value(&Variable::Known(known));
            value.is_some_and(|value| self.rules.is_match(&value))
        };
        if !hits(Known::RequestUri) && !hits(Known::Uri) {
            return Step::Go;
        }
        Step::Answer(match &self.message {
            Some(message) => Answer::error(self.code, message),
            None => Answer::empty(self.code),
        })
    }
}

fn schema() -> Value {
    json!({
        "properties": {
            "block_rules": { "type": "array", "uniqueItems": true,
                             "items": { "type": "string", "minLength": 1, "maxLength": 4096 },
                             "description": "regular expressions" },
            "case_insensitive": { "type": "boolean", "default": false },
            "rejected_code": { "type": "integer", "minimum": 200, "maximum": 999, "default": 403 },
            "rejected_msg": { "type": "string", "minLength": 1 },
        },
        "required": ["block_rules"],
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestHost, answer, behaviour, request};
    use super::*;

    #[test]
    fn what_matches_a_rule_is_refused() {
        for (conf, target, expected) in [
            (json!({"block_rules": ["root.exe", "root.m+"]}), "/root.exe?a=1", Some((403, ""))),
            (json!({"block_rules": ["root.exe", "root.m+"]}), "/x?a=root.mm", Some((403, ""))),
            (json!({"block_rules": ["^/select.+(from|limit)"]}), "/x", None),
            (json!({"block_rules": ["AA"]}), "/aa", None),
            (
                json!({"block_rules": ["AA"], "case_insensitive": true, "rejected_code": 451, "rejected_msg": "no"}),
                "/aa",
                Some((451, "{\"error_msg\":\"no\"}\n")),
            ),
            (json!({"block_rules": []}), "/aa", None),
        ] {
            let host = TestHost { path: target.to_owned(), ..TestHost::default() };
            let step = behaviour(PLUGIN.name, conf.clone()).rewrite(&mut request("GET", target), &host);
            let found = answer(&step).map(|a| (a.status.as_u16(), str::from_utf8(&a.body).unwrap()));
            assert_eq!(found, expected, "{conf} {target}");
        }
    }
}
