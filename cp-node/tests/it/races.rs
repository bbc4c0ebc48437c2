//! Many clients at once on few resources: whatever each is answered, no reference leads nowhere and nothing unique stands
//! twice. What is refused is refused for a reason that was true.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::{Value, json};

use super::node::Api;
use super::ssls::{ONE, start};

const CLIENTS: u64 = 8;

/// Requests of each client.
const REQUESTS: u64 = 90;

/// Numbers from a seed (SplitMix64): the same seed asks for the same.
struct Luck(u64);

impl Luck {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % bound
    }
}

/// A request that may break a reference, or take a key that somebody has.
fn request(luck: &mut Luck) -> (&'static str, String, Value) {
    let (route, upstream, consumer) = (luck.below(6), luck.below(3), luck.below(4));
    let (config, rule) = (luck.below(2), luck.below(3));
    let key = json!({ "key-auth": { "key": format!("key-{}", luck.below(3)) } });
    match luck.below(15) {
        0 => ("PUT", format!("/apisix/admin/upstreams/u{upstream}"), json!({ "nodes": {} })),
        1 => ("DELETE", format!("/apisix/admin/upstreams/u{upstream}"), Value::Null),
        2 => (
            "PUT",
            format!("/apisix/admin/routes/r{route}"),
            json!({ "uri": "/", "upstream_id": format!("u{upstream}") }),
        ),
        3 => ("PATCH", format!("/apisix/admin/routes/r{route}"), json!({ "upstream_id": format!("u{upstream}") })),
        4 => ("DELETE", format!("/apisix/admin/routes/r{route}"), Value::Null),
        5 => {
            let operations = json!([
                { "op": "put", "kind": "routes", "id": format!("r{route}"), "value": { "uri": "/", "upstream_id": format!("u{upstream}") } },
                { "op": "put", "kind": "upstreams", "id": format!("u{upstream}"), "value": { "nodes": {} } },
            ]);
            ("POST", "/v1/transactions".to_owned(), json!({ "operations": operations }))
        }
        6 => ("DELETE", format!("/apisix/admin/consumers/c{consumer}"), Value::Null),
        7 => ("PUT", format!("/apisix/admin/consumers/c{consumer}/credentials/x"), json!({ "plugins": key })),
        8 => ("PUT", format!("/apisix/admin/plugin_configs/p{config}"), json!({ "plugins": { "cors": {} } })),
        9 => ("DELETE", format!("/apisix/admin/plugin_configs/p{config}"), Value::Null),
        10 => ("PATCH", format!("/apisix/admin/routes/r{route}"), json!({ "plugin_config_id": format!("p{config}") })),
        // Each plugin may stand in one global rule.
        11 | 12 => {
            let plugin = ["cors", "request-id"][usize::from(luck.below(2) == 0)];
            ("PUT", format!("/apisix/admin/global_rules/g{rule}"), json!({ "plugins": { plugin: {} } }))
        }
        13 => ("DELETE", format!("/apisix/admin/global_rules/g{rule}"), Value::Null),
        _ => (
            "PUT",
            format!("/apisix/admin/consumers/c{consumer}"),
            json!({ "username": format!("c{consumer}"), "plugins": key }),
        ),
    }
}

async fn check(api: &Api) {
    let (_, all) = api.call("GET", "/apisix/admin/configs", "").await;
    let list = |kind: &str| all[kind].as_array().cloned().unwrap_or_default();
    let ids = |kind: &str| list(kind).iter().map(|resource| resource["id"].clone()).collect::<Vec<Value>>();
    let (upstreams, configs) = (ids("upstreams"), ids("plugin_configs"));
    for route in list("routes") {
        assert!(upstreams.contains(&route["upstream_id"]), "{route} leads nowhere");
        let config = &route["plugin_config_id"];
        assert!(config.is_null() || configs.contains(config), "{route} leads nowhere");
    }
    let mut rules: BTreeMap<String, Value> = BTreeMap::new();
    for rule in list("global_rules") {
        for plugin in rule["plugins"].as_object().unwrap().keys() {
            assert_eq!(rules.insert(plugin.clone(), rule["id"].clone()), None, "{plugin} stands in two global rules");
        }
    }
    let consumers = list("consumers");
    let names: BTreeSet<&str> = consumers.iter().filter_map(|consumer| consumer["username"].as_str()).collect();
    let mut holders: BTreeMap<&str, &Value> = BTreeMap::new();
    for consumer in &consumers {
        if let Some((owner, _)) = consumer["id"].as_str().and_then(|id| id.split_once("/credentials/")) {
            assert!(names.contains(owner), "{consumer} belongs to nobody");
        }
        if let Some(key) = consumer["plugins"]["key-auth"]["key"].as_str() {
            assert_eq!(holders.insert(key, consumer), None, "{consumer} has a key that another has");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn references_and_unique_keys_hold_whoever_is_faster() {
    let dir = tempfile::tempdir().unwrap();
    let api = Arc::new(start(dir.path(), ONE).await);
    let mut clients = tokio::task::JoinSet::new();
    for client in 0..CLIENTS {
        let api = api.clone();
        clients.spawn(async move {
            let mut luck = Luck(client);
            let mut statuses: BTreeMap<u16, u64> = BTreeMap::new();
            for n in 0..REQUESTS {
                let (method, path, body) = request(&mut luck);
                let body = if body.is_null() { String::new() } else { body.to_string() };
                let (status, answer) = api.call(method, &path, &body).await;
                assert!([200, 201, 400, 404, 409].contains(&status), "{method} {path}: {status} {answer}");
                *statuses.entry(status).or_default() += 1;
                if n % 10 == 0 {
                    check(&api).await;
                }
            }
            statuses
        });
    }
    let mut all: BTreeMap<u16, u64> = BTreeMap::new();
    for (status, count) in clients.join_all().await.into_iter().flatten() {
        *all.entry(status).or_default() += count;
    }
    check(&api).await;
    for status in [200, 201, 400, 404] {
        assert!(all.get(&status).is_some_and(|count| *count > 5), "{status} hardly came up: {all:?}");
    }
}
