//! `basic-auth`: a consumer is who knows its name and password (RFC 7617).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::AUTHORIZATION;
use protocol::resource::scope::Fields;
use serde_json::{Value, json};
use subtle::ConstantTimeEq;

use super::auth::{AuthOptions, Credential, Proof};
use super::host::{Host, Login};
use super::plugin::{Auth, Behaviour, Plugin, Step};
use super::request::Request;

/// See the module.
pub(crate) static PLUGIN: Plugin = Plugin {
    name: NAME,
    priority: 2520,
    version: 0.1,
    schema,
    read,
    secrets: &[],
    auth: Some(Auth { schema: consumer_schema, secrets: &["password"], identity: "username", read: read_consumer }),
};

const NAME: &str = "basic-auth";
const REALM: &str = "basic";

#[derive(Debug)]
struct BasicAuth {
    options: AuthOptions,
}

fn read(fields: &Fields<'_, '_>) -> Option<Box<dyn Behaviour>> {
    Some(Box::new(BasicAuth { options: AuthOptions::read(fields, "Basic", REALM)? }))
}

fn read_consumer(fields: &Fields<'_, '_>) -> Option<Credential> {
    let username = fields.required("username", |s| s.string(0, usize::MAX));
    let password = fields.required("password", |s| s.string(0, usize::MAX));
    Some(Credential { identity: username?.into(), proof: Proof::Password(password?.into()) })
}

impl BasicAuth {
    fn find<'h>(request: &Request, host: &'h dyn Host) -> Result<Login<'h>, &'static str> {
        let header = request.headers.get(AUTHORIZATION).ok_or("Missing authorization in request")?;
        let (username, password) = decode(header.as_bytes()).ok_or("Invalid authorization in request")?;
        let login = host.login(NAME, &username).ok_or("Invalid user authorization")?;
        match login.proof {
            Proof::Password(wanted) if bool::from(wanted.as_bytes().ct_eq(password.as_bytes())) => Ok(login),
            _ => Err("Invalid user authorization"),
        }
    }
}

fn decode(header: &[u8]) -> Option<(String, String)> {
    let (scheme, rest) = header.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(rest.trim_ascii()).ok()?).ok()?;
    let (username, password) = text.split_once(':')?;
    Some((username.to_owned(), password.to_owned()))
}

impl Behaviour for BasicAuth {
    fn rewrite(&self, request: &mut Request, host: &dyn Host) -> Step {
        let found = Self::find(request, host);
        if self.options.hide_credentials {
            request.headers.remove(AUTHORIZATION);
        }
        self.options.settle(request, host, found)
    }
}

fn schema() -> Value {
    json!({ "properties": AuthOptions::schema(REALM) })
}

fn consumer_schema() -> Value {
    json!({
        "properties": { "username": { "type": "string" }, "password": { "type": "string" } },
        "required": ["username", "password"],
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestHost, answer, behaviour, request};
    use super::*;

    #[test]
    fn name_and_password_must_be_right() {
        let host = TestHost::knowing("jack", &[(NAME, json!({"username": "j", "password": "a:b"}))]);
        let plugin = behaviour(NAME, json!({"hide_credentials": true}));
        for (header, said) in [
            (Some(format!("Basic {}", STANDARD.encode("j:a:b"))), None),
            (Some(format!("basic {}", STANDARD.encode("j:a:b"))), None),
            (Some(format!("Basic {}", STANDARD.encode("j:a"))), Some("Invalid user authorization")),
            (Some(format!("Basic {}", STANDARD.encode("x:a:b"))), Some("Invalid user authorization")),
            (Some("Basic ?".to_owned()), Some("Invalid authorization in request")),
            (Some("Bearer x".to_owned()), Some("Invalid authorization in request")),
            (None, Some("Missing authorization in request")),
        ] {
            let mut it = request("GET", "/a");
            if let Some(header) = &header {
                it.headers.insert(AUTHORIZATION, header.parse().unwrap());
            }
            let step = plugin.rewrite(&mut it, &host);
            let expected = said.map(|said| format!("{{\"message\":\"{said}\"}}\n"));
            assert_eq!(answer(&step).map(|a| a.body.clone()), expected.map(Into::into), "{header:?}");
            assert_eq!(said.is_none(), it.identity.is_some() && it.headers.get(AUTHORIZATION).is_none());
        }
    }

    #[test]
    fn fuzz_nobody_passes_without_the_password() {
        let host = TestHost::knowing("jack", &[(NAME, json!({"username": "j", "password": "a:b"}))]);
        let plugin = behaviour(NAME, json!({}));
        let good = STANDARD.encode("j:a:b");
        let header = format!("Basic {good}");
        let seeds: [&[u8]; 4] = [header.as_bytes(), b"basic  ajphOmI=", b"Basic ajphOmI", b"Basic ajo="];
        fuzz::hammer(2, &seeds, |bytes| {
            let Ok(value) = http::HeaderValue::from_bytes(bytes) else { return };
            let mut it = request("GET", "/a");
            it.headers.insert(AUTHORIZATION, value);
            if plugin.rewrite(&mut it, &host) == Step::Go {
                // There is one way to write what opens, but for the scheme's letters and blanks around it.
                let (scheme, shown) = bytes.split_at(6);
                assert!(scheme.eq_ignore_ascii_case(b"basic ") && shown.trim_ascii() == good.as_bytes());
            }
        });
    }
}
