//! Which peers can be reached: said once when it changes, not ten times a second.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use raft_store::types::{Member, NodeId};

/// What is known of the peers. Clones share it.
#[derive(Clone, Default, Debug)]
pub(crate) struct Reach {
    failing: Arc<Mutex<BTreeMap<NodeId, String>>>,
}

impl Reach {
    /// A call to a peer has failed.
    pub(super) fn failed(&self, target: NodeId, member: &Member, reason: &str) {
        let before = self.failing.lock().expect("no code panics while it holds it").insert(target, reason.to_owned());
        if before.as_deref() != Some(reason) {
            tracing::warn!(target_id = target, name = %member.name, address = %member.peer_address, reason, "a peer cannot be reached");
        }
    }

    /// A call to a peer was answered.
    pub(super) fn answered(&self, target: NodeId, member: &Member) {
        let before = self.failing.lock().expect("no code panics while it holds it").remove(&target);
        if before.is_some() {
            tracing::info!(target_id = target, name = %member.name, address = %member.peer_address, "a peer can be reached again");
        }
    }

    /// How many peers cannot be reached, as far as this node has tried.
    pub(crate) fn failing(&self) -> u64 {
        self.failing.lock().expect("no code panics while it holds it").len() as u64
    }
}
