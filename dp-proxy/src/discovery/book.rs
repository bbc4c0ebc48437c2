//! What is known of the services that upstreams name, and what is to be asked. Does nothing by itself.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use protocol::resource::{DISCOVERY_DNS, Node};
use protocol::{ResourceKey, Text};
use serde_json::Value;
use tokio::time::Instant;

use super::Found;

/// How soon a service that could not be found is asked for again.
const RETRY: Duration = Duration::from_secs(2);

/// The services of a configuration.
#[derive(Debug, Default)]
pub(crate) struct Services {
    services: BTreeMap<Text, Known>,
    /// Which of them each resource names.
    used: HashMap<ResourceKey, BTreeSet<Text>>,
    /// Set when a service may not be named any more.
    untidy: bool,
}

/// What is known of a service.
#[derive(Debug, Default)]
struct Known {
    /// Its nodes, as DNS said last.
    nodes: Option<Arc<[Node]>>,
    /// When it is to be asked for; `None`: now.
    due: Option<Instant>,
    /// Whether somebody is asking.
    asked: bool,
    /// Whether its first answer has been waited for in vain.
    given_up: bool,
    /// Whether it could not be found when it was asked for last.
    is_missing: bool,
}

impl Services {
    // === what the compiler asks ===

    /// Learns that a resource has this body: the services that it names are asked for from now on.
    pub(crate) fn note(&mut self, key: &ResourceKey, body: &str) {
        if !body.contains("\"discovery_type\"") {
            return;
        }
        let Ok(body) = serde_json::from_str(body) else { return };
        let mut named = BTreeSet::new();
        collect(&body, &mut named);
        for service in named {
            self.services.entry(service.clone()).or_default();
            self.used.entry(key.clone()).or_default().insert(service);
        }
    }

    /// Learns that a resource does not have the bodies any more that were noted for it.
    pub(crate) fn forget(&mut self, key: &ResourceKey) {
        // Mostly nobody uses any: then a key need not be hashed.
        self.untidy |= !self.used.is_empty() && self.used.remove(key).is_some();
    }

    /// The nodes of a service; none as long as nothing is known of it.
    pub(crate) fn nodes(&self, service: &str) -> Arc<[Node]> {
        self.services.get(service).and_then(|known| known.nodes.clone()).unwrap_or_default()
    }

    // === what the feed asks ===

    /// Services that are due to be asked for. Whatever is handed out counts as asked until [`Self::learn`] hears of it.
    pub(crate) fn take_orders(&mut self, now: Instant) -> Vec<Text> {
        if std::mem::take(&mut self.untidy) {
            let used: BTreeSet<&Text> = self.used.values().flatten().collect();
            self.services.retain(|service, _| used.contains(service));
        }
        let due = |known: &Known| !known.asked && known.due.is_none_or(|due| due <= now);
        let due = self.services.iter_mut().filter(|(_, known)| due(known));
        due.map(|(service, known)| {
            known.asked = true;
            service.clone()
        })
        .collect()
    }

    /// Takes in what came of an order. True when the service has other nodes from now on.
    pub(crate) fn learn(&mut self, now: Instant, found: Found) -> bool {
        let Some(known) = self.services.get_mut(&found.service) else { return false };
        known.asked = false;
        known.is_missing = found.nodes.is_err();
        match found.nodes {
            Ok((nodes, for_so_long)) => {
                known.due = Some(now + for_so_long);
                let is_new = known.nodes.as_deref() != Some(&nodes[..]);
                if is_new {
                    known.nodes = Some(nodes.into());
                }
                is_new
            }
            Err(_) => {
                known.due = Some(now + RETRY);
                false
            }
        }
    }

    /// Whether a service could not be found when it was asked for last.
    pub(crate) fn is_missing(&self, service: &str) -> bool {
        self.services.get(service).is_some_and(|known| known.is_missing)
    }

    /// Whether an answer is still to come that it is worth to wait for: the first of a service.
    pub(crate) fn awaits_first(&self) -> bool {
        self.services.values().any(|known| known.asked && known.nodes.is_none() && !known.given_up)
    }

    /// Nobody waits any more for the answers that are to come.
    pub(crate) fn give_up(&mut self) {
        self.services.values_mut().filter(|known| known.asked).for_each(|known| known.given_up = true);
    }

    /// The resources that name a service.
    pub(crate) fn users(&self, service: &Text) -> Vec<ResourceKey> {
        self.used.iter().filter(|(_, named)| named.contains(service)).map(|(key, _)| key.clone()).collect()
    }
}

/// The services that stand anywhere in a body: in an upstream, or in one within a route, a service or a plugin.
fn collect(value: &Value, named: &mut BTreeSet<Text>) {
    match value {
        Value::Object(fields) => {
            if let (Some(Value::String(service)), Some(Value::String(by))) =
                (fields.get("service_name"), fields.get("discovery_type"))
                && by == DISCOVERY_DNS
            {
                named.insert(service.as_str().into());
            }
            fields.values().for_each(|value| collect(value, named));
        }
        Value::Array(items) => items.iter().for_each(|value| collect(value, named)),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn key(id: &str) -> ResourceKey {
        ResourceKey::new("routes", id)
    }

    fn node(host: &str) -> Node {
        Node { host: host.to_owned(), port: Some(80), weight: 1, priority: 0 }
    }

    fn found(service: &str, nodes: Result<&[&str], &str>) -> Found {
        let nodes = nodes.map(|hosts| (hosts.iter().map(|host| node(host)).collect(), Duration::from_secs(60)));
        Found { service: service.into(), nodes: nodes.map_err(str::to_owned) }
    }

    fn named(service: &str) -> String {
        json!({"uri": "/", "upstream": {"service_name": service, "discovery_type": "dns"}}).to_string()
    }

    #[test]
    fn a_service_is_asked_for_when_it_is_named_and_when_its_answer_has_run_out() {
        let (mut services, start) = (Services::default(), Instant::now());
        services.note(&key("r"), &named("a.example"));
        services.note(&key("s"), &named("a.example"));
        services.note(&key("none"), r#"{"uri": "/"}"#);
        services.note(&key("other"), r#"{"service_name": "b", "discovery_type": "consul"}"#);
        assert_eq!(services.take_orders(start), ["a.example"]);
        assert!(services.take_orders(start).is_empty(), "once for all who name it");
        assert!(services.awaits_first() && services.nodes("a.example").is_empty());
        assert!(services.learn(start, found("a.example", Ok(&["10.0.0.1"]))));
        assert!(!services.awaits_first());
        let second = Duration::from_secs(1);
        assert!(services.take_orders(start + 59 * second).is_empty());
        assert_eq!(services.take_orders(start + 60 * second), ["a.example"]);
        assert!(!services.learn(start + 60 * second, found("a.example", Ok(&["10.0.0.1"]))), "nothing new");
        let mut users = services.users(&"a.example".into());
        users.sort();
        assert_eq!(users, [key("r"), key("s")]);
    }

    #[test]
    fn what_was_said_last_holds_while_nothing_else_is_said() {
        let (mut services, start) = (Services::default(), Instant::now());
        services.note(&key("r"), &named("a.example"));
        services.take_orders(start);
        services.learn(start, found("a.example", Ok(&["10.0.0.1"])));
        let later = start + Duration::from_secs(60);
        services.take_orders(later);
        assert!(!services.is_missing("a.example"));
        assert!(!services.learn(later, found("a.example", Err("nobody there"))));
        assert!(services.is_missing("a.example"));
        assert_eq!(*services.nodes("a.example"), [node("10.0.0.1")]);
        assert_eq!(services.take_orders(later + RETRY), ["a.example"], "it is asked for again soon");
        // Whoever named it is gone.
        services.forget(&key("r"));
        services.learn(later + RETRY, found("a.example", Ok(&["10.0.0.2"])));
        assert!(services.take_orders(later + Duration::from_secs(600)).is_empty());
        assert!(services.nodes("a.example").is_empty());
    }

    #[test]
    fn nobody_waits_twice_for_a_service_that_is_not_found() {
        let (mut services, start) = (Services::default(), Instant::now());
        services.note(&key("r"), &named("a.example"));
        services.take_orders(start);
        services.give_up();
        assert!(!services.awaits_first());
    }
}
