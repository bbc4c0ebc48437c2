//! All plugins, and what admission asks of them.

use protocol::Text;
use protocol::report::{Path, Problem, Report};
use protocol::resource::{Checked, PluginCatalog, PluginMarks, PluginRole, check_around_references};
use serde_json::Value;

use super::chain::Instance;
use super::metadata::Metadata;
use super::plugin::{Destination, Plugin};
use super::{
    api_breaker, basic_auth, client_control, consumer_restriction, cors, csrf, fault_injection, forward_auth, gzip,
    hmac_auth, ip_restriction, jwt_auth, key_auth, limit_conn, limit_count, limit_req, mocking, prometheus,
    proxy_rewrite, real_ip, redirect, referer_restriction, request_id, request_validation, response_rewrite,
    traffic_split, ua_restriction, uri_blocker, workflow,
};

/// Every plugin, sorted by name.
pub static PLUGINS: [&Plugin; 29] = [
    &api_breaker::PLUGIN,
    &basic_auth::PLUGIN,
    &client_control::PLUGIN,
    &consumer_restriction::PLUGIN,
    &cors::PLUGIN,
    &csrf::PLUGIN,
    &fault_injection::PLUGIN,
    &forward_auth::PLUGIN,
    &gzip::PLUGIN,
    &hmac_auth::PLUGIN,
    &ip_restriction::PLUGIN,
    &jwt_auth::PLUGIN,
    &key_auth::PLUGIN,
    &limit_conn::PLUGIN,
    &limit_count::PLUGIN,
    &limit_req::PLUGIN,
    &mocking::PLUGIN,
    &prometheus::PLUGIN,
    &proxy_rewrite::PLUGIN,
    &real_ip::PLUGIN,
    &redirect::PLUGIN,
    &referer_restriction::PLUGIN,
    &request_id::PLUGIN,
    &request_validation::PLUGIN,
    &response_rewrite::PLUGIN,
    &traffic_split::PLUGIN,
    &ua_restriction::PLUGIN,
    &uri_blocker::PLUGIN,
    &workflow::PLUGIN,
];

/// The plugins of this build, as admission asks for them.
pub static CATALOG: Catalog = Catalog;

/// See [`CATALOG`].
#[derive(Clone, Copy, Debug)]
pub struct Catalog;

/// The plugin of that name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Plugin> {
    PLUGINS.binary_search_by(|plugin| plugin.name.cmp(name)).ok().map(|at| PLUGINS[at])
}

/// What is said of a plugin that there is not.
pub(crate) fn unknown(name: &str) -> Report {
    Report::of(Problem::rule(Path::default(), format!("unknown plugin [{name}]")))
}

impl PluginCatalog for Catalog {
    fn marks(&self, name: &str, role: PluginRole) -> Option<PluginMarks> {
        let plugin = find(name)?;
        match role {
            PluginRole::Consumer => plugin.consumer_marks(),
            PluginRole::Traffic => Some(PluginMarks { secrets: plugin.secrets, ..PluginMarks::default() }),
            PluginRole::Metadata => Some(PluginMarks::default()),
            // No plugin is run on streams.
            PluginRole::Stream => None,
        }
    }

    fn check(&self, name: &str, role: PluginRole, configuration: &Value) -> Result<Checked, Report> {
        let plugin = find(name).ok_or_else(|| unknown(name))?;
        let mut references = Vec::new();
        let schema = match role {
            PluginRole::Traffic => {
                let read = Instance::read(plugin, Text::default(), configuration, configuration);
                let destinations = read.as_ref().map_or(&[][..], |instance| instance.behaviour().destinations());
                references = destinations.iter().flat_map(Destination::references).collect();
                check_around_references(configuration, read)?;
                Some(plugin.schema())
            }
            PluginRole::Consumer => {
                // A token stands for a secret that was checked before it was sealed.
                if !holds_tokens(plugin, configuration) {
                    check_around_references(configuration, plugin.credential(configuration))?;
                }
                plugin.consumer_schema()
            }
            PluginRole::Stream => return Err(unknown(name)),
            PluginRole::Metadata => {
                Metadata::read(name, configuration)?;
                plugin.metadata_schema()
            }
        };
        let warnings = match schema {
            Some(schema) => unknown_fields(&schema, configuration),
            None => vec![format!("the metadata of {name} is stored, and the plugin reads none")],
        };
        Ok(Checked { warnings, references })
    }
}

fn secrets<'v>(plugin: &Plugin, configuration: &'v Value) -> impl Iterator<Item = (&'static str, &'v str)> {
    let fields = plugin.auth.as_ref().map_or(&[][..], |auth| auth.secrets);
    fields.iter().filter_map(|field| Some((*field, configuration.get(field)?.as_str()?)))
}

fn holds_tokens(plugin: &Plugin, configuration: &Value) -> bool {
    secrets(plugin, configuration).any(|(_, text)| text.starts_with(protocol::seal::PREFIX))
}

/// Fields that no plugin reads. APISIX takes them in silence.
fn unknown_fields(schema: &Value, configuration: &Value) -> Vec<String> {
    let known = |name: &str| schema["properties"].get(name).is_some();
    let names = configuration.as_object().into_iter().flat_map(|fields| fields.keys());
    names.filter(|name| !known(name)).map(|name| format!("the field {name:?} is stored, and has no effect")).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_list_is_sorted_and_found_by_name() {
        assert!(PLUGINS.is_sorted_by(|a, b| a.name < b.name));
        assert!(PLUGINS.iter().all(|plugin| find(plugin.name).is_some_and(|found| std::ptr::eq(found, *plugin))));
        assert!(find("nosuch").is_none());
    }

    #[test]
    fn schemas_are_schemas() {
        for plugin in PLUGINS {
            assert!(jsonschema::meta::is_valid(&plugin.schema()), "{}", plugin.name);
            assert!(
                plugin.consumer_schema().is_none_or(|schema| jsonschema::meta::is_valid(&schema)),
                "{}",
                plugin.name
            );
        }
    }

    /// Bodies of every plugin with what is said of them; `None`: they are good, for the schema too.
    #[test]
    fn configurations() {
        let one = "value should match only one schema, but matches none";
        for (name, configuration, said) in [
            ("key-auth", json!({}), None),
            ("key-auth", json!({"header": "k", "query": "q", "hide_credentials": true, "realm": "r"}), None),
            (
                "key-auth",
                json!({"header": 1}),
                Some("property \"header\" validation failed: wrong type: expected string, got number"),
            ),
            (
                "key-auth",
                json!({"_meta": {"bad": 1}}),
                Some("property \"_meta\" validation failed: additional properties forbidden, found bad"),
            ),
            ("basic-auth", json!({"anonymous_consumer": "a"}), None),
            ("prometheus", json!({"prefer_name": true}), Some("prefer_name is not served")),
            ("limit-req", json!({"rate": 1.5, "burst": 0, "key": "remote_addr"}), None),
            (
                "limit-req",
                json!({"rate": 0, "burst": 0, "key": "a"}),
                Some("property \"rate\" validation failed: expected 0 to be greater than 0"),
            ),
            ("limit-req", json!({"rate": 1, "burst": 0}), Some("property \"key\" is required")),
            ("limit-conn", json!({"conn": 1, "burst": 0, "default_conn_delay": 0.1, "key": "remote_addr"}), None),
            (
                "limit-conn",
                json!({"conn": 1, "burst": 0, "key": "remote_addr"}),
                Some("property \"default_conn_delay\" is required"),
            ),
            ("fault-injection", json!({"abort": {"http_status": 500, "vars": [[["arg_a", "==", "1"]]]}}), None),
            ("fault-injection", json!({}), Some("expect object to have at least 1 properties")),
            (
                "fault-injection",
                json!({"abort": {"http_status": 200, "headers": {"Content-Length": "1"}}}),
                Some("the header content-length is the proxy's own"),
            ),
            (
                "fault-injection",
                json!({"delay": {"duration": -1}}),
                Some(
                    "property \"delay\" validation failed: property \"duration\" validation failed: expected -1 to be at least 0",
                ),
            ),
            ("mocking", json!({"response_example": "x", "response_status": 404}), None),
            ("mocking", json!({"response_schema": {}}), Some("response_schema is not served")),
            ("uri-blocker", json!({"block_rules": ["a+"], "rejected_code": 404}), None),
            ("uri-blocker", json!({"block_rules": ["("]}), Some("a pattern cannot be compiled")),
            (
                "ua-restriction",
                json!({"allowlist": ["a"], "denylist": ["b"]}),
                Some("value should match only one schema, but matches both schemas 1 and 2"),
            ),
            ("referer-restriction", json!({"whitelist": ["*.a.com"]}), None),
            ("referer-restriction", json!({}), Some(one)),
            (
                "api-breaker",
                json!({"break_response_code": 502, "unhealthy": {"http_statuses": [503], "failures": 1}}),
                None,
            ),
            (
                "api-breaker",
                json!({"break_response_code": 502, "unhealthy": {"http_statuses": [404]}}),
                Some(
                    "property \"unhealthy\" validation failed: property \"http_statuses\" validation failed: failed to validate item 1: expected 404 to be at least 500",
                ),
            ),
            ("jwt-auth", json!({"key_claim_name": "iss", "claims_to_verify": ["exp"]}), None),
            ("limit-count", json!({}), Some(one)),
            ("limit-count", json!({"count": "a"}), Some(one)),
            ("limit-count", json!({"count": 1, "time_window": 60, "key_type": "constant", "key": "x"}), None),
            (
                "limit-count",
                json!({"count": 1, "time_window": 0}),
                Some(
                    "property \"time_window\" validation failed: value should match only one schema, but matches none",
                ),
            ),
            (
                "limit-count",
                json!({"count": 1, "time_window": 1, "policy": "redis", "redis_host": "h"}),
                Some("policy is not served by this version of holdfast but for \"local\""),
            ),
            (
                "limit-count",
                json!({"count": 1, "time_window": 1, "key": "nosuch"}),
                Some("the variable \"nosuch\" is not served by this version of holdfast"),
            ),
            ("ip-restriction", json!({"whitelist": ["127.0.0.0/8", "::1"]}), None),
            ("ip-restriction", json!({}), Some(one)),
            (
                "ip-restriction",
                json!({"whitelist": ["x"]}),
                Some(
                    "property \"whitelist\" validation failed: failed to validate item 1: object matches none of the required",
                ),
            ),
            ("consumer-restriction", json!({"whitelist": ["jack"]}), None),
            (
                "consumer-restriction",
                json!({}),
                Some(
                    "object matches none of the required: [\"blacklist\"] or [\"whitelist\"] or [\"allowed_by_methods\"]",
                ),
            ),
            ("cors", json!({}), None),
            (
                "cors",
                json!({"allow_credential": true}),
                Some("you can not set '*' for other option when 'allow_credential' is true"),
            ),
            ("cors", json!({"allow_origins_by_regex": ["("]}), Some("the pattern \"(\" cannot be compiled")),
            ("redirect", json!({"http_to_https": true}), None),
            ("redirect", json!({"regex_uri": ["^/a/(.*)", "/b/$1"]}), None),
            ("redirect", json!({}), Some(one)),
            ("redirect", json!({"regex_uri": ["(", "/"]}), Some("the pattern \"(\" cannot be compiled")),
            ("proxy-rewrite", json!({}), None),
            (
                "proxy-rewrite",
                json!({"uri": "/x/$arg_a", "method": "PUT", "host": "a.b:80", "headers": {"set": {"X-A": "1"}}}),
                None,
            ),
            (
                "proxy-rewrite",
                json!({"uri": "x"}),
                Some("property \"uri\" validation failed: failed to match pattern \"^\\\\/.*\" with \"x\""),
            ),
            (
                "proxy-rewrite",
                json!({"use_real_request_uri_unsafe": true}),
                Some("use_real_request_uri_unsafe is not served by this version of holdfast"),
            ),
            (
                "traffic-split",
                json!({"rules": [{"match": [{"vars": [["arg_a", "==", "1"]]}], "weighted_upstreams": [
                    {"upstream": {"type": "roundrobin", "nodes": {"a:1": 1}}, "weight": 3}, {"upstream_id": "u"}, {},
                ]}]}),
                None,
            ),
            (
                "traffic-split",
                json!({"rules": [{"weighted_upstreams": [{"upstream": {"nodes": {"a:1": 1}, "scheme": "tcp"}}]}]}),
                Some("a route speaks http, https, grpc or grpcs to its nodes"),
            ),
            ("traffic-split", json!({"rules": [{"match": [{}]}]}), Some("failed to validate the 'vars' expression")),
            (
                "traffic-split",
                json!({"rules": [{"weighted_upstreams": []}]}),
                Some(
                    "property \"rules\" validation failed: failed to validate item 1: property \"weighted_upstreams\" validation failed: expect array to have at least 1 items",
                ),
            ),
            ("csrf", json!({"key": "k", "expires": 0, "name": "X-Token"}), None),
            ("csrf", json!({}), Some("property \"key\" is required")),
            ("real-ip", json!({"source": "http_x_real_ip", "trusted_addresses": ["10.0.0.0/8", "::1"]}), None),
            ("real-ip", json!({"source": "nosuch"}), Some("the variable \"nosuch\" is not served")),
            ("client-control", json!({"max_body_size": 0}), None),
            (
                "client-control",
                json!({"max_body_size": -1}),
                Some("property \"max_body_size\" validation failed: expected -1 to be at least 0"),
            ),
            ("hmac-auth", json!({"signed_headers": ["date", "x-a"], "validate_request_body": true}), None),
            (
                "hmac-auth",
                json!({"clock_skew": 0}),
                Some("property \"clock_skew\" validation failed: expected 0 to be at least 1"),
            ),
            ("gzip", json!({"types": "*", "http_version": 1.0, "buffers": {"number": 4, "size": 8192}}), None),
            (
                "gzip",
                json!({"comp_level": 10}),
                Some("property \"comp_level\" validation failed: expected 10 to be at most 9"),
            ),
            (
                "gzip",
                json!({"types": []}),
                Some("property \"types\" validation failed: expect array to have at least 1"),
            ),
            (
                "forward-auth",
                json!({"uri": "http://127.0.0.1:1/auth", "request_headers": ["A"], "client_headers": {}}),
                None,
            ),
            (
                "forward-auth",
                json!({"uri": "auth.example"}),
                Some("property \"uri\" validation failed: it is no http or https URI with a host"),
            ),
            (
                "workflow",
                json!({"rules": [{"case": [["uri", "==", "/"]], "actions": [["return", {"code": 403}]]}]}),
                None,
            ),
            (
                "workflow",
                json!({"rules": [{"actions": [["limit-count", {"count": 1, "time_window": 0}]]}]}),
                Some("property \"rules\" validation failed: failed to validate item 1: property \"actions\""),
            ),
            ("workflow", json!({"rules": [{"actions": [["fake", {}]]}]}), Some("unsupported action: fake")),
            ("request-validation", json!({"body_schema": {"type": "object"}, "rejected_code": 422}), None),
            ("request-validation", json!({}), Some("object matches none of the required")),
            (
                "request-validation",
                json!({"header_schema": {"type": "nosuch"}}),
                Some("property \"header_schema\" validation failed: it is no JSON Schema"),
            ),
            ("response-rewrite", json!({"status_code": 418, "body": "x", "headers": {"add": ["A: b"]}}), None),
            ("response-rewrite", json!({"body": "?", "body_base64": true}), Some("invalid base64 content")),
            ("request-id", json!({"algorithm": "nanoid"}), None),
            ("request-id", json!({"header_name": "a b"}), Some("\"a b\" is no name of a header")),
        ] {
            let checked = CATALOG.check(name, PluginRole::Traffic, &configuration);
            let found = checked
                .as_ref()
                .err()
                .map(|report| report.summary().trim_start_matches("invalid configuration: ").to_owned());
            match (said, &found) {
                (Some(said), Some(found)) => assert!(found.starts_with(said), "{name} {configuration}: {found}"),
                _ => assert_eq!(found.as_deref(), said, "{name} {configuration}"),
            }
            if said.is_none() {
                let schema = find(name).map(Plugin::schema).unwrap_or_default();
                assert!(jsonschema::is_valid(&schema, &configuration), "{name} {configuration}");
            }
        }
    }

    #[test]
    fn configurations_of_consumers() {
        for (name, configuration, said) in [
            ("key-auth", json!({"key": "k"}), None),
            ("key-auth", json!({}), Some("property \"key\" is required")),
            ("key-auth", json!({"key": "$env://KEY"}), None),
            ("key-auth", json!({"key": "$secret://vault/1/a"}), Some("a reference to a secret is $secret://")),
            ("jwt-auth", json!({"key": "k", "public_key": "$env://KEY", "algorithm": "RS256"}), None),
            ("basic-auth", json!({"username": "u"}), Some("property \"password\" is required")),
            ("jwt-auth", json!({"key": "k"}), Some("property \"secret\" is required when using HS based algorithms")),
            ("jwt-auth", json!({"key": "k", "secret": "s", "algorithm": "HS512"}), None),
            (
                "jwt-auth",
                json!({"key": "k", "public_key": "p", "algorithm": "RS256"}),
                Some("public_key: it is no PEM text of a public key"),
            ),
            ("hmac-auth", json!({"key_id": "k", "secret_key": "s"}), None),
            ("hmac-auth", json!({"key_id": "k"}), Some("property \"secret_key\" is required")),
            ("cors", json!({}), Some("the plugin does not authenticate")),
        ] {
            let checked = CATALOG.check(name, PluginRole::Consumer, &configuration);
            let found = checked
                .as_ref()
                .err()
                .map(|report| report.summary().trim_start_matches("invalid configuration: ").to_owned());
            match (said, &found) {
                (Some(said), Some(found)) => assert!(found.starts_with(said), "{name} {configuration}: {found}"),
                _ => assert_eq!(found.as_deref(), said, "{name} {configuration}"),
            }
        }
    }

    #[test]
    fn metadata_is_checked_where_a_plugin_reads_any() {
        let said = |name: &str, body: Value| {
            let checked = CATALOG.check(name, PluginRole::Metadata, &body);
            checked.map(|checked| checked.warnings).map_err(|report| report.summary().to_owned())
        };
        assert_eq!(said("limit-count", json!({"limit_header": "X-L"})), Ok(Vec::new()));
        assert!(said("limit-count", json!({"limit_header": "a b"})).is_err());
        assert!(said("cors", json!({"allow_origins": {"a": "no origin"}})).is_err());
        assert_eq!(said("cors", json!({"x": 1})), Ok(vec!["the field \"x\" is stored, and has no effect".to_owned()]));
        assert_eq!(
            said("key-auth", json!({"x": 1})),
            Ok(vec!["the metadata of key-auth is stored, and the plugin reads none".to_owned()])
        );
        for plugin in PLUGINS {
            assert!(
                plugin.metadata_schema().is_none_or(|schema| jsonschema::meta::is_valid(&schema)),
                "{}",
                plugin.name
            );
        }
    }

    #[test]
    fn what_nobody_reads_is_said() {
        let said = CATALOG.check("key-auth", PluginRole::Traffic, &json!({"nosuch": 1, "header": "k"})).unwrap();
        assert_eq!(said.warnings, ["the field \"nosuch\" is stored, and has no effect"]);
    }
}
