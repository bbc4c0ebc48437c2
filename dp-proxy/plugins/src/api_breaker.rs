//! `api-breaker`: keeps requests from an upstream that answers badly, for longer each time.

use std::borrow::Cow;
use std::time::Duration;

use http::StatusCode;
use http::header::{HeaderMap, HeaderValue};
use protocol::resource::scope::{Fields, Scope};
use protocol::resource::{Known, Variable, VariableText};
use serde_json::{Value, json};

use super::answer::{Answer, Response};
use super::header_edits::editable_name;
use super::host::Host;
use super::keyed::Keyed;
use super::plugin::{Behaviour, Plugin, Step, check_variables};
use super::request::Request;

/// See the module.
pub(crate) static PLUGIN: Plugin =
    Plugin { name: "api-breaker", priority: 1005, version: 0.1, schema, read, auth: None, secrets: &[] };

#[derive(Debug)]
struct ApiBreaker {
    code: StatusCode,
    body: Option<Box<str>>,
    headers: Vec<(http::HeaderName, VariableText)>,
    longest: Duration,
    bad: Statuses,
    good: Statuses,
    /// By host and path.
    known: Keyed<Record>,
}

/// Statuses, of which so many make a sign.
#[derive(Debug)]
struct Statuses {
    codes: Vec<u16>,
    count: u64,
}

/// What an upstream has answered of late.
#[derive(Clone, Copy, Debug, Default)]
struct Record {
    bad: u64,
    good: u64,
    /// When the last `count` bad answers were complete.
    broken_at: Option<Duration>,
}

fn read(fields: &Fields<'_, '_>) -> Option<Box<dyn Behaviour>> {
    let code = fields
        .required("break_response_code", |s| StatusCode::from_u16(u16::try_from(s.integer(200, 599)?).ok()?).ok());
    let body = fields.optional("break_response_body", |s| s.string(0, usize::MAX)).map(Box::from);
    let headers = fields.optional("break_response_headers", |s| s.all(s.items(0)?, header)).unwrap_or_default();
    let longest = fields.optional("max_breaker_sec", |s| u64::try_from(s.integer(3, i64::MAX)?).ok()).unwrap_or(300);
    let bad = fields.optional("unhealthy", |s| Statuses::read(s, "failures", (500, 599)));
    let good = fields.optional("healthy", |s| Statuses::read(s, "successes", (200, 499)));
    Some(Box::new(ApiBreaker {
        code: code?,
        body,
        headers,
        longest: Duration::from_secs(longest),
        bad: bad.unwrap_or(Statuses { codes: vec![500], count: 3 }),
        good: good.unwrap_or(Statuses { codes: vec![200], count: 3 }),
        known: Keyed::default(),
    }))
}

fn header(scope: Scope<'_, '_>) -> Option<(http::HeaderName, VariableText)> {
    let fields = scope.object()?;
    fields.allow_unknown();
    let name = fields.required("key", |s| editable_name(&s, s.string(1, usize::MAX)?));
    let value = fields.required("value", |s| {
        let text = VariableText::parse(s.string(1, usize::MAX)?);
        check_variables(&s, text.variables());
        Some(text)
    });
    Some((name?, value?))
}

impl Statuses {
    fn read(scope: Scope<'_, '_>, count: &'static str, (min, max): (i64, i64)) -> Option<Self> {
        let fields = scope.object()?;
        fields.allow_unknown();
        let codes = fields.optional("http_statuses", |s| {
            s.all(s.unique_items(1)?, |item| u16::try_from(item.integer(min, max)?).ok())
        });
        let count = fields.optional(count, |s| u64::try_from(s.integer(1, i64::MAX)?).ok());
        let default = u16::try_from(min).unwrap_or_default();
        Some(Self { codes: codes.unwrap_or_else(|| vec![default]), count: count.unwrap_or(3) })
    }
}

impl ApiBreaker {
    /// A route's requests are told apart by host and path, as in APISIX.
    fn key(host: &dyn Host) -> [Cow<'_, [u8]>; 2] {
        [Known::Host, Known::Uri].map(|known| host.values().value(&Variable::Known(known)).unwrap_or_default())
    }

    /// For how long the last bad answers keep requests away: 2 s, 4 s, 8 s, … as long as no good ones come between.
    fn lasts(&self, record: &Record) -> Duration {
        let times = u32::try_from(record.bad / self.bad.count).unwrap_or(u32::MAX);
        Duration::from_secs(2_u64.saturating_pow(times)).min(self.longest)
    }
}

impl Behaviour for ApiBreaker {
    fn access(&self, request: &mut Request, host: &dyn Host) -> Step {
        let now = host.now();
        let is_broken = |record: &Record| record.broken_at.is_some_and(|at| now < at + self.lasts(record));
        if self.known.look(Self::key(host), is_broken) != Some(true) {
            return Step::Go;
        }
        let Some(body) = &self.body else { return Step::Answer(Answer::empty(self.code)) };
        let seen = request.seen(host);
        let value = |text: &VariableText| HeaderValue::from_bytes(&text.fill_all(&seen)).ok();
        let headers: HeaderMap =
            self.headers.iter().filter_map(|(name, text)| Some((name.clone(), value(text)?))).collect();
        Step::Answer(Answer { headers, body: body.to_string().into(), ..Answer::empty(self.code) })
    }

    fn header_filter(&self, _: &Request, response: &mut Response<'_>, host: &dyn Host) {
        let Some(status) = response.upstream_status else { return };
        let now = host.now();
        if self.bad.codes.contains(&status) {
            self.known.with(Self::key(host), |record| {
                record.bad += 1;
                record.good = 0;
                if record.bad % self.bad.count == 0 {
                    record.broken_at = Some(now);
                }
            });
        } else if self.good.codes.contains(&status) {
            // Good answers matter where bad ones were.
            if self.known.look(Self::key(host), |record| record.bad > 0) == Some(true) {
                self.known.with(Self::key(host), |record| {
                    record.good += 1;
                    if record.good >= self.good.count {
                        *record = Record::default();
                    }
                });
            }
        }
    }
}

fn schema() -> Value {
    let statuses = |count: &str, min: u16, max: u16| {
        json!({
            "type": "object",
            "properties": {
                "http_statuses": { "type": "array", "minItems": 1, "uniqueItems": true, "default": [min],
                                   "items": { "type": "integer", "minimum": min, "maximum": max } },
                count: { "type": "integer", "minimum": 1, "default": 3 },
            },
        })
    };
    json!({
        "properties": {
            "break_response_code": { "type": "integer", "minimum": 200, "maximum": 599 },
            "break_response_body": { "type": "string" },
            "break_response_headers": { "type": "array", "items": {
                "type": "object",
                "properties": { "key": { "type": "string", "minLength": 1 }, "value": { "type": "string", "minLength": 1 } },
                "required": ["key", "value"],
            } },
            "max_breaker_sec": { "type": "integer", "minimum": 3, "default": 300 },
            "unhealthy": statuses("failures", 500, 599),
            "healthy": statuses("successes", 200, 499),
        },
        "required": ["break_response_code"],
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestHost, answer, answered_by_upstream, behaviour, request};
    use super::*;

    #[test]
    fn bad_answers_break_for_longer_each_time_until_good_ones_come() {
        let conf = json!({"break_response_code": 599, "break_response_body": "later", "max_breaker_sec": 5,
                          "break_response_headers": [{"key": "X-Why", "value": "$host"}],
                          "unhealthy": {"http_statuses": [500, 503], "failures": 2}, "healthy": {"successes": 1}});
        let plugin = behaviour(PLUGIN.name, conf);
        let mut host = TestHost::default();
        let mut ask = |seconds: u64, status: u16| {
            host.now = Duration::from_secs(seconds);
            let step = plugin.access(&mut request("GET", "/a"), &host);
            match answer(&step) {
                Some(answer) => {
                    assert_eq!(answer.body, "later");
                    assert_eq!(answer.headers["x-why"], "a.example");
                    answer.status.as_u16()
                }
                None => {
                    answered_by_upstream(&*plugin, &request("GET", "/a"), &host, status);
                    status
                }
            }
        };
        for (step, (at, status, expected)) in [
            (0, 500, 500),
            (0, 404, 404),
            (0, 503, 503),
            (1, 200, 599),
            (2, 500, 500),
            (2, 500, 500),
            (5, 200, 599),
            // Four bad ones in a row: 4 s.
            (6, 500, 500),
            (6, 500, 500),
            // It would be 8 s; 5 s at most.
            (10, 200, 599),
            (11, 200, 200),
            (11, 500, 500),
            (11, 200, 200),
        ]
        .into_iter()
        .enumerate()
        {
            assert_eq!(ask(at, status), expected, "step {step}");
        }
    }
}
