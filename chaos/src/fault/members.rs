//! A follower loses its vote while the leader dies, and gets it back.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use super::{Running, Whom};
use crate::arena::Arena;
use crate::cluster::Api;
use crate::luck::Luck;
use crate::patience::until;

/// How long a change of the membership may take, a dead leader included.
const CHANGE_MAX: Duration = Duration::from_secs(20);
/// How long one request for it is waited for.
const ANSWER_MAX: Duration = Duration::from_secs(12);

struct Changing {
    /// The id of the node whose vote is taken.
    id: u64,
    leader: u16,
}

pub(super) async fn start(arena: &mut Arena, luck: &mut Luck) -> Result<Box<dyn Running>> {
    let leader = arena.cluster.leader().await?;
    let number = *arena.chosen(Whom::Follower, luck).await?.first().context("a follower")?;
    let id = arena.cluster.cp(number).api().status().await?.node_id;
    let mut api = arena.cluster.cp(leader).api().patient(ANSWER_MAX);
    let asked = tokio::spawn(async move {
        let path = format!("/v1/cluster/members/{id}/demote");
        // The leader dies over it: whatever is heard of it, a later one finishes it or it was never begun.
        let _ = api.call("POST", &path, &[], String::new()).await;
    });
    tokio::time::sleep(Duration::from_millis(luck.between(1, 60))).await;
    arena.cluster.cp(leader).kill().await?;
    asked.await?;
    Ok(Box::new(Changing { id, leader }))
}

impl Running for Changing {
    fn heal<'a>(&'a mut self, arena: &'a mut Arena) -> LocalBoxFuture<'a, Result<()>> {
        async move {
            arena.run_again(&[self.leader]).await?;
            promote(arena, self.id).await
        }
        .boxed_local()
    }
}

/// Gives a node its vote back, and waits until all have one.
pub(super) async fn promote(arena: &Arena, id: u64) -> Result<()> {
    let mut api = patient(arena)?;
    let path = format!("/v1/cluster/members/{id}/promote");
    until("it votes again, as all do", CHANGE_MAX, async || {
        api.call("POST", &path, &[], String::new()).await?.expect(&[204])?;
        let members = api.members().await?;
        ensure!(members.iter().all(|member| member.voter), "{members:?}");
        Ok(())
    })
    .await
}

/// Takes a node's vote from it, and waits until it has none.
pub(super) async fn demote(arena: &Arena, id: u64) -> Result<()> {
    let mut api = patient(arena)?;
    let path = format!("/v1/cluster/members/{id}/demote");
    until("it has no vote any more", CHANGE_MAX, async || {
        let members = api.members().await?;
        if members.iter().any(|member| member.node_id == id && member.voter) {
            api.call("POST", &path, &[], String::new()).await?.expect(&[204])?;
        }
        Ok(())
    })
    .await
}

fn patient(arena: &Arena) -> Result<Api> {
    Ok(arena.cluster.cps.first().context("a node")?.api().patient(ANSWER_MAX))
}
