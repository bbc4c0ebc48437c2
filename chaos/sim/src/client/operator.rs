//! An operator who changes the membership while everything goes wrong: takes votes away and gives them back, and takes
//! nodes out, on whose machines new ones begin. In the end everybody votes.

use std::time::Duration;

use super::{Client, Phase, millis_of};
use crate::plan::Mutant;
use crate::random::millis;

impl Client {
    pub(super) async fn operate(self, pause_max: Duration) {
        loop {
            match self.all.phase.get() {
                Phase::Storm => {
                    let pause = millis(&mut self.rng.borrow_mut(), 100, millis_of(pause_max));
                    tokio::time::sleep(pause).await;
                    let id = self.somebody();
                    match self.draw(4) {
                        0 => self.change("POST", id, "/demote", "demotions").await,
                        1 => self.change("DELETE", id, "", "removals").await,
                        _ => self.restore_votes().await,
                    }
                }
                Phase::Last | Phase::Done => {
                    self.restore_votes().await;
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
                Phase::Wait => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    /// A node that runs, or the first one.
    fn somebody(&self) -> u64 {
        let world = self.all.shared.borrow();
        let at = usize::try_from(self.draw(self.all.plan.nodes)).expect("it is below a handful");
        world.nodes.values().nth(at).map_or(1, |inside| inside.node)
    }

    /// Gives back the votes that are lacking, as any node knows them.
    async fn restore_votes(&self) {
        if self.all.plan.mutant == Some(Mutant::VotesNotGivenBack) {
            return;
        }
        let lacking: Vec<u64> = {
            let world = self.all.shared.borrow();
            let Some(inside) = world.nodes.values().max_by_key(|inside| inside.applied.borrow().log_id) else { return };
            let metrics = inside.raft.metrics();
            let metrics = metrics.borrow();
            let membership = metrics.membership_config.membership();
            let votes = |id: &u64| membership.voter_ids().any(|voter| voter == *id);
            membership.nodes().map(|(id, _)| *id).filter(|id| !votes(id)).collect()
        };
        for id in lacking {
            self.change("POST", id, "/promote", "promotions").await;
        }
    }

    /// Whatever the answer is, or whether there is one: what came of it is in the log.
    async fn change(&self, method: &str, id: u64, verb: &str, what: &str) {
        let answer = self.send(method, &format!("/v1/cluster/members/{id}{verb}"), "", &[]).await;
        if answer.is_ok_and(|answer| answer.status < 300) {
            self.all.shared.borrow_mut().tally.count(what);
        }
    }
}
