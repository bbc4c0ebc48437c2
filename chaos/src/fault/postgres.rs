//! The record's PostgreSQL dies, or answers nothing.

use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use super::Running;
use crate::arena::Arena;
use crate::scenario::OfTheHarness;

enum Gone {
    Killed,
    Frozen,
    Replaced,
}

pub(super) async fn kill(arena: &mut Arena) -> Result<Box<dyn Running>> {
    arena.postgres.as_mut().context("this arena has no PostgreSQL")?.kill().await.context(OfTheHarness)?;
    Ok(Box::new(Gone::Killed))
}

pub(super) fn freeze(arena: &Arena) -> Result<Box<dyn Running>> {
    arena.postgres.as_ref().context("this arena has no PostgreSQL")?.freeze().context(OfTheHarness)?;
    Ok(Box::new(Gone::Frozen))
}

/// How long a standby is away while the primary confirms what it will lack.
const TAIL: Duration = Duration::from_millis(800);

/// How long nobody serves the record: whoever promotes a standby waits a while to be sure.
const NOBODY: Duration = Duration::from_millis(1500);

/// The record's servers swap their places: the new primary has what it had a while ago.
pub(super) async fn fail_over(arena: &mut Arena) -> Result<Box<dyn Running>> {
    let primary = arena.postgres.as_mut().context("this arena has no PostgreSQL")?;
    let standby = arena.standby.as_mut().context("this arena has no standby")?;
    standby.kill().await.context(OfTheHarness)?;
    tokio::time::sleep(TAIL).await;
    primary.kill().await.context(OfTheHarness)?;
    tokio::time::sleep(NOBODY).await;
    standby.start().await.context(OfTheHarness)?;
    standby.promote().await.context(OfTheHarness)?;
    std::mem::swap(primary, standby);
    Ok(Box::new(Gone::Replaced))
}

impl Running for Gone {
    fn heal<'a>(&'a mut self, arena: &'a mut Arena) -> LocalBoxFuture<'a, Result<()>> {
        async move {
            let postgres = arena.postgres.as_mut().context("this arena has no PostgreSQL")?;
            match self {
                Self::Killed => postgres.start().await.context(OfTheHarness),
                Self::Frozen => postgres.thaw().context(OfTheHarness),
                Self::Replaced => Ok(()),
            }
        }
        .boxed_local()
    }
}
