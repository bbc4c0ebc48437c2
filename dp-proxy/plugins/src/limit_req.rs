//! `limit-req`: so many requests a second, with a few more that wait (a leaky bucket), counted by this proxy.

use std::time::Duration;

use protocol::resource::scope::Fields;
use serde_json::{Value, json};

use super::auth::extended;
use super::host::Host;
use super::keyed::Keyed;
use super::limits::{self, Key, KeyType, Rejection, only};
use super::plugin::{Behaviour, Plugin, Step};
use super::request::Request;

/// See the module.
pub(crate) static PLUGIN: Plugin =
    Plugin { name: "limit-req", priority: 1001, version: 0.1, schema, read, auth: None, secrets: &[] };

#[derive(Debug)]
struct LimitReq {
    /// Requests a second that leave the bucket.
    rate: f64,
    /// Requests that may be in it.
    burst: f64,
    key: Key,
    /// Whether those within the burst pass at once, and do not wait for their turn.
    nodelay: bool,
    rejection: Rejection,
    buckets: Keyed<Bucket>,
}

/// What is in the bucket of one key, and when it was looked at last.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    excess: f64,
    last: Option<Duration>,
}

/// A wait that is shorter is none.
const WAIT_MIN: Duration = Duration::from_millis(1);

fn read(fields: &Fields<'_, '_>) -> Option<Box<dyn Behaviour>> {
    only(fields, "policy", "local");
    let rate = fields.required("rate", |s| s.number(true));
    let burst = fields.required("burst", |s| s.number(false));
    let key_type = fields.optional("key_type", |s| s.one_of(&limits::KEY_TYPES[..2])).unwrap_or(KeyType::Variable);
    let key = fields.required("key", |s| Key::read(&s, key_type));
    let nodelay = fields.optional("nodelay", |s| s.boolean()).unwrap_or(false);
    // What is counted here can always be counted.
    fields.optional("allow_degradation", |s| s.boolean());
    let rejection = Rejection::read(fields);
    Some(Box::new(LimitReq {
        rate: rate?,
        burst: burst?,
        key: key?,
        nodelay,
        rejection: rejection?,
        buckets: Keyed::default(),
    }))
}

impl LimitReq {
    /// How long a request must wait; `None`: the bucket is full.
    fn take(&self, key: &[u8], now: Duration) -> Option<Duration> {
        let drained = |last: Duration| self.rate * now.saturating_sub(last).as_secs_f64();
        self.buckets.with(key, |bucket| {
            // The first request of all is no excess.
            let excess = bucket.last.map_or(0.0, |last| (bucket.excess + 1.0 - drained(last)).max(0.0));
            if excess > self.burst {
                return None;
            }
            *bucket = Bucket { excess, last: Some(now) };
            Some(Duration::try_from_secs_f64(excess / self.rate).unwrap_or(Duration::MAX))
        })
    }
}

impl Behaviour for LimitReq {
    fn access(&self, request: &mut Request, host: &dyn Host) -> Step {
        let key = self.key.of(&request.seen(host));
        match self.take(&key, host.now()) {
            None => self.rejection.step(),
            Some(wait) if wait >= WAIT_MIN && !self.nodelay => Step::Wait(wait),
            Some(_) => Step::Go,
        }
    }
}

fn schema() -> Value {
    let own = json!({
        "rate": { "type": "number", "exclusiveMinimum": 0, "description": "requests a second" },
        "burst": { "type": "number", "minimum": 0, "description": "requests over the rate that wait" },
        "key": { "type": "string" },
        "key_type": { "enum": ["var", "var_combination"], "default": "var" },
        "policy": { "enum": ["local"], "default": "local" },
        "nodelay": { "type": "boolean", "default": false, "description": "those within the burst do not wait" },
        "allow_degradation": { "type": "boolean", "default": false },
    });
    json!({ "properties": extended(own, Rejection::schema()), "required": ["rate", "burst", "key"] })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestHost, answer, behaviour, request};
    use super::*;

    #[test]
    fn requests_over_the_rate_wait_and_those_over_the_burst_are_refused() {
        for nodelay in [false, true] {
            let conf = json!({"rate": 10, "burst": 2, "key": "remote_addr", "nodelay": nodelay, "rejected_code": 429});
            let plugin = behaviour(PLUGIN.name, conf);
            let mut host = TestHost::default();
            let mut said = |millis: u64| {
                host.now = Duration::from_millis(millis);
                let step = plugin.access(&mut request("GET", "/a"), &host);
                answer(&step).map_or_else(|| format!("{step:?}"), |a| a.status.as_str().to_owned())
            };
            let wait = |millis: u64| if nodelay { "Go".to_owned() } else { format!("Wait({millis}ms)") };
            for (at, expected) in [
                (0, "Go".to_owned()),
                (0, wait(100)),
                (0, wait(200)),
                (0, "429".to_owned()),
                (100, wait(200)),
                (100, "429".to_owned()),
                (1000, "Go".to_owned()),
            ] {
                assert_eq!(said(at), expected, "at {at}");
            }
        }
    }
}
