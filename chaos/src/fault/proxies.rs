//! Proxies that die and come back, with and without a control plane, and one that does not keep up. Killing a proxy fails
//! the requests under way, which is no fault of the control plane: the history has from when to when each one was down.

use anyhow::{Context, Result};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use super::Running;
use crate::arena::Arena;

struct Healed {
    cps: Vec<u16>,
    /// The proxy that stands still.
    paused: Option<u16>,
}

pub(super) async fn kill(arena: &mut Arena) -> Result<Box<dyn Running>> {
    restart(arena).await?;
    Ok(Box::new(Healed { cps: Vec::new(), paused: None }))
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
