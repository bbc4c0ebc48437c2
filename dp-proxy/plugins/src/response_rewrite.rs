//! `response-rewrite`: changes what the client is answered.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::StatusCode;
use protocol::resource::Expression;
use protocol::resource::scope::Fields;
use serde_json::{Value, json};

use super::answer::Response;
use super::header_edits::{self, HeaderEdits};
use super::host::Host;
use super::plugin::{Behaviour, Plugin, check_variables, not_served};
use super::request::Request;

/// See the module.
pub(crate) static PLUGIN: Plugin =
    Plugin { name: "response-rewrite", priority: 899, version: 0.1, schema, read, auth: None, secrets: &[] };

#[derive(Debug)]
struct ResponseRewrite {
    status: Option<StatusCode>,
    body: Option<Bytes>,
    headers: HeaderEdits,
    /// Answers for which this does not hold are left alone.
    vars: Option<Expression>,
}

fn read(fields: &Fields<'_, '_>) -> Option<Box<dyn Behaviour>> {
    not_served(fields, "filters");
    let status = fields.optional("status_code", |s| s.integer(200, 598)).and_then(|code| u16::try_from(code).ok());
    let is_base64 = fields.optional("body_base64", |s| s.boolean()).unwrap_or(false);
    let text = fields.optional("body", |s| s.string(0, usize::MAX));
    let body = match text {
        Some(text) if is_base64 => STANDARD.decode(text).ok().filter(|body| !body.is_empty()).map(Bytes::from),
        text => text.map(|text| Bytes::copy_from_slice(text.as_bytes())),
    };
    if is_base64 && body.is_none() {
        fields.rule("body", "invalid base64 content");
    }
    Some(Box::new(ResponseRewrite {
        status: status.and_then(|code| StatusCode::from_u16(code).ok()),
        body,
        headers: fields.optional("headers", HeaderEdits::of_response).unwrap_or_default(),
        vars: fields.optional("vars", |s| {
            let vars = Expression::read(&s)?;
            check_variables(&s, vars.variables());
            Some(vars)
        }),
    }))
}

impl Behaviour for ResponseRewrite {
    fn header_filter(&self, request: &Request, response: &mut Response<'_>, host: &dyn Host) {
        let mut seen = request.seen(host);
        seen.status = Some(response.status.as_u16());
        if self.vars.as_ref().is_some_and(|vars| !vars.holds(&seen)) {
            return;
        }
        if let Some(status) = self.status {
            *response.status = status;
        }
        if let Some(body) = &self.body {
            response.body = Some(body.clone());
        }
        self.headers.apply(response.headers, &seen);
    }
}

fn schema() -> Value {
    json!({ "properties": {
        "status_code": { "type": "integer", "minimum": 200, "maximum": 598 },
        "body": { "type": "string" },
        "body_base64": { "type": "boolean", "default": false },
        "headers": header_edits::schema(json!({ "type": ["array", "string", "number"] })),
        "vars": { "type": "array", "description": "conditions, as in `vars` of a route, also on `status`" },
        "max_resp_body_size": { "type": "integer", "minimum": 1 },
    } })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestHost, behaviour, filtered, request};
    use super::*;

    #[test]
    fn answers_are_changed_where_the_condition_holds() {
        let conf = json!({
            "status_code": 418, "body": "aGk=", "body_base64": true, "vars": [["status", ">=", 500]],
            "headers": {"add": ["Set-Cookie: a=b"], "set": {"X-By": "$remote_addr"}, "remove": ["X-Gone"]},
        });
        let plugin = behaviour(PLUGIN.name, conf);
        let (host, it) = (TestHost::default(), request("GET", "/a"));
        let sent = [("x-gone", "1"), ("set-cookie", "c=d")];
        let (status, headers, body) = filtered(&*plugin, &it, &host, 502, &sent);
        assert_eq!((status, body.as_deref()), (418, Some(&b"hi"[..])));
        let cookies: Vec<_> = headers.get_all("set-cookie").iter().collect();
        assert_eq!(cookies, ["c=d", "a=b"]);
        assert_eq!((headers.get("x-gone"), headers["x-by"].to_str().unwrap()), (None, "127.0.0.1"));
        let (status, headers, body) = filtered(&*plugin, &it, &host, 200, &sent);
        assert_eq!((status, headers.len(), body), (200, 2, None));
    }
}
