//! What the models can say and no proxy of this version can do.
//!
//! Admission refuses it, and a proxy that gets it anyway (from a newer control plane) seals the resource: accepting it in
//! silence could let a request through that the user meant to stop. Whoever implements one of these deletes its line.

use super::{
    Algorithm, CONSUMER_NAME, DISCOVERY_DNS, Endpoints, Expression, HashKey, Model, Route, Scheme, SecretManager,
    Service, Ssl, StreamRoute, TlsVersion, Upstream, Variable, split_service,
};
use crate::report::{Path, Problem};

/// Everything in a resource that this version cannot serve, each with its place.
#[must_use]
pub fn unsupported(model: &Model) -> Vec<Problem> {
    let root = Path::default();
    match model {
        Model::Route(route) => route_problems(&root, route),
        Model::Service(service) => service_problems(&root, service),
        Model::Ssl(ssl) => ssl_problems(&root, ssl),
        Model::StreamRoute(route) => stream_problems(&root, route),
        Model::Upstream(upstream) => upstream_problems(&root, upstream),
        Model::Consumer(_)
        | Model::ConsumerGroup(_)
        | Model::Credential(_)
        | Model::GlobalRule(_)
        | Model::PluginConfig(_)
        | Model::PluginMetadata(_)
        | Model::Proto(_)
        | Model::SecretManager(_) => Vec::new(),
    }
}

/// What is stored and has no effect yet, but does no harm.
pub(super) fn warnings(model: &Model) -> Vec<String> {
    let mut warnings = Vec::new();
    match model {
        Model::Proto(_) => warnings.push("protos are stored, and no plugin reads them yet".to_owned()),
        Model::SecretManager(manager) if SecretManager::vault(&manager.fields).is_none() => {
            warnings
                .push("secret managers of this kind are stored, and nothing reads secrets from them yet".to_owned());
        }
        _ => {}
    }
    if let Model::Ssl(ssl) = model {
        warnings.extend(ssl.warnings());
    }
    if let Model::Route(route) = model {
        for uri in route.uris.iter().map(ToString::to_string).filter(|uri| !uri.starts_with(['/', '*'])) {
            warnings.push(format!("uri {uri:?} does not start with a slash and will match no request"));
        }
    }
    warnings
}

fn not_served(path: Path, what: &str) -> Problem {
    Problem::rule(path, format!("{what} is not served by this version of holdfast"))
}

fn route_problems(at: &Path, route: &Route) -> Vec<Problem> {
    let mut problems = Vec::new();
    let variables = route.vars.iter().flat_map(Expression::variables);
    for name in variables.filter(|variable| !variable.may_be_in_body()).filter_map(Variable::unknown) {
        problems.push(not_served(at.property("vars"), &format!("the variable {name:?}")));
    }
    if route.filter_func.is_some() {
        problems.push(not_served(at.property("filter_func"), "filter_func"));
    }
    if route.script.is_some() {
        problems.push(not_served(at.property("script"), "script"));
    }
    if let Some(upstream) = &route.upstream {
        problems.extend(unsupported_upstream(&at.property("upstream"), upstream));
    }
    problems
}

/// Everything in an upstream at that place, which is for requests, that this version cannot serve.
#[must_use]
pub fn unsupported_upstream(at: &Path, upstream: &Upstream) -> Vec<Problem> {
    let mut problems = upstream_problems(at, upstream);
    if upstream.scheme.is_for_streams() {
        let sentence = "a route speaks http, https, grpc or grpcs to its nodes: this scheme is for stream routes";
        problems.push(Problem::rule(at.property("scheme"), sentence));
    }
    problems
}

fn stream_problems(at: &Path, route: &StreamRoute) -> Vec<Problem> {
    let mut problems = Vec::new();
    if route.protocol.is_some() {
        problems.push(not_served(at.property("protocol"), "a protocol above TCP"));
    }
    if let Some(upstream) = &route.upstream {
        let at = at.property("upstream");
        problems.extend(upstream_problems(&at, upstream));
        if matches!(upstream.scheme, Scheme::Https | Scheme::Grpc | Scheme::Grpcs) {
            let scheme = upstream.scheme.name();
            let sentence = format!("a stream route speaks tcp or tls to its nodes: the scheme {scheme} is for routes");
            problems.push(Problem::rule(at.property("scheme"), sentence));
        }
    }
    problems
}

fn service_problems(at: &Path, service: &Service) -> Vec<Problem> {
    let mut problems = Vec::new();
    if service.script.is_some() {
        problems.push(not_served(at.property("script"), "script"));
    }
    if let Some(upstream) = &service.upstream {
        problems.extend(upstream_problems(&at.property("upstream"), upstream));
    }
    problems
}

fn ssl_problems(at: &Path, ssl: &Ssl) -> Vec<Problem> {
    let old = ssl.protocols.contains(&TlsVersion::Tls11);
    old.then(|| not_served(at.property("ssl_protocols"), "TLSv1.1")).into_iter().collect()
}

fn upstream_problems(at: &Path, upstream: &Upstream) -> Vec<Problem> {
    let mut problems = Vec::new();
    if upstream.algorithm == Algorithm::ConsistentHash {
        let key = upstream.hash_key();
        let variables = key.iter().flat_map(HashKey::variables);
        for name in variables.filter_map(Variable::unknown).filter(|name| *name != CONSUMER_NAME) {
            problems.push(not_served(at.property("key"), &format!("the variable {name:?}")));
        }
    }
    if matches!(upstream.scheme, Scheme::Udp | Scheme::Kafka) {
        problems.push(not_served(at.property("scheme"), &format!("the scheme {}", upstream.scheme.name())));
    }
    if let Endpoints::Nodes(nodes) = &upstream.endpoints
        && upstream.scheme.is_for_streams()
        && nodes.iter().any(|node| node.port.is_none())
    {
        problems.push(Problem::rule(at.property("nodes"), "a node that is reached by tcp or tls must name its port"));
    }
    if let Endpoints::Discovered { service_name, discovery_type } = &upstream.endpoints {
        if discovery_type != DISCOVERY_DNS {
            problems.push(not_served(at.property("discovery_type"), &format!("discovery by {discovery_type:?}")));
        } else if split_service(service_name).is_none() {
            let sentence = format!("{service_name:?} is no name that DNS can know, nor one with a port");
            problems.push(Problem::rule(at.property("service_name"), sentence));
        }
    }
    if upstream.tls.as_ref().is_some_and(|tls| tls.client_key.is_some()) {
        // It would be stored in the clear: only the keys of ssls are sealed.
        let sentence = "a private key is not stored in an upstream: put it and its certificate into an ssl of type \
            client, and name that in client_cert_id";
        problems.push(Problem::rule(at.property("tls").property("client_key"), sentence));
    }
    problems
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{KindInfo, NoPlugins, admit};

    #[test]
    fn what_no_proxy_can_do_is_refused_with_its_place() {
        let routes = KindInfo::find("routes").unwrap();
        let body = json!({
            "uri": "/x", "vars": [["post_arg_a", "==", "1"], ["post_a", "==", "1"]], "plugins": {"nosuch": {}},
            "upstream": {"type": "chash", "key": "hostname", "scheme": "kafka", "nodes": {"a:1": 1}},
        });
        let report = admit(&NoPlugins, routes, Some("r"), body).unwrap_err();
        assert_eq!(report.summary(), "unknown plugin [nosuch]");
        let places: Vec<_> = report.problems.iter().map(|p| p.path.to_string()).collect();
        assert_eq!(places, ["$.plugins.nosuch", "$.vars", "$.upstream.key", "$.upstream.scheme"]);
    }

    #[test]
    fn services_are_those_that_dns_knows() {
        let upstreams = KindInfo::find("upstreams").unwrap();
        let place = |service: &str, by: &str| {
            let body = json!({"service_name": service, "discovery_type": by});
            let report = admit(&NoPlugins, upstreams, Some("u"), body).err()?;
            Some((report.problems[0].path.to_string(), report.problems[0].message.clone()))
        };
        assert_eq!(place("a.example:80", "dns"), None);
        assert_eq!(place("_http._tcp.a.example", "dns"), None);
        let (at, why) = place("a.example", "consul").unwrap();
        assert_eq!(at, "$.discovery_type");
        assert!(why.contains("discovery by \"consul\" is not served"), "{why}");
        assert_eq!(place("10.0.0.1:80", "dns").unwrap().0, "$.service_name");
    }

    #[test]
    fn a_private_key_in_an_upstream_is_refused_and_says_where_it_belongs() {
        let upstreams = KindInfo::find("upstreams").unwrap();
        let (cert, key) = ("c".repeat(128), "k".repeat(64));
        let body = |tls| json!({"nodes": {"a:1": 1}, "scheme": "https", "tls": tls});
        let report =
            admit(&NoPlugins, upstreams, Some("u"), body(json!({"client_cert": cert, "client_key": key}))).unwrap_err();
        assert_eq!(report.problems[0].path.to_string(), "$.tls.client_key");
        assert!(report.summary().contains("client_cert_id") && !report.summary().contains(&key), "{report}");
        let admitted =
            admit(&NoPlugins, upstreams, Some("u"), body(json!({"client_cert_id": "s", "verify": true}))).unwrap();
        assert_eq!(admitted.references[0].to_string(), "ssls/s");
    }

    #[test]
    fn what_has_no_effect_yet_is_said() {
        let routes = KindInfo::find("routes").unwrap();
        let body = json!({
            "uri": "x", "enable_websocket": true,
            "upstream": {"nodes": {"a:1": 1}, "checks": {"active": {}}},
        });
        let warnings = admit(&NoPlugins, routes, Some("r"), body).unwrap().warnings;
        assert_eq!(warnings.len(), 1, "{warnings:?}");
    }
}
