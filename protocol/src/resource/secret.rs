//! Which fields of a body are secrets: they are sealed before anything is proposed, and not shown again.

use serde_json::Value;

use crate::report::Path;

/// Every secret in a body of this kind, with its place.
pub fn secrets<'v>(kind: &str, body: &'v mut Value) -> Vec<(Path, &'v mut Value)> {
    let mut found = Vec::new();
    let Some(members) = body.as_object_mut() else { return found };
    if kind != "ssls" {
        return found;
    }
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
    found
}

/// Whether bodies of this kind may hold a secret.
#[must_use]
pub fn has_secrets(kind: &str) -> bool {
    kind == "ssls"
}

/// A body without what reads never show, not even sealed: private keys of ssls, as APISIX has it.
pub fn conceal(kind: &str, body: &mut Value) {
    if let Some(members) = body.as_object_mut().filter(|_| kind == "ssls") {
        members.remove("key");
        members.remove("keys");
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn every_key_of_an_ssl_is_found() {
        let mut body = json!({"cert": "c", "key": "k", "keys": ["a", "b"], "sni": "x"});
        let mut found: Vec<_> =
            secrets("ssls", &mut body).into_iter().map(|(path, value)| format!("{path}={value}")).collect();
        found.sort();
        assert_eq!(found, ["$.key=\"k\"", "$.keys[0]=\"a\"", "$.keys[1]=\"b\""]);
        assert!(secrets("routes", &mut body).is_empty());
        conceal("ssls", &mut body);
        assert_eq!(body, json!({"cert": "c", "sni": "x"}));
    }
}
