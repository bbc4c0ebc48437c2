//! Settings of a proxy: what an operator writes, with safe defaults, and what is checked before anything starts.
//!
//! Three steps: text (files, environment, flags) becomes [`Settings`], which is what was written over the defaults;
//! [`Settings::check`] turns that into what the program runs by, or names every key that is wrong.

mod access_log;
mod control_plane;
mod handover;
mod proxy;
mod standalone;
mod stream;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use archive::ArchiveSettings;
use daemon::logging::LogSettings;
use daemon::settings::units::Span;
use mtls::{Credentials, Role};
use protocol::crypto::Keyring;
use serde::{Deserialize, Serialize};

use crate::secrets::DEFAULT_REFRESH;
use crate::table::Trust;
pub use access_log::{AccessLogSettings, LogField};
pub use control_plane::{BadEndpoint, ControlPlane, ControlPlaneSettings, Endpoint};
pub use handover::{Handover, HandoverSettings};
pub use proxy::{
    DnsSettings, DrainSettings, Http2Settings, LimitSettings, ProxyProtocolSettings, ProxySettings, RealIpSettings,
    TlsSettings, UpstreamSettings,
};
pub use standalone::StandaloneSettings;
pub use stream::{ProxyHeader, StreamSettings};

/// Everything that can be set. Every key may be left out.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Who this proxy is.
    pub node: NodeSettings,
    /// Where it keeps the configuration between restarts.
    pub data_dir: PathBuf,
    /// Whom it follows.
    pub control_plane: ControlPlaneSettings,
    /// Who it is for the control plane: certificates. Without them, links are plain.
    pub mtls: mtls::Files,
    /// What it starts from, and goes on from, while no control plane answers.
    pub archive: ArchiveSettings,
    /// A configuration from a file in their place.
    pub standalone: StandaloneSettings,
    /// The traffic.
    pub proxy: ProxySettings,
    /// What opens secrets.
    pub secrets: SecretSettings,
    /// Probes and the state of this proxy.
    pub status: StatusSettings,
    /// Prometheus metrics.
    pub metrics: MetricsSettings,
    /// The health of nodes.
    pub control: ControlSettings,
    /// Hot restarts.
    pub handover: HandoverSettings,
    /// Logs.
    pub log: LogSettings,
}

/// Who this proxy is.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeSettings {
    /// Its name, unique in the fleet. Empty: the name of the machine.
    pub name: String,
    /// Where it stands, for the fleet's overview.
    pub region: String,
    /// The gateway group whose configuration it serves.
    pub group: String,
    /// Anything else that tells it from others.
    pub labels: BTreeMap<String, String>,
}

/// What opens secrets.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SecretSettings {
    /// A file with the keys of this proxy's gateway group: the same as on the control plane's nodes. Without it, no
    /// private key of the configuration can be used.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keyring_file: Option<PathBuf>,
    /// How long after a vault has answered it is asked again for what references name.
    pub refresh: Span,
}

/// Probes and the state of this proxy.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StatusSettings {
    /// Where they are answered. Only on this machine by default: what it tells is for operators.
    pub listen: SocketAddr,
}

/// Prometheus metrics.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsSettings {
    /// Where they are answered. Only on this machine by default: what it tells is for operators.
    pub listen: SocketAddr,
}

/// The health of nodes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ControlSettings {
    /// Where it is told. Only on this machine by default: what it tells is for operators.
    pub listen: SocketAddr,
}

/// The port of the health of nodes, as APISIX's Control API.
pub const CONTROL_PORT: u16 = 9090;
/// The port of probes, as in APISIX.
pub const STATUS_PORT: u16 = 7085;
/// The port of metrics, as in APISIX.
pub const METRICS_PORT: u16 = 9091;

/// Vaults are not asked more often than that.
const REFRESH_MIN: Duration = Duration::from_millis(100);

const DATA_DIR: &str = "/var/lib/holdfast/dp-proxy";

impl Default for Settings {
    fn default() -> Self {
        Self {
            node: NodeSettings::default(),
            data_dir: DATA_DIR.into(),
            control_plane: ControlPlaneSettings::default(),
            mtls: mtls::Files::default(),
            archive: ArchiveSettings::default(),
            standalone: StandaloneSettings::default(),
            proxy: ProxySettings::default(),
            secrets: SecretSettings::default(),
            status: StatusSettings::default(),
            metrics: MetricsSettings::default(),
            control: ControlSettings::default(),
            handover: HandoverSettings::default(),
            log: LogSettings::default(),
        }
    }
}

impl Default for NodeSettings {
    fn default() -> Self {
        Self {
            name: String::new(),
            region: String::new(),
            group: protocol::entry::DEFAULT_GROUP.to_owned(),
            labels: BTreeMap::new(),
        }
    }
}

impl Default for SecretSettings {
    fn default() -> Self {
        Self { keyring_file: None, refresh: Span(DEFAULT_REFRESH) }
    }
}

impl Default for StatusSettings {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], STATUS_PORT)) }
    }
}

impl Default for MetricsSettings {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], METRICS_PORT)) }
    }
}

impl Default for ControlSettings {
    fn default() -> Self {
        Self { listen: SocketAddr::from(([127, 0, 0, 1], CONTROL_PORT)) }
    }
}

/// Settings that were checked: what the program runs by.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Who this proxy is; the name is filled in.
    pub node: NodeSettings,
    /// Where it keeps the configuration.
    pub data_dir: PathBuf,
    /// Whom it follows.
    pub control_plane: ControlPlane,
    /// Who it is for the control plane, where certificates are used.
    pub credentials: Option<Credentials>,
    /// The archive, where there is one.
    pub archive: Option<ArchiveSettings>,
    /// The file in their place, where there is one.
    pub standalone: Option<StandaloneSettings>,
    /// The traffic.
    pub proxy: ProxySettings,
    /// What opens secrets, where there is a keyring.
    pub keyring: Option<Keyring>,
    /// How long after a vault has answered it is asked again.
    pub secrets_refresh: Duration,
    /// Whom nodes may have their certificates from.
    pub trust: Trust,
    /// How many workers there are.
    pub workers: usize,
    /// Where probes are answered.
    pub status: SocketAddr,
    /// Where metrics are answered.
    pub metrics: SocketAddr,
    /// Where the health of nodes is told.
    pub control: SocketAddr,
    /// Hot restarts.
    pub handover: Handover,
}

/// Keys that cannot be used, each with the reason.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub struct BadSettings(pub Vec<(&'static str, String)>);

/// One key a line.
impl fmt::Display for BadSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (key, reason)) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { "\n" };
            write!(f, "{separator}{key}: {reason}")?;
        }
        Ok(())
    }
}

/// What a name may be: it stands in logs, metrics and the fleet's overview.
const NAME_BYTES_MAX: usize = 128;

impl Settings {
    /// Checks what no type can say.
    ///
    /// # Errors
    /// [`BadSettings`] with every key that is wrong.
    pub fn check(&self) -> Result<Checked, BadSettings> {
        let mut bad = Vec::new();
        let mut node = self.node.clone();
        if node.name.is_empty() {
            node.name = machine_name();
        }
        for (key, text) in [("node.name", &node.name), ("node.region", &node.region), ("node.group", &node.group)] {
            if text.len() > NAME_BYTES_MAX || text.contains(|c: char| c.is_control() || c.is_whitespace()) {
                bad.push((key, format!("{text:?} is no name: up to {NAME_BYTES_MAX} bytes without white space")));
            }
        }
        if node.group.is_empty() {
            bad.push(("node.group", "must name a gateway group".to_owned()));
        }
        if self.data_dir.as_os_str().is_empty() {
            bad.push(("data_dir", "must name a directory".to_owned()));
        }
        let control_plane = self.control_plane.check(&mut bad);
        let credentials = Credentials::load(&self.mtls, Role::Proxy, &node.name).unwrap_or_else(|e| {
            bad.push(("mtls", e.to_string()));
            None
        });
        let archive = check_archive(&self.archive, &mut bad);
        let standalone = self.standalone.check(!control_plane.endpoints.is_empty() || archive.is_some(), &mut bad);
        self.proxy.check(&mut bad);
        let keyring = load_keyring(&self.secrets, &mut bad);
        let trust = match &self.proxy.upstream.trusted_ca_file {
            None => Trust::System,
            Some(file) => Trust::load(file).unwrap_or_else(|e| {
                bad.push(("proxy.upstream.trusted_ca_file", e.to_string()));
                Trust::System
            }),
        };
        if self.secrets.refresh.0 < REFRESH_MIN {
            bad.push(("secrets.refresh", format!("must be at least {REFRESH_MIN:?}")));
        }
        let handover = self.handover.check(&self.data_dir, &mut bad);
        if let Err(e) = self.log.check() {
            bad.push(("log.filter", e.to_string()));
        }
        if !bad.is_empty() {
            return Err(BadSettings(bad));
        }
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Ok(Checked {
            node,
            data_dir: self.data_dir.clone(),
            control_plane,
            credentials,
            archive,
            standalone,
            proxy: self.proxy.clone(),
            keyring,
            secrets_refresh: self.secrets.refresh.0,
            trust,
            workers: if self.proxy.workers == 0 { cores() } else { self.proxy.workers },
            status: self.status.listen,
            metrics: self.metrics.listen,
            control: self.control.listen,
            handover,
        })
    }
}

fn load_keyring(secrets: &SecretSettings, bad: &mut Vec<(&'static str, String)>) -> Option<Keyring> {
    let path = secrets.keyring_file.as_ref()?;
    let text = daemon::secret_file::read(path).map_err(|e| e.to_string());
    match text.and_then(|text| Keyring::parse(&text).map_err(|e| e.to_string())) {
        Ok(keyring) => Some(keyring),
        Err(e) => {
            bad.push(("secrets.keyring_file", format!("{}: {e}", path.display())));
            None
        }
    }
}

/// The archive, if one is set: then somebody must be trusted.
fn check_archive(archive: &ArchiveSettings, bad: &mut Vec<(&'static str, String)>) -> Option<ArchiveSettings> {
    if let Err(e) = archive.check() {
        bad.push((e.key, e.problem));
    }
    if !archive.is_set() && archive.file.as_os_str().is_empty() {
        return None;
    }
    if archive.trusted_keys.is_empty() {
        let problem = "must name the public key of whoever signs: nothing else is believed";
        bad.push(("archive.trusted_keys", problem.to_owned()));
    }
    if archive.signing_key_file.is_some() {
        bad.push(("archive.signing_key_file", "is for control-plane nodes: a proxy signs nothing".to_owned()));
    }
    Some(archive.clone())
}

/// The name that the kernel has for this machine.
fn machine_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    match name.trim() {
        "" => "dp-proxy".to_owned(),
        name => name.to_owned(),
    }
}
