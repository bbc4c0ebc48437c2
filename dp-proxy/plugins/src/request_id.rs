//! `request-id`: a name for every request, told to the upstream and to the client.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::{HeaderName, HeaderValue};
use protocol::resource::scope::Fields;
use serde_json::{Value, json};

use super::answer::Response;
use super::header_edits::header_name;
use super::host::Host;
use super::plugin::{Behaviour, Plugin, Step, not_served};
use super::request::Request;

/// See the module.
pub(crate) static PLUGIN: Plugin =
    Plugin { name: "request-id", priority: 12015, version: 0.1, schema, read, auth: None, secrets: &[] };

#[derive(Debug)]
struct RequestId {
    header: HeaderName,
    in_response: bool,
    algorithm: Algorithm,
}

#[derive(Clone, Copy, Debug)]
enum Algorithm {
    /// A random UUID (RFC 9562 §5.4).
    Uuid,
    /// 21 characters of base64url.
    Nanoid,
}

const ALGORITHMS: [(&str, Algorithm); 2] = [("uuid", Algorithm::Uuid), ("nanoid", Algorithm::Nanoid)];

fn read(fields: &Fields<'_, '_>) -> Option<Box<dyn Behaviour>> {
    let header = match fields.get("header_name") {
        Some(scope) => header_name(&scope),
        None => Some(HeaderName::from_static("x-request-id")),
    };
    let in_response = fields.optional("include_in_response", |s| s.boolean()).unwrap_or(true);
    let algorithm = fields.optional("algorithm", |s| s.one_of(&ALGORITHMS)).unwrap_or(Algorithm::Uuid);
    not_served(fields, "range_id");
    Some(Box::new(RequestId { header: header?, in_response, algorithm }))
}

impl Algorithm {
    fn name(self, random: [u8; 16]) -> String {
        match self {
            Self::Uuid => {
                let mut bytes = random;
                bytes[6] = bytes[6] & 0x0f | 0x40;
                bytes[8] = bytes[8] & 0x3f | 0x80;
                let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
                format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..])
            }
            Self::Nanoid => {
                let mut text = URL_SAFE_NO_PAD.encode(random);
                text.truncate(21);
                text
            }
        }
    }
}

impl Behaviour for RequestId {
    fn rewrite(&self, request: &mut Request, host: &dyn Host) -> Step {
        if request.headers.get(&self.header).is_none_or(HeaderValue::is_empty)
            && let Ok(name) = HeaderValue::from_str(&self.algorithm.name(host.random()))
        {
            request.headers.insert(self.header.clone(), name);
        }
        Step::Go
    }

    fn header_filter(&self, request: &Request, response: &mut Response<'_>, _: &dyn Host) {
        let said = response.headers.get(&self.header).is_some_and(|value| !value.is_empty());
        if self.in_response
            && !said
            && let Some(name) = request.headers.get(&self.header)
        {
            response.headers.insert(self.header.clone(), name.clone());
        }
    }
}

fn schema() -> Value {
    json!({ "properties": {
        "header_name": { "type": "string", "default": "X-Request-Id" },
        "include_in_response": { "type": "boolean", "default": true },
        "algorithm": { "enum": ["uuid", "nanoid"], "default": "uuid" },
    } })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestHost, behaviour, filtered, request};
    use super::*;

    #[test]
    fn a_request_gets_a_name_unless_it_has_one() {
        let host = TestHost { random: [0xff; 16], ..TestHost::default() };
        for (conf, own, name) in [
            (json!({}), None, "ffffffff-ffff-4fff-bfff-ffffffffffff"),
            (json!({"algorithm": "nanoid"}), None, "_____________________"),
            (json!({}), Some("mine"), "mine"),
            (json!({}), Some(""), "ffffffff-ffff-4fff-bfff-ffffffffffff"),
        ] {
            let plugin = behaviour(PLUGIN.name, conf);
            let mut it = request("GET", "/a");
            if let Some(own) = own {
                it.headers.insert("x-request-id", own.parse().unwrap());
            }
            assert_eq!(plugin.rewrite(&mut it, &host), Step::Go);
            assert_eq!(it.header("x-request-id"), Some(name));
            assert_eq!(filtered(&*plugin, &it, &host, 200, &[]).1["x-request-id"], name);
            assert_eq!(filtered(&*plugin, &it, &host, 200, &[("x-request-id", "theirs")]).1["x-request-id"], "theirs");
        }
        let silent = behaviour(PLUGIN.name, json!({"include_in_response": false}));
        let mut it = request("GET", "/a");
        silent.rewrite(&mut it, &host);
        assert!(filtered(&*silent, &it, &host, 200, &[]).1.is_empty());
    }
}
