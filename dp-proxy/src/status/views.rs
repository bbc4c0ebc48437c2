//! What the control listener shows of the configuration that this proxy holds, in the shape of APISIX's Control API.

use protocol::resource::KINDS;
use protocol::{Entry, Kind, ResourceKey};
use serde_json::{Map, Value, json};

use super::Sources;

/// The kinds that are shown: the path of all of them, of one, and the kind's name.
const VIEWS: [(&str, &str, &str); 4] = [
    ("/v1/plugin_metadatas", "/v1/plugin_metadata/", "plugin_metadata"),
    ("/v1/routes", "/v1/route/", "routes"),
    ("/v1/services", "/v1/service/", "services"),
    ("/v1/upstreams", "/v1/upstream/", "upstreams"),
];

/// The JSON Schemas of all kinds and plugins that this build has.
pub(super) fn schemas() -> Value {
    let main: Map<String, Value> =
        KINDS.iter().filter_map(|kind| Some((kind.singular.replace(' ', "_"), kind.schema()?))).collect();
    let plugins: Map<String, Value> =
        plugins::PLUGINS.iter().map(|plugin| (plugin.name.to_owned(), plugin.description())).collect();
    // None of them is for TCP and UDP.
    json!({"main": main, "plugins": plugins, "stream_plugins": {}})
}

/// What stands under a path; `None` where nothing does.
pub(super) fn at(sources: &Sources, path: &str) -> Option<Value> {
    let standing = sources.board.read();
    let state = standing.state.iter();
    VIEWS.iter().find_map(|(all, one, kind)| {
        if path == *all {
            let kind = Kind::new(kind);
            return Some(
                state.clone().flat_map(|state| state.of_kind(&kind)).map(|(key, entry)| tell(key, entry)).collect(),
            );
        }
        let id = path.strip_prefix(one)?;
        let key = ResourceKey::new(kind, id);
        state.clone().find_map(|state| state.get(&key)).map(|entry| tell(&key, entry))
    })
}

fn tell(key: &ResourceKey, entry: &Entry) -> Value {
    // What the control plane has admitted is JSON; a proxy that cannot read it says so in `/status/config`.
    let mut value: Value = serde_json::from_str(&entry.body).unwrap_or_default();
    if let Some(members) = value.as_object_mut() {
        members.insert("id".to_owned(), key.id.as_str().into());
        members.insert("create_time".to_owned(), (entry.created.time / 1000).into());
        members.insert("update_time".to_owned(), (entry.modified.time / 1000).into());
    }
    json!({
        "key": format!("/apisix/{key}"),
        "value": value,
        "createdIndex": entry.created.revision,
        "modifiedIndex": entry.modified.revision,
    })
}
