//! Disks that are thrown away, that are slow, that are full, and whose sync fails. All but the first by `strace`, which is
//! attached to a running node: nothing in the product knows of it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use super::{Running, Whom};
use crate::arena::Arena;
use crate::luck::Luck;
use crate::patience::until;
use crate::scenario::{OfTheHarness, Sometimes};

/// How long a node may take to notice, and to end.
const END_MAX: Duration = Duration::from_secs(20);

struct Wiped {
    number: u16,
    kept: std::path::PathBuf,
    /// The id under which it belongs to the cluster since.
    new_id: u64,
    /// Where it was when it lost its disk.
    revision: u64,
}

/// How long a node may take to come to where the others are, and to vote there.
const CATCH_UP_MAX: Duration = Duration::from_secs(10);
/// How long a change of the membership is waited for.
const CHANGE_MAX: Duration = Duration::from_secs(12);

/// A node that lost its disk must not come back as itself: under its old id it would be a second voter that forgot its votes.
/// It comes to belong to the cluster under another one, and votes there when it has been sent everything. Its disk is found again
/// at the end.
pub(super) async fn wipe(arena: &mut Arena, luck: &mut Luck) -> Result<Box<dyn Running>> {
    let number = *arena.chosen(Whom::Follower, luck).await?.first().context("a follower")?;
    let cp = arena.cluster.cp(number);
    let before = cp.api().status().await?;
    cp.kill().await?;
    let kept = cp.data_dir().with_extension("kept");
    std::fs::rename(cp.data_dir(), &kept)?;
    cp.run()?;
    let mut api = cp.api();
    let new_id =
        until("it belongs to the cluster again", CATCH_UP_MAX, async || Ok(api.status().await?.node_id)).await?;
    ensure!(new_id != before.node_id, "{} lost its disk and came back under its old id", cp.name());
    until("it votes under its new id", CATCH_UP_MAX, async || {
        let members = api.members().await?;
        ensure!(members.iter().any(|member| member.node_id == new_id && member.voter), "{members:?}");
        Ok(())
    })
    .await?;
    // It had nothing. Whatever the others sent it, a log or a snapshot, it had before it voted.
    let now = api.status().await?.revision;
    ensure!(now >= before.revision, "it votes at {now}, and was at {} before it lost its disk", before.revision);
    arena.saw(Sometimes::NewId);
    Ok(Box::new(Wiped { number, kept, new_id, revision: before.revision }))
}

impl Running for Wiped {
    fn heal<'a>(&'a mut self, arena: &'a mut Arena) -> LocalBoxFuture<'a, Result<()>> {
        async move {
            arena.cluster.cp(self.number).kill().await?;
            let leader = arena.cluster.leader().await?;
            let head = arena.cluster.cp(leader).api().status().await?.revision;
            let cp = arena.cluster.cp(self.number);
            cp.wipe()?;
            std::fs::rename(&self.kept, cp.data_dir())?;
            arena.run_again(&[self.number]).await?;
            let mut api = arena.cluster.cp(self.number).api().patient(CHANGE_MAX);
            until("it comes to where the others were", CATCH_UP_MAX, async || {
                let now = api.status().await?.revision;
                ensure!(now >= head, "it is at {now} of {head}");
                Ok(())
            })
            .await?;
            if head > self.revision {
                arena.saw(Sometimes::CaughtUp);
            }
            let path = format!("/v1/cluster/members/{}", self.new_id);
            until("the place that it took meanwhile is given up", CATCH_UP_MAX, async || {
                api.call("DELETE", &path, &[], String::new()).await?.expect(&[204, 404])
            })
            .await
            .map(drop)
        }
        .boxed_local()
    }
}

/// A node that is traced; `None`: a proxy, which goes on.
struct Traced(Option<u16>);

/// What a node syncs its files with.
const SYNCS: &str = "fdatasync,fsync";
/// What makes a node's files longer; sockets and logs are written with others.
const WRITES: &str = "pwrite64,ftruncate,fallocate";

/// What changes anything on a node's disk.
const CHANGES: &str = "pwrite64,ftruncate,fallocate,mkdir,mkdirat,rename,renameat,renameat2,unlink,unlinkat";
/// The steps by which a proxy's files become durable.
const STEPS: &str = "fdatasync,fsync,rename,renameat,renameat2";

pub(super) async fn slow(arena: &mut Arena, whom: Whom, ms: u64, luck: &mut Luck) -> Result<Box<dyn Running>> {
    Ok(Box::new(traced(arena, whom, SYNCS, &format!("delay_enter={}", ms * 1000), luck).await?))
}

pub(super) async fn failed_sync(arena: &mut Arena, whom: Whom, luck: &mut Luck) -> Result<Box<dyn Running>> {
    // Only what a node syncs while it works: from the first sync on that happens now.
    let traced = traced(arena, whom, SYNCS, "error=EIO:when=1", luck).await?;
    ends(arena, traced).await
}

pub(super) async fn full(arena: &mut Arena, whom: Whom, luck: &mut Luck) -> Result<Box<dyn Running>> {
    let traced = traced(arena, whom, WRITES, "error=ENOSPC", luck).await?;
    ends(arena, traced).await
}

pub(super) async fn read_only(arena: &mut Arena, whom: Whom, luck: &mut Luck) -> Result<Box<dyn Running>> {
    let traced = traced(arena, whom, CHANGES, "error=EROFS", luck).await?;
    ends(arena, traced).await
}

/// The last proxy begins with an empty disk, and dies in one of the first calls that make what it was sent durable.
pub(super) async fn cut_write_of_proxy(arena: &mut Arena, luck: &mut Luck) -> Result<Box<dyn Running>> {
    let number = arena.cluster.dps.last().context("no proxy")?.number;
    arena.down(number, true, true);
    let dp = arena.cluster.dp(number);
    dp.kill().await?;
    std::fs::remove_dir_all(dp.data_dir())?;
    dp.run()?;
    // It stands still until somebody looks into its calls.
    dp.process()?.pause()?;
    let pid = dp.process()?.pid();
    let happens = format!("signal=KILL:when={}", luck.between(1, 4));
    attach(arena, pid, STEPS, &happens).await?;
    let dp = arena.cluster.dp(number);
    dp.process()?.resume()?;
    until("the proxy dies while it writes", END_MAX, async || {
        ensure!(!dp.process()?.runs(), "it goes on");
        Ok(())
    })
    .await?;
    // It has ended already: it is only taken note of.
    let _ = dp.kill().await;
    if let Some(tracer) = arena.tracer.take() {
        let _ = tracer.terminate(END_MAX).await;
    }
    arena.saw(Sometimes::Ended);
    let dp = arena.cluster.dp(number);
    dp.run()?;
    dp.ready().await?;
    arena.down(number, false, true);
    Ok(Box::new(Traced(None)))
}

/// The last proxy: it serves what it is told all the same, and says that a restart would take it back.
pub(super) async fn failed_syncs_of_proxy(arena: &mut Arena) -> Result<Box<dyn Running>> {
    let number = arena.cluster.dps.last().context("no proxy")?.number;
    let pid = arena.cluster.dp(number).process()?.pid();
    attach(arena, pid, SYNCS, "error=EIO").await?;
    Ok(Box::new(Unsynced { number, traced: Traced(None) }))
}

/// A proxy none of whose syncs succeeds.
struct Unsynced {
    number: u16,
    traced: Traced,
}

impl Running for Unsynced {
    fn heal<'a>(&'a mut self, arena: &'a mut Arena) -> LocalBoxFuture<'a, Result<()>> {
        async move {
            if arena.cluster.dp(self.number).view().await?.volatile {
                arena.saw(Sometimes::Volatile);
            }
            self.traced.heal(arena).await
        }
        .boxed_local()
    }
}

/// A node whose disk has failed ends by itself, before it acknowledges anything that is not on it.
async fn ends(arena: &mut Arena, traced: Traced) -> Result<Box<dyn Running>> {
    let cp = arena.cluster.cp(traced.0.context("a node")?);
    let status = until("the node ends when its disk has failed", END_MAX, async || {
        ensure!(!cp.process()?.runs(), "it goes on");
        Ok(())
    });
    status.await?;
    ensure!(cp.kill().await.is_ok() || !cp.is_running(), "it is gone");
    arena.saw(Sometimes::Ended);
    Ok(Box::new(traced))
}

/// Has something happen to some of a running node's system calls, from when this returns.
async fn traced(arena: &mut Arena, whom: Whom, calls: &str, happens: &str, luck: &mut Luck) -> Result<Traced> {
    let number = *arena.chosen(whom, luck).await?.first().context("a node")?;
    let pid = arena.cluster.cp(number).process()?.pid();
    attach(arena, pid, calls, happens).await?;
    Ok(Traced(Some(number)))
}

async fn attach(arena: &mut Arena, pid: Option<u32>, calls: &str, happens: &str) -> Result<()> {
    let pid = pid.context("it has ended")?;
    let dir = arena.cluster.dir().to_owned();
    let (trace, inject) = (format!("trace={calls}"), format!("inject={calls}:{happens}"));
    let args = ["-f", "-qq", "-o", "/dev/null", "-e", &trace, "-e", &inject, "-p", &pid.to_string()].map(str::to_owned);
    let tracer = crate::process::Process::spawn("strace", std::path::Path::new("/usr/bin/strace"), &args, &dir)
        .context("strace is missing: apt-get install strace")
        .context(OfTheHarness)?;
    arena.tracer = Some(tracer);
    until("strace is attached", END_MAX, async || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        ensure!(!status.is_empty() && !status.contains("TracerPid:\t0\n"), "nobody traces it");
        Ok(())
    })
    .await
    .context(OfTheHarness)
}

impl Running for Traced {
    fn heal<'a>(&'a mut self, arena: &'a mut Arena) -> LocalBoxFuture<'a, Result<()>> {
        async move {
            if let Some(tracer) = arena.tracer.take() {
                // In order: it lets go of whom it traces.
                let _ = tracer.terminate(END_MAX).await;
            }
            match self.0 {
                Some(number) if !arena.cluster.cp(number).is_running() => arena.run_again(&[number]).await,
                _ => Ok(()),
            }
        }
        .boxed_local()
    }
}
