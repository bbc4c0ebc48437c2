//! SIGTERM: a node is asked to stop, hands over what it leads, ends in order, and is started at the end.

use std::time::Duration;

use anyhow::Result;
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use super::{Running, Whom};
use crate::arena::Arena;
use crate::luck::Luck;

/// How long a node may take to stop.
pub(super) const STOP_MAX: Duration = Duration::from_secs(20);

struct Stopped(Vec<u16>);

pub(super) async fn start(arena: &mut Arena, whom: Whom, luck: &mut Luck) -> Result<Box<dyn Running>> {
    let numbers = arena.chosen(whom, luck).await?;
    for number in &numbers {
        arena.cluster.cp(*number).terminate(STOP_MAX).await?;
    }
    Ok(Box::new(Stopped(numbers)))
}

impl Running for Stopped {
    fn heal<'a>(&'a mut self, arena: &'a mut Arena) -> LocalBoxFuture<'a, Result<()>> {
        async move { arena.run_again(&self.0).await }.boxed_local()
    }
}
