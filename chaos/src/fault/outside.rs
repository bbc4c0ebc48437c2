//! The wires between nodes and what they write to, the record or the archive, are cut in one direction or in both. Nobody ends
//! their connections: whoever waits for the other end to say so waits for ever.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use super::{Outside, Running, Way, Whom};
use crate::arena::Arena;
use crate::luck::Luck;
use crate::patience::until;
use crate::scenario::Sometimes;
use crate::wires::{End, Wire};

/// How long after the heal the record may take to have what the cluster had then. A writer pauses for 5 s at most between two
/// attempts, and gives up one that is silent after a statement's deadline (2 s in an arena).
const RECORD_BACK_MAX: Duration = Duration::from_secs(20);
/// The same of the archive. Three attempts at a request, of 2 s each, precede the archiver's pause of 2 s.
const ARCHIVE_BACK_MAX: Duration = Duration::from_secs(20);

struct Cut {
    from: Outside,
    /// What wires had met before.
    met: u64,
}

pub(super) async fn start(
    arena: &mut Arena,
    whom: Whom,
    from: Outside,
    way: Way,
    luck: &mut Luck,
) -> Result<Box<dyn Running>> {
    let ends: Vec<End> = match from {
        Outside::Record => {
            let servers = arena.postgres.iter().chain(&arena.standby).count();
            (1..).map(End::Record).take(servers).collect()
        }
        Outside::Archive => arena.archive.iter().map(|_| End::Archive).collect(),
    };
    ensure!(!ends.is_empty(), "this arena has no {from:?}");
    let (chosen, met) = (arena.chosen(whom, luck).await?, arena.wires.met().await?);
    let mut ways = Vec::new();
    for node in chosen.into_iter().map(End::Node) {
        for end in &ends {
            if way != Way::Back {
                ways.push((node, *end));
            }
            if way != Way::There {
                ways.push((*end, node));
            }
        }
    }
    arena.wires.set(&ways, Wire { cut: true, ..Wire::default() }).await?;
    Ok(Box::new(Cut { from, met }))
}

impl Running for Cut {
    fn heal<'a>(&'a mut self, arena: &'a mut Arena) -> LocalBoxFuture<'a, Result<()>> {
        async move {
            if arena.wires.met().await? > self.met {
                arena.saw(Sometimes::WireUsed);
            }
            arena.wires.heal().await?;
            match self.from {
                Outside::Record => record_follows(arena).await,
                Outside::Archive => archive_follows(arena).await,
            }
        }
        .boxed_local()
    }
}

/// Waits until the record has what the cluster has now; not while another fault has its server down.
async fn record_follows(arena: &mut Arena) -> Result<()> {
    let Some(postgres) = arena.postgres.as_ref().filter(|postgres| postgres.is_running()) else { return Ok(()) };
    let head = head(arena).await?;
    until("the record follows after the heal", RECORD_BACK_MAX, async || {
        let at: u64 = postgres.sql("SELECT revision FROM holdfast.cursor").await?.parse()?;
        ensure!(at >= head, "it is at {at}, the cluster was at {head}");
        Ok(())
    })
    .await
}

async fn archive_follows(arena: &Arena) -> Result<()> {
    let head = head(arena).await?;
    until("the archive follows after the heal", ARCHIVE_BACK_MAX, async || {
        let leader = arena.cluster.leader().await?;
        let mut api = arena.cluster.cps[usize::from(leader) - 1].api();
        let status = api.call("GET", "/v1/status", &[], String::new()).await?.expect(&[200])?.json()?;
        let position = status["archive"]["position"].as_str().unwrap_or_default();
        let at: u64 = position.rsplit('-').next().unwrap_or_default().parse().context("it has no position")?;
        ensure!(at >= head, "it is at {at}, the cluster was at {head}: {}", status["archive"]);
        Ok(())
    })
    .await
}

/// The revision of whoever leads.
async fn head(arena: &Arena) -> Result<u64> {
    let leader = arena.cluster.leader().await?;
    Ok(arena.cluster.cps[usize::from(leader) - 1].api().status().await?.revision)
}
