//! `jwt-auth`: a consumer is who shows a JSON Web Token (RFC 7519) that was signed with its secret (HMAC, RFC 7518 §3.2).

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use http::HeaderName;
use protocol::report::Problem;
use protocol::resource::Variable;
use protocol::resource::scope::Fields;
use serde_json::{Value, json};
use sha2::{Sha256, Sha384, Sha512};

use super::auth::{AuthOptions, Credential, Proof, extended};
use super::header_edits::header_name;
use super::host::{Host, Login};
use super::plugin::{Auth, Behaviour, Plugin, Step};
use super::request::Request;

/// See the module.
pub(crate) static PLUGIN: Plugin = Plugin {
    name: NAME,
    priority: 2510,
    version: 0.1,
    schema,
    read,
    auth: Some(Auth { schema: consumer_schema, secrets: &["secret"], identity: "key", read: read_consumer }),
};

const NAME: &str = "jwt-auth";
const REALM: &str = "jwt";
/// The argument and the cookie that a token comes in.
const DEFAULT_NAME: &str = "jwt";

/// How the tokens of one consumer are verified.
#[derive(Clone, PartialEq)]
pub struct Verifier {
    algorithm: Algorithm,
    secret: Box<[u8]>,
    /// How long after its end a token is taken, in seconds.
    grace_seconds: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Algorithm {
    Hs256,
    Hs384,
    Hs512,
}

const ALGORITHMS: [(&str, Option<Algorithm>); 13] = [
    ("HS256", Some(Algorithm::Hs256)),
    ("HS384", Some(Algorithm::Hs384)),
    ("HS512", Some(Algorithm::Hs512)),
    ("RS256", None),
    ("RS384", None),
    ("RS512", None),
    ("ES256", None),
    ("ES384", None),
    ("ES512", None),
    ("PS256", None),
    ("PS384", None),
    ("PS512", None),
    ("EdDSA", None),
];

#[derive(Debug)]
struct JwtAuth {
    header: HeaderName,
    query: Box<str>,
    argument: Variable,
    cookie: Variable,
    key_claim: Box<str>,
    /// Claims that a token must have.
    wanted: Vec<&'static str>,
    options: AuthOptions,
}

fn read(fields: &Fields<'_, '_>) -> Option<Box<dyn Behaviour>> {
    let header = match fields.get("header") {
        Some(scope) => header_name(&scope),
        None => Some(http::header::AUTHORIZATION),
    };
    let name = |field: &'static str| fields.optional(field, |s| s.string(0, usize::MAX)).unwrap_or(DEFAULT_NAME);
    let (query, cookie) = (name("query"), name("cookie"));
    let key_claim = fields.optional("key_claim_name", |s| s.string(1, usize::MAX)).unwrap_or("key");
    let wanted = fields.optional("claims_to_verify", |s| {
        s.all(s.unique_items(0)?, |item| item.one_of(&[("exp", "exp"), ("nbf", "nbf")]))
    });
    // There is no context that others could read.
    fields.optional("store_in_ctx", |s| s.boolean());
    let options = AuthOptions::read(fields, "Bearer", REALM);
    Some(Box::new(JwtAuth {
        header: header?,
        query: query.into(),
        argument: Variable::parse(&format!("arg_{query}")),
        cookie: Variable::parse(&format!("cookie_{cookie}")),
        key_claim: key_claim.into(),
        wanted: wanted.unwrap_or_default(),
        options: options?,
    }))
}

fn read_consumer(fields: &Fields<'_, '_>) -> Option<Credential> {
    let key = fields.required("key", |s| s.string(1, usize::MAX));
    let secret = fields.optional("secret", |s| s.string(1, usize::MAX));
    let algorithm = fields.optional("algorithm", |s| {
        let known = s.one_of(&ALGORITHMS)?;
        if known.is_none() {
            let name = s.value.as_str().unwrap_or_default();
            let sentence = format!("the algorithm {name} is not served by this version of holdfast");
            s.problem(Problem::rule(s.path.clone(), sentence));
        }
        known
    });
    let is_base64 = fields.optional("base64_secret", |s| s.boolean()).unwrap_or(false);
    fields.optional("exp", |s| s.integer(1, i64::MAX));
    let grace = fields.optional("lifetime_grace_period", |s| s.integer(0, i64::MAX)).unwrap_or(0);
    if !fields.has("secret") && !fields.has("public_key") {
        fields.rule("secret", "property \"secret\" is required when using HS based algorithms");
    }
    let secret = match secret {
        Some(text) if is_base64 => STANDARD.decode(text).ok().or_else(|| {
            fields.rule("secret", "base64_secret required but the secret is not in base64 format");
            None
        }),
        Some(text) => Some(text.as_bytes().to_vec()),
        None => None,
    };
    let verifier = Verifier {
        algorithm: algorithm.unwrap_or(Algorithm::Hs256),
        secret: secret?.into(),
        grace_seconds: u64::try_from(grace).unwrap_or(0),
    };
    Some(Credential { identity: key?.into(), proof: Proof::Token(verifier) })
}

/// A token, taken apart and not verified.
struct Token<'t> {
    algorithm: Option<Algorithm>,
    claims: Value,
    signed: &'t str,
    signature: Vec<u8>,
}

impl<'t> Token<'t> {
    fn parse(text: &'t str) -> Option<Self> {
        let (signed, signature) = text.rsplit_once('.')?;
        let (header, claims) = signed.split_once('.')?;
        let json = |part: &str| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
        let header = json(header)?;
        let name = header.get("alg")?.as_str()?;
        let algorithm = ALGORITHMS.iter().find(|(known, _)| *known == name).and_then(|(_, algorithm)| *algorithm);
        Some(Self { algorithm, claims: json(claims)?, signed, signature: URL_SAFE_NO_PAD.decode(signature).ok()? })
    }
}

impl Verifier {
    fn takes(&self, token: &Token<'_>, wanted: &[&str], now: u64) -> bool {
        let number = |claim: &str| token.claims.get(claim).map(Value::as_f64);
        #[expect(clippy::cast_precision_loss, reason = "seconds since 1970 are far below 2^53")]
        let (now, grace) = (now as f64, self.grace_seconds as f64);
        // A claim that is there must hold, whether or not it must be there.
        let in_time = match (number("exp"), number("nbf")) {
            (Some(None), _) | (_, Some(None)) => false,
            (exp, nbf) => {
                exp.flatten().is_none_or(|exp| now < exp + grace) && nbf.flatten().is_none_or(|nbf| nbf <= now + grace)
            }
        };
        token.algorithm == Some(self.algorithm)
            && self.signed(token.signed.as_bytes(), &token.signature)
            && in_time
            && wanted.iter().all(|claim| token.claims.get(*claim).is_some())
    }

    /// In constant time.
    fn signed(&self, text: &[u8], signature: &[u8]) -> bool {
        fn check<M: Mac + KeyInit>(key: &[u8], text: &[u8], signature: &[u8]) -> bool {
            let mac = <M as KeyInit>::new_from_slice(key);
            mac.is_ok_and(|mac| mac.chain_update(text).verify_slice(signature).is_ok())
        }
        match self.algorithm {
            Algorithm::Hs256 => check::<Hmac<Sha256>>(&self.secret, text, signature),
            Algorithm::Hs384 => check::<Hmac<Sha384>>(&self.secret, text, signature),
            Algorithm::Hs512 => check::<Hmac<Sha512>>(&self.secret, text, signature),
        }
    }
}

impl JwtAuth {
    fn token(&self, request: &Request, host: &dyn Host) -> Option<String> {
        if let Some(header) = request.header(self.header.as_str()) {
            let is_bearer = header.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("bearer "));
            return Some(if is_bearer { header[7..].to_owned() } else { header.to_owned() });
        }
        let value = |variable| host.values().value(variable).map(|value| String::from_utf8_lossy(&value).into_owned());
        value(&self.argument).or_else(|| value(&self.cookie))
    }

    fn find<'h>(&self, request: &Request, host: &'h dyn Host) -> Result<Login<'h>, &'static str> {
        let text = self.token(request, host).ok_or("Missing JWT token in request")?;
        let token = Token::parse(text.trim()).ok_or("JWT token invalid")?;
        let key = token.claims.get(&*self.key_claim).and_then(Value::as_str).ok_or("missing user key in JWT token")?;
        let login = host.login(NAME, key).ok_or("Invalid user key in JWT token")?;
        match login.proof {
            Proof::Token(verifier) if verifier.takes(&token, &self.wanted, host.wall_seconds()) => Ok(login),
            _ => Err("failed to verify jwt"),
        }
    }
}

impl Behaviour for JwtAuth {
    fn rewrite(&self, request: &mut Request, host: &dyn Host) -> Step {
        let found = self.find(request, host);
        if self.options.hide_credentials && found.is_ok() {
            request.headers.remove(&self.header);
            request.remove_argument(&self.query);
        }
        self.options.settle(request, host, found)
    }
}

fn schema() -> Value {
    let own = json!({
        "header": { "type": "string", "default": "authorization" },
        "query": { "type": "string", "default": DEFAULT_NAME },
        "cookie": { "type": "string", "default": DEFAULT_NAME },
        "key_claim_name": { "type": "string", "minLength": 1, "default": "key" },
        "claims_to_verify": { "type": "array", "uniqueItems": true, "items": { "enum": ["exp", "nbf"] },
                              "description": "claims that a token must have" },
        "store_in_ctx": { "type": "boolean", "default": false },
    });
    json!({ "properties": extended(own, AuthOptions::schema(REALM)) })
}

fn consumer_schema() -> Value {
    json!({
        "properties": {
            "key": { "type": "string", "minLength": 1 },
            "secret": { "type": "string", "minLength": 1 },
            "algorithm": { "enum": ["HS256", "HS384", "HS512"], "default": "HS256" },
            "base64_secret": { "type": "boolean", "default": false },
            "exp": { "type": "integer", "minimum": 1, "default": 86_400 },
            "lifetime_grace_period": { "type": "integer", "minimum": 0, "default": 0, "description": "in seconds" },
        },
        "required": ["key", "secret"],
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestHost, answer, behaviour, request};
    use super::*;

    fn sign(header: &Value, claims: &Value, secret: &[u8]) -> String {
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(header), part(claims));
        let mac = <Hmac<Sha256> as KeyInit>::new_from_slice(secret).unwrap().chain_update(signed.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes()))
    }

    #[test]
    fn a_token_must_be_signed_whole_and_in_time() {
        let mut host = TestHost::knowing("jack", &[(NAME, json!({"key": "j", "secret": "s3cret"}))]);
        host.wall_seconds = 1000;
        let plugin = behaviour(NAME, json!({}));
        let hs256 = json!({"alg": "HS256", "typ": "JWT"});
        let good = sign(&hs256, &json!({"key": "j", "exp": 1001, "nbf": 1000}), b"s3cret");
        let bad = "failed to verify jwt";
        for (token, said) in [
            (Some(good.clone()), None),
            (Some(format!("Bearer {good}")), None),
            (Some(sign(&hs256, &json!({"key": "j"}), b"s3cret")), None),
            (Some(sign(&hs256, &json!({"key": "j", "exp": 1000}), b"s3cret")), Some(bad)),
            (Some(sign(&hs256, &json!({"key": "j", "exp": "never"}), b"s3cret")), Some(bad)),
            (Some(sign(&hs256, &json!({"key": "j", "nbf": 1001}), b"s3cret")), Some(bad)),
            (Some(sign(&hs256, &json!({"key": "j"}), b"other")), Some(bad)),
            (Some(sign(&json!({"alg": "none"}), &json!({"key": "j"}), b"s3cret")), Some(bad)),
            (Some(sign(&json!({"alg": "HS512"}), &json!({"key": "j"}), b"s3cret")), Some(bad)),
            (Some(format!("{}.", good.rsplit_once('.').unwrap().0)), Some(bad)),
            (Some(sign(&hs256, &json!({"key": "x"}), b"s3cret")), Some("Invalid user key in JWT token")),
            (Some(sign(&hs256, &json!({}), b"s3cret")), Some("missing user key in JWT token")),
            (Some("a.b".to_owned()), Some("JWT token invalid")),
            (None, Some("Missing JWT token in request")),
        ] {
            let mut it = request("GET", "/a");
            if let Some(token) = &token {
                it.headers.insert("authorization", token.parse().unwrap());
            }
            let step = plugin.rewrite(&mut it, &host);
            let expected = said.map(|said| format!("{{\"message\":\"{said}\"}}\n"));
            assert_eq!(answer(&step).map(|a| a.body.clone()), expected.map(Into::into), "{token:?}");
        }
        let strict = behaviour(NAME, json!({"claims_to_verify": ["exp"]}));
        let mut it = request("GET", "/a");
        it.headers.insert("authorization", sign(&hs256, &json!({"key": "j"}), b"s3cret").parse().unwrap());
        assert!(answer(&strict.rewrite(&mut it, &host)).is_some());
    }

    /// RFC 7515 §A.1, whose key is in base64.
    #[test]
    fn the_example_of_the_standard_is_verified() {
        let key = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ+EstJQLr/T+1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow==";
        let token = "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk";
        let conf = json!({"key": "joe", "secret": key, "base64_secret": true});
        let Proof::Token(verifier) = PLUGIN.credential(&conf).unwrap().proof else { panic!("a token") };
        let token = Token::parse(token).unwrap();
        assert!(verifier.takes(&token, &["exp"], 1_300_819_379));
        assert!(!verifier.takes(&token, &["exp"], 1_300_819_380));
    }
}
