//! A consumer: somebody whose requests are told apart from others'.

use serde_json::{Map, Value};

use super::common::{DESC_CHARS_MAX, read_labels, reference};
use super::plugins;
use super::scope::Scope;
use crate::key::ResourceKey;
use crate::text::Text;

/// The longest name of a consumer. APISIX has no bound; ours keeps keys within an index page.
pub const USERNAME_CHARS_MAX: usize = 256;

/// The label whose value upstreams are told.
const CUSTOM_ID: &str = "custom_id";

/// Somebody whose requests are told apart from others'.
#[derive(Clone, PartialEq, Debug)]
pub struct Consumer {
    /// Its name, which is its id.
    pub username: Text,
    /// The group that it is in.
    pub group_id: Option<ResourceKey>,
    /// How it proves who it is, and what is run on its requests.
    pub plugins: Map<String, Value>,
    /// A name that others have for it: its label `custom_id`.
    pub custom_id: Option<Text>,
}

impl Consumer {
    pub(super) fn read(scope: Scope<'_, '_>) -> Option<Self> {
        let fields = scope.object()?;
        fields.optional("desc", |s| s.string(0, DESC_CHARS_MAX));
        read_labels(&fields);
        let username = fields.required("username", |s| {
            let text = s.string(1, USERNAME_CHARS_MAX)?;
            s.pattern(text, r"^[a-zA-Z0-9_\-]+$", |text| super::IdRule::Username.check(text).is_ok())
        });
        let group_id = fields.optional("group_id", |s| reference("consumer_groups", &s));
        let plugins = fields.optional("plugins", plugins).unwrap_or_default();
        let custom_id = scope.value["labels"][CUSTOM_ID].as_str().map(Text::from);
        fields.finish();
        Some(Self { username: username?.into(), group_id, plugins, custom_id })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::scope::check;
    use super::*;

    #[test]
    fn a_consumer_reads_all_its_fields() {
        let body = json!({"username": "jack-1_x", "desc": "d", "labels": {"custom_id": "7"}, "group_id": "g", "plugins": {"x": {}}});
        let consumer = check(&body, Consumer::read).unwrap();
        assert_eq!((consumer.username.as_str(), consumer.custom_id.as_deref()), ("jack-1_x", Some("7")));
        assert_eq!(consumer.group_id, Some(ResourceKey::new("consumer_groups", "g")));
    }

    #[test]
    fn what_is_wrong_is_told_as_apisix_tells_it() {
        for (body, summary) in [
            (json!({}), "invalid configuration: property \"username\" is required"),
            (
                json!({"username": ""}),
                "invalid configuration: property \"username\" validation failed: string too short, expected at least 1, got 0",
            ),
            (
                json!({"username": "a b"}),
                "invalid configuration: property \"username\" validation failed: failed to match pattern \"^[a-zA-Z0-9_\\\\-]+$\" with \"a b\"",
            ),
            (json!({"username": "z", "foo": 1}), "invalid configuration: additional properties forbidden, found foo"),
        ] {
            assert_eq!(check(&body, Consumer::read).unwrap_err().summary(), summary, "{body}");
        }
    }
}
