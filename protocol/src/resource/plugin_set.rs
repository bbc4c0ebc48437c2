//! Plugins under an id: what plugin configs, consumer groups and global rules are.

use serde_json::{Map, Value};

use super::common::read_labelling;
use super::plugins;
use super::scope::Scope;

/// Plugins under an id.
#[derive(Clone, PartialEq, Debug)]
pub struct PluginSet {
    /// Plugins by name, with their configuration.
    pub plugins: Map<String, Value>,
}

impl PluginSet {
    /// A plugin config or a consumer group.
    pub(super) fn read(scope: Scope<'_, '_>) -> Option<Self> {
        let fields = scope.object()?;
        read_labelling(&fields);
        let plugins = fields.required("plugins", plugins);
        fields.finish();
        Some(Self { plugins: plugins? })
    }

    /// A global rule, which has nothing else.
    pub(super) fn read_rule(scope: Scope<'_, '_>) -> Option<Self> {
        let fields = scope.object()?;
        let plugins = fields.required("plugins", plugins);
        fields.finish();
        Some(Self { plugins: plugins? })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::scope::check;
    use super::*;

    #[test]
    fn sets_and_rules() {
        let labelled = json!({"plugins": {"x": {}}, "desc": "d", "labels": {"a": "b"}, "name": "n"});
        assert_eq!(check(&labelled, PluginSet::read).unwrap().plugins.len(), 1);
        let report = check(&labelled, PluginSet::read_rule).unwrap_err();
        assert_eq!(report.problems.len(), 3, "{report}");
        let missing = check(&json!({}), PluginSet::read).unwrap_err();
        assert_eq!(missing.summary(), "invalid configuration: property \"plugins\" is required");
    }
}
