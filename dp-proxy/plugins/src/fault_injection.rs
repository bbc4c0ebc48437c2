//! `fault-injection`: answers or delays a part of the requests, to see how others bear it.

use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderMap, HeaderName, HeaderValue};
use protocol::resource::scope::{Fields, Scope};
use protocol::resource::{Expression, VariableText};
use serde_json::{Value, json};

use super::answer::Answer;
use super::header_edits::editable_name;
use super::host::Host;
use super::plugin::{Behaviour, Plugin, Step, check_variables};
use super::request::Request;

/// See the module.
pub(crate) static PLUGIN: Plugin =
    Plugin { name: "fault-injection", priority: 11_000, version: 0.1, schema, read, auth: None, secrets: &[] };

#[derive(Debug)]
struct FaultInjection {
    abort: Option<Abort>,
    delay: Option<Delay>,
}

#[derive(Debug)]
struct Abort {
    whom: Whom,
    status: StatusCode,
    body: Option<VariableText>,
    headers: Vec<(HeaderName, VariableText)>,
}

#[derive(Debug)]
struct Delay {
    whom: Whom,
    duration: Duration,
}

/// Which requests are concerned.
#[derive(Debug)]
struct Whom {
    /// Of a hundred; `None`: all.
    percentage: Option<u64>,
    /// One of these must hold; empty: all do.
    any_of: Vec<Expression>,
}

/// The most conditions of which one must hold.
const VARS_MAX: usize = 20;

fn read(fields: &Fields<'_, '_>) -> Option<Box<dyn Behaviour>> {
    if !fields.has("abort") && !fields.has("delay") {
        fields.wrong("expect object to have at least 1 properties");
    }
    let abort = fields.optional("abort", |s| {
        let fields = s.object()?;
        fields.allow_unknown();
        let whom = Whom::read(&fields);
        let status =
            fields.required("http_status", |s| StatusCode::from_u16(u16::try_from(s.integer(200, 999)?).ok()?).ok());
        let body = fields.optional("body", text);
        let headers = fields.optional("headers", |s| s.all(s.members()?, header)).unwrap_or_default();
        Some(Abort { whom: whom?, status: status?, body, headers })
    });
    let delay = fields.optional("delay", |s| {
        let fields = s.object()?;
        fields.allow_unknown();
        let whom = Whom::read(&fields);
        let seconds = fields.required("duration", |s| s.number(false))?;
        Some(Delay { whom: whom?, duration: Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX) })
    });
    Some(Box::new(FaultInjection { abort, delay }))
}

fn text(scope: Scope<'_, '_>) -> Option<VariableText> {
    let text = VariableText::parse(scope.string(0, usize::MAX)?);
    check_variables(&scope, text.variables());
    Some(text)
}

fn header((name, value): (&str, Scope<'_, '_>)) -> Option<(HeaderName, VariableText)> {
    let name = editable_name(&value, name)?;
    if value.value.is_number() {
        return Some((name, VariableText::parse(&value.value.to_string())));
    }
    Some((name, text(value)?))
}

impl Whom {
    fn read(fields: &Fields<'_, '_>) -> Option<Self> {
        let percentage = fields.optional("percentage", |s| u64::try_from(s.integer(0, 100)?).ok());
        let any_of = fields.optional("vars", |s| {
            let items = s.items(0)?;
            if items.len() > VARS_MAX {
                s.wrong(format!("expect array to have at most {VARS_MAX} items"));
                return None;
            }
            s.all(items, |item| {
                let expression = Expression::read(&item)?;
                check_variables(&item, expression.variables());
                Some(expression)
            })
        });
        Some(Self { percentage, any_of: any_of.unwrap_or_default() })
    }

    fn takes(&self, request: &Request, host: &dyn Host) -> bool {
        let by_chance = self.percentage.is_none_or(|percentage| {
            let drawn = u64::from_be_bytes(host.random()[..8].try_into().expect("8 of 16 bytes"));
            drawn % 100 < percentage
        });
        by_chance && (self.any_of.is_empty() || self.any_of.iter().any(|vars| vars.holds(&request.seen(host))))
    }

    fn schema() -> [(&'static str, Value); 2] {
        [
            ("percentage", json!({ "type": "integer", "minimum": 0, "maximum": 100 })),
            (
                "vars",
                json!({ "type": "array", "maxItems": VARS_MAX, "items": { "type": "array" },
                             "description": "conditions, of which one must hold" }),
            ),
        ]
    }
}

impl Behaviour for FaultInjection {
    fn rewrite(&self, request: &mut Request, host: &dyn Host) -> Step {
        let delay = self.delay.as_ref().filter(|delay| delay.whom.takes(request, host)).map(|delay| delay.duration);
        let abort = self.abort.as_ref().filter(|abort| abort.whom.takes(request, host));
        let step = abort.map(|abort| Step::Answer(abort.answer(request, host)));
        match (delay, step) {
            (None, step) => step.unwrap_or(Step::Go),
            (Some(delay), None) => Step::Wait(delay),
            (Some(delay), Some(step)) => Step::WaitThen(delay, Box::new(step)),
        }
    }
}

impl Abort {
    fn answer(&self, request: &Request, host: &dyn Host) -> Answer {
        let seen = request.seen(host);
        let value = |text: &VariableText| HeaderValue::from_bytes(&text.fill_all(&seen)).ok();
        let headers: HeaderMap =
            self.headers.iter().filter_map(|(name, text)| Some((name.clone(), value(text)?))).collect();
        let body = self.body.as_ref().map(|body| body.fill_all(&seen)).unwrap_or_default();
        Answer { headers, body: body.into(), ..Answer::empty(self.status) }
    }
}

fn schema() -> Value {
    let with = |own: Value| {
        let mut properties = own;
        for (name, schema) in Whom::schema() {
            properties[name] = schema;
        }
        properties
    };
    let abort = with(json!({
        "http_status": { "type": "integer", "minimum": 200, "maximum": 999 },
        "body": { "type": "string" },
        "headers": { "type": "object", "additionalProperties": { "type": ["string", "number"] } },
    }));
    let delay = with(json!({ "duration": { "type": "number", "minimum": 0, "description": "in seconds" } }));
    json!({
        "properties": {
            "abort": { "type": "object", "properties": abort, "required": ["http_status"] },
            "delay": { "type": "object", "properties": delay, "required": ["duration"] },
        },
        "anyOf": [{ "required": ["abort"] }, { "required": ["delay"] }],
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestHost, behaviour, request};
    use super::*;

    #[test]
    fn whom_it_concerns_is_answered_or_waits() {
        let abort = |more: Value| {
            let mut abort = json!({"http_status": 555, "body": "no $arg_a", "headers": {"x-fault": 7}});
            abort.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            json!({"abort": abort})
        };
        let answered = || {
            let answer = Answer { body: "no 1".into(), ..Answer::empty(StatusCode::from_u16(555).unwrap()) };
            answer.with(HeaderName::from_static("x-fault"), HeaderValue::from_static("7"))
        };
        let half = Duration::from_millis(500);
        for (conf, expected) in [
            (abort(json!({})), Step::Answer(answered())),
            (abort(json!({"percentage": 0})), Step::Go),
            (abort(json!({"percentage": 100})), Step::Answer(answered())),
            (abort(json!({"vars": [[["arg_a", "==", "2"]], [["arg_a", "==", "1"]]]})), Step::Answer(answered())),
            (abort(json!({"vars": [[["arg_a", "==", "2"]]]})), Step::Go),
            (json!({"delay": {"duration": 0.5}}), Step::Wait(half)),
            (
                json!({"delay": {"duration": 0.5}, "abort": {"http_status": 204}}),
                Step::WaitThen(half, Box::new(Step::Answer(Answer::empty(StatusCode::NO_CONTENT)))),
            ),
        ] {
            let host = TestHost { path: "/?a=1".to_owned(), ..TestHost::default() };
            let step = behaviour(PLUGIN.name, conf.clone()).rewrite(&mut request("GET", "/?a=1"), &host);
            assert_eq!(step, expected, "{conf}");
        }
    }
}
