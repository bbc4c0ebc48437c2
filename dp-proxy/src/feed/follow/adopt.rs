//! Configurations that come whole, from somewhere else than the control plane: they lead forward, or are left.

use std::sync::atomic::Ordering;

use archive::Found;
use bytes::Bytes;
use protocol::{ConfigState, codec};
use tokio::time::Instant;
use tracing::{error, info};

use super::{FileSource, Follower};
use crate::feed::session::{Keep, Moved};
use crate::standalone::{self, Configuration, Stamping};
use crate::standing::Source;

impl Follower {
    /// Takes what was found in the archive, if it leads forward.
    pub(super) async fn take_archived(&mut self, found: Found) {
        let (theirs, ours) = (found.state.position(), self.holding.state.position());
        if let Some(cluster) = self.holding.cluster.filter(|cluster| *cluster != found.cluster) {
            error!(theirs = %found.cluster, ours = %cluster, "what the archive has is another cluster's");
            return;
        }
        match theirs.compare(&ours) {
            Ok(std::cmp::Ordering::Greater) => {}
            // A control plane was faster.
            Ok(_) => return,
            Err(conflict) => {
                error!(reason = %conflict, "what the archive has is refused");
                return;
            }
        }
        let arrived = Instant::now();
        let follows = |steps: &Vec<(protocol::Delta, Bytes)>| matches!(&steps[..], [(first, _), ..] if first.prev == self.holding.state.changed_at());
        let burst = match found.steps.filter(follows) {
            Some(steps) => {
                let mut burst = Vec::with_capacity(steps.len());
                for (delta, frame) in steps {
                    let before = self.holding.state.clone();
                    if let Err(e) = self.holding.state.evolve(&delta) {
                        error!(reason = %e, "a step from the archive does not fit");
                        break;
                    }
                    let position = delta.position;
                    burst.push(Moved { before, changes: delta.changes, keep: Keep::Frame(frame), position });
                }
                burst
            }
            None => vec![self.moved_to(found.state)],
        };
        if self.holding.cluster.replace(found.cluster).is_none()
            && let Some(store) = &self.store
        {
            info!(cluster = %found.cluster, "first contact: from now on only this cluster is followed");
            drop(store.pin(found.cluster));
        }
        match &mut self.first {
            Some(first) => {
                first.wait();
                self.compile_and_keep(burst).await;
            }
            None => {
                info!(from = %ours, position = %self.holding.state.position(), "serving what the archive has");
                self.source = Source::Archive;
                self.put_to_use(burst, arrived).await;
            }
        }
        self.board.archive.taken.fetch_add(1, Ordering::Relaxed);
        self.post();
    }

    /// Takes what a file has.
    pub(super) async fn take_configuration(&mut self, configuration: Configuration) {
        let Some(FileSource { standalone, .. }) = &self.file else { return };
        let arrived = Instant::now();
        let stamping = Stamping {
            group: self.identity.node.group.as_str().into(),
            keyring: &standalone.keyring,
            random: &*self.random,
            now: standalone.clock.now(),
        };
        let step = standalone::step(&self.holding.state, configuration, &stamping);
        self.source = Source::File;
        self.board.file.taken.fetch_add(1, Ordering::Relaxed);
        match step {
            Some(delta) => {
                let before = self.holding.state.clone();
                self.holding.state.evolve(&delta).expect("the step was made from this state");
                info!(position = %delta.position, changes = delta.changes.len(), "serving what the file has");
                // One that is too large for a frame is kept as a base.
                let keep = codec::seal(&delta).map_or(Keep::Base, |frame| Keep::Frame(frame.into()));
                let moved = Moved { before, position: delta.position, changes: delta.changes, keep };
                self.put_to_use(vec![moved], arrived).await;
            }
            // The first table, though it is an empty one.
            None if !self.board.has_table.load(Ordering::Relaxed) => self.publish(),
            None => {}
        }
        self.post();
    }

    /// Takes a configuration that another process of this proxy has kept, if it leads forward.
    pub(super) async fn adopt(&mut self, state: ConfigState) {
        let leads_on = state.position().compare(&self.holding.state.position()) == Ok(std::cmp::Ordering::Greater);
        if leads_on {
            let moved = self.moved_to(state);
            self.put_to_use(vec![moved], Instant::now()).await;
        }
    }

    fn moved_to(&mut self, state: ConfigState) -> Moved {
        let position = state.position();
        let before = std::mem::replace(&mut self.holding.state, state);
        let changes = self.holding.state.changes_since(&before);
        Moved { before, changes, keep: Keep::Base, position }
    }
}
