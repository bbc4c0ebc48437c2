//! `redirect`: sends the client elsewhere.

use http::header::{HeaderValue, LOCATION};
use http::{Method, StatusCode};
use protocol::resource::scope::Fields;
use protocol::resource::{Known, Variable, VariableText};
use serde_json::{Value, json};

use super::answer::Answer;
use super::host::Host;
use super::plugin::{Behaviour, Plugin, Step, check_variables};
use super::regex_uri::{RegexUri, encoded};
use super::request::Request;

/// See the module.
pub(crate) static PLUGIN: Plugin =
    Plugin { name: "redirect", priority: 900, version: 0.1, schema, read, auth: None, secrets: &[] };

#[derive(Debug)]
struct Redirect {
    to: To,
    code: StatusCode,
    append_query: bool,
}

#[derive(Debug)]
enum To {
    /// This place.
    Uri(VariableText),
    /// What the patterns make of the path; nowhere when none matches.
    Pattern(RegexUri),
    /// The same place by TLS, when it was asked for without.
    Https(bool),
}

fn read(fields: &Fields<'_, '_>) -> Option<Box<dyn Behaviour>> {
    let uri = fields.optional("uri", |s| {
        let template = VariableText::parse(s.string(2, 4096)?);
        check_variables(&s, template.variables());
        Some(To::Uri(template))
    });
    let pattern = fields.optional("regex_uri", |s| {
        if s.value.as_array().is_some_and(|items| items.len() > 2) {
            s.wrong("expect array to have at most 2 items");
            return None;
        }
        RegexUri::read(s).map(To::Pattern)
    });
    let https = fields.optional("http_to_https", |s| s.boolean().map(To::Https));
    let code = fields.optional("ret_code", |s| s.integer(200, 599)).unwrap_or(302);
    // What is sent is encoded where it must be, whatever this says.
    fields.optional("encode_uri", |s| s.boolean());
    let append_query = fields.optional("append_query_string", |s| s.boolean()).unwrap_or(false);
    let named = ["uri", "regex_uri", "http_to_https"].iter().filter(|name| fields.has(name)).count();
    if named != 1 {
        let matches = if named == 0 { "none" } else { "several" };
        fields.wrong(format!("value should match only one schema, but matches {matches}"));
    }
    if append_query && fields.has("http_to_https") {
        fields.rule("append_query_string", "only one of `http_to_https` and `append_query_string` can be configured.");
    }
    let code = StatusCode::from_u16(u16::try_from(code).ok()?).ok()?;
    Some(Box::new(Redirect { to: uri.or(pattern).or(https)?, code, append_query }))
}

impl Behaviour for Redirect {
    fn rewrite(&self, request: &mut Request, host: &dyn Host) -> Step {
        let is_safe = [Method::GET, Method::HEAD].contains(&request.method);
        let (place, code) = match &self.to {
            To::Uri(template) => (template.fill_all(&request.seen(host)), self.code),
            // The path and query that the client asked for, whatever the upstream is told.
            To::Pattern(patterns) => match patterns.apply(&text(host, Known::Uri)) {
                Some(place) => (place.into_bytes(), self.code),
                None => return Step::Go,
            },
            To::Https(wanted) if !wanted || request.secure => return Step::Go,
            To::Https(_) => {
                let value = |known| host.values().value(&Variable::Known(known)).unwrap_or_default();
                let place = [b"https://", &*value(Known::Host), &*value(Known::RequestUri)].concat();
                let moved = if is_safe { StatusCode::MOVED_PERMANENTLY } else { StatusCode::PERMANENT_REDIRECT };
                (place, moved)
            }
        };
        let mut place = encoded(&place);
        let query = if self.append_query { text(host, Known::QueryString) } else { String::new() };
        if !query.is_empty() {
            place.push(if place.contains('?') { '&' } else { '?' });
            place.push_str(&query);
        }
        match HeaderValue::from_str(&place) {
            Ok(place) => Step::Answer(Answer::empty(code).with(LOCATION, place)),
            Err(_) => Step::Answer(Answer::empty(StatusCode::INTERNAL_SERVER_ERROR)),
        }
    }
}

fn text(host: &dyn Host, known: Known) -> String {
    let value = host.values().value(&Variable::Known(known)).unwrap_or_default();
    String::from_utf8_lossy(&value).into_owned()
}

fn schema() -> Value {
    json!({
        "properties": {
            "uri": { "type": "string", "minLength": 2, "maxLength": 4096, "description": "may hold variables: $uri" },
            "regex_uri": { "type": "array", "minItems": 2, "maxItems": 2, "items": { "type": "string" },
                           "description": "a pattern of paths, and what takes its place" },
            "http_to_https": { "type": "boolean" },
            "ret_code": { "type": "integer", "minimum": 200, "maximum": 599, "default": 302 },
            "encode_uri": { "type": "boolean", "default": false },
            "append_query_string": { "type": "boolean", "default": false },
        },
        "oneOf": [{ "required": ["uri"] }, { "required": ["regex_uri"] }, { "required": ["http_to_https"] }],
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestHost, answer, behaviour, request};
    use super::*;

    #[test]
    fn where_clients_are_sent() {
        for (conf, method, path, expected) in [
            (json!({"uri": "/hello", "ret_code": 301}), "GET", "/a", Some((301, "/hello"))),
            (json!({"uri": "https://$host$uri/x y"}), "GET", "/a", Some((302, "https://a.example/a/x%20y"))),
            (json!({"uri": "/b", "append_query_string": true}), "GET", "/a?q=1", Some((302, "/b?q=1"))),
            (json!({"uri": "/b?c", "append_query_string": true}), "GET", "/a?q=1", Some((302, "/b?c&q=1"))),
            (json!({"regex_uri": ["^/old/(.*)$", "/new/$1"]}), "GET", "/old/x", Some((302, "/new/x"))),
            (json!({"regex_uri": ["^/old/(.*)$", "/new/$1"]}), "GET", "/other", None),
            (json!({"http_to_https": true}), "GET", "/a?q=1", Some((301, "https://a.example/a?q=1"))),
            (json!({"http_to_https": true}), "POST", "/a", Some((308, "https://a.example/a"))),
            (json!({"http_to_https": false}), "GET", "/a", None),
        ] {
            let host = TestHost { path: path.to_owned(), ..TestHost::default() };
            // What another plugin made of the request is for the upstream.
            let mut it = request(method, "/rewritten?r=1");
            let step = behaviour(PLUGIN.name, conf.clone()).rewrite(&mut it, &host);
            let found = answer(&step).map(|a| (a.status.as_u16(), a.headers[LOCATION].to_str().unwrap()));
            assert_eq!(found, expected, "{conf} {method} {path}");
        }
        let mut secure = request("GET", "/a");
        secure.secure = true;
        let step = behaviour(PLUGIN.name, json!({"http_to_https": true})).rewrite(&mut secure, &TestHost::default());
        assert_eq!(step, Step::Go);
    }
}
