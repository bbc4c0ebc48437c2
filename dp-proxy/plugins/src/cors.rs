//! `cors`: tells browsers which other origins may read the answers (Fetch §3.3).

use http::header::{
    ACCESS_CONTROL_ALLOW_CREDENTIALS, ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS,
    ACCESS_CONTROL_ALLOW_ORIGIN, ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    HeaderMap, HeaderName, HeaderValue, ORIGIN, VARY,
};
use http::{Method, StatusCode};
use protocol::resource::scope::{Fields, Scope};
use regex::bytes::Regex;
use serde_json::{Value, json};

use super::answer::{Answer, Response};
use super::host::Host;
use super::metadata::Metadata;
use super::plugin::{Behaviour, Plugin, Step};
use super::regex_uri::pattern;
use super::request::Request;

/// See the module.
pub(crate) static PLUGIN: Plugin =
    Plugin { name: "cors", priority: 4000, version: 0.1, schema, read, auth: None, secrets: &[] };

const EVERY_METHOD: HeaderValue = HeaderValue::from_static("GET,POST,PUT,DELETE,PATCH,HEAD,OPTIONS,CONNECT,TRACE");
const TIMING_ALLOW_ORIGIN: HeaderName = HeaderName::from_static("timing-allow-origin");

#[derive(Debug)]
struct Cors {
    origins: Origins,
    /// Lists of origins in the metadata that may too, by their names.
    by_metadata: Vec<Box<str>>,
    timing: Option<Origins>,
    methods: HeaderValue,
    /// `None`: those that the client asks for.
    headers: Option<HeaderValue>,
    expose: Option<HeaderValue>,
    max_age: HeaderValue,
    credentials: bool,
}

/// Which origins may.
#[derive(Debug)]
enum Origins {
    /// All of them, without credentials.
    Any,
    /// All of them, each by its name.
    Forced,
    /// These, and those that a pattern takes.
    Listed { origins: Vec<Box<str>>, patterns: Vec<Regex> },
}

fn read(fields: &Fields<'_, '_>) -> Option<Box<dyn Behaviour>> {
    let by_metadata = fields.optional("allow_origins_by_metadata", |s| {
        s.all(s.unique_items(1)?, |item| item.string(1, 4096).map(Box::from))
    });
    let origins = Origins::read(fields, "allow_origins", "allow_origins_by_regex");
    let timing = Origins::read(fields, "timing_allow_origins", "timing_allow_origins_by_regex");
    let methods = text(fields, "allow_methods").unwrap_or("*");
    let headers = text(fields, "allow_headers").unwrap_or("*");
    let expose = text(fields, "expose_headers");
    let max_age = fields.optional("max_age", |s| s.integer(-1, i64::MAX)).unwrap_or(5);
    let credentials = fields.optional("allow_credential", |s| s.boolean()).unwrap_or(false);
    let all_origins = matches!(origins, None | Some(Origins::Any));
    if credentials && (all_origins || [Some(methods), Some(headers), expose].contains(&Some("*"))) {
        fields.rule("allow_credential", "you can not set '*' for other option when 'allow_credential' is true");
    }
    let value = |text: &str| HeaderValue::from_str(text).ok();
    Some(Box::new(Cors {
        origins: origins.unwrap_or(Origins::Any),
        by_metadata: by_metadata.unwrap_or_default(),
        timing,
        methods: if methods == "**" { EVERY_METHOD } else { value(methods)? },
        headers: if headers == "**" { None } else { Some(value(headers)?) },
        expose: expose.and_then(value),
        max_age: HeaderValue::from(max_age),
        credentials,
    }))
}

pub(crate) fn read_metadata(fields: &Fields<'_, '_>) -> Option<Metadata> {
    let lists = fields.optional("allow_origins", |s| {
        s.all(s.members()?, |(name, value)| Some((Box::from(name), Box::from(origins(value)?))))
    });
    Some(Metadata::Origins(lists.unwrap_or_default().into_iter().collect()))
}

pub(crate) fn metadata_schema() -> Value {
    let lists = json!({ "type": "object", "additionalProperties": { "type": "string" },
                        "description": "lists of origins, by the names in allow_origins_by_metadata" });
    json!({ "properties": { "allow_origins": lists } })
}

fn text<'v>(fields: &Fields<'v, '_>, field: &'static str) -> Option<&'v str> {
    fields.optional(field, |s| {
        let text = s.string(0, usize::MAX)?;
        s.pattern(text, "^[ -~]*$", |text| HeaderValue::from_str(text).is_ok())
    })
}

impl Origins {
    fn read(fields: &Fields<'_, '_>, by_name: &'static str, by_regex: &'static str) -> Option<Self> {
        let patterns = fields.optional(by_regex, |s| s.all(s.unique_items(1)?, |item| pattern(&item)));
        let named = fields.optional(by_name, origins);
        match (named, patterns) {
            // Patterns take the place of the default, which is all origins.
            (None | Some("*"), Some(patterns)) => Some(Self::Listed { origins: Vec::new(), patterns }),
            (None, None) => None,
            (Some("*"), None) => Some(Self::Any),
            (Some("**"), _) => Some(Self::Forced),
            (Some(list), patterns) => Some(Self::Listed {
                origins: list.split(',').map(Box::from).collect(),
                patterns: patterns.unwrap_or_default(),
            }),
        }
    }

    /// What is told to a client from `origin`; `None`: nothing.
    fn told(&self, origin: Option<&HeaderValue>) -> Option<HeaderValue> {
        const ANY: HeaderValue = HeaderValue::from_static("*");
        match self {
            Self::Any => Some(ANY),
            Self::Forced => Some(origin.cloned().unwrap_or(ANY)),
            Self::Listed { origins, patterns } => origin
                .filter(|origin| {
                    let bytes = origin.as_bytes();
                    origins.iter().any(|known| known.as_bytes() == bytes) || patterns.iter().any(|p| p.is_match(bytes))
                })
                .cloned(),
        }
    }
}

fn origins<'v>(scope: Scope<'v, '_>) -> Option<&'v str> {
    let text = scope.string(0, usize::MAX)?;
    let is_origin = |origin: &str| {
        let is_scheme =
            |scheme: &str| !scheme.is_empty() && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        origin.split_once("://").is_some_and(|(scheme, rest)| is_scheme(scheme) && !rest.is_empty())
    };
    let good = |text: &str| matches!(text, "*" | "**" | "null") || text.split(',').all(is_origin);
    scope.pattern(text, r"^(\*|\*\*|null|\w+://[^,]+(,\w+://[^,]+)*)$", good)
}

impl Cors {
    /// The origin, where a list in the metadata that is named here has it.
    fn listed_elsewhere(&self, origin: &HeaderValue, host: &dyn Host) -> Option<HeaderValue> {
        if self.by_metadata.is_empty() {
            return None;
        }
        let Some(Metadata::Origins(lists)) = host.metadata(PLUGIN.name) else { return None };
        let has = |list: &str| list == "**" || list.split(',').any(|known| known.as_bytes() == origin.as_bytes());
        let mut named = self.by_metadata.iter().filter_map(|name| lists.get(name));
        named.any(|list| has(list)).then(|| origin.clone())
    }
}

impl Behaviour for Cors {
    fn rewrite(&self, request: &mut Request, _: &dyn Host) -> Step {
        if request.method == Method::OPTIONS { Step::Answer(Answer::empty(StatusCode::OK)) } else { Step::Go }
    }

    fn header_filter(&self, _: &Request, response: &mut Response<'_>, host: &dyn Host) {
        // As the browser said it, whatever the upstream was told.
        let came = |name: &HeaderName| host.header(name);
        let origin = came(&ORIGIN);
        if let Some(told) = self.timing.as_ref().and_then(|timing| timing.told(origin)) {
            response.headers.insert(TIMING_ALLOW_ORIGIN, told);
        }
        let Some(told) = self.origins.told(origin).or_else(|| self.listed_elsewhere(origin?, host)) else { return };
        let headers: &mut HeaderMap = response.headers;
        if told != "*" {
            headers.append(VARY, HeaderValue::from_static("Origin"));
        }
        headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, told);
        headers.insert(ACCESS_CONTROL_ALLOW_METHODS, self.methods.clone());
        headers.insert(ACCESS_CONTROL_MAX_AGE, self.max_age.clone());
        let asked = || came(&ACCESS_CONTROL_REQUEST_HEADERS).cloned();
        for (name, value) in [
            (ACCESS_CONTROL_EXPOSE_HEADERS, self.expose.clone()),
            (ACCESS_CONTROL_ALLOW_HEADERS, self.headers.clone().or_else(asked)),
            (ACCESS_CONTROL_ALLOW_CREDENTIALS, self.credentials.then(|| HeaderValue::from_static("true"))),
        ] {
            if let Some(value) = value {
                headers.insert(name, value);
            }
        }
    }
}

fn schema() -> Value {
    let origins = |default: Option<&str>| {
        let mut schema = json!({ "type": "string", "pattern": r"^(\*|\*\*|null|\w+://[^,]+(,\w+://[^,]+)*)$",
                                 "description": "`*`, `**` (each by its name) or origins with commas" });
        if let Some(default) = default {
            schema["default"] = json!(default);
        }
        schema
    };
    let patterns = json!({ "type": "array", "minItems": 1, "uniqueItems": true,
                           "items": { "type": "string", "minLength": 1, "maxLength": 4096 } });
    let list =
        json!({ "type": "string", "default": "*", "description": "`*`, `**` (all, by name) or names with commas" });
    json!({ "properties": {
        "allow_origins": origins(Some("*")),
        "allow_origins_by_regex": patterns,
        "allow_origins_by_metadata": { "type": "array", "minItems": 1, "uniqueItems": true,
                                       "items": { "type": "string", "minLength": 1, "maxLength": 4096 },
                                       "description": "names of lists in the plugin's metadata" },
        "allow_methods": list,
        "allow_headers": list,
        "expose_headers": { "type": "string" },
        "max_age": { "type": "integer", "minimum": -1, "default": 5, "description": "in seconds" },
        "allow_credential": { "type": "boolean", "default": false },
        "timing_allow_origins": origins(None),
        "timing_allow_origins_by_regex": patterns,
    } })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestHost, behaviour, filtered, request};
    use super::*;

    #[test]
    fn origins_are_told_what_they_may() {
        for (conf, origin, told, vary) in [
            (json!({}), Some("http://a"), Some("*"), None),
            (json!({}), None, Some("*"), None),
            (json!({"allow_origins": "http://a,https://b"}), Some("https://b"), Some("https://b"), Some("Origin")),
            (json!({"allow_origins": "http://a,https://b"}), Some("https://c"), None, None),
            (json!({"allow_origins": "http://a"}), None, None, None),
            (json!({"allow_origins": "**"}), Some("http://x"), Some("http://x"), Some("Origin")),
            (
                json!({"allow_origins_by_regex": [r"^https://.*\.test\.com$"]}),
                Some("https://a.test.com"),
                Some("https://a.test.com"),
                Some("Origin"),
            ),
            (json!({"allow_origins_by_regex": [r"^https://.*\.test\.com$"]}), Some("https://a.example"), None, None),
        ] {
            let plugin = behaviour(PLUGIN.name, conf.clone());
            let (mut it, mut host) = (request("GET", "/a"), TestHost::default());
            if let Some(origin) = origin {
                host.headers.insert(ORIGIN, origin.parse().unwrap());
            }
            // What another plugin tells the upstream is not what the browser said.
            it.headers.insert(ORIGIN, "https://rewritten.test.com".parse().unwrap());
            let (_, headers, _) = filtered(&*plugin, &it, &host, 200, &[]);
            let header = |name: HeaderName| headers.get(name).map(|value| value.to_str().unwrap());
            assert_eq!((header(ACCESS_CONTROL_ALLOW_ORIGIN), header(VARY)), (told, vary), "{conf} {origin:?}");
            assert_eq!(header(ACCESS_CONTROL_MAX_AGE), told.map(|_| "5"));
        }
    }

    #[test]
    fn a_preflight_is_answered_here() {
        let conf = json!({"allow_origins": "**", "allow_methods": "**", "allow_headers": "**", "expose_headers": "X-A",
                          "max_age": 60, "allow_credential": true});
        let plugin = behaviour(PLUGIN.name, conf);
        let (mut it, mut host) = (request("OPTIONS", "/a"), TestHost::default());
        host.headers.insert(ORIGIN, "http://x".parse().unwrap());
        host.headers.insert(ACCESS_CONTROL_REQUEST_HEADERS, "x-b".parse().unwrap());
        assert_eq!(plugin.rewrite(&mut it, &host), Step::Answer(Answer::empty(StatusCode::OK)));
        let (_, headers, _) = filtered(&*plugin, &it, &host, 200, &[]);
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_METHODS], EVERY_METHOD);
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_HEADERS], "x-b");
        assert_eq!(headers[ACCESS_CONTROL_ALLOW_CREDENTIALS], "true");
        assert_eq!(
            (&headers[ACCESS_CONTROL_EXPOSE_HEADERS], &headers[ACCESS_CONTROL_MAX_AGE]),
            (&"X-A".parse().unwrap(), &"60".parse().unwrap())
        );
    }

    #[test]
    fn metadata_lists_origins() {
        let lists = json!({"allow_origins": {"A": "https://a.example,https://b.example", "C": "https://c.example"}});
        let metadata = Metadata::read(PLUGIN.name, &lists).unwrap();
        let conf = json!({"allow_origins": "https://own.example", "allow_origins_by_metadata": ["A", "NONE"]});
        let plugin = behaviour(PLUGIN.name, conf);
        for (origin, expected) in [
            ("https://own.example", true),
            ("https://b.example", true),
            ("https://c.example", false),
            ("https://other.example", false),
        ] {
            let mut host = TestHost { metadata: metadata.clone(), ..Default::default() };
            host.headers.insert(ORIGIN, HeaderValue::from_static(origin));
            let request = request("GET", "/");
            let (_, headers, _) = filtered(&*plugin, &request, &host, 200, &[]);
            assert_eq!(headers.contains_key(ACCESS_CONTROL_ALLOW_ORIGIN), expected, "{origin}");
        }
    }
}
