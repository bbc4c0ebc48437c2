//! `request-validation`: headers and bodies must be as a JSON Schema says.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::StatusCode;
use http::header::{CONTENT_TYPE, HeaderMap};
use jsonschema::{PatternOptions, Validator};
use percent_encoding::percent_decode;
use protocol::json;
use protocol::resource::scope::{Fields, Scope};
use serde_json::{Map, Value, json};

use super::answer::Answer;
use super::host::Host;
use super::plugin::{Behaviour, BodyCheck, Plugin, Step};
use super::request::Request;

/// See the module.
pub(crate) static PLUGIN: Plugin =
    Plugin { name: "request-validation", priority: 2800, version: 0.1, schema, read, auth: None, secrets: &[] };

/// What a request is answered that is not as it must be (APISIX's default).
const REJECTED_CODE: u16 = 400;
/// The largest body that is looked at (APISIX's default).
const BODY_BYTES_MAX: u64 = 64 << 20;
const FORM: &str = "application/x-www-form-urlencoded";

#[derive(Debug)]
struct RequestValidation {
    headers: Option<HeaderSchema>,
    body: Option<Arc<Validator>>,
    body_bytes_max: u64,
    status: StatusCode,
    message: Option<Box<str>>,
}

#[derive(Debug)]
struct HeaderSchema {
    validator: Validator,
    /// Names of headers as the schema spells them.
    names: BTreeSet<String>,
}

fn read(fields: &Fields<'_, '_>) -> Option<Box<dyn Behaviour>> {
    if !fields.has("header_schema") && !fields.has("body_schema") {
        fields.wrong("object matches none of the required: [\"header_schema\"] or [\"body_schema\"]");
    }
    let headers = fields.optional("header_schema", |s| {
        let validator = compiled(&s)?;
        let properties = s.value["properties"].as_object().into_iter().flat_map(Map::keys).cloned();
        let required = s.value["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
        Some(HeaderSchema { validator, names: properties.chain(required.map(str::to_owned)).collect() })
    });
    let body = fields.optional("body_schema", |s| compiled(&s).map(Arc::new));
    let status = fields.optional("rejected_code", |s| u16::try_from(s.integer(200, 599)?).ok());
    let message = fields.optional("rejected_msg", |s| s.string(1, 256)).map(Box::from);
    let max = fields.optional("max_req_body_size", |s| u64::try_from(s.integer(1, i64::MAX)?).ok());
    Some(Box::new(RequestValidation {
        headers,
        body,
        body_bytes_max: max.unwrap_or(BODY_BYTES_MAX),
        status: StatusCode::from_u16(status.unwrap_or(REJECTED_CODE)).ok()?,
        message,
    }))
}

/// A schema that refers to nothing outside of itself, with patterns that take time linear in the text.
fn compiled(scope: &Scope<'_, '_>) -> Option<Validator> {
    scope.object()?;
    let options = jsonschema::options().with_draft(jsonschema::Draft::Draft7);
    let compiled = options.with_pattern_options(PatternOptions::regex()).build(scope.value);
    compiled.map_err(|e| scope.wrong(format!("it is no JSON Schema: {e}"))).ok()
}

impl RequestValidation {
    fn check_headers(&self, request: &Request) -> Result<(), String> {
        let Some(schema) = &self.headers else { return Ok(()) };
        valid(&schema.validator, &header_object(&request.headers, &schema.names))
    }

    fn refuse(&self, why: String) -> Step {
        let body = self.message.as_deref().map_or(why, str::to_owned);
        Step::Answer(Answer { body: body.into(), ..Answer::empty(self.status) })
    }
}

fn check_body(schema: &Validator, is_form: bool, body: &[u8]) -> Result<(), String> {
    if body.is_empty() {
        return Err(String::new());
    }
    valid(schema, &if is_form { form(body) } else { parsed(body)? })
}

/// A body that can be read in one way only: what is checked here must be what the upstream reads.
fn parsed(body: &[u8]) -> Result<Value, String> {
    json::parse(body).map_err(|e| e.to_string())
}

fn valid(schema: &Validator, value: &Value) -> Result<(), String> {
    schema.validate(value).map_err(|e| match e.instance_path().to_string() {
        root if root.is_empty() => e.to_string(),
        place => format!("{place}: {e}"),
    })
}

/// Headers by name: in lower case, and as the schema spells those that it names. One that comes several times is a list.
fn header_object(headers: &HeaderMap, names: &BTreeSet<String>) -> Value {
    let of = |name: &str| {
        let values = headers.get_all(name).iter().map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        let mut values: Vec<Value> = values.map(Value::String).collect();
        match values.len() {
            1 => values.remove(0),
            _ => Value::Array(values),
        }
    };
    let mut all: Map<String, Value> = headers.keys().map(|name| (name.to_string(), of(name.as_str()))).collect();
    for name in names.iter().filter(|name| headers.contains_key(name.as_str())) {
        let value = all.remove(&name.to_ascii_lowercase()).unwrap_or_else(|| of(name));
        all.insert(name.clone(), value);
    }
    Value::Object(all)
}

/// The fields of a form: a text each, `true` without one, a list where one comes several times.
fn form(body: &[u8]) -> Value {
    let decode = |text: &[u8]| {
        let spaced: Vec<u8> = text.iter().map(|b| if *b == b'+' { b' ' } else { *b }).collect();
        percent_decode(&spaced).decode_utf8_lossy().into_owned()
    };
    let mut fields = Map::new();
    for pair in body.split(|b| *b == b'&').filter(|pair| !pair.is_empty()) {
        let at = pair.iter().position(|b| *b == b'=');
        let (name, value) = match at {
            Some(at) => (decode(&pair[..at]), Value::String(decode(&pair[at + 1..]))),
            None => (decode(pair), Value::Bool(true)),
        };
        match fields.get_mut(&name) {
            Some(Value::Array(all)) => all.push(value),
            Some(first) => *first = Value::Array(vec![first.take(), value]),
            None => drop(fields.insert(name, value)),
        }
    }
    Value::Object(fields)
}

impl Behaviour for RequestValidation {
    fn rewrite(&self, request: &mut Request, _: &dyn Host) -> Step {
        if let Err(why) = self.check_headers(request) {
            return self.refuse(why);
        }
        let Some(schema) = self.body.clone() else { return Step::Go };
        let is_form = request.header(CONTENT_TYPE.as_str()) == Some(FORM);
        let check = move |body: &[u8]| check_body(&schema, is_form, body);
        Step::Check(Box::new(BodyCheck::new(self.body_bytes_max, check)))
    }

    fn checked(&self, _: &mut Request, _: &dyn Host, result: Result<(), String>) -> Step {
        match result {
            Ok(()) => Step::Go,
            Err(why) => self.refuse(why),
        }
    }
}

fn schema() -> Value {
    json!({
        "properties": {
            "header_schema": { "type": "object", "description": "a JSON Schema (draft 7) of the headers as an object" },
            "body_schema": { "type": "object", "description": "a JSON Schema (draft 7) of the body" },
            "rejected_code": { "type": "integer", "minimum": 200, "maximum": 599, "default": REJECTED_CODE },
            "rejected_msg": { "type": "string", "minLength": 1, "maxLength": 256 },
            "max_req_body_size": { "type": "integer", "minimum": 1, "default": BODY_BYTES_MAX, "description": "in bytes" },
        },
        "anyOf": [{ "required": ["header_schema"] }, { "required": ["body_schema"] }],
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestHost, answer, behaviour, request, rewritten};
    use super::*;

    fn said(conf: &Value, headers: &[(&str, &str)], body: &str) -> Option<(u16, String)> {
        let mut it = request("POST", "/");
        for (name, value) in headers {
            it.headers.append(http::HeaderName::from_bytes(name.as_bytes()).unwrap(), value.parse().unwrap());
        }
        let (step, _) = rewritten(&*behaviour(PLUGIN.name, conf.clone()), &mut it, &TestHost::default(), body);
        answer(&step).map(|a| (a.status.as_u16(), String::from_utf8(a.body.to_vec()).unwrap()))
    }

    #[test]
    fn bodies() {
        let schema = json!({"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}});
        let conf = json!({"body_schema": schema});
        let refused = |text: &str| Some((400, text.to_owned()));
        for (body, expected) in [
            (r#"{"a": 1}"#, None),
            (r#"{"a": "x"}"#, refused("/a: \"x\" is not of type \"integer\"")),
            ("{}", refused("\"a\" is a required property")),
            ("", refused("")),
        ] {
            assert_eq!(said(&conf, &[], body), expected, "{body}");
        }
        assert!(said(&conf, &[], r#"{"a": "x", "a": 1}"#).is_some(), "one that others may read otherwise");
        assert!(said(&conf, &[], "a=1").is_some());
        let texts = json!({"properties": {"a": {"const": "1 2"}, "b": {"const": true}, "c": {"type": "array"}}});
        let form = [("content-type", FORM)];
        assert_eq!(said(&json!({"body_schema": texts}), &form, "a=1+%32&b&c=1&c=2"), None);
        assert!(said(&json!({"body_schema": texts}), &form, "a=2").is_some());
        let worded = json!({"body_schema": {"type": "object"}, "rejected_code": 422, "rejected_msg": "no"});
        assert_eq!(said(&worded, &[], "[]"), Some((422, "no".to_owned())));
        let plugin = behaviour(PLUGIN.name, worded);
        let Step::Check(check) = plugin.rewrite(&mut request("POST", "/"), &TestHost::default()) else {
            panic!("it looks at bodies")
        };
        assert_eq!(check.bytes_max, BODY_BYTES_MAX);
    }

    #[test]
    fn headers() {
        let schema = json!({"type": "object", "required": ["X-Token"],
                            "properties": {"X-Token": {"type": "string", "pattern": "^t"}, "x-n": {"type": "array"}}});
        let conf = json!({"header_schema": schema});
        assert_eq!(said(&conf, &[("x-token", "t1"), ("x-n", "1"), ("x-n", "2"), ("other", "1")], ""), None);
        for headers in [&[][..], &[("x-token", "1")], &[("x-token", "t"), ("x-n", "1")]] {
            assert!(said(&conf, headers, "").is_some(), "{headers:?}");
        }
    }

    #[test]
    fn no_body_is_asked_for_where_the_headers_are_refused() {
        let conf = json!({"header_schema": {"required": ["x-token"]}, "body_schema": {"required": ["a"]}});
        let plugin = behaviour(PLUGIN.name, conf);
        for (token, expected) in [(None, (Some(400), false)), (Some("t"), (None, true))] {
            let mut it = request("POST", "/");
            it.headers.extend(token.map(|token| (http::HeaderName::from_static("x-token"), token.parse().unwrap())));
            let (step, has_asked) = rewritten(&*plugin, &mut it, &TestHost::default(), r#"{"a": 1}"#);
            assert_eq!((answer(&step).map(|a| a.status.as_u16()), has_asked), expected);
        }
    }

    #[test]
    fn fuzz_every_field_of_a_form_is_looked_at() {
        let seeds: [&[u8]; 4] = [b"a=1+%32&b&c=1&c=2", b"a=%zz&=&==&&", b"a&a=1&a", b"%61=%00%ff&a="];
        fuzz::hammer(1, &seeds, |bytes| {
            let Value::Object(fields) = form(bytes) else { panic!("no object") };
            let values = |value: &Value| value.as_array().map_or(1, Vec::len);
            let said = bytes.split(|b| *b == b'&').filter(|pair| !pair.is_empty()).count();
            assert_eq!(fields.values().map(values).sum::<usize>(), said, "none is lost, and none is made up");
        });
    }
}
