//! `prometheus`: says that a route is to be counted. Every route is, whether it says so or not.

use protocol::report::Problem;
use protocol::resource::scope::Fields;
use serde_json::{Value, json};

use super::plugin::{Behaviour, Plugin};

/// See the module.
pub(crate) static PLUGIN: Plugin =
    Plugin { name: "prometheus", priority: 500, version: 0.2, schema, read, auth: None, secrets: &[] };

#[derive(Debug)]
struct Prometheus;

impl Behaviour for Prometheus {}

fn read(fields: &Fields<'_, '_>) -> Option<Box<dyn Behaviour>> {
    fields.optional("prefer_name", |s| {
        let named = s.boolean()?;
        if named {
            let sentence = "prefer_name is not served by this version of holdfast: metrics name routes by their ids";
            s.problem(Problem::rule(s.path.clone(), sentence));
        }
        Some(named)
    });
    Some(Box::new(Prometheus))
}

fn schema() -> Value {
    json!({ "properties": { "prefer_name": { "const": false, "default": false } } })
}

#[cfg(test)]
mod tests {
    use super::super::plugin::Step;
    use super::super::testing::{TestHost, behaviour, request};
    use super::*;

    #[test]
    fn it_changes_nothing() {
        let plugin = behaviour(PLUGIN.name, json!({"prefer_name": false}));
        assert_eq!(plugin.access(&mut request("GET", "/a"), &TestHost::default()), Step::Go);
    }
}
