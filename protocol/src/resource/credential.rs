//! A credential: one more way in which a consumer can prove who it is.

use serde_json::{Map, Value};

use super::common::read_labelling;
use super::plugins;
use super::scope::Scope;

/// One more way in which a consumer can prove who it is. Its id names the consumer.
#[derive(Clone, PartialEq, Debug)]
pub struct Credential {
    /// At most one, which authenticates.
    pub plugins: Map<String, Value>,
}

impl Credential {
    pub(super) fn read(scope: Scope<'_, '_>) -> Option<Self> {
        let fields = scope.object()?;
        read_labelling(&fields);
        let plugins = fields.optional("plugins", |s| {
            if s.members()?.len() > 1 {
                s.wrong("expect object to have at most 1 properties");
                return None;
            }
            plugins(s)
        });
        fields.finish();
        Some(Self { plugins: plugins.unwrap_or_default() })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::scope::check;
    use super::*;

    #[test]
    fn a_credential_has_one_plugin() {
        let body = json!({"name": "n", "desc": "d", "labels": {"a": "b"}, "plugins": {"x": {}}});
        assert_eq!(check(&body, Credential::read).unwrap().plugins.len(), 1);
        let two = json!({"plugins": {"x": {}, "y": {}}});
        assert_eq!(
            check(&two, Credential::read).unwrap_err().summary(),
            "invalid configuration: property \"plugins\" validation failed: expect object to have at most 1 properties"
        );
    }
}
