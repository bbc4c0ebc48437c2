//! A running node: put together, watched, and stopped in order.

mod disks;
mod found;
mod start;
mod stop;
mod tasks;

use std::path::PathBuf;
use std::sync::Arc;

use archive::{AsSet, OpenStore};
use daemon::seams::{SystemClock, SystemRandom};
use mtls::BadCredentials;
use protocol::seam::{Random, WallClock};
use raft_store::ReplicaError;
use raft_store::disk::DiskError;
use raft_store::log::LogError;

pub(crate) use found::found_as;
pub use found::{found, join, leave};
pub(crate) use start::grpc_server;
pub use start::{Addresses, Inside, Node};
pub use stop::Ended;
pub(crate) use tasks::Tasks;

pub use disks::{Disks, Files};

use crate::admin::KeyError;
use crate::bootstrap::BootstrapError;
use crate::net::{Net, TcpNet};
pub use crate::raft::Superseded;
use crate::record::{BadDsn, Hosts};
use crate::settings::BadSetting;

/// What a node takes from the outside world, so that a simulation can give it another.
#[derive(Clone)]
pub struct Seams {
    /// Dials and listens.
    pub net: Arc<dyn Net>,
    /// Stamps changes, for people.
    pub clock: Arc<dyn WallClock>,
    /// Names and jitters.
    pub random: Arc<dyn Random>,
    /// Opens log and snapshots.
    pub disks: Arc<dyn Disks>,
    /// Opens the archive's object store.
    pub stores: Arc<dyn OpenStore>,
    /// Where the record is written, in place of the PostgreSQL that settings name.
    pub record: Option<Arc<dyn Hosts>>,
}

impl Seams {
    /// The real world.
    #[must_use]
    pub fn real() -> Self {
        Self {
            net: Arc::new(TcpNet),
            clock: Arc::new(SystemClock),
            random: Arc::new(SystemRandom),
            disks: Arc::new(Files),
            stores: Arc::new(AsSet),
            record: None,
        }
    }
}

/// Why a node cannot start, found, join or leave.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// A setting cannot be used.
    #[error(transparent)]
    Setting(#[from] BadSetting),
    /// A key of the Admin API cannot be used.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The record's connection string cannot be used.
    #[error(transparent)]
    Dsn(#[from] BadDsn),
    /// The certificates cannot be used.
    #[error(transparent)]
    Credentials(#[from] BadCredentials),
    /// The data directory cannot be used.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The log is damaged or cannot be opened.
    #[error("{0}\nThis node's disk cannot be trusted any more. Take it out of the cluster (hfctl members remove <id>), empty {data_dir}, and let it join again: it gets a new id.", data_dir = .1.display())]
    Log(LogError, PathBuf),
    /// The snapshots are damaged, and the log alone does not reach back far enough.
    #[error("{0}\nThis node's disk cannot be trusted any more. Take it out of the cluster (hfctl members remove <id>), empty {data_dir}, and let it join again: it gets a new id.", data_dir = .1.display())]
    Snapshot(ReplicaError, PathBuf),
    /// There is a hole between the newest readable snapshot and the log.
    #[error("the newest readable snapshot reaches to log entry {snapshot}, the log begins after entry {purged}: what is between them is lost\nTake this node out of the cluster (hfctl members remove <id>), empty {}, and let it join again: it gets a new id.", data_dir.display())]
    Hole {
        /// The last entry in the snapshot.
        snapshot: u64,
        /// The last entry that was purged.
        purged: u64,
        /// The data directory.
        data_dir: PathBuf,
    },
    /// The directory is nobody's, and nobody was named to join.
    #[error("{} belongs to no node yet\nFound a cluster with `cp-node init`, or join one with `cp-node join --peer <host:port>` (or set cluster.join).", .0.display())]
    Nobody(PathBuf),
    /// The node has left its cluster for good.
    #[error("node {node} has left its cluster and must not come back as itself\nEmpty {} and let it join again: it gets a new id.", data_dir.display())]
    Left {
        /// Its id.
        node: u64,
        /// Its data directory.
        data_dir: PathBuf,
    },
    /// A listener cannot be opened.
    #[error("{0}")]
    Listen(std::io::Error),
    /// Consensus cannot start.
    #[error("consensus cannot start: {0}")]
    Consensus(String),
    /// A cluster was not brought back.
    #[error(transparent)]
    Bootstrap(#[from] BootstrapError),
    /// No node could be joined.
    #[error("no node of the cluster could be joined:\n{}", .0.join("\n"))]
    Join(Vec<String>),
    /// The running node could not be asked to leave.
    #[error(
        "node {node} could not be asked to leave at {address}: {reason}\nIt must be running. A node that cannot run is taken out with `hfctl members remove {node}`."
    )]
    Leave {
        /// Its id.
        node: u64,
        /// Its peer listener.
        address: String,
        /// What it said.
        reason: String,
    },
}

impl NodeError {
    pub(super) fn archive(e: archive::BadArchive) -> Self {
        Self::Setting(BadSetting { key: e.key.to_owned(), problem: e.problem })
    }

    /// The process' exit code: 78 (`EX_CONFIG`) for what only an operator can mend in the settings, else 1.
    #[must_use]
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Setting(_) | Self::Key(_) | Self::Dsn(_) | Self::Credentials(_) | Self::Nobody(_) => 78,
            _ => 1,
        }
    }
}
