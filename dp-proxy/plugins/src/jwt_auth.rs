//! `jwt-auth`: a consumer is who shows a JSON Web Token (RFC 7519) that was signed with its secret (HMAC, RFC 7518 §3.2) or
//! with the private half of its public key.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use hmac::{Hmac, KeyInit, Mac};
use http::header::AUTHORIZATION;
use protocol::crypto::{TokenAlgorithm, TokenKey};
use protocol::resource::Variable;
use protocol::resource::scope::Fields;
use serde_json::{Value, json};
use sha2::{Sha256, Sha384, Sha512};

use super::auth::{AuthOptions, Credential, Places, Proof, extended, shown};
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
    secrets: &[],
    auth: Some(Auth { schema: consumer_schema, secrets: &["secret"], identity: "key", read: read_consumer }),
};

const NAME: &str = "jwt-auth";
const REALM: &str = "jwt";
/// The argument and the cookie that a token comes in.
const DEFAULT_NAME: &str = "jwt";

/// How the tokens of one consumer are verified.
#[derive(Clone, PartialEq)]
pub struct Verifier {
    signed_with: SignedWith,
    /// How long after its end a token is taken, in seconds.
    grace_seconds: u64,
}

/// With what tokens are signed.
#[derive(Clone, PartialEq)]
enum SignedWith {
    Secret(Hash, Box<[u8]>),
    Key(TokenKey),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Algorithm {
    Secret(Hash),
    Key(TokenAlgorithm),
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

const ALGORITHMS: [(&str, Algorithm); 13] = [
    ("HS256", Algorithm::Secret(Hash::Sha256)),
    ("HS384", Algorithm::Secret(Hash::Sha384)),
    ("HS512", Algorithm::Secret(Hash::Sha512)),
    ("RS256", Algorithm::Key(TokenAlgorithm::Rs256)),
    ("RS384", Algorithm::Key(TokenAlgorithm::Rs384)),
    ("RS512", Algorithm::Key(TokenAlgorithm::Rs512)),
    ("ES256", Algorithm::Key(TokenAlgorithm::Es256)),
    ("ES384", Algorithm::Key(TokenAlgorithm::Es384)),
    ("ES512", Algorithm::Key(TokenAlgorithm::Es512)),
    ("PS256", Algorithm::Key(TokenAlgorithm::Ps256)),
    ("PS384", Algorithm::Key(TokenAlgorithm::Ps384)),
    ("PS512", Algorithm::Key(TokenAlgorithm::Ps512)),
    ("EdDSA", Algorithm::Key(TokenAlgorithm::EdDsa)),
];

#[derive(Debug)]
struct JwtAuth {
    places: Places,
    cookie: Variable,
    key_claim: Box<str>,
    /// Claims that a token must have.
    wanted: Vec<&'static str>,
    options: AuthOptions,
}

fn read(fields: &Fields<'_, '_>) -> Option<Box<dyn Behaviour>> {
    let places = Places::read(fields, AUTHORIZATION, DEFAULT_NAME);
    let cookie = fields.optional("cookie", |s| s.string(0, usize::MAX)).unwrap_or(DEFAULT_NAME);
    let key_claim = fields.optional("key_claim_name", |s| s.string(1, usize::MAX)).unwrap_or("key");
    let wanted = fields.optional("claims_to_verify", |s| {
        s.all(s.unique_items(0)?, |item| item.one_of(&[("exp", "exp"), ("nbf", "nbf")]))
    });
    // There is no context that others could read.
    fields.optional("store_in_ctx", |s| s.boolean());
    let options = AuthOptions::read(fields, "Bearer", REALM);
    Some(Box::new(JwtAuth {
        places: places?,
        cookie: Variable::parse(&format!("cookie_{cookie}")),
        key_claim: key_claim.into(),
        wanted: wanted.unwrap_or_default(),
        options: options?,
    }))
}

fn read_consumer(fields: &Fields<'_, '_>) -> Option<Credential> {
    let key = fields.required("key", |s| s.string(1, usize::MAX));
    let algorithm = match fields.get("algorithm") {
        Some(scope) => scope.one_of(&ALGORITHMS),
        None => Some(Algorithm::Secret(Hash::Sha256)),
    };
    let is_base64 = fields.optional("base64_secret", |s| s.boolean()).unwrap_or(false);
    fields.optional("exp", |s| s.integer(1, i64::MAX));
    let grace = fields.optional("lifetime_grace_period", |s| s.integer(0, i64::MAX)).unwrap_or(0);
    let secret = fields.optional("secret", |s| s.string(1, usize::MAX));
    let public_key = fields.optional("public_key", |s| s.string(1, usize::MAX));
    let signed_with = match algorithm? {
        Algorithm::Secret(hash) => SignedWith::Secret(hash, read_secret(fields, secret, is_base64)?.into()),
        Algorithm::Key(algorithm) => SignedWith::Key(read_public_key(fields, algorithm, public_key)?),
    };
    let verifier = Verifier { signed_with, grace_seconds: u64::try_from(grace).unwrap_or(0) };
    Some(Credential { identity: key?.into(), proof: Proof::Token(verifier) })
}

fn read_secret(fields: &Fields<'_, '_>, text: Option<&str>, is_base64: bool) -> Option<Vec<u8>> {
    if !fields.has("secret") {
        fields.rule("secret", "property \"secret\" is required when using HS based algorithms");
    }
    let text = text?;
    if !is_base64 {
        return Some(text.as_bytes().to_vec());
    }
    let decoded = STANDARD.decode(text).ok();
    if decoded.is_none() {
        fields.rule("secret", "base64_secret required but the secret is not in base64 format");
    }
    decoded
}

fn read_public_key(fields: &Fields<'_, '_>, algorithm: TokenAlgorithm, pem: Option<&str>) -> Option<TokenKey> {
    if !fields.has("public_key") {
        fields.wrong("property \"public_key\" is required");
    }
    TokenKey::parse(algorithm, pem?).map_err(|e| fields.rule("public_key", format!("public_key: {e}"))).ok()
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
        let algorithm = ALGORITHMS.iter().find(|(known, _)| *known == name).map(|(_, algorithm)| *algorithm);
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
        // The consumer says how tokens are signed; what the token says of itself must be the same.
        token.algorithm == Some(self.signed_with.algorithm())
            && self.signed_with.verifies(token.signed.as_bytes(), &token.signature)
            && in_time
            && wanted.iter().all(|claim| token.claims.get(*claim).is_some())
    }
}

impl SignedWith {
    fn algorithm(&self) -> Algorithm {
        match self {
            Self::Secret(hash, _) => Algorithm::Secret(*hash),
            Self::Key(key) => Algorithm::Key(key.algorithm()),
        }
    }

    /// In constant time where it is about a secret.
    fn verifies(&self, text: &[u8], signature: &[u8]) -> bool {
        fn check<M: Mac + KeyInit>(key: &[u8], text: &[u8], signature: &[u8]) -> bool {
            let mac = <M as KeyInit>::new_from_slice(key);
            mac.is_ok_and(|mac| mac.chain_update(text).verify_slice(signature).is_ok())
        }
        match self {
            Self::Secret(Hash::Sha256, secret) => check::<Hmac<Sha256>>(secret, text, signature),
            Self::Secret(Hash::Sha384, secret) => check::<Hmac<Sha384>>(secret, text, signature),
            Self::Secret(Hash::Sha512, secret) => check::<Hmac<Sha512>>(secret, text, signature),
            Self::Key(key) => key.verifies(text, signature),
        }
    }
}

impl JwtAuth {
    fn token(&self, request: &Request, host: &dyn Host) -> Option<String> {
        if let Some(header) = self.places.in_header(request) {
            let is_bearer = header.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("bearer "));
            return Some(if is_bearer { header[7..].to_owned() } else { header.to_owned() });
        }
        self.places.in_query(host).or_else(|| shown(&self.cookie, host))
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
        if self.options.hide_credentials {
            self.places.hide(request);
            if let Variable::Cookie(name) = &self.cookie {
                request.remove_cookie(name);
            }
        }
        self.options.settle(request, host, found)
    }
}

fn schema() -> Value {
    let own = json!({
        "cookie": { "type": "string", "default": DEFAULT_NAME },
        "key_claim_name": { "type": "string", "minLength": 1, "default": "key" },
        "claims_to_verify": { "type": "array", "uniqueItems": true, "items": { "enum": ["exp", "nbf"] },
                              "description": "claims that a token must have" },
        "store_in_ctx": { "type": "boolean", "default": false },
    });
    let places = Places::schema(AUTHORIZATION.as_str(), DEFAULT_NAME);
    json!({ "properties": extended(extended(own, places), AuthOptions::schema(REALM)) })
}

fn consumer_schema() -> Value {
    json!({
        "properties": {
            "key": { "type": "string", "minLength": 1 },
            "secret": { "type": "string", "minLength": 1 },
            "algorithm": { "enum": ALGORITHMS.map(|(name, _)| name), "default": "HS256" },
            "public_key": { "type": "string", "minLength": 1, "description": "in PEM, for all algorithms but HS…" },
            "base64_secret": { "type": "boolean", "default": false },
            "exp": { "type": "integer", "minimum": 1, "default": 86_400 },
            "lifetime_grace_period": { "type": "integer", "minimum": 0, "default": 0, "description": "in seconds" },
        },
        "required": ["key"],
        "if": {
            "properties": { "algorithm": { "enum": ["HS256", "HS384", "HS512"] } },
        },
        "then": { "required": ["secret"] },
        "else": { "required": ["public_key"] },
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

    #[test]
    fn the_upstream_does_not_get_to_see_a_token_wherever_it_stood() {
        let host = TestHost::knowing("jack", &[(NAME, json!({"key": "j", "secret": "s3cret"}))]);
        let token = sign(&json!({"alg": "HS256"}), &json!({"key": "j"}), b"s3cret");
        let plugin = behaviour(NAME, json!({"hide_credentials": true, "anonymous_consumer": "jack"}));
        for token in [token.as_str(), "no.good.one"] {
            let mut it = request("GET", &format!("/a?jwt={token}&b=1"));
            it.headers.insert("authorization", token.parse().unwrap());
            it.headers.insert("cookie", format!("a=1; jwt={token};c=\"x\"").parse().unwrap());
            assert_eq!(plugin.rewrite(&mut it, &host), Step::Go);
            assert_eq!((it.header("authorization"), it.query.as_deref()), (None, Some("b=1")));
            assert_eq!(it.header("cookie"), Some("a=1; c=\"x\""));
        }
    }

    /// RFC 7515 §A.3: its key, as PEM, and its token.
    #[test]
    fn a_token_may_be_signed_with_a_private_key() {
        let public_key = "-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEf83OJ3D2xF1Bg8vub9tLe1gHMzV7\n6e8Tus9uPHvRVEXH8UTNG72bfocs3+257rn0s2ldbqkLJK2KRiMohYjlrQ==\n-----END PUBLIC KEY-----\n";
        let token = "eyJhbGciOiJFUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-Kg6NU1Q";
        let conf = json!({"key": "joe", "algorithm": "ES256", "public_key": public_key});
        let Proof::Token(verifier) = PLUGIN.credential(&conf).unwrap().proof else { panic!("a token") };
        let parsed = Token::parse(token).unwrap();
        assert!(verifier.takes(&parsed, &["exp"], 1_300_819_379));
        assert!(!verifier.takes(&parsed, &["exp"], 1_300_819_380));
        let forged = token.replacen("DtEh", "EtEh", 1);
        assert!(!verifier.takes(&Token::parse(&forged).unwrap(), &[], 0));
        // A public key is no secret: nobody may sign with it as if it were one.
        let as_secret = sign(&json!({"alg": "HS256"}), &json!({"key": "joe"}), public_key.as_bytes());
        assert!(!verifier.takes(&Token::parse(&as_secret).unwrap(), &[], 0));
        for (conf, said) in [
            (json!({"key": "j", "algorithm": "RS256"}), "property \"public_key\" is required"),
            (json!({"key": "j", "algorithm": "RS256", "public_key": public_key}), "public_key: it is no key for this"),
            (json!({"key": "j"}), "property \"secret\" is required when using HS based algorithms"),
        ] {
            let report = PLUGIN.credential(&conf).unwrap_err();
            assert!(report.summary().contains(said), "{conf}: {report}");
        }
    }

    #[test]
    fn fuzz_nobody_passes_with_another_token() {
        let mut host = TestHost::knowing("jack", &[(NAME, json!({"key": "j", "secret": "s3cret"}))]);
        host.wall_seconds = 1000;
        let plugin = behaviour(NAME, json!({}));
        let good = sign(&json!({"alg": "HS256"}), &json!({"key": "j", "exp": 1001}), b"s3cret");
        let others = [json!("none"), json!("HS512"), json!("RS256"), json!(1)]
            .map(|alg| sign(&json!({ "alg": alg }), &json!({"key": "j", "exp": 1e300, "nbf": -1}), b"s3cret"));
        let bearer = format!("Bearer {good}");
        let seeds: Vec<&[u8]> =
            [&good, &bearer].into_iter().chain(&others).map(|text| text.as_bytes()).chain([&b"a.b.c"[..]]).collect();
        fuzz::hammer(4, &seeds, |bytes| {
            let Ok(value) = http::HeaderValue::from_bytes(bytes) else { return };
            let mut it = request("GET", "/a");
            it.headers.insert(AUTHORIZATION, value);
            if plugin.rewrite(&mut it, &host) == Step::Go {
                let text = str::from_utf8(bytes).unwrap().trim();
                let is_bearer = text.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("bearer "));
                let shown = if is_bearer { text[7..].trim() } else { text };
                assert_eq!(shown, good, "another token, or the same written otherwise");
            }
        });
    }
}
