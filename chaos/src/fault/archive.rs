//! The object store fails, by call: it refuses, is silent, or tears what is sent to it.

use anyhow::{Context, Result};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use super::Running;
use crate::arena::Arena;
use crate::s3;
use crate::scenario::Sometimes;

/// With how many requests faults had met before.
struct Failing(u64);

pub(super) fn start(arena: &Arena, call: Option<s3::Call>, fault: s3::Fault) -> Result<Box<dyn Running>> {
    let s3 = &arena.archive.as_ref().context("this arena has no archive")?.s3;
    s3.set_for(call, Some(fault));
    Ok(Box::new(Failing(s3.hit())))
}

impl Running for Failing {
    fn heal<'a>(&'a mut self, arena: &'a mut Arena) -> LocalBoxFuture<'a, Result<()>> {
        async move {
            let s3 = &arena.archive.as_ref().context("this arena has no archive")?.s3;
            s3.set(None);
            if s3.hit() > self.0 {
                arena.saw(Sometimes::S3Hit);
            }
            Ok(())
        }
        .boxed_local()
    }
}
