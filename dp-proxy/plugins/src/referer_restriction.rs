//! `referer-restriction`: from which sites' pages a request may come.

use http::header::REFERER;
use http::{StatusCode, Uri};
use protocol::resource::HostPattern;
use protocol::resource::scope::{Fields, Scope};
use serde_json::{Value, json};

use super::answer::Answer;
use super::host::Host;
use super::plugin::{Behaviour, Plugin, Step};
use super::request::Request;

/// See the module.
pub(crate) static PLUGIN: Plugin =
    Plugin { name: "referer-restriction", priority: 2990, version: 0.1, schema, read, auth: None, secrets: &[] };

const MESSAGE: &str = "Your referer host is not allowed";

#[derive(Debug)]
struct RefererRestriction {
    hosts: Vec<HostPattern>,
    /// Whether they are those that may pass; else those that may not.
    allowed: bool,
    bypass_missing: bool,
    message: Box<str>,
}

fn read(fields: &Fields<'_, '_>) -> Option<Box<dyn Behaviour>> {
    let hosts = |s: Scope<'_, '_>| s.all(s.items(1)?, HostPattern::read);
    let (whitelist, blacklist) = (fields.optional("whitelist", hosts), fields.optional("blacklist", hosts));
    let bypass_missing = fields.optional("bypass_missing", |s| s.boolean()).unwrap_or(false);
    let message = fields.optional("message", |s| s.string(1, 1024)).unwrap_or(MESSAGE);
    match (fields.has("whitelist"), fields.has("blacklist")) {
        (false, false) => fields.wrong("value should match only one schema, but matches none"),
        (true, true) => fields.wrong("value should match only one schema, but matches both schemas 1 and 2"),
        _ => {}
    }
    Some(Box::new(RefererRestriction {
        allowed: whitelist.is_some(),
        hosts: whitelist.or(blacklist)?,
        bypass_missing,
        message: message.into(),
    }))
}

/// The host of the page; `None` when there is none, or nothing that can be read.
fn referer(request: &Request) -> Option<String> {
    let uri: Uri = request.header(REFERER.as_str())?.parse().ok()?;
    Some(uri.host()?.to_ascii_lowercase())
}

impl Behaviour for RefererRestriction {
    fn access(&self, request: &mut Request, _: &dyn Host) -> Step {
        let passes = match referer(request) {
            None => self.bypass_missing,
            Some(host) => self.hosts.iter().any(|pattern| pattern.takes(&host)) == self.allowed,
        };
        if passes { Step::Go } else { Step::Answer(Answer::message(StatusCode::FORBIDDEN, &self.message)) }
    }
}

fn schema() -> Value {
    let hosts = json!({ "type": "array", "minItems": 1,
                        "items": { "type": "string", "pattern": r"^\*$|^\*?[0-9a-zA-Z._\[\]:-]+$" } });
    json!({
        "properties": {
            "whitelist": hosts,
            "blacklist": hosts,
            "bypass_missing": { "type": "boolean", "default": false },
            "message": { "type": "string", "minLength": 1, "maxLength": 1024, "default": MESSAGE },
        },
        "oneOf": [{ "required": ["whitelist"] }, { "required": ["blacklist"] }],
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestHost, answer, behaviour, request};
    use super::*;

    #[test]
    fn referers() {
        let refused = Some("{\"message\":\"Your referer host is not allowed\"}\n");
        for (conf, referer, expected) in [
            (json!({"whitelist": ["xx.com", "*.xx.com"]}), Some("http://xx.com/a?b"), None),
            (json!({"whitelist": ["xx.com", "*.xx.com"]}), Some("https://www.XX.com:81"), None),
            (json!({"whitelist": ["*.xx.com"]}), Some("http://yy.com"), refused),
            (json!({"whitelist": ["*.xx.com"]}), Some("http://[bad"), refused),
            (json!({"whitelist": ["*.xx.com"]}), None, refused),
            (json!({"whitelist": ["*.xx.com"], "bypass_missing": true}), None, None),
            (json!({"blacklist": ["*.xx.com"]}), Some("http://a.xx.com"), refused),
            (json!({"blacklist": ["*.xx.com"]}), Some("http://yy.com"), None),
        ] {
            let mut it = request("GET", "/a");
            referer.iter().for_each(|referer| drop(it.headers.insert(REFERER, referer.parse().unwrap())));
            let step = behaviour(PLUGIN.name, conf.clone()).access(&mut it, &TestHost::default());
            let found = answer(&step).map(|a| str::from_utf8(&a.body).unwrap());
            assert_eq!(found, expected, "{conf} {referer:?}");
        }
    }
}
