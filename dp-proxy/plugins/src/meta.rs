//! `_meta`: what every plugin's configuration may say beside its own fields.

use protocol::resource::Expression;
use protocol::resource::scope::Scope;
use serde_json::{Value, json};

use super::plugin::{check_variables, not_served};

/// What a configuration says about how its plugin is run.
#[derive(Clone, PartialEq, Debug, Default)]
pub(crate) struct Meta {
    /// It is not run at all.
    pub(crate) disable: bool,
    /// In place of the plugin's own.
    pub(crate) priority: Option<i64>,
    /// It is run only for requests for which this holds.
    pub(crate) filter: Option<Expression>,
    /// In place of the body of what the plugin answers.
    pub(crate) error_response: Option<Value>,
}

impl Meta {
    pub(crate) fn read(scope: Scope<'_, '_>) -> Option<Self> {
        let fields = scope.object()?;
        let disable = fields.optional("disable", |s| s.boolean()).unwrap_or(false);
        let priority = fields.optional("priority", |s| s.integer(i64::MIN, i64::MAX));
        let filter = fields.optional("filter", |s| {
            let filter = Expression::read(&s)?;
            check_variables(&s, filter.variables());
            Some(filter)
        });
        let error_response = fields.optional("error_response", |s| match s.value {
            Value::String(_) | Value::Object(_) => Some(s.value.clone()),
            _ => {
                s.wrong("value should match only one schema, but matches none");
                None
            }
        });
        fields.optional("pre_function", |s| s.string(0, usize::MAX));
        not_served(&fields, "pre_function");
        fields.finish();
        Some(Self { disable, priority, filter, error_response })
    }
}

pub(crate) fn schema() -> Value {
    json!({
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "disable": { "type": "boolean", "default": false },
            "priority": { "type": "integer", "description": "in place of the plugin's own" },
            "filter": { "type": "array", "description": "conditions, as in `vars` of a route" },
            "error_response": { "oneOf": [{ "type": "string" }, { "type": "object" }] },
        },
    })
}
