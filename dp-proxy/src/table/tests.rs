//! The order of routes, as a table of cases, and what becomes of the resources that they name.

mod properties;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::Duration;

use protocol::delta::Change;
use protocol::entry::Stamp;
use protocol::resource::{self, Values, Variable};
use protocol::{ConfigState, Delta, Entry, ResourceKey};
use serde_json::{Value, json};

use super::*;
use crate::discovery::Found;

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
        let entry = |body: String| Arc::new(Entry::new(body, "default", stamp));
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

#[test]
fn plugins_may_send_requests_elsewhere() {
    let mut it = Growing::new();
    let goes_to = |it: &Growing, number| {
        let to = it.compiler.table().destination(&"routes/r".into(), "traffic-split", number).cloned();
        to.map_err(|why| why.to_string()).map(|upstream| (upstream.nodes[0].address(), upstream.balance))
    };
    let split = |weight: u32, node: &str| {
        let shares = json!([{"upstream_id": "u"}, {"upstream": nodes(node), "weight": weight}]);
        let plugins = json!({"traffic-split": {"rules": [{"weighted_upstreams": shares}]}});
        json!({"uri": "/", "plugins": plugins})
    };
    it.put("routes", "r", split(1, "1.1.1.1:1"));
    assert_eq!(goes_to(&it, 0), Err("its upstream does not exist".to_owned()));
    it.put("upstreams", "u", nodes("2.2.2.2:2"));
    assert_eq!(goes_to(&it, 0).unwrap().0, "2.2.2.2:2");
    let first = goes_to(&it, 1).unwrap();
    assert_eq!((first.0.as_str(), goes_to(&it, 2).is_err()), ("1.1.1.1:1", true));
    let named = |it: &Growing| it.compiler.table().upstreams().map(|it| it.label.to_string()).collect::<Vec<_>>();
    assert_eq!(named(&it), ["upstreams/u", "routes/r/plugins/traffic-split/1"]);
    // What stays the same keeps its turns; what is gone is let go, and its number is free for another.
    it.put("routes", "r", split(2, "1.1.1.1:1"));
    assert_eq!(goes_to(&it, 1).unwrap(), first);
    it.put("routes", "r", split(2, "3.3.3.3:3"));
    assert_eq!(goes_to(&it, 1).unwrap().0, "3.3.3.3:3");
    it.put("upstreams", "u", json!({"nodes": {"2.2.2.2:2": 1}, "scheme": "tcp"}));
    assert_eq!(goes_to(&it, 0).unwrap_err(), "upstreams/u cannot be served: its scheme is for stream routes");
    it.put("routes", "r", json!({"uri": "/", "plugins": {"cors": {}}}));
    assert!(goes_to(&it, 0).is_err() && named(&it) == ["upstreams/u"]);
    it.delete("upstreams", "u");
    it.put("upstreams", "w", nodes("4.4.4.4:4"));
    assert_eq!(it.compiler.table().upstreams.len(), 1, "nobody refers to the place of the one that is gone");
}

#[test]
fn clients_of_ipv6_are_known_by_their_networks() {
    let mut it = Growing::new();
    for (id, remote) in [("net", json!("2001:db8::/32")), ("one", json!("::1"))] {
        it.put(
            "routes",
            id,
            json!({"uri": "/", "remote_addrs": [remote, "192.0.2.0/24"], "upstream": nodes("127.0.0.1:80")}),
        );
    }
    let table = it.compiler.table();
    for (remote, expected) in [
        ("2001:db8:1::7", Some("net")),
        ("2001:db9::1", None),
        ("::1", Some("one")),
        ("192.0.2.9", Some("net")),
        ("10.0.0.1", None),
    ] {
        let ask = Ask { remote: remote.parse().unwrap(), ..ask("GET", "x.com", "/") };
        assert_eq!(table.find(&ask).map(|found| found.route.id.as_str()), expected, "{remote}");
    }
}

#[test]
fn nodes_that_dns_knows_are_followed_also_by_what_is_served_in_place_of_what_cannot_be() {
    let mut it = Growing::new();
    let route = |more: Value| {
        let mut route = json!({"uri": "/*", "upstream": {"service_name": "a.example:80", "discovery_type": "dns"}});
        route.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        route
    };
    it.put("routes", "r", route(json!({})));
    let found = |it: &mut Growing, host: &str| {
        let node = resource::Node { host: host.to_owned(), port: Some(80), weight: 1, priority: 0 };
        let nodes = Ok((vec![node], Duration::from_secs(60)));
        it.compiler.learn_services(&it.state, vec![Found { service: "a.example:80".into(), nodes }])
    };
    assert_eq!(it.goes_to("h.com", "/"), "none");
    assert!(found(&mut it, "10.0.0.1"));
    assert_eq!(it.goes_to("h.com", "/"), "10.0.0.1:80");
    it.put("routes", "r", route(json!({"plugins": {"new": {}}})));
    assert!(found(&mut it, "10.0.0.2"));
    assert_eq!(it.goes_to("h.com", "/"), "10.0.0.2:80");
    let rejected = &it.compiler.rejected()[&ResourceKey::new("routes", "r")];
    assert!(rejected.last_good && rejected.reason.contains("new"), "{rejected:?}");
}

#[test]
fn a_node_that_dns_knows_without_a_port_is_none_where_no_port_is_usual() {
    let mut it = Growing::new();
    for scheme in ["http", "tcp", "tls"] {
        let upstream = json!({"scheme": scheme, "service_name": "a.example", "discovery_type": "dns"});
        it.put("upstreams", scheme, upstream);
    }
    let node = |host: &str, port| resource::Node { host: host.to_owned(), port, weight: 1, priority: 0 };
    let nodes = Ok((vec![node("10.0.0.1", None), node("10.0.0.2", Some(9))], Duration::from_secs(60)));
    assert!(it.compiler.learn_services(&it.state, vec![Found { service: "a.example".into(), nodes }]));
    let table = it.compiler.table();
    let told = table.upstreams.iter().flatten().map(|upstream| {
        let nodes: Vec<_> = upstream.nodes.iter().map(Node::address).collect();
        (upstream.label.to_string(), nodes.join(" "))
    });
    let expected = [
        ("upstreams/http", "10.0.0.1:80 10.0.0.2:9"),
        ("upstreams/tcp", "10.0.0.2:9"),
        ("upstreams/tls", "10.0.0.2:9"),
    ];
    assert_eq!(told.collect::<BTreeMap<_, _>>(), expected.map(|(id, nodes)| (id.into(), nodes.into())).into());
}
