//! Which fields of a body are secrets: they are sealed before anything is proposed, and not shown to everybody.

use serde_json::Value;

use super::{PluginCatalog, SecretReference, plugin_place, plugin_role};
use crate::report::Path;

/// Every secret in a body of this kind, with its place. A reference to one that is kept elsewhere is none.
pub fn secrets<'v>(catalog: &dyn PluginCatalog, kind: &str, body: &'v mut Value) -> Vec<(Path, &'v mut Value)> {
    let mut found = places(catalog, kind, body);
    found.retain(|(_, value)| !value.as_str().is_some_and(SecretReference::is_meant));
    found
}

fn places<'v>(catalog: &dyn PluginCatalog, kind: &str, body: &'v mut Value) -> Vec<(Path, &'v mut Value)> {
    let mut found = Vec::new();
    let Some(members) = body.as_object_mut() else { return found };
    if kind == "secrets" {
        for (name, value) in members {
            let path = Path::default().property(name);
            match (name.as_str(), value) {
                ("token" | "secret_access_key" | "session_token", value) => found.push((path, value)),
                ("auth_config", Value::Object(inner)) => {
                    let key = inner.get_mut("private_key");
                    found.extend(key.map(|value| (path.property("private_key"), value)));
                }
                _ => {}
            }
        }
        return found;
    }
    if kind == "ssls" {
        for (name, value) in members {
            let path = Path::default().property(name);
            match (name.as_str(), value) {
                ("key", value) => found.push((path, value)),
                ("keys", Value::Array(items)) => {
                    found.extend(items.iter_mut().enumerate().map(|(i, item)| (path.item(i), item)));
                }
                _ => {}
            }
        }
        return found;
    }
    let plugins = members.get_mut("plugins").and_then(Value::as_object_mut);
    for (name, configuration) in plugins.into_iter().flatten() {
        let Some(marks) = catalog.marks(name, plugin_role(catalog, kind, name)) else { continue };
        let Some(fields) = configuration.as_object_mut() else { continue };
        for (field, value) in fields.iter_mut().filter(|(field, _)| marks.secrets.contains(&field.as_str())) {
            found.push((plugin_place(name).property(field), value));
        }
    }
    found
}

/// Every value of a body that no other resource may have, with the plugin that it is for. Secrets must have been opened.
#[must_use]
pub fn uniques(catalog: &dyn PluginCatalog, kind: &str, body: &Value) -> Vec<(String, String)> {
    let plugins = body.get("plugins").and_then(Value::as_object);
    let unique = |(name, configuration): (&String, &Value)| {
        let field = catalog.marks(name, plugin_role(catalog, kind, name))?.unique?;
        Some((name.clone(), configuration.get(field)?.as_str()?.to_owned()))
    };
    plugins.into_iter().flatten().filter_map(unique).collect()
}

/// A body without what no read shows, not even sealed: private keys of ssls, as APISIX has it.
pub fn conceal(kind: &str, body: &mut Value) {
    if let Some(members) = body.as_object_mut().filter(|_| kind == "ssls") {
        members.remove("key");
        members.remove("keys");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{Checked, NoPlugins, PluginMarks, PluginRole};
    use super::*;
    use crate::Report;

    /// One plugin, `lock`, whose `code` is secret and unique in a consumer.
    struct Lock;

    impl PluginCatalog for Lock {
        fn marks(&self, name: &str, role: PluginRole) -> Option<PluginMarks> {
            let of_consumer = PluginMarks { authenticates: true, secrets: &["code"], unique: Some("code") };
            (name == "lock").then_some(if role == PluginRole::Consumer { of_consumer } else { PluginMarks::default() })
        }

        fn check(&self, _: &str, _: PluginRole, _: &Value) -> Result<Checked, Report> {
            Ok(Checked::default())
        }
    }

    fn found(catalog: &dyn PluginCatalog, kind: &str, body: &Value) -> Vec<String> {
        let mut body = body.clone();
        let show = |(path, value): (Path, &mut Value)| format!("{path}={value}");
        let mut found: Vec<_> = secrets(catalog, kind, &mut body).into_iter().map(show).collect();
        found.sort();
        found
    }

    #[test]
    fn every_key_of_an_ssl_is_found() {
        let mut body = json!({"cert": "c", "key": "k", "keys": ["a", "b"], "sni": "x"});
        let expected = ["$.key=\"k\"", "$.keys[0]=\"a\"", "$.keys[1]=\"b\""];
        assert_eq!(found(&NoPlugins, "ssls", &body), expected);
        assert!(found(&NoPlugins, "routes", &body).is_empty());
        conceal("ssls", &mut body);
        assert_eq!(body, json!({"cert": "c", "sni": "x"}));
    }

    #[test]
    fn what_a_plugin_marks_is_found_where_it_stands_in_that_role() {
        let body = json!({"plugins": {"lock": {"code": "7", "realm": "r"}, "nosuch": {"code": "7"}}});
        assert_eq!(found(&Lock, "consumers", &body), ["$.plugins.lock.code=\"7\""]);
        assert_eq!(uniques(&Lock, "consumers", &body), [("lock".to_owned(), "7".to_owned())]);
        assert!(found(&Lock, "routes", &body).is_empty(), "on a route it has another configuration");
        let elsewhere = json!({"plugins": {"lock": {"code": "$env://CODE"}}});
        assert!(found(&Lock, "consumers", &elsewhere).is_empty(), "a reference is no secret");
    }
}
