//! A configuration from a file, without a control plane.

use std::path::PathBuf;
use std::time::Duration;

use daemon::settings::units::Span;
use serde::{Deserialize, Serialize};

/// A configuration from a file, without a control plane.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StandaloneSettings {
    /// The file, as APISIX's `apisix.yaml` or, by its ending, `apisix.json`. Left out: a control plane is followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// How often it is looked at.
    pub poll: Span,
}

impl Default for StandaloneSettings {
    fn default() -> Self {
        Self { file: None, poll: Span(Duration::from_secs(1)) }
    }
}

impl StandaloneSettings {
    /// `has_others`: whether a control plane or an archive is set as well.
    pub(super) fn check(&self, has_others: bool, bad: &mut Vec<(&'static str, String)>) -> Option<Self> {
        if self.poll.0.is_zero() {
            bad.push(("standalone.poll", "must be longer than nothing".to_owned()));
        }
        if self.file.is_some() && has_others {
            let problem = "is for a proxy without a control plane: leave control_plane.endpoints and archive out";
            bad.push(("standalone.file", problem.to_owned()));
        }
        self.file.is_some().then(|| self.clone())
    }
}
