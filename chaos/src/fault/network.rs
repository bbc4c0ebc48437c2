//! Wires between nodes that are cut one way, both ways, in part; slow ones and lossy ones.

use std::time::Duration;

use anyhow::{Context, Result};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use super::{Fault, Running, Whom, feed};
use crate::arena::Arena;
use crate::luck::Luck;
use crate::scenario::Sometimes;
use crate::wires::{End, Wire};

/// How far a node falls behind before proxies look for another one.
const BEHIND: Duration = Duration::from_millis(1500);

/// With what wires had met before.
struct Cut(u64);

pub(super) async fn start(arena: &mut Arena, fault: Fault, luck: &mut Luck) -> Result<Box<dyn Running>> {
    let cut = Wire { cut: true, ..Wire::default() };
    let all: Vec<u16> = arena.cluster.cps.iter().map(|cp| cp.number).collect();
    let (whom, wire) = match fault {
        Fault::Isolate { whom } | Fault::Deaf { whom } | Fault::Mute { whom } => (whom, cut),
        Fault::Delay { ms } => (Whom::All, Wire { delay: Duration::from_millis(ms), ..Wire::default() }),
        Fault::Loss { of_100 } => (Whom::All, Wire { lost_of_100: of_100, ..Wire::default() }),
        _ => (Whom::Leader, cut),
    };
    let (chosen, met) = (arena.chosen(whom, luck).await?, arena.wires.met().await?);
    let mut ways = Vec::new();
    for one in &chosen {
        for other in all.iter().filter(|other| *other != one) {
            if !matches!(fault, Fault::Deaf { .. }) {
                ways.push((End::Node(*one), End::Node(*other)));
            }
            if !matches!(fault, Fault::Mute { .. }) {
                ways.push((End::Node(*other), End::Node(*one)));
            }
            if fault == Fault::Partial {
                break;
            }
        }
    }
    arena.wires.set(&ways, wire).await?;
    Ok(Box::new(Cut(met)))
}

impl Running for Cut {
    fn heal<'a>(&'a mut self, arena: &'a mut Arena) -> LocalBoxFuture<'a, Result<()>> {
        async move {
            if arena.wires.met().await? > self.0 {
                arena.saw(Sometimes::WireUsed);
            }
            arena.wires.heal().await
        }
        .boxed_local()
    }
}

struct Lagging(Vec<u16>);

/// A follower falls behind; then every other node dies that proxies may follow, so that it is the first that they find.
/// Not the node that the last proxy follows: a proxy that stays with it is never ahead of it.
pub(super) async fn lagging(arena: &mut Arena, luck: &mut Luck) -> Result<Box<dyn Running>> {
    let followed = arena.cluster.number_of(feed::followed(arena).await?).await?;
    let first = *arena.chosen(Whom::Follower, luck).await?.first().context("a follower")?;
    let leader = arena.cluster.leader().await?;
    let others = arena.cluster.cps.iter().map(|cp| cp.number).filter(|number| *number != leader && *number != followed);
    let behind = if first == followed { others.last().context("another follower")? } else { first };
    let others: Vec<u16> = arena.cluster.cps.iter().map(|cp| cp.number).filter(|number| *number != behind).collect();
    let ways: Vec<_> = others.iter().map(|other| (End::Node(*other), End::Node(behind))).collect();
    arena.wires.set(&ways, Wire { cut: true, ..Wire::default() }).await?;
    tokio::time::sleep(BEHIND).await;
    for other in &others {
        arena.cluster.cp(*other).kill().await?;
    }
    Ok(Box::new(Lagging(others)))
}

impl Running for Lagging {
    fn heal<'a>(&'a mut self, arena: &'a mut Arena) -> LocalBoxFuture<'a, Result<()>> {
        async move {
            arena.wires.heal().await?;
            arena.run_again(&self.0).await
        }
        .boxed_local()
    }
}
