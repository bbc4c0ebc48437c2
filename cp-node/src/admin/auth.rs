//! Who may use the Admin API.

use std::path::PathBuf;

use axum::http::{HeaderMap, Method, header};
use daemon::secret_file;
use protocol::ConfigState;
use protocol::command::BasedOn;
use protocol::entry::UnixMillis;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::answer::Answer;
use super::limits::KEY_CHARS_MIN;
use super::request::Query;
use super::users::{self, Denied};
use crate::settings::{AdminKey, Role};

/// The keys of the settings. Only their hashes are kept.
pub(crate) struct Keys(Vec<Key>);

struct Key {
    name: String,
    sha256: [u8; 32],
    role: Role,
}

/// Who a request is from.
#[derive(Clone, Debug)]
pub(super) struct Principal {
    pub(super) name: String,
    /// Whether secrets are shown to it where APISIX shows them.
    pub(super) sees_secrets: bool,
    /// The user and token that say so, as they were when this was found out; nothing for a key of the settings.
    pub(super) based_on: Vec<BasedOn>,
}

/// A key that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// There is none: nobody could use the Admin API.
    #[error("admin.keys: at least one key is needed; the Admin API has no default key")]
    None,
    /// Its file cannot be read.
    #[error("admin.keys[{index}].key_file: {}: {error}", path.display())]
    File {
        /// Which key.
        index: usize,
        /// Its file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// It is too short to be a secret.
    #[error("admin.keys[{index}]: the key has {chars} characters, at least {} are needed", KEY_CHARS_MIN)]
    Short {
        /// Which key.
        index: usize,
        /// Its length.
        chars: usize,
    },
}

impl Keys {
    /// Reads the keys from the settings and the files that these name.
    pub(crate) fn load(settings: &[AdminKey]) -> Result<Self, KeyError> {
        if settings.is_empty() {
            return Err(KeyError::None);
        }
        let mut keys = Vec::new();
        for (index, setting) in settings.iter().enumerate() {
            let text = match &setting.key_file {
                Some(path) => secret_file::read(path)
                    .map_err(|error| KeyError::File { index, path: path.clone(), error })?
                    .trim()
                    .to_owned(),
                None => setting.key.clone(),
            };
            if text.chars().count() < KEY_CHARS_MIN {
                return Err(KeyError::Short { index, chars: text.chars().count() });
            }
            let sha256 = Sha256::digest(text.as_bytes()).into();
            keys.push(Key { name: setting.name.clone(), sha256, role: setting.role });
        }
        Ok(Self(keys))
    }

    /// Whether one of them has this name.
    pub(super) fn names(&self, name: &str) -> bool {
        self.0.iter().any(|key| key.name == name)
    }

    /// Who a request is from, if it may do what it asks for: one of these keys, or a user's token that `config` knows.
    pub(super) fn check(
        &self,
        method: &Method,
        headers: &HeaderMap,
        query: &Query,
        config: impl FnOnce() -> ConfigState,
        now: UnixMillis,
    ) -> Result<Principal, Answer> {
        let Some(given) = given_key(headers, query) else {
            return Err(Answer::unauthorised("missing apikey"));
        };
        let (principal, role) = match self.of_the_settings(&given) {
            Some(found) => found,
            None => match users::principal(&config(), &given, now) {
                Some(Ok(found)) => found,
                Some(Err(Denied::Expired)) => return Err(Answer::unauthorised("expired apikey")),
                Some(Err(Denied::Unknown)) | None => return Err(Answer::unauthorised("wrong apikey")),
            },
        };
        if role == Role::Viewer && method != Method::GET && method != Method::HEAD {
            return Err(Answer::unauthorised("invalid method for role viewer"));
        }
        Ok(principal)
    }

    fn of_the_settings(&self, given: &str) -> Option<(Principal, Role)> {
        let sha256: [u8; 32] = Sha256::digest(given.as_bytes()).into();
        // Every key is compared, in constant time: the answer's time tells nothing of the keys.
        let mut found = None;
        for key in &self.0 {
            if bool::from(key.sha256.ct_eq(&sha256)) {
                found = Some(key);
            }
        }
        let key = found?;
        let sees_secrets = key.role == Role::Admin;
        Some((Principal { name: key.name.clone(), sees_secrets, based_on: Vec::new() }, key.role))
    }
}

/// Header, query argument or cookie, in this order.
pub(super) fn given_key(headers: &HeaderMap, query: &Query) -> Option<String> {
    let from_header = headers.get("x-api-key").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let from_cookie = || {
        let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
        let mut pairs = cookies.flat_map(|cookies| cookies.split(';'));
        pairs.find_map(|pair| pair.trim().strip_prefix("x_api_key=").map(str::to_owned))
    };
    from_header.or_else(|| query.get("api_key").map(str::to_owned)).or_else(from_cookie)
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn keys() -> Keys {
        let key = |name: &str, key: &str, role| AdminKey { name: name.into(), key: key.into(), key_file: None, role };
        Keys::load(&[
            key("root", "0123456789abcdef-admin", Role::Admin),
            key("grafana", "0123456789abcdef-viewer", Role::Viewer),
        ])
        .unwrap()
    }

    fn refused(method: Method, name: &'static str, value: &str, query: &str) -> String {
        let mut headers = HeaderMap::new();
        if !name.is_empty() {
            headers.insert(name, HeaderValue::from_str(value).unwrap());
        }
        match keys().check(&method, &headers, &Query::parse(query), ConfigState::serving, 0) {
            Ok(principal) => format!("ok {}", principal.name),
            Err(answer) => answer.text(),
        }
    }

    #[test]
    fn keys_come_by_header_query_or_cookie() {
        let admin = "0123456789abcdef-admin";
        assert_eq!(refused(Method::PUT, "x-api-key", admin, ""), "ok root");
        assert_eq!(refused(Method::PUT, "", "", &format!("a=b&api_key={admin}")), "ok root");
        assert_eq!(refused(Method::PUT, "cookie", &format!("a=b; x_api_key={admin}"), ""), "ok root");
        assert!(refused(Method::GET, "", "", "").contains("missing apikey"));
        assert!(refused(Method::GET, "x-api-key", "nope", "").contains("wrong apikey"));
    }

    #[test]
    fn a_viewer_only_reads() {
        let viewer = "0123456789abcdef-viewer";
        assert_eq!(refused(Method::GET, "x-api-key", viewer, ""), "ok grafana");
        assert!(refused(Method::PUT, "x-api-key", viewer, "").contains("invalid method for role viewer"));
    }

    #[test]
    fn keys_that_cannot_be_used_name_their_place() {
        let load = |keys: &[AdminKey]| Keys::load(keys).err().map(|e| e.to_string()).unwrap();
        assert!(load(&[]).contains("no default key"));
        let short = AdminKey { name: "a".into(), key: "short".into(), key_file: None, role: Role::Admin };
        assert_eq!(
            load(std::slice::from_ref(&short)),
            "admin.keys[0]: the key has 5 characters, at least 16 are needed"
        );
        let file = AdminKey { key: String::new(), key_file: Some("/nosuch".into()), ..short };
        assert!(load(&[file]).starts_with("admin.keys[0].key_file: /nosuch: "));
    }
}
