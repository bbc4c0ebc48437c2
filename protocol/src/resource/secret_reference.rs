//! References to secrets that are kept elsewhere: `$env://NAME[/key]`, `$secret://vault/<id>/<path>/<key>`.
//!
//! A reference stands where the secret would, is no secret itself, and is stored as it is. Proxies put in its place what
//! it names; nobody else looks behind it. `$env` and `$secret` may be written in capitals, as in APISIX.

use std::fmt;

use serde_json::Value;

use crate::report::{Path, Problem, Report};
use crate::text::Text;

/// What a reference names.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum SecretReference {
    /// A variable of the environment of the proxy.
    Environment {
        /// Its name.
        name: Text,
        /// The field, where its value is a JSON object.
        key: Option<Text>,
    },
    /// A field of what a HashiCorp Vault keeps under a path.
    Vault(VaultPlace, Text),
}

/// Where a secret manager of the kind `secrets` keeps fields.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct VaultPlace {
    /// The id of the manager: `vault/1`.
    pub manager: Text,
    /// The path below the manager's prefix, without slashes around it.
    pub path: Text,
}

/// A text that begins as a reference and names nothing.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BadReference {
    /// `$env://` without a name.
    #[error("a reference to the environment is $env://<name> or $env://<name>/<key>")]
    Environment,
    /// `$secret://` without all of its parts.
    #[error("a reference to a secret is $secret://<manager>/<id>/<path>/<key>")]
    Secret,
    /// A manager that APISIX has.
    #[error("references to secrets of the manager {0} are not served by this version of holdfast: of vault they are")]
    NotServed(Text),
    /// A manager that nobody knows.
    #[error("invalid secret manager: {0}")]
    UnknownManager(Text),
}

const ENVIRONMENT: &str = "$env://";
const SECRET: &str = "$secret://";

impl SecretReference {
    /// Reads a text; `None`: it is no reference.
    ///
    /// # Errors
    /// [`BadReference`] for one that names nothing.
    pub fn parse(text: &str) -> Result<Option<Self>, BadReference> {
        if let Some(rest) = after(text, ENVIRONMENT) {
            let (name, key) = match rest.split_once('/') {
                Some((name, key)) => (name, Some(key)),
                None => (rest, None),
            };
            if name.is_empty() || name.contains(['=', '\0']) || key.is_some_and(str::is_empty) {
                return Err(BadReference::Environment);
            }
            return Ok(Some(Self::Environment { name: name.into(), key: key.map(Text::from) }));
        }
        let Some(rest) = after(text, SECRET) else { return Ok(None) };
        let mut parts = rest.splitn(3, '/');
        let (manager, id, place) = (parts.next(), parts.next(), parts.next());
        let (Some(manager), Some(id), Some((path, key))) = (manager, id, place.and_then(|it| it.rsplit_once('/')))
        else {
            return Err(BadReference::Secret);
        };
        match manager {
            "vault" => {}
            "aws" | "gcp" => return Err(BadReference::NotServed(manager.into())),
            other => return Err(BadReference::UnknownManager(other.into())),
        }
        let path = path.trim_matches('/');
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.~/@+".contains(c);
        let climbs = path.split('/').any(|segment| segment.is_empty() || segment.trim_start_matches('.').is_empty());
        if id.is_empty() || key.is_empty() || climbs || !path.chars().all(is_plain) {
            return Err(BadReference::Secret);
        }
        let manager = format!("{manager}/{id}").as_str().into();
        Ok(Some(Self::Vault(VaultPlace { manager, path: path.into() }, key.into())))
    }

    /// Whether a text begins as a reference.
    #[must_use]
    pub fn is_meant(text: &str) -> bool {
        after(text, ENVIRONMENT).or_else(|| after(text, SECRET)).is_some()
    }

    /// Whether there may be a reference in the JSON of a body: a quick look that finds every one.
    #[must_use]
    pub fn may_be_in(body: &str) -> bool {
        let ends = |start: &str, scheme: &str| {
            let at = start.len().checked_sub(scheme.len());
            at.and_then(|at| start.get(at..)).is_some_and(|end| end.eq_ignore_ascii_case(scheme))
        };
        // Nearly all bodies have none, which is found out faster than where they are.
        body.contains("://")
            && body.match_indices("://").any(|(at, mark)| {
                let start = &body[..at + mark.len()];
                ends(start, ENVIRONMENT) || ends(start, SECRET)
            })
    }
}

/// What follows a scheme, in whatever case that is written.
fn after<'t>(text: &'t str, scheme: &str) -> Option<&'t str> {
    let start = text.get(..scheme.len()).filter(|start| start.eq_ignore_ascii_case(scheme))?;
    Some(&text[start.len()..])
}

/// As it is written.
impl fmt::Display for SecretReference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Environment { name, key: None } => write!(f, "{ENVIRONMENT}{name}"),
            Self::Environment { name, key: Some(key) } => write!(f, "{ENVIRONMENT}{name}/{key}"),
            Self::Vault(place, key) => write!(f, "{place}/{key}"),
        }
    }
}

/// As a reference without its key.
impl fmt::Display for VaultPlace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SECRET}{}/{}", self.manager, self.path)
    }
}

/// A place where a reference may stand.
type Found<'v> = (Path, &'v mut Value);

/// Every text in the parts of a body of this kind where references may stand, and that begins as one: in the
/// configurations of plugins, in the certificates and keys of ssls, in what opens secret managers.
pub fn secret_references<'v>(kind: &str, body: &'v mut Value) -> Vec<Found<'v>> {
    let mut found = Vec::new();
    let Some(members) = body.as_object_mut() else { return found };
    let holds: fn(&str) -> bool = match kind {
        "ssls" => |name| matches!(name, "cert" | "key" | "certs" | "keys"),
        "secrets" => |_| true,
        _ => |name| name == "plugins",
    };
    for (name, value) in members.iter_mut().filter(|(name, _)| holds(name)) {
        collect(Path::default().property(name), value, &mut found);
    }
    found
}

fn collect<'v>(path: Path, value: &'v mut Value, found: &mut Vec<Found<'v>>) {
    match value {
        Value::String(text) if SecretReference::is_meant(text) => found.push((path, value)),
        Value::Array(items) => {
            items.iter_mut().enumerate().for_each(|(i, item)| collect(path.item(i), item, found));
        }
        Value::Object(members) => {
            members.iter_mut().for_each(|(name, value)| collect(path.property(name), value, found));
        }
        _ => {}
    }
}

/// What is said of a value in which references stand: what is wrong at those places cannot be known, and whether they name
/// anything is checked in its place.
///
/// # Errors
/// A [`Report`] of everything else that `checked` found, and of references that name nothing.
pub fn check_around_references<T>(value: &Value, checked: Result<T, Report>) -> Result<(), Report> {
    let mut value = value.clone();
    let mut found = Vec::new();
    collect(Path::default(), &mut value, &mut found);
    let mut problems = Vec::new();
    for (path, text) in &found {
        if let Err(e) = SecretReference::parse(text.as_str().unwrap_or_default()) {
            problems.push(Problem::rule(path.clone(), e.to_string()));
        }
    }
    if let Err(report) = checked {
        let is_known = |problem: &Problem| !found.iter().any(|(path, _)| *path == problem.path);
        problems.extend(report.problems.into_iter().filter(is_known));
    }
    if problems.is_empty() { Ok(()) } else { Err(Report { problems }) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn references_are_read_as_apisix_writes_them() {
        let secret = Err("a reference to a secret is $secret://<manager>/<id>/<path>/<key>");
        let environment = Err("a reference to the environment is $env://<name> or $env://<name>/<key>");
        let not_served = Err(
            "references to secrets of the manager aws are not served by this version of holdfast: of vault they are",
        );
        for (text, expected) in [
            ("jack-key", Ok(None)),
            ("$envy://A", Ok(None)),
            ("a $env://A", Ok(None)),
            ("$env://A", Ok(Some("$env://A"))),
            ("$ENV://A_B/c/d", Ok(Some("$env://A_B/c/d"))),
            ("$env://", environment),
            ("$env://A/", environment),
            ("$secret://vault/1/jack/auth-key", Ok(Some("$secret://vault/1/jack/auth-key"))),
            ("$SECRET://vault/prod/teams/jack/key", Ok(Some("$secret://vault/prod/teams/jack/key"))),
            ("$secret://vault/1/jack", secret),
            ("$secret://vault/1/../sys/key", secret),
            ("$secret://vault/1/a?b/key", secret),
            ("$secret://vault", secret),
            ("$secret://aws/1/a/b", not_served),
            ("$secret://nosuch/1/a/b", Err("invalid secret manager: nosuch")),
        ] {
            let read = SecretReference::parse(text);
            let shown = read.map(|read| read.map(|it| it.to_string())).map_err(|e| e.to_string());
            assert_eq!(shown.as_ref().map(Option::as_deref).map_err(String::as_str), expected, "{text}");
            assert!(
                !SecretReference::is_meant(text) || SecretReference::may_be_in(&json!([text]).to_string()),
                "{text}"
            );
        }
        assert!(!SecretReference::may_be_in("{\"uri\":\"https://a\",\"b\":\"$e://\"}"));
    }

    #[test]
    fn they_are_found_where_they_may_stand() {
        let found = |kind: &str, mut body: Value| -> Vec<String> {
            secret_references(kind, &mut body).into_iter().map(|(path, _)| path.to_string()).collect()
        };
        let plugins = json!({"key-auth": {"key": "$env://A"}, "x": {"a": [{"b": "$secret://vault/1/a/b"}, 1]}});
        assert_eq!(
            found("consumers", json!({"plugins": plugins, "desc": "$env://A"})),
            ["$.plugins[\"key-auth\"].key", "$.plugins.x.a[0].b"]
        );
        assert_eq!(found("ssls", json!({"cert": "$env://A", "keys": ["k", "$env://B"]})), ["$.cert", "$.keys[1]"]);
        assert_eq!(found("secrets", json!({"uri": "https://a", "token": "$ENV://T"})), ["$.token"]);
    }

    #[test]
    fn what_is_wrong_around_a_reference_is_still_said() {
        let body = json!({"key": "$env://A", "count": 0, "other": "$env://"});
        let problem = |field: &str| Problem::schema(Path::default().property(field), "wrong");
        let checked: Result<(), _> = Err(Report { problems: vec![problem("key"), problem("count")] });
        let report = check_around_references(&body, checked).unwrap_err();
        let places: Vec<_> = report.problems.iter().map(|problem| problem.path.to_string()).collect();
        assert_eq!(places, ["$.other", "$.count"]);
    }
}
