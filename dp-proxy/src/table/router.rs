//! In which order hosts and paths are asked: APISIX's routers, under their names.

use protocol::resource::HostPattern;
use serde::{Deserialize, Serialize};

use super::hosts::Standing;

/// In which order hosts and paths are asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub enum Router {
    /// Hosts first, the most specific before others; then paths.
    #[default]
    #[serde(rename = "radixtree_host_uri")]
    HostUri,
    /// Paths first, over all hosts; a route's hosts are a condition like its other ones. `:name` and `*name` in a path stand
    /// for themselves.
    #[serde(rename = "radixtree_uri")]
    Uri,
    /// The same, with parameters in paths.
    #[serde(rename = "radixtree_uri_with_parameter")]
    UriWithParameter,
}

impl Router {
    /// Whether `:name` and `*name` in a path are parameters.
    pub(super) fn reads_parameters(self) -> bool {
        self != Self::Uri
    }

    /// Splits where a route would stand into where it does, and the hosts that are a condition.
    pub(super) fn split(self, standing: Standing<'_>) -> (Standing<'_>, &[HostPattern]) {
        match standing {
            Standing::Under(hosts) if self != Self::HostUri => (Standing::Anywhere, hosts),
            standing => (standing, &[]),
        }
    }
}
