//! Who stands for election, and when a leader falls silent: pre-vote (Raft thesis §9.6) and what etcd calls CheckQuorum.
//!
//! Consensus by itself lets a node that hears no leader stand again and again, each time in a higher term. A node that
//! hears nobody but is heard (a network that is broken one way) would so depose every leader that the others elect. And a
//! leader that hears nobody but is heard would never be replaced, since its followers have no reason to stand.
//!
//! ```text
//!   hears no leader   -- PreVote: would you vote for me? -->   every other voter
//!                     <-- yes: I hear no leader either, and your log has all that mine has
//!   a quorum said so: stands, in the next term
//!
//!   leads, and no quorum has answered for an election timeout: sends no more entries and heartbeats
//!                     -- PreVote: are you there? ---------->   every other voter
//!   a quorum is there: goes on
//! ```
//!
//! A pre-vote promises nothing and is not written down: two nodes may both get one. What is safe is decided by the vote
//! that follows; a pre-vote only decides whether it is asked for. So consensus' own timer for elections is off
//! ([`super::config`]), and here is the one in its place. It can be shorter, since one node that misses its leader deposes
//! nobody any more: it needs a quorum that misses it too.

mod rules;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use daemon::planted;
use openraft::error::Fatal;
use openraft::raft::VoteRequest;
use openraft::{ServerState, Vote};
use protocol::codec;
use protocol::grpc::{PreVoteReply, RaftMessage};
use protocol::seam::Random;
use raft_store::types::{NodeId, Raft};
use raft_store::wire::VoteRequestRecord;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tonic::{Code, Status};

use self::rules::{Role, Standing, Times};
use super::channels::{Channels, LinkClass};
use super::peering::Peering;

/// A node's part in elections. Clones share it.
#[derive(Clone)]
pub(crate) struct Elections {
    pub(crate) peering: Peering,
    pub(crate) raft: Raft,
    pub(crate) channels: Channels,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) silence: Silence,
}

/// Set while this node leads without a quorum: then it sends no entries and no heartbeats. Clones share it.
#[derive(Clone, Default, Debug)]
pub(crate) struct Silence(Arc<AtomicBool>);

impl Silence {
    /// Whether it is kept.
    pub(super) fn is_kept(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Whether this changed anything.
    fn keep(&self, silent: bool) -> bool {
        self.0.swap(silent, Ordering::Relaxed) != silent
    }
}

impl Elections {
    /// Watches until consensus stops.
    pub(crate) async fn run(self) {
        // Ends with an error when consensus has stopped, which is told of elsewhere.
        let _ = self.watch().await;
    }

    async fn watch(&self) -> Result<(), Fatal<NodeId>> {
        let times =
            Times { lease: self.lease(), election: Duration::from_millis(self.raft.config().election_timeout_min) };
        let mut jitter = self.draw_jitter();
        // A leader is not judged before this: what it was answered has not reached its measure yet.
        let mut trusted_until = Instant::now();
        let mut refused = false;
        loop {
            let standing = self.standing().await?;
            if standing.role != Role::Leads {
                self.silence.keep(false);
            }
            let due = standing.due(times, jitter);
            match standing.role {
                Role::Learns => tokio::time::sleep(self.lease()).await,
                Role::Leads => {
                    self.check_quorum(&standing, &mut trusted_until).await;
                    tokio::time::sleep(self.heartbeat()).await;
                }
                Role::Votes if Instant::now() < due => {
                    refused = false;
                    tokio::time::sleep_until(due).await;
                }
                Role::Votes => match self.canvass(&standing, |reply| reply.granted).await {
                    // Meanwhile it may have voted for another one, who asked at the same time: a later term would depose it.
                    Ok(()) if self.standing().await?.is_past(&standing) => {}
                    Ok(()) => {
                        tracing::info!(term = standing.term + 1, "no leader is heard: standing for election");
                        self.raft.trigger().elect().await?;
                        jitter = self.draw_jitter();
                        if standing.others.is_empty() {
                            // It needs nobody else: only its disk is waited for.
                            tokio::time::sleep(self.lease()).await;
                        }
                    }
                    Err(answers) => {
                        if !std::mem::replace(&mut refused, true) {
                            tracing::warn!(
                                term = standing.term,
                                answers,
                                "no leader is heard, and no quorum would vote"
                            );
                        }
                        let heartbeat = u64::try_from(self.heartbeat().as_micros()).unwrap_or(u64::MAX);
                        let pause = heartbeat / 2 + self.random.below(heartbeat);
                        tokio::time::sleep(Duration::from_micros(pause)).await;
                    }
                },
            }
        }
    }

    /// On a leader: falls silent when no quorum has answered for a lease, and speaks again as soon as one is there.
    async fn check_quorum(&self, standing: &Standing, trusted_until: &mut Instant) {
        let now = Instant::now();
        let age = standing.heard_by_quorum(now);
        if age < self.lease() || now < *trusted_until {
            return self.speak();
        }
        if self.silence.keep(true) {
            tracing::warn!(
                term = standing.term,
                quorum_age_ms = u64::try_from(age.as_millis()).unwrap_or(u64::MAX),
                "no quorum answers this leader: it falls silent, so that the others may elect another one"
            );
        }
        if self.canvass(standing, |_| true).await.is_ok() {
            *trusted_until = Instant::now() + self.lease();
            self.speak();
        }
    }

    fn speak(&self) {
        if self.silence.keep(false) {
            tracing::info!("a quorum answers this leader again");
        }
    }

    /// Asks every other voter whether it would vote for this node, and ends with the first quorum, this node included,
    /// whose answers `count`.
    ///
    /// # Errors
    /// What the others said, when there is no such quorum.
    async fn canvass(&self, standing: &Standing, counts: fn(&PreVoteReply) -> bool) -> Result<(), String> {
        if planted!("no-pre-vote") {
            return Ok(());
        }
        let within = Duration::from_millis(self.raft.config().election_timeout_min);
        let mut asking = JoinSet::new();
        for (id, member) in &standing.others {
            let (id, asked) = (*id, self.ask(standing, *id, &member.peer_address));
            asking.spawn(async move {
                let answer = tokio::time::timeout(within, asked).await;
                (id, answer.unwrap_or_else(|_| Err(Status::deadline_exceeded(format!("no answer within {within:?}")))))
            });
        }
        let mut yes = BTreeSet::from([self.peering.node]);
        let mut answers = Vec::new();
        while !standing.is_quorum(&yes) {
            let Some(answered) = asking.join_next().await else { return Err(answers.join("; ")) };
            let Ok((id, answer)) = answered else { continue };
            match answer {
                Ok(reply) if counts(&reply) => drop(yes.insert(id)),
                Ok(reply) => answers.push(format!("node {id}: {}", reply.reason)),
                Err(status) => answers.push(format!("node {id}: {}", status.message())),
            }
        }
        Ok(())
    }

    fn ask(
        &self,
        standing: &Standing,
        target: NodeId,
        address: &str,
    ) -> impl Future<Output = Result<PreVoteReply, Status>> + Send + 'static {
        let (peering, route) = (self.peering.clone(), self.peering.route(target));
        let request = VoteRequest::new(Vote::new(standing.term + 1, peering.node), standing.last);
        let record = codec::seal(&VoteRequestRecord::from(&request));
        let mut client = self.channels.peer(address, LinkClass::Consensus);
        async move {
            let record = record.map_err(|e| Status::internal(e.to_string()))?.into();
            match client.pre_vote(RaftMessage { route: Some(route), record }).await {
                Ok(reply) => Ok(reply.into_inner()),
                // A node of an earlier version cannot be asked beforehand: it decides when the vote is asked for.
                Err(status) if status.code() == Code::Unimplemented => {
                    Ok(PreVoteReply { granted: true, reason: String::new() })
                }
                Err(status) => {
                    peering.refused(&status);
                    Err(status)
                }
            }
        }
    }

    /// Says whether this node would vote as it is asked to.
    ///
    /// # Errors
    /// When consensus has stopped.
    pub(super) async fn answer(&self, request: VoteRequestRecord) -> Result<PreVoteReply, Fatal<NodeId>> {
        let last = VoteRequest::from(request).last_log_id;
        let standing = self.standing().await?;
        Ok(match standing.would_vote(last, self.lease(), Instant::now()) {
            Ok(()) => PreVoteReply { granted: true, reason: String::new() },
            Err(refusal) => PreVoteReply { granted: false, reason: refusal.to_string() },
        })
    }

    async fn standing(&self) -> Result<Standing, Fatal<NodeId>> {
        let (last, quorum_age) = {
            let metrics = self.raft.data_metrics();
            let metrics = metrics.borrow();
            (metrics.last_log, metrics.millis_since_quorum_ack.map(Duration::from_millis))
        };
        let node = self.peering.node;
        let look = move |state: &openraft::RaftState<NodeId, raft_store::types::Member, openraft::TokioInstant>| {
            let membership = state.membership_state.effective();
            let others = membership.nodes().filter(|(id, _)| **id != node && membership.voter_ids().any(|v| v == **id));
            let role = match state.server_state {
                ServerState::Leader => Role::Leads,
                _ if membership.voter_ids().any(|voter| voter == node) => Role::Votes,
                _ => Role::Learns,
            };
            Standing {
                term: state.vote_ref().leader_id().term,
                role,
                has_leader: state.vote_ref().is_committed(),
                since: state.vote_last_modified().unwrap_or_else(Instant::now),
                quorum_age,
                last,
                voters: membership.membership().get_joint_config().clone(),
                others: others.map(|(id, member)| (*id, member.clone())).collect(),
            }
        };
        self.raft.with_raft_state(look).await
    }

    /// How long a leader that was heard is believed in.
    fn lease(&self) -> Duration {
        Duration::from_millis(self.raft.config().election_timeout_max)
    }

    fn heartbeat(&self) -> Duration {
        Duration::from_millis(self.raft.config().heartbeat_interval)
    }

    /// Below the difference of the two election timeouts.
    fn draw_jitter(&self) -> Duration {
        let config = self.raft.config();
        Duration::from_millis(self.random.below(config.election_timeout_max - config.election_timeout_min))
    }
}
