//! Consensus over the network: openraft's network traits on one side, the peer service on the other, both on a runtime
//! of their own, so that proxies and Admin requests never stand in front of a heartbeat.

mod channels;
mod client;
mod contact;
mod election;
mod handover;
mod peering;
mod reach;
mod server;
mod transfers;
mod watch;

use std::sync::Arc;

pub(crate) use channels::{Channels, LinkClass, MESSAGE_BYTES_MAX};
pub(crate) use client::Network;
pub(crate) use contact::LeaderContact;
pub(crate) use election::{Elections, Silence};
pub(crate) use handover::Handover;
pub use peering::Superseded;
pub(crate) use peering::{Peering, route_of};
pub(crate) use reach::Reach;
pub(crate) use server::PeerService;
pub(crate) use transfers::Transfers;
pub(crate) use watch::watch;

use crate::settings::RaftSettings;

/// The consensus library's settings from ours. Snapshots and purges are driven from outside (see `maintenance`): a
/// trigger of its own is lost while a snapshot is being built, and it would purge what a follower is still receiving.
/// So are elections (see [`election`]): its own timer lets a node that nobody would vote for stand again and again.
pub(crate) fn config(settings: &RaftSettings) -> Arc<openraft::Config> {
    let millis = |span: daemon::settings::units::Span| u64::try_from(span.0.as_millis()).unwrap_or(u64::MAX);
    Arc::new(openraft::Config {
        cluster_name: "holdfast".to_owned(),
        heartbeat_interval: millis(settings.heartbeat),
        election_timeout_min: millis(settings.election_min),
        election_timeout_max: millis(settings.election_max),
        // Only a bound on a vector: how much one message carries is decided by bytes, in the log store.
        max_payload_entries: 1024,
        snapshot_policy: openraft::SnapshotPolicy::Never,
        max_in_snapshot_log_to_keep: u64::MAX,
        enable_elect: false,
        ..openraft::Config::default()
    })
}
