//! A stream route: which TCP connections it takes, and where their bytes go.

use ipnet::IpNet;
use serde_json::{Map, Value};

use super::common::{HostPattern, net, read_labelling, reference};
use super::plugins;
use super::scope::Scope;
use super::upstream::Upstream;
use crate::key::ResourceKey;

/// Which connections it takes, and where their bytes go. What it does not ask for it takes all of.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct StreamRoute {
    /// The client addresses it takes.
    pub remote_addr: Option<IpNet>,
    /// The addresses of the proxy at which it takes them.
    pub server_addr: Option<IpNet>,
    /// The port of the proxy at which it takes them.
    pub server_port: Option<u16>,
    /// The names that clients ask for in their TLS handshakes; with one, it takes no connection without TLS.
    pub sni: Option<HostPattern>,
    /// Its own upstream; wins over `upstream_id` and the service's.
    pub upstream: Option<Upstream>,
    /// The upstream it refers to.
    pub upstream_id: Option<ResourceKey>,
    /// The service whose upstream it takes, when it has none itself.
    pub service_id: Option<ResourceKey>,
    /// Plugins by name, with their configuration.
    pub plugins: Map<String, Value>,
    /// The name of a protocol above TCP that is to be understood.
    pub protocol: Option<String>,
}

impl StreamRoute {
    pub(super) fn read(scope: Scope<'_, '_>) -> Option<Self> {
        let fields = scope.object()?;
        read_labelling(&fields);
        let route = Self {
            remote_addr: fields.optional("remote_addr", net),
            server_addr: fields.optional("server_addr", net),
            server_port: fields.optional("server_port", |s| u16::try_from(s.integer(1, 65_535)?).ok()),
            sni: fields.optional("sni", HostPattern::read),
            upstream: fields.optional("upstream", Upstream::read),
            upstream_id: fields.optional("upstream_id", |s| reference("upstreams", &s)),
            service_id: fields.optional("service_id", |s| reference("services", &s)),
            plugins: fields.optional("plugins", plugins).unwrap_or_default(),
            protocol: fields.optional("protocol", read_protocol),
        };
        fields.finish();
        Some(route)
    }

    pub(super) fn references(&self) -> Vec<ResourceKey> {
        let inner = self.upstream.iter().flat_map(Upstream::references);
        self.upstream_id.iter().chain(&self.service_id).cloned().chain(inner).collect()
    }
}

/// The name of a protocol. What else is said of it is for whoever understands it.
fn read_protocol(scope: Scope<'_, '_>) -> Option<String> {
    let fields = scope.object()?;
    fields.allow_unknown();
    let name = fields.required("name", |s| s.string(0, usize::MAX));
    fields.finish();
    name.map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{KindInfo, NoPlugins, admit};
    use super::*;

    #[test]
    fn a_stream_route_reads_all_its_fields() {
        let body = json!({
            "name": "n", "desc": "d", "labels": {"a": "b"}, "remote_addr": "10.0.0.0/8", "server_addr": "::1",
            "server_port": 9100, "sni": "*.A.com", "upstream_id": 7, "service_id": "s",
        });
        let admitted = admit(&NoPlugins, KindInfo::find("stream_routes").unwrap(), Some("x"), body.clone()).unwrap();
        let names: Vec<_> = admitted.references.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["services/s", "upstreams/7"]);
        let route = super::super::scope::check(&body, StreamRoute::read).unwrap();
        assert_eq!(route.sni, Some(HostPattern::Suffix(".a.com".into())));
        assert_eq!((route.server_port, route.server_addr), (Some(9100), Some("::1/128".parse().unwrap())));
    }

    #[test]
    fn what_is_wrong_or_not_served_is_told_with_its_place() {
        let own = |scheme: &str| json!({"upstream": {"nodes": {"a:1": 1}, "scheme": scheme}});
        for (body, place, summary) in [
            (
                json!({"remote_addr": "x"}),
                "$.remote_addr",
                "invalid configuration: property \"remote_addr\" validation failed: object matches none of the required",
            ),
            (
                json!({"server_port": 70_000}),
                "$.server_port",
                "invalid configuration: property \"server_port\" validation failed: expected 70000 to be at most 65535",
            ),
            (json!({"plugins": {"mqtt-proxy": {}}}), "$.plugins[\"mqtt-proxy\"]", "unknown plugin [mqtt-proxy]"),
            (
                json!({"protocol": {"name": "redis"}}),
                "$.protocol",
                "a protocol above TCP is not served by this version of holdfast",
            ),
            (own("udp"), "$.upstream.scheme", "the scheme udp is not served by this version of holdfast"),
            (
                own("https"),
                "$.upstream.scheme",
                "a stream route speaks tcp or tls to its nodes: the scheme https is for routes",
            ),
        ] {
            let kind = KindInfo::find("stream_routes").unwrap();
            let report = admit(&NoPlugins, kind, Some("x"), body).unwrap_err();
            assert_eq!((report.problems[0].path.to_string().as_str(), report.summary()), (place, summary));
        }
    }
}
