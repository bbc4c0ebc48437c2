//! A node whose disk is lost for good: a new one takes its place, the old one is taken out, and whoever leads dies in the
//! middle of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use super::{Running, Whom};
use crate::arena::Arena;
use crate::luck::Luck;
use crate::patience::until;

/// How long a change of the membership may take, a dead leader included.
const CHANGE_MAX: Duration = Duration::from_secs(20);
/// How long one request for it is waited for.
const ANSWER_MAX: Duration = Duration::from_secs(12);

struct Lost {
    /// Whose disk is lost.
    number: u16,
    /// The id that is never used again.
    id: u64,
    leader: u16,
    /// How long after the new node's start the leader dies.
    dies_after: Duration,
}

pub(super) async fn start(arena: &mut Arena, luck: &mut Luck) -> Result<Box<dyn Running>> {
    let leader = arena.cluster.leader().await?;
    let number = *arena.chosen(Whom::Follower, luck).await?.first().context("a follower")?;
    let cp = arena.cluster.cp(number);
    let id = cp.api().status().await?.node_id;
    cp.kill().await?;
    cp.wipe()?;
    Ok(Box::new(Lost { number, id, leader, dies_after: Duration::from_millis(luck.between(50, 1500)) }))
}

impl Running for Lost {
    fn heal<'a>(&'a mut self, arena: &'a mut Arena) -> LocalBoxFuture<'a, Result<()>> {
        async move {
            let peers = peers(arena, self.number);
            let new = arena.cluster.cp(self.number);
            new.join(&peers);
            new.run()?;
            tokio::time::sleep(self.dies_after).await;
            arena.cluster.cp(self.leader).kill().await?;
            arena.run_again(&[self.leader]).await?;
            take_place(arena, self.number, self.id).await
        }
        .boxed_local()
    }
}

/// Where the others are that take node `number` in.
pub(super) fn peers(arena: &Arena, number: u16) -> Vec<String> {
    let others = arena.cluster.cps.iter().filter(|cp| cp.number != number);
    others.map(|cp| cp.addresses.peer.clone()).collect()
}

/// Waits until node `number`, which was started with an empty disk, votes in the place of the one with this id, and nobody
/// else belongs to the cluster than those that run.
pub(super) async fn take_place(arena: &mut Arena, number: u16, id: u64) -> Result<()> {
    arena.cluster.cp(number).ready().await?;
    let voters = arena.cluster.cps.len();
    let other = arena.cluster.cps.iter().find(|cp| cp.number != number).context("another node")?;
    let mut api = other.api().patient(ANSWER_MAX);
    let path = format!("/v1/cluster/members/{id}");
    until("the old node is taken out", CHANGE_MAX, async || {
        api.call("DELETE", &path, &[], String::new()).await?.expect(&[204, 404])
    })
    .await?;
    until("the new node votes in its place", CHANGE_MAX, async || {
        let members = api.members().await?;
        let votes = members.iter().filter(|member| member.voter && member.node_id != id).count();
        ensure!(votes == voters && members.len() == votes, "{members:?}");
        Ok(())
    })
    .await
}
