//! How resources and refusals look to a client.

use protocol::entry::{Entry, UnixMillis};
use protocol::resource::{GLOBAL_PLUGINS, IdRule, KindInfo};
use protocol::{Rejection, ResourceKey};
use serde_json::json;

use super::answer::singular;
use super::secrets::View;

/// The key as APISIX writes it: `/apisix/routes/1`, `/apisix/consumers/jack/credentials/c1`.
pub(super) fn key_path(key: &ResourceKey) -> String {
    match (key.kind.as_str(), key.id.split_once('/')) {
        ("credentials", Some((consumer, id))) => format!("/apisix/consumers/{consumer}/credentials/{id}"),
        (kind, _) => format!("/apisix/{kind}/{}", key.id),
    }
}

/// The value as a client sees it: the user's fields, the id, and the times in seconds.
///
/// The body is canonical JSON of an object, so the rest can be put behind its opening brace as text.
pub(super) fn value(key: &ResourceKey, body: &str, created: UnixMillis, modified: UnixMillis) -> String {
    let mut parts = Vec::with_capacity(3);
    // A consumer is named by its own field `username`.
    if key.kind.as_str() != "consumers" {
        // A credential's consumer stands in its path; a secret manager is called by both parts, as in APISIX.
        let own = if key.kind.as_str() == "credentials" { key.id.rsplit('/').next() } else { None };
        parts.push(format!("\"id\":{}", json!(own.unwrap_or(&key.id))));
    }
    if key.kind.as_str() != "plugin_metadata" {
        parts.push(format!("\"create_time\":{},\"update_time\":{}", created / 1000, modified / 1000));
    }
    let fields = body.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or_default();
    if !fields.is_empty() {
        parts.push(fields.to_owned());
    }
    format!("{{{}}}", parts.join(","))
}

/// What a write is answered.
pub(super) fn written(key: &ResourceKey, body: &str, created: UnixMillis, modified: UnixMillis) -> String {
    format!("{{\"key\":{},\"value\":{}}}", json!(key_path(key)), value(key, body, created, modified))
}

/// What a read is answered, and an item of a list.
pub(super) fn item(view: View<'_>, key: &ResourceKey, entry: &Entry) -> String {
    format!(
        "{{\"key\":{},\"value\":{},\"createdIndex\":{},\"modifiedIndex\":{}}}",
        json!(key_path(key)),
        value(key, &view.of(key, &entry.body), entry.created.time, entry.modified.time),
        entry.created.revision,
        entry.modified.revision
    )
}

/// What a delete is answered.
pub(super) fn deleted(key: &ResourceKey) -> String {
    json!({ "key": key_path(key), "deleted": "1" }).to_string()
}

/// A refusal in APISIX's words where it has any.
pub(super) fn error_words(rejection: &Rejection) -> String {
    match rejection {
        Rejection::MissingReference { to, .. } => {
            let what = singular(to);
            format!("failed to fetch {what} info by {what} id [{}], response code: 404", to.id)
        }
        Rejection::StillReferenced { key, by } => {
            let directly = if key.kind.as_str() == "services" { " directly" } else { "" };
            // These kinds name an upstream in their plugins alone, and have names of their own in APISIX's sentence.
            let by_name = match by.kind.as_str() {
                "consumer_groups" => "plugin in consumer_group",
                "consumers" if key.kind.as_str() == "upstreams" => "plugin in consumer",
                "global_rules" => "plugin in global_rules",
                "plugin_configs" => "plugin in plugin_config",
                _ => singular(by),
            };
            format!("can not delete this {}{directly}, {by_name} [{}] is still using it now", singular(key), by.id)
        }
        Rejection::Claimed { space, by, .. } => match space.strip_prefix(GLOBAL_PLUGINS) {
            Some(plugin) => format!("plugin '{plugin}' already exists in global rule with id '{}'", by.id),
            None => {
                let holder = match by.id.split_once('/') {
                    Some((consumer, id)) => format!("credential: {id} of consumer: {consumer}"),
                    None => format!("{}: {}", singular(by), by.id),
                };
                format!("duplicate key of plugin {space} found with {holder}")
            }
        },
        other => other.to_string(),
    }
}

/// The kind's list when there is nothing to show.
pub(super) fn list(items: &[String], total: usize) -> String {
    let mut text = String::with_capacity(32 + items.iter().map(|item| item.len() + 1).sum::<usize>());
    text.push_str("{\"list\":[");
    for (i, item) in items.iter().enumerate() {
        if i > 0 {
            text.push(',');
        }
        text.push_str(item);
    }
    text.push_str(&format!("],\"total\":{total}}}"));
    text
}

/// `missing route id` and its like.
pub(super) fn missing_id(kind: &KindInfo) -> String {
    if kind.id_rule == IdRule::Plugin {
        return "missing plugin name".to_owned();
    }
    format!("missing {} id", kind.singular)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_carry_id_and_times() {
        let key = ResourceKey::new("routes", "r1");
        assert_eq!(
            value(&key, r#"{"uri":"/a"}"#, 1_795_348_103_999, 1_795_348_104_000),
            r#"{"id":"r1","create_time":1795348103,"update_time":1795348104,"uri":"/a"}"#
        );
        assert_eq!(value(&key, "{}", 1000, 2000), r#"{"id":"r1","create_time":1,"update_time":2}"#);
        assert_eq!(value(&ResourceKey::new("plugin_metadata", "p"), "{}", 0, 0), r#"{"id":"p"}"#);
        assert_eq!(value(&ResourceKey::new("plugin_metadata", "p"), r#"{"a":1}"#, 0, 0), r#"{"id":"p","a":1}"#);
        let credential = ResourceKey::new("credentials", "jack/c1");
        assert_eq!(key_path(&credential), "/apisix/consumers/jack/credentials/c1");
        assert!(value(&credential, "{}", 0, 0).starts_with(r#"{"id":"c1","#));
    }

    #[test]
    fn refusals_are_in_apisixs_words() {
        let (route, upstream) = (ResourceKey::new("routes", "r1"), ResourceKey::new("upstreams", "u1"));
        let service = ResourceKey::new("services", "s1");
        let claimed = |space: &str, kind: &str, id: &str| Rejection::Claimed {
            key: ResourceKey::new(kind, "new"),
            space: space.into(),
            by: ResourceKey::new(kind, id),
        };
        for (rejection, words) in [
            (
                Rejection::MissingReference { from: route.clone(), to: upstream.clone() },
                "failed to fetch upstream info by upstream id [u1], response code: 404",
            ),
            (
                Rejection::StillReferenced { key: upstream, by: route.clone() },
                "can not delete this upstream, route [r1] is still using it now",
            ),
            (
                Rejection::StillReferenced { key: service, by: route },
                "can not delete this service directly, route [r1] is still using it now",
            ),
            (claimed("key-auth", "consumers", "jack"), "duplicate key of plugin key-auth found with consumer: jack"),
            (
                claimed("key-auth", "credentials", "jack/c1"),
                "duplicate key of plugin key-auth found with credential: c1 of consumer: jack",
            ),
            (
                claimed("global_rules/cors", "global_rules", "x1"),
                "plugin 'cors' already exists in global rule with id 'x1'",
            ),
        ] {
            assert_eq!(error_words(&rejection), words);
        }
    }
}
