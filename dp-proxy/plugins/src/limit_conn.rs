//! `limit-conn`: so many requests at once, with a few more that wait, counted by this proxy.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use protocol::resource::scope::Fields;
use serde_json::{Value, json};

use super::auth::extended;
use super::host::Host;
use super::keyed::Keyed;
use super::limits::{self, Key, KeyType, Rejection, only};
use super::plugin::{Behaviour, Plugin, Step, not_served};
use super::request::{Held, Request};

/// See the module.
pub(crate) static PLUGIN: Plugin =
    Plugin { name: "limit-conn", priority: 1003, version: 0.1, schema, read, auth: None, secrets: &[] };

#[derive(Debug)]
struct LimitConn {
    conn: u64,
    burst: u64,
    /// How long a request over `conn` waits, for each time that `conn` are before it.
    delay: Duration,
    key: Key,
    rejection: Rejection,
    under_way: Keyed<Count>,
}

/// How many requests of one key are under way. It outlives its place: a request that ends counts back here.
type Count = Arc<Mutex<u64>>;

/// A request that counts until it is over.
#[derive(Debug)]
struct Counted(Count);

impl Held for Counted {}

impl Drop for Counted {
    fn drop(&mut self) {
        let mut count = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *count = count.saturating_sub(1);
    }
}

fn read(fields: &Fields<'_, '_>) -> Option<Box<dyn Behaviour>> {
    only(fields, "policy", "local");
    not_served(fields, "rules");
    let whole = |min| move |s: protocol::resource::scope::Scope<'_, '_>| u64::try_from(s.integer(min, i64::MAX)?).ok();
    let conn = fields.required("conn", whole(1));
    let burst = fields.required("burst", whole(0));
    let delay = fields.required("default_conn_delay", |s| s.number(true));
    // APISIX moves the delay towards the times that requests took. Here it is what was written.
    fields.optional("only_use_default_delay", |s| s.boolean());
    let key_type = fields.optional("key_type", |s| s.one_of(&limits::KEY_TYPES[..2])).unwrap_or(KeyType::Variable);
    let key = fields.required("key", |s| Key::read(&s, key_type));
    // What is counted here can always be counted.
    fields.optional("allow_degradation", |s| s.boolean());
    let rejection = Rejection::read(fields);
    Some(Box::new(LimitConn {
        conn: conn?,
        burst: burst?,
        delay: Duration::try_from_secs_f64(delay?).unwrap_or(Duration::MAX),
        key: key?,
        rejection: rejection?,
        under_way: Keyed::default(),
    }))
}

impl Behaviour for LimitConn {
    fn access(&self, request: &mut Request, host: &dyn Host) -> Step {
        let key = self.key.of(&request.seen(host));
        let count = self.under_way.with(&key, |count| count.clone());
        let mut under_way = count.lock().unwrap_or_else(PoisonError::into_inner);
        if *under_way >= self.conn.saturating_add(self.burst) {
            return self.rejection.step();
        }
        *under_way += 1;
        let before = (*under_way - 1) / self.conn;
        drop(under_way);
        request.held.push(Arc::new(Counted(count)));
        match u32::try_from(before).unwrap_or(u32::MAX) {
            0 => Step::Go,
            turns => Step::Wait(self.delay.saturating_mul(turns)),
        }
    }
}

fn schema() -> Value {
    let own = json!({
        "conn": { "type": "integer", "exclusiveMinimum": 0, "description": "requests at once" },
        "burst": { "type": "integer", "minimum": 0, "description": "requests over that number that wait" },
        "default_conn_delay": { "type": "number", "exclusiveMinimum": 0, "description": "how long they wait, in seconds" },
        "only_use_default_delay": { "type": "boolean", "default": false },
        "key": { "type": "string" },
        "key_type": { "enum": ["var", "var_combination"], "default": "var" },
        "policy": { "enum": ["local"], "default": "local" },
        "allow_degradation": { "type": "boolean", "default": false },
    });
    let required = ["conn", "burst", "default_conn_delay", "key"];
    json!({ "properties": extended(own, Rejection::schema()), "required": required })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestHost, answer, behaviour, request};
    use super::*;

    #[test]
    fn requests_at_once_are_counted_until_they_are_over() {
        let conf = json!({"conn": 2, "burst": 1, "default_conn_delay": 0.5, "key": "arg_a", "rejected_msg": "busy"});
        let plugin = behaviour(PLUGIN.name, conf);
        let ask = |target: &str| {
            let mut it = request("GET", target);
            let step = plugin.access(&mut it, &TestHost { path: target.to_owned(), ..TestHost::default() });
            (step, it)
        };
        let (one, two, three, four) = (ask("/?a=1"), ask("/?a=1"), ask("/?a=1"), ask("/?a=1"));
        assert_eq!((one.0, two.0, three.0), (Step::Go, Step::Go, Step::Wait(Duration::from_millis(500))));
        assert_eq!(answer(&four.0).unwrap().body, "{\"error_msg\":\"busy\"}\n");
        assert_eq!(ask("/?a=2").0, Step::Go, "another key");
        drop((two.1, four.1));
        assert_eq!(
            ask("/?a=1").0,
            Step::Wait(Duration::from_millis(500)),
            "one has ended, one that was refused never counted"
        );
        drop((one.1, three.1));
        assert_eq!(ask("/?a=1").0, Step::Go);
    }
}
