//! Wall clocks that jump, and that run too fast or too slowly. Nothing but what is shown to people goes by them.

use anyhow::{Context, Result, ensure};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use super::{Running, Whom};
use crate::arena::Arena;
use crate::luck::Luck;

struct Off(Vec<u16>);

pub(super) async fn set(
    arena: &mut Arena,
    whom: Whom,
    (seconds, rate_ppm): (i64, i64),
    luck: &mut Luck,
) -> Result<Box<dyn Running>> {
    ensure!(!arena.clocks.is_empty(), "this arena's clocks cannot be set");
    let numbers = arena.chosen(whom, luck).await?;
    for number in &numbers {
        arena.clocks.get(usize::from(*number) - 1).context("a clock")?.set(seconds, rate_ppm)?;
    }
    Ok(Box::new(Off(numbers)))
}

impl Running for Off {
    /// They are right again at once: a jump back, or forth.
    fn heal<'a>(&'a mut self, arena: &'a mut Arena) -> LocalBoxFuture<'a, Result<()>> {
        async move { self.0.iter().try_for_each(|number| arena.clocks[usize::from(*number) - 1].set(0, 0)) }
            .boxed_local()
    }
}
