//! What an operator can set, with its defaults.

mod check;

use std::time::Duration;

use archive::ArchiveSettings;
use daemon::logging::LogSettings;
use daemon::settings::units::{ByteSize, Span};
use serde::{Deserialize, Serialize};

pub use check::BadSetting;

/// All settings of a control-plane node.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Who this node is.
    pub node: NodeSettings,
    /// Where its log and snapshots are.
    pub data_dir: DataDirSetting,
    /// How it finds the cluster that it joins.
    pub cluster: ClusterSettings,
    /// The listener for other control-plane nodes.
    pub peer: PeerSettings,
    /// The Admin API.
    pub admin: AdminSettings,
    /// The listener for proxies.
    pub feed: FeedSettings,
    /// Probes and metrics.
    pub status: StatusSettings,
    /// The durable record.
    pub record: RecordSettings,
    /// Who this node is for other nodes and for proxies: certificates. Without them, whoever connects is believed.
    pub mtls: mtls::Files,
    /// What seals secrets.
    pub secrets: SecretSettings,
    /// Consensus.
    pub raft: RaftSettings,
    /// The object store that holds signed copies of the configuration.
    pub archive: ArchiveSettings,
    /// Logs.
    pub log: LogSettings,
}

/// Who this node is.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NodeSettings {
    /// Its name, for people; empty: the machine's.
    pub name: String,
    /// Its region. Proxies prefer nodes of their own.
    pub region: String,
}

/// Where the log and snapshots are.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(transparent)]
pub struct DataDirSetting(pub std::path::PathBuf);

impl Default for DataDirSetting {
    fn default() -> Self {
        Self("/var/lib/holdfast/cp".into())
    }
}

/// How a node finds the cluster that it joins.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ClusterSettings {
    /// Peer addresses of nodes to ask. Used only while the data directory is nobody's; empty: never join by itself.
    pub join: Vec<String>,
    /// Whether it becomes a voter once it has caught up; otherwise it stays a learner, for example as a region's relay.
    pub voter: bool,
}

impl Default for ClusterSettings {
    fn default() -> Self {
        Self { join: Vec::new(), voter: true }
    }
}

/// The listener for other control-plane nodes. It is neither encrypted nor authenticated in this version: keep it on a
/// network of its own.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PeerSettings {
    /// Where it listens.
    pub listen: String,
    /// Where others reach it; empty: `listen`.
    pub advertise: String,
}

impl Default for PeerSettings {
    fn default() -> Self {
        Self { listen: "127.0.0.1:9190".into(), advertise: String::new() }
    }
}

/// The Admin API.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AdminSettings {
    /// Where it listens.
    pub listen: String,
    /// Where others reach it; empty: `listen`.
    pub advertise: String,
    /// Encryption of the Admin API. Without it, keys are sent in the clear.
    pub tls: mtls::ServerFiles,
    /// Who may use it. There is no default key.
    pub keys: Vec<AdminKey>,
    /// What the header `Server` says; empty: what APISIX's clients parse, with this build's version.
    pub server_header: String,
    /// The largest body of a request on one resource.
    pub body_max: ByteSize,
    /// The largest body of a transaction.
    pub transaction_max: ByteSize,
    /// Requests under way at once; more are answered 503.
    pub requests_max: u32,
    /// How long a request may take to be decided. A longer one is answered 503 when it was not proposed and 504 when its
    /// outcome is unknown.
    pub deadline: Span,
}

impl Default for AdminSettings {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:9180".into(),
            advertise: String::new(),
            tls: mtls::ServerFiles::default(),
            keys: Vec::new(),
            server_header: String::new(),
            body_max: ByteSize(1536 << 10),
            transaction_max: ByteSize(128 << 20),
            requests_max: 4096,
            deadline: Span(Duration::from_millis(1900)),
        }
    }
}

/// One key of the Admin API.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AdminKey {
    /// Who it stands for in the history.
    pub name: String,
    /// The key itself. Either this or `key_file`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub key: String,
    /// A file with nothing but the key in it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_file: Option<std::path::PathBuf>,
    /// What it may do.
    pub role: Role,
}

/// What a key may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Everything.
    Admin,
    /// Reading.
    Viewer,
}

impl std::fmt::Debug for AdminKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "AdminKey {{ name: {:?}, key: ***, role: {:?} }}", self.name, self.role)
    }
}

/// The listener for proxies. It is neither encrypted nor authenticated in this version: keep it on a network of its own.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct FeedSettings {
    /// Where it listens.
    pub listen: String,
    /// Where others reach it; empty: `listen`.
    pub advertise: String,
    /// Proxies at once; more are refused, and try another node.
    pub streams_max: u32,
    /// Full states that are sent at once; more wait, so that a whole fleet that comes back does not starve consensus.
    pub full_sends_max: u32,
    /// How often a proxy hears from this node when nothing changes.
    pub heartbeat: Span,
    /// For so long a proxy that has gone still counts where a client waits for the fleet.
    pub lost_after: Span,
}

impl Default for FeedSettings {
    fn default() -> Self {
        Self {
            listen: "127.0.0.1:9191".into(),
            advertise: String::new(),
            streams_max: 10_000,
            full_sends_max: 8,
            heartbeat: Span(Duration::from_secs(1)),
            lost_after: Span(Duration::from_secs(30)),
        }
    }
}

/// Probes and metrics: `/status`, `/status/ready`, `/livez`, `/readyz`, `/healthz`, `/version`, `/metrics`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StatusSettings {
    /// Where it listens; empty: nowhere.
    pub listen: String,
}

impl Default for StatusSettings {
    fn default() -> Self {
        Self { listen: "127.0.0.1:7086".into() }
    }
}

/// Consensus.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RaftSettings {
    /// How often a leader is heard. Also how long a message to a follower may take.
    pub heartbeat: Span,
    /// A follower that hears nothing asks to stand for election after `election_max` and a random time up to the
    /// difference of these two.
    pub election_min: Span,
    /// See `election_min`.
    pub election_max: Span,
    /// A snapshot is written when so many entries have been applied since the last.
    pub snapshot_entries: u64,
    /// Entries that are kept behind a snapshot, so that a node that was away for a while does not need the snapshot.
    pub keep_entries: u64,
    /// Bytes of entries that are kept behind a snapshot, at most; they are in memory.
    pub keep_bytes: ByteSize,
    /// Memory for the cache of the log's store.
    pub cache: ByteSize,
}

impl Default for RaftSettings {
    fn default() -> Self {
        Self {
            heartbeat: Span(Duration::from_millis(100)),
            election_min: Span(Duration::from_millis(300)),
            election_max: Span(Duration::from_millis(600)),
            snapshot_entries: 10_000,
            keep_entries: 20_000,
            keep_bytes: ByteSize(64 << 20),
            cache: ByteSize(32 << 20),
        }
    }
}

/// What seals secrets.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct SecretSettings {
    /// A file with the keys that seal private keys, the newest first (`cp-node config keyring` makes one). The same on
    /// every node and proxy. Without it, nothing secret is accepted.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keyring_file: Option<std::path::PathBuf>,
    /// A file with the key-encryption key, the newest first, in the same form (`cp-node config keyring`). With it the keys
    /// that this node has in files are kept in the configuration, sealed. The one thing to keep elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kek_file: Option<std::path::PathBuf>,
}

/// The durable record: PostgreSQL. Every voter needs the same, since every one may come to lead.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RecordSettings {
    /// A PostgreSQL connection string, perhaps with several hosts; empty, and no `dsn_file`: no record.
    pub dsn: Secret,
    /// A file with nothing but the connection string in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dsn_file: Option<std::path::PathBuf>,
    /// A PEM file with the certificates to trust. With it every connection is TLS and the server's name is checked;
    /// without it none is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<std::path::PathBuf>,
    /// How long opening a connection may take, sign-in included.
    pub connect_timeout: Span,
    /// How long PostgreSQL may take over one statement. At most `STEP_BYTES_MAX` are written in one.
    pub statement_timeout: Span,
    /// How many changes the record may be behind before writes are refused. At most a million.
    pub backlog_changes: u64,
    /// How many bytes of changes it may be behind. At most 512 MiB.
    pub backlog_bytes: ByteSize,
    /// How long it may be behind.
    pub backlog_age: Span,
    /// What a write waits for when it does not say: `raft` or `record`.
    pub durability: Durability,
    /// How many changes of resources this node keeps on its own disk, where it has no connection string; 0: none.
    pub embedded_changes: u64,
    /// How many bytes of them.
    pub embedded_bytes: ByteSize,
}

impl RecordSettings {
    /// Whether there is a PostgreSQL to record to.
    #[must_use]
    pub fn is_set(&self) -> bool {
        !self.dsn.0.is_empty() || self.dsn_file.is_some()
    }
}

impl Default for RecordSettings {
    fn default() -> Self {
        Self {
            dsn: Secret::default(),
            dsn_file: None,
            ca_file: None,
            connect_timeout: Span(Duration::from_secs(3)),
            statement_timeout: Span(Duration::from_secs(10)),
            backlog_changes: 500_000,
            backlog_bytes: ByteSize(256 << 20),
            backlog_age: Span(Duration::from_secs(24 * 3600)),
            durability: Durability::Raft,
            embedded_changes: 100_000,
            embedded_bytes: ByteSize(256 << 20),
        }
    }
}

/// What a write waits for.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Durability {
    /// A quorum's disks.
    Raft,
    /// And the record.
    Record,
}

/// A text that is not shown.
#[derive(Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

impl Settings {
    /// The address at which other nodes reach this one.
    #[must_use]
    pub fn peer_address(&self) -> &str {
        either(&self.peer.advertise, &self.peer.listen)
    }

    /// The address of the Admin API that others are told.
    #[must_use]
    pub fn admin_address(&self) -> &str {
        either(&self.admin.advertise, &self.admin.listen)
    }

    /// The address of the feed that others are told.
    #[must_use]
    pub fn feed_address(&self) -> &str {
        either(&self.feed.advertise, &self.feed.listen)
    }

    /// The node's name: as set, or the machine's.
    #[must_use]
    pub fn node_name(&self) -> String {
        if !self.node.name.is_empty() {
            return self.node.name.clone();
        }
        std::fs::read_to_string("/etc/hostname").map_or_else(|_| "cp-node".to_owned(), |name| name.trim().to_owned())
    }
}

fn either<'s>(advertise: &'s str, listen: &'s str) -> &'s str {
    if advertise.is_empty() { listen } else { advertise }
}
