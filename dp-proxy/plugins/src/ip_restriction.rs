//! `ip-restriction`: from which addresses a request may come.

use http::StatusCode;
use ipnet::IpNet;
use protocol::report::Problem;
use protocol::resource::scope::{Fields, Scope};
use serde_json::{Value, json};

use super::answer::Answer;
use super::host::Host;
use super::plugin::{Behaviour, Plugin, Step};
use super::request::Request;

/// See the module.
pub(crate) static PLUGIN: Plugin =
    Plugin { name: "ip-restriction", priority: 3000, version: 0.1, schema, read, auth: None, secrets: &[] };

const MESSAGE: &str = "Your IP address is not allowed";

#[derive(Debug)]
struct IpRestriction {
    nets: Vec<IpNet>,
    /// Whether they are those that may pass; else those that may not.
    allowed: bool,
    code: StatusCode,
    message: Box<str>,
}

fn read(fields: &Fields<'_, '_>) -> Option<Box<dyn Behaviour>> {
    let nets = |s: Scope<'_, '_>| s.all(s.items(1)?, net);
    let (whitelist, blacklist) = (fields.optional("whitelist", nets), fields.optional("blacklist", nets));
    let message = fields.optional("message", |s| s.string(1, 1024)).unwrap_or(MESSAGE);
    let code = fields.optional("response_code", |s| s.integer(403, 404)).unwrap_or(403);
    match (fields.has("whitelist"), fields.has("blacklist")) {
        (false, false) => fields.wrong("value should match only one schema, but matches none"),
        (true, true) => fields.wrong("value should match only one schema, but matches both schemas 1 and 2"),
        _ => {}
    }
    Some(Box::new(IpRestriction {
        allowed: whitelist.is_some(),
        nets: whitelist.or(blacklist)?,
        code: if code == 404 { StatusCode::NOT_FOUND } else { StatusCode::FORBIDDEN },
        message: message.into(),
    }))
}

fn net(scope: Scope<'_, '_>) -> Option<IpNet> {
    let text = scope.string(0, usize::MAX)?;
    let net = text.parse().ok().or_else(|| text.parse::<std::net::IpAddr>().ok().map(IpNet::from));
    if net.is_none() {
        let ours = format!("{text:?} is no IPv4 or IPv6 address or CIDR block");
        let theirs = "object matches none of the required";
        scope.problem(Problem::known_as(scope.path.clone(), theirs, scope.path.clone(), ours));
    }
    net
}

impl Behaviour for IpRestriction {
    fn access(&self, request: &mut Request, _: &dyn Host) -> Step {
        if self.nets.iter().any(|net| net.contains(&request.remote)) == self.allowed {
            return Step::Go;
        }
        Step::Answer(Answer::message(self.code, &self.message))
    }
}

fn schema() -> Value {
    let nets = json!({ "type": "array", "minItems": 1,
                       "items": { "type": "string", "description": "an IPv4 or IPv6 address or CIDR block" } });
    json!({
        "properties": {
            "whitelist": nets,
            "blacklist": nets,
            "message": { "type": "string", "minLength": 1, "maxLength": 1024, "default": MESSAGE },
            "response_code": { "type": "integer", "minimum": 403, "maximum": 404, "default": 403 },
        },
        "oneOf": [{ "required": ["whitelist"] }, { "required": ["blacklist"] }],
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestHost, answer, behaviour, request};
    use super::*;

    #[test]
    fn addresses() {
        for (conf, remote, expected) in [
            (json!({"whitelist": ["10.0.0.0/8"]}), "10.1.2.3", None),
            (
                json!({"whitelist": ["10.0.0.0/8"]}),
                "127.0.0.1",
                Some((403, "{\"message\":\"Your IP address is not allowed\"}\n")),
            ),
            (
                json!({"blacklist": ["::1"], "message": "go", "response_code": 404}),
                "::1",
                Some((404, "{\"message\":\"go\"}\n")),
            ),
            (json!({"blacklist": ["::1"]}), "::2", None),
        ] {
            let mut it = request("GET", "/a");
            it.remote = remote.parse().unwrap();
            let step = behaviour(PLUGIN.name, conf.clone()).access(&mut it, &TestHost::default());
            let found = answer(&step).map(|a| (a.status.as_u16(), str::from_utf8(&a.body).unwrap()));
            assert_eq!(found, expected, "{conf} {remote}");
        }
    }
}
