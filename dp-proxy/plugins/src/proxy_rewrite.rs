//! `proxy-rewrite`: changes what the upstream is asked.

use http::Method;
use protocol::resource::VariableText;
use protocol::resource::scope::Fields;
use serde_json::{Value, json};

use super::header_edits::{self, HeaderEdits};
use super::host::Host;
use super::plugin::{Behaviour, Plugin, Step, check_variables, not_served};
use super::regex_uri::{RegexUri, encoded};
use super::request::Request;

/// See the module.
pub(crate) static PLUGIN: Plugin =
    Plugin { name: "proxy-rewrite", priority: 1008, version: 0.1, schema, read, auth: None, secrets: &[] };

const METHODS: [&str; 14] = [
    "TRACE", "GET", "HEAD", "POST", "PUT", "DELETE", "MKCOL", "COPY", "MOVE", "OPTIONS", "PROPFIND", "LOCK", "UNLOCK",
    "PATCH",
];

#[derive(Debug)]
struct ProxyRewrite {
    /// Wins over `regex_uri`.
    uri: Option<VariableText>,
    regex_uri: Option<RegexUri>,
    host: Option<Box<str>>,
    method: Option<Method>,
    headers: HeaderEdits,
}

fn read(fields: &Fields<'_, '_>) -> Option<Box<dyn Behaviour>> {
    not_served(fields, "use_real_request_uri_unsafe");
    not_served(fields, "scheme");
    Some(Box::new(ProxyRewrite {
        uri: fields.optional("uri", |s| {
            let text = s.string(1, 4096)?;
            let template = VariableText::parse(s.pattern(text, r"^\/.*", |text| text.starts_with('/'))?);
            check_variables(&s, template.variables());
            Some(template)
        }),
        regex_uri: fields.optional("regex_uri", RegexUri::read),
        host: fields.optional("host", |s| {
            let text = s.string(0, usize::MAX)?;
            s.pattern(text, r"^[0-9a-zA-Z-.]+(:\d{1,5})?$", is_host).map(Box::from)
        }),
        method: fields.optional("method", |s| {
            let words = METHODS.map(|method| (method, method));
            Method::from_bytes(s.one_of(&words)?.as_bytes()).ok()
        }),
        headers: fields.optional("headers", HeaderEdits::of_request).unwrap_or_default(),
    }))
}

fn is_host(text: &str) -> bool {
    let (name, port) = text.split_once(':').map_or((text, None), |(name, port)| (name, Some(port)));
    let good_port = port.is_none_or(|port| (1..=5).contains(&port.len()) && port.bytes().all(|b| b.is_ascii_digit()));
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.')) && good_port
}

impl Behaviour for ProxyRewrite {
    fn rewrite(&self, request: &mut Request, host: &dyn Host) -> Step {
        let target = match (&self.uri, &self.regex_uri) {
            (Some(template), _) => Some(encoded(&template.fill_all(&request.seen(host)))),
            (None, Some(patterns)) => patterns.apply(&request.path).map(|target| encoded(target.as_bytes())),
            (None, None) => None,
        };
        if let Some(target) = target {
            let (path, own_query) =
                target.split_once('?').map_or((&*target, None), |(path, query)| (path, Some(query)));
            let slash = if path.starts_with('/') { "" } else { "/" };
            request.path = format!("{slash}{path}");
            request.query = match (own_query, request.query.take()) {
                (Some(own), Some(query)) => Some(format!("{own}&{query}")),
                (own, query) => query.or(own.map(str::to_owned)),
            };
        }
        if let Some(method) = &self.method {
            request.method = method.clone();
        }
        if let Some(host) = &self.host {
            request.authority = Some(host.to_string());
        }
        let mut headers = std::mem::take(&mut request.headers);
        self.headers.apply(&mut headers, &request.seen(host));
        request.headers = headers;
        Step::Go
    }
}

fn schema() -> Value {
    let value = json!({ "type": ["string", "number", "array"] });
    json!({ "properties": {
        "uri": { "type": "string", "minLength": 1, "maxLength": 4096, "pattern": "^/",
                 "description": "may hold variables: $arg_name" },
        "regex_uri": { "type": "array", "minItems": 2, "items": { "type": "string" },
                       "description": "patterns of paths, each with what takes its place" },
        "host": { "type": "string", "pattern": r"^[0-9a-zA-Z.-]+(:\d{1,5})?$" },
        "method": { "enum": METHODS },
        "headers": header_edits::schema(json!({ "type": ["object", "string", "number"], "additionalProperties": value })),
    } })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestHost, behaviour, request};
    use super::*;

    fn rewritten(conf: Value, target: &str) -> Request {
        let host = TestHost { path: target.to_owned(), ..TestHost::default() };
        let mut it = request("GET", target);
        it.headers.insert("x-old", "1".parse().unwrap());
        it.headers.insert("x-kept", "1".parse().unwrap());
        assert_eq!(behaviour(PLUGIN.name, conf).rewrite(&mut it, &host), Step::Go);
        it
    }

    #[test]
    fn paths() {
        for (conf, target, path, query) in [
            (json!({"uri": "/x"}), "/a?b=c", "/x", Some("b=c")),
            (json!({"uri": "/x/$remote_addr?d=$host"}), "/a?b=c", "/x/127.0.0.1", Some("d=a.example&b=c")),
            (json!({"uri": "/x y"}), "/a", "/x%20y", None),
            (json!({"regex_uri": ["^/pr/(.*)", "/echo?p=$1"]}), "/pr/abc", "/echo", Some("p=abc")),
            (json!({"regex_uri": ["^/no/(.*)", "/never"]}), "/pr/abc?q", "/pr/abc", Some("q")),
            (json!({"regex_uri": ["^/no$", "/1", "^/(.*)$", "$1"]}), "/pr/abc", "/pr/abc", None),
            (json!({"uri": "/1", "regex_uri": ["a", "b"]}), "/a", "/1", None),
        ] {
            let it = rewritten(conf.clone(), target);
            assert_eq!((it.path.as_str(), it.query.as_deref()), (path, query), "{conf}");
        }
    }

    #[test]
    fn method_host_and_headers() {
        let it = rewritten(
            json!({
                "method": "POST", "host": "new.example:81",
                "headers": {"add": {"X-Kept": [2, "3"]}, "set": {"X-Addr": "a-$remote_addr"}, "remove": ["X-Old"]},
            }),
            "/a",
        );
        assert_eq!((it.method.as_str(), it.authority.as_deref()), ("POST", Some("new.example:81")));
        assert_eq!((it.header("x-addr"), it.header("x-old")), (Some("a-127.0.0.1"), None));
        let kept: Vec<_> = it.headers.get_all("x-kept").iter().collect();
        assert_eq!(kept, ["1", "2", "3"]);
        let flat = rewritten(json!({"headers": {"X-Kept": "$arg_nosuch.", "X-New": 7}}), "/a");
        assert_eq!((flat.header("x-kept"), flat.header("x-new")), (Some("."), Some("7")));
    }
}
