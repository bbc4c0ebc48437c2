//! Where settings come from: flags over environment over files over defaults.
//!
//! A settings type derives serde's `Deserialize` with `default` and `deny_unknown_fields`; so every layer can be checked
//! by itself and every error names its place: the file with line and column, the variable, or the flag.
//!
//! - a file is YAML;
//! - `HOLDFAST_RAFT__HEARTBEAT=100ms` sets `raft.heartbeat`: two underscores go one level down;
//! - `--set raft.heartbeat=100ms` does the same.

pub mod units;

use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// What every variable starts with.
pub const PREFIX: &str = "HOLDFAST_";

/// Variables that start with [`PREFIX`] and set nothing in a file's sense: flags of the command lines, `hfctl`'s
/// included, have them as their environment names.
const NOT_SETTINGS: [&str; 3] = ["HOLDFAST_ADMIN_KEY", "HOLDFAST_CONFIG", "HOLDFAST_SERVER"];

/// Settings that cannot be used, with the place.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// A file cannot be read.
    #[error("{}: {error}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// A file does not hold settings.
    #[error("{}: {message}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What and where.
        message: String,
    },
    /// A variable does not hold a setting.
    #[error("environment variable {name}: {message}")]
    Variable {
        /// The variable.
        name: String,
        /// What is wrong.
        message: String,
    },
    /// A flag does not hold a setting.
    #[error("--set {flag}: {message}")]
    Flag {
        /// The flag's text.
        flag: String,
        /// What is wrong.
        message: String,
    },
}

/// Reads settings from their layers, the later over the earlier. Returns them with the whole as one document.
///
/// # Errors
/// [`SettingsError`] for the first layer that is wrong.
pub fn load<T: DeserializeOwned + Serialize + Default>(
    files: &[PathBuf],
    environment: impl IntoIterator<Item = (String, String)>,
    flags: &[String],
) -> Result<T, SettingsError> {
    let mut merged = Value::Object(Map::new());
    for path in files {
        overlay(&mut merged, read_file::<T>(path)?);
    }
    let mut variables: Vec<_> = environment
        .into_iter()
        .filter(|(name, _)| name.starts_with(PREFIX) && !NOT_SETTINGS.contains(&name.as_str()))
        .collect();
    variables.sort();
    for (name, text) in variables {
        let path: Vec<String> = name[PREFIX.len()..].split("__").map(str::to_ascii_lowercase).collect();
        let layer =
            scalar::<T>(&path, &text).map_err(|message| SettingsError::Variable { name: name.clone(), message })?;
        overlay(&mut merged, layer);
    }
    for flag in flags {
        let wrong = |message| SettingsError::Flag { flag: flag.clone(), message };
        let (path, text) = flag.split_once('=').ok_or_else(|| wrong("expected <key>=<value>".to_owned()))?;
        let path: Vec<String> = path.split('.').map(str::to_owned).collect();
        overlay(&mut merged, scalar::<T>(&path, text).map_err(wrong)?);
    }
    // Every layer was checked alone; together they can only be wrong when two give one key different shapes.
    serde_json::from_value(merged)
        .map_err(|e| SettingsError::Flag { flag: "(all layers together)".into(), message: e.to_string() })
}

/// Settings as a YAML document.
///
/// # Errors
/// Why they cannot be written.
pub fn print<T: Serialize>(settings: &T) -> Result<String, String> {
    serde_saphyr::to_string(settings).map_err(|e| e.to_string())
}

fn read_file<T: DeserializeOwned>(path: &Path) -> Result<Value, SettingsError> {
    let text =
        std::fs::read_to_string(path).map_err(|error| SettingsError::Unreadable { path: path.to_owned(), error })?;
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Value::Object(Map::new()));
    }
    let wrong = |message: String| SettingsError::File { path: path.to_owned(), message };
    // The typed reading gives errors with line and column; the untyped one keeps what the file really says.
    serde_saphyr::from_str::<T>(&text).map_err(|e| wrong(e.to_string()))?;
    serde_saphyr::from_str(&text).map_err(|e| wrong(e.to_string()))
}

/// A document with one value at `path`, as YAML would read the text, or else as a string.
fn scalar<T: DeserializeOwned>(path: &[String], text: &str) -> Result<Value, String> {
    let nested = |leaf: Value| {
        path.iter().rev().fold(leaf, |inner, name| Value::Object(Map::from_iter([(name.clone(), inner)])))
    };
    let as_yaml = serde_saphyr::from_str::<Value>(text).ok().map(&nested);
    let as_text = nested(Value::String(text.to_owned()));
    let mut first_error = None;
    for layer in as_yaml.into_iter().chain([as_text]) {
        match serde_json::from_value::<T>(layer.clone()) {
            Ok(_) => return Ok(layer),
            Err(e) => first_error = first_error.or(Some(e.to_string())),
        }
    }
    Err(first_error.unwrap_or_default())
}

/// Lays `top` over `base`: objects are merged, everything else replaces.
fn overlay(base: &mut Value, top: Value) {
    match (base, top) {
        (Value::Object(base), Value::Object(top)) => {
            for (name, value) in top {
                overlay(base.entry(name).or_insert(Value::Null), value);
            }
        }
        (base, top) => *base = top,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::units::{ByteSize, Span};
    use super::*;

    #[derive(Debug, PartialEq, serde::Deserialize, Serialize)]
    #[serde(default, deny_unknown_fields)]
    struct Demo {
        name: String,
        raft: Raft,
        peers: Vec<String>,
        limit: ByteSize,
    }

    #[derive(Debug, PartialEq, serde::Deserialize, Serialize)]
    #[serde(default, deny_unknown_fields)]
    struct Raft {
        heartbeat: Span,
        voters: u64,
    }

    impl Default for Demo {
        fn default() -> Self {
            Self { name: "n".into(), raft: Raft::default(), peers: vec![], limit: ByteSize(1 << 20) }
        }
    }

    impl Default for Raft {
        fn default() -> Self {
            Self { heartbeat: Span(Duration::from_millis(100)), voters: 3 }
        }
    }

    fn file(text: &str) -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.yaml");
        std::fs::write(&path, text).unwrap();
        (dir, path)
    }

    fn variables(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()
    }

    #[test]
    fn flags_over_environment_over_files_over_defaults() {
        let (_dir, path) = file("raft:\n  heartbeat: 1s\n  voters: 5\nname: from-file\nlimit: 2MiB\n");
        let environment = variables(&[
            ("HOLDFAST_RAFT__VOTERS", "7"),
            ("HOLDFAST_NAME", "123"),
            ("HOLDFAST_PEERS", "[a, b]"),
            ("HOLDFAST_CONFIG", "ignored"),
            ("OTHER", "x"),
        ]);
        let demo: Demo = load(&[path], environment, &["raft.voters=9".into()]).unwrap();
        let raft = Raft { heartbeat: Span(Duration::from_secs(1)), voters: 9 };
        let expected = Demo { name: "123".into(), raft, peers: vec!["a".into(), "b".into()], limit: ByteSize(2 << 20) };
        assert_eq!(demo, expected);
    }

    #[test]
    fn what_is_wrong_names_its_place() {
        let (_dir, path) = file("name: x\nraft:\n  hartbeat: 1s\n");
        let error = load::<Demo>(std::slice::from_ref(&path), [], &[]).unwrap_err().to_string();
        assert!(error.contains("a.yaml") && error.contains("hartbeat") && error.contains('3'), "{error}");
        let error = load::<Demo>(&[], variables(&[("HOLDFAST_RAFT__VOTERS", "x")]), &[]).unwrap_err().to_string();
        assert!(error.starts_with("environment variable HOLDFAST_RAFT__VOTERS: invalid type"), "{error}");
        let error = load::<Demo>(&[], variables(&[("HOLDFAST_NOSUCH", "x")]), &[]).unwrap_err().to_string();
        assert!(error.contains("HOLDFAST_NOSUCH: unknown field `nosuch`"), "{error}");
        let error = load::<Demo>(&[], [], &["raft.heartbeat=soon".into()]).unwrap_err().to_string();
        assert!(error.starts_with("--set raft.heartbeat=soon: ") && error.contains("100ms"), "{error}");
        let error = load::<Demo>(&[PathBuf::from("/nosuch.yaml")], [], &[]).unwrap_err().to_string();
        assert!(error.starts_with("/nosuch.yaml: "), "{error}");
        let (_dir, path) = file("name: [\n");
        let error = load::<Demo>(&[path], [], &[]).unwrap_err().to_string();
        assert!(error.contains("a.yaml"), "{error}");
    }

    #[test]
    fn an_empty_file_says_nothing() {
        let (_dir, path) = file("# nothing\n\n");
        assert_eq!(load::<Demo>(&[path], [], &[]).unwrap(), Demo::default());
    }
}
