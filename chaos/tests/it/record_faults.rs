//! The durable record under faults of PostgreSQL, of the network to it, and of leaders.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use chaos::patience::until;
use chaos::postgres::Postgres;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::admin_load::{AdminLoad, WriteTimes};
use super::record::{DRAIN_MAX, audit, cluster_with, layout, record_of, route};

/// How long PostgreSQL stays away, in seconds: `HOLDFAST_TEST_OUTAGE_SECONDS`, 5 when it is not set.
fn outage() -> Duration {
    let seconds = std::env::var("HOLDFAST_TEST_OUTAGE_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(5))
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_killed_under_writes_then_the_leader_and_nothing_is_lost_or_doubled() {
    let mut postgres = Postgres::primary("pg-1", &layout().postgres(1)).await.unwrap();
    let mut cluster = cluster_with(3, &Postgres::dsn(&[postgres.address()]), &[]).await;
    let load = AdminLoad::start(&cluster, 4);
    load.progress(50, Duration::from_secs(30)).await;
    postgres.kill().await.unwrap();
    let began = Instant::now();
    while began.elapsed() < outage() {
        load.progress(20, Duration::from_secs(30)).await;
    }
    let leader = cluster.leader().await.unwrap();
    let record = record_of(&mut cluster.cp(leader).api()).await.unwrap();
    assert!(record["lag_changes"].as_u64().unwrap() > 0 && record["reason"] == "unreachable", "{record}");
    cluster.cp(leader).kill().await.unwrap();
    load.progress(20, Duration::from_secs(30)).await;
    postgres.start().await.unwrap();
    cluster.cp(leader).run().unwrap();
    cluster.cp(leader).ready().await.unwrap();
    load.progress(50, Duration::from_secs(30)).await;
    let promises = load.stop().await;
    audit(&cluster, &postgres).await;
    cluster.agree(Duration::from_secs(30)).await.unwrap();
    promises.check(&mut cluster.cp(leader).api()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_that_lost_its_tail_is_refilled_and_the_old_primary_is_never_written_again() {
    let mut old = Postgres::primary("pg-old", &layout().postgres(1)).await.unwrap();
    let mut new = Postgres::standby_of(&old, "pg-new", &layout().postgres(2)).await.unwrap();
    let dsn = Postgres::dsn(&[old.address(), new.address()]);
    let mut cluster = cluster_with(3, &dsn, &[]).await;
    for n in 0..10 {
        cluster.cp(1).api().put("routes", &format!("r{n}"), &route("replicated")).await.unwrap();
    }
    audit(&cluster, &old).await;
    until("the standby has it", DRAIN_MAX, async || {
        ensure!(new.sql("SELECT revision FROM holdfast.cursor").await? == "10", "not yet");
        Ok(())
    })
    .await
    .unwrap();
    // The standby is away while ten more are confirmed; then the primary dies.
    new.kill().await.unwrap();
    for n in 10..20 {
        let path = format!("/apisix/admin/routes/r{n}?durability=record");
        let reply = cluster.cp(2).api().call("PUT", &path, &[], route("lost by one").to_string()).await.unwrap();
        reply.expect(&[201]).unwrap();
    }
    old.kill().await.unwrap();
    new.start().await.unwrap();
    assert_eq!(new.sql("SELECT revision FROM holdfast.cursor").await.unwrap(), "10");
    new.promote().await.unwrap();
    for n in 20..25 {
        cluster.cp(3).api().put("routes", &format!("r{n}"), &route("after")).await.unwrap();
    }
    audit(&cluster, &new).await;
    let leader = cluster.leader().await.unwrap();
    let record = record_of(&mut cluster.cp(leader).api()).await.unwrap();
    assert_eq!((record["regressions"].as_u64(), record["regressed_changes"].as_u64()), (Some(1), Some(10)), "{record}");
    assert_eq!(record["timeline"], 2);
    // The old primary comes back and is first in the list; the new one goes. It must stay as it is.
    old.start().await.unwrap();
    let before = old.sql("SELECT * FROM holdfast.cursor").await.unwrap();
    new.kill().await.unwrap();
    cluster.cp(leader).kill().await.unwrap();
    cluster.cp(leader).run().unwrap();
    cluster.cp(leader).ready().await.unwrap();
    cluster.cp(1).api().put("routes", "r99", &route("while it is away")).await.unwrap();
    let refused = until("the old primary is refused", DRAIN_MAX, async || {
        let leader = cluster.leader().await?;
        let number = usize::from(leader) - 1;
        let printed = cluster.cps[number].printed();
        ensure!(printed.contains("older-timeline"), "{}", cluster.cps[number].log_end());
        Ok(())
    });
    refused.await.unwrap();
    assert_eq!(old.sql("SELECT * FROM holdfast.cursor").await.unwrap(), before);
    new.start().await.unwrap();
    audit(&cluster, &new).await;
    assert_eq!(old.sql("SELECT * FROM holdfast.cursor").await.unwrap(), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_never_answers_slows_no_write_until_the_bound_and_then_drains() {
    let postgres = Postgres::primary("pg-1", &layout().postgres(1)).await.unwrap();
    let mut cluster = cluster_with(3, &Postgres::dsn(&[postgres.address()]), &["record.backlog_changes=40"]).await;
    cluster.cp(1).api().put("routes", "r0", &route("first")).await.unwrap();
    audit(&cluster, &postgres).await;
    let term = cluster.cp(1).api().status().await.unwrap().term;
    postgres.freeze().unwrap();
    let mut times = WriteTimes::default();
    let mut refused = None;
    for n in 1..60 {
        let began = Instant::now();
        let path = format!("/apisix/admin/routes/r{n}");
        let reply = cluster.cp(1).api().call("PUT", &path, &[], route("frozen").to_string()).await.unwrap();
        times.note(began.elapsed());
        if reply.status == 503 {
            refused = Some((n, reply));
            break;
        }
        reply.expect(&[201]).unwrap();
    }
    let (n, reply) = refused.expect("the bound was never reached");
    assert_eq!(n, 41, "exactly so many were taken");
    assert!(reply.header("retry-after").is_some() && reply.text().contains("40 changes behind"), "{}", reply.text());
    times.are_short("a server that never answers");
    // Reads go on, and so does consensus.
    assert!(cluster.cp(2).api().get("routes", "r40").await.unwrap().is_some());
    let path = "/apisix/admin/routes/r0?durability=record";
    cluster.cp(1).api().call("PUT", path, &[], route("x").to_string()).await.unwrap().expect(&[503]).unwrap();
    assert_eq!(cluster.cp(1).api().status().await.unwrap().term, term, "no election");
    until("it is said why", DRAIN_MAX, async || {
        let leader = cluster.leader().await?;
        let record = record_of(&mut cluster.cps[usize::from(leader) - 1].api()).await?;
        ensure!(record["reason"] == "silent", "{record}");
        Ok(())
    })
    .await
    .unwrap();
    postgres.thaw().unwrap();
    audit(&cluster, &postgres).await;
    cluster.cp(1).api().put("routes", "r41", &route("again")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_leader_that_comes_back_changes_nothing() {
    let postgres = Postgres::primary("pg-1", &layout().postgres(1)).await.unwrap();
    let mut cluster = cluster_with(3, &Postgres::dsn(&[postgres.address()]), &[]).await;
    let load = AdminLoad::start(&cluster, 4);
    for _ in 0..3 {
        load.progress(30, Duration::from_secs(30)).await;
        let leader = cluster.leader().await.unwrap();
        cluster.cp(leader).process().unwrap().pause().unwrap();
        load.progress(50, Duration::from_secs(60)).await;
        cluster.cp(leader).process().unwrap().resume().unwrap();
        let next = cluster.leader().await.unwrap();
        assert_ne!(next, leader, "the paused node was deposed");
    }
    let promises = load.stop().await;
    audit(&cluster, &postgres).await;
    let terms = postgres.sql("SELECT writer_term FROM holdfast.cursor").await.unwrap();
    assert_eq!(terms, cluster.cp(1).api().status().await.unwrap().term.to_string());
    promises.check(&mut cluster.cp(1).api()).await;
}

/// Carries connections to a server and cuts each one, with a reset, after a number of bytes that grows from one to the
/// next; what is beyond is lost on its way, in both directions.
async fn cutter(
    listen: String,
    target: String,
    cuts: Arc<AtomicU64>,
    stop_after: u64,
) -> Result<tokio::task::JoinHandle<()>> {
    let listener = TcpListener::bind(&listen).await?;
    Ok(tokio::spawn(async move {
        while let Ok((from, _)) = listener.accept().await {
            let Ok(to) = TcpStream::connect(&target).await else { continue };
            let cuts = cuts.clone();
            tokio::spawn(async move {
                let number = cuts.load(Ordering::Relaxed);
                let is_last = number >= stop_after;
                // Sign-in and look-up take some 1,500 bytes each way; a step is cut at ever other places.
                let budget = if is_last { u64::MAX } else { 1200 + number * 61 };
                let is_forward = number.is_multiple_of(2);
                let (mut from_read, mut from_write) = from.into_split();
                let (mut to_read, mut to_write) = to.into_split();
                let forward = carry(&mut from_read, &mut to_write, if is_forward { budget } else { u64::MAX });
                let back = carry(&mut to_read, &mut from_write, if is_forward { u64::MAX } else { budget });
                tokio::select! { () = forward => {} () = back => {} }
                cuts.fetch_add(1, Ordering::Relaxed);
            });
        }
    }))
}

async fn carry(from: &mut tokio::net::tcp::OwnedReadHalf, to: &mut tokio::net::tcp::OwnedWriteHalf, mut budget: u64) {
    let mut buffer = vec![0; 4096];
    while budget > 0
        && let Ok(read) = from.read(&mut buffer).await
        && read > 0
    {
        let pass = usize::try_from(budget.min(read as u64)).unwrap();
        if to.write_all(&buffer[..pass]).await.is_err() {
            return;
        }
        budget -= pass as u64;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_cut_at_every_place_loses_nothing_and_doubles_nothing() {
    const CUTS: u64 = 60;
    let postgres = Postgres::primary("pg-1", &layout().postgres(1)).await.unwrap();
    let (host, port) = postgres.address();
    let (cuts, link) = (Arc::new(AtomicU64::new(0)), layout().postgres(5));
    let proxy = cutter(link.clone(), format!("{host}:{port}"), cuts.clone(), CUTS).await.unwrap();
    let cluster = cluster_with(1, &Postgres::dsn(&[link.rsplit_once(':').unwrap()]), &[]).await;
    let load = AdminLoad::start(&cluster, 2);
    until("every cut was made", Duration::from_secs(100), async || {
        let made = cuts.load(Ordering::Relaxed);
        ensure!(made >= CUTS, "{made} cuts so far");
        Ok(())
    })
    .await
    .unwrap();
    load.stop().await;
    audit(&cluster, &postgres).await;
    proxy.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_postgres_refuses_is_said_with_its_own_reason() {
    let postgres = Postgres::primary("pg-1", &layout().postgres(1)).await.unwrap();
    let mut cluster = cluster_with(1, &Postgres::dsn(&[postgres.address()]), &[]).await;
    cluster.cp(1).api().put("routes", "r0", &route("first")).await.unwrap();
    audit(&cluster, &postgres).await;
    let cut = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'holdfast'";
    let says = async |cluster: &chaos::cluster::Cluster, reason: &str| {
        let mut api = cluster.cps[0].api();
        until(reason, DRAIN_MAX, async || {
            let record = record_of(&mut api).await?;
            ensure!(record["reason"] == reason, "{record}");
            Ok(())
        })
        .await
        .unwrap();
    };
    // Read-only.
    postgres.sql("ALTER DATABASE postgres SET default_transaction_read_only = on").await.unwrap();
    postgres.sql(cut).await.unwrap();
    cluster.cp(1).api().put("routes", "r1", &route("read-only")).await.unwrap();
    says(&cluster, "read-only").await;
    postgres.sql("ALTER DATABASE postgres RESET default_transaction_read_only").await.unwrap();
    audit(&cluster, &postgres).await;
    // Somebody moves the cursor by hand: never taken for the truth, never overwritten.
    let chain = postgres.sql("SELECT encode(chain, 'hex') FROM holdfast.cursor").await.unwrap();
    postgres.sql("UPDATE holdfast.cursor SET chain = decode(repeat('ab', 32), 'hex')").await.unwrap();
    cluster.cp(1).api().put("routes", "r2", &route("different")).await.unwrap();
    says(&cluster, "different-chain").await;
    assert_eq!(postgres.sql("SELECT revision FROM holdfast.cursor").await.unwrap(), "2");
    postgres.sql(&format!("UPDATE holdfast.cursor SET chain = decode('{chain}', 'hex')")).await.unwrap();
    audit(&cluster, &postgres).await;
    // A later life of the cluster has taken the record: this one stands down.
    postgres.sql("UPDATE holdfast.cursor SET epoch = 2, restore_id = repeat('cd', 16)").await.unwrap();
    cluster.cp(1).api().put("routes", "r3", &route("deposed")).await.unwrap();
    says(&cluster, "higher-epoch").await;
    assert_eq!(postgres.sql("SELECT revision FROM holdfast.cursor").await.unwrap(), "3");
}
