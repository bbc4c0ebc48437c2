//! All disks of the control plane are lost. What PostgreSQL holds comes back, all of it; what S3 holds does where that is
//! newer; one bootstrap of several wins; and the record goes on from there.

use std::time::{Duration, Instant};

use chaos::cluster::{Cluster, READY_MAX};
use chaos::load::Load;
use chaos::patience::until;
use chaos::postgres::Postgres;
use chaos::s3::{Fault, S3};
use chaos::upstream::Upstream;
use serde_json::json;

use super::admin_load::{AdminLoad, anyhow_ensure};
use super::record::{DRAIN_MAX, audit, cluster_with, layout, record_of, route};

/// Coming back may take so long, from the disaster to a cluster of three that takes writes.
const BACK_MAX: Duration = Duration::from_secs(60);

const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";

/// Kills all nodes of the control plane at once and throws their disks away.
async fn disaster(cluster: &mut Cluster) {
    futures_util::future::join_all(cluster.cps.iter_mut().map(chaos::cluster::Cp::kill)).await;
    for cp in &mut cluster.cps {
        cp.wipe().unwrap();
    }
}

/// The first node comes back by a bootstrap, the others join it with empty disks; gives what the bootstrap said.
async fn come_back(cluster: &mut Cluster, flags: &[&str]) -> String {
    let said = cluster.cp(1).bootstrap(flags).await.unwrap();
    rejoin(cluster).await;
    said
}

/// Starts the node that a bootstrap has founded, and lets the others join it with empty disks.
async fn rejoin(cluster: &mut Cluster) {
    cluster.cp(1).run().unwrap();
    cluster.cp(1).ready().await.unwrap();
    let peers = [cluster.cp(1).addresses.peer.clone()];
    for cp in &mut cluster.cps[1..] {
        cp.join(&peers);
        cp.run().unwrap();
        cp.ready().await.unwrap();
    }
}

/// How many changes a bootstrap would not give up by itself.
///
/// # Panics
/// When that was not why it refused.
fn changes_that_would_be_lost(refused: &str) -> usize {
    let before = refused.split(" changes would be lost").next().filter(|before| before.len() < refused.len());
    let count = before.and_then(|before| before.rsplit(' ').next());
    count.and_then(|count| count.parse().ok()).unwrap_or_else(|| panic!("{refused}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_that_the_record_holds_is_back_within_a_minute_and_no_proxied_request_fails() {
    let postgres = Postgres::primary("pg-1", &layout().postgres(1)).await.unwrap();
    let mut cluster = cluster_with(3, &Postgres::dsn(&[postgres.address()]), &["record.durability=record"]).await;
    let upstream = Upstream::start("u1", &layout().upstream(1)).await.unwrap();
    let served = json!({"uri": "/served", "upstream": {"nodes": {layout().upstream(1): 1}, "type": "roundrobin"}});
    cluster.cp(1).api().put("routes", "served", &served).await.unwrap();
    for number in 1..=2 {
        cluster.add_dp(number).await.unwrap();
        cluster.dp(number).ready().await.unwrap();
    }
    let proxies: Vec<String> = cluster.dps.iter().map(|dp| dp.addresses.proxy.clone()).collect();
    let traffic = Load::start(&proxies, 2, &["/served".to_owned()], "u1");
    let load = AdminLoad::start(&cluster, 4);
    load.progress(200, Duration::from_secs(60)).await;

    // In the middle of everything, without a word.
    disaster(&mut cluster).await;
    let promises = load.stop().await;
    let began = Instant::now();
    let said = match cluster.cp(1).bootstrap(&["--from=record", "--witness-window=12s"]).await {
        Ok(said) => {
            rejoin(&mut cluster).await;
            said
        }
        // A proxy may have served what the record had not got yet. Nobody was promised that, and only an operator gives it up.
        Err(refused) => {
            let lost = changes_that_would_be_lost(&refused.to_string());
            assert!(lost <= promises.unknown.len(), "{lost} of {:?}", promises.unknown);
            come_back(&mut cluster, &["--from=record", "--witness-window=12s", "--accept-loss"]).await
        }
    };
    let took = began.elapsed();
    assert!(took < BACK_MAX, "it took {took:?}");
    assert!(said.contains("the record on"), "{said}");
    // Every write that was acknowledged had been recorded: nothing is lost.
    for number in 1..=3 {
        promises.check(&mut cluster.cp(number).api()).await;
    }
    let (position, _) = cluster.agree(READY_MAX).await.unwrap();
    assert!(position.starts_with("2-"), "{position}");
    // The record goes on in the new life, without a gap.
    for n in 0..20 {
        cluster.cp(2).api().put("routes", &format!("after-{n}"), &route("after")).await.unwrap();
    }
    audit(&cluster, &postgres).await;
    cluster.agree(READY_MAX).await.unwrap();
    let epochs = postgres.sql("SELECT string_agg(DISTINCT epoch::text, ',') FROM holdfast.history").await.unwrap();
    assert_eq!(epochs, "1,2");
    let traffic = traffic.stop().await;
    assert_eq!(traffic.failed, 0, "{:?}", traffic.failures);
    assert!(traffic.answered > 1000 && upstream.served() >= traffic.answered, "{}", traffic.answered);
    println!(
        "{} acknowledged, back in {took:?}, {} requests served meanwhile",
        promises.acknowledged, traffic.answered
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_were_edited_are_passed_over_for_the_history_and_a_record_that_does_not_add_up_gives_nothing() {
    let postgres = Postgres::primary("pg-1", &layout().postgres(1)).await.unwrap();
    let mut cluster = cluster_with(1, &Postgres::dsn(&[postgres.address()]), &[]).await;
    for n in 0..5 {
        cluster.cp(1).api().put("routes", &format!("r{n}"), &route(&format!("{n}"))).await.unwrap();
    }
    audit(&cluster, &postgres).await;
    let before = cluster.cp(1).api().status().await.unwrap();
    disaster(&mut cluster).await;
    // Edited in both tables: nothing can be proved, and the row is named.
    let edit = |table: &str, to: &str| format!("UPDATE holdfast.{table} SET body = '{to}' WHERE id = 'r3'");
    postgres.sql(&edit("history", r#"{"uri":"/history"}"#)).await.unwrap();
    postgres.sql(&edit("current", r#"{"uri":"/current"}"#)).await.unwrap();
    let flags = ["--from=record", "--witness-window=0s"];
    let refused = cluster.cp(1).bootstrap(&flags).await.unwrap_err().to_string();
    assert!(refused.contains("do not add up") && refused.contains("routes/r3"), "{refused}");
    // Nothing was claimed, and the history is mended: with it the cluster comes back as it was.
    let was = cluster_body(3);
    postgres.sql(&edit("history", &was)).await.unwrap();
    let said = cluster.cp(1).bootstrap(&flags).await.unwrap();
    assert!(said.contains("routes/r3"), "{said}");
    cluster.cp(1).run().unwrap();
    cluster.cp(1).ready().await.unwrap();
    let after = cluster.cp(1).api().status().await.unwrap();
    assert_eq!((after.revision, &after.digest), (before.revision, &before.digest));
}

fn cluster_body(n: u32) -> String {
    // As it is recorded: canonical JSON.
    serde_json::to_string(&route(&format!("{n}"))).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_who_bring_a_cluster_back_one_does() {
    let postgres = Postgres::primary("pg-1", &layout().postgres(1)).await.unwrap();
    let mut cluster = cluster_with(3, &Postgres::dsn(&[postgres.address()]), &[]).await;
    cluster.cp(1).api().put("routes", "r1", &route("one")).await.unwrap();
    audit(&cluster, &postgres).await;
    disaster(&mut cluster).await;
    let flags = ["--from=auto", "--witness-window=0s"];
    let all = cluster.cps.iter_mut().map(|cp| cp.bootstrap(&flags));
    let ended = futures_util::future::join_all(all).await;
    let won = ended.iter().filter(|ended| ended.is_ok()).count();
    let lost: Vec<String> = ended.iter().filter_map(|ended| Some(ended.as_ref().err()?.to_string())).collect();
    assert_eq!(won, 1, "{lost:?}");
    assert!(lost.iter().all(|why| why.contains("epoch 2 is claimed")), "{lost:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_encryption_key_and_postgresql_alone_bring_back_the_keys_too() {
    const KEYRING: &str = "k1 1111111111111111111111111111111111111111111111111111111111111111\n";
    let postgres = Postgres::primary("pg-1", &layout().postgres(1)).await.unwrap();
    let dir = tempfile::tempdir().unwrap();
    let path = |name: &str| dir.path().join(name);
    let (kek, keyring, signing, archive) = (path("kek"), path("keyring"), path("archive.key"), path("archive"));
    std::fs::write(&kek, format!("kek {}", "7".repeat(64))).unwrap();
    std::fs::write(&keyring, KEYRING).unwrap();
    std::fs::write(&signing, SEED).unwrap();
    std::fs::create_dir(&archive).unwrap();
    let settings = [
        format!("secrets.kek_file={}", kek.display()),
        format!("secrets.keyring_file={}", keyring.display()),
        format!("archive.signing_key_file={}", signing.display()),
        format!("archive.directory={}", archive.display()),
    ];
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let mut cluster = cluster_with(1, &Postgres::dsn(&[postgres.address()]), &settings).await;
    cluster.cp(1).api().put("routes", "r1", &route("one")).await.unwrap();
    until("the keys are kept", DRAIN_MAX, async || {
        let kept = postgres.sql("SELECT string_agg(id, ' ' ORDER BY id) FROM holdfast.current WHERE kind = 'system'");
        let kept = kept.await?;
        anyhow_ensure(kept == "archive-key keyring", &kept)
    })
    .await
    .unwrap();
    let rows = postgres.sql("SELECT string_agg(body, ' ') FROM holdfast.history").await.unwrap();
    assert!(!rows.contains(&"1".repeat(64)) && !rows.contains(&SEED[..32]), "{rows}");
    let before = cluster.cp(1).api().status().await.unwrap();

    disaster(&mut cluster).await;
    for file in [&keyring, &signing] {
        std::fs::remove_file(file).unwrap();
    }
    std::fs::remove_dir_all(&archive).unwrap();
    std::fs::create_dir(&archive).unwrap();
    let flags = ["--from=record", "--witness-window=0s"];
    // Another key-encryption key opens nothing.
    let right = std::fs::read(&kek).unwrap();
    std::fs::write(&kek, format!("kek {}", "8".repeat(64))).unwrap();
    let refused = cluster.cp(1).bootstrap(&flags).await.unwrap_err().to_string();
    assert!(refused.contains("secrets.kek_file") && !keyring.exists(), "{refused}");
    std::fs::write(&kek, right).unwrap();
    cluster.cp(1).bootstrap(&flags).await.unwrap();
    assert_eq!(std::fs::read_to_string(&keyring).unwrap(), KEYRING);
    assert_eq!(std::fs::read_to_string(&signing).unwrap().trim(), SEED);
    // Other nodes lack them too: one says so before it does anything, and how they come back.
    std::fs::remove_file(&keyring).unwrap();
    cluster.cp(1).run().unwrap();
    assert_eq!(cluster.cp(1).ended(READY_MAX).await.unwrap().code(), Some(78));
    let said = cluster.cp(1).log_end();
    assert!(said.contains("secrets.keyring_file") && said.contains("cp-node recover-keys"), "{said}");
    cluster.cp(1).execute(&["recover-keys"]).await.unwrap();
    assert_eq!(std::fs::read_to_string(&keyring).unwrap(), KEYRING);
    cluster.cp(1).run().unwrap();
    cluster.cp(1).ready().await.unwrap();
    let after = cluster.cp(1).api().status().await.unwrap();
    assert_eq!((after.epoch, after.revision, &after.digest), (2, before.revision, &before.digest));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_with_the_old_log_ends_when_it_meets_the_new_life() {
    let postgres = Postgres::primary("pg-1", &layout().postgres(1)).await.unwrap();
    let mut cluster = cluster_with(3, &Postgres::dsn(&[postgres.address()]), &[]).await;
    cluster.cp(1).api().put("routes", "r1", &route("one")).await.unwrap();
    audit(&cluster, &postgres).await;
    // Of three disks two are lost, and whoever brings the cluster back does not know of the third.
    futures_util::future::join_all(cluster.cps.iter_mut().map(chaos::cluster::Cp::kill)).await;
    for number in 1..=2 {
        cluster.cp(number).wipe().unwrap();
    }
    cluster.cp(1).bootstrap(&["--from=record", "--witness-window=0s"]).await.unwrap();
    cluster.cp(1).run().unwrap();
    cluster.cp(1).ready().await.unwrap();
    cluster.cp(3).run().unwrap();
    let ended = cluster.cp(3).ended(READY_MAX).await.unwrap();
    assert_eq!(ended.code(), Some(78), "{}", cluster.cp(3).log_end());
    let said = cluster.cp(3).printed();
    assert!(said.contains("is of epoch 1, and its cluster has been brought back as epoch 2 without it"), "{said}");
    // The new life has not felt it.
    cluster.cp(1).api().put("routes", "r1", &route("two")).await.unwrap();
    // With an empty disk the node is welcome.
    let peers = [cluster.cp(1).addresses.peer.clone()];
    cluster.cp(3).wipe().unwrap();
    cluster.cp(3).join(&peers);
    cluster.cp(3).run().unwrap();
    cluster.cp(3).ready().await.unwrap();
    assert_eq!(cluster.agree(READY_MAX).await.unwrap().0, "2-2");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_newer_of_record_and_archive_is_taken_and_the_other_is_its_beginning() {
    let mut postgres = Postgres::primary("pg-1", &layout().postgres(1)).await.unwrap();
    let s3 = S3::start("127.0.0.1:0").unwrap();
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), SEED).unwrap();
    let mut settings = s3.settings();
    settings.push(format!("archive.signing_key_file={}", key.path().display()));
    let settings: Vec<&str> = settings.iter().map(String::as_str).collect();
    let mut cluster = cluster_with(1, &Postgres::dsn(&[postgres.address()]), &settings).await;
    let put = async |cluster: &mut Cluster, id: &str| {
        cluster.cp(1).api().put("routes", id, &route(id)).await.unwrap();
    };
    let archived = async |cluster: &mut Cluster| {
        until("everything is in the archive", Duration::from_secs(30), async || {
            let mut api = cluster.cps[0].api();
            let status = api.call("GET", "/v1/status", &[], String::new()).await?.expect(&[200])?.json()?;
            let position = status["archive"]["position"].as_str().unwrap_or_default().to_owned();
            let revision = api.status().await?.revision;
            anyhow_ensure(position.ends_with(&format!("-{revision}")), &format!("{status}"))
        })
        .await
        .unwrap();
    };
    for n in 0..5 {
        put(&mut cluster, &format!("both-{n}")).await;
    }
    archived(&mut cluster).await;

    // S3 fails; PostgreSQL has more.
    s3.set(Some(Fault::Status(503)));
    put(&mut cluster, "recorded").await;
    audit(&cluster, &postgres).await;
    disaster(&mut cluster).await;
    s3.set(None);
    let flags = ["--from=auto", "--witness-window=0s"];
    let said = come_back(&mut cluster, &flags).await;
    assert!(said.contains("it is the beginning of the newest older=\"the archive"), "{said}");
    assert_eq!(cluster.agree(READY_MAX).await.unwrap().0, "2-6");
    put(&mut cluster, "second-life").await;
    audit(&cluster, &postgres).await;
    archived(&mut cluster).await;

    // PostgreSQL fails; S3 has more.
    postgres.kill().await.unwrap();
    put(&mut cluster, "archived-1").await;
    put(&mut cluster, "archived-2").await;
    archived(&mut cluster).await;
    let digest = cluster.cp(1).api().status().await.unwrap().digest;
    disaster(&mut cluster).await;
    postgres.start().await.unwrap();
    let said = come_back(&mut cluster, &flags).await;
    assert!(said.contains("it is the beginning of the newest older=\"the record"), "{said}");
    assert_eq!(cluster.agree(READY_MAX).await.unwrap(), ("3-9".to_owned(), digest));
    put(&mut cluster, "third-life").await;
    // The record goes on; what it never got stands in it as the base of the new life.
    until("the record comes to the head", DRAIN_MAX, async || {
        let status = cluster.cps[0].api().status().await?;
        let cursor = postgres.sql("SELECT epoch, revision, encode(digest, 'hex') FROM holdfast.cursor").await?;
        anyhow_ensure(cursor == format!("3|{}|{}", status.revision, status.digest), &cursor)
    })
    .await
    .unwrap();
    let sql = "SELECT string_agg(id || ' ' || op, ', ' ORDER BY revision, seq) FROM holdfast.history WHERE epoch = 3";
    assert_eq!(postgres.sql(sql).await.unwrap(), "archived-1 base, archived-2 base, third-life create");
    archived(&mut cluster).await;

    // PostgreSQL is lost for good: another one takes its place, and is filled from the cluster.
    postgres.kill().await.unwrap();
    drop(postgres);
    let postgres = Postgres::primary("pg-2", &layout().postgres(1)).await.unwrap();
    until("the new system is noticed", DRAIN_MAX, async || {
        let record = record_of(&mut cluster.cps[0].api()).await?;
        anyhow_ensure(record["reason"] == "other-system", &record.to_string())
    })
    .await
    .unwrap();
    let off = cluster.cp(1).api().call("POST", "/v1/record/off", &[], String::new()).await.unwrap();
    off.expect(&[200, 204]).unwrap();
    until("the record is there again", DRAIN_MAX, async || {
        let status = cluster.cps[0].api().status().await?;
        let cursor = postgres.sql("SELECT epoch, revision, encode(digest, 'hex') FROM holdfast.cursor").await?;
        anyhow_ensure(cursor == format!("3|{}|{}", status.revision, status.digest), &cursor)
    })
    .await
    .unwrap();
    let sql = "SELECT count(*) FROM holdfast.current AS c JOIN holdfast.history AS h USING (kind, id, body, meta)
        WHERE h.op = 'base'";
    assert_eq!(postgres.sql(sql).await.unwrap(), "10");
}
