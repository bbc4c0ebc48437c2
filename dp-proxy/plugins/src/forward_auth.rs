//! `forward-auth`: another server is asked about each request before it goes on.
//!
//! ```text
//!   client -> proxy -- head of the request --> authorization server
//!                   <-- under 300: goes on, with headers of that answer; else: the client is answered so
//! ```

use std::time::Duration;

use http::header::{CONTENT_ENCODING, HeaderMap, HeaderName, HeaderValue};
use http::{Method, StatusCode, Uri};
use protocol::resource::scope::{Fields, Scope, check};
use protocol::resource::{Known, Upstream, Variable, VariableText};
use serde_json::{Value, json};

use super::answer::Answer;
use super::header_edits::{editable_name, header_name, is_ours, template};
use super::host::Host;
use super::plugin::{Behaviour, Call, Destination, Plugin, Reply, Step};
use super::request::Request;

/// See the module.
pub(crate) static PLUGIN: Plugin =
    Plugin { name: "forward-auth", priority: 2002, version: 0.1, schema, read, auth: None, secrets: &[] };

/// How long an answer is waited for, in milliseconds (APISIX's default).
const TIMEOUT_MS: u64 = 3000;
/// What a client is answered when the server cannot be asked (APISIX's default).
const STATUS_ON_ERROR: u16 = 403;
/// The largest body that is passed on to the server (APISIX's default).
const BODY_BYTES_MAX: u64 = 64 << 20;
const KEEPALIVE_MS: u64 = 60_000;
const KEEPALIVE_POOL: u64 = 5;

const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_METHOD: HeaderName = HeaderName::from_static("x-forwarded-method");
const FORWARDED_URI: HeaderName = HeaderName::from_static("x-forwarded-uri");

#[derive(Debug)]
struct ForwardAuth {
    server: [Destination; 1],
    target: Box<str>,
    method: Method,
    timeout: Duration,
    /// Of the client's headers, those that the server is told.
    request_headers: Vec<HeaderName>,
    extra_headers: Vec<(HeaderName, VariableText)>,
    /// Of the server's headers, those that the upstream gets, or that it does not get from the client.
    upstream_headers: Vec<HeaderName>,
    /// Of the server's headers, those that a refused client gets.
    client_headers: Vec<HeaderName>,
    status_on_error: StatusCode,
    /// Whether requests go on when the server cannot be asked.
    allow_degradation: bool,
    /// The largest body that is passed on; `None`: none is.
    body_bytes_max: Option<u64>,
}

fn read(fields: &Fields<'_, '_>) -> Option<Box<dyn Behaviour>> {
    let milliseconds = |name, default: u64, min: i64, max: i64| {
        fields.optional(name, |s| u64::try_from(s.integer(min, max)?).ok()).unwrap_or(default)
    };
    let timeout = Duration::from_millis(milliseconds("timeout", TIMEOUT_MS, 1, 60_000));
    let keepalive = fields.optional("keepalive", |s| s.boolean()).unwrap_or(true);
    let idle = milliseconds("keepalive_timeout", KEEPALIVE_MS, 1000, i64::MAX);
    let size = milliseconds("keepalive_pool", KEEPALIVE_POOL, 1, i64::from(u32::MAX));
    let verify = fields.optional("ssl_verify", |s| s.boolean()).unwrap_or(true);
    let server = fields.required("uri", |s| {
        let uri: Option<Uri> = s.string(0, usize::MAX)?.parse().ok();
        let server = uri.as_ref().and_then(|uri| {
            let seconds = timeout.as_secs_f64();
            let mut pool = json!({ "size": size, "idle_timeout": idle / 1000 });
            if !keepalive {
                pool["requests"] = json!(1);
            }
            let body = json!({
                "scheme": uri.scheme_str()?, "pass_host": "node", "tls": { "verify": verify }, "keepalive_pool": pool,
                "timeout": { "connect": seconds, "send": seconds, "read": seconds },
                "nodes": [{ "host": uri.host()?, "port": uri.port_u16().unwrap_or(if uri.scheme_str()? == "https" { 443 } else { 80 }), "weight": 1 }],
            });
            let is_http = matches!(uri.scheme_str()?, "http" | "https");
            check(&body, Upstream::read).ok().filter(|_| is_http)
        });
        if server.is_none() {
            s.wrong("it is no http or https URI with a host");
        }
        let target = uri?.path_and_query().map_or("/", |target| target.as_str()).into();
        Some((Destination::Own(Box::new(server?)), target))
    });
    let method = fields.optional("request_method", |s| s.one_of(&[("GET", false), ("POST", true)]));
    let is_post = method.unwrap_or(false);
    let body_bytes_max = milliseconds("max_req_body_size", BODY_BYTES_MAX, 1, i64::MAX);
    let names = |name| fields.optional(name, header_names).unwrap_or_default();
    let status = fields.optional("status_on_error", |s| u16::try_from(s.integer(200, 599)?).ok());
    let (request_headers, upstream_headers) = (names("request_headers"), names("upstream_headers"));
    let client_headers = names("client_headers");
    let extra_headers = fields.optional("extra_headers", |s| {
        s.all(s.members()?, |(name, value)| {
            Some((editable_name(&value, name)?, template(&value, value.string(0, usize::MAX)?)?))
        })
    });
    let allow_degradation = fields.optional("allow_degradation", |s| s.boolean()).unwrap_or(false);
    let (destination, target) = server?;
    Some(Box::new(ForwardAuth {
        server: [destination],
        target,
        method: if is_post { Method::POST } else { Method::GET },
        timeout,
        request_headers,
        extra_headers: extra_headers.unwrap_or_default(),
        upstream_headers,
        client_headers,
        status_on_error: StatusCode::from_u16(status.unwrap_or(STATUS_ON_ERROR)).ok()?,
        allow_degradation,
        body_bytes_max: is_post.then_some(body_bytes_max),
    }))
}

fn header_names(scope: Scope<'_, '_>) -> Option<Vec<HeaderName>> {
    // APISIX's own default is an empty object.
    if scope.value.as_object().is_some_and(serde_json::Map::is_empty) {
        return Some(Vec::new());
    }
    scope.all(scope.items(0)?, |item| header_name(&item))
}

impl ForwardAuth {
    /// What the server is told beside what upstreams are told of clients anyway.
    fn headers(&self, request: &Request, host: &dyn Host) -> HeaderMap {
        let value = |known| {
            let value = host.values().value(&Variable::Known(known)).unwrap_or_default();
            HeaderValue::from_bytes(&value).ok()
        };
        let proto = HeaderValue::from_static(if request.secure { "https" } else { "http" });
        let own = [
            (FORWARDED_PROTO, Some(proto)),
            (FORWARDED_METHOD, value(Known::RequestMethod)),
            (FORWARDED_URI, value(Known::RequestUri)),
        ];
        let mut headers: HeaderMap = own.into_iter().filter_map(|(name, value)| Some((name, value?))).collect();
        for (name, text) in &self.extra_headers {
            if let Ok(value) = HeaderValue::from_bytes(&text.fill_all(&request.seen(host))) {
                headers.insert(name.clone(), value);
            }
        }
        // Without it the server could not read the body that it gets.
        let of_body = self.body_bytes_max.map(|_| CONTENT_ENCODING);
        for name in self.request_headers.iter().chain(&of_body).filter(|name| !is_ours(name)) {
            if headers.contains_key(name) {
                continue;
            }
            for value in request.headers.get_all(name) {
                headers.append(name.clone(), value.clone());
            }
        }
        headers
    }
}

impl Behaviour for ForwardAuth {
    fn destinations(&self) -> &[Destination] {
        &self.server
    }

    fn rewrite(&self, request: &mut Request, host: &dyn Host) -> Step {
        Step::Call(Box::new(Call {
            destination: 0,
            method: self.method.clone(),
            target: self.target.to_string(),
            headers: self.headers(request, host),
            body_bytes_max: self.body_bytes_max,
            timeout: self.timeout,
        }))
    }

    fn replied(&self, request: &mut Request, reply: Option<Reply>) -> Step {
        let is_refused = |reply: &Reply| reply.status.as_u16() >= 300;
        match reply {
            // The status has been said: what becomes of the body behind it does not let anybody in.
            Some(reply) if is_refused(&reply) => {
                let mut answer = Answer { body: reply.body.unwrap_or_default(), ..Answer::empty(reply.status) };
                pass_on(&self.client_headers, &reply.headers, &mut answer.headers);
                Step::Answer(answer)
            }
            Some(Reply { headers, body: Some(_), .. }) => {
                pass_on(&self.upstream_headers, &headers, &mut request.headers);
                Step::Go
            }
            _ if self.allow_degradation => {
                pass_on(&self.upstream_headers, &HeaderMap::new(), &mut request.headers);
                Step::Go
            }
            _ => Step::Answer(Answer::empty(self.status_on_error)),
        }
    }
}

/// Puts what the server says under these names in place of what was there, which must not be taken for its word: also where
/// it says nothing.
fn pass_on(names: &[HeaderName], said: &HeaderMap, headers: &mut HeaderMap) {
    for name in names.iter().filter(|name| !is_ours(name)) {
        headers.remove(name);
        for value in said.get_all(name) {
            headers.append(name.clone(), value.clone());
        }
    }
}

fn schema() -> Value {
    let names = |what: &str| json!({ "type": ["array", "object"], "items": { "type": "string" }, "description": what });
    json!({
        "properties": {
            "uri": { "type": "string", "description": "of the authorization server" },
            "allow_degradation": { "type": "boolean", "default": false,
                                   "description": "requests go on when the server cannot be asked" },
            "status_on_error": { "type": "integer", "minimum": 200, "maximum": 599, "default": STATUS_ON_ERROR },
            "ssl_verify": { "type": "boolean", "default": true },
            "request_method": { "enum": ["GET", "POST"], "default": "GET",
                                "description": "POST: the request's body is passed on" },
            "request_headers": names("of the client's headers, those that the server gets"),
            "extra_headers": { "type": "object", "minProperties": 1, "additionalProperties": { "type": "string" },
                               "description": "more headers for the server; may hold variables" },
            "upstream_headers": names("of the server's headers, those that the upstream gets"),
            "client_headers": names("of the server's headers, those that a refused client gets"),
            "timeout": { "type": "integer", "minimum": 1, "maximum": 60_000, "default": TIMEOUT_MS,
                         "description": "in milliseconds, for the whole of it" },
            "keepalive": { "type": "boolean", "default": true },
            "keepalive_timeout": { "type": "integer", "minimum": 1000, "default": KEEPALIVE_MS },
            "keepalive_pool": { "type": "integer", "minimum": 1, "default": KEEPALIVE_POOL },
            "max_req_body_size": { "type": "integer", "minimum": 1, "default": BODY_BYTES_MAX,
                                   "description": "in bytes, of a body that is passed on" },
        },
        "required": ["uri"],
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestHost, answer, behaviour, request};
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    fn replying(status: u16, pairs: &[(&'static str, &'static str)]) -> Option<Reply> {
        let body = Some("said".into());
        Some(Reply { status: StatusCode::from_u16(status).unwrap(), headers: headers(pairs), body })
    }

    #[test]
    fn the_server_is_told_of_the_request() {
        let plugin = behaviour(
            PLUGIN.name,
            json!({
                "uri": "https://auth.example/check?x=1", "timeout": 500, "keepalive": false,
                "request_headers": ["Authorization", "Host", "X-None"], "extra_headers": {"X-Path": "$uri"},
            }),
        );
        let [Destination::Own(server)] = plugin.destinations() else { panic!("one server") };
        assert!(server.tls.as_ref().is_some_and(|tls| tls.verify) && server.keepalive_pool.requests == 1);
        let host = TestHost { path: "/a?b=1".to_owned(), ..TestHost::default() };
        let mut it = request("GET", "/a?b=1");
        it.headers = headers(&[("authorization", "x"), ("host", "h"), ("cookie", "c=1")]);
        it.secure = true;
        let Step::Call(call) = plugin.rewrite(&mut it, &host) else { panic!("a call") };
        assert_eq!((call.method, call.target.as_str(), call.body_bytes_max), (Method::GET, "/check?x=1", None));
        assert_eq!(call.timeout, Duration::from_millis(500));
        let expected = [
            ("x-forwarded-proto", "https"),
            ("x-forwarded-method", "GET"),
            ("x-forwarded-uri", "/a?b=1"),
            ("x-path", "/a"),
            ("authorization", "x"),
        ];
        assert_eq!(call.headers, headers(&expected));
        let post = behaviour(PLUGIN.name, json!({"uri": "http://a", "request_method": "POST", "max_req_body_size": 9}));
        it.headers = headers(&[("content-encoding", "gzip"), ("authorization", "x")]);
        let Step::Call(call) = post.rewrite(&mut it, &host) else { panic!("a call") };
        assert_eq!((call.method, call.body_bytes_max), (Method::POST, Some(9)));
        assert_eq!(call.headers["content-encoding"], "gzip", "how the body that goes with it is to be read");
        assert!(!call.headers.contains_key("authorization"));
    }

    #[test]
    fn what_the_server_says_holds() {
        let conf =
            json!({"uri": "http://a:1", "upstream_headers": ["X-User", "X-Gone"], "client_headers": ["Location"]});
        let plugin = behaviour(PLUGIN.name, conf);
        let mut it = request("GET", "/");
        it.headers = headers(&[("x-user", "forged"), ("x-gone", "forged"), ("x-kept", "1")]);
        assert_eq!(plugin.replied(&mut it, replying(204, &[("x-user", "jack"), ("x-other", "1")])), Step::Go);
        assert_eq!(it.headers, headers(&[("x-user", "jack"), ("x-kept", "1")]));
        let step = plugin.replied(&mut it, replying(302, &[("location", "/login"), ("x-other", "1")]));
        let refused = answer(&step).unwrap();
        assert_eq!((refused.status.as_u16(), &refused.body[..]), (302, &b"said"[..]));
        assert_eq!(refused.headers, headers(&[("location", "/login")]));
    }

    #[test]
    fn a_refusal_holds_whatever_becomes_of_its_body() {
        let without_body = |status| replying(status, &[("x-user", "jack")]).map(|reply| Reply { body: None, ..reply });
        for allow in [false, true] {
            let plugin = behaviour(PLUGIN.name, json!({"uri": "http://a:1", "allow_degradation": allow}));
            let step = plugin.replied(&mut request("GET", "/"), without_body(401));
            let refused = answer(&step).unwrap();
            assert_eq!((refused.status.as_u16(), refused.body.len()), (401, 0));
            // One that would let in has not been heard to its end.
            let step = plugin.replied(&mut request("GET", "/"), without_body(200));
            assert_eq!(answer(&step).map(|a| a.status.as_u16()), (!allow).then_some(403));
        }
    }

    #[test]
    fn a_server_that_cannot_be_asked_lets_nobody_in_unless_it_may() {
        for (more, expected) in [
            (json!({}), Some(403)),
            (json!({"status_on_error": 502}), Some(502)),
            (json!({"allow_degradation": true}), None),
        ] {
            let mut conf = json!({"uri": "http://a:1"});
            conf.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let step = behaviour(PLUGIN.name, conf).replied(&mut request("GET", "/"), None);
            assert_eq!(answer(&step).map(|a| a.status.as_u16()), expected, "{more}");
        }
        // Nobody vouches for what the client says in the server's place.
        let conf = json!({"uri": "http://a:1", "allow_degradation": true, "upstream_headers": ["X-User"]});
        let mut it = request("GET", "/");
        it.headers = headers(&[("x-user", "forged"), ("x-kept", "1")]);
        assert_eq!(behaviour(PLUGIN.name, conf).replied(&mut it, None), Step::Go);
        assert_eq!(it.headers, headers(&[("x-kept", "1")]));
    }
}
