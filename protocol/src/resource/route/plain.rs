//! Routes that are read straight from the text of their bodies.
//!
//! [`Route::read`] says everything that is wrong with a body, and wants a tree of values for that. A proxy reads bodies
//! that were admitted before: here the good ones, which are nearly all, are read without a tree, in a fraction of the
//! time. Whatever is not plainly good is left to the other reader, which decides alone what is wrong; where both have an
//! answer, it is the same one.

use serde::{Deserialize, Deserializer};
use serde_json::{Map, Value};

use super::super::common::{DESC_CHARS_MAX, HostPattern, NAME_CHARS_MAX, Timeouts, is_host, labels, parse_net};
use super::super::expression::Expression;
use super::super::scope::{Scope, check};
use super::super::table::IdRule;
use super::super::upstream::Upstream;
use super::{Method, MethodSet, Route, RouteStatus, URI_CHARS_MAX, UriPattern};
use crate::key::ResourceKey;

/// The fields of a route, but for those of scripts. Texts with escapes in them are not plain.
#[derive(Deserialize, Default)]
#[serde(default, deny_unknown_fields)]
struct Plain<'b> {
    #[serde(borrow)]
    name: Given<&'b str>,
    #[serde(borrow)]
    desc: Given<&'b str>,
    labels: Given<Value>,
    #[serde(borrow)]
    uri: Given<&'b str>,
    #[serde(borrow)]
    uris: Given<Vec<&'b str>>,
    #[serde(borrow)]
    host: Given<&'b str>,
    #[serde(borrow)]
    hosts: Given<Vec<&'b str>>,
    #[serde(borrow)]
    methods: Given<Vec<&'b str>>,
    #[serde(borrow)]
    remote_addr: Given<&'b str>,
    #[serde(borrow)]
    remote_addrs: Given<Vec<&'b str>>,
    vars: Given<Value>,
    priority: Given<i64>,
    status: Given<i64>,
    upstream: Given<Value>,
    #[serde(borrow)]
    upstream_id: Given<&'b str>,
    #[serde(borrow)]
    service_id: Given<&'b str>,
    #[serde(borrow)]
    plugin_config_id: Given<&'b str>,
    plugins: Given<Map<String, Value>>,
    timeout: Given<Value>,
    enable_websocket: Given<bool>,
}

/// A field that is there or not: unlike with an `Option`, `null` is no way to leave it out.
struct Given<T>(Option<T>);

impl<T> Default for Given<T> {
    fn default() -> Self {
        Self(None)
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Given<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(|given| Self(Some(given)))
    }
}

impl Route {
    /// The route that a body is, where that is plain; `None`: [`Route::read`] is to be asked.
    pub(in crate::resource) fn read_plain(body: &str) -> Option<Self> {
        let plain: Plain<'_> = serde_json::from_str(body).ok()?;
        plain.is_shaped().then_some(())?;
        Some(Self {
            uris: one_or_many(plain.uri.0, plain.uris.0, |uri| Some(UriPattern::parse(uri)))?,
            hosts: one_or_many(plain.host.0, plain.hosts.0, |host| is_host(host).then(|| HostPattern::of(host)))?,
            methods: methods(&plain.methods.0.unwrap_or_default())?,
            remote_addrs: one_or_many(plain.remote_addr.0, plain.remote_addrs.0, parse_net)?,
            vars: plain.vars.read(|scope| Expression::read(&scope))?,
            filter_func: None,
            priority: plain.priority.0.unwrap_or(0),
            status: match plain.status.0 {
                None | Some(1) => RouteStatus::Enabled,
                Some(0) => RouteStatus::Disabled,
                Some(_) => return None,
            },
            upstream: plain.upstream.read(Upstream::read)?.map(Box::new),
            upstream_id: reference("upstreams", &plain.upstream_id)?,
            service_id: reference("services", &plain.service_id)?,
            plugin_config_id: reference("plugin_configs", &plain.plugin_config_id)?,
            plugins: plain.plugins.0.unwrap_or_default(),
            script: None,
            timeouts: plain.timeout.read(Timeouts::read)?,
            enable_websocket: plain.enable_websocket.0,
        })
    }
}

impl Plain<'_> {
    /// Whether what is not read further is as it should be.
    fn is_shaped(&self) -> bool {
        let has = |text: Option<&str>, min, max| text.is_none_or(|text| (min..=max).contains(&text.chars().count()));
        let Self { uri, uris, upstream, upstream_id, service_id, plugins, .. } = self;
        let leads_somewhere = upstream.0.is_some() || upstream_id.0.is_some() || service_id.0.is_some();
        let labels = self.labels.0.as_ref().is_none_or(|value| check(value, labels).is_ok());
        has(self.name.0, 1, NAME_CHARS_MAX)
            && has(self.desc.0, 0, DESC_CHARS_MAX)
            && labels
            && uri.0.is_some() != uris.0.is_some()
            && has(uri.0, 1, URI_CHARS_MAX)
            && uris.0.iter().flatten().all(|uri| has(Some(uri), 0, URI_CHARS_MAX))
            && (leads_somewhere || plugins.0.is_some())
            && plugins.0.iter().flatten().all(|(_, configuration)| configuration.is_object())
    }
}

impl Given<Value> {
    /// What a constructor makes of the value, which may be nothing; the outer `None`: something is wrong.
    fn read<T>(self, construct: impl FnOnce(Scope<'_, '_>) -> Option<T>) -> Option<Option<T>> {
        match self.0 {
            None => Some(None),
            Some(value) => match check(&value, construct) {
                Ok(built) => Some(Some(built)),
                Err(report) => report.problems.is_empty().then_some(None),
            },
        }
    }
}

/// The one or the many, each read; `None` when there are both, none of the many, one twice, or one that cannot be read.
fn one_or_many<T>(one: Option<&str>, many: Option<Vec<&str>>, read: impl Fn(&str) -> Option<T>) -> Option<Vec<T>> {
    match (one, many) {
        (None, None) => Some(Vec::new()),
        (Some(one), None) => read(one).map(|read| vec![read]),
        (None, Some(many)) if !many.is_empty() && is_unique(&many) => many.into_iter().map(read).collect(),
        _ => None,
    }
}

fn methods(names: &[&str]) -> Option<MethodSet> {
    is_unique(names).then_some(())?;
    names.iter().try_fold(MethodSet::default(), |methods, name| Some(methods.with(Method::parse(name)?)))
}

fn is_unique(texts: &[&str]) -> bool {
    texts.iter().enumerate().all(|(i, text)| !texts[..i].contains(text))
}

/// A reference; the outer `None`: its id is none.
fn reference(kind: &str, id: &Given<&str>) -> Option<Option<ResourceKey>> {
    match id.0 {
        None => Some(None),
        Some(id) => IdRule::Plain.check(id).ok().map(|()| Some(ResourceKey::new(kind, id))),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    /// Values for every field, good and bad ones, and for fields that there are not.
    fn values(field: &str) -> Vec<Value> {
        let ids = || vec![json!("a"), json!(7), json!(0), json!("a/b"), json!("é"), json!("")];
        let mut values = match field {
            "name" | "desc" => {
                vec![json!("n"), json!(""), json!("é".repeat(256)), json!("n".repeat(257)), json!("\t\"")]
            }
            "labels" => vec![json!({}), json!({"a": "b"}), json!({"a": "b c"}), json!({"a": 1}), json!({"a": ""})],
            "uri" => {
                vec![json!("/a"), json!("/a/*"), json!("/:id/x"), json!(""), json!("/".repeat(4097)), json!("/\"")]
            }
            "uris" => {
                vec![json!(["/a"]), json!(["/a", "/b/*"]), json!(["/a", "/a"]), json!([]), json!([""]), json!(["/", 1])]
            }
            "host" => vec![
                json!("a.com"),
                json!("*.B.com"),
                json!("*"),
                json!("a b"),
                json!(""),
                json!("[::1]"),
                json!("a.*"),
            ],
            "hosts" => {
                vec![json!(["a.com", "B.com"]), json!(["a.com", "A.com"]), json!(["a", "a"]), json!([]), json!(["~"])]
            }
            "methods" => vec![json!([]), json!(["GET", "PURGE"]), json!(["GET", "GET"]), json!(["get"]), json!([1])],
            "remote_addr" => {
                vec![json!("10.0.0.0/8"), json!("::1"), json!("10.0.0.1"), json!("10.0.0.0/33"), json!("x")]
            }
            "remote_addrs" => vec![json!(["10.0.0.0/8", "::1"]), json!(["::1", "::1"]), json!([]), json!(["x"])],
            "vars" => vec![json!([]), json!([["arg_a", "==", "1"]]), json!([["arg_a", "like", "1"]]), json!("x")],
            "priority" => vec![json!(-5), json!(1.0), json!(1.5), json!(u64::MAX), json!("1")],
            "status" => vec![json!(0), json!(1), json!(2), json!(1.0), json!(true)],
            "upstream" => {
                vec![json!({"nodes": {"a:1": 1}}), json!({"nodes": {"a:1": 1}, "type": "x"}), json!({}), json!([])]
            }
            "upstream_id" | "service_id" | "plugin_config_id" => ids(),
            "plugins" => vec![json!({}), json!({"x": {"a": [1, null]}}), json!({"x": 1}), json!([])],
            "timeout" => vec![json!({"connect": 1, "send": 2.5, "read": 3}), json!({"connect": 1}), json!(1)],
            "enable_websocket" => vec![json!(true), json!(false), json!(0), json!("true")],
            "script" => vec![json!("return nothing"), json!("x")],
            "filter_func" => vec![json!("function() end"), json!("x")],
            _ => vec![json!(1), json!("x")],
        };
        values.push(Value::Null);
        values
    }

    const FIELDS: [&str; 25] = [
        "name",
        "desc",
        "labels",
        "uri",
        "uris",
        "host",
        "hosts",
        "methods",
        "remote_addr",
        "remote_addrs",
        "vars",
        "priority",
        "status",
        "upstream",
        "upstream_id",
        "service_id",
        "plugin_config_id",
        "plugins",
        "timeout",
        "enable_websocket",
        "script",
        "script_id",
        "filter_func",
        "nosuch",
        "id",
    ];

    /// A body that leads somewhere, with a few fields more.
    fn body() -> impl Strategy<Value = Value> {
        let field = prop::sample::select(FIELDS.to_vec())
            .prop_flat_map(|field| (Just(field), prop::sample::select(values(field))));
        (any::<[bool; 2]>(), prop::collection::vec(field, 0..4)).prop_map(|([uri, upstream], fields)| {
            let mut body = json!({});
            if uri {
                body["uri"] = json!("/x");
            }
            if upstream {
                body["upstream_id"] = json!("u");
            }
            for (name, value) in fields {
                body[name] = value;
            }
            body
        })
    }

    /// Fields whose good values are all plain: of them nothing may be left to the other reader.
    fn is_plain(body: &Value) -> bool {
        let is_odd = |(name, value): (&String, &Value)| match name.as_str() {
            "script" | "script_id" | "filter_func" => true,
            "upstream_id" | "service_id" | "plugin_config_id" => value.is_number(),
            "priority" => value.is_f64(),
            _ => value.as_str().is_some_and(|text| text.contains(['"', '\t'])),
        };
        !body.as_object().unwrap().iter().any(is_odd)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2_000))]

        #[test]
        fn law_what_is_read_plainly_is_what_the_other_reader_reads(body in body()) {
            let plainly = Route::read_plain(&body.to_string());
            let read = check(&body, Route::read);
            match (&plainly, &read) {
                (Some(plainly), read) => prop_assert_eq!(Some(plainly), read.as_ref().ok()),
                (None, read) => prop_assert!(read.is_err() || !is_plain(&body), "left to the other reader: {}", body),
            }
        }
    }

    #[test]
    fn what_is_no_plain_body_is_left_to_the_other_reader() {
        for body in
            ["", "[]", "\"x\"", r#"{"uri":"/a","upstream_id":"u"} x"#, r#"{"uri":"/a","uri":"/b","upstream_id":"u"}"#]
        {
            assert_eq!(Route::read_plain(body), None, "{body}");
        }
    }
}
