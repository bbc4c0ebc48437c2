//! The laws of a table, over random histories, and the order of routes, as a table of cases.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::collections::BTreeMap;

use proptest::prelude::*;
use protocol::delta::Change;
use protocol::entry::Stamp;
use protocol::resource::{HostPattern, KindInfo, Model, Part, RouteStatus, UriPattern, Values, Variable, unsupported};
use protocol::{ConfigState, Delta, Entry, ResourceKey};
use serde_json::{Value, json};

use super::*;

/// Grows a configuration step by step, with a compiler that follows.
struct Growing {
    state: ConfigState,
    compiler: Compiler,
}

impl Growing {
    fn new() -> Self {
        Self { state: ConfigState::following(), compiler: Compiler::default() }
    }

    fn step(&mut self, changes: Vec<(ResourceKey, Option<String>)>) {
        let revision = self.state.position().revision + 1;
        let stamp = Stamp { revision, time: 0 };
        let entry = |body: String| {
            Arc::new(Entry {
                body: body.into(),
                references: vec![],
                claims: vec![],
                groups: vec!["default".into()],
                created: stamp,
                modified: stamp,
                ttl_seconds: None,
            })
        };
        let mut changes: Vec<Change> =
            changes.into_iter().map(|(key, body)| Change { key, entry: body.map(entry) }).collect();
        changes.sort_by(|a, b| a.key.cmp(&b.key));
        let before = self.state.clone();
        let (prev, position, digest) = (before.changed_at(), before.position().next(), before.digest_after(&changes));
        self.state.evolve(&Delta { prev, position, changes: changes.clone(), digest, cause: None }).unwrap();
        self.compiler.apply(&before, position, &changes);
    }

    fn put(&mut self, kind: &str, id: &str, body: Value) {
        self.step(vec![(ResourceKey::new(kind, id), Some(body.to_string()))]);
    }

    fn delete(&mut self, kind: &str, id: &str) {
        self.step(vec![(ResourceKey::new(kind, id), None)]);
    }

    fn find(&self, method: &str, host: &str, path: &str) -> Option<String> {
        let table = self.compiler.table();
        table.find(&ask(method, host, path)).map(|found| found.route.id.to_string())
    }

    /// The address of the upstream's first node, or why there is none.
    fn goes_to(&self, host: &str, path: &str) -> String {
        let table = self.compiler.table();
        let Some(found) = table.find(&ask("GET", host, path)) else { return "404".to_owned() };
        match table.chains(found.route, None).and_then(|_| table.upstream(found.route)) {
            Ok(upstream) => upstream.nodes.first().map_or("none".to_owned(), Node::address),
            Err(why) => why.to_string(),
        }
    }
}

fn ask<'a>(method: &str, host: &'a str, path: &'a str) -> Ask<'a> {
    Ask { host, path, method: Method::parse(method), remote: "10.1.2.3".parse().unwrap(), values: &Arguments(&[]) }
}

/// The arguments of a request, which has nothing else that a condition could ask for.
struct Arguments<'a>(&'a [(&'a str, &'a str)]);

impl Values for Arguments<'_> {
    fn value(&self, variable: &Variable) -> Option<Cow<'_, [u8]>> {
        let Variable::Argument(name) = variable else { return None };
        let found = self.0.iter().find(|(known, _)| *known == name.as_str());
        found.map(|(_, value)| Cow::Borrowed(value.as_bytes()))
    }
}

fn nodes(node: &str) -> Value {
    json!({"nodes": {node: 1}})
}

#[test]
fn routes_are_asked_in_order() {
    let mut it = Growing::new();
    for (id, body) in [
        ("exact", json!({"uri": "/a/b", "host": "x.com"})),
        ("prefix", json!({"uri": "/a/*", "host": "x.com"})),
        ("short", json!({"uri": "/*", "host": "x.com", "methods": ["GET"]})),
        ("low", json!({"uri": "/p/*", "priority": 1})),
        ("high", json!({"uri": "/p/*", "priority": 2, "methods": ["PUT"]})),
        ("template", json!({"uri": "/t/:id/end", "host": "x.com"})),
        ("under-template", json!({"uri": "/t/*", "host": "x.com"})),
        ("wild", json!({"uri": "/*", "host": "*.x.com"})),
        ("wilder", json!({"uri": "/*", "host": "*.com"})),
        ("star", json!({"uri": "/star", "host": "*"})),
        ("anywhere", json!({"uri": "/a/b"})),
        ("near", json!({"uri": "/near", "remote_addr": "10.1.0.0/16", "priority": 1})),
        ("far", json!({"uri": "/near", "remote_addr": "192.168.0.1", "priority": 2})),
        ("off", json!({"uri": "/off", "status": 0})),
        ("tie-b", json!({"uri": "/tie"})),
        ("tie-a", json!({"uri": "/tie"})),
        ("cafe", json!({"uri": "/café/*"})),
    ] {
        let mut body = body;
        body["upstream"] = nodes("127.0.0.1:80");
        it.put("routes", id, body);
    }
    for (method, host, path, expected) in [
        ("GET", "x.com", "/a/b", Some("exact")),
        ("GET", "x.com", "/a/", Some("prefix")),
        ("GET", "x.com", "/a/b/c", Some("prefix")),
        ("GET", "x.com", "/b", Some("short")),
        ("POST", "x.com", "/b", Some("wilder")),
        ("GET", "x.com", "/t/7/end", Some("template")),
        ("GET", "x.com", "/t/7/other", Some("under-template")),
        ("GET", "a.x.com", "/b", Some("wild")),
        ("GET", "b.a.x.com", "/b", Some("wild")),
        ("GET", "y.com", "/b", Some("wilder")),
        ("POST", "x.com", "/star", Some("wilder")),
        ("GET", "y.org", "/star", Some("star")),
        ("GET", "y.org", "/a/b", Some("anywhere")),
        ("GET", "", "/a/b", Some("anywhere")),
        ("GET", "y.org", "/p/1", Some("low")),
        ("PUT", "y.org", "/p/1", Some("high")),
        ("GET", "y.org", "/near", Some("near")),
        ("GET", "y.org", "/off", None),
        ("GET", "y.org", "/tie", Some("tie-a")),
        ("BREW", "y.org", "/tie", Some("tie-a")),
        ("GET", "y.org", "/caf%C3%A9/x", Some("cafe")),
        ("GET", "y.org", "/none", None),
    ] {
        assert_eq!(it.find(method, host, path).as_deref(), expected, "{method} {host} {path}");
    }
}

#[test]
fn a_request_goes_where_route_and_service_say() {
    let mut it = Growing::new();
    it.put(
        "routes",
        "own",
        json!({"uri": "/own", "upstream": nodes("1.1.1.1:1"), "upstream_id": "u", "service_id": "s"}),
    );
    it.put("routes", "named", json!({"uri": "/named", "upstream_id": "u", "service_id": "s"}));
    it.put("routes", "inherited", json!({"uri": "/inherited", "service_id": "s"}));
    it.put("routes", "none", json!({"uri": "/none", "plugins": {}}));
    assert_eq!(it.goes_to("h.com", "/own"), "its service does not exist");
    it.put("services", "s", json!({"upstream_id": "v"}));
    assert_eq!(it.goes_to("h.com", "/own"), "1.1.1.1:1");
    assert_eq!(it.goes_to("h.com", "/named"), "its upstream does not exist");
    assert_eq!(it.goes_to("h.com", "/inherited"), "its upstream does not exist");
    assert_eq!(it.goes_to("h.com", "/none"), "it has no upstream");
    it.put("upstreams", "u", nodes("2.2.2.2:2"));
    it.put("upstreams", "v", nodes("[::3]:3"));
    assert_eq!(it.goes_to("h.com", "/named"), "2.2.2.2:2");
    assert_eq!(it.goes_to("h.com", "/inherited"), "[::3]:3");
    it.put("services", "s", json!({"upstream": nodes("4.4.4.4:4"), "hosts": ["*.com"]}));
    assert_eq!(it.goes_to("h.com", "/inherited"), "4.4.4.4:4");
    assert_eq!(it.goes_to("h.org", "/inherited"), "404", "hosts are inherited");
    it.delete("services", "s");
    assert_eq!(it.goes_to("h.org", "/inherited"), "its service does not exist");
    it.delete("upstreams", "u");
    assert_eq!(it.goes_to("h.org", "/none"), "it has no upstream");
}

#[test]
fn law_11_what_cannot_be_compiled_makes_nothing_laxer() {
    let good = |uri: &str| json!({"uri": uri, "upstream": nodes("1.1.1.1:1")});
    let mut it = Growing::new();
    it.put("routes", "lax", good("/*"));
    let sealed = |it: &Growing, host: &str, path: &str| it.goes_to(host, path).contains("cannot be served");
    // A new resource without a last good entry is sealed on what can be read of it.
    it.put(
        "routes",
        "vars",
        json!({"uri": "/v", "vars": [["no_such_variable", "==", "b"]], "upstream": nodes("1.1.1.1:1")}),
    );
    it.put("routes", "plugin", json!({"uri": "/p", "hosts": ["a.com"], "plugins": {"new": {}}}));
    it.put("routes", "hosts", json!({"uri": "/h", "hosts": ["~^a"], "upstream": nodes("1.1.1.1:1")}));
    it.put("routes", "paths", json!({"uris": [{"re": "x"}], "host": "only.com", "upstream": nodes("1.1.1.1:1")}));
    it.put("routes", "both", json!({"uris": [{"re": "x"}], "host": "~a", "upstream": nodes("1.1.1.1:1")}));
    it.put("plugin_configs", "x", json!({"plugins": {"new": {}}}));
    it.put("routes", "config", json!({"uri": "/c", "plugin_config_id": "x", "upstream": nodes("1.1.1.1:1")}));
    for (host, path, expected) in [
        ("a.com", "/v", true),
        ("a.com", "/p", true),
        ("b.com", "/p", false),
        ("b.com", "/h", true),
        ("only.com", "/anything", true),
        ("b.com", "/anything", false),
        ("b.com", "/c", true),
    ] {
        assert_eq!(sealed(&it, host, path), expected, "{host} {path}");
    }
    assert_eq!(it.compiler.rejected().len(), 6);
    assert!(it.compiler.rejected().values().all(|rejected| !rejected.last_good));
    // One that was good keeps its last good entry, also over a restart, until it is good again or gone.
    it.put("routes", "kept", good("/k"));
    it.put("routes", "kept", json!({"uri": "/k2", "script": "return 1 + 1", "upstream": nodes("9.9.9.9:9")}));
    it.put("routes", "kept", json!({"uri": 7}));
    assert_eq!(it.find("GET", "b.com", "/k").as_deref(), Some("kept"));
    assert!(it.compiler.rejected()[&ResourceKey::new("routes", "kept")].last_good);
    let again = Compiler::fresh(&it.state, it.compiler.last_good());
    assert_eq!(again.table().dump(), it.compiler.table().dump());
    assert_eq!(again.rejected(), it.compiler.rejected());
    let forgotten = Compiler::fresh(&it.state, &BTreeMap::new());
    assert!(!forgotten.rejected()[&ResourceKey::new("routes", "kept")].last_good);
    it.put("routes", "kept", good("/k3"));
    assert_eq!(it.find("GET", "b.com", "/k").as_deref(), Some("lax"));
    assert!(it.compiler.last_good().is_empty());
    // What uses a sealed service or upstream answers 503 as well.
    it.put("upstreams", "u", json!({"scheme": "kafka", "nodes": {"1.1.1.1:1": 1}}));
    it.put("services", "s", json!({"hosts": ["s.com"], "plugins": {"new": {}}, "upstream_id": "u"}));
    it.put("routes", "of-u", json!({"uri": "/of-u", "upstream_id": "u"}));
    it.put("routes", "of-s", json!({"uri": "/of-s", "service_id": "s", "upstream": nodes("1.1.1.1:1")}));
    assert!(sealed(&it, "b.com", "/of-u") && sealed(&it, "s.com", "/of-s") && !sealed(&it, "b.com", "/of-s"));
    it.put("services", "s", json!({"hosts": "?", "upstream_id": 1.5}));
    assert!(sealed(&it, "s.com", "/of-s"));
    // A rule for every request that cannot be enforced bars every request; kinds that nothing uses are only carried.
    it.put("consumers", "c", json!({"username": "c"}));
    it.put("kinds-of-tomorrow", "c", json!({"x": 1}));
    assert!(it.compiler.table().barred().is_none());
    it.put("global_rules", "g", json!({"plugins": {"new": {}}}));
    assert_eq!(it.compiler.table().barred(), Some("g"));
    it.put("global_rules", "g", json!({"plugins": {"cors": {}}}));
    assert!(it.compiler.table().barred().is_none());
    // One that was good goes on as it was.
    it.put("global_rules", "g", json!({"plugins": {"new": {}}}));
    assert!(it.compiler.table().barred().is_none() && it.compiler.table().global_rules().count() == 1);
    it.delete("global_rules", "g");
    assert!(it.compiler.table().barred().is_none());
}

#[test]
fn tickets_stay_while_nodes_do() {
    let mut it = Growing::new();
    let upstream = |it: &Growing| {
        let table = it.compiler.table();
        Upstream::clone(table.upstream(table.find(&ask("GET", "h", "/")).unwrap().route).unwrap())
    };
    it.put("upstreams", "u", json!({"nodes": {"1.1.1.1:1": 1, "Name.example": 2}}));
    it.put("routes", "r", json!({"uri": "/", "upstream_id": "u"}));
    let first = upstream(&it);
    it.put("upstreams", "u", json!({"nodes": {"1.1.1.1:1": 1, "Name.example": 2}, "retries": 7}));
    assert_eq!(upstream(&it).balance, first.balance);
    it.put("upstreams", "u", json!({"nodes": {"1.1.1.1:1": 3}}));
    let second = upstream(&it);
    assert_ne!(second.balance, first.balance);
    assert_eq!(second.nodes[0].endpoint, first.nodes[0].endpoint, "the same address");
    it.put("upstreams", "u", json!({"nodes": {"5.5.5.5:5": 3}}));
    let third = upstream(&it);
    assert_eq!(third.nodes[0].endpoint.generation, 1, "a number is used again under a new generation");
    assert_eq!((&*first.nodes[1].authority, first.nodes[1].address()), ("Name.example", "name.example:80".to_owned()));
}

// === properties ===

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
    (1..3u8, any::<bool>()).prop_map(|(count, limits)| {
        let mut body = json!({"plugins": {"cors": {"max_age": count}}});
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
                    model.plugins().is_none_or(|all| Chain::compile(all, all, &Chain::default()).is_ok())
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
