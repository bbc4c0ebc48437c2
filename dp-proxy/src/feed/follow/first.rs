//! What a proxy without a configuration on its disk serves first: not what the archive has, as long as a control plane
//! may be about to bring what is newer.
//!
//! The archive is some seconds behind and often the first to answer. Served at once, what it has would be served in
//! place of what the fleet serves, for as long as a node takes to say what has changed since. So it is compiled and kept,
//! and waits for a node's word; not for long, since the control plane may be gone (law 7).

use std::sync::atomic::Ordering;

use tokio::time::{Instant, sleep_until};
use tracing::info;

use super::Follower;
use crate::settings::ControlPlane;
use crate::standing::Source;

/// A proxy that has served nothing yet, and may still hear what is current.
#[derive(Debug)]
pub(super) struct First {
    /// Until when a node's word is waited for.
    until: Instant,
    /// How many nodes have not been asked yet.
    unasked: usize,
    /// Whether the archive has brought something that waits.
    waits: bool,
}

impl First {
    /// Of a proxy with nothing on its disk that starts now; `None`: there is nobody whose word could be waited for.
    pub(super) fn of(control_plane: &ControlPlane) -> Option<Self> {
        // A wait that no clock can count is none.
        let (nodes, until) = (control_plane.endpoints.len(), Instant::now().checked_add(control_plane.first_wait)?);
        (nodes > 0).then_some(Self { until, unasked: nodes, waits: false })
    }

    /// The archive has brought something: it waits.
    pub(super) fn wait(&mut self) {
        self.waits = true;
        info!(at_most = ?self.until.saturating_duration_since(Instant::now()), "what the archive has waits for a node's word");
    }

    fn is_over(&self) -> bool {
        self.unasked == 0 || Instant::now() >= self.until
    }
}

impl Follower {
    /// A node that was asked did not say what is current.
    pub(super) fn asked_in_vain(&mut self) {
        if let Some(first) = &mut self.first {
            first.unasked -= 1;
        }
        self.serve_late();
    }

    /// Serves what the archive has, once no node's word is waited for any more.
    pub(super) fn serve_late(&mut self) {
        if self.first.as_ref().is_some_and(First::is_over) {
            self.wait_no_more();
        }
    }

    /// Something is to be served now: what the archive has brought, where nothing newer is served already.
    pub(super) fn wait_no_more(&mut self) {
        let waited = self.first.take().is_some_and(|first| first.waits);
        if waited && !self.board.has_table.load(Ordering::Relaxed) {
            info!(position = %self.holding.state.position(), "serving what the archive has");
            self.source = Source::Archive;
            self.publish();
            self.post();
        }
    }
}

/// Ends when no node's word is waited for any more; never where nothing waits.
pub(super) async fn over(first: Option<&First>) {
    match first {
        Some(first) if first.waits => sleep_until(first.until).await,
        _ => std::future::pending().await,
    }
}
