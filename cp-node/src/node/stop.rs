//! How a node ends: in order when it is asked to, at once when its disk has failed.

use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::Node;
use crate::raft::{Handover, Superseded};

/// How long requests under way may take to end.
const REQUESTS_MAX: Duration = Duration::from_secs(5);

/// How long streams and listeners may take to close.
const CLOSE_MAX: Duration = Duration::from_secs(2);

/// Why a node ends by itself.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Ended {
    /// Its disk, its consensus or another part of it has failed. It must not go on, and must not try again.
    Failed(String),
    /// It was taken out of its cluster.
    Left,
    /// Its cluster was brought back without it. Nothing that it holds counts any more.
    Superseded(Superseded),
}

impl Node {
    /// Resolves when the node cannot or must not go on. Cancel-safe.
    pub async fn ended(&self) -> Ended {
        let mut metrics = self.raft.metrics();
        let mut left = self.members.left.subscribe();
        tokio::select! {
            reason = self.log.failed() => Ended::Failed(format!("the log's disk has failed: {reason}")),
            stopped = metrics.wait_for(|metrics| metrics.running_state.is_err()) => {
                let reason = stopped.ok().and_then(|m| m.running_state.as_ref().err().map(ToString::to_string));
                Ended::Failed(format!("consensus has stopped: {}", reason.unwrap_or_default()))
            }
            _ = left.wait_for(|left| *left) => Ended::Left,
            superseded = self.members.peering.superseded() => Ended::Superseded(superseded),
            name = self.tasks.lost() => Ended::Failed(format!("a part of the node has failed: {name}")),
        }
    }

    /// Ends the node in order: it is no longer ready; the Admin API takes nothing new and answers what is under way;
    /// leadership goes to another node; proxies are sent elsewhere; consensus and the log are closed.
    pub async fn stop(self) {
        let began = Instant::now();
        self.draining.store(true, Ordering::Relaxed);
        // While it still serves: what comes after this the next leader brings to the archive.
        if let Some(archiver) = &self.archiver {
            archiver.flush().await;
        }
        self.stop_admin.send_replace(true);
        if tokio::time::timeout(REQUESTS_MAX, self.admin).await.is_err() {
            tracing::warn!("some requests to the Admin API did not end in time");
        }
        self.proposer.close();
        self.batcher.close();
        if *self.members.left.borrow() {
            if let Err(error) = self.data.mark_left() {
                tracing::error!(%error, "it could not be noted that this node has left");
            }
        } else {
            Handover { peering: &self.members.peering, raft: &self.raft, channels: &self.channels }.run().await;
        }
        self.stop_feed.send_replace(true);
        let _ = tokio::time::timeout(CLOSE_MAX, self.feed_server).await;
        for task in &self.upkeep {
            task.abort();
        }
        if let Err(error) = self.raft.shutdown().await {
            tracing::error!(%error, "consensus did not end in order");
        }
        self.stop_peer.send_replace(true);
        let _ = tokio::time::timeout(CLOSE_MAX, self.peer_server).await;
        if let Some(mut history) = self.history
            && tokio::time::timeout(CLOSE_MAX, &mut history).await.is_err()
        {
            // It is a projection: what it has not written it reads again from the log.
            tracing::warn!("the embedded record was not closed in time");
            history.abort();
        }
        self.log.close().await;
        self.probes.iter().for_each(JoinHandle::abort);
        tracing::info!(
            took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
            "the node has stopped"
        );
    }
}
