//! `traffic-split`: sends shares of the requests to other upstreams than the route's.
//!
//! The first rule of which a condition holds has its way. Its shares are taken in turns, which all workers share: of
//! weights 3 and 1, one of any four requests in a row goes to the second.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use protocol::report::Problem;
use protocol::resource::scope::{Fields, Scope};
use protocol::resource::{Expression, Timeouts, Upstream, reference, unsupported_upstream};
use serde_json::{Value, json};

use super::host::Host;
use super::plugin::{Behaviour, Destination, Plugin, Step, check_variables};
use super::request::{Heading, Request};

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

/// Whose turn it is. A round has as many turns as the weights have units, and each unit is met once in it: so shares are exact
/// over any round, wherever it begins. From one turn to the next a stride is made over about 0.618 of the units, which
/// spreads every share over the round (Steinhaus's three-gap theorem). Nothing is kept but the number of the turn, so that
/// workers need no lock.
#[derive(Debug)]
struct Turns {
    shares: Vec<Share>,
    /// Units: the sum of the weights, divided by what divides them all.
    units: u64,
    /// Has no divisor in common with the units.
    stride: u64,
    turn: AtomicU64,
}

#[derive(Debug)]
struct Share {
    /// Among the plugin's destinations; `None`: where the route goes.
    destination: Option<usize>,
    /// The units up to and with its own.
    end: u64,
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
            None => vec![(None, 1)],
        };
        fields.finish();
        Some(Self { any_of, turns: Turns::new(&shares) })
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
    /// Where it goes, and its weight.
    fn read(scope: &Scope<'_, '_>, destinations: &mut Vec<Destination>) -> Option<(Option<usize>, u32)> {
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
        Some((destination, weight.unwrap_or(1)))
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
    fn new(shares: &[(Option<usize>, u32)]) -> Self {
        let divisor = shares.iter().fold(0, |divisor, (_, weight)| gcd(divisor, u64::from(*weight))).max(1);
        let mut units = 0;
        let share = |(destination, weight): &(Option<usize>, u32)| {
            units += u64::from(*weight) / divisor;
            Share { destination: *destination, end: units }
        };
        let shares = shares.iter().map(share).collect();
        let golden = (units * 618).div_ceil(1000);
        let stride = (golden..).find(|stride| gcd(*stride, units) == 1).unwrap_or(1);
        Self { shares, units, stride, turn: AtomicU64::new(0) }
    }

    /// The next share; `None` when none has a weight.
    fn next(&self) -> Option<&Share> {
        // Nothing else is read with it: any order will do.
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        // The product of two numbers under 2^37 (20 weights of 32 bits).
        let at = u128::from(turn.checked_rem(self.units)?) * u128::from(self.stride) % u128::from(self.units);
        self.shares.iter().find(|share| at < u128::from(share.end))
    }
}

/// The greatest common divisor.
fn gcd(a: u64, b: u64) -> u64 {
    if b == 0 { a } else { gcd(b, a % b) }
}

impl Behaviour for TrafficSplit {
    fn destinations(&self) -> &[Destination] {
        &self.destinations
    }

    fn access(&self, request: &mut Request, host: &dyn Host) -> Step {
        if let Some(rule) = self.rules.iter().find(|rule| rule.takes(request, host)) {
            let destination = rule.turns.next().and_then(|share| share.destination);
            request.heading = Some(destination.map_or(Heading::Route, Heading::Destination));
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

    const ROUTE: Option<Heading> = Some(Heading::Route);

    fn to(number: usize) -> Option<Heading> {
        Some(Heading::Destination(number))
    }

    fn taken(plugin: &dyn Behaviour, target: &str, times: usize) -> Vec<Option<Heading>> {
        let host = TestHost { path: target.to_owned(), ..TestHost::default() };
        let once = |_| {
            let mut it = request("GET", target);
            assert_eq!(plugin.access(&mut it, &host), Step::Go);
            it.heading
        };
        (0..times).map(once).collect()
    }

    #[test]
    fn shares_are_taken_in_turns() {
        let own = json!({"nodes": {"a:1": 1}});
        let plugin = behaviour(
            PLUGIN.name,
            json!({"rules": [{"weighted_upstreams": [
                {"upstream_id": 2, "weight": 2}, {"upstream": own, "weight": 0}, {"weight": 1},
            ]}]}),
        );
        assert_eq!(taken(&*plugin, "/", 6), [to(0), ROUTE, to(0), to(0), ROUTE, to(0)]);
        let [Destination::Shared(id), Destination::Own(own)] = plugin.destinations() else { panic!("two") };
        assert_eq!((id.as_str(), own.timeouts.map(|timeouts| timeouts.read)), ("2", Some(OWN_TIMEOUT)));
        let idle =
            behaviour(PLUGIN.name, json!({"rules": [{"weighted_upstreams": [{"upstream_id": "u", "weight": 0}]}]}));
        assert_eq!(taken(&*idle, "/", 1), [ROUTE], "without any weight the route's own");
    }

    #[test]
    fn a_round_is_exact_and_spreads_its_shares() {
        for weights in [&[1, 1][..], &[900, 100], &[3, 1], &[7, 0, 5, 1], &[1; SHARES_MAX], &[u32::MAX, u32::MAX, 1]] {
            let shares: Vec<_> = weights.iter().enumerate().map(|(number, weight)| (Some(number), *weight)).collect();
            let turns = Turns::new(&shares);
            if turns.units > 1000 {
                // As many turns as there are units are too many to take here; the numbers must not overflow.
                turns.turn.store(u64::MAX - 1, Ordering::Relaxed);
                assert!((0..4).all(|_| turns.next().is_some()), "{weights:?}");
                continue;
            }
            let units = usize::try_from(turns.units).unwrap();
            let taken: Vec<usize> = (0..3 * units).map(|_| turns.next().unwrap().destination.unwrap()).collect();
            let sum: u32 = weights.iter().sum();
            for (number, weight) in weights.iter().enumerate() {
                let due = units * usize::try_from(*weight).unwrap() / usize::try_from(sum).unwrap();
                for round in taken.windows(units) {
                    assert_eq!(round.iter().filter(|taken| **taken == number).count(), due, "{weights:?}");
                }
            }
        }
        let nine_to_one = Turns::new(&[(None, 9), (Some(0), 1)]);
        let turns: Vec<_> = (0..40).map(|_| nine_to_one.next().unwrap().destination).collect();
        assert!(turns.windows(10).all(|ten| ten.contains(&Some(0))), "{turns:?}");
        let halves = Turns::new(&[(None, 500), (Some(0), 500)]);
        let turns: Vec<_> = (0..6).map(|_| halves.next().unwrap().destination).collect();
        assert_eq!(turns, [None, Some(0), None, Some(0), None, Some(0)]);
    }

    #[test]
    fn the_first_rule_that_takes_a_request_has_its_way() {
        let shared = |id: &str| json!([{"upstream_id": id}]);
        let plugin = behaviour(
            PLUGIN.name,
            json!({"rules": [
                {"match": [{"vars": [["arg_a", "==", "1"], ["arg_b", "==", "2"]]}, {"vars": [["arg_c", "==", "3"]]}],
                 "weighted_upstreams": shared("x")},
                {"match": [{"vars": [["arg_a", "==", "1"]]}], "weighted_upstreams": shared("y")},
                {"match": [{"vars": [["arg_d", "==", "1"]]}]},
                {"match": [{"vars": [["arg_d", "~=", null]]}], "weighted_upstreams": shared("z")},
            ]}),
        );
        for (target, expected) in
            [("/?a=1&b=2", to(0)), ("/?c=3", to(0)), ("/?a=1", to(1)), ("/?d=1", ROUTE), ("/?d=2", to(2)), ("/", None)]
        {
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
