//! `gzip`: answers go compressed to clients that take them so.

use http::Method;
use http::header::{ACCEPT_ENCODING, CONTENT_TYPE, HeaderValue, VARY};
use protocol::resource::scope::{Fields, Scope};
use protocol::resource::{Known, Variable};
use serde_json::{Value, json};

use super::answer::Response;
use super::host::Host;
use super::plugin::{Behaviour, Plugin};
use super::request::Request;

/// See the module.
pub(crate) static PLUGIN: Plugin =
    Plugin { name: "gzip", priority: 995, version: 0.1, schema, read, auth: None, secrets: &[] };

const DEFAULT_TYPE: &str = "text/html";
/// The shortest answer that is compressed, in bytes (APISIX's default).
const MIN_LENGTH: u64 = 20;

#[derive(Debug)]
struct Gzip {
    /// Media types; `None`: all.
    types: Option<Vec<Box<str>>>,
    min_length: u64,
    level: u32,
    /// Whether clients of HTTP/1.0 are served too.
    with_http_10: bool,
    vary: bool,
}

fn read(fields: &Fields<'_, '_>) -> Option<Box<dyn Behaviour>> {
    let types = match fields.get("types") {
        Some(scope) => read_types(&scope)?,
        None => Some(vec![DEFAULT_TYPE.into()]),
    };
    let min_length = fields.optional("min_length", |s| u64::try_from(s.integer(1, i64::MAX)?).ok());
    let level = fields.optional("comp_level", |s| u32::try_from(s.integer(1, 9)?).ok());
    let with_http_10 = fields.optional("http_version", |s| match s.value.as_f64() {
        Some(1.0) => Some(true),
        Some(1.1) => Some(false),
        _ => {
            s.wrong("matches none of the enum values");
            None
        }
    });
    // How nginx buffers; what is compressed here is passed on as it comes.
    fields.optional("buffers", |s| {
        let fields = s.object()?;
        fields.allow_unknown();
        fields.optional("number", |s| s.integer(1, i64::MAX));
        fields.optional("size", |s| s.integer(1, i64::MAX));
        Some(())
    });
    let vary = fields.optional("vary", |s| s.boolean()).unwrap_or(false);
    Some(Box::new(Gzip {
        types,
        min_length: min_length.unwrap_or(MIN_LENGTH),
        level: level.unwrap_or(1),
        with_http_10: with_http_10.unwrap_or(false),
        vary,
    }))
}

/// A list, or `"*"`.
#[expect(clippy::option_option, reason = "wrong, all types, or these")]
fn read_types(scope: &Scope<'_, '_>) -> Option<Option<Vec<Box<str>>>> {
    match scope.value {
        Value::String(all) if all == "*" => Some(None),
        Value::Array(_) => scope.all(scope.items(1)?, |item| item.string(1, usize::MAX).map(Box::from)).map(Some),
        _ => {
            scope.wrong("object matches none of the required");
            None
        }
    }
}

impl Gzip {
    fn takes(&self, request: &Request, response: &Response<'_>, host: &dyn Host) -> bool {
        // As nginx: without a type nothing is compressed.
        let Some(kind) = response.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()) else { return false };
        let kind = kind.split(';').next().unwrap_or_default().trim();
        let version = host.values().value(&Variable::Known(Known::ServerProtocol)).unwrap_or_default();
        self.types.as_ref().is_none_or(|types| types.iter().any(|known| known.eq_ignore_ascii_case(kind)))
            && response.length.is_none_or(|length| length >= self.min_length)
            && (self.with_http_10 || *version != *b"HTTP/1.0")
            // The length of what a call of gRPC carries stands in it.
            && !kind.starts_with("application/grpc")
            && request.method != Method::HEAD
            && host.header(&ACCEPT_ENCODING).is_some_and(|value| takes_gzip(value.as_bytes()))
    }
}

/// Whether an `Accept-Encoding` takes gzip (RFC 9110 §12.5.3).
fn takes_gzip(value: &[u8]) -> bool {
    let text = str::from_utf8(value).unwrap_or_default();
    let weight = |wanted: &str| {
        text.split(',').find_map(|coding| {
            let (name, parameters) = coding.split_once(';').unwrap_or((coding, ""));
            let (parameter, weight) = parameters.split_once('=').unwrap_or(("", ""));
            let weight = if parameter.trim().eq_ignore_ascii_case("q") { weight } else { "1" };
            name.trim().eq_ignore_ascii_case(wanted).then(|| weight.trim().parse::<f32>().unwrap_or(0.0))
        })
    };
    weight("gzip").or_else(|| weight("*")).is_some_and(|weight| weight > 0.0)
}

impl Behaviour for Gzip {
    fn header_filter(&self, request: &Request, response: &mut Response<'_>, host: &dyn Host) {
        if !self.takes(request, response, host) {
            return;
        }
        response.gzip_level = Some(self.level);
        if self.vary {
            response.headers.append(VARY, HeaderValue::from_static("Accept-Encoding"));
        }
    }
}

fn schema() -> Value {
    let number = |default: u32| json!({ "type": "integer", "minimum": 1, "default": default });
    json!({ "properties": {
        "types": {
            "anyOf": [
                { "type": "array", "minItems": 1, "items": { "type": "string", "minLength": 1 } },
                { "enum": ["*"] },
            ],
            "default": [DEFAULT_TYPE],
        },
        "min_length": { "type": "integer", "minimum": 1, "default": MIN_LENGTH,
                        "description": "in bytes; an answer of unknown length is compressed" },
        "comp_level": { "type": "integer", "minimum": 1, "maximum": 9, "default": 1 },
        "http_version": { "enum": [1.1, 1.0], "default": 1.1 },
        "buffers": { "type": "object", "properties": { "number": number(32), "size": number(4096) },
                     "description": "taken, and without effect" },
        "vary": { "type": "boolean" },
    } })
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use http::header::HeaderMap;

    use super::super::testing::{TestHost, behaviour, request};
    use super::*;

    fn level(conf: &Value, method: &str, accepts: &str, kind: &str, length: Option<u64>) -> (Option<u32>, bool) {
        let mut host = TestHost::default();
        host.headers.insert(ACCEPT_ENCODING, accepts.parse().unwrap());
        let (mut status, mut headers) = (StatusCode::OK, HeaderMap::new());
        headers.insert(CONTENT_TYPE, kind.parse().unwrap());
        let mut response = Response::new(&mut status, &mut headers);
        response.length = length;
        behaviour(PLUGIN.name, conf.clone()).header_filter(&request(method, "/"), &mut response, &host);
        (response.gzip_level, headers.contains_key(VARY))
    }

    #[test]
    fn what_is_compressed() {
        let html = "text/html; charset=utf-8";
        let types = json!({"types": ["text/plain", "application/json"], "comp_level": 6, "vary": true});
        for (conf, method, accepts, kind, length, expected) in [
            (json!({}), "GET", "gzip", html, Some(20), (Some(1), false)),
            (json!({}), "GET", "br, GZIP;q=0.5", html, None, (Some(1), false)),
            (json!({}), "GET", "*", html, None, (Some(1), false)),
            (json!({}), "GET", "gzip;q=0, *", html, None, (None, false)),
            (json!({}), "GET", "gzip; Q=0", html, None, (None, false)),
            (json!({}), "GET", "gzip;Q=0.1", html, None, (Some(1), false)),
            (json!({}), "GET", "br", html, None, (None, false)),
            (json!({}), "HEAD", "gzip", html, None, (None, false)),
            (json!({}), "GET", "gzip", html, Some(19), (None, false)),
            (json!({}), "GET", "gzip", "text/plain", None, (None, false)),
            (types.clone(), "GET", "gzip", "Application/JSON", None, (Some(6), true)),
            (types, "GET", "gzip", html, None, (None, false)),
            (json!({"types": "*"}), "GET", "gzip", "image/png", None, (Some(1), false)),
            (json!({"types": "*"}), "GET", "gzip", "application/grpc+proto", None, (None, false)),
            (json!({"min_length": 1000}), "GET", "gzip", html, Some(999), (None, false)),
        ] {
            assert_eq!(level(&conf, method, accepts, kind, length), expected, "{conf} {method} {accepts} {kind}");
        }
    }

    #[test]
    fn fuzz_only_who_names_it_takes_it() {
        let seeds: [&[u8]; 4] = [b"gzip, br;q=0.5, *;q=0", b"GZIP ; q=1", b"identity;q=1, *;q=0.1", b"gzip;q=0.000"];
        fuzz::hammer(1, &seeds, |bytes| {
            let names = bytes.contains(&b'*') || bytes.windows(4).any(|name| name.eq_ignore_ascii_case(b"gzip"));
            assert!(names || !takes_gzip(bytes));
            assert!(!takes_gzip(&[b"gzip;q=0,", bytes].concat()), "who refuses it first has refused it");
        });
    }
}
