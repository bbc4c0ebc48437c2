//! The contexts file: names for clusters, so that nobody types addresses.
//!
//! ```yaml
//! current: production
//! contexts:
//!   production: {servers: ["http://cp-1:9180", "http://cp-2:9180"], key_file: /etc/holdfast/admin.key}
//!   staging: {servers: ["http://staging:9180"], key_file: ~/.holdfast-staging, timeout: 10s}
//! ```
//!
//! It holds no keys, only where they are. A flag wins over the environment, that over the context, that over defaults.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::failure::Failure;
use crate::tls::TlsFiles;

/// What the file holds.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Contexts {
    /// The one that is used where none is named.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) current: Option<String>,
    /// All of them by name.
    pub(crate) contexts: BTreeMap<String, Context>,
}

/// One cluster.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Context {
    /// Its nodes' Admin APIs.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) servers: Vec<String>,
    /// A file with nothing but the key in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key_file: Option<PathBuf>,
    /// How long a command may take.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) timeout: Option<String>,
    /// TLS to them.
    #[serde(skip_serializing_if = "is_plain")]
    pub(crate) tls: TlsFiles,
}

fn is_plain(tls: &TlsFiles) -> bool {
    *tls == TlsFiles::default()
}

impl Contexts {
    /// Where the file is unless `--config` or `HFCTL_CONFIG` says otherwise; `None` without a home.
    pub(crate) fn default_path() -> Option<PathBuf> {
        let of = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let config = of("XDG_CONFIG_HOME").or_else(|| Some(of("HOME")?.join(".config")))?;
        Some(config.join("holdfast/hfctl.yaml"))
    }

    /// Reads the file. One that was not named and is not there is empty.
    pub(crate) fn read(path: Option<&Path>) -> Result<Self, Failure> {
        let named = path.is_some();
        let Some(path) = path.map(ToOwned::to_owned).or_else(Self::default_path) else { return Ok(Self::default()) };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound && !named => return Ok(Self::default()),
            Err(e) => return Err(Failure::file(&path, &e)),
        };
        if text.trim().is_empty() {
            return Ok(Self::default());
        }
        serde_saphyr::from_str(&text).map_err(|e| Failure::Usage(format!("{}: {e}", path.display())))
    }

    /// Writes the file, whole or not at all.
    pub(crate) fn write(&self, path: Option<&Path>) -> Result<(), Failure> {
        let path = path.map(ToOwned::to_owned).or_else(Self::default_path);
        let path =
            path.ok_or_else(|| Failure::Usage("there is no home to write to: name a file with --config".into()))?;
        let text = serde_saphyr::to_string(self).map_err(|e| Failure::Usage(e.to_string()))?;
        let beside = path.with_extension("new");
        let write = || -> std::io::Result<()> {
            if let Some(dir) = path.parent() {
                std::fs::create_dir_all(dir)?;
            }
            std::fs::write(&beside, &text)?;
            std::fs::rename(&beside, &path)
        };
        write().map_err(|e| Failure::file(&path, &e))
    }

    /// The context that is asked for; without a name the current one, which may be none.
    pub(crate) fn find(&self, name: Option<&str>) -> Result<Context, Failure> {
        let Some(name) = name.or(self.current.as_deref()) else { return Ok(Context::default()) };
        self.contexts.get(name).cloned().ok_or_else(|| {
            let known: Vec<&str> = self.contexts.keys().map(String::as_str).collect();
            let known =
                if known.is_empty() { "there is none".to_owned() } else { format!("there are: {}", known.join(", ")) };
            Failure::Usage(format!(
                "{name:?} is no context; {known}; add one with: hfctl context set {name} --server <URL>"
            ))
        })
    }
}

/// `~/` in front is the user's home.
pub(crate) fn expand(path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), std::env::var_os("HOME")) {
        (Ok(rest), Some(home)) => PathBuf::from(home).join(rest),
        _ => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_context_is_named_or_current_or_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sub/hfctl.yaml");
        let context = Context { servers: vec!["http://a:1".into()], ..Context::default() };
        let all = Contexts { current: Some("a".into()), contexts: [("a".to_owned(), context.clone())].into() };
        all.write(Some(&path)).unwrap();
        let read = Contexts::read(Some(&path)).unwrap();
        assert_eq!(read, all);
        assert_eq!((read.find(None).unwrap(), read.find(Some("a")).unwrap()), (context.clone(), context));
        assert_eq!(Contexts::default().find(None).unwrap(), Context::default());
        let failure = read.find(Some("b")).unwrap_err().to_string();
        assert!(failure.contains("\"b\" is no context; there are: a"), "{failure}");
    }

    #[test]
    fn what_is_wrong_in_the_file_is_said() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("hfctl.yaml");
        std::fs::write(&path, "contexts:\n  a: {sevrers: []}\n").unwrap();
        assert!(Contexts::read(Some(&path)).unwrap_err().to_string().contains("sevrers"));
        let missing = dir.path().join("missing.yaml");
        assert!(Contexts::read(Some(&missing)).unwrap_err().to_string().contains("missing.yaml"));
    }
}
