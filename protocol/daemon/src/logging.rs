//! Logs: structured, on standard error.

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

/// How logs are written.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct LogSettings {
    /// What is logged, as `tracing`'s filters say it: `info`, `warn,raft_store=debug`, …
    pub filter: String,
    /// How a line looks.
    pub format: LogFormat,
}

/// How a line looks.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Raft's engine repeats at every heartbeat what it cannot do; what an operator needs of it, Holdfast says itself, once.
const FILTER: &str = "info,openraft=off,sled=warn";

/// What holds where a filter does not say otherwise: of some frames `h2` warns each time that a client sends one, and a client
/// can send a million of them in a second.
const QUIET: &str = "h2=error";

impl Default for LogSettings {
    fn default() -> Self {
        Self { filter: FILTER.to_owned(), format: LogFormat::default() }
    }
}

/// A filter that does not parse.
#[derive(Debug, thiserror::Error)]
#[error("{filter:?} is no filter: {reason}")]
pub struct BadFilter {
    filter: String,
    reason: String,
}

impl LogSettings {
    /// Whether [`start`] will take them.
    ///
    /// # Errors
    /// [`BadFilter`] when the filter does not parse.
    pub fn check(&self) -> Result<(), BadFilter> {
        self.read_filter().map(|_| ())
    }

    fn read_filter(&self) -> Result<EnvFilter, BadFilter> {
        // No directive at all stands for errors.
        let filter = if self.filter.is_empty() { "error" } else { &self.filter };
        // Of two directives for one target the later one wins.
        EnvFilter::try_new(format!("{QUIET},{filter}"))
            .map_err(|e| BadFilter { filter: self.filter.clone(), reason: e.to_string() })
    }
}

/// Starts logging. Once in a process, before anything else.
///
/// # Errors
/// [`BadFilter`] when the filter does not parse.
pub fn start(settings: &LogSettings) -> Result<(), BadFilter> {
    let filter = settings.read_filter()?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match settings.format {
        LogFormat::Text => lines.with_ansi(false).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_says_what_is_logged_and_none_stands_for_errors() {
        let read = |filter: &str| {
            let settings = LogSettings { filter: filter.to_owned(), ..LogSettings::default() };
            settings.read_filter().map(|filter| filter.to_string()).map_err(|e| e.to_string())
        };
        assert_eq!(read("").unwrap(), "h2=error,error");
        assert_eq!(read("warn,h2=debug").unwrap(), "h2=debug,warn");
        assert!(read("=,=").unwrap_err().starts_with("\"=,=\" is no filter: "));
    }
}
