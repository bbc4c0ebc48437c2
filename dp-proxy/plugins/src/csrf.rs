//! `csrf`: a request that changes something must show, in a header, the token that its cookie has. Another site's page can
//! make a browser send the cookie, and cannot read it (double submit, signed).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use http::StatusCode;
use http::header::{HeaderName, HeaderValue, SET_COOKIE};
use protocol::resource::scope::Fields;
use protocol::resource::{Known, Variable};
use serde_json::{Value, json};
use sha2::Sha256;

use super::answer::{Answer, Response};
use super::auth::shown;
use super::header_edits::header_name;
use super::host::Host;
use super::http_date;
use super::plugin::{Behaviour, Plugin, Step};
use super::request::Request;

/// See the module.
pub(crate) static PLUGIN: Plugin =
    Plugin { name: "csrf", priority: 2980, version: 0.1, schema, read, auth: None, secrets: &["key"] };

const DEFAULT_NAME: &str = "apisix-csrf-token";
/// How long a token holds, in seconds, unless the configuration says another time (APISIX's default).
const DEFAULT_SECONDS: i64 = 7200;
/// Methods that change nothing.
const SAFE: [&str; 3] = ["GET", "HEAD", "OPTIONS"];

#[derive(Debug)]
struct Csrf {
    signer: Signer,
    /// How long a token holds; 0: for ever.
    seconds: u64,
    header: HeaderName,
    name: Box<str>,
    cookie: Variable,
}

struct Signer(Hmac<Sha256>);

/// Its key is not printed.
impl std::fmt::Debug for Signer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Signer(***)")
    }
}

fn read(fields: &Fields<'_, '_>) -> Option<Box<dyn Behaviour>> {
    // APISIX takes an empty one, with which anybody can sign.
    let key = fields.required("key", |s| s.string(1, usize::MAX));
    let seconds = fields.optional("expires", |s| s.integer(i64::MIN, i64::MAX)).unwrap_or(DEFAULT_SECONDS);
    let name = match fields.get("name") {
        Some(scope) => header_name(&scope).and(scope.value.as_str()),
        None => Some(DEFAULT_NAME),
    };
    let signer = <Hmac<Sha256> as KeyInit>::new_from_slice(key?.as_bytes()).ok()?;
    let name = name?.trim();
    Some(Box::new(Csrf {
        signer: Signer(signer),
        seconds: u64::try_from(seconds).unwrap_or(0),
        header: name.parse().ok()?,
        name: name.into(),
        cookie: Variable::parse(&format!("cookie_{name}")),
    }))
}

impl Signer {
    fn mac(&self, random: &str, made: u64) -> Hmac<Sha256> {
        self.0.clone().chain_update(format!("{random}.{made}"))
    }

    /// A token that was made at that time.
    fn token(&self, random: &str, made: u64) -> String {
        let sign = STANDARD.encode(self.mac(random, made).finalize().into_bytes());
        STANDARD.encode(json!({ "random": random, "expires": made, "sign": sign }).to_string())
    }

    /// When a token was made; `None` for one that was not made with this key.
    fn made(&self, token: &str) -> Option<u64> {
        let token: Value = serde_json::from_slice(&STANDARD.decode(token).ok()?).ok()?;
        let (random, made) = (token["random"].as_str()?, token["expires"].as_u64()?);
        let sign = STANDARD.decode(token["sign"].as_str()?).ok()?;
        self.mac(random, made).verify_slice(&sign).ok().map(|()| made)
    }
}

impl Csrf {
    fn check(&self, request: &Request, host: &dyn Host) -> Result<(), &'static str> {
        let in_header = request.header(self.header.as_str()).ok_or("no csrf token in headers")?;
        let in_cookie = shown(&self.cookie, host).ok_or("no csrf cookie")?;
        if in_header != in_cookie {
            return Err("csrf token mismatch");
        }
        let holds = |made: u64| self.seconds == 0 || host.wall_seconds().saturating_sub(made) <= self.seconds;
        self.signer
            .made(in_header)
            .filter(|made| holds(*made))
            .map(|_| ())
            .ok_or("Failed to verify the csrf token signature")
    }
}

impl Behaviour for Csrf {
    fn access(&self, request: &mut Request, host: &dyn Host) -> Step {
        // As the client asked: what upstreams are told instead makes it no safer.
        let method = host.values().value(&Variable::Known(Known::RequestMethod)).unwrap_or_default();
        if SAFE.iter().any(|safe| safe.as_bytes() == &*method) {
            return Step::Go;
        }
        match self.check(request, host) {
            Ok(()) => Step::Go,
            Err(sentence) => Step::Answer(Answer::error(StatusCode::UNAUTHORIZED, sentence)),
        }
    }

    fn header_filter(&self, _: &Request, response: &mut Response<'_>, host: &dyn Host) {
        let now = host.wall_seconds();
        let random = u128::from_be_bytes(host.random());
        let token = self.signer.token(&format!("{random:032x}"), now);
        let name = &self.name;
        let expires = match self.seconds {
            0 => String::new(),
            seconds => format!(";Expires={}", http_date::print(now.saturating_add(seconds))),
        };
        if let Ok(cookie) = HeaderValue::from_str(&format!("{name}={token};path=/;SameSite=Lax{expires}")) {
            response.headers.append(SET_COOKIE, cookie);
        }
    }
}

fn schema() -> Value {
    json!({
        "properties": {
            "key": { "type": "string", "minLength": 1, "description": "signs tokens" },
            "expires": { "type": "integer", "default": DEFAULT_SECONDS,
                         "description": "how long a token holds, in seconds; 0: for ever" },
            "name": { "type": "string", "default": DEFAULT_NAME, "description": "of the header and the cookie" },
        },
        "required": ["key"],
    })
}

#[cfg(test)]
mod tests {
    use protocol::resource::{PluginCatalog as _, PluginRole};

    use super::super::CATALOG;
    use super::super::testing::{TestHost, answer, behaviour, filtered, request};
    use super::*;

    #[test]
    fn a_token_is_given_and_must_be_shown_twice() {
        let mut host = TestHost { wall_seconds: 1_000_000, ..TestHost::default() };
        let plugin = behaviour(PLUGIN.name, json!({"key": "k", "expires": 60}));
        let (_, headers, _) = filtered(&*plugin, &request("GET", "/"), &host, 200, &[("set-cookie", "a=b")]);
        let cookies: Vec<_> = headers.get_all(SET_COOKIE).iter().map(|value| value.to_str().unwrap()).collect();
        let (token, rest) = cookies[1].strip_prefix("apisix-csrf-token=").unwrap().split_once(';').unwrap();
        assert_eq!((cookies[0], rest), ("a=b", "path=/;SameSite=Lax;Expires=Mon, 12 Jan 1970 13:47:40 GMT"));
        let other = behaviour(PLUGIN.name, json!({"key": "other"}));
        let mut said =
            |plugin: &dyn Behaviour, method: &str, header: Option<&str>, cookie: Option<&str>, seconds: u64| {
                let mut it = request(method, "/");
                it.headers
                    .extend(header.map(|header| (HeaderName::from_static(DEFAULT_NAME), header.parse().unwrap())));
                host.method = method.parse().unwrap();
                host.cookies = cookie.map(|cookie| (DEFAULT_NAME.to_owned(), cookie.to_owned())).into_iter().collect();
                host.wall_seconds = 1_000_000 + seconds;
                let step = plugin.access(&mut it, &host);
                answer(&step).map(|a| (a.status.as_u16(), String::from_utf8(a.body.to_vec()).unwrap()))
            };
        for (method, header, cookie, seconds, expected) in [
            ("GET", None, None, 0, None),
            ("OPTIONS", None, None, 0, None),
            ("POST", Some(token), Some(token), 60, None),
            ("POST", None, Some(token), 0, Some("no csrf token in headers")),
            ("POST", Some(token), None, 0, Some("no csrf cookie")),
            ("POST", Some(token), Some("x"), 0, Some("csrf token mismatch")),
            ("DELETE", Some("x"), Some("x"), 0, Some("Failed to verify the csrf token signature")),
            ("PUT", Some(token), Some(token), 61, Some("Failed to verify the csrf token signature")),
        ] {
            let expected = expected.map(|said| (401, format!("{{\"error_msg\":\"{said}\"}}\n")));
            assert_eq!(said(&*plugin, method, header, cookie, seconds), expected, "{method} {header:?} {cookie:?}");
        }
        assert!(said(&*other, "POST", Some(token), Some(token), 0).is_some(), "another key");
    }

    #[test]
    fn its_key_is_a_secret() {
        assert_eq!(CATALOG.marks(PLUGIN.name, PluginRole::Traffic).unwrap().secrets, ["key"]);
        let plugin = behaviour(PLUGIN.name, json!({"key": "hidden"}));
        assert!(!format!("{:?}", &*plugin).contains("hidden"));
        let empty = CATALOG.check(PLUGIN.name, PluginRole::Traffic, &json!({"key": ""})).unwrap_err();
        assert_eq!(empty.problems[0].path.to_string(), "$.key", "one that anybody knows");
    }
}
