//! What a proxy must be able to do for a resource, in the words of its `Hello`: `kind/<kind>` and `plugin/<plugin>`.

use std::collections::BTreeSet;

use protocol::grpc::Hello;
use serde_json::Value;

/// What the capabilities that name plugins start with.
const PLUGIN: &str = "plugin/";

/// What it takes to serve a resource of this kind with this body.
pub(crate) fn needed(kind: &str, body: &str) -> BTreeSet<String> {
    let mut needed = BTreeSet::from([format!("kind/{kind}")]);
    // Most bodies have none, and reading them all as JSON is dear.
    if body.contains("\"plugins\"") {
        let body: Value = serde_json::from_str(body).unwrap_or_default();
        let plugins = body["plugins"].as_object().into_iter().flatten();
        needed.extend(plugins.map(|(name, _)| format!("{PLUGIN}{name}")));
    }
    needed
}

/// Whether a proxy cannot do it. One that says nothing of plugins is older than that word: what it cannot serve, it
/// rejects, and is judged by that.
pub(crate) fn lacks(hello: &Hello, capability: &str) -> bool {
    let says_nothing = capability.starts_with(PLUGIN) && !hello.capabilities.iter().any(|c| c.starts_with(PLUGIN));
    !says_nothing && !hello.capabilities.iter().any(|known| known == capability)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_needs_its_kind_and_its_plugins() {
        let needed = |kind, body| needed(kind, body).into_iter().collect::<Vec<_>>();
        assert_eq!(needed("upstreams", r#"{"nodes":{}}"#), ["kind/upstreams"]);
        let body = r#"{"plugins":{"cors":{},"key-auth":{}},"uri":"/"}"#;
        assert_eq!(needed("routes", body), ["kind/routes", "plugin/cors", "plugin/key-auth"]);
    }

    #[test]
    fn a_proxy_that_says_nothing_of_plugins_is_judged_by_what_it_rejects() {
        let hello = |capabilities: &[&str]| Hello {
            capabilities: capabilities.iter().map(|c| (*c).to_owned()).collect(),
            ..Hello::default()
        };
        assert!(!lacks(&hello(&["kind/routes"]), "plugin/cors"));
        assert!(lacks(&hello(&["kind/routes"]), "kind/ssls"));
        assert!(lacks(&hello(&["kind/routes", "plugin/cors"]), "plugin/redirect"));
        assert!(!lacks(&hello(&["kind/routes", "plugin/cors"]), "plugin/cors"));
    }
}
