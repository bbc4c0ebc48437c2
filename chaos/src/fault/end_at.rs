//! Programs end at a failpoint, as in a crash, and come back without it. A point that nobody comes by is an error.

use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures_util::FutureExt;
use futures_util::future::LocalBoxFuture;

use super::stop::STOP_MAX;
use super::{Running, Whom, members, proxies, replace};
use crate::arena::Arena;
use crate::cluster::Arming;
use crate::luck::Luck;
use crate::patience::until;
use crate::scenario::Sometimes;
use crate::sweep::{Met, NotReached, Point};

/// How long it may take until somebody has ended at the point.
const REACH_MAX: Duration = Duration::from_secs(20);
/// How long an ended process may take to be gone.
const GONE_MAX: Duration = Duration::from_secs(1);
/// The signal of a program that has ended at a point.
const ABORT: i32 = 6;
/// The log reaches back less than so many revisions, in an arena whose log is short.
const LONG_AGO: u64 = 450;
/// How long so many may take.
const LONG_MAX: Duration = Duration::from_secs(30);
/// How long one request for a change of the membership is waited for.
const ANSWER_MAX: Duration = Duration::from_secs(12);

/// What has to be mended.
enum Ended {
    /// Nodes, which run with the point or not at all.
    Nodes(Vec<u16>),
    /// All nodes, and the vote of the one with this id.
    Vote(u64),
    /// All nodes, of which one has lost its place.
    Place(Lost),
    /// A proxy, whose disk was thrown away or not.
    Proxy(u16, bool),
}

/// A node that has lost its place.
struct Lost {
    number: u16,
    /// The id of its place.
    id: u64,
    /// Whether its disk is the one that belongs there, and still to be thrown away.
    has_disk: bool,
}

pub(super) async fn start(arena: &mut Arena, point: Point, luck: &mut Luck) -> Result<Box<dyn Running>> {
    let arming = Arming::new(point.name, luck.below(point.passes_max + 1));
    let all = arena.chosen(Whom::All, luck).await?;
    let ended = match point.met {
        Met::Work => {
            arm(arena, &all, &arming).await?;
            a_node_ends(arena, &all, &point).await?;
            Ended::Nodes(all)
        }
        Met::Behind => {
            let number = follower(arena, luck).await?;
            arena.cluster.cp(number).kill().await?;
            fall_behind(arena).await?;
            arm(arena, &[number], &arming).await?;
            a_node_ends(arena, &[number], &point).await?;
            Ended::Nodes(vec![number])
        }
        Met::Stop => {
            armed_and_led(arena, &all, &arming).await?;
            let leader = arena.cluster.leader().await?;
            let status = arena.cluster.cp(leader).terminate(STOP_MAX).await?;
            ensure!(is_abort(status), NotReached(point.name));
            Ended::Nodes(all)
        }
        Met::Vote => {
            let number = follower(arena, luck).await?;
            let id = arena.cluster.cp(number).api().status().await?.node_id;
            armed_and_led(arena, &all, &arming).await?;
            ask(arena, "POST", format!("/v1/cluster/members/{id}/demote")).await?;
            a_node_ends(arena, &all, &point).await?;
            Ended::Vote(id)
        }
        Met::Remove => {
            let number = follower(arena, luck).await?;
            let id = arena.cluster.cp(number).api().status().await?.node_id;
            members::demote(arena, id).await?;
            armed_and_led(arena, &all, &arming).await?;
            ask(arena, "DELETE", format!("/v1/cluster/members/{id}")).await?;
            // Whoever is taken out may end in order, over that.
            let others: Vec<u16> = all.iter().copied().filter(|other| *other != number).collect();
            a_node_ends(arena, &others, &point).await?;
            Ended::Place(Lost { number, id, has_disk: true })
        }
        Met::Replace => {
            let number = follower(arena, luck).await?;
            let others: Vec<u16> = all.iter().copied().filter(|other| *other != number).collect();
            let id = arena.cluster.cp(number).api().status().await?.node_id;
            arena.cluster.cp(number).kill().await?;
            arena.cluster.cp(number).wipe()?;
            armed_and_led(arena, &others, &arming).await?;
            let peers = replace::peers(arena, number);
            arena.cluster.cp(number).join(&peers);
            arm(arena, &[number], &arming).await?;
            a_node_ends(arena, &all, &point).await?;
            Ended::Place(Lost { number, id, has_disk: false })
        }
        Met::Follow | Met::Empty => {
            let is_emptied = point.met == Met::Empty;
            let number = arena.cluster.dps.last().context("no proxy")?.number;
            arena.down(number, true, is_emptied);
            let dp = arena.cluster.dp(number);
            dp.kill().await?;
            if is_emptied {
                std::fs::remove_dir_all(dp.data_dir())?;
            }
            dp.arm(Some(arming));
            dp.run()?;
            let ended = until("the proxy ends at the point", REACH_MAX, async || {
                ensure!(!dp.process()?.runs(), "it goes on");
                Ok(())
            });
            ensure!(ended.await.is_ok(), NotReached(point.name));
            check(dp.ended(GONE_MAX).await?, &dp.name(), &dp.printed())?;
            Ended::Proxy(number, is_emptied)
        }
        Met::Found | Met::Record | Met::Bootstrap | Met::Rebase | Met::LargeFile => {
            bail!("a cluster under load does not come by {}", point.name)
        }
    };
    arena.saw(Sometimes::Ended);
    Ok(Box::new(ended))
}

async fn follower(arena: &Arena, luck: &mut Luck) -> Result<u16> {
    arena.chosen(Whom::Follower, luck).await?.first().copied().context("a follower")
}

/// Starts these nodes so that they end at a point; those that run are killed before, all at once.
async fn arm(arena: &mut Arena, numbers: &[u16], arming: &Arming) -> Result<()> {
    for number in numbers {
        let cp = arena.cluster.cp(*number);
        if cp.is_running() {
            cp.kill().await?;
        }
    }
    for number in numbers {
        let cp = arena.cluster.cp(*number);
        cp.arm(Some(arming.clone()));
        cp.run()?;
    }
    Ok(())
}

/// The same, of a point that nobody comes by before he is asked to.
async fn armed_and_led(arena: &mut Arena, numbers: &[u16], arming: &Arming) -> Result<()> {
    arm(arena, numbers, arming).await?;
    for number in numbers {
        arena.cluster.cp(*number).ready().await?;
    }
    Ok(())
}

/// Waits until one of these nodes has ended at the point.
async fn a_node_ends(arena: &mut Arena, numbers: &[u16], point: &Point) -> Result<()> {
    let ended = until("a node ends at the point", REACH_MAX, async || {
        for number in numbers {
            if !arena.cluster.cp(*number).process()?.runs() {
                return Ok(*number);
            }
        }
        bail!("all go on")
    });
    let Ok(number) = ended.await else { bail!(NotReached(point.name)) };
    let cp = arena.cluster.cp(number);
    let status = cp.ended(GONE_MAX).await?;
    check(status, &cp.name(), &cp.log_end())
}

fn is_abort(status: ExitStatus) -> bool {
    status.signal() == Some(ABORT)
}

fn check(status: ExitStatus, who: &str, printed: &str) -> Result<()> {
    ensure!(is_abort(status), "{who} ended otherwise than at the point: {status}:\n{printed}");
    Ok(())
}

/// Waits until the others have written so much that what a node lacks is in no log any more.
async fn fall_behind(arena: &Arena) -> Result<()> {
    let leader = arena.cluster.leader().await?;
    let leader = arena.cluster.cps.iter().find(|cp| cp.number == leader).context("the leader")?;
    let goal = leader.api().status().await?.revision + LONG_AGO;
    until("the log is cut off behind it", LONG_MAX, async || {
        let now = leader.api().status().await?.revision;
        ensure!(now >= goal, "{now} of {goal}");
        Ok(())
    })
    .await
}

/// Asks the leader for a change of the membership, and does not wait for what becomes of it.
async fn ask(arena: &Arena, method: &'static str, path: String) -> Result<()> {
    let leader = arena.cluster.leader().await?;
    let leader = arena.cluster.cps.iter().find(|cp| cp.number == leader).context("the leader")?;
    let mut api = leader.api().patient(ANSWER_MAX);
    tokio::spawn(async move {
        // Whoever is asked dies over it.
        let _ = api.call(method, &path, &[], String::new()).await;
    });
    Ok(())
}

/// Starts all of these nodes without the point, whether they have ended at it or not.
async fn disarm(arena: &mut Arena, numbers: &[u16]) -> Result<()> {
    for number in numbers {
        let cp = arena.cluster.cp(*number);
        cp.arm(None);
        if cp.is_running() {
            // One that has ended meanwhile is only taken note of.
            let _ = cp.kill().await;
        }
    }
    arena.run_again(numbers).await
}

impl Running for Ended {
    fn heal<'a>(&'a mut self, arena: &'a mut Arena) -> LocalBoxFuture<'a, Result<()>> {
        async move {
            let all: Vec<u16> = arena.cluster.cps.iter().map(|cp| cp.number).collect();
            match self {
                Self::Nodes(numbers) => disarm(arena, numbers).await,
                Self::Vote(id) => {
                    disarm(arena, &all).await?;
                    members::promote(arena, *id).await
                }
                Self::Place(Lost { number, id, has_disk }) => {
                    let others: Vec<u16> = all.iter().copied().filter(|other| other != number).collect();
                    let lost = arena.cluster.cp(*number);
                    lost.arm(None);
                    let _ = lost.kill().await;
                    if *has_disk {
                        lost.wipe()?;
                    }
                    disarm(arena, &others).await?;
                    let peers = replace::peers(arena, *number);
                    arena.cluster.cp(*number).join(&peers);
                    arena.cluster.cp(*number).run()?;
                    replace::take_place(arena, *number, *id).await
                }
                Self::Proxy(number, is_emptied) => {
                    let dp = arena.cluster.dp(*number);
                    dp.arm(None);
                    dp.run()?;
                    proxies::at_head(arena, *number).await?;
                    arena.down(*number, false, *is_emptied);
                    Ok(())
                }
            }
        }
        .boxed_local()
    }
}
