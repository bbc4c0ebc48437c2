//! Which routes never get a request on a host and path, because another one with the same is asked before and takes all.
//!
//! The order is that of the proxies: of routes with one host and path the higher priority goes first, then the lower id;
//! one whose methods, addresses or conditions refuse a request is passed over.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use protocol::resource::{HostPattern, KindInfo, Model, Part, Route, RouteStatus, UriPattern};
use protocol::{Kind, ResourceKey, Text};
use serde_json::{Value, json};

use super::dry_run::After;
use super::render;

/// A host (`None`: any) and a path.
type Place = (Option<HostPattern>, UriPattern);

/// A route that another one stands in front of.
pub(super) struct Shadow {
    route: Text,
    by: Text,
    places: BTreeSet<Place>,
    /// Whether there is no other place at which it takes requests.
    entirely: bool,
}

impl Shadow {
    pub(super) fn show(self) -> Value {
        let key = |id: &str| render::key_path(&ResourceKey::new("routes", id));
        let places: Vec<Value> = self
            .places
            .iter()
            .map(|(host, uri)| json!({ "host": host.as_ref().map(ToString::to_string), "uri": uri.to_string() }))
            .collect();
        json!({ "route": key(&self.route), "by": key(&self.by), "places": places, "entirely": self.entirely })
    }
}

/// A route with the places at which it is asked.
struct Placed {
    id: Text,
    route: Box<Route>,
    places: BTreeSet<Place>,
}

/// Every shadow of which one side is written, or belongs to a service that is.
pub(super) fn shadows(after: &After<'_>) -> Vec<Shadow> {
    let written = |kind: &str| after.writes.keys().filter(|key| key.kind.as_str() == kind).count();
    if written("routes") + written("services") == 0 {
        return Vec::new();
    }
    let routes = placed(after);
    let is_affected = |placed: &Placed| {
        let service = placed.route.service_id.as_ref();
        after.writes.contains_key(&ResourceKey::new("routes", &placed.id))
            || service.is_some_and(|service| after.writes.contains_key(service))
    };
    let mut at: HashMap<&Place, Vec<usize>> = HashMap::new();
    for (index, placed) in routes.iter().enumerate().filter(|(_, placed)| is_affected(placed)) {
        placed.places.iter().for_each(|place| at.entry(place).or_default().push(index));
    }
    let mut found: BTreeMap<(Text, Text), BTreeSet<Place>> = BTreeMap::new();
    for (index, placed) in routes.iter().enumerate() {
        for place in &placed.places {
            for other in at.get(place).into_iter().flatten().filter(|other| **other != index) {
                let other = &routes[*other];
                let (first, second) = if rank(placed) < rank(other) { (placed, other) } else { (other, placed) };
                if takes_all_of(&first.route, &second.route) {
                    let pair = (second.id.clone(), first.id.clone());
                    found.entry(pair).or_default().insert(place.clone());
                }
            }
        }
    }
    let size: HashMap<&Text, usize> = routes.iter().map(|placed| (&placed.id, placed.places.len())).collect();
    let shadow = |((route, by), places): ((Text, Text), BTreeSet<Place>)| {
        let entirely = size.get(&route) == Some(&places.len());
        Shadow { route, by, places, entirely }
    };
    found.into_iter().map(shadow).collect()
}

fn rank(placed: &Placed) -> (std::cmp::Reverse<i64>, &Text) {
    (std::cmp::Reverse(placed.route.priority), &placed.id)
}

/// Whether a route takes every request of another one with the same host and path.
fn takes_all_of(first: &Route, second: &Route) -> bool {
    let inside = |net: &ipnet::IpNet| first.remote_addrs.iter().any(|wide| wide.contains(net));
    first.methods.includes(second.methods)
        && (first.remote_addrs.is_empty() || !second.remote_addrs.is_empty() && second.remote_addrs.iter().all(inside))
        && (first.vars.is_none() || first.vars == second.vars)
}

/// Every route that is switched on, as it would be.
fn placed(after: &After<'_>) -> Vec<Placed> {
    let kind = Kind::new("routes");
    let stored = after.config.of_kind(&kind).map(|(key, _)| key).filter(|key| !after.writes.contains_key(key));
    let written = after.writes.keys().copied().filter(|key| key.kind == kind);
    let mut services = HashMap::new();
    let mut all = Vec::new();
    for key in stored.chain(written) {
        let Some(Model::Route(route)) = model(after, key) else { continue };
        if route.status == RouteStatus::Disabled {
            continue;
        }
        let mut hosts = route.hosts.clone();
        if let (true, Some(service)) = (hosts.is_empty(), &route.service_id) {
            let of_service = services.entry(service.clone()).or_insert_with(|| match model(after, service) {
                Some(Model::Service(service)) => service.hosts,
                _ => Vec::new(),
            });
            hosts.clone_from(of_service);
        }
        let hosts: Vec<Option<HostPattern>> =
            if hosts.is_empty() { vec![None] } else { hosts.into_iter().map(Some).collect() };
        let place = |uri: &UriPattern| hosts.iter().map(|host| (host.clone(), nameless(uri))).collect::<Vec<_>>();
        let places = route.uris.iter().flat_map(place).collect();
        all.push(Placed { id: key.id.clone(), route, places });
    }
    all
}

fn model(after: &After<'_>, key: &ResourceKey) -> Option<Model> {
    let body: Value = serde_json::from_str(after.body(key)?).ok()?;
    KindInfo::find(key.kind.as_str())?.read(&body).ok()
}

/// A path without the names of its parameters: they do not matter for what it takes.
fn nameless(uri: &UriPattern) -> UriPattern {
    let UriPattern::Template { literal, parts } = uri else { return uri.clone() };
    let part = |part: &Part| match part {
        Part::Literal(text) => Part::Literal(text.clone()),
        Part::Parameter(_) => Part::Parameter(Text::default()),
        Part::Rest(_) => Part::Rest(Text::default()),
    };
    UriPattern::Template { literal: literal.clone(), parts: parts.iter().map(part).collect() }
}
