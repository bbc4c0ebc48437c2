//! `key-auth`: a consumer is who knows its key.

use http::HeaderName;
use protocol::resource::scope::Fields;
use serde_json::{Value, json};

use super::auth::{AuthOptions, Credential, Places, Proof, extended};
use super::host::Host;
use super::plugin::{Auth, Behaviour, Plugin, Step};
use super::request::Request;

/// See the module.
pub(crate) static PLUGIN: Plugin = Plugin {
    name: NAME,
    priority: 2500,
    version: 0.1,
    schema,
    read,
    secrets: &[],
    auth: Some(Auth { schema: consumer_schema, secrets: &["key"], identity: "key", read: read_consumer }),
};

const NAME: &str = "key-auth";
/// The header and the argument that a key comes in.
const DEFAULT_NAME: &str = "apikey";
const REALM: &str = "key";

#[derive(Debug)]
struct KeyAuth {
    places: Places,
    options: AuthOptions,
}

fn read(fields: &Fields<'_, '_>) -> Option<Box<dyn Behaviour>> {
    let places = Places::read(fields, HeaderName::from_static(DEFAULT_NAME), DEFAULT_NAME);
    let options = AuthOptions::read(fields, "apikey", REALM);
    Some(Box::new(KeyAuth { places: places?, options: options? }))
}

fn read_consumer(fields: &Fields<'_, '_>) -> Option<Credential> {
    let key = fields.required("key", |s| s.string(0, usize::MAX))?;
    Some(Credential { identity: key.into(), proof: Proof::None })
}

impl Behaviour for KeyAuth {
    fn rewrite(&self, request: &mut Request, host: &dyn Host) -> Step {
        let places = &self.places;
        let key = places.in_header(request).map(str::to_owned).or_else(|| places.in_query(host));
        let found = match &key {
            None => Err("Missing API key in request"),
            Some(key) => host.login(NAME, key).ok_or("Invalid API key in request"),
        };
        if self.options.hide_credentials {
            places.hide(request);
        }
        self.options.settle(request, host, found)
    }
}

fn schema() -> Value {
    let places = Places::schema(DEFAULT_NAME, DEFAULT_NAME);
    json!({ "properties": extended(places, AuthOptions::schema(REALM)) })
}

fn consumer_schema() -> Value {
    json!({ "properties": { "key": { "type": "string" } }, "required": ["key"] })
}

#[cfg(test)]
mod tests {
    use super::super::testing::{TestHost, answer, behaviour, request};
    use super::*;

    #[test]
    fn who_knows_a_key_is_its_owner() {
        let host = TestHost::knowing("jack", &[(NAME, json!({"key": "jack-key"}))]);
        let plugin = behaviour(NAME, json!({}));
        for (header, said) in [
            (Some("jack-key"), None),
            (Some("nope"), Some("{\"message\":\"Invalid API key in request\"}\n")),
            (None, Some("{\"message\":\"Missing API key in request\"}\n")),
        ] {
            let mut it = request("GET", "/a");
            if let Some(key) = header {
                it.headers.insert("apikey", key.parse().unwrap());
            }
            let step = plugin.rewrite(&mut it, &host);
            assert_eq!(answer(&step).map(|a| a.body.clone()), said.map(Into::into));
            if let Some(answer) = answer(&step) {
                let challenge = answer.headers["www-authenticate"].to_str().unwrap();
                assert_eq!((answer.status.as_u16(), challenge), (401, "apikey realm=\"key\""));
            } else {
                assert_eq!(it.header("x-consumer-username"), Some("jack"));
                assert_eq!(it.header("apikey"), Some("jack-key"), "the upstream sees it unless it is to be hidden");
            }
        }
    }

    #[test]
    fn a_key_may_come_in_the_query_and_be_hidden() {
        let mut host = TestHost::knowing("jack", &[(NAME, json!({"key": "k y"}))]);
        host.arguments = vec![("key".to_owned(), "k y".to_owned())];
        let plugin = behaviour(NAME, json!({"query": "key", "hide_credentials": true}));
        let mut it = request("GET", "/a");
        it.query = Some("key=k%20y&b=1".to_owned());
        assert_eq!(plugin.rewrite(&mut it, &host), Step::Go);
        assert_eq!(it.query.as_deref(), Some("b=1"));
    }

    #[test]
    fn who_is_nobody_may_be_the_anonymous_consumer() {
        let host = TestHost::knowing("guest", &[]);
        let mut it = request("GET", "/a");
        assert_eq!(behaviour(NAME, json!({"anonymous_consumer": "guest"})).rewrite(&mut it, &host), Step::Go);
        assert_eq!(it.identity.as_ref().map(|identity| identity.consumer.as_str()), Some("guest"));
        let step = behaviour(NAME, json!({"anonymous_consumer": "nosuch"})).rewrite(&mut request("GET", "/a"), &host);
        assert_eq!(answer(&step).unwrap().body, "{\"message\":\"Invalid user authorization\"}\n");
    }
}
