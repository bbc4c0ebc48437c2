//! A node's link is lost: what it sends and what is sent to it goes nowhere, and no end of a connection is told. When it comes
//! back, kernels resend what was not acknowledged, each in its own time.

use anyhow::Result;
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use super::{Running, Whom};
use crate::arena::Arena;
use crate::luck::Luck;
use crate::wires::End;

struct Lost {
    numbers: Vec<u16>,
    /// Whether their processes are gone too.
    are_dead: bool,
}

pub(super) async fn start(arena: &mut Arena, whom: Whom, dies: bool, luck: &mut Luck) -> Result<Box<dyn Running>> {
    let numbers = arena.chosen(whom, luck).await?;
    for number in &numbers {
        arena.wires.link(End::Node(*number), false).await?;
        if dies {
            // Its kernel tells every other end, and no word of it arrives.
            arena.cluster.cp(*number).kill().await?;
        }
    }
    Ok(Box::new(Lost { numbers, are_dead: dies }))
}

impl Running for Lost {
    fn heal<'a>(&'a mut self, arena: &'a mut Arena) -> LocalBoxFuture<'a, Result<()>> {
        async move {
            for number in &self.numbers {
                arena.wires.link(End::Node(*number), true).await?;
            }
            if self.are_dead {
                arena.run_again(&self.numbers).await?;
            }
            Ok(())
        }
        .boxed_local()
    }
}
