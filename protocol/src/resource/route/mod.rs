//! A route: which requests it takes, and what becomes of them.

mod method;
mod plain;
mod uri;

use ipnet::IpNet;
use serde_json::{Map, Value};

pub(super) use method::METHODS;
pub use method::{Method, MethodSet};
pub use uri::{Part, URI_CHARS_MAX, UriPattern};

use super::common::{HostPattern, SCRIPT_CHARS_MAX, Timeouts, net, read_labelling, reference};
use super::expression::Expression;
use super::plugins;
use super::scope::{Fields, Scope};
use super::upstream::Upstream;
use crate::key::ResourceKey;
use crate::report::{Path, Problem};

/// Which requests it takes, and what becomes of them.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Route {
    /// The paths it takes; at least one.
    pub uris: Vec<UriPattern>,
    /// The hosts it takes; empty: those of its service, or all.
    pub hosts: Vec<HostPattern>,
    /// The methods it takes.
    pub methods: MethodSet,
    /// The client addresses it takes; empty: all.
    pub remote_addrs: Vec<IpNet>,
    /// Conditions on variables of the request; `None`: it takes all.
    pub vars: Option<Expression>,
    /// A Lua function as one more condition.
    pub filter_func: Option<String>,
    /// Among routes with one host and path, the higher goes first.
    pub priority: i64,
    /// Whether it is switched on.
    pub status: RouteStatus,
    /// Its own upstream; wins over `upstream_id` and the service's.
    pub upstream: Option<Box<Upstream>>,
    /// The upstream it refers to.
    pub upstream_id: Option<ResourceKey>,
    /// The service it belongs to.
    pub service_id: Option<ResourceKey>,
    /// The plugin configuration it takes on.
    pub plugin_config_id: Option<ResourceKey>,
    /// Plugins by name, with their configuration.
    pub plugins: Map<String, Value>,
    /// A script in place of plugins.
    pub script: Option<String>,
    /// Time limits; win over the upstream's.
    pub timeouts: Option<Timeouts>,
    /// Whether it may upgrade to WebSocket.
    pub enable_websocket: Option<bool>,
}

/// Whether a route is switched on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum RouteStatus {
    /// It takes requests.
    #[default]
    Enabled,
    /// It is stored and takes none.
    Disabled,
}

impl Route {
    pub(super) fn read(scope: Scope<'_, '_>) -> Option<Self> {
        let fields = scope.object()?;
        for (one, many) in [("host", "hosts"), ("remote_addr", "remote_addrs")] {
            if fields.has(one) && fields.has(many) {
                fields.rule(many, format!("only one of {one} or {many} is allowed"));
            }
        }
        read_labelling(&fields);
        let route = Self {
            uris: read_uris(&fields),
            hosts: read_one_or_many(&fields, "host", "hosts", HostPattern::read),
            methods: fields.optional("methods", read_methods).unwrap_or_default(),
            remote_addrs: read_one_or_many(&fields, "remote_addr", "remote_addrs", net),
            vars: fields.optional("vars", |s| Expression::read(&s)),
            filter_func: fields.optional("filter_func", read_function),
            priority: fields.optional("priority", |s| s.integer(i64::MIN, i64::MAX)).unwrap_or(0),
            status: fields.optional("status", read_status).unwrap_or_default(),
            upstream: fields.optional("upstream", Upstream::read).map(Box::new),
            upstream_id: fields.optional("upstream_id", |s| reference("upstreams", &s)),
            service_id: fields.optional("service_id", |s| reference("services", &s)),
            plugin_config_id: fields.optional("plugin_config_id", |s| reference("plugin_configs", &s)),
            plugins: fields.optional("plugins", plugins).unwrap_or_default(),
            script: fields.optional("script", |s| Some(s.string(10, SCRIPT_CHARS_MAX)?.to_owned())),
            timeouts: fields.optional("timeout", Timeouts::read),
            enable_websocket: fields.optional("enable_websocket", |s| s.boolean()),
        };
        // A remnant that APISIX's schema still names; nothing reads it there either.
        fields.optional("script_id", |s| reference("scripts", &s));
        check_shape(&fields);
        fields.finish();
        Some(route)
    }

    pub(super) fn references(&self) -> Vec<ResourceKey> {
        let named = [&self.upstream_id, &self.service_id, &self.plugin_config_id];
        let inner = self.upstream.iter().flat_map(|upstream| upstream.references());
        named.into_iter().flatten().cloned().chain(inner).collect()
    }
}

/// The rules over several fields, worded as APISIX's schema checker words them.
fn check_shape(fields: &Fields<'_, '_>) {
    match (fields.has("uri"), fields.has("uris")) {
        (false, false) => {
            fields.wrong("allOf 1 failed: value should match only one schema, but matches none");
            return;
        }
        (true, true) => {
            fields.wrong("allOf 1 failed: value should match only one schema, but matches both schemas 1 and 2");
        }
        _ => {}
    }
    if !["plugins", "upstream", "upstream_id", "service_id", "script"].iter().any(|name| fields.has(name)) {
        let alternatives: Vec<_> = [
            ("plugins", "uri"),
            ("upstream", "uri"),
            ("upstream_id", "uri"),
            ("service_id", "uri"),
            ("plugins", "uris"),
            ("upstream", "uris"),
            ("upstream_id", "uris"),
            ("service_id", "uris"),
            ("script", "uri"),
            ("script", "uris"),
        ]
        .iter()
        .map(|(target, uri)| format!("[\"{target}\",\"{uri}\"]"))
        .collect();
        let sentence = format!("object matches none of the required: {}", alternatives.join(" or "));
        fields.problem(Problem::known_as(
            Path::default(),
            &sentence,
            fields.path.clone(),
            "one of upstream, upstream_id, service_id, plugins and script is required",
        ));
    }
    if fields.has("script") && (fields.has("plugins") || fields.has("plugin_config_id")) {
        fields.wrong("script excludes plugins and plugin_config_id");
    }
}

fn read_uris(fields: &Fields<'_, '_>) -> Vec<UriPattern> {
    let one = fields.optional("uri", |s| Some(UriPattern::parse(s.string(1, URI_CHARS_MAX)?)));
    let many = fields.optional("uris", |s| {
        s.all(s.unique_items(1)?, |item| Some(UriPattern::parse(item.string(0, URI_CHARS_MAX)?)))
    });
    one.into_iter().chain(many.unwrap_or_default()).collect()
}

fn read_one_or_many<T>(
    fields: &Fields<'_, '_>,
    one: &'static str,
    many: &'static str,
    read: impl Fn(Scope<'_, '_>) -> Option<T>,
) -> Vec<T> {
    let single = fields.optional(one, &read);
    let list = fields.optional(many, |s| s.all(s.unique_items(1)?, &read));
    single.into_iter().chain(list.unwrap_or_default()).collect()
}

fn read_methods(scope: Scope<'_, '_>) -> Option<MethodSet> {
    let methods = scope.all(scope.unique_items(0)?, |item| item.one_of(&METHODS))?;
    Some(methods.into_iter().fold(MethodSet::default(), MethodSet::with))
}

fn read_function(scope: Scope<'_, '_>) -> Option<String> {
    let text = scope.string(10, usize::MAX)?;
    scope.pattern(text, "^function", |text| text.starts_with("function")).map(str::to_owned)
}

fn read_status(scope: Scope<'_, '_>) -> Option<RouteStatus> {
    match scope.value.as_i64() {
        Some(1) => Some(RouteStatus::Enabled),
        Some(0) => Some(RouteStatus::Disabled),
        _ => {
            let message = "matches none of the enum values";
            let full = format!("{message}: 1 (enabled), 0 (disabled)");
            scope.problem(Problem::known_as(scope.path.clone(), message, scope.path.clone(), full));
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::scope::check;
    use super::*;

    fn upstream() -> Value {
        json!({"type": "roundrobin", "nodes": {"127.0.0.1:18080": 1}})
    }

    #[test]
    fn every_field_is_read() {
        let body = json!({
            "name": "n", "desc": "d", "labels": {"a b": "c"}, "uris": ["/a", "/b/*", "/c/:id/d"], "hosts": ["A.com", "*.b.com"],
            "methods": ["GET", "PURGE"], "remote_addrs": ["127.0.0.0/8", "::1"], "vars": [["arg_a", "==", "1"]],
            "filter_func": "function(vars) return true end", "priority": -5, "status": 0, "upstream_id": "u1",
            "service_id": 3, "plugin_config_id": "p", "plugins": {}, "timeout": {"connect": 1, "send": 2, "read": 3},
            "enable_websocket": true,
        });
        let route = check(&body, Route::read).unwrap();
        assert_eq!(route.uris[1], UriPattern::Prefix("/b/".into()));
        assert_eq!(route.hosts, [HostPattern::Exact("a.com".into()), HostPattern::Suffix(".b.com".into())]);
        assert!(route.methods.takes(Some(Method::Purge)) && !route.methods.takes(Some(Method::Post)));
        assert!(!route.methods.takes(None) && MethodSet::default().takes(None));
        let get = MethodSet::default().with(Method::Get);
        assert!(route.methods.includes(get) && !get.includes(route.methods));
        assert!(MethodSet::default().includes(get) && !get.includes(MethodSet::default()));
        assert_eq!(route.remote_addrs.len(), 2);
        assert_eq!((route.priority, route.status), (-5, RouteStatus::Disabled));
        let mut references = route.references();
        references.sort();
        let expected = [("plugin_configs", "p"), ("services", "3"), ("upstreams", "u1")];
        assert_eq!(references, expected.map(|(kind, id)| ResourceKey::new(kind, id)));
    }

    #[test]
    fn what_is_wrong_is_told_as_apisix_tells_it() {
        let with = |field: &str, value: Value| {
            let mut body = json!({"uri": "/x", "upstream": upstream()});
            body[field] = value;
            body
        };
        let one_of = "invalid configuration: allOf 1 failed: value should match only one schema, but matches";
        for (body, summary) in [
            (json!({}), format!("{one_of} none")),
            (json!({"upstream": upstream()}), format!("{one_of} none")),
            (with("uris", json!(["/y"])), format!("{one_of} both schemas 1 and 2")),
            (json!({"uri": "/x"}), "invalid configuration: object matches none of the required: [\"plugins\",\"uri\"] or [\"upstream\",\"uri\"] or [\"upstream_id\",\"uri\"] or [\"service_id\",\"uri\"] or [\"plugins\",\"uris\"] or [\"upstream\",\"uris\"] or [\"upstream_id\",\"uris\"] or [\"service_id\",\"uris\"] or [\"script\",\"uri\"] or [\"script\",\"uris\"]".into()),
            (with("uri", json!("")), "invalid configuration: property \"uri\" validation failed: string too short, expected at least 1, got 0".into()),
            (with("uri", json!(1)), "invalid configuration: property \"uri\" validation failed: wrong type: expected string, got number".into()),
            (json!({"uris": [], "upstream": upstream()}), "invalid configuration: property \"uris\" validation failed: expect array to have at least 1 items".into()),
            (with("methods", json!(["FOO"])), "invalid configuration: property \"methods\" validation failed: failed to validate item 1: matches none of the enum values".into()),
            (with("host", json!("a b")), "invalid configuration: property \"host\" validation failed: failed to match pattern \"^\\\\*$|^\\\\*?[0-9a-zA-Z-._\\\\[\\\\]:]+$\" with \"a b\"".into()),
            (with("host", json!("a.*.com")), "invalid configuration: property \"host\" validation failed: failed to match pattern \"^\\\\*$|^\\\\*?[0-9a-zA-Z-._\\\\[\\\\]:]+$\" with \"a.*.com\"".into()),
            (json!({"uri": "/x", "host": "a.com", "hosts": ["b.com"], "upstream": upstream()}), "only one of host or hosts is allowed".into()),
            (with("remote_addr", json!("300.1.1.1")), "invalid configuration: property \"remote_addr\" validation failed: object matches none of the required".into()),
            (with("vars", json!("x")), "invalid configuration: property \"vars\" validation failed: wrong type: expected array, got string".into()),
            (with("filter_func", json!("function(")), "invalid configuration: property \"filter_func\" validation failed: string too short, expected at least 10, got 9".into()),
            (with("status", json!(2)), "invalid configuration: property \"status\" validation failed: matches none of the enum values".into()),
            (with("priority", json!("1")), "invalid configuration: property \"priority\" validation failed: wrong type: expected integer, got string".into()),
            (with("desc", json!("d".repeat(300))), "invalid configuration: property \"desc\" validation failed: string too long, expected at most 256, got 300".into()),
            (with("timeout", json!({"connect": 1, "send": 1})), "invalid configuration: property \"timeout\" validation failed: property \"read\" is required".into()),
            (with("nosuch", json!(1)), "invalid configuration: additional properties forbidden, found nosuch".into()),
            (with("labels", json!({"a": "c d"})), "invalid configuration: property \"labels\" validation failed: failed to validate a (matching \".*\"): failed to match pattern \"^\\\\S+$\" with \"c d\"".into()),
            (with("script", json!("return 1")), "invalid configuration: property \"script\" validation failed: string too short, expected at least 10, got 8".into()),
            (with("enable_websocket", json!("yes")), "invalid configuration: property \"enable_websocket\" validation failed: wrong type: expected boolean, got string".into()),
            (with("upstream", json!({})), "invalid configuration: property \"upstream\" validation failed: value should match only one schema, but matches none".into()),
        ] {
            assert_eq!(check(&body, Route::read).unwrap_err().summary(), summary, "{body}");
        }
    }

    #[test]
    fn what_apisix_takes_is_taken() {
        for body in [
            json!({"uri": "x", "upstream": upstream()}),
            json!({"uri": "/x", "methods": [], "upstream": upstream()}),
            json!({"uri": "/x", "name": "n".repeat(101), "upstream": upstream()}),
            json!({"uri": "/x", "labels": {"a b": "c"}, "upstream": upstream()}),
            json!({"uri": "/x", "upstream": upstream(), "upstream_id": "u1"}),
            json!({"uri": "/x", "host": "*", "upstream": upstream()}),
            json!({"uri": "/x", "priority": 1.0, "upstream": upstream()}),
        ] {
            assert!(check(&body, Route::read).is_ok(), "{body}");
        }
    }
}
