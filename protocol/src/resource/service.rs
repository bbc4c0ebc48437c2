//! A service: what several routes share.

use serde_json::{Map, Value};

use super::common::{HostPattern, SCRIPT_CHARS_MAX, read_labelling, reference};
use super::plugins;
use super::scope::Scope;
use super::upstream::Upstream;
use crate::key::ResourceKey;

/// Hosts, upstream and plugins for the routes that name it by `service_id`. What a route says itself wins.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Service {
    /// The hosts of its routes that name none.
    pub hosts: Vec<HostPattern>,
    /// Its own upstream; wins over `upstream_id`.
    pub upstream: Option<Upstream>,
    /// The upstream it refers to.
    pub upstream_id: Option<ResourceKey>,
    /// Plugins by name, with their configuration.
    pub plugins: Map<String, Value>,
    /// A script in place of plugins.
    pub script: Option<String>,
    /// Whether its routes may upgrade to WebSocket.
    pub enable_websocket: Option<bool>,
}

impl Service {
    pub(super) fn read(scope: Scope<'_, '_>) -> Option<Self> {
        let fields = scope.object()?;
        read_labelling(&fields);
        let service = Self {
            hosts: fields.optional("hosts", HostPattern::read_list).unwrap_or_default(),
            upstream: fields.optional("upstream", Upstream::read),
            upstream_id: fields.optional("upstream_id", |s| reference("upstreams", &s)),
            plugins: fields.optional("plugins", plugins).unwrap_or_default(),
            script: fields.optional("script", |s| Some(s.string(10, SCRIPT_CHARS_MAX)?.to_owned())),
            enable_websocket: fields.optional("enable_websocket", |s| s.boolean()),
        };
        fields.finish();
        Some(service)
    }

    pub(super) fn references(&self) -> Vec<ResourceKey> {
        let inner = self.upstream.iter().flat_map(Upstream::references);
        self.upstream_id.iter().cloned().chain(inner).collect()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::scope::check;
    use super::*;

    #[test]
    fn a_service_reads_all_its_fields() {
        let body = json!({
            "name": "svc", "desc": "d", "labels": {"env": "prod"}, "hosts": ["A.example.com", "*.b.com"],
            "upstream_id": 7, "plugins": {"x": {}}, "enable_websocket": true,
        });
        let service = check(&body, Service::read).unwrap();
        assert_eq!(service.hosts, [HostPattern::Exact("a.example.com".into()), HostPattern::Suffix(".b.com".into())]);
        assert_eq!(service.references(), [ResourceKey::new("upstreams", "7")]);
    }

    #[test]
    fn what_is_wrong_is_told_as_apisix_tells_it() {
        for (body, summary) in [
            (
                json!({"plugins": "x"}),
                "invalid configuration: property \"plugins\" validation failed: wrong type: expected object, got string",
            ),
            (
                json!({"hosts": []}),
                "invalid configuration: property \"hosts\" validation failed: expect array to have at least 1 items",
            ),
            (
                json!({"hosts": ["bad host"]}),
                "invalid configuration: property \"hosts\" validation failed: failed to validate item 1: failed to match pattern \"^\\\\*$|^\\\\*?[0-9a-zA-Z-._\\\\[\\\\]:]+$\" with \"bad host\"",
            ),
            (
                json!({"script": "x", "upstream_id": "u1"}),
                "invalid configuration: property \"script\" validation failed: string too short, expected at least 10, got 1",
            ),
            (
                json!({"foo": 1, "upstream_id": "u1"}),
                "invalid configuration: additional properties forbidden, found foo",
            ),
            (
                json!({"upstream": {}}),
                "invalid configuration: property \"upstream\" validation failed: value should match only one schema, but matches none",
            ),
        ] {
            assert_eq!(check(&body, Service::read).unwrap_err().summary(), summary, "{body}");
        }
    }
}
