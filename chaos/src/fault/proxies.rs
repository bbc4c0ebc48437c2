//! Proxies that die and come back, with and without a control plane, and one that does not keep up. Killing a proxy fails
//! the requests under way, which is no fault of the control plane: the history has from when to when each one was down.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use super::Running;
use crate::arena::Arena;
use crate::patience::until;

struct Healed {
    cps: Vec<u16>,
    /// The proxy that stands still.
    paused: Option<u16>,
}

pub(super) async fn kill(arena: &mut Arena) -> Result<Box<dyn Running>> {
    restart(arena).await?;
    Ok(Box::new(Healed { cps: Vec::new(), paused: None }))
}

/// How long a proxy that serves may take to be where the nodes are.
const HEAD_MAX: Duration = Duration::from_secs(10);

/// Waits until a proxy that was started serves what the leader has now. One whose disk was taken from it, or spoiled, serves
/// older configurations before.
pub(super) async fn at_head(arena: &mut Arena, number: u16) -> Result<()> {
    arena.cluster.dp(number).ready().await?;
    let leader = arena.cluster.leader().await?;
    let head = arena.cluster.cp(leader).api().status().await?.revision;
    let dp = arena.cluster.dp(number);
    until("the proxy is where the nodes are", HEAD_MAX, async || {
        let seen = dp.view().await?.revision;
        ensure!(seen >= head, "it is at {seen} of {head}");
        Ok(())
    })
    .await?;
    ensure!(dp.process()?.runs(), "{} has ended:\n{}", dp.name(), dp.printed());
    Ok(())
}

/// They serve again from their own disks when this returns.
async fn restart(arena: &mut Arena) -> Result<()> {
    let numbers: Vec<u16> = arena.cluster.dps.iter().map(|dp| dp.number).collect();
    for number in numbers {
        arena.down(number, true, false);
        let dp = arena.cluster.dp(number);
        dp.kill().await?;
        dp.run()?;
        dp.ready().await?;
        arena.down(number, false, false);
    }
    Ok(())
}

pub(super) async fn nobody_left(arena: &mut Arena) -> Result<Box<dyn Running>> {
    let cps: Vec<u16> = arena.cluster.cps.iter().map(|cp| cp.number).collect();
    for number in &cps {
        arena.cluster.cp(*number).kill().await?;
    }
    restart(arena).await?;
    Ok(Box::new(Healed { cps, paused: None }))
}

pub(super) fn pause(arena: &mut Arena) -> Result<Box<dyn Running>> {
    let number = arena.cluster.dps.last().context("no proxy")?.number;
    arena.down(number, true, false);
    arena.cluster.dp(number).process()?.pause()?;
    Ok(Box::new(Healed { cps: Vec::new(), paused: Some(number) }))
}

impl Running for Healed {
    fn heal<'a>(&'a mut self, arena: &'a mut Arena) -> LocalBoxFuture<'a, Result<()>> {
        async move {
            if let Some(number) = self.paused {
                arena.cluster.dp(number).process()?.resume()?;
                arena.down(number, false, false);
            }
            arena.run_again(&self.cps).await
        }
        .boxed_local()
    }
}
