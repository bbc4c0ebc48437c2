//! Who counts as serving a change, and who does not.

use protocol::entry::DEFAULT_GROUP;
use protocol::grpc::{Ack, FleetProxy, FleetReply, RejectedResource};
use protocol::{ConfigState, Entry, Epoch};

use super::*;

fn at(revision: u64) -> Position {
    Position { epoch: Epoch { number: 1, ..Epoch::default() }, revision }
}

fn proxy(name: &str, region: &str, revision: u64) -> FleetProxy {
    let capabilities = ["routes", "services", "upstreams"].map(|kind| format!("kind/{kind}")).to_vec();
    let labels = [("tier".to_owned(), "edge".to_owned())].into();
    let hello = Hello {
        name: name.into(),
        region: region.into(),
        group: DEFAULT_GROUP.into(),
        capabilities,
        labels,
        ..Hello::default()
    };
    let ack = Ack { position: Some(at(revision).into()), ..Ack::default() };
    FleetProxy { hello: Some(hello), ack: Some(ack), connected_ms: 1000, ..FleetProxy::default() }
}

fn rejects(mut proxy: FleetProxy, kind: &str, id: &str) -> FleetProxy {
    let rejected = RejectedResource { kind: kind.into(), id: id.into(), reason: "no".into(), last_good: true };
    proxy.ack.as_mut().unwrap().rejected = vec![rejected];
    proxy
}

/// A change of `upstreams/u1` and of a service with a plugin at revision 5; `routes/r1` refers to the upstream, `routes/r2`
/// to another.
fn change() -> Change {
    let entry = |references: Vec<ResourceKey>, body: &str| {
        let stamp = protocol::entry::Stamp { revision: 5, time: 0 };
        std::sync::Arc::new(Entry {
            body: body.into(),
            references,
            claims: Vec::new(),
            groups: vec![DEFAULT_GROUP.into()],
            created: stamp,
            modified: stamp,
            ttl_seconds: None,
        })
    };
    let upstream = |id| ResourceKey::new("upstreams", id);
    let service = || ResourceKey::new("services", "s1");
    let entries = [
        (ResourceKey::new("routes", "r1"), entry(vec![upstream("u1")], "{}")),
        (ResourceKey::new("routes", "r2"), entry(vec![upstream("u2")], "{}")),
        (service(), entry(Vec::new(), r#"{"plugins":{"redirect":{}}}"#)),
        (upstream("u1"), entry(Vec::new(), "{}")),
        (upstream("u2"), entry(Vec::new(), "{}")),
    ];
    let state = ConfigState::serving();
    let config = ConfigState::from_entries(state, at(5), at(5), protocol::Chain::default(), entries);
    Change::new(config, at(5), [upstream("u1"), service()].into())
}

fn told(proxies: Vec<FleetProxy>) -> Heard {
    [(1, Ok(FleetReply { node_id: 1, version: 1, forgetful: false, proxies }))].into()
}

fn verdict(scope: &str, quorum: &str, heard: &Heard) -> (bool, String) {
    let query = Query::parse(&format!("scope={scope}{quorum}"));
    let (scope, quorum) = (Scope::read(&query).unwrap(), Quorum::read(&query).unwrap());
    let verdict = judge(&change(), &scope, quorum, &heard.keys().copied().collect(), heard);
    let states = verdict.breakdown["proxies"].as_array().unwrap().iter();
    let states: Vec<&str> = states.map(|proxy| proxy["state"].as_str().unwrap()).collect();
    (verdict.is_served, format!("{} {}", verdict.summary, states.join(",")).trim_end().to_owned())
}

#[test]
fn a_proxy_serves_a_change_or_it_is_said_why_not() {
    let one = |proxy: FleetProxy| verdict("", "", &told(vec![proxy]));
    assert_eq!(one(proxy("a", "eu", 5)), (true, "1/1".into()));
    assert_eq!(one(proxy("a", "eu", 6)), (true, "1/1".into()));
    assert_eq!(one(proxy("a", "eu", 4)), (false, "0/1 lagging".into()));
    assert_eq!(one(FleetProxy { ack: None, ..proxy("a", "eu", 5) }), (false, "0/1 lagging".into()));
    assert_eq!(one(FleetProxy { lost_ms: Some(5), ..proxy("a", "eu", 4) }), (false, "0/1 lost".into()));
    let lost_with_it = FleetProxy { lost_ms: Some(5), ..proxy("a", "eu", 5) };
    assert_eq!(one(lost_with_it), (true, "1/1".into()), "its disk has it");
    let mut volatile = proxy("a", "eu", 5);
    volatile.ack.as_mut().unwrap().volatile = true;
    assert_eq!(one(volatile), (false, "0/1 volatile".into()));
    let mut old = proxy("a", "eu", 5);
    old.hello.as_mut().unwrap().capabilities = vec!["kind/routes".into()];
    assert_eq!(one(old), (false, "0/1 too_old".into()));
    let knows = |plugin: &str| {
        let mut proxy = proxy("a", "eu", 5);
        proxy.hello.as_mut().unwrap().capabilities.push(format!("plugin/{plugin}"));
        one(proxy)
    };
    assert_eq!(knows("cors"), (false, "0/1 too_old".into()), "the service needs another plugin");
    assert_eq!(knows("redirect"), (true, "1/1".into()));
    assert_eq!(one(rejects(proxy("a", "eu", 5), "upstreams", "u1")), (false, "0/1 rejected".into()));
    assert_eq!(
        one(rejects(proxy("a", "eu", 5), "routes", "r1")),
        (false, "0/1 rejected".into()),
        "it uses the upstream"
    );
    assert_eq!(one(rejects(proxy("a", "eu", 5), "routes", "r2")), (true, "1/1".into()), "nothing to do with it");
    let mut elsewhere = proxy("a", "eu", 4);
    elsewhere.hello.as_mut().unwrap().group = "other".into();
    assert_eq!(one(elsewhere), (true, "0/0".into()), "the change is not in its view");
}

#[test]
fn the_latest_connection_of_a_proxy_counts() {
    let mut heard = told(vec![FleetProxy { lost_ms: Some(10), connected_ms: 9, ..proxy("a", "eu", 4) }]);
    let elsewhere = FleetProxy { connected_ms: 400, ..proxy("a", "eu", 5) };
    heard.insert(2, Ok(FleetReply { node_id: 2, version: 1, forgetful: false, proxies: vec![elsewhere] }));
    assert_eq!(verdict("", "", &heard), (true, "1/1".into()));
    // Half-open at one node, back at another, where it has not said anything yet.
    let mut heard = told(vec![FleetProxy { connected_ms: 9000, ..proxy("a", "eu", 5) }]);
    let back = FleetProxy { connected_ms: 3, ack: None, ..proxy("a", "eu", 5) };
    heard.insert(2, Ok(FleetReply { node_id: 2, version: 1, forgetful: false, proxies: vec![back] }));
    assert_eq!(verdict("", "", &heard), (false, "0/1 lagging".into()));
}

#[test]
fn what_cannot_be_known_is_not_taken_for_good() {
    let mut heard = told(vec![proxy("a", "eu", 5)]);
    heard.insert(2, Err("no answer".into()));
    assert_eq!(verdict("", "", &heard), (false, "1/1".into()));
    heard.insert(2, Ok(FleetReply { node_id: 2, version: 1, forgetful: true, proxies: Vec::new() }));
    assert_eq!(verdict("", "", &heard), (false, "1/1".into()));
    let members = [1, 2].into();
    let silent = judge(&change(), &Scope::default(), Quorum::Percent(100.0), &members, &told(Vec::new()));
    assert!(!silent.is_served, "{}", silent.breakdown);
}

#[test]
fn scope_and_quorum() {
    let heard = told(vec![proxy("a", "eu", 5), proxy("b", "us", 4), proxy("c", "us", 5), proxy("d", "ap", 5)]);
    for (scope, quorum, served, summary) in [
        ("", "", false, "3/4 lagging"),
        ("region:eu", "", true, "1/1"),
        ("region:eu,region:ap", "", true, "2/2"),
        ("region:us", "", false, "1/2 lagging"),
        ("region:us", "&quorum=1", true, "1/2 lagging"),
        ("region:us", "&quorum=50%25", true, "1/2 lagging"),
        ("region:us", "&quorum=51%25", false, "1/2 lagging"),
        ("", "&quorum=5", false, "3/4 lagging"),
        ("label:tier=edge,region:eu", "", true, "1/1"),
        ("label:tier", "&quorum=75%25", true, "3/4 lagging"),
        ("label:tier=core", "", false, "0/0"),
        ("region:nowhere", "", false, "0/0"),
        ("group:default", "&quorum=3", true, "3/4 lagging"),
    ] {
        assert_eq!(verdict(scope, quorum, &heard), (served, summary.to_owned()), "{scope} {quorum}");
    }
    for (bad, what) in
        [("scope=eu", "scope"), ("scope=zone:a", "scope"), ("quorum=x", "quorum"), ("quorum=101%25", "quorum")]
    {
        let query = Query::parse(bad);
        let error = Scope::read(&query).err().or(Quorum::read(&query).err()).map(|answer| answer.text()).unwrap();
        assert!(error.contains(&format!("invalid argument {what}")), "{error}");
    }
}
