//! `limit-count`: so many requests in a window of time, counted by this proxy.
//!
//! A window opens with the first request of its key and closes after its time; then the count starts over. All workers
//! of a proxy share the counts: they are behind locks, each for a part of the keys, which only limited requests take.

use std::time::Duration;

use http::header::{HeaderName, HeaderValue};
use protocol::report::Problem;
use protocol::resource::scope::{Fields, Scope};
use protocol::resource::{Known, Variable};
use serde_json::{Value, json};

use super::header_edits::editable_name;
use super::host::Host;
use super::keyed::Keyed;
use super::limits::{self, Key, KeyType, Rejection, only};
use super::metadata::Metadata;
use super::plugin::{Behaviour, Plugin, Step, not_served};
use super::request::Request;

/// See the module.
pub(crate) static PLUGIN: Plugin =
    Plugin { name: "limit-count", priority: 1002, version: 0.5, schema, read, auth: None, secrets: &[] };

const LIMIT: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET: HeaderName = HeaderName::from_static("x-ratelimit-reset");

/// The fields of the metadata that name other headers, with those that hold without it.
const HEADERS: [(&str, HeaderName); 3] =
    [("limit_header", LIMIT), ("remaining_header", REMAINING), ("reset_header", RESET)];

#[derive(Debug)]
struct LimitCount {
    count: u64,
    key: Key,
    rejection: Rejection,
    show_headers: bool,
    time: Duration,
    windows: Keyed<Window>,
}

/// The longest window.
const WINDOW_SECONDS_MAX: i64 = 366 * 24 * 3600;

fn read(fields: &Fields<'_, '_>) -> Option<Box<dyn Behaviour>> {
    let is_whole = fields.has("rules") || (fields.has("count") && fields.has("time_window"));
    if !is_whole {
        fields.wrong("value should match only one schema, but matches none");
    }
    for field in ["group", "rules"] {
        not_served(fields, field);
    }
    only(fields, "policy", "local");
    only(fields, "window_type", "fixed");
    let count = fields.optional("count", |s| whole(&s, i64::MAX));
    let window = fields.optional("time_window", |s| whole(&s, WINDOW_SECONDS_MAX));
    let key_type = fields.optional("key_type", |s| s.one_of(&limits::KEY_TYPES)).unwrap_or(KeyType::Variable);
    let key = match fields.get("key") {
        Some(scope) => Key::read(&scope, key_type),
        None => Some(Key::Variable(Variable::Known(Known::RemoteAddr))),
    };
    let rejection = Rejection::read(fields);
    let show_headers = fields.optional("show_limit_quota_header", |s| s.boolean()).unwrap_or(true);
    // What is counted here can always be counted.
    fields.optional("allow_degradation", |s| s.boolean());
    Some(Box::new(LimitCount {
        count: count?,
        key: key?,
        rejection: rejection?,
        show_headers,
        time: Duration::from_secs(window?),
        windows: Keyed::default(),
    }))
}

pub(crate) fn read_metadata(fields: &Fields<'_, '_>) -> Option<Metadata> {
    let [limit, remaining, reset] = HEADERS.map(|(field, default)| match fields.get(field) {
        Some(scope) => editable_name(&scope, scope.string(1, usize::MAX)?),
        None => Some(default),
    });
    Some(Metadata::LimitHeaders([limit?, remaining?, reset?]))
}

pub(crate) fn metadata_schema() -> Value {
    let header = |(field, name): (&str, HeaderName)| {
        (field.to_owned(), json!({ "type": "string", "minLength": 1, "default": name.as_str() }))
    };
    json!({ "properties": HEADERS.map(header).into_iter().collect::<serde_json::Map<_, _>>() })
}

/// A whole number over 0. APISIX takes a text with variables too.
fn whole(scope: &Scope<'_, '_>, max: i64) -> Option<u64> {
    if scope.value.is_string() {
        let sentence = "a number that is made of variables is not served by this version of holdfast";
        scope.problem(Problem::rule(scope.path.clone(), sentence));
        return None;
    }
    let number = scope.value.as_i64().filter(|number| *number > 0);
    if number.is_none() {
        let theirs = "value should match only one schema, but matches none";
        scope.problem(Problem::known_as(
            scope.path.clone(),
            theirs,
            scope.path.clone(),
            "must be a whole number over 0",
        ));
    }
    if number.is_some_and(|number| number > max) {
        scope.wrong(format!("expected {} to be at most {max}", scope.value));
        return None;
    }
    number.and_then(|number| u64::try_from(number).ok())
}

/// The window of one key.
#[derive(Clone, Copy, Debug, Default)]
struct Window {
    closes: Duration,
    taken: u64,
}

impl LimitCount {
    /// Takes one from the key's window. How many had been taken before, and how long the window stays open.
    fn take(&self, key: &[u8], now: Duration) -> (u64, Duration) {
        self.windows.with(key, |window| {
            if window.closes <= now {
                *window = Window { closes: now.saturating_add(self.time), taken: 0 };
            }
            let before = window.taken;
            window.taken = before.saturating_add(1).min(self.count);
            (before, window.closes - now)
        })
    }
}

impl Behaviour for LimitCount {
    fn access(&self, request: &mut Request, host: &dyn Host) -> Step {
        let key = self.key.of(&request.seen(host));
        let (before, left) = self.take(&key, host.now());
        let passes = before < self.count;
        if self.show_headers {
            let remaining = if passes { self.count - before - 1 } else { 0 };
            let [limit_name, remaining_name, reset_name] = match host.metadata(PLUGIN.name) {
                Some(Metadata::LimitHeaders(names)) => names.clone(),
                _ => [LIMIT, REMAINING, RESET],
            };
            request.answer_headers.insert(limit_name, HeaderValue::from(self.count));
            request.answer_headers.insert(remaining_name, HeaderValue::from(remaining));
            if let Ok(reset) = HeaderValue::from_str(&seconds(left)) {
                request.answer_headers.insert(reset_name, reset);
            }
        }
        if passes {
            return Step::Go;
        }
        self.rejection.step()
    }
}

/// Seconds with at most two decimals: `60`, `59.99`.
fn seconds(time: Duration) -> String {
    let text = format!("{:.2}", time.as_secs_f64());
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

fn schema() -> Value {
    let whole = json!({ "type": "integer", "exclusiveMinimum": 0 });
    json!({
        "properties": {
            "count": whole,
            "time_window": { "type": "integer", "exclusiveMinimum": 0, "maximum": WINDOW_SECONDS_MAX, "description": "in seconds" },
            "key": { "type": "string", "default": "remote_addr" },
            "key_type": { "enum": limits::KEY_TYPES.map(|(word, _)| word), "default": "var" },
            "policy": { "enum": ["local"], "default": "local" },
            "window_type": { "enum": ["fixed"], "default": "fixed" },
            "rejected_code": { "type": "integer", "minimum": 200, "maximum": 599, "default": 503 },
            "rejected_msg": { "type": "string", "minLength": 1 },
            "show_limit_quota_header": { "type": "boolean", "default": true },
            "allow_degradation": { "type": "boolean", "default": false },
            "sync_interval": { "type": "number" },
        },
        "required": ["count", "time_window"],
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestHost, answer, behaviour, request};
    use super::*;

    #[test]
    fn a_window_takes_so_many_and_starts_over() {
        let plugin = behaviour(
            PLUGIN.name,
            json!({"count": 2, "time_window": 60, "rejected_code": 429, "rejected_msg": "slow down"}),
        );
        let mut host = TestHost::default();
        let mut ask = |millis: u64| {
            host.now = Duration::from_millis(millis);
            let mut it = request("GET", "/a");
            let step = plugin.access(&mut it, &host);
            let header = |name| it.answer_headers[name].to_str().unwrap().to_owned();
            (answer(&step).map(|a| a.status.as_u16()), header(LIMIT), header(REMAINING), header(RESET))
        };
        let told =
            |status, remaining: &str, reset: &str| (status, "2".to_owned(), remaining.to_owned(), reset.to_owned());
        assert_eq!(ask(0), told(None, "1", "60"));
        assert_eq!(ask(10), told(None, "0", "59.99"));
        assert_eq!(ask(30_000), told(Some(429), "0", "30"));
        assert_eq!(ask(59_999), told(Some(429), "0", "0"));
        assert_eq!(ask(60_000), told(None, "1", "60"));
        let mut it = request("GET", "/a");
        plugin.access(&mut it, &host);
        let step = plugin.access(&mut it, &host);
        assert_eq!(answer(&step).unwrap().body, "{\"error_msg\":\"slow down\"}\n");
    }

    #[test]
    fn keys_are_counted_apart() {
        for (conf, first, second, together) in [
            (json!({"key": "arg_a"}), "/?a=1", "/?a=2", false),
            (json!({"key": "arg_a"}), "/?a=1", "/?a=1", true),
            (json!({"key": "arg_a"}), "/?b=1", "/?b=2", true),
            (json!({"key": "$arg_a-$arg_b", "key_type": "var_combination"}), "/?a=1&b=1", "/?a=1&b=2", false),
            (json!({"key": "arg_a", "key_type": "constant"}), "/?a=1", "/?a=2", true),
        ] {
            let mut full = json!({"count": 1, "time_window": 1});
            full.as_object_mut().unwrap().extend(conf.as_object().unwrap().clone());
            let plugin = behaviour(PLUGIN.name, full);
            let passes = |target: &str| {
                let host = TestHost { path: target.to_owned(), ..TestHost::default() };
                plugin.access(&mut request("GET", target), &host) == Step::Go
            };
            assert!(passes(first));
            assert_eq!(passes(second), !together, "{conf}");
        }
    }

    #[test]
    fn metadata_names_the_headers() {
        let fields = json!({"limit_header": "X-L", "reset_header": "X-R"});
        let metadata = Metadata::read(PLUGIN.name, &fields).unwrap();
        let host = TestHost { metadata, ..Default::default() };
        let mut it = request("GET", "/");
        behaviour(PLUGIN.name, json!({"count": 1, "time_window": 1})).access(&mut it, &host);
        let mut names: Vec<_> = it.answer_headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["x-l", "x-r", "x-ratelimit-remaining"]);
    }
}
