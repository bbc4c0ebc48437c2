//! PATCH as APISIX does it: objects are merged, `null` deletes, everything else (arrays too) replaces.

use serde_json::{Map, Value};

/// Merges `patch` into `target`. Members that `patch` sets to `null` are removed; a `null` inside an array stays.
pub fn merge(target: &mut Value, patch: Value) {
    let Value::Object(patch) = patch else {
        *target = patch;
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let members = target.as_object_mut().expect("made an object above");
    for (name, value) in patch {
        match value {
            Value::Null => {
                members.remove(&name);
            }
            Value::Object(_) => merge(members.entry(name).or_insert(Value::Null), value),
            other => {
                members.insert(name, other);
            }
        }
    }
}

/// Replaces the value at `path` (member names, outermost first); objects on the way are made where they are missing.
///
/// # Errors
/// The name on the way to which there stands something that is no object.
pub fn replace_at<'p>(target: &mut Value, path: &[&'p str], value: Value) -> Result<(), &'p str> {
    let Some((last, way)) = path.split_last() else {
        *target = value;
        return Ok(());
    };
    let mut here = target;
    for name in way {
        let members = here.as_object_mut().ok_or(*name)?;
        here = members.entry(*name).or_insert_with(|| Value::Object(Map::new()));
    }
    let members = here.as_object_mut().ok_or(*last)?;
    members.insert((*last).to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn objects_merge_null_deletes_the_rest_replaces() {
        let mut v = json!({"nodes": {"a:1": 1}, "name": "n", "hosts": ["x"], "keep": true});
        merge(
            &mut v,
            json!({"nodes": {"b:2": 2, "a:1": null}, "name": null, "hosts": ["y"], "new": {"x": {"y": null}}}),
        );
        assert_eq!(v, json!({"nodes": {"b:2": 2}, "hosts": ["y"], "keep": true, "new": {"x": {}}}));
    }

    #[test]
    fn an_object_replaces_a_scalar() {
        let mut v = json!({"a": 1});
        merge(&mut v, json!({"a": {"b": 2}}));
        assert_eq!(v, json!({"a": {"b": 2}}));
    }

    #[test]
    fn a_sub_path_is_replaced_and_made_where_missing() {
        let mut v = json!({"nodes": {"a:1": 1}});
        replace_at(&mut v, &["nodes"], json!({"b:1": 2})).unwrap();
        replace_at(&mut v, &["plugins", "proxy-rewrite"], json!({"uri": "/x"})).unwrap();
        assert_eq!(v, json!({"nodes": {"b:1": 2}, "plugins": {"proxy-rewrite": {"uri": "/x"}}}));
        assert_eq!(replace_at(&mut v, &["nodes", "b:1", "x"], json!(1)), Err("x"));
    }
}
