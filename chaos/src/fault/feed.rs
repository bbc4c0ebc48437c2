//! The wire between a proxy and the node that it follows is cut, in one direction or in both: nobody ends the connection, and a
//! proxy that waits for its node to say so waits for ever.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use tokio::time::Instant;

use super::Running;
use crate::arena::Arena;
use crate::patience::until;
use crate::scenario::Sometimes;
use crate::wires::{End, Wire};

/// How long a proxy may take to follow another node.
const MOVE_MAX: Duration = Duration::from_secs(10);
/// How long it may take to follow one at first.
const FOLLOW_MAX: Duration = Duration::from_secs(10);

struct Cut {
    dp: u16,
    /// The id of the node that it followed.
    followed: u64,
    since: Instant,
    /// What wires had met before.
    met: u64,
}

/// The id of the node that the last proxy follows.
pub(super) async fn followed(arena: &Arena) -> Result<u64> {
    let follows =
        async || arena.cluster.dps.last().context("no proxy")?.view().await?.follows.context("it follows none");
    until("the proxy follows a node", FOLLOW_MAX, follows).await
}

/// The last proxy; where it is `one_way`, its node still hears it.
pub(super) async fn start(arena: &mut Arena, one_way: bool) -> Result<Box<dyn Running>> {
    let dp = arena.cluster.dps.last().context("no proxy")?.number;
    let followed = followed(arena).await?;
    let node = arena.cluster.number_of(followed).await?;
    let met = arena.wires.met().await?;
    let both = [(End::Feed(node), End::Proxy(dp)), (End::Proxy(dp), End::Feed(node))];
    let ways = if one_way { &both[..1] } else { &both };
    arena.wires.set(ways, Wire { cut: true, ..Wire::default() }).await?;
    Ok(Box::new(Cut { dp, followed, since: Instant::now(), met }))
}

impl Running for Cut {
    fn heal<'a>(&'a mut self, arena: &'a mut Arena) -> LocalBoxFuture<'a, Result<()>> {
        async move {
            let dp = arena.cluster.dp(self.dp);
            until("the proxy follows another node", MOVE_MAX.saturating_sub(self.since.elapsed()), async || {
                let follows = dp.view().await?.follows;
                ensure!(follows.is_some_and(|node| node != self.followed), "it follows {follows:?}");
                Ok(())
            })
            .await?;
            if arena.wires.met().await? > self.met {
                arena.saw(Sometimes::WireUsed);
            }
            arena.wires.heal().await
        }
        .boxed_local()
    }
}
