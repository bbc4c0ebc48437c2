//! Whom a proxy follows.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use daemon::settings::units::{ByteSize, Span};
use serde::{Deserialize, Serialize};

/// Whom a proxy follows.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ControlPlaneSettings {
    /// The nodes of the control plane, as `host:port` or `http://host:port`. With none, the proxy serves what is on its
    /// disk.
    pub endpoints: Vec<String>,
    /// How long dialling a node and its first answer may take.
    pub connect_timeout: Span,
    /// The pause before the next attempt is drawn between nothing and a bound, which starts here…
    pub reconnect_min: Span,
    /// …and doubles with every failure up to here.
    pub reconnect_max: Span,
    /// The bound on silence: a node that says nothing for so long is left, even if it asked for more patience.
    pub silence_max: Span,
    /// A node that last heard from its leader longer ago than this is left as soon as another one is fresher.
    pub stale_after: Span,
    /// How long, from the start on, a proxy with nothing on its disk waits for a node to say what is current before it serves
    /// what the archive has. Longer than `connect_timeout`, so that one node that is gone keeps nobody from the next one's
    /// word; nothing: it does not wait.
    pub first_wait: Span,
    /// The largest configuration that is taken from a node.
    pub payload_bytes_max: ByteSize,
}

impl Default for ControlPlaneSettings {
    fn default() -> Self {
        Self {
            endpoints: Vec::new(),
            connect_timeout: Span(Duration::from_secs(3)),
            reconnect_min: Span(Duration::from_millis(100)),
            reconnect_max: Span(Duration::from_secs(3)),
            silence_max: Span(Duration::from_secs(15)),
            stale_after: Span(Duration::from_secs(3)),
            first_wait: Span(Duration::from_secs(5)),
            payload_bytes_max: ByteSize(512 << 20),
        }
    }
}

/// The same, checked.
#[derive(Clone, Debug)]
pub struct ControlPlane {
    /// The nodes.
    pub endpoints: Vec<Endpoint>,
    /// How long dialling and the first answer may take.
    pub connect_timeout: Duration,
    /// The first bound on the pause before an attempt.
    pub reconnect_min: Duration,
    /// The last.
    pub reconnect_max: Duration,
    /// The bound on silence.
    pub silence_max: Duration,
    /// Contact with the leader older than this is stale.
    pub stale_after: Duration,
    /// How long what the archive has waits for a node's word.
    pub first_wait: Duration,
    /// The largest payload.
    pub payload_bytes_max: u64,
}

/// The address of a control-plane node: a name or address, and a port.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Endpoint(String);

/// A text that is no address of a node.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0:?} is no address of a control-plane node: host:port or http://host:port")]
pub struct BadEndpoint(String);

impl Endpoint {
    /// `host:port`.
    #[must_use]
    pub fn authority(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Endpoint {
    type Err = BadEndpoint;

    fn from_str(text: &str) -> Result<Self, BadEndpoint> {
        let bad = || BadEndpoint(text.to_owned());
        let plain = text.strip_prefix("http://").unwrap_or(text).trim_end_matches('/');
        let authority: http::uri::Authority = plain.parse().map_err(|_| bad())?;
        let named = !authority.host().is_empty() && !plain.contains('@');
        if named && authority.port_u16().is_some_and(|port| port > 0) { Ok(Self(plain.to_owned())) } else { Err(bad()) }
    }
}

impl ControlPlaneSettings {
    pub(super) fn check(&self, bad: &mut Vec<(&'static str, String)>) -> ControlPlane {
        let mut endpoints: Vec<Endpoint> = Vec::new();
        for text in &self.endpoints {
            match text.parse() {
                Ok(endpoint) if endpoints.contains(&endpoint) => {
                    bad.push(("control_plane.endpoints", format!("{endpoint} stands twice")));
                }
                Ok(endpoint) => endpoints.push(endpoint),
                Err(e) => bad.push(("control_plane.endpoints", e.to_string())),
            }
        }
        for (key, span) in [
            ("control_plane.connect_timeout", self.connect_timeout),
            ("control_plane.reconnect_min", self.reconnect_min),
            ("control_plane.silence_max", self.silence_max),
            ("control_plane.stale_after", self.stale_after),
        ] {
            if span.0.is_zero() {
                bad.push((key, "must be longer than nothing".to_owned()));
            }
        }
        if self.reconnect_max < self.reconnect_min {
            bad.push((
                "control_plane.reconnect_max",
                format!("must be at least reconnect_min, {}", self.reconnect_min),
            ));
        }
        ControlPlane {
            endpoints,
            connect_timeout: self.connect_timeout.0,
            reconnect_min: self.reconnect_min.0,
            reconnect_max: self.reconnect_max.0,
            silence_max: self.silence_max.0,
            stale_after: self.stale_after.0,
            first_wait: self.first_wait.0,
            payload_bytes_max: self.payload_bytes_max.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints() {
        for (text, expected) in [
            ("cp1:7090", Some("cp1:7090")),
            ("http://127.0.0.1:7090/", Some("127.0.0.1:7090")),
            ("[::1]:7090", Some("[::1]:7090")),
            ("cp1", None),
            ("cp1:0", None),
            ("https://cp1:7090", None),
            ("a@cp1:7090", None),
            ("", None),
            ("cp1:7090/x", None),
        ] {
            let endpoint = text.parse::<Endpoint>().ok();
            assert_eq!(endpoint.as_ref().map(Endpoint::authority), expected, "{text}");
        }
    }
}
