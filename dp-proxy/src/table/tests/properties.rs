//! The laws of a table, over random histories.

use std::cmp::Reverse;
use std::collections::BTreeMap;

use proptest::prelude::*;
use protocol::resource::{HostPattern, KindInfo, Model, Part, RouteStatus, UriPattern, unsupported};
use protocol::{ConfigState, ResourceKey};
use serde_json::{Value, json};

use super::super::*;
use super::{Arguments, Growing, ask};

const HOSTS: [&str; 6] = ["a.com", "b.a.com", "*.a.com", "*.com", "*", "[::1]"];
const URIS: [&str; 12] = ["/", "/*", "*", "/a", "/a/", "/a/*", "/a*", "/a/:x", "/a/:x/*", "/a/*y/b", "/:x/b", "/a/b"];
const VARS: [&str; 5] = [
    r#"[["arg_a","==","1"]]"#,
    r#"[["arg_a","!","==","1"]]"#,
    r#"[["arg_n",">",5]]"#,
    r#"["OR",["arg_a","~~","^[12]$"],["arg_n","in",["7"]]]"#,
    r#"[["arg_a","~=",null],["arg_n","==",null]]"#,
];
const METHODS: [&str; 3] = ["GET", "POST", "PURGE"];
const NODES: [&str; 4] = ["1.1.1.1:1", "2.2.2.2:2", "three.example:3", "four.example"];

fn some_of(words: &'static [&'static str], max: usize) -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::btree_set(prop::sample::select(words), 1..=max).prop_map(|set| set.into_iter().collect())
}

fn an_upstream() -> impl Strategy<Value = Value> {
    (some_of(&NODES, 3), 0u32..3, prop::option::of(0u32..3)).prop_map(|(nodes, weight, retries)| {
        let mut body =
            json!({"nodes": nodes.iter().map(|n| ((*n).to_owned(), json!(weight))).collect::<serde_json::Map<_, _>>()});
        if let Some(retries) = retries {
            body["retries"] = json!(retries);
        }
        body
    })
}

fn id() -> impl Strategy<Value = String> {
    (0..4u8).prop_map(|n| format!("{n}"))
}

fn a_route() -> impl Strategy<Value = Value> {
    let matches = (
        some_of(&URIS, 3),
        prop::option::of(some_of(&HOSTS, 2)),
        prop::option::of(some_of(&METHODS, 2)),
        prop::option::of(prop::sample::select(vec!["10.0.0.0/8", "192.168.1.1"])),
        prop::option::of(-1..2i64),
        prop::option::weighted(0.2, 0..2u8),
        prop::option::weighted(0.3, prop::sample::select(VARS.to_vec())),
    );
    let target = (prop::option::of(an_upstream()), prop::option::of(id()), prop::option::of(id()));
    (matches, target).prop_map(|((uris, hosts, methods, remote, priority, status, vars), (own, upstream, service))| {
        let mut body = json!({"uris": uris, "plugins": {}});
        let mut set = |name: &str, value: Option<Value>| value.map(|value| body[name] = value);
        set("hosts", hosts.map(|hosts| json!(hosts)));
        set("methods", methods.map(|methods| json!(methods)));
        set("remote_addr", remote.map(Value::from));
        set("priority", priority.map(Value::from));
        set("status", status.map(Value::from));
        set("vars", vars.map(|vars| serde_json::from_str(vars).unwrap()));
        set("upstream", own);
        set("upstream_id", upstream.map(Value::from));
        set("service_id", service.map(Value::from));
        if priority == Some(1) {
            body["plugins"] = json!({"key-auth": {}});
            body["plugin_config_id"] = json!("1");
        }
        body
    })
}

fn a_service() -> impl Strategy<Value = Value> {
    (prop::option::of(some_of(&HOSTS, 2)), prop::option::of(an_upstream()), prop::option::of(id())).prop_map(
        |(hosts, own, upstream)| {
            let mut body = json!({});
            let mut set = |name: &str, value: Option<Value>| value.map(|value| body[name] = value);
            set("hosts", hosts.map(|hosts| json!(hosts)));
            set("upstream", own);
            set("upstream_id", upstream.map(Value::from));
            body
        },
    )
}

fn a_stream_route() -> impl Strategy<Value = Value> {
    (prop::option::of(1..3u16), prop::option::of(id()), prop::option::of(an_upstream()), prop::option::of(id()))
        .prop_map(|(port, service, own, upstream)| {
            let mut body = json!({});
            let mut set = |name: &str, value: Option<Value>| value.map(|value| body[name] = value);
            set("server_port", port.map(Value::from));
            set("service_id", service.map(Value::from));
            set("upstream", own);
            set("upstream_id", upstream.map(Value::from));
            body
        })
}

fn some_plugins() -> impl Strategy<Value = Value> {
    (1..3u8, any::<bool>(), 0..4u8).prop_map(|(count, limits, splits)| {
        let mut body = json!({"plugins": {"cors": {"max_age": count}}});
        if splits > 0 {
            let own = json!({"nodes": {NODES[usize::from(splits)]: count}});
            let shares = json!([{"upstream_id": splits.to_string()}, {"upstream": own}, {"weight": count}]);
            body["plugins"]["traffic-split"] = json!({"rules": [{"weighted_upstreams": shares}]});
        }
        if limits {
            body["plugins"]["limit-count"] = json!({"count": count, "time_window": 60});
        }
        body
    })
}

/// Makes a body one that this build cannot serve.
fn spoilt(mut body: Value, how: u8) -> Value {
    match how {
        0 => body["plugins"] = json!({"new": {}}),
        1 => body["hosts"] = json!(["~x"]),
        2 => body["uris"] = json!([{"re": 1}]),
        3 => body["nodes"] = json!("?"),
        _ => body = json!("a string"),
    }
    body
}

fn an_edit() -> impl Strategy<Value = (ResourceKey, Option<String>)> {
    let kind = prop_oneof![
        4 => (Just("routes"), (0..8u8).prop_map(|n| n.to_string()), a_route().boxed()),
        1 => (Just("services"), id(), a_service().boxed()),
        1 => (Just("upstreams"), id(), an_upstream().boxed()),
        2 => (Just("stream_routes"), id(), a_stream_route().boxed()),
        1 => (prop::sample::select(vec!["plugin_configs", "consumer_groups", "global_rules"]), id(), some_plugins().boxed()),
        1 => (Just("consumers"), id(), (id(), prop::option::of(id())).prop_map(|(name, group)| {
            json!({"username": name, "group_id": group.unwrap_or("g".to_owned()), "plugins": {"cors": {}}})
        }).boxed()),
    ];
    (kind, prop::option::weighted(0.15, 0..5u8), any::<prop::sample::Index>()).prop_map(
        |((kind, id, body), how, gone)| {
            let body = match how {
                Some(how) => spoilt(body, how),
                None => body,
            };
            (ResourceKey::new(kind, &id), (gone.index(5) > 0).then(|| body.to_string()))
        },
    )
}

fn history() -> impl Strategy<Value = Vec<Vec<(ResourceKey, Option<String>)>>> {
    let commit = prop::collection::vec(an_edit(), 1..4).prop_map(|edits| {
        let last_of_each: BTreeMap<_, _> = edits.into_iter().collect();
        last_of_each.into_iter().collect::<Vec<_>>()
    });
    prop::collection::vec(commit, 1..40)
}

/// Every route whose newest entry is served, with everything that decides about a match.
fn naive_find(state: &ConfigState, ask: &Ask<'_>, a: Option<&str>, n: Option<u8>) -> Option<String> {
    let model = |key: &ResourceKey| {
        let entry = state.get(key)?;
        KindInfo::find(key.kind.as_str())?.read(&serde_json::from_str(&entry.body).ok()?).ok()
    };
    let mut best = None;
    for (key, _) in state.of_kind(&protocol::Kind::new("routes")) {
        let Some(Model::Route(route)) = model(key) else { continue };
        let mut hosts = route.hosts.clone();
        if hosts.is_empty()
            && let Some(Model::Service(service)) = route.service_id.as_ref().and_then(model)
        {
            hosts = service.hosts;
        }
        let host_rank = if hosts.is_empty() {
            Some(0)
        } else {
            let rank = |host: &HostPattern| match host {
                HostPattern::Exact(host) => (host == ask.host).then_some(usize::MAX),
                HostPattern::Suffix(suffix) => ask.host.ends_with(suffix.as_str()).then_some(suffix.len() + 1),
            };
            hosts.iter().filter_map(rank).max()
        };
        let Some(host_rank) = host_rank else { continue };
        let takes = route.status == RouteStatus::Enabled
            && route.methods.takes(ask.method)
            && naive_vars(&state.get(key).unwrap().body, a, n)
            && (route.remote_addrs.is_empty() || route.remote_addrs.iter().any(|net| net.contains(&ask.remote)));
        for uri in route.uris.iter().filter(|_| takes) {
            let Some((exact, literal, parts)) = naive_path(uri, ask.path) else { continue };
            let rank = (host_rank, exact, literal, route.priority, parts, Reverse(key.id.to_string()));
            if best.as_ref().is_none_or(|best| rank > *best) {
                best = Some(rank);
            }
        }
    }
    best.map(|rank| rank.5.0)
}

/// Whether the conditions of a route hold for a request with these arguments, each told in plain words.
fn naive_vars(body: &str, a: Option<&str>, n: Option<u8>) -> bool {
    let body: Value = serde_json::from_str(body).unwrap();
    let Some(vars) = body.get("vars") else { return true };
    match VARS.iter().position(|text| serde_json::from_str::<Value>(text).unwrap() == *vars).unwrap() {
        0 => a == Some("1"),
        1 => a != Some("1"),
        2 => n.is_some_and(|n| n > 5),
        3 => matches!(a, Some("1" | "2")) || n == Some(7),
        _ => a.is_some() && n.is_none(),
    }
}

/// Whether a pattern takes a path: whether exactly, the length of its literal, the number of its parts.
fn naive_path(uri: &UriPattern, path: &str) -> Option<(bool, usize, usize)> {
    fn parts_match(parts: &[Part], rest: &[&str]) -> bool {
        match (parts.split_first(), rest.split_first()) {
            (None, None) => true,
            (Some((Part::Rest(_), more)), Some(_)) => (1..=rest.len()).any(|n| parts_match(more, &rest[n..])),
            (Some((Part::Parameter(_), more)), Some((one, after))) => !one.is_empty() && parts_match(more, after),
            (Some((Part::Literal(text), more)), Some((one, after))) => text == one && parts_match(more, after),
            _ => false,
        }
    }
    match uri {
        UriPattern::Exact(exact) => (exact == path).then_some((true, exact.len(), 0)),
        UriPattern::Prefix(prefix) => path.starts_with(prefix.as_str()).then_some((false, prefix.len(), 0)),
        UriPattern::Template { literal, parts } => {
            let rest: Vec<_> = path.strip_prefix(literal.as_str())?.split('/').collect();
            parts_match(parts, &rest).then_some((false, literal.len(), parts.len()))
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn law_an_incremental_table_equals_a_fresh_one(history in history()) {
        let mut it = Growing::new();
        for commit in history {
            it.step(commit);
            let fresh = Compiler::fresh(&it.state, it.compiler.last_good());
            prop_assert_eq!(it.compiler.table().dump(), fresh.table().dump());
            prop_assert_eq!(it.compiler.rejected(), fresh.rejected());
            prop_assert_eq!(it.compiler.last_good(), fresh.last_good());
        }
        // With everything deleted nothing is left over.
        let all: Vec<_> = it.state.iter().map(|(key, _)| (key.clone(), None)).collect();
        it.step(all);
        prop_assert_eq!(it.compiler.table().dump(), Vec::<String>::new());
    }

    #[test]
    fn a_look_up_finds_what_a_naive_matcher_finds(
        history in prop::collection::vec(an_edit(), 1..40),
        asked in prop::collection::vec((prop::sample::select(vec!["GET", "POST", "PURGE", "BREW"]), prop::sample::select(vec!["a.com", "b.a.com", "c.b.a.com", "x.com", "y.org", "[::1]", ""]), "/(a/?|b/?){0,4}", any::<bool>(), prop::option::of(prop::sample::select(vec!["1", "2", "3"])), prop::option::of(0..10u8)), 40),
    ) {
        let mut it = Growing::new();
        for (key, body) in history {
            // What is spoilt is seen to by the law above; here every entry is one that is served.
            let serves = |body: &String| {
                let body = serde_json::from_str(body).unwrap();
                let runs = |model: &Model| {
                    model.plugins().is_none_or(|all| Chain::compile("", all, all, &Chain::default()).is_ok())
                };
                let model = KindInfo::find(key.kind.as_str()).unwrap().read(&body);
                model.is_ok_and(|model| unsupported(&model).is_empty() && runs(&model))
            };
            if body.as_ref().is_none_or(serves) {
                it.step(vec![(key, body)]);
            }
        }
        prop_assert!(it.compiler.rejected().is_empty());
        let table = it.compiler.table();
        for (method, host, path, near, a, n) in asked {
            let n_text = n.map(|n| n.to_string());
            let arguments: Vec<_> =
                a.map(|a| ("a", a)).into_iter().chain(n_text.as_deref().map(|n| ("n", n))).collect();
            let values = Arguments(&arguments);
            let remote = if near { "10.0.0.1" } else { "192.168.1.1" }.parse().unwrap();
            let ask = Ask { remote, values: &values, ..ask(method, host, &path) };
            let found = table.find(&ask).map(|found| found.route.id.to_string());
            prop_assert_eq!(found, naive_find(&it.state, &ask, a, n), "{} {} {} {:?} {:?}", method, host, path, a, n);
        }
    }
}
