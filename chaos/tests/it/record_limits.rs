//! The durable record where PostgreSQL has no more room: connections, disk, and the bounds of the backlog; where it must be
//! reached by TLS; and where the disks of nodes are lost beside it.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use chaos::cluster::{Cluster, READY_MAX};
use chaos::patience::until;
use chaos::postgres::Postgres;
use serde_json::{Value, json};

use super::admin_load::{AdminLoad, WriteTimes};
use super::archive::{archived, setup_with, texts};
use super::record::{DRAIN_MAX, audit, cluster_with, layout, record_of, route};

async fn says(cluster: &Cluster, reason: &str) -> Value {
    until(reason, DRAIN_MAX, async || {
        let leader = cluster.leader().await?;
        let record = record_of(&mut cluster.cps[usize::from(leader) - 1].api()).await?;
        ensure!(record["reason"] == reason, "{record}");
        Ok(record)
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn out_of_connections_it_says_so_and_drains_when_there_are_some() {
    let postgres = Postgres::primary("pg-1", &layout().postgres(1)).await.unwrap();
    let held = postgres.use_up_connections().await.unwrap();
    let mut cluster = cluster_with(1, &Postgres::dsn(&[postgres.address()]), &[]).await;
    let mut times = WriteTimes::default();
    for n in 0..20 {
        let began = Instant::now();
        cluster.cp(1).api().put("routes", &format!("r{n}"), &route("nobody is told")).await.unwrap();
        times.note(began.elapsed());
    }
    times.are_short("no connections");
    says(&cluster, "too-many-connections").await;
    drop(held);
    audit(&cluster, &postgres).await;
}

/// A small file system in memory. It is unmounted when this is dropped.
struct Tmpfs(PathBuf);

impl Tmpfs {
    fn mount(path: &Path, options: &str) -> Result<Self> {
        run("mount", &["-t", "tmpfs", "-o", options, "tmpfs", &path.display().to_string()])?;
        Ok(Self(path.to_owned()))
    }

    fn grow(&self, size: &str) -> Result<()> {
        run("mount", &["-o", &format!("remount,size={size}"), &self.0.display().to_string()])
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // What the server still holds open goes with it.
        let _ = run("umount", &["-l", &self.0.display().to_string()]);
    }
}

fn run(program: &str, args: &[&str]) -> Result<()> {
    let ran = std::process::Command::new(program).args(args).output()?;
    ensure!(ran.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&ran.stderr));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_full_disk_it_says_so_and_drains_when_there_is_room() {
    if !rustix::process::geteuid().is_root() {
        println!("only root can mount a small file system: not tried");
        return;
    }
    let postgres = Postgres::primary("pg-1", &layout().postgres(1)).await.unwrap();
    let small = postgres.directory("small").unwrap();
    let tmpfs = Tmpfs::mount(&small, "size=4m").unwrap();
    postgres.give(&small).unwrap();
    postgres.sql(&format!("CREATE TABLESPACE small LOCATION '{}'", small.display())).await.unwrap();
    postgres.sql("ALTER DATABASE postgres SET default_tablespace = small").await.unwrap();
    let mut cluster = cluster_with(3, &Postgres::dsn(&[postgres.address()]), &[]).await;
    cluster.cp(1).api().put("routes", "r0", &route("there is room")).await.unwrap();
    audit(&cluster, &postgres).await;
    // Text that does not compress, more of it than there is room for.
    let mut seed = 1u64;
    let mut noise = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        char::from(b'!' + u8::try_from((seed >> 33) % 90).unwrap())
    };
    for n in 0..60 {
        let text: String = (0..80_000).map(|_| noise()).collect();
        let mut body = route("large");
        body["vars"] = json!([["arg_a", "==", text]]);
        cluster.cp(1).api().put("routes", &format!("r{n}"), &body).await.unwrap();
    }
    let record = says(&cluster, "disk-full").await;
    assert!(record["lag_changes"].as_u64().unwrap() > 0, "{record}");
    // Writes and reads go on.
    cluster.cp(2).api().put("routes", "more", &route("written")).await.unwrap();
    assert!(cluster.cp(3).api().get("routes", "more").await.unwrap().is_some());
    tmpfs.grow("64m").unwrap();
    audit(&cluster, &postgres).await;
    drop(cluster);
    drop(postgres);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_backlog_is_bounded_in_bytes_and_in_age() {
    for (setting, words) in [("record.backlog_bytes=50KiB", " bytes behind"), ("record.backlog_age=3s", " s behind")] {
        let mut postgres = Postgres::primary("pg-1", &layout().postgres(1)).await.unwrap();
        let mut cluster = cluster_with(1, &Postgres::dsn(&[postgres.address()]), &[setting]).await;
        let mut api = cluster.cp(1).api();
        api.put("routes", "r", &route("first")).await.unwrap();
        audit(&cluster, &postgres).await;
        postgres.kill().await.unwrap();
        let began = Instant::now();
        let refused = until("the bound is reached", DRAIN_MAX, async || {
            let body = route(&"x".repeat(200)).to_string();
            let reply = api.call("PUT", "/apisix/admin/routes/r", &[], body).await?;
            ensure!(reply.status == 503, "{}", reply.status);
            Ok(reply)
        });
        let refused = refused.await.unwrap();
        assert!(refused.text().contains(words) && refused.text().contains("which is the bound"), "{}", refused.text());
        let record = record_of(&mut api).await.unwrap();
        let (changes, bytes) = (record["lag_changes"].as_u64().unwrap(), record["lag_bytes"].as_u64().unwrap());
        if words.contains("bytes") {
            assert!(bytes >= 50 << 10 && bytes < (50 << 10) + 2 * bytes / changes, "no more than one over: {record}");
        } else {
            assert!(began.elapsed() >= Duration::from_secs(3) && changes > 3, "not before its time: {record}");
        }
        assert!(api.get("routes", "r").await.unwrap().is_some(), "reads go on");
        postgres.start().await.unwrap();
        audit(&cluster, &postgres).await;
        api.put("routes", "r", &route("again")).await.unwrap();
    }
}

/// An authority, called so, and a server's certificate for a name, as PEM: the authority's, the server's, its key.
fn certificates(called: &str, name: &str) -> (String, String, String) {
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.distinguished_name.push(DnType::CommonName, called);
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let server = CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
    (authority.pem(), server.pem(), key.serialize_pem())
}

#[tokio::test(flavor = "multi_thread")]
async fn tls_is_used_and_a_wrong_authority_or_name_is_refused() {
    let address = layout().postgres(1);
    let (host, _) = address.rsplit_once(':').unwrap();
    let (authority, certificate, key) = certificates("ours", host);
    let mut postgres = Postgres::prepare("pg-1", &address).await.unwrap();
    let certificate = postgres.file("server.pem", certificate.as_bytes()).unwrap();
    let key = postgres.file("server.key", key.as_bytes()).unwrap();
    let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
    postgres.set(&["ssl=on", &format!("ssl_cert_file={certificate}"), &format!("ssl_key_file={key}")]);
    postgres.start().await.unwrap();
    let files = tempfile::tempdir().unwrap();
    let ca = |name: &str, pem: &str| {
        let path = files.path().join(name);
        std::fs::write(&path, pem).unwrap();
        format!("record.ca_file={}", path.display())
    };
    let dsn = Postgres::dsn(&[postgres.address()]);
    let (good, other) = (ca("good.pem", &authority), ca("other.pem", &certificates("theirs", host).0));
    let mut cluster = cluster_with(1, &dsn, &[&other]).await;
    cluster.cp(1).api().put("routes", "r0", &route("nobody is told")).await.unwrap();
    let record = says(&cluster, "unreachable").await;
    assert!(record["message"].as_str().unwrap().contains("UnknownIssuer"), "{record}");
    assert_eq!(postgres.sql("SELECT to_regclass('holdfast.cursor') IS NULL").await.unwrap(), "t");
    cluster.cp(1).kill().await.unwrap();
    cluster.cp(1).set(&[&good]);
    cluster.cp(1).run().unwrap();
    cluster.cp(1).ready().await.unwrap();
    audit(&cluster, &postgres).await;
    let encrypted = "SELECT count(*) > 0, bool_and(ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
        WHERE application_name = 'holdfast'";
    assert_eq!(postgres.sql(encrypted).await.unwrap(), "t|t");
    // The certificate is of the right authority and for another name.
    let (_, port) = postgres.address();
    let wrong = format!("record.dsn=host=127.0.0.1 port={port} user=holdfast dbname=postgres");
    let proxy = tokio::net::TcpListener::bind(format!("127.0.0.1:{port}")).await.unwrap();
    let target = address.clone();
    let carrying = tokio::spawn(async move {
        while let Ok((mut from, _)) = proxy.accept().await {
            let Ok(mut to) = tokio::net::TcpStream::connect(&target).await else { continue };
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut from, &mut to).await });
        }
    });
    cluster.cp(1).kill().await.unwrap();
    cluster.cp(1).set(&[&wrong]);
    cluster.cp(1).run().unwrap();
    cluster.cp(1).ready().await.unwrap();
    let record = says(&cluster, "unreachable").await;
    assert!(record["message"].as_str().unwrap().to_lowercase().contains("not valid for name"), "{record}");
    carrying.abort();
    // By its right name it is taken again.
    cluster.cp(1).kill().await.unwrap();
    cluster.cp(1).set(&[&dsn]);
    cluster.cp(1).run().unwrap();
    cluster.cp(1).ready().await.unwrap();
    cluster.cp(1).api().put("routes", "r1", &route("told")).await.unwrap();
    audit(&cluster, &postgres).await;
}

/// How long PostgreSQL stays away, in seconds: `HOLDFAST_TEST_OUTAGE_SECONDS`, 5 when it is not set.
fn outage() -> Duration {
    let seconds = std::env::var("HOLDFAST_TEST_OUTAGE_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(5))
}

/// Takes a node's disk and lets it join anew, under a new id.
async fn wiped_and_back(cluster: &mut Cluster, number: u16) {
    let others: Vec<u16> = (1..=3).filter(|other| *other != number).collect();
    let old = cluster.cp(number).api().status().await.unwrap().node_id;
    cluster.cp(number).kill().await.unwrap();
    cluster.cp(number).wipe().unwrap();
    let peers: Vec<String> = others.iter().map(|other| cluster.cp(*other).addresses.peer.clone()).collect();
    cluster.cp(number).join(&peers);
    cluster.cp(number).run().unwrap();
    cluster.cp(number).ready().await.unwrap();
    let new = cluster.cp(number).api().status().await.unwrap().node_id;
    let mut api = cluster.cp(others[0]).api();
    let path = format!("/v1/cluster/members/{old}");
    api.call("DELETE", &path, &[], String::new()).await.unwrap().expect(&[204]).unwrap();
    until("the new voter in the old one's place", READY_MAX, async || {
        let members = api.members().await?;
        let voters: Vec<u64> = members.iter().filter(|member| member.voter).map(|member| member.node_id).collect();
        ensure!(voters.len() == 3 && voters.contains(&new) && !voters.contains(&old), "voters {voters:?}");
        Ok(())
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_away_the_leader_killed_and_two_disks_lost_and_every_copy_is_the_same() {
    let mut postgres = Postgres::primary("pg-1", &layout().postgres(1)).await.unwrap();
    let dsn = Postgres::dsn(&[postgres.address()]);
    let settings = [&dsn, "record.connect_timeout=1s", "raft.snapshot_entries=200", "raft.keep_entries=100"];
    let mut setup = setup_with(0, 3, &settings).await;
    let cluster = &mut setup.cluster;
    for number in 1..=2 {
        cluster.add_dp(number).await.unwrap();
    }
    let load = AdminLoad::start(cluster, 4);
    load.progress(50, READY_MAX).await;
    postgres.kill().await.unwrap();
    let began = Instant::now();
    while began.elapsed() < outage() {
        load.progress(20, READY_MAX).await;
    }
    let leader = cluster.leader().await.unwrap();
    cluster.cp(leader).kill().await.unwrap();
    load.progress(30, READY_MAX).await;
    cluster.cp(leader).run().unwrap();
    cluster.cp(leader).ready().await.unwrap();
    for number in (1..=3).filter(|number| *number != leader) {
        wiped_and_back(cluster, number).await;
        load.progress(30, READY_MAX).await;
    }
    let record = record_of(&mut cluster.cp(leader).api()).await.unwrap();
    assert!(record["lag_changes"].as_u64().unwrap() > 100, "{record}");
    postgres.start().await.unwrap();
    load.progress(50, READY_MAX).await;
    let promises = load.stop().await;
    let (position, digest) = cluster.agree(READY_MAX).await.unwrap();
    audit(cluster, &postgres).await;
    for number in 1..=3 {
        promises.check(&mut cluster.cp(number).api()).await;
    }
    let recorded = postgres.sql("SELECT encode(digest, 'hex') FROM holdfast.cursor").await.unwrap();
    assert_eq!(recorded, digest, "at {position}");
    for revision in promises.revisions.iter().step_by(7) {
        let sql = format!("SELECT count(*) FROM holdfast.history WHERE revision = {revision}");
        assert_eq!(postgres.sql(&sql).await.unwrap(), "1", "acknowledged at {revision}");
    }
    let mut api = cluster.cp(leader).api();
    for path in ["/v1/record/verify", "/v1/record/verify?history_above=0"] {
        let found = api.call("GET", path, &[], String::new()).await.unwrap().expect(&[200]).unwrap().json().unwrap();
        assert_eq!(found["good"], true, "{found}");
    }
    // And what S3 has is the same again, to a proxy that has nothing else to go by.
    archived(cluster, DRAIN_MAX).await;
    for number in 1..=3 {
        cluster.cp(number).kill().await.unwrap();
    }
    cluster.add_dp_with(3, &texts(&setup.dp)).await.unwrap();
    cluster.dp(3).ready().await.unwrap();
    let view = cluster.dp(3).view().await.unwrap();
    assert_eq!((format!("{}-{}", view.epoch, view.revision), view.digest), (position, digest));
}
