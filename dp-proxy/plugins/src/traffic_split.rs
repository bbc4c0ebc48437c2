//! `traffic-split`: sends shares of the requests to other upstreams than the route's.
//!
//! The first rule of which a condition holds has its way. Its shares are taken in smooth turns, which all workers share:
//! of weights 3 and 1, every fourth request goes to the second.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use protocol::report::Problem;
use protocol::resource::scope::{Fields, Scope};
use protocol::resource::{Expression, Timeouts, Upstream, reference, unsupported_upstream};
use serde_json::{Value, json};

use super::host::Host;
use super::plugin::{Behaviour, Destination, Plugin, Step, check_variables};
use super::request::Request;

/// See the module.
pub(crate) static PLUGIN: Plugin =
    Plugin { name: "traffic-split", priority: 966, version: 0.1, schema, read, auth: None, secrets: &[] };

/// Shares of one rule, at most (APISIX's bound).
const SHARES_MAX: usize = 20;
/// What an upstream of the plugin's own waits for where it does not say (APISIX's default here).
const OWN_TIMEOUT: Duration = Duration::from_secs(15);

#[derive(Debug)]
struct TrafficSplit {
    rules: Vec<Rule>,
    destinations: Vec<Destination>,
}

#[derive(Debug)]
struct Rule {
    /// Of which one must hold; empty: it has its way in any case.
    any_of: Vec<Expression>,
    turns: Turns,
}

/// Whose turn it is, by smooth weighted round robin.
#[derive(Debug)]
struct Turns {
    shares: Vec<Share>,
    /// How far each is ahead of its share, or behind.
    credit: Mutex<Vec<i64>>,
}

#[derive(Debug)]
struct Share {
    /// Among the plugin's destinations; `None`: where the route goes.
    destination: Option<usize>,
    weight: u32,
}

fn read(fields: &Fields<'_, '_>) -> Option<Box<dyn Behaviour>> {
    let mut destinations = Vec::new();
    let rules = fields.optional("rules", |s| s.all(s.items(0)?, |rule| Rule::read(&rule, &mut destinations)));
    Some(Box::new(TrafficSplit { rules: rules.unwrap_or_default(), destinations }))
}

impl Rule {
    fn read(scope: &Scope<'_, '_>, destinations: &mut Vec<Destination>) -> Option<Self> {
        let fields = scope.object()?;
        let any_of = fields.optional("match", |s| s.all(s.items(0)?, condition)).unwrap_or_default();
        let shares = match fields.get("weighted_upstreams") {
            Some(s) => {
                let items = s.items(1)?;
                if items.len() > SHARES_MAX {
                    s.wrong(format!("expect array to have at most {SHARES_MAX} items"));
                    return None;
                }
                s.all(items, |item| Share::read(&item, destinations))?
            }
            None => vec![Share { destination: None, weight: 1 }],
        };
        fields.finish();
        let credit = Mutex::new(vec![0; shares.len()]);
        Some(Self { any_of, turns: Turns { shares, credit } })
    }

    fn takes(&self, request: &Request, host: &dyn Host) -> bool {
        self.any_of.is_empty() || self.any_of.iter().any(|vars| vars.holds(&request.seen(host)))
    }
}

fn condition(scope: Scope<'_, '_>) -> Option<Expression> {
    let fields = scope.object()?;
    fields.allow_unknown();
    let Some(vars) = fields.get("vars") else {
        fields.rule("vars", "failed to validate the 'vars' expression: there is none");
        return None;
    };
    let expression = Expression::read(&vars)?;
    check_variables(&vars, expression.variables());
    Some(expression)
}

impl Share {
    fn read(scope: &Scope<'_, '_>, destinations: &mut Vec<Destination>) -> Option<Self> {
        let fields = scope.object()?;
        fields.allow_unknown();
        let weight = fields.optional("weight", |s| u32::try_from(s.integer(0, i64::from(u32::MAX))?).ok());
        let shared = fields.optional("upstream_id", |s| reference("upstreams", &s));
        let own = fields.optional("upstream", own_upstream);
        // As in APISIX, an id wins over an upstream beside it.
        let destination = match shared {
            Some(key) => Some(Destination::Shared(key.id)),
            None => own.map(|own| Destination::Own(Box::new(own))),
        };
        let destination = destination.map(|destination| {
            destinations.push(destination);
            destinations.len() - 1
        });
        Some(Self { destination, weight: weight.unwrap_or(1) })
    }
}

fn own_upstream(scope: Scope<'_, '_>) -> Option<Upstream> {
    let (at, report) = (scope.path.clone(), scope.clone());
    let mut upstream = Upstream::read(scope)?;
    let problems: Vec<Problem> = unsupported_upstream(&at, &upstream);
    problems.into_iter().for_each(|problem| report.problem(problem));
    upstream.timeouts.get_or_insert(Timeouts { connect: OWN_TIMEOUT, send: OWN_TIMEOUT, read: OWN_TIMEOUT });
    Some(upstream)
}

impl Turns {
    /// The next share; `None` when none has a weight.
    fn next(&self) -> Option<&Share> {
        // Every step leaves credits that hold: a panic elsewhere cannot have left half of one.
        let mut credit = self.credit.lock().unwrap_or_else(PoisonError::into_inner);
        let mut best: Option<usize> = None;
        let mut sum = 0;
        for (at, share) in self.shares.iter().enumerate().filter(|(_, share)| share.weight > 0) {
            credit[at] += i64::from(share.weight);
            sum += i64::from(share.weight);
            if best.is_none_or(|best| credit[at] > credit[best]) {
                best = Some(at);
            }
        }
        let best = best?;
        credit[best] -= sum;
        Some(&self.shares[best])
    }
}

impl Behaviour for TrafficSplit {
    fn destinations(&self) -> &[Destination] {
        &self.destinations
    }

    fn access(&self, request: &mut Request, host: &dyn Host) -> Step {
        if let Some(rule) = self.rules.iter().find(|rule| rule.takes(request, host)) {
            request.destination = rule.turns.next().and_then(|share| share.destination);
        }
        Step::Go
    }
}

fn schema() -> Value {
    let upstreams = json!({ "type": "array", "minItems": 1, "maxItems": SHARES_MAX, "default": [{ "weight": 1 }], "items": {
        "type": "object",
        "description": "without an upstream: the route's own",
        "properties": {
            "upstream_id": { "anyOf": [
                { "type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[a-zA-Z0-9-_.]+$" },
                { "type": "integer", "minimum": 1 },
            ] },
            "upstream": { "type": "object", "description": "as the body of an upstream" },
            "weight": { "type": "integer", "minimum": 0, "default": 1 },
        },
    } });
    let conditions = json!({ "type": "array", "description": "conditions, of which one must hold",
                             "items": { "type": "object", "properties": { "vars": { "type": "array" } } } });
    json!({ "properties": { "rules": { "type": "array", "items": {
        "type": "object",
        "additionalProperties": false,
        "properties": { "match": conditions, "weighted_upstreams": upstreams },
    } } } })
}

#[cfg(test)]
mod tests {
    use protocol::resource::{PluginCatalog as _, PluginRole};

    use super::super::CATALOG;
    use super::super::testing::{TestHost, behaviour, request};
    use super::*;

    fn taken(plugin: &dyn Behaviour, target: &str, times: usize) -> Vec<Option<usize>> {
        let host = TestHost { path: target.to_owned(), ..TestHost::default() };
        let once = |_| {
            let mut it = request("GET", target);
            assert_eq!(plugin.access(&mut it, &host), Step::Go);
            it.destination
        };
        (0..times).map(once).collect()
    }

    #[test]
    fn shares_are_taken_in_smooth_turns() {
        let own = json!({"nodes": {"a:1": 1}});
        let plugin = behaviour(
            PLUGIN.name,
            json!({"rules": [{"weighted_upstreams": [
                {"upstream_id": 2, "weight": 2}, {"upstream": own, "weight": 0}, {"weight": 1},
            ]}]}),
        );
        assert_eq!(taken(&*plugin, "/", 6), [Some(0), None, Some(0), Some(0), None, Some(0)]);
        let [Destination::Shared(id), Destination::Own(own)] = plugin.destinations() else { panic!("two") };
        assert_eq!((id.as_str(), own.timeouts.map(|timeouts| timeouts.read)), ("2", Some(OWN_TIMEOUT)));
        let idle =
            behaviour(PLUGIN.name, json!({"rules": [{"weighted_upstreams": [{"upstream_id": "u", "weight": 0}]}]}));
        assert_eq!(taken(&*idle, "/", 1), [None], "without any weight the route's own");
    }

    #[test]
    fn the_first_rule_that_takes_a_request_has_its_way() {
        let to = |id: &str| json!([{"upstream_id": id}]);
        let plugin = behaviour(
            PLUGIN.name,
            json!({"rules": [
                {"match": [{"vars": [["arg_a", "==", "1"], ["arg_b", "==", "2"]]}, {"vars": [["arg_c", "==", "3"]]}],
                 "weighted_upstreams": to("x")},
                {"match": [{"vars": [["arg_a", "==", "1"]]}], "weighted_upstreams": to("y")},
                {"match": [{"vars": [["arg_d", "==", "1"]]}]},
                {"match": [{"vars": [["arg_d", "~=", null]]}], "weighted_upstreams": to("z")},
            ]}),
        );
        for (target, expected) in [
            ("/?a=1&b=2", Some(0)),
            ("/?c=3", Some(0)),
            ("/?a=1", Some(1)),
            ("/?d=1", None),
            ("/?d=2", Some(2)),
            ("/", None),
        ] {
            assert_eq!(taken(&*plugin, target, 1), [expected], "{target}");
        }
        assert_eq!(taken(&*behaviour(PLUGIN.name, json!({})), "/", 1), [None]);
    }

    #[test]
    fn what_it_refers_to_is_told() {
        let tls = json!({"scheme": "https", "nodes": {"a:1": 1}, "tls": {"client_cert_id": "s"}});
        let conf = json!({"rules": [{"weighted_upstreams": [{"upstream_id": 7}, {"upstream": tls}]}]});
        let checked = CATALOG.check(PLUGIN.name, PluginRole::Traffic, &conf).unwrap();
        let references: Vec<_> = checked.references.iter().map(ToString::to_string).collect();
        assert_eq!(references, ["upstreams/7", "ssls/s"]);
    }
}
