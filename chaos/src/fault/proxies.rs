//! Proxies that die and come back, with and without a control plane, and one that does not keep up. Killing a proxy fails
//! the requests under way, which is no fault of the control plane: scenarios with these say that the probe may see it.

use anyhow::{Context, Result};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use super::Running;
use crate::arena::Arena;

struct Healed {
    cps: Vec<u16>,
    paused: bool,
}

pub(super) async fn kill(arena: &mut Arena) -> Result<Box<dyn Running>> {
    restart(arena).await?;
    Ok(Box::new(Healed { cps: Vec::new(), paused: false }))
}

/// They serve again from their own disks when this returns.
async fn restart(arena: &mut Arena) -> Result<()> {
    for dp in &mut arena.cluster.dps {
        dp.kill().await?;
        dp.run()?;
        dp.ready().await?;
    }
    Ok(())
}

pub(super) async fn nobody_left(arena: &mut Arena) -> Result<Box<dyn Running>> {
    let cps: Vec<u16> = arena.cluster.cps.iter().map(|cp| cp.number).collect();
    for number in &cps {
        arena.cluster.cp(*number).kill().await?;
    }
    restart(arena).await?;
    Ok(Box::new(Healed { cps, paused: false }))
}

pub(super) fn pause(arena: &mut Arena) -> Result<Box<dyn Running>> {
    arena.cluster.dps.last_mut().context("no proxy")?.process()?.pause()?;
    Ok(Box::new(Healed { cps: Vec::new(), paused: true }))
}

impl Running for Healed {
    fn heal<'a>(&'a mut self, arena: &'a mut Arena) -> LocalBoxFuture<'a, Result<()>> {
        async move {
            if self.paused {
                arena.cluster.dps.last_mut().context("no proxy")?.process()?.resume()?;
            }
            arena.run_again(&self.cps).await
        }
        .boxed_local()
    }
}
