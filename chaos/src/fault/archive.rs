//! The object store fails, by call: it refuses, is silent, or tears what is sent to it.

use anyhow::{Context, Result};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use super::Running;
use crate::arena::Arena;
use crate::s3;

struct Failing;

pub(super) fn start(arena: &Arena, call: Option<s3::Call>, fault: s3::Fault) -> Result<Box<dyn Running>> {
    arena.archive.as_ref().context("this arena has no archive")?.s3.set_for(call, Some(fault));
    Ok(Box::new(Failing))
}

impl Running for Failing {
    fn heal<'a>(&'a mut self, arena: &'a mut Arena) -> LocalBoxFuture<'a, Result<()>> {
        async move {
            arena.archive.as_ref().context("this arena has no archive")?.s3.set(None);
            Ok(())
        }
        .boxed_local()
    }
}
