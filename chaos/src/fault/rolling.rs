//! Every node in turn is asked to stop and started again, as an upgrade does it.

use anyhow::Result;
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use super::Running;
use super::stop::STOP_MAX;
use crate::arena::Arena;

struct Done;

pub(super) async fn start(arena: &mut Arena) -> Result<Box<dyn Running>> {
    for number in 1..=u16::try_from(arena.cluster.cps.len())? {
        arena.cluster.cp(number).terminate(STOP_MAX).await?;
        arena.run_again(&[number]).await?;
        arena.cluster.leader().await?;
    }
    Ok(Box::new(Done))
}

impl Running for Done {
    fn heal<'a>(&'a mut self, _arena: &'a mut Arena) -> LocalBoxFuture<'a, Result<()>> {
        async { Ok(()) }.boxed_local()
    }
}
