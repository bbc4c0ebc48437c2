//! When a node may stand for election, and what it says of another one that would. Pure: time and state come in.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use raft_store::types::{LogId, Member, NodeId};
use tokio::time::Instant;

/// Where a node stands in consensus, as its core says at one moment.
#[derive(Clone, Debug)]
pub(super) struct Standing {
    /// Its term.
    pub(super) term: u64,
    /// What it does.
    pub(super) role: Role,
    /// Whether the leader of its term is known to it; otherwise it has only voted in it, for itself or another one.
    pub(super) has_leader: bool,
    /// When it last heard its leader, or voted; on a leader, when it was elected.
    pub(super) since: Instant,
    /// On a leader: how long ago a quorum last answered it; `None` when none has yet.
    pub(super) quorum_age: Option<Duration>,
    /// The end of its log.
    pub(super) last: Option<LogId>,
    /// Who votes: two sets while the membership changes, and a quorum of each is needed.
    pub(super) voters: Vec<BTreeSet<NodeId>>,
    /// Everybody else who votes.
    pub(super) others: BTreeMap<NodeId, Member>,
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// How long a leader that was heard is believed in.
    pub(super) lease: Duration,
    /// How long an election may take.
    pub(super) election: Duration,
}

/// What a node does in consensus.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Role {
    /// It leads, as far as it knows.
    Leads,
    /// It votes: follower, or candidate.
    Votes,
    /// It does not vote.
    Learns,
}

/// Why a node would not vote for another one.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub(super) enum Refusal {
    /// It leads itself.
    #[error("it leads, and was answered by a quorum {0:?} ago")]
    Leads(Duration),
    /// It hears a leader.
    #[error("it has heard its leader {0:?} ago")]
    HearsLeader(Duration),
    /// It has what the other one lacks.
    #[error("its log goes further")]
    LongerLog,
}

impl Standing {
    /// When it would stand, if nothing happens until then: once it believes in its leader no more, or once the election
    /// in which it voted must be over; and after a `jitter` that was drawn, so that two seldom stand at once. A node that
    /// is the only voter waits for nobody.
    pub(super) fn due(&self, times: Times, jitter: Duration) -> Instant {
        if self.others.is_empty() {
            return self.since;
        }
        self.since + jitter + if self.has_leader { times.lease } else { times.election }
    }

    /// Whether it has voted, or heard a leader, since `earlier`.
    pub(super) fn is_past(&self, earlier: &Self) -> bool {
        (self.term, self.role, self.since) != (earlier.term, earlier.role, earlier.since)
    }

    /// Whether it would vote for a node whose log ends at `last`: what a vote would be refused for, asked beforehand.
    ///
    /// The term is not asked about. A candidate whose term is too low loses its election and learns the higher one from
    /// it; if it was refused here it would never learn.
    ///
    /// # Errors
    /// Why not.
    pub(super) fn would_vote(&self, last: Option<LogId>, lease: Duration, now: Instant) -> Result<(), Refusal> {
        if self.role == Role::Leads {
            let age = self.heard_by_quorum(now);
            if age < lease {
                return Err(Refusal::Leads(age));
            }
        } else if self.has_leader {
            let age = now.saturating_duration_since(self.since);
            if age <= lease {
                return Err(Refusal::HearsLeader(age));
            }
        }
        if last < self.last { Err(Refusal::LongerLog) } else { Ok(()) }
    }

    /// On a leader: how long it has had no sign of a quorum.
    pub(super) fn heard_by_quorum(&self, now: Instant) -> Duration {
        self.quorum_age.unwrap_or_else(|| now.saturating_duration_since(self.since))
    }

    /// Whether these are a quorum.
    pub(super) fn is_quorum(&self, nodes: &BTreeSet<NodeId>) -> bool {
        self.voters.iter().all(|voters| voters.intersection(nodes).count() > voters.len() / 2)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_millis(600);
    const TIMES: Times = Times { lease: LEASE, election: Duration::from_millis(300) };

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn log(term: u64, index: u64) -> Option<LogId> {
        Some(LogId::new(openraft::CommittedLeaderId::new(term, 1), index))
    }

    fn follower(since: Instant) -> Standing {
        Standing {
            term: 3,
            role: Role::Votes,
            has_leader: true,
            since,
            quorum_age: None,
            last: log(3, 10),
            voters: vec![BTreeSet::from([1, 2, 3])],
            others: BTreeMap::from([(2, Member::default()), (3, Member::default())]),
        }
    }

    #[test]
    fn who_has_heard_a_leader_waits_for_the_end_of_its_lease_and_who_has_voted_for_the_end_of_the_election() {
        let since = Instant::now();
        let mut node = follower(since);
        assert_eq!(node.due(TIMES, ms(70)), since + ms(670));
        node.has_leader = false;
        assert_eq!(node.due(TIMES, ms(70)), since + ms(370), "a lost election");
        node.others.clear();
        assert_eq!(node.due(TIMES, ms(70)), since, "there is nobody to wait for");
    }

    #[test]
    fn a_node_that_hears_a_leader_would_not_vote() {
        let since = Instant::now();
        let mut node = follower(since);
        let heard = Refusal::HearsLeader(ms(600));
        assert_eq!(node.would_vote(log(3, 10), LEASE, since + ms(600)), Err(heard));
        assert_eq!(node.would_vote(log(3, 10), LEASE, since + ms(601)), Ok(()));
        node.has_leader = false;
        assert_eq!(node.would_vote(log(3, 10), LEASE, since), Ok(()), "it has only voted");
    }

    #[test]
    fn nobody_would_vote_for_a_node_that_lacks_entries() {
        let since = Instant::now();
        let (node, later) = (follower(since), since + ms(2000));
        assert_eq!(node.would_vote(log(3, 9), LEASE, later), Err(Refusal::LongerLog));
        assert_eq!(node.would_vote(log(2, 99), LEASE, later), Err(Refusal::LongerLog), "an older term's");
        assert_eq!(node.would_vote(None, LEASE, later), Err(Refusal::LongerLog));
        assert_eq!(node.would_vote(log(4, 2), LEASE, later), Ok(()));
    }

    #[test]
    fn a_leader_would_vote_only_when_it_has_lost_its_quorum() {
        let since = Instant::now();
        let mut node = follower(since);
        node.role = Role::Leads;
        assert_eq!(node.would_vote(log(3, 10), LEASE, since + ms(500)), Err(Refusal::Leads(ms(500))), "just elected");
        node.quorum_age = Some(ms(120));
        assert_eq!(node.would_vote(log(3, 10), LEASE, since + ms(9000)), Err(Refusal::Leads(ms(120))));
        node.quorum_age = Some(ms(700));
        assert_eq!(node.would_vote(log(3, 10), LEASE, since + ms(9000)), Ok(()));
    }

    #[test]
    fn what_a_quorum_said_is_old_once_the_node_has_voted_or_heard_a_leader() {
        let asked = follower(Instant::now());
        assert!(!asked.clone().is_past(&asked));
        let voted = Standing { term: 4, has_leader: false, since: asked.since + ms(1), ..asked.clone() };
        let heard = Standing { since: asked.since + ms(1), ..asked.clone() };
        let leads = Standing { role: Role::Leads, ..asked.clone() };
        assert!([voted, heard, leads].iter().all(|later| later.is_past(&asked)));
    }

    #[test]
    fn a_quorum_is_needed_of_the_old_voters_and_of_the_new() {
        let mut node = follower(Instant::now());
        assert!(node.is_quorum(&BTreeSet::from([1, 2])) && !node.is_quorum(&BTreeSet::from([1, 7, 8])));
        node.voters.push(BTreeSet::from([3, 4, 5, 6]));
        assert!(!node.is_quorum(&BTreeSet::from([1, 2, 3, 4])), "half of the new ones");
        assert!(node.is_quorum(&BTreeSet::from([1, 3, 4, 5])));
    }
}
