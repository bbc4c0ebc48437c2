//! Wall clocks that jump, and that run too fast or too slowly. Nothing but what is shown to people goes by them.

use std::time::{Duration, SystemTime};

use anyhow::{Context, Result, ensure};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use serde_json::json;

use super::{Running, Whom};
use crate::arena::Arena;
use crate::luck::Luck;
use crate::patience::until;
use crate::scenario::Sometimes;

/// How long such a write may take.
const SHOW_MAX: Duration = Duration::from_secs(5);
/// How far a time may be from what it should be.
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

/// Has a node take a write, whose time is its own: it must be so many seconds off.
async fn shows(arena: &mut Arena, number: u16, seconds: i64) -> Result<()> {
    let mut api = arena.cluster.cp(number).api();
    let mut attempt = 0;
    until("a write has the time of the node that took it", SHOW_MAX, async || {
        // What is there already would not be written again.
        attempt += 1;
        let desc = format!("{seconds} s off on {number}, attempt {attempt}");
        let body = json!({"desc": desc, "nodes": {"127.0.0.1:1": 1}, "type": "roundrobin"});
        let reply = api.put("upstreams", "clock", &body).await?.json()?;
        let theirs = reply["value"]["update_time"].as_i64().with_context(|| format!("no time in {reply}"))?;
        let now = i64::try_from(SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs())?;
        ensure!((theirs - now - seconds).abs() <= CLOSE_SECONDS, "it is {} s off, not {seconds}", theirs - now);
        Ok(())
    })
    .await
}

impl Running for Off {
    /// They are right again at once: a jump back, or forth.
    fn heal<'a>(&'a mut self, arena: &'a mut Arena) -> LocalBoxFuture<'a, Result<()>> {
        async move { self.0.iter().try_for_each(|number| arena.clocks[usize::from(*number) - 1].set(0, 0)) }
            .boxed_local()
    }
}
