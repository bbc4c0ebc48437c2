//! Says what consensus has come to, in an operator's words: one line for each change of leader, term, role or membership.

use std::collections::BTreeSet;

use raft_store::types::{NodeId, Raft};

/// Watches until consensus stops.
pub(crate) async fn watch(raft: Raft) {
    let mut changes = raft.server_metrics();
    let mut known: Option<(Option<NodeId>, u64)> = None;
    let mut voters: BTreeSet<NodeId> = BTreeSet::new();
    loop {
        let (state, leader, term, now_voters) = {
            let now = changes.borrow_and_update();
            let voters: BTreeSet<NodeId> = now.membership_config.voter_ids().collect();
            (now.state, now.current_leader, now.vote.leader_id.term, voters)
        };
        // An election passes through many states; what counts is who leads in the end, or that nobody does.
        if known != Some((leader, term)) && (leader.is_some() || known.is_some_and(|(before, _)| before.is_some())) {
            match leader {
                Some(leader) => tracing::info!(leader, term, role = ?state, "there is a leader"),
                None => tracing::warn!(term, role = ?state, "there is no leader"),
            }
        }
        if leader.is_some() || known.is_none_or(|(before, _)| before.is_some()) {
            known = Some((leader, term));
        }
        if now_voters != voters {
            if !voters.is_empty() {
                tracing::info!(voters = ?now_voters, "the voters have changed");
            }
            voters = now_voters;
        }
        if changes.changed().await.is_err() {
            return;
        }
    }
}
