//! Points that a node comes by alone: when it founds a cluster, begins its record, or brings a lost cluster back. The command,
//! or the node, ends at the point, is started again, and everything that was there is there.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::{Met, NotReached, Plan, Point};
use crate::archive::Archive;
use crate::cluster::{Arming, Cluster, NodeView};
use crate::patience::until;
use crate::postgres::Postgres;

/// How long a program may take to end at its point.
const REACH_MAX: Duration = Duration::from_secs(20);
/// How long a large change may take.
const CHANGE_MAX: Duration = Duration::from_secs(40);
/// How long record and archive may take to come to the head.
const DRAIN_MAX: Duration = Duration::from_secs(20);
/// The signal of a program that has ended at a point.
const ABORT: i32 = 6;
/// Resources of a change that no one statement takes to the record.
const LARGE_CHANGE: usize = 2100;
/// What a directory that is somebody's already answers to whoever founds in it.
const TAKEN: &str = "already";

/// Ends a program at the point, and holds what is there afterwards against what was there before.
pub(super) async fn sweep(plan: &Plan, point: Point) -> Result<()> {
    match point.met {
        Met::Found => found(plan, point).await,
        Met::Record => begins_record(plan, point).await,
        Met::Bootstrap | Met::Rebase => comes_back(plan, point).await,
        _ => bail!("{} is met in a cluster", point.name),
    }
}

/// A cluster of one node that is still nobody's.
fn nobody(plan: &Plan, settings: &[&str]) -> Result<Cluster> {
    let mut cluster = Cluster::new(plan.layout)?;
    cluster.place(1, 0, settings);
    let cp = cluster.cp(1);
    cp.program(plan.programs.cp.clone());
    cp.environment(plan.programs.environment.clone());
    Ok(cluster)
}

/// Runs a command that ends at the point.
async fn command_ends(cluster: &mut Cluster, words: &[&str], point: Point) -> Result<()> {
    let cp = cluster.cp(1);
    cp.arm(Some(Arming::new(point.name, 0)));
    let status = cp.status_of(words).await?;
    cp.arm(None);
    ensure!(status.signal() == Some(ABORT), "{}: {status}: {}", NotReached(point.name), cp.log_end());
    Ok(())
}

/// Waits until the node, which runs armed, has ended at the point.
async fn node_ends(cluster: &mut Cluster, point: Point) -> Result<()> {
    let cp = cluster.cp(1);
    let ended = cp.ended(REACH_MAX).await;
    cp.arm(None);
    let Ok(status) = ended else {
        let _ = cp.kill().await;
        bail!(NotReached(point.name))
    };
    ensure!(status.signal() == Some(ABORT), "it ended otherwise than at the point: {status}: {}", cp.log_end());
    Ok(())
}

async fn runs(cluster: &mut Cluster) -> Result<()> {
    cluster.cp(1).run()?;
    cluster.cp(1).ready().await
}

async fn put(cluster: &mut Cluster, ids: &[&str]) -> Result<NodeView> {
    let mut api = cluster.cp(1).api();
    for id in ids {
        api.put("routes", id, &route(id)).await?;
    }
    api.status().await
}

fn route(id: &str) -> Value {
    json!({"uri": format!("/{id}"), "upstream": {"nodes": {"127.0.0.1:1": 1}, "type": "roundrobin"}})
}

/// What a founder has left is nobody's, and founding begins again; or it is a founded cluster's, and is run.
async fn found(plan: &Plan, point: Point) -> Result<()> {
    let mut cluster = nobody(plan, &[])?;
    command_ends(&mut cluster, &["init"], point).await?;
    if let Err(why) = cluster.cp(1).init().await {
        ensure!(format!("{why:#}").contains(TAKEN), "it cannot be founded any more: {why:#}");
    }
    runs(&mut cluster).await?;
    let stands = put(&mut cluster, &["a"]).await?;
    ensure!(stands.revision == 1, "a founded cluster is at {}", stands.revision);
    Ok(())
}

async fn begins_record(plan: &Plan, point: Point) -> Result<()> {
    let postgres = Postgres::primary("pg-1", &plan.layout.postgres(1)).await?;
    let mut cluster = nobody(plan, &[&*Postgres::dsn(&[postgres.address()])])?;
    cluster.cp(1).init().await?;
    cluster.cp(1).arm(Some(Arming::new(point.name, 0)));
    cluster.cp(1).run()?;
    // Where the point is at the record's beginning, the node may not live to take it.
    let large = large_change(&mut cluster).await;
    node_ends(&mut cluster, point).await.with_context(|| format!("a large change came to {large:?}"))?;
    runs(&mut cluster).await?;
    put(&mut cluster, &["a", "b"]).await?;
    is_recorded(&mut cluster, &postgres).await
}

async fn large_change(cluster: &mut Cluster) -> Result<()> {
    cluster.cp(1).ready().await?;
    let operations: Vec<Value> = (0..LARGE_CHANGE)
        .map(|number| {
            let id = format!("large-{number}");
            json!({"op": "put", "kind": "routes", "id": id, "value": route(&id)})
        })
        .collect();
    let body = json!({"operations": operations}).to_string();
    let mut api = cluster.cp(1).api().patient(CHANGE_MAX);
    api.call("POST", "/v1/transactions", &[], body).await?.expect(&[200]).map(drop)
}

/// The record has all that the node has, row by row.
async fn is_recorded(cluster: &mut Cluster, postgres: &Postgres) -> Result<()> {
    let mut api = cluster.cp(1).api();
    let status = api.status().await?;
    let wanted = format!("{}|{}", status.revision, status.digest);
    until("the record comes to the head", DRAIN_MAX, async || {
        let found = postgres.sql("SELECT revision, encode(digest, 'hex') FROM holdfast.cursor").await?;
        ensure!(found == wanted, "it is at {found}, the node at {wanted}");
        Ok(())
    })
    .await?;
    let held = api.call("GET", "/v1/record/verify", &[], String::new()).await?.expect(&[200])?.json()?;
    ensure!(held["good"] == true, "what is current in the record is not the state: {held}");
    Ok(())
}

/// The disk of a cluster of one is lost. It comes back from the record; or, for [`Met::Rebase`], from an archive that has more.
async fn comes_back(plan: &Plan, point: Point) -> Result<()> {
    let mut postgres = Postgres::primary("pg-1", &plan.layout.postgres(1)).await?;
    let archive = Archive::start(&plan.layout.archive())?;
    let mut settings = archive.writers();
    settings.extend([Postgres::dsn(&[postgres.address()]), "archive.interval=200ms".to_owned()]);
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let mut cluster = nobody(plan, &settings)?;
    cluster.cp(1).init().await?;
    runs(&mut cluster).await?;
    put(&mut cluster, &["a", "b"]).await?;
    is_recorded(&mut cluster, &postgres).await?;
    let is_rebased = point.met == Met::Rebase;
    if is_rebased {
        postgres.kill().await?;
    }
    let before = put(&mut cluster, &["c", "d"]).await?;
    if !is_rebased {
        is_recorded(&mut cluster, &postgres).await?;
    }
    is_archived(&mut cluster, &before).await?;
    cluster.cp(1).kill().await?;
    cluster.cp(1).wipe()?;
    if is_rebased {
        postgres.start().await?;
    }
    let words = ["bootstrap", if is_rebased { "--from=archive" } else { "--from=record" }, "--witness-window=0s"];
    if is_rebased {
        cluster.cp(1).execute(&words).await?;
        cluster.cp(1).arm(Some(Arming::new(point.name, 0)));
        cluster.cp(1).run()?;
        node_ends(&mut cluster, point).await?;
    } else {
        command_ends(&mut cluster, &words, point).await?;
        again(&mut cluster, &words).await?;
    }
    runs(&mut cluster).await?;
    let after = cluster.cp(1).api().status().await?;
    ensure!(
        (after.revision, &after.digest) == (before.revision, &before.digest) && after.epoch > before.epoch,
        "it was {before:?}, and came back as {after:?}"
    );
    put(&mut cluster, &["e"]).await?;
    is_recorded(&mut cluster, &postgres).await
}

/// The same bootstrap once more. Where the first one has claimed the next life already, it says under which name, and is gone on
/// with under that.
async fn again(cluster: &mut Cluster, words: &[&str]) -> Result<()> {
    let Err(refused) = cluster.cp(1).execute(words).await else { return Ok(()) };
    let refused = format!("{refused:#}");
    let resume = refused.split("--resume ").nth(1).and_then(|rest| rest.split(['.', ' ', '\n', ',']).next());
    let resume = format!("--resume={}", resume.with_context(|| refused.clone())?);
    cluster.cp(1).execute(&[words, &[resume.as_str()]].concat()).await.map(drop)
}

async fn is_archived(cluster: &mut Cluster, stands: &NodeView) -> Result<()> {
    let wanted = format!("{}-{}", stands.epoch, stands.revision);
    let mut api = cluster.cp(1).api();
    until("the archive comes to the head", DRAIN_MAX, async || {
        let status = api.call("GET", "/v1/status", &[], String::new()).await?.expect(&[200])?.json()?;
        let archived = status["archive"]["position"].as_str().unwrap_or_default();
        ensure!(archived == wanted, "the node is at {wanted}: {}", status["archive"]);
        Ok(())
    })
    .await
}
