//! SIGSTOP: a node that says nothing, keeps its connections, and does not know that time passes.

use anyhow::Result;
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use super::{Running, Whom};
use crate::arena::Arena;
use crate::luck::Luck;

struct Paused(Vec<u16>);

pub(super) async fn start(arena: &mut Arena, whom: Whom, luck: &mut Luck) -> Result<Box<dyn Running>> {
    let numbers = arena.chosen(whom, luck).await?;
    for number in &numbers {
        arena.cluster.cp(*number).process()?.pause()?;
    }
    Ok(Box::new(Paused(numbers)))
}

impl Running for Paused {
    fn heal<'a>(&'a mut self, arena: &'a mut Arena) -> LocalBoxFuture<'a, Result<()>> {
        async move {
            for number in &self.0 {
                arena.cluster.cp(*number).process()?.resume()?;
            }
            Ok(())
        }
        .boxed_local()
    }
}
