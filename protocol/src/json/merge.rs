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
    use proptest::prelude::*;
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

    /// Small values over few names, so that base and patch meet.
    fn values() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![Just(Value::Null), any::<bool>().prop_map(Value::from), (0u8..4).prop_map(Value::from)];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[a-c]", inner, 0..4).prop_map(|m| Value::Object(m.into_iter().collect())),
            ]
        })
    }

    fn objects() -> impl Strategy<Value = Value> {
        prop::collection::btree_map("[a-c]", values(), 0..4).prop_map(|m| Value::Object(m.into_iter().collect()))
    }

    /// What a patch comes to, member by member, said another way than the code does.
    fn expected(base: &Value, patch: &Value) -> Value {
        let (Some(patch), empty) = (patch.as_object(), Map::new()) else { return patch.clone() };
        let base = base.as_object().unwrap_or(&empty);
        let names: std::collections::BTreeSet<&String> = base.keys().chain(patch.keys()).collect();
        let member = |name: &String| match (base.get(name), patch.get(name)) {
            (_, Some(Value::Null)) => None,
            (old, Some(new)) => Some(expected(old.unwrap_or(&Value::Null), new)),
            (old, None) => old.cloned(),
        };
        Value::Object(names.into_iter().filter_map(|name| Some((name.clone(), member(name)?))).collect())
    }

    proptest! {
        #[test]
        fn law_a_patch_is_what_it_says_and_twice_is_once(base in objects(), patch in objects()) {
            let mut once = base.clone();
            merge(&mut once, patch.clone());
            prop_assert_eq!(&once, &expected(&base, &patch));
            let mut twice = once.clone();
            merge(&mut twice, patch);
            prop_assert_eq!(once, twice);
        }

        #[test]
        fn law_a_sub_path_changes_nothing_beside_it(base in objects(), path in prop::collection::vec("[a-c]", 1..4), value in values()) {
            let way: Vec<&str> = path.iter().map(String::as_str).collect();
            let mut changed = base.clone();
            if replace_at(&mut changed, &way, value.clone()).is_ok() {
                let place = format!("/{}", path.join("/"));
                prop_assert_eq!(changed.pointer(&place), Some(&value));
                for (name, member) in base.as_object().unwrap() {
                    prop_assert!(*name == path[0] || changed.get(name) == Some(member));
                }
            }
        }
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
