//! What differs between two values, place by place.

use std::collections::BTreeSet;

use serde_json::Value;

use crate::report::Path;

/// One place at which two values differ.
#[derive(Clone, PartialEq, Debug)]
pub struct Difference {
    /// Where.
    pub path: Path,
    /// What stands there in the first; `None`: nothing.
    pub old: Option<Value>,
    /// What stands there in the second; `None`: nothing.
    pub new: Option<Value>,
}

/// Every place at which two values differ, by path. Lists of one length are compared item by item, others as a whole.
#[must_use]
pub fn differences(old: &Value, new: &Value) -> Vec<Difference> {
    let mut found = Vec::new();
    compare(&Path::default(), Some(old), Some(new), &mut found);
    found
}

fn compare(path: &Path, old: Option<&Value>, new: Option<&Value>, found: &mut Vec<Difference>) {
    match (old, new) {
        _ if old == new => {}
        (Some(Value::Object(old)), Some(Value::Object(new))) => {
            for name in old.keys().chain(new.keys()).collect::<BTreeSet<_>>() {
                compare(&path.property(name), old.get(name), new.get(name), found);
            }
        }
        (Some(Value::Array(old)), Some(Value::Array(new))) if old.len() == new.len() => {
            for (index, (old, new)) in old.iter().zip(new).enumerate() {
                compare(&path.item(index), Some(old), Some(new), found);
            }
        }
        _ => found.push(Difference { path: path.clone(), old: old.cloned(), new: new.cloned() }),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn places_are_named() {
        let old = json!({"uri": "/a", "hosts": ["a", "b"], "gone": 1, "nodes": {"a:1": 1}, "same": {"x": [1]}});
        let new =
            json!({"uri": "/b", "hosts": ["a", "c"], "came": 2, "nodes": {"a:1": 1, "b:2": 2}, "same": {"x": [1]}});
        let told: Vec<String> = differences(&old, &new)
            .into_iter()
            .map(|d| {
                let side = |value: Option<Value>| value.map_or("-".to_owned(), |value| value.to_string());
                format!("{} {} {}", d.path, side(d.old), side(d.new))
            })
            .collect();
        let expected =
            ["$.came - 2", "$.gone 1 -", "$.hosts[1] \"b\" \"c\"", "$.nodes[\"b:2\"] - 2", "$.uri \"/a\" \"/b\""];
        assert_eq!(told, expected);
        let whole = differences(&json!({"hosts": ["a"]}), &json!({"hosts": []}));
        assert_eq!((whole.len(), whole[0].path.to_string()), (1, "$.hosts".to_owned()));
    }

    fn any_json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![Just(Value::Null), (0i64..3).prop_map(Value::from), "[ab]{0,2}".prop_map(Value::from)];
        leaf.prop_recursive(3, 16, 3, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
                prop::collection::btree_map("[ab]{1,2}", inner, 0..3)
                    .prop_map(|members| Value::Object(members.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn values_without_differences_are_equal(old in any_json(), new in any_json()) {
            prop_assert!(differences(&old, &old).is_empty());
            prop_assert_eq!(differences(&old, &new).is_empty(), old == new);
        }
    }
}
