//! `consumer-restriction`: which consumers, groups, services or routes a request may be of.

use http::{Method, StatusCode};
use protocol::report::{Path, Problem};
use protocol::resource::scope::{Fields, Scope};
use serde_json::{Value, json};

use super::answer::Answer;
use super::host::Host;
use super::plugin::{Behaviour, Plugin, Step};
use super::request::Request;

/// See the module.
pub(crate) static PLUGIN: Plugin =
    Plugin { name: "consumer-restriction", priority: 2400, version: 0.1, schema, read, auth: None, secrets: &[] };

#[derive(Debug)]
struct ConsumerRestriction {
    of: Of,
    whitelist: Vec<Box<str>>,
    blacklist: Vec<Box<str>>,
    /// What somebody may do, by name.
    by_methods: Vec<(Box<str>, Vec<Method>)>,
    code: StatusCode,
    message: String,
}

/// What is looked at.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Of {
    Consumer,
    Group,
    Service,
    Route,
}

const TYPES: [(&str, Of); 4] = [
    ("consumer_name", Of::Consumer),
    ("consumer_group_id", Of::Group),
    ("service_id", Of::Service),
    ("route_id", Of::Route),
];

fn read(fields: &Fields<'_, '_>) -> Option<Box<dyn Behaviour>> {
    let names = |s: Scope<'_, '_>| s.all(s.items(1)?, |item| item.string(0, usize::MAX).map(Box::from));
    let of = fields.optional("type", |s| s.one_of(&TYPES)).unwrap_or(Of::Consumer);
    let word = TYPES.iter().find(|(_, known)| *known == of).map_or("", |(word, _)| word);
    let whitelist = fields.optional("whitelist", names);
    let blacklist = fields.optional("blacklist", names);
    let by_methods = fields.optional("allowed_by_methods", |s| s.all(s.items(0)?, methods_of));
    let code = fields.optional("rejected_code", |s| s.integer(200, 599)).and_then(|code| u16::try_from(code).ok());
    let message = fields.optional("rejected_msg", |s| s.string(0, usize::MAX));
    if !["whitelist", "blacklist", "allowed_by_methods"].iter().any(|list| fields.has(list)) {
        let sentence =
            "object matches none of the required: [\"blacklist\"] or [\"whitelist\"] or [\"allowed_by_methods\"]";
        let ours = "one of whitelist, blacklist and allowed_by_methods is required";
        fields.problem(Problem::known_as(Path::default(), sentence, fields.path.clone(), ours));
    }
    Some(Box::new(ConsumerRestriction {
        of,
        whitelist: whitelist.unwrap_or_default(),
        blacklist: blacklist.unwrap_or_default(),
        by_methods: by_methods.unwrap_or_default(),
        code: StatusCode::from_u16(code.unwrap_or(403)).ok()?,
        message: message.map_or_else(|| format!("The {word} is forbidden."), str::to_owned),
    }))
}

fn methods_of(scope: Scope<'_, '_>) -> Option<(Box<str>, Vec<Method>)> {
    let fields = scope.object()?;
    let user = fields.optional("user", |s| s.string(0, usize::MAX)).unwrap_or_default();
    let methods = fields.optional("methods", |s| {
        s.all(s.items(1)?, |item| {
            let known = METHODS.map(|method| (method, method));
            Method::from_bytes(item.one_of(&known)?.as_bytes()).ok()
        })
    });
    Some((user.into(), methods.unwrap_or_default()))
}

const METHODS: [&str; 10] = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "CONNECT", "TRACE", "PURGE"];

impl ConsumerRestriction {
    fn value<'r>(&self, request: &'r Request) -> Option<&'r str> {
        let identity = request.identity.as_ref();
        match self.of {
            Of::Consumer => identity.map(|identity| identity.consumer.as_str()),
            Of::Group => identity?.group.as_deref(),
            Of::Service => request.service_id.as_deref(),
            Of::Route => Some(&request.route_id),
        }
    }

    fn lets_pass(&self, value: &str, method: &Method) -> bool {
        let stands_in = |list: &[Box<str>]| list.iter().any(|name| **name == *value);
        if stands_in(&self.blacklist) {
            return false;
        }
        if !self.whitelist.is_empty() {
            return stands_in(&self.whitelist);
        }
        match self.by_methods.iter().find(|(user, _)| **user == *value) {
            Some((_, methods)) => methods.contains(method),
            // Methods are said of some; whoever is not among them is not restricted, as in APISIX.
            None => true,
        }
    }
}

impl Behaviour for ConsumerRestriction {
    fn access(&self, request: &mut Request, _: &dyn Host) -> Step {
        let Some(value) = self.value(request) else {
            let word = TYPES.iter().find(|(_, of)| *of == self.of).map_or("", |(word, _)| word);
            let sentence = format!("The request is rejected, please check the {word} for this request");
            return Step::Answer(Answer::message(StatusCode::UNAUTHORIZED, &sentence));
        };
        if self.lets_pass(value, &request.method) {
            return Step::Go;
        }
        Step::Answer(Answer::message(self.code, &self.message))
    }
}

fn schema() -> Value {
    let names = json!({ "type": "array", "minItems": 1, "items": { "type": "string" } });
    json!({
        "properties": {
            "type": { "enum": TYPES.map(|(word, _)| word), "default": "consumer_name" },
            "whitelist": names,
            "blacklist": names,
            "allowed_by_methods": { "type": "array", "items": { "type": "object", "properties": {
                "user": { "type": "string" },
                "methods": { "type": "array", "minItems": 1, "items": { "enum": METHODS } },
            } } },
            "rejected_code": { "type": "integer", "minimum": 200, "maximum": 599, "default": 403 },
            "rejected_msg": { "type": "string" },
        },
        "anyOf": [{ "required": ["blacklist"] }, { "required": ["whitelist"] }, { "required": ["allowed_by_methods"] }],
    })
}

#[cfg(test)]
mod tests {
    use super::super::Identity;
    use super::super::testing::{TestHost, answer, behaviour, request};
    use super::*;

    #[test]
    fn who_may_pass() {
        let forbidden = "{\"message\":\"The consumer_name is forbidden.\"}\n";
        let unknown = "{\"message\":\"The request is rejected, please check the consumer_name for this request\"}\n";
        for (conf, consumer, method, expected) in [
            (json!({"whitelist": ["jack"]}), Some("jack"), "GET", None),
            (json!({"whitelist": ["jack"]}), Some("jill"), "GET", Some((403, forbidden))),
            (json!({"whitelist": ["jack"]}), None, "GET", Some((401, unknown))),
            (json!({"blacklist": ["jill"]}), Some("jack"), "GET", None),
            (
                json!({"blacklist": ["jill"], "rejected_code": 404, "rejected_msg": "no"}),
                Some("jill"),
                "GET",
                Some((404, "{\"message\":\"no\"}\n")),
            ),
            (json!({"allowed_by_methods": [{"user": "jack", "methods": ["GET"]}]}), Some("jack"), "GET", None),
            (
                json!({"allowed_by_methods": [{"user": "jack", "methods": ["GET"]}]}),
                Some("jack"),
                "POST",
                Some((403, forbidden)),
            ),
            (json!({"type": "route_id", "whitelist": ["r"]}), None, "GET", None),
            (
                json!({"type": "consumer_group_id", "blacklist": ["g"]}),
                Some("jack"),
                "GET",
                Some((403, "{\"message\":\"The consumer_group_id is forbidden.\"}\n")),
            ),
        ] {
            let mut it = request(method, "/a");
            it.identity = consumer.map(|name| Identity {
                consumer: name.into(),
                credential: None,
                custom_id: None,
                group: Some("g".into()),
            });
            let step = behaviour(PLUGIN.name, conf.clone()).access(&mut it, &TestHost::default());
            let found = answer(&step).map(|a| (a.status.as_u16(), str::from_utf8(&a.body).unwrap()));
            assert_eq!(found, expected, "{conf} {consumer:?}");
        }
    }
}
