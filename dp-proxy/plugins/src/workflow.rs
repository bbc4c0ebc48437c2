//! `workflow`: the first rule whose case holds says what becomes of a request: it is refused, or limited.

use http::StatusCode;
use protocol::report::Problem;
use protocol::resource::Expression;
use protocol::resource::scope::{Fields, Scope};
use serde_json::{Value, json};

use super::answer::{Answer, Response};
use super::host::Host;
use super::plugin::{Behaviour, Plugin, Step, check_variables};
use super::request::Request;
use super::{limit_conn, limit_count};

/// See the module.
pub(crate) static PLUGIN: Plugin =
    Plugin { name: "workflow", priority: 1006, version: 0.1, schema, read, auth: None, secrets: &[] };

/// Plugins that are actions here, each with a configuration and counts of its own.
static ACTIONS: [&Plugin; 2] = [&limit_conn::PLUGIN, &limit_count::PLUGIN];

#[derive(Debug)]
struct Workflow {
    rules: Vec<Rule>,
}

#[derive(Debug)]
struct Rule {
    /// `None`: it holds for every request.
    case: Option<Expression>,
    /// As in APISIX, of several actions the first is taken.
    action: Action,
}

#[derive(Debug)]
enum Action {
    Return(StatusCode),
    Plugin(Box<dyn Behaviour>),
}

fn read(fields: &Fields<'_, '_>) -> Option<Box<dyn Behaviour>> {
    let rules = fields.required("rules", |s| s.all(s.items(0)?, |rule| Rule::read(&rule)))?;
    Some(Box::new(Workflow { rules }))
}

impl Rule {
    fn read(scope: &Scope<'_, '_>) -> Option<Self> {
        let fields = scope.object()?;
        fields.allow_unknown();
        let case = match fields.get("case") {
            Some(s) => {
                s.items(1)?;
                let case = Expression::read(&s)?;
                check_variables(&s, case.variables());
                Some(case)
            }
            None => None,
        };
        let actions = fields.required("actions", |s| s.all(s.items(1)?, |action| Action::read(&action)))?;
        Some(Self { case, action: actions.into_iter().next()? })
    }
}

impl Action {
    /// `[name, configuration]`.
    fn read(scope: &Scope<'_, '_>) -> Option<Self> {
        let items = scope.items(1)?;
        let [name, configuration] = &items[..] else {
            scope.wrong("an action is a name and its configuration");
            return None;
        };
        let name = name.string(0, usize::MAX)?;
        let fields = configuration.object()?;
        fields.allow_unknown();
        if name == "return" {
            let code = fields.required("code", |s| u16::try_from(s.integer(100, 599)?).ok())?;
            if code < 200 {
                fields.rule("code", "an answer with a status under 200 is not served by this version of holdfast");
            }
            return Some(Self::Return(StatusCode::from_u16(code).ok()?));
        }
        match ACTIONS.iter().find(|plugin| plugin.name == name) {
            Some(plugin) => (plugin.read)(&fields).map(Self::Plugin),
            None => {
                scope.problem(Problem::rule(scope.path.clone(), format!("unsupported action: {name}")));
                None
            }
        }
    }
}

impl Workflow {
    fn rule(&self, request: &Request, host: &dyn Host) -> Option<&Rule> {
        self.rules.iter().find(|rule| rule.case.as_ref().is_none_or(|case| case.holds(&request.seen(host))))
    }
}

impl Behaviour for Workflow {
    fn access(&self, request: &mut Request, host: &dyn Host) -> Step {
        match self.rule(request, host).map(|rule| &rule.action) {
            None => Step::Go,
            Some(Action::Return(status)) => Step::Answer(Answer::error(*status, "rejected by workflow")),
            Some(Action::Plugin(behaviour)) => behaviour.access(request, host),
        }
    }

    fn header_filter(&self, request: &Request, response: &mut Response<'_>, host: &dyn Host) {
        if let Some(Action::Plugin(behaviour)) = self.rule(request, host).map(|rule| &rule.action) {
            behaviour.header_filter(request, response, host);
        }
    }
}

fn schema() -> Value {
    let action = json!({ "type": "array", "minItems": 2, "maxItems": 2,
                         "description": "a name (return, limit-count, limit-conn) and its configuration" });
    json!({
        "properties": { "rules": { "type": "array", "items": {
            "type": "object",
            "properties": {
                "case": { "type": "array", "minItems": 1, "description": "conditions, as in `vars` of a route" },
                "actions": { "type": "array", "minItems": 1, "items": action },
            },
            "required": ["actions"],
        } } },
        "required": ["rules"],
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestHost, answer, behaviour, request};
    use super::*;

    #[test]
    fn the_first_case_that_holds_has_its_way() {
        let one = json!({"count": 1, "time_window": 60, "rejected_code": 429});
        let plugin = behaviour(
            PLUGIN.name,
            json!({"rules": [
                {"case": [["uri", "==", "/no"]], "actions": [["return", {"code": 403}]]},
                {"case": [["uri", "==", "/one"]], "actions": [["limit-count", one]]},
                {"case": ["OR", ["uri", "==", "/other"], ["uri", "==", "/no"]], "actions": [["limit-count", one]]},
            ]}),
        );
        let said = |path: &str| {
            let host = TestHost { path: path.to_owned(), ..TestHost::default() };
            let step = plugin.access(&mut request("GET", path), &host);
            answer(&step).map(|a| (a.status.as_u16(), String::from_utf8(a.body.to_vec()).unwrap()))
        };
        assert_eq!(said("/no"), Some((403, "{\"error_msg\":\"rejected by workflow\"}\n".to_owned())));
        assert_eq!((said("/one"), said("/one").map(|(status, _)| status)), (None, Some(429)));
        assert_eq!(said("/other"), None, "each rule counts for itself");
        assert_eq!(said("/else"), None);
    }
}
