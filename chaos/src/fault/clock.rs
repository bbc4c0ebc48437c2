//! Wall clocks that jump, and that run too fast or too slowly. Nothing but what is shown to people goes by them.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use super::{Running, Whom};
use crate::arena::Arena;
use crate::luck::Luck;
use crate::patience::until;
use crate::scenario::Sometimes;

/// How long it may take until answers bear the new time: a server makes their date once a second.
const SHOW_MAX: Duration = Duration::from_secs(3);
/// How far a date may be from what it should be.
const CLOSE_SECONDS: i64 = 3;

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
    // A rate shows only with time: a jump is what can be seen.
    if seconds != 0 {
        for number in &numbers {
            shows(arena, *number, seconds).await?;
        }
        arena.saw(Sometimes::ClockOff);
    }
    Ok(Box::new(Off(numbers)))
}

/// Waits until a node's answers are so many seconds off, as its header `Date` says.
async fn shows(arena: &mut Arena, number: u16, seconds: i64) -> Result<()> {
    let mut api = arena.cluster.cp(number).api();
    until("its answers bear the time of its clock", SHOW_MAX, async || {
        let reply = api.call("GET", "/v1/status", &[], String::new()).await?;
        let date = httpdate::parse_http_date(reply.header("date").context("an answer has a date")?)?;
        let (theirs, ours) = (since_1970(date)?, since_1970(SystemTime::now())?);
        ensure!((theirs - ours - seconds).abs() <= CLOSE_SECONDS, "it is {} s off, not {seconds}", theirs - ours);
        Ok(())
    })
    .await
}

fn since_1970(time: SystemTime) -> Result<i64> {
    Ok(i64::try_from(time.duration_since(SystemTime::UNIX_EPOCH)?.as_secs())?)
}

impl Running for Off {
    /// They are right again at once: a jump back, or forth.
    fn heal<'a>(&'a mut self, arena: &'a mut Arena) -> LocalBoxFuture<'a, Result<()>> {
        async move { self.0.iter().try_for_each(|number| arena.clocks[usize::from(*number) - 1].set(0, 0)) }
            .boxed_local()
    }
}
