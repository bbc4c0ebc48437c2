//! SIGKILL, and a start at the end.

use anyhow::Result;
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use super::{Running, Whom};
use crate::arena::Arena;
use crate::luck::Luck;

struct Killed(Vec<u16>);

pub(super) async fn start(arena: &mut Arena, whom: Whom, luck: &mut Luck) -> Result<Box<dyn Running>> {
    let numbers = arena.chosen(whom, luck).await?;
    for number in &numbers {
        arena.cluster.cp(*number).kill().await?;
    }
    Ok(Box::new(Killed(numbers)))
}

impl Running for Killed {
    fn heal<'a>(&'a mut self, arena: &'a mut Arena) -> LocalBoxFuture<'a, Result<()>> {
        async move { arena.run_again(&self.0).await }.boxed_local()
    }
}
