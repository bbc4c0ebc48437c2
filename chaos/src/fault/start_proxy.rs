//! A proxy starts while the archive fails it, with its disk or without. With a node in reach it is held up by nothing. Alone it
//! serves what its disk has, or nothing at all until the archive is back; then it serves what that has, and follows it.

use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{Running, proxies};
use crate::arena::Arena;
use crate::patience::until;
use crate::s3;
use crate::scenario::Sometimes;
use crate::wires::{End, Wire};

/// How the archive fails a proxy.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Hindrance {
    /// They do not reach each other, and nobody ends their connections.
    Cut,
    /// Whatever the proxy sends to it takes [`SLOW`] longer.
    Slow,
    /// It refuses every read, also those of nodes.
    Refused,
}

/// What a slow archive costs each request. Far below the deadline of one (2 s in an arena): it is slow, and answers.
const SLOW: Duration = Duration::from_millis(400);
/// How long a proxy may take to serve what nothing keeps from it: what its disk has, a node, or an archive that is slow.
const SERVES_MAX: Duration = Duration::from_secs(10);
/// How long after the heal it may take to serve what the archive has. The look that was under way has three attempts at a
/// request, of 2 s each in an arena; the next look comes within 750 ms.
const HEALED_MAX: Duration = Duration::from_secs(10);
/// How long it may take until the archive has brought it to where the nodes were when it came to serve.
const FOLLOWS_MAX: Duration = Duration::from_secs(10);
/// How long it may take until the archive has failed it once.
const MET_MAX: Duration = Duration::from_secs(10);

struct Started {
    number: u16,
    /// Nothing keeps it from serving before the heal.
    serves: bool,
    emptied: bool,
    alone: bool,
    archive: Hindrance,
}

/// The last proxy.
pub(super) async fn start(
    arena: &mut Arena,
    emptied: bool,
    alone: bool,
    archive: Hindrance,
) -> Result<Box<dyn Running>> {
    let number = arena.cluster.dps.last().context("no proxy")?.number;
    let serves = !emptied || !alone || archive == Hindrance::Slow;
    arena.down(number, true, emptied);
    let dp = arena.cluster.dp(number);
    dp.kill().await?;
    if emptied {
        std::fs::remove_dir_all(dp.data_dir())?;
    }
    let before = met(arena, archive).await?;
    hinder(arena, number, archive).await?;
    if alone {
        arena.wires.set(&to_nodes(arena, number), Wire { cut: true, ..Wire::default() }).await?;
    }
    let dp = arena.cluster.dp(number);
    dp.run()?;
    dp.answers().await?;
    let began = Instant::now();
    if serves && !alone {
        proxies::at_head(arena, number).await?;
    }
    if serves {
        arena.cluster.dp(number).ready().await?;
        ensure!(began.elapsed() <= SERVES_MAX, "it served after {:?}", began.elapsed());
        arena.down(number, false, emptied);
    }
    until("the archive fails the proxy", MET_MAX, async || {
        ensure!(met(arena, archive).await? > before, "it has not asked");
        Ok(())
    })
    .await?;
    arena.saw(if archive == Hindrance::Refused { Sometimes::S3Hit } else { Sometimes::WireUsed });
    Ok(Box::new(Started { number, serves, emptied, alone, archive }))
}

/// How much the archive's trouble has met so far.
async fn met(arena: &Arena, archive: Hindrance) -> Result<u64> {
    match archive {
        Hindrance::Cut | Hindrance::Slow => arena.wires.met().await,
        Hindrance::Refused => Ok(store(arena)?.hit()),
    }
}

fn store(arena: &Arena) -> Result<&s3::S3> {
    Ok(&arena.archive.as_ref().context("this arena has no archive")?.s3)
}

async fn hinder(arena: &Arena, number: u16, archive: Hindrance) -> Result<()> {
    let (there, back) = ((End::Proxy(number), End::Archive), (End::Archive, End::Proxy(number)));
    match archive {
        Hindrance::Cut => arena.wires.set(&[there, back], Wire { cut: true, ..Wire::default() }).await,
        Hindrance::Slow => arena.wires.set(&[there], Wire { delay: SLOW, ..Wire::default() }).await,
        Hindrance::Refused => {
            store(arena)?.set_for(Some(s3::Call::Get), Some(s3::Fault::Status(503)));
            Ok(())
        }
    }
}

/// The archive fails it no more; nodes are as far away as they were.
async fn relieve(arena: &Arena, number: u16, archive: Hindrance) -> Result<()> {
    if archive == Hindrance::Refused {
        store(arena)?.set(None);
        return Ok(());
    }
    let ways = [(End::Proxy(number), End::Archive), (End::Archive, End::Proxy(number))];
    arena.wires.set(&ways, Wire::default()).await
}

/// The wires between a proxy and every node, both ways.
fn to_nodes(arena: &Arena, number: u16) -> Vec<(End, End)> {
    let feeds = arena.cluster.cps.iter().map(|cp| (End::Proxy(number), End::Feed(cp.number)));
    feeds.flat_map(|(dp, feed)| [(dp, feed), (feed, dp)]).collect()
}

impl Running for Started {
    fn heal<'a>(&'a mut self, arena: &'a mut Arena) -> LocalBoxFuture<'a, Result<()>> {
        async move {
            let number = self.number;
            if !self.serves {
                self.serves_nothing(arena).await?;
            }
            relieve(arena, number, self.archive).await?;
            if self.emptied && self.alone {
                self.follows_the_archive(arena).await?;
            }
            arena.wires.heal().await?;
            proxies::at_head(arena, number).await
        }
        .boxed_local()
    }
}

impl Started {
    /// It has no configuration, says so, and takes no traffic.
    async fn serves_nothing(&self, arena: &mut Arena) -> Result<()> {
        let dp = arena.cluster.dp(self.number);
        let view = dp.view().await?;
        ensure!(view.revision == 0, "with nothing to go by it is at {}", view.revision);
        if let Ok(reply) = dp.client().get("/").await {
            bail!("with nothing to go by it answers {}", reply.status);
        }
        Ok(())
    }

    /// It comes to serve what the archive has, and goes on with it, while it reaches no node.
    async fn follows_the_archive(&self, arena: &mut Arena) -> Result<()> {
        let began = Instant::now();
        let dp = arena.cluster.dp(self.number);
        dp.ready().await?;
        ensure!(began.elapsed() <= HEALED_MAX, "it served {:?} after the archive was back", began.elapsed());
        if !self.serves {
            arena.down(self.number, false, true);
        }
        let leader = arena.cluster.leader().await?;
        let head = arena.cluster.cp(leader).api().status().await?.revision;
        let dp = arena.cluster.dp(self.number);
        until("the proxy follows the archive", FOLLOWS_MAX, async || {
            let view = dp.view().await?;
            ensure!(
                view.follows.is_none() && view.source == "archive",
                "it follows {:?} from {}",
                view.follows,
                view.source
            );
            ensure!(view.revision >= head, "it is at {} of {head}", view.revision);
            Ok(())
        })
        .await?;
        arena.saw(Sometimes::FromArchive);
        Ok(())
    }
}
