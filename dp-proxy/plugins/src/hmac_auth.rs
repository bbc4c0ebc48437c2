//! `hmac-auth`: a consumer is who signs its requests with a secret that it shares with this proxy.
//!
//! `Authorization: Signature keyId="…",algorithm="hmac-sha256",headers="@request-target date",signature="…"`, where the
//! signature is over the key id and then a line for each of the headers.
//!
//! A body is asked for last, when all else has proved good: nobody without a key makes this proxy keep one.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use http::HeaderName;
use http::header::{AUTHORIZATION, DATE};
use protocol::resource::scope::Fields;
use protocol::resource::{Known, Variable};
use serde_json::{Value, json};
use sha1::Sha1;
use sha2::{Digest as _, Sha256, Sha512};
use subtle::ConstantTimeEq;

use super::auth::{AuthOptions, Credential, Proof, extended};
use super::host::{Host, Login};
use super::http_date;
use super::plugin::{Auth, Behaviour, BodyCheck, Plugin, Step};
use super::request::Request;

/// See the module.
pub(crate) static PLUGIN: Plugin = Plugin {
    name: NAME,
    priority: 2530,
    version: 0.1,
    schema,
    read,
    secrets: &[],
    auth: Some(Auth { schema: consumer_schema, secrets: &["secret_key"], identity: "key_id", read: read_consumer }),
};

const NAME: &str = "hmac-auth";
const REALM: &str = "hmac";
const DIGEST: HeaderName = HeaderName::from_static("digest");
/// In a list of headers: the method and the target, which are no header.
const REQUEST_TARGET: &str = "@request-target";
/// What is said to a client; what was wrong exactly is not for a stranger to know.
const REFUSED: &str = "client request can't be validated";
/// By how many seconds a client's clock may differ (APISIX's default).
const CLOCK_SKEW_SECONDS: u64 = 300;
/// The largest body that is read to check its digest (APISIX's default).
const BODY_BYTES_MAX: u64 = 64 << 20;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Algorithm {
    Sha1,
    Sha256,
    Sha512,
}

const ALGORITHMS: [(&str, Algorithm); 3] =
    [("hmac-sha1", Algorithm::Sha1), ("hmac-sha256", Algorithm::Sha256), ("hmac-sha512", Algorithm::Sha512)];

#[derive(Debug)]
struct HmacAuth {
    allowed: Vec<Algorithm>,
    clock_skew_seconds: u64,
    /// Headers that a signature must cover.
    signed_headers: Vec<Box<str>>,
    /// The largest body whose digest is checked; `None`: none is.
    body_bytes_max: Option<u64>,
    options: AuthOptions,
}

fn read(fields: &Fields<'_, '_>) -> Option<Box<dyn Behaviour>> {
    let allowed = fields.optional("allowed_algorithms", |s| s.all(s.items(1)?, |item| item.one_of(&ALGORITHMS)));
    let skew = fields.optional("clock_skew", |s| u64::try_from(s.integer(1, i64::MAX)?).ok());
    let signed_headers =
        fields.optional("signed_headers", |s| s.all(s.items(0)?, |item| item.string(1, 50).map(Box::from)));
    let checks_body = fields.optional("validate_request_body", |s| s.boolean()).unwrap_or(false);
    let max = fields.optional("max_req_body_size", |s| u64::try_from(s.integer(1, i64::MAX)?).ok());
    let options = AuthOptions::read(fields, "hmac", REALM);
    Some(Box::new(HmacAuth {
        allowed: allowed.unwrap_or_else(|| ALGORITHMS.map(|(_, algorithm)| algorithm).to_vec()),
        clock_skew_seconds: skew.unwrap_or(CLOCK_SKEW_SECONDS),
        signed_headers: signed_headers.unwrap_or_else(|| vec![DATE.as_str().into()]),
        body_bytes_max: checks_body.then_some(max.unwrap_or(BODY_BYTES_MAX)),
        options: options?,
    }))
}

fn read_consumer(fields: &Fields<'_, '_>) -> Option<Credential> {
    let key_id = fields.required("key_id", |s| s.string(1, 256));
    let secret = fields.required("secret_key", |s| s.string(1, 256));
    Some(Credential { identity: key_id?.into(), proof: Proof::SharedSecret(secret?.into()) })
}

/// What stands in `Authorization`.
#[derive(Debug, Default)]
struct Signature<'r> {
    key_id: Option<&'r str>,
    algorithm: Option<&'r str>,
    signature: Option<&'r str>,
    headers: Vec<&'r str>,
}

impl<'r> Signature<'r> {
    fn parse(fields: &'r str) -> Self {
        let mut parsed = Self::default();
        for field in fields.split(',') {
            let Some((name, value)) = field.trim().split_once("=\"") else { continue };
            let value = value.split('"').next().unwrap_or_default();
            match name {
                "keyId" => parsed.key_id = Some(value),
                "algorithm" => parsed.algorithm = Some(value),
                "signature" => parsed.signature = Some(value),
                "headers" => parsed.headers = value.split(' ').collect(),
                _ => {}
            }
        }
        parsed
    }

    /// What was signed. A header that the request does not have is left out.
    fn text(&self, key_id: &str, request: &Request, host: &dyn Host) -> Vec<u8> {
        let value = |known| host.values().value(&Variable::Known(known)).unwrap_or_default();
        let mut text = format!("{key_id}\n").into_bytes();
        for name in &self.headers {
            if *name == REQUEST_TARGET {
                text.extend([&*value(Known::RequestMethod), b" ", &*value(Known::RequestUri), b"\n"].concat());
            } else if let Some(header) = request.headers.get(*name) {
                text.extend([name.as_bytes(), b": ", header.as_bytes(), b"\n"].concat());
            }
        }
        text
    }
}

/// In constant time.
fn verifies(algorithm: Algorithm, secret: &[u8], text: &[u8], signature: &[u8]) -> bool {
    fn check<M: Mac + KeyInit>(key: &[u8], text: &[u8], signature: &[u8]) -> bool {
        let mac = <M as KeyInit>::new_from_slice(key);
        mac.is_ok_and(|mac| mac.chain_update(text).verify_slice(signature).is_ok())
    }
    match algorithm {
        Algorithm::Sha1 => check::<Hmac<Sha1>>(secret, text, signature),
        Algorithm::Sha256 => check::<Hmac<Sha256>>(secret, text, signature),
        Algorithm::Sha512 => check::<Hmac<Sha512>>(secret, text, signature),
    }
}

/// What a request shows.
fn shown(request: &Request) -> Result<Signature<'_>, &'static str> {
    let Some(header) = request.header(AUTHORIZATION.as_str()) else {
        return Err("client request can't be validated: missing Authorization header");
    };
    let Some(fields) = header.strip_prefix("Signature") else {
        return Err("client request can't be validated: Authorization header does not start with 'Signature'");
    };
    Ok(Signature::parse(fields))
}

/// Who is known by the key that is shown.
fn login<'h>(shown: &Signature<'_>, host: &'h dyn Host) -> Option<Login<'h>> {
    host.login(NAME, shown.key_id?)
}

impl HmacAuth {
    /// Whose request it is, as far as its head says.
    fn find<'h>(&self, request: &Request, host: &'h dyn Host) -> Result<Login<'h>, &'static str> {
        self.check(&shown(request)?, request, host).ok_or(REFUSED)
    }

    fn check<'h>(&self, shown: &Signature<'_>, request: &Request, host: &'h dyn Host) -> Option<Login<'h>> {
        let (key_id, signature) = (shown.key_id?, STANDARD.decode(shown.signature?).ok()?);
        let (_, algorithm) = ALGORITHMS.iter().find(|(name, _)| Some(*name) == shown.algorithm)?;
        let date = http_date::parse(request.header(DATE.as_str())?)?;
        let covers = |header: &str| shown.headers.iter().any(|name| name.eq_ignore_ascii_case(header));
        // Of several, one is signed and the upstream may read another.
        let is_single = |name: &str| request.headers.get_all(name).iter().nth(1).is_none();
        let login = login(shown, host)?;
        let Proof::SharedSecret(secret) = login.proof else { return None };
        let holds = self.allowed.contains(algorithm)
            && host.wall_seconds().abs_diff(date) <= self.clock_skew_seconds
            && self.signed_headers.iter().all(|header| covers(header))
            && [AUTHORIZATION, DATE, DIGEST].iter().all(|name| is_single(name.as_str()))
            && shown.headers.iter().all(|name| is_single(name))
            // A digest that is not signed proves nothing: whoever changes the body changes it too.
            && (self.body_bytes_max.is_none() || covers(DIGEST.as_str()) && request.headers.contains_key(DIGEST))
            && verifies(*algorithm, secret.as_bytes(), &shown.text(key_id, request, host), &signature);
        holds.then_some(login)
    }

    fn settle(&self, request: &mut Request, host: &dyn Host, found: Result<Login<'_>, &str>) -> Step {
        if self.options.hide_credentials {
            request.headers.remove(AUTHORIZATION);
        }
        self.options.settle(request, host, found)
    }
}

/// Whether that is the SHA-256 of a body (RFC 3230).
fn is_digest(digest: &[u8], body: &[u8]) -> bool {
    let computed = format!("SHA-256={}", STANDARD.encode(Sha256::digest(body)));
    digest.ct_eq(computed.as_bytes()).into()
}

impl Behaviour for HmacAuth {
    fn rewrite(&self, request: &mut Request, host: &dyn Host) -> Step {
        let found = self.find(request, host);
        match (self.body_bytes_max, request.headers.get(DIGEST)) {
            (Some(bytes_max), Some(digest)) if found.is_ok() => {
                let digest = digest.clone();
                let check = move |body: &[u8]| match is_digest(digest.as_bytes(), body) {
                    true => Ok(()),
                    false => Err(REFUSED.to_owned()),
                };
                Step::Check(Box::new(BodyCheck::new(bytes_max, check)))
            }
            _ => self.settle(request, host, found),
        }
    }

    fn checked(&self, request: &mut Request, host: &dyn Host, result: Result<(), String>) -> Step {
        // Its head was found good before the body was asked for.
        let found = match result {
            Ok(()) => shown(request).and_then(|shown| login(&shown, host).ok_or(REFUSED)),
            Err(_) => Err(REFUSED),
        };
        self.settle(request, host, found)
    }
}

fn schema() -> Value {
    let words = || ALGORITHMS.map(|(name, _)| name);
    let own = json!({
        "allowed_algorithms": { "type": "array", "minItems": 1, "items": { "enum": words() }, "default": words() },
        "clock_skew": { "type": "integer", "minimum": 1, "default": CLOCK_SKEW_SECONDS,
                        "description": "by how many seconds `Date` may differ from now" },
        "signed_headers": { "type": "array", "items": { "type": "string", "minLength": 1, "maxLength": 50 },
                            "default": [DATE.as_str()], "description": "what a signature must cover" },
        "validate_request_body": { "type": "boolean", "default": false,
                                   "description": "whether `Digest` must have the SHA-256 of the body, and be signed" },
        "max_req_body_size": { "type": "integer", "minimum": 1, "default": BODY_BYTES_MAX,
                               "description": "in bytes, where the body is validated" },
    });
    json!({ "properties": extended(own, AuthOptions::schema(REALM)) })
}

fn consumer_schema() -> Value {
    let text = || json!({ "type": "string", "minLength": 1, "maxLength": 256 });
    json!({ "properties": { "key_id": text(), "secret_key": text() }, "required": ["key_id", "secret_key"] })
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use super::super::testing::{TestHost, answer, behaviour, request, rewritten};
    use super::*;

    const NOW: u64 = 784_887_151;

    fn signed(algorithm: &str, headers: &str, text: &str) -> String {
        fn sign<M: Mac + KeyInit>(text: &str) -> String {
            STANDARD.encode(<M as KeyInit>::new_from_slice(b"s").unwrap().chain_update(text).finalize().into_bytes())
        }
        let signature = match algorithm {
            "hmac-sha1" => sign::<Hmac<Sha1>>(text),
            "hmac-sha512" => sign::<Hmac<Sha512>>(text),
            _ => sign::<Hmac<Sha256>>(text),
        };
        format!(r#"Signature keyId="k",algorithm="{algorithm}" , headers="{headers}",signature="{signature}""#)
    }

    /// A `Date` and what a signature has of it.
    fn date() -> String {
        format!("date: {}\n", http_date::print(NOW))
    }

    fn digest(body: &str) -> String {
        format!("SHA-256={}", STANDARD.encode(Sha256::digest(body)))
    }

    /// A request of a client that has a digest for "body", and a host that knows its secret.
    fn signed_by(authorization: Option<String>, now: u64) -> (Request, TestHost) {
        let mut host = TestHost::knowing("jack", &[(NAME, json!({"key_id": "k", "secret_key": "s"}))]);
        (host.wall_seconds, host.path, host.method) = (now, "/a?b=1".to_owned(), http::Method::PUT);
        let mut it = request("PUT", "/a?b=1");
        it.headers.insert(DATE, http_date::print(NOW).parse().unwrap());
        it.headers.insert("x-a", "1 2".parse().unwrap());
        it.headers.insert(DIGEST, digest("body").parse().unwrap());
        it.headers.extend(authorization.map(|value| (AUTHORIZATION, value.parse().unwrap())));
        (it, host)
    }

    fn refused(conf: &Value, authorization: Option<String>, now: u64, body: &str) -> Option<String> {
        let (mut it, host) = signed_by(authorization, now);
        let (step, _) = rewritten(&*behaviour(NAME, conf.clone()), &mut it, &host, body);
        assert_eq!(it.identity.is_some(), step == Step::Go);
        let answer = answer(&step)?;
        assert_eq!(
            (answer.status, answer.headers["www-authenticate"].to_str().unwrap()),
            (StatusCode::UNAUTHORIZED, "hmac realm=\"hmac\"")
        );
        Some(String::from_utf8(answer.body.to_vec()).unwrap())
    }

    #[test]
    fn a_signed_request_is_its_consumers() {
        let date = date();
        let all = format!("k\nPUT /a?b=1\n{date}x-a: 1 2\n");
        let no = Some("{\"message\":\"client request can't be validated\"}\n");
        for (conf, authorization, now, expected) in [
            (json!({}), signed("hmac-sha256", "@request-target date x-a", &all), NOW, None),
            (json!({}), signed("hmac-sha1", "@request-target date x-a", &all), NOW + 300, None),
            (json!({}), signed("hmac-sha512", "@request-target date x-a x-none", &all), NOW - 300, None),
            (json!({}), signed("hmac-sha256", "date", &format!("k\n{date}")), NOW, None),
            (json!({}), signed("hmac-sha256", "@request-target date", &all), NOW, no),
            (json!({}), signed("hmac-sha256", "@request-target date x-a", &all), NOW + 301, no),
            (json!({}), signed("hmac-sha256", "x-a", "k\nx-a: 1 2\n"), NOW, no),
            (json!({"signed_headers": []}), signed("hmac-sha256", "x-a", "k\nx-a: 1 2\n"), NOW, None),
            (
                json!({"allowed_algorithms": ["hmac-sha512"]}),
                signed("hmac-sha256", "date", &format!("k\n{date}")),
                NOW,
                no,
            ),
            (json!({}), signed("hmac-sha256", "date", &format!("k\n{date}")).replace("\"k\"", "\"other\""), NOW, no),
            (json!({}), signed("md5", "date", &format!("k\n{date}")), NOW, no),
            (json!({}), "Signature".to_owned(), NOW, no),
            (
                json!({}),
                "Basic eA==".to_owned(),
                NOW,
                Some(
                    "{\"message\":\"client request can't be validated: Authorization header does not start with 'Signature'\"}\n",
                ),
            ),
        ] {
            assert_eq!(
                refused(&conf, Some(authorization.clone()), now, "").as_deref(),
                expected,
                "{conf} {authorization}"
            );
        }
        let missing = "{\"message\":\"client request can't be validated: missing Authorization header\"}\n";
        assert_eq!(refused(&json!({}), None, NOW, "").as_deref(), Some(missing));
    }

    #[test]
    fn a_body_may_have_to_be_the_one_that_was_signed() {
        let conf = json!({"validate_request_body": true, "hide_credentials": true});
        let text = format!("k\n{}digest: {}\n", date(), digest("body"));
        let authorization = || Some(signed("hmac-sha256", "date digest", &text));
        assert_eq!(refused(&conf, authorization(), NOW, "body"), None);
        assert!(refused(&conf, authorization(), NOW, "another").is_some());
        let unsigned = signed("hmac-sha256", "date", &format!("k\n{}", date()));
        assert!(refused(&conf, Some(unsigned), NOW, "body").is_some(), "a digest that anybody can have changed");
    }

    #[test]
    fn no_body_is_asked_for_before_the_head_is_proved() {
        let plugin = behaviour(NAME, json!({"validate_request_body": true}));
        let good = signed("hmac-sha256", "date digest", &format!("k\n{}digest: {}\n", date(), digest("body")));
        for (authorization, now, asks) in [
            (Some(good.clone()), NOW, true),
            (Some(good.clone()), NOW + 301, false),
            (Some(good.replace("\"k\"", "\"other\"")), NOW, false),
            (Some(signed("hmac-sha256", "date digest", "k\n")), NOW, false),
            (None, NOW, false),
        ] {
            let (mut it, host) = signed_by(authorization.clone(), now);
            let step = plugin.rewrite(&mut it, &host);
            let asked = match &step {
                Step::Check(check) => Some(check.bytes_max),
                _ => None,
            };
            assert_eq!(asked, asks.then_some(BODY_BYTES_MAX), "{authorization:?}");
            assert_eq!(answer(&step).is_some(), !asks, "{authorization:?}");
        }
        let (mut it, host) = signed_by(Some(good.clone()), NOW);
        it.headers.remove(DIGEST);
        assert!(answer(&plugin.rewrite(&mut it, &host)).is_some(), "nothing to compare a body with");
    }

    #[test]
    fn what_is_signed_stands_there_once() {
        let authorization = || Some(signed("hmac-sha256", "date x-a", &format!("k\n{}x-a: 1 2\n", date())));
        for (name, expected) in
            [("x-a", true), ("X-A", true), ("date", true), ("digest", true), ("authorization", true), ("x-b", false)]
        {
            let (mut it, host) = signed_by(authorization(), NOW);
            it.headers.append("x-b", "1".parse().unwrap());
            it.headers.append(HeaderName::from_bytes(name.as_bytes()).unwrap(), "more".parse().unwrap());
            let step = behaviour(NAME, json!({})).rewrite(&mut it, &host);
            assert_eq!(answer(&step).is_some(), expected, "{name}");
        }
    }

    #[test]
    fn fuzz_nobody_signs_without_the_secret() {
        let text = format!("k\n{}x-a: 1 2\n", date());
        let good = signed("hmac-sha256", "date x-a", &text);
        let seeds: [&[u8]; 3] =
            [good.as_bytes(), b"Signature keyId=\"k\",headers=\"\",signature=\"=\"", b"Signature ,=\",\"\"\""];
        let plugin = behaviour(NAME, json!({}));
        fuzz::hammer(4, &seeds, |bytes| {
            let Ok(value) = http::HeaderValue::from_bytes(bytes) else { return };
            let (mut it, host) = signed_by(None, NOW);
            it.headers.insert(AUTHORIZATION, value);
            if plugin.rewrite(&mut it, &host) != Step::Go {
                return;
            }
            // Whoever passes shows the one signature that is good, over what it was made for, whatever else stands around it.
            let shown = shown(&it).unwrap();
            let made = good.split("signature=\"").nth(1).unwrap().trim_end_matches('"');
            assert_eq!((shown.signature, shown.text("k", &it, &host)), (Some(made), text.clone().into_bytes()));
        });
    }
}
