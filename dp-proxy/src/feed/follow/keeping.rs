//! What becomes of steps: compiled, kept on the disk, put in force.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use daemon::failpoint;
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};
use tracing::{debug, error, info, warn};

use super::Follower;
use crate::disk::Image;
use crate::feed::session::{Keep, Moved};

/// How long a step waits for the disk before it is served all the same: a disk that hangs must not hold a change up.
const DISK_WAIT_MAX: Duration = Duration::from_secs(2);
/// While something is not on the disk, how often it is tried again.
const DISK_RETRY: Duration = Duration::from_secs(1);

impl Follower {
    /// Compiles steps, keeps them, and puts the table in force: in this order, so that nothing is served that a restart
    /// would take back.
    pub(super) async fn put_to_use(&mut self, burst: Vec<Moved>, arrived: Instant) {
        let steps = burst.len() as u64;
        self.compile_and_keep(burst).await;
        failpoint!("dp::follow::before_publish");
        self.publish();
        failpoint!("dp::follow::after_publish");
        self.board.updates.fetch_add(steps, Ordering::Relaxed);
        self.board.update_time.observe_since(arrived);
    }

    /// The same but for the last of it.
    pub(super) async fn compile_and_keep(&mut self, burst: Vec<Moved>) {
        let mut frames = Some(Vec::with_capacity(burst.len()));
        for moved in burst {
            debug!(
                prev = %moved.before.changed_at(), position = %moved.position, changes = moved.changes.len(), "a step"
            );
            if moved.changes.is_empty() {
                self.compiler.bookmark(moved.position);
            } else {
                self.compiler.apply(&moved.before, moved.position, &moved.changes);
            }
            match moved.keep {
                Keep::Frame(frame) => frames = frames.map(|frames| pushed(frames, frame)),
                Keep::Mark => frames = frames.map(|frames| pushed(frames, crate::disk::mark(moved.position))),
                Keep::Base => {
                    info!(from = %moved.before.position(), position = %moved.position, "took a configuration in full");
                    frames = None;
                }
            }
        }
        self.settle_secrets().await;
        self.settle_services().await;
        failpoint!("dp::follow::before_keep");
        self.keep(frames).await;
    }

    pub(super) fn publish(&mut self) {
        self.publisher.publish(self.compiler.table());
        self.served = self.holding.state.clone();
        self.board.retained_tables.store(self.publisher.retained() as u64, Ordering::Relaxed);
        if *self.rejected != *self.compiler.rejected() {
            self.rejected = Arc::new(self.compiler.rejected().clone());
            warn!(rejected = self.rejected.len(), "the set of resources that cannot be served has changed");
        }
        if !self.board.has_table.load(Ordering::Relaxed) {
            // Whoever finds the proxy ready finds what it serves, too.
            self.post();
            self.board.has_table.store(true, Ordering::Release);
        }
        self.live.send_if_modified(|live| !std::mem::replace(live, true));
    }

    /// Keeps what is held: as frames behind the others, or (`None`) as a new base. Sets whether it is kept.
    async fn keep(&mut self, frames: Option<Vec<Bytes>>) {
        let Some(store) = &self.store else {
            self.volatile = true;
            return;
        };
        self.disk_tried = Instant::now();
        if let Some(late) = &mut self.late {
            match late.try_recv() {
                // The disk still hangs. Nothing more is put before it: it would only wait there.
                Err(oneshot::error::TryRecvError::Empty) => {
                    self.board.disk_misses.fetch_add(1, Ordering::Relaxed);
                    return;
                }
                Ok(_) | Err(oneshot::error::TryRecvError::Closed) => self.late = None,
            }
        }
        let image = Image { state: self.holding.state.clone(), last_good: self.compiler.last_good().clone() };
        let mut answer = match frames {
            Some(frames) if !self.volatile => store.append(frames, image),
            // What was missed is not on the disk: only a base closes the gap.
            _ => store.rebase(image),
        };
        let kept = match timeout(DISK_WAIT_MAX, &mut answer).await {
            Ok(Ok(Ok(()))) => true,
            Ok(Ok(Err(_)) | Err(_)) => false,
            Err(_) => {
                error!(waited = ?DISK_WAIT_MAX, "the disk does not answer, serving what it has not taken");
                self.late = Some(answer);
                false
            }
        };
        if !kept {
            self.board.disk_misses.fetch_add(1, Ordering::Relaxed);
        }
        if self.volatile == kept {
            match kept {
                true => info!(position = %self.holding.state.position(), "the position is on the disk again"),
                false => {
                    error!(position = %self.holding.state.position(), "the position is not on the disk: a restart would take it back")
                }
            }
        }
        self.volatile = !kept;
    }

    /// What is due from time to time. True when the control plane should hear of it.
    pub(super) async fn keep_house(&mut self) -> bool {
        self.publisher.reclaim();
        self.board.retained_tables.store(self.publisher.retained() as u64, Ordering::Relaxed);
        let has_news = self.tend_secrets().await;
        self.tend_services();
        self.serve_late();
        if !self.volatile || self.store.is_none() || self.disk_tried.elapsed() < DISK_RETRY {
            return has_news;
        }
        self.keep(None).await;
        self.post();
        has_news || !self.volatile
    }
}

fn pushed(mut frames: Vec<Bytes>, frame: Bytes) -> Vec<Bytes> {
    frames.push(frame);
    frames
}
