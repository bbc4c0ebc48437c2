//! The record's PostgreSQL dies, or answers nothing.

use anyhow::{Context, Result};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use super::Running;
use crate::arena::Arena;

enum Gone {
    Killed,
    Frozen,
}

pub(super) async fn kill(arena: &mut Arena) -> Result<Box<dyn Running>> {
    arena.postgres.as_mut().context("this arena has no PostgreSQL")?.kill().await?;
    Ok(Box::new(Gone::Killed))
}

pub(super) fn freeze(arena: &Arena) -> Result<Box<dyn Running>> {
    arena.postgres.as_ref().context("this arena has no PostgreSQL")?.freeze()?;
    Ok(Box::new(Gone::Frozen))
}

impl Running for Gone {
    fn heal<'a>(&'a mut self, arena: &'a mut Arena) -> LocalBoxFuture<'a, Result<()>> {
        async move {
            let postgres = arena.postgres.as_mut().context("this arena has no PostgreSQL")?;
            match self {
                Self::Killed => postgres.start().await,
                Self::Frozen => postgres.thaw(),
            }
        }
        .boxed_local()
    }
}
