//! How a new process of a proxy takes over from the one that runs.

use std::path::{Path, PathBuf};
use std::time::Duration;

use daemon::settings::units::Span;
use serde::{Deserialize, Serialize};

/// How a new process of a proxy takes over from the one that runs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct HandoverSettings {
    /// The socket file at which the new process asks the old one. Left out: `handover.sock` in the data directory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub socket: Option<PathBuf>,
    /// How long the new process may take until it can serve; else the old one goes on.
    pub start_timeout: Span,
    /// How long requests, tunnels and downloads that are under way may keep the old process after that.
    pub drain_timeout: Span,
}

impl Default for HandoverSettings {
    fn default() -> Self {
        Self {
            socket: None,
            start_timeout: Span(Duration::from_secs(60)),
            drain_timeout: Span(Duration::from_secs(15 * 60)),
        }
    }
}

/// The same, checked.
#[derive(Clone, Debug)]
pub struct Handover {
    /// The socket file.
    pub socket: PathBuf,
    /// How long the new process may take until it can serve.
    pub start_timeout: Span,
    /// How long what is under way may keep the old process.
    pub drain_timeout: Span,
}

/// The longest path of a socket file that Linux takes (`sun_path`, without the zero at its end).
const SOCKET_PATH_BYTES_MAX: usize = 107;

impl HandoverSettings {
    pub(super) fn check(&self, data_dir: &Path, bad: &mut Vec<(&'static str, String)>) -> Handover {
        let socket = self.socket.clone().unwrap_or_else(|| data_dir.join("handover.sock"));
        // A data directory with a long path is no mistake: the start says that there will be no hot restart.
        if self.socket.is_some() && socket.as_os_str().len() > SOCKET_PATH_BYTES_MAX {
            bad.push(("handover.socket", format!("must be at most {SOCKET_PATH_BYTES_MAX} bytes long")));
        }
        if self.start_timeout.0.is_zero() {
            bad.push(("handover.start_timeout", "must be longer than nothing".to_owned()));
        }
        Handover { socket, start_timeout: self.start_timeout, drain_timeout: self.drain_timeout }
    }
}
