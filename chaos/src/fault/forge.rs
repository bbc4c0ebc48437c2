//! Somebody who may write to the archive, and has no key that counts, puts a newer configuration into it.

use anyhow::{Context, Result};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use super::Running;
use crate::archive::Forger;
use crate::arena::Arena;
use crate::luck::Luck;

struct Forged;

pub(super) async fn start(arena: &Arena, luck: &mut Luck) -> Result<Box<dyn Running>> {
    let archive = arena.archive.as_ref().context("this arena has no archive")?;
    let forger = if luck.below(2) == 0 { Forger::SignsNothing } else { Forger::HasAnotherKey };
    archive.forge(forger).await?;
    Ok(Box::new(Forged))
}

impl Running for Forged {
    /// What was forged stays where it is.
    fn heal<'a>(&'a mut self, _arena: &'a mut Arena) -> LocalBoxFuture<'a, Result<()>> {
        async { Ok(()) }.boxed_local()
    }
}
