//! What the control listener shows of the configuration that this proxy holds, in the shape of APISIX's Control API.

use protocol::{Entry, Kind, ResourceKey};
use serde_json::{Value, json};

use super::Sources;

/// The kinds that are shown: the path of all of them, of one, and the kind's name.
const VIEWS: [(&str, &str, &str); 3] = [
    ("/v1/routes", "/v1/route/", "routes"),
    ("/v1/services", "/v1/service/", "services"),
    ("/v1/upstreams", "/v1/upstream/", "upstreams"),
];

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
