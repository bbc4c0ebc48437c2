//! `mocking`: answers with what is written down, in place of an upstream.

use std::time::Duration;

use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use protocol::resource::VariableText;
use protocol::resource::scope::Fields;
use serde_json::{Value, json};

use super::answer::Answer;
use super::header_edits::editable_name;
use super::host::Host;
use super::plugin::{Behaviour, Plugin, Step, check_variables, not_served};
use super::request::Request;

/// See the module.
pub(crate) static PLUGIN: Plugin =
    Plugin { name: "mocking", priority: 10_900, version: 0.1, schema, read, auth: None, secrets: &[] };

const TYPE: &str = "application/json;charset=utf8";
const MOCKED: HeaderName = HeaderName::from_static("x-mock-by");
const BY: HeaderValue = HeaderValue::from_static("APISIX/3.18.0");

#[derive(Debug)]
struct Mocking {
    delay: Duration,
    status: StatusCode,
    example: VariableText,
    headers: HeaderMap,
}

fn read(fields: &Fields<'_, '_>) -> Option<Box<dyn Behaviour>> {
    not_served(fields, "response_schema");
    let example = fields.required("response_example", |s| {
        let text = VariableText::parse(s.string(0, usize::MAX)?);
        check_variables(&s, text.variables());
        Some(text)
    });
    let delay = fields.optional("delay", |s| u64::try_from(s.integer(0, i64::from(u32::MAX))?).ok());
    let status =
        fields.optional("response_status", |s| StatusCode::from_u16(u16::try_from(s.integer(200, 999)?).ok()?).ok());
    let with_header = fields.optional("with_mock_header", |s| s.boolean()).unwrap_or(true);
    let content_type = fields.optional("content_type", |s| {
        let text = s.string(0, usize::MAX)?;
        s.pattern(text, "^[ -~]*$", |text| HeaderValue::from_str(text).is_ok())
    });
    let mut headers: HeaderMap = fields
        .optional("response_headers", |s| {
            s.all(s.members()?, |(name, value)| {
                let name = editable_name(&value, name)?;
                let text = match value.value {
                    Value::Number(number) => number.to_string(),
                    _ => value.string(0, usize::MAX)?.to_owned(),
                };
                let parsed = HeaderValue::from_str(&text).ok();
                if parsed.is_none() {
                    value.wrong(format!("{text:?} is no value of a header"));
                }
                Some((name, parsed?))
            })
        })
        .into_iter()
        .flatten()
        .collect();
    headers.insert(CONTENT_TYPE, HeaderValue::from_str(content_type.unwrap_or(TYPE)).ok()?);
    if with_header {
        headers.insert(MOCKED, BY);
    }
    Some(Box::new(Mocking {
        delay: Duration::from_secs(delay.unwrap_or(0)),
        status: status.unwrap_or(StatusCode::OK),
        example: example?,
        headers,
    }))
}

impl Behaviour for Mocking {
    fn access(&self, request: &mut Request, host: &dyn Host) -> Step {
        let body = self.example.fill_all(&request.seen(host)).into();
        let step = Step::Answer(Answer { status: self.status, headers: self.headers.clone(), body });
        if self.delay.is_zero() { step } else { Step::WaitThen(self.delay, Box::new(step)) }
    }
}

fn schema() -> Value {
    json!({
        "properties": {
            "response_example": { "type": "string", "description": "the body; it may have variables in it" },
            "response_status": { "type": "integer", "minimum": 200, "maximum": 999, "default": 200 },
            "response_headers": { "type": "object", "additionalProperties": { "type": ["string", "number"] } },
            "content_type": { "type": "string", "default": TYPE },
            "delay": { "type": "integer", "minimum": 0, "maximum": u32::MAX, "default": 0, "description": "in seconds" },
            "with_mock_header": { "type": "boolean", "default": true },
        },
        "required": ["response_example"],
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestHost, answer, behaviour, request};
    use super::*;

    #[test]
    fn what_is_written_down_is_answered() {
        let conf = json!({"response_example": "{\"a\":\"$arg_a\"}", "response_status": 201,
                          "response_headers": {"X-One": "1"}});
        let host = TestHost { path: "/?a=7".to_owned(), ..TestHost::default() };
        let step = behaviour(PLUGIN.name, conf).access(&mut request("GET", "/?a=7"), &host);
        let answer = answer(&step).unwrap();
        assert_eq!((answer.status.as_u16(), &answer.body[..]), (201, &b"{\"a\":\"7\"}"[..]));
        assert_eq!(answer.headers["x-one"], "1");
        assert_eq!(answer.headers["x-mock-by"], "APISIX/3.18.0");
        let conf = json!({"response_example": "", "delay": 2, "with_mock_header": false});
        let step = behaviour(PLUGIN.name, conf).access(&mut request("GET", "/"), &TestHost::default());
        let Step::WaitThen(delay, then) = step else { panic!("{step:?}") };
        assert_eq!(delay, Duration::from_secs(2));
        assert!(matches!(*then, Step::Answer(answer) if !answer.headers.contains_key("x-mock-by")));
    }
}
