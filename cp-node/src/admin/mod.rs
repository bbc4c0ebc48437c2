//! The Admin API: Apache APISIX's v3 under `/apisix/admin/`, and what is Holdfast's own under `/v1/`.
//!
//! Checks come in APISIX's order: key, kind (404), method (405), size and JSON (400), id, schema, references. References,
//! uniqueness and preconditions are decided in the log; here a body is only admitted.

mod answer;
mod auth;
mod backup;
mod cluster;
mod configs;
mod dry_run;
mod history;
mod limits;
mod list;
mod openapi;
mod render;
mod request;
mod resources;
mod restore;
mod schemas;
mod secrets;
mod server;
mod shadow;
mod transactions;
mod users;
mod wait;
mod write;

use std::sync::Arc;
use std::time::Duration;

use protocol::ConfigState;
use protocol::seam::{Random, WallClock};
use raft_store::feed::Feed;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use answer::Answer;
pub use auth::KeyError;
pub(crate) use auth::Keys;
use auth::Principal;
pub(crate) use limits::WAITS_MAX;
pub(crate) use secrets::Secrets;
use secrets::View;
pub(crate) use server::serve;

use crate::feed::Fleet;
use crate::members::Members;
use crate::metrics::AdminMetrics;
use crate::propose::Proposer;
use crate::raft::Channels;
use crate::read::ReadIndex;
use crate::record::Record;
use crate::settings::AdminSettings;
use crate::status::Describe;

/// Everything that a request may need. Shared by all of them.
pub(crate) struct Desk {
    pub(crate) settings: AdminSettings,
    pub(crate) server_header: String,
    pub(crate) keys: Keys,
    pub(crate) secrets: Arc<Secrets>,
    pub(crate) proposer: Proposer,
    pub(crate) record: Record,
    pub(crate) reads: ReadIndex,
    pub(crate) feed: Feed,
    pub(crate) fleet: Fleet,
    pub(crate) members: Members,
    pub(crate) describe: Describe,
    pub(crate) channels: Channels,
    pub(crate) metrics: AdminMetrics,
    pub(crate) clock: Arc<dyn WallClock>,
    pub(crate) random: Arc<dyn Random>,
    /// Places for answers that wait for the fleet.
    pub(crate) waiting: Arc<Semaphore>,
}

impl Desk {
    /// How long one message of a request may take.
    fn deadline(&self) -> Duration {
        self.settings.deadline.0
    }

    /// How much whoever asks gets to see.
    fn view(&self, principal: &Principal) -> View<'_> {
        if principal.sees_secrets { View::Open(&self.secrets) } else { View::Masked }
    }

    /// The configuration to read from: linearizable, or whatever this node has when the client asks for that.
    async fn config(&self, stale: bool) -> Result<ConfigState, Answer> {
        if !stale {
            let deadline = Instant::now() + self.deadline();
            self.reads.linearizable(deadline).await.map_err(|e| Answer::not_applied(&e.to_string()))?;
        }
        Ok(self.feed.config())
    }
}
