//! `ua-restriction`: which programs may ask, by what they call themselves.

use http::StatusCode;
use http::header::USER_AGENT;
use protocol::resource::scope::{Fields, Scope};
use regex::bytes::RegexSet;
use serde_json::{Value, json};

use super::answer::Answer;
use super::host::Host;
use super::plugin::{Behaviour, Plugin, Step};
use super::regex_uri::pattern_set;
use super::request::Request;

/// See the module.
pub(crate) static PLUGIN: Plugin =
    Plugin { name: "ua-restriction", priority: 2999, version: 0.1, schema, read, auth: None, secrets: &[] };

const MESSAGE: &str = "Not allowed";

#[derive(Debug)]
struct UaRestriction {
    patterns: RegexSet,
    /// Whether they are those that may pass; else those that may not.
    allowed: bool,
    bypass_missing: bool,
    message: Box<str>,
}

fn read(fields: &Fields<'_, '_>) -> Option<Box<dyn Behaviour>> {
    let list = |s: Scope<'_, '_>| {
        let texts = s.all(s.items(1)?, |item| item.string(1, 4096))?;
        pattern_set(&s, &texts, false)
    };
    let (allow, deny) = (fields.optional("allowlist", list), fields.optional("denylist", list));
    let bypass_missing = fields.optional("bypass_missing", |s| s.boolean()).unwrap_or(false);
    let message = fields.optional("message", |s| s.string(1, 1024)).unwrap_or(MESSAGE);
    match (fields.has("allowlist"), fields.has("denylist")) {
        (false, false) => fields.wrong("value should match only one schema, but matches none"),
        (true, true) => fields.wrong("value should match only one schema, but matches both schemas 1 and 2"),
        _ => {}
    }
    Some(Box::new(UaRestriction {
        allowed: allow.is_some(),
        patterns: allow.or(deny)?,
        bypass_missing,
        message: message.into(),
    }))
}

impl Behaviour for UaRestriction {
    fn access(&self, request: &mut Request, _: &dyn Host) -> Step {
        let mut agents = request.headers.get_all(USER_AGENT).iter().peekable();
        let passes = match agents.peek() {
            None => self.bypass_missing,
            // Of several names every one must pass.
            Some(_) => agents.all(|agent| self.patterns.is_match(agent.as_bytes()) == self.allowed),
        };
        if passes { Step::Go } else { Step::Answer(Answer::message(StatusCode::FORBIDDEN, &self.message)) }
    }
}

fn schema() -> Value {
    let list = json!({ "type": "array", "minItems": 1, "items": { "type": "string", "minLength": 1, "maxLength": 4096 },
                       "description": "regular expressions" });
    json!({
        "properties": {
            "allowlist": list,
            "denylist": list,
            "bypass_missing": { "type": "boolean", "default": false },
            "message": { "type": "string", "minLength": 1, "maxLength": 1024, "default": MESSAGE },
        },
        "oneOf": [{ "required": ["allowlist"] }, { "required": ["denylist"] }],
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestHost, answer, behaviour, request};
    use super::*;

    #[test]
    fn agents() {
        let refused = Some("{\"message\":\"Not allowed\"}\n");
        for (conf, agents, expected) in [
            (json!({"allowlist": ["my-bot1", "(Baidu)"]}), &["my-bot1"][..], None),
            (json!({"allowlist": ["my-bot1"]}), &["curl"], refused),
            (json!({"allowlist": ["my-bot1"]}), &["my-bot1", "curl"], refused),
            (json!({"allowlist": ["my-bot1"]}), &[], refused),
            (json!({"allowlist": ["my-bot1"], "bypass_missing": true}), &[], None),
            (json!({"denylist": ["^curl"], "message": "go"}), &["curl/8"], Some("{\"message\":\"go\"}\n")),
            (json!({"denylist": ["^curl"]}), &["not curl"], None),
        ] {
            let mut it = request("GET", "/a");
            for agent in agents {
                it.headers.append(USER_AGENT, agent.parse().unwrap());
            }
            let step = behaviour(PLUGIN.name, conf.clone()).access(&mut it, &TestHost::default());
            let found = answer(&step).map(|a| str::from_utf8(&a.body).unwrap());
            assert_eq!(found, expected, "{conf} {agents:?}");
        }
    }
}
