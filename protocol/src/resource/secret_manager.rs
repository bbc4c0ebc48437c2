//! A secret manager: where secrets that `$secret://` names are kept.
//!
//! What opens it is stored sealed. Proxies read from those of HashiCorp Vault; those of AWS and Google Cloud are stored, and
//! references to them refused ([`super::SecretReference`]).

use std::fmt;

use serde_json::{Map, Value};

use super::SecretReference;
use super::common::read_labelling;
use super::scope::{Fields, Scope, check};
use crate::report::{Path, Problem, Report};

/// A secret manager, whose fields depend on its id: `vault/<id>`, `aws/<id>`, `gcp/<id>`.
#[derive(Clone, PartialEq, Debug)]
pub struct SecretManager {
    /// Its fields, as they were written.
    pub fields: Map<String, Value>,
}

/// A HashiCorp Vault, as its fields say.
#[derive(Clone, PartialEq, Eq)]
pub struct Vault {
    /// Where it listens, without a slash at the end.
    pub uri: Box<str>,
    /// The path of the secrets engine and what stands before all paths, without slashes around it.
    pub prefix: Box<str>,
    /// What opens it.
    pub token: Box<str>,
    /// The namespace, of the editions that have them.
    pub namespace: Option<Box<str>>,
}

/// The token is not printed.
impl fmt::Debug for Vault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Vault({}/{})", self.uri, self.prefix)
    }
}

/// Reads the fields of one manager.
type ReadFields = fn(&Fields<'_, '_>);

/// The managers by name, sorted.
const MANAGERS: [(&str, ReadFields); 3] = [("aws", read_aws), ("gcp", read_gcp), ("vault", read_vault)];

impl SecretManager {
    pub(super) fn read(scope: Scope<'_, '_>) -> Option<Self> {
        scope.object()?;
        Some(Self { fields: scope.value.as_object()?.clone() })
    }

    /// The vault that it is, where secrets in its fields are open; `None`: a field is missing.
    #[must_use]
    pub fn vault(fields: &Map<String, Value>) -> Option<Vault> {
        let text = |name: &str| fields.get(name).and_then(Value::as_str);
        Some(Vault {
            uri: text("uri")?.trim_end_matches('/').into(),
            prefix: text("prefix")?.trim_matches('/').into(),
            token: text("token")?.into(),
            namespace: text("namespace").map(Box::from),
        })
    }

    /// Checks a body against the schema of the manager that the id names.
    ///
    /// # Errors
    /// A [`Report`] of everything that is wrong.
    pub(super) fn check_fields(&self, id: &str, body: &Value) -> Result<(), Report> {
        let name = id.split('/').next().unwrap_or_default();
        let Some((_, read)) = MANAGERS.iter().find(|(known, _)| *known == name) else {
            let sentence = format!("invalid secret manager: {name}");
            return Err(Report::of(Problem::rule(Path::default().property("id"), sentence)));
        };
        check(body, |scope| {
            let fields = scope.object()?;
            read_labelling(&fields);
            read(&fields);
            fields.finish();
            Some(())
        })
    }
}

/// What opens the manager, or says where it is. It may stand in the environment of the proxies, and not in a manager.
fn text<'v>(scope: Scope<'v, '_>) -> Option<&'v str> {
    let text = scope.string(1, TEXT_CHARS_MAX)?;
    let sentence = match SecretReference::parse(text) {
        Ok(None | Some(SecretReference::Environment { .. })) => return Some(text),
        Ok(Some(_)) => "what opens a secret manager cannot be kept in one".to_owned(),
        Err(e) => e.to_string(),
    };
    scope.problem(Problem::rule(scope.path.clone(), sentence));
    None
}

/// The longest field: a private key in PEM fits many times.
const TEXT_CHARS_MAX: usize = 65_536;
const URI_PATTERN: &str = r"^[^\/]+:\/\/([\da-zA-Z.-]+|\[[\da-fA-F:]+\])(:\d+)?";

fn uri<'v>(scope: Scope<'v, '_>) -> Option<&'v str> {
    let given = text(scope.clone())?;
    scope.pattern(given, URI_PATTERN, |text| {
        text.split_once("://").is_some_and(|(scheme, rest)| {
            let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
            !scheme.is_empty()
                && !scheme.contains('/')
                && host.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '[')
        })
    })
}

fn read_vault(fields: &Fields<'_, '_>) {
    fields.required("uri", uri);
    fields.required("prefix", text);
    fields.required("token", text);
    fields.optional("namespace", text);
}

fn read_aws(fields: &Fields<'_, '_>) {
    fields.required("access_key_id", text);
    fields.required("secret_access_key", text);
    fields.optional("session_token", text);
    fields.optional("region", text);
    fields.optional("endpoint_url", uri);
}

fn read_gcp(fields: &Fields<'_, '_>) {
    fields.optional("ssl_verify", |s| s.boolean());
    fields.optional("auth_file", text);
    fields.optional("auth_config", |s| {
        let config = s.object()?;
        for name in ["client_email", "private_key", "project_id"] {
            config.required(name, text);
        }
        for name in ["token_uri", "entries_uri"] {
            config.optional(name, uri);
        }
        config.optional("scope", |s| {
            let scopes = s.items(1)?;
            s.all(scopes, text)
        });
        config.finish();
        Some(())
    });
    match (fields.has("auth_config"), fields.has("auth_file")) {
        (false, false) => fields.wrong("value should match only one schema, but matches none"),
        (true, true) => fields.wrong("value should match only one schema, but matches both schemas 1 and 2"),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::{KindInfo, NoPlugins, admit};

    #[test]
    fn every_manager_has_its_fields() {
        let missing = |name: &str| format!("invalid configuration: property \"{name}\" is required");
        let vault = json!({"uri": "https://127.0.0.1:8200", "prefix": "kv/apisix", "token": "t"});
        let config = json!({"client_email": "a@b.c", "private_key": "k", "project_id": "p"});
        for (id, body, expected) in [
            ("vault/1", vault.clone(), Ok(())),
            ("vault/1", json!({}), Err(missing("uri"))),
            ("vault/1", json!({"uri": "https://a", "prefix": "p"}), Err(missing("token"))),
            (
                "vault/1",
                json!({"uri": "https://a", "prefix": "p", "token": "$secret://vault/2/a/b"}),
                Err("what opens a secret manager cannot be kept in one".into()),
            ),
            ("nosuch/1", vault, Err("invalid secret manager: nosuch".into())),
            ("aws/1", json!({"access_key_id": "a", "secret_access_key": "b", "region": "eu-west-1"}), Ok(())),
            ("aws/1", json!({"access_key_id": "a"}), Err(missing("secret_access_key"))),
            ("gcp/1", json!({"auth_config": config}), Ok(())),
            ("gcp/1", json!({"auth_file": "/f", "ssl_verify": true}), Ok(())),
            (
                "gcp/1",
                json!({}),
                Err("invalid configuration: value should match only one schema, but matches none".into()),
            ),
        ] {
            let kind = KindInfo::find("secrets").unwrap();
            let admitted = admit(&NoPlugins, kind, Some(id), body.clone());
            let said = admitted.map(|admitted| assert!(admitted.has_secrets || id == "gcp/1", "{body}"));
            assert_eq!(said.map_err(|report| report.summary().to_owned()), expected, "{id} {body}");
        }
    }
}
