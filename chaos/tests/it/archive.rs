//! The archive in S3: proxies start from it when nothing else is left, whatever goes wrong with it is felt by nobody, and
//! a cluster whose disks are all lost comes back from it.

use std::time::{Duration, Instant};

use chaos::cluster::{Cluster, Cp, Dp, READY_MAX};
use chaos::http::Client;
use chaos::layout::Layout;
use chaos::patience::until;
use chaos::s3::{Fault, S3};
use serde_json::{Value, json};

use super::admin_load::{WriteTimes, anyhow_ensure};

/// RFC 8032, §7.1, test 1.
const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
const PUBLIC: &str = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a";

/// A proxy that cannot be told of a change within this has missed it.
const ARCHIVED_MAX: Duration = Duration::from_secs(10);

pub(crate) fn texts(settings: &[String]) -> Vec<&str> {
    settings.iter().map(String::as_str).collect()
}

/// Nodes that archive to an object store, and what that takes.
pub(crate) struct Setup {
    pub(crate) cluster: Cluster,
    s3: S3,
    cp: Vec<String>,
    /// What a proxy needs to read there.
    pub(crate) dp: Vec<String>,
    _key: tempfile::NamedTempFile,
}

async fn setup(number: u8, cps: u16) -> Setup {
    setup_with(number, cps, &[]).await
}

/// The same with more settings of the nodes.
pub(crate) async fn setup_with(number: u8, cps: u16, settings: &[&str]) -> Setup {
    let layout = Layout::Test { cluster: number };
    let s3 = S3::start("127.0.0.1:0").unwrap();
    let key = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(key.path(), SEED).unwrap();
    let mut cp = s3.settings();
    cp.push(format!("archive.signing_key_file={}", key.path().display()));
    let mut dp = s3.settings();
    dp.push(format!("archive.trusted_keys=[{PUBLIC}]"));
    dp.push("archive.poll=500ms".to_owned());
    cp.extend(settings.iter().map(|setting| (*setting).to_owned()));
    let cluster = Cluster::start(layout, cps, 0, &texts(&cp)).await.unwrap();
    Setup { cluster, s3, cp, dp, _key: key }
}

async fn archive_of(cp: &Cp) -> anyhow::Result<Value> {
    let reply = cp.api().call("GET", "/v1/status", &[], String::new()).await?.expect(&[200])?;
    Ok(reply.json()?["archive"].take())
}

/// Waits until everything is there.
pub(crate) async fn archived(cluster: &mut Cluster, within: Duration) -> u64 {
    let leader = cluster.leader().await.unwrap();
    let cp = cluster.cp(leader);
    until("everything is in the archive", within, async || {
        let revision = cp.api().status().await?.revision;
        let archive = archive_of(cp).await?;
        let position = archive["position"].as_str().unwrap_or_default().to_owned();
        anyhow_ensure(position.ends_with(&format!("-{revision}")), &format!("at {revision}: {archive}"))?;
        Ok(revision)
    })
    .await
    .unwrap()
}

fn route(i: u32) -> Value {
    json!({ "uri": format!("/r/{i}"), "upstream": { "nodes": { "127.0.0.1:1": 1 }, "type": "roundrobin" } })
}

async fn config(dp: &Dp) -> anyhow::Result<Value> {
    Client::new(&dp.addresses.status).get("/status/config").await?.expect(&[200])?.json()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_with_an_empty_disk_and_no_control_plane_serves_ten_thousand_routes_from_s3_within_five_seconds() {
    let mut setup = setup(0, 1).await;
    let operations: Vec<Value> = (0..10_000)
        .map(|i| json!({ "op": "put", "kind": "routes", "id": format!("r{i}"), "value": route(i) }))
        .collect();
    let body = json!({ "operations": operations }).to_string();
    let mut api = setup.cluster.cp(1).api().patient(Duration::from_secs(60));
    api.call("POST", "/v1/transactions", &[], body).await.unwrap().expect(&[200, 201]).unwrap();
    archived(&mut setup.cluster, Duration::from_secs(60)).await;
    setup.cluster.cp(1).kill().await.unwrap();

    let began = Instant::now();
    setup.cluster.add_dp_with(1, &texts(&setup.dp)).await.unwrap();
    let dp = setup.cluster.dp(1);
    dp.ready().await.unwrap();
    let took = began.elapsed();
    let view = config(dp).await.unwrap();
    assert_eq!((view["resources"].as_u64(), view["source"].as_str()), (Some(10_000), Some("archive")));
    // There is nobody at 127.0.0.1:1: the route is matched, its upstream is not there.
    assert_eq!(dp.client().get("/r/9999").await.unwrap().status, 502);
    assert_eq!(dp.client().get("/nowhere").await.unwrap().status, 404);
    assert!(took < Duration::from_secs(5), "it took {took:?}");
    println!("10,000 routes from S3 in {took:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_has_nothing_but_an_s3_that_fails_serves_nothing_and_comes_on_when_it_answers() {
    let mut setup = setup_with(4, 1, &["archive.interval=200ms"]).await;
    setup.cluster.cp(1).api().put("routes", "r0", &route(0)).await.unwrap();
    let revision = archived(&mut setup.cluster, ARCHIVED_MAX).await;
    setup.cluster.cp(1).kill().await.unwrap();
    for (number, fault) in [(1, Fault::Silence), (2, Fault::Status(503))] {
        let hit = setup.s3.hit();
        setup.s3.set(Some(fault));
        setup.cluster.add_dp_with(number, &texts(&setup.dp)).await.unwrap();
        let dp = setup.cluster.dp(number);
        until("the proxy has asked", Duration::from_secs(10), async || anyhow_ensure(setup.s3.hit() > hit, "not yet"))
            .await
            .unwrap();
        assert_eq!(config(dp).await.unwrap()["source"], "none", "{fault:?}");
        dp.client().get("/r/0").await.expect_err("it has no configuration, and takes no traffic");
        setup.s3.set(None);
        let healed = Instant::now();
        dp.ready().await.unwrap();
        // Three attempts at a request, of 2 s each, are under way at the most.
        assert!(healed.elapsed() < Duration::from_secs(10), "{fault:?}: {:?}", healed.elapsed());
        let view = config(dp).await.unwrap();
        assert_eq!(
            (view["revision"].as_u64(), view["source"].as_str()),
            (Some(revision), Some("archive")),
            "{fault:?}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_s3_does_no_write_and_no_stream_feels_it_and_no_proxy_takes_what_is_not_good() {
    let mut setup = setup(1, 1).await;
    let mut api = setup.cluster.cp(1).api();
    api.put("routes", "r0", &route(0)).await.unwrap();
    archived(&mut setup.cluster, ARCHIVED_MAX).await;
    setup.cluster.add_dp_with(1, &texts(&setup.dp)).await.unwrap();
    setup.cluster.dp(1).ready().await.unwrap();
    let term = api.status().await.unwrap().term;
    let mut n = 1;
    for fault in [
        Fault::Status(503),
        Fault::Status(403),
        Fault::Silence,
        Fault::SlowBody,
        Fault::CutBody,
        Fault::FlippedBit,
        Fault::StaleList,
    ] {
        let hit = setup.s3.hit();
        setup.s3.set(Some(fault));
        let mut times = WriteTimes::default();
        for _ in 0..20 {
            let began = Instant::now();
            api.put("routes", &format!("r{n}"), &route(n)).await.unwrap();
            times.note(began.elapsed());
            n += 1;
        }
        times.are_short(&format!("{fault:?}"));
        setup.cluster.agree(Duration::from_secs(5)).await.unwrap();
        until("the archiver has met the fault", Duration::from_secs(20), async || {
            anyhow_ensure(setup.s3.hit() > hit, "not yet")
        })
        .await
        .unwrap();
        setup.s3.set(None);
        archived(&mut setup.cluster, Duration::from_secs(30)).await;
        println!("{fault:?}: healed");
    }
    assert_eq!(api.status().await.unwrap().term, term, "no election was caused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_whose_disks_are_all_lost_is_back_from_s3_within_a_minute() {
    let mut setup = setup(2, 3).await;
    let leader = setup.cluster.leader().await.unwrap();
    for i in 0..50 {
        setup.cluster.cp(leader).api().put("routes", &format!("r{i}"), &route(i)).await.unwrap();
    }
    let revision = archived(&mut setup.cluster, ARCHIVED_MAX).await;
    setup.cluster.add_dp_with(1, &texts(&setup.dp)).await.unwrap();
    setup.cluster.dp(1).ready().await.unwrap();
    let (_, digest) = setup.cluster.agree(READY_MAX).await.unwrap();

    // The disaster.
    for number in 1..=3 {
        setup.cluster.cp(number).kill().await.unwrap();
        std::fs::remove_dir_all(setup.cluster.cp(number).data_dir()).unwrap();
    }
    let began = Instant::now();
    setup.cluster.cp(1).bootstrap(&["--from=archive", "--witness-window=3s"]).await.unwrap();
    setup.cluster.cp(1).run().unwrap();
    setup.cluster.cp(1).ready().await.unwrap();
    let peers = [setup.cluster.cp(1).addresses.peer.clone()];
    for number in 2..=3 {
        let cp = setup.cluster.cp(number);
        cp.join(&peers);
        cp.run().unwrap();
        cp.ready().await.unwrap();
    }
    let took = began.elapsed();
    assert!(took < Duration::from_secs(60), "it took {took:?}");
    // Everything is there, in a new life, and the proxy follows it.
    let (position, same) = setup.cluster.agree(READY_MAX).await.unwrap();
    assert_eq!((position, same), (format!("2-{revision}"), digest));
    setup.cluster.cp(1).api().put("routes", "after", &route(99)).await.unwrap();
    setup.cluster.agree(READY_MAX).await.unwrap();
    archived(&mut setup.cluster, Duration::from_secs(20)).await;
    println!("back in {took:?}; settings {:?}", setup.cp.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_does_not_come_back_below_what_a_proxy_has_served() {
    let mut setup = setup(3, 1).await;
    setup.cluster.cp(1).api().put("routes", "r0", &route(0)).await.unwrap();
    archived(&mut setup.cluster, ARCHIVED_MAX).await;
    setup.cluster.add_dp_with(1, &texts(&setup.dp)).await.unwrap();
    setup.cluster.dp(1).ready().await.unwrap();
    // S3 fails, and one more change is made, which the proxy serves.
    setup.s3.set(Some(Fault::Status(503)));
    setup.cluster.cp(1).api().put("routes", "r1", &route(1)).await.unwrap();
    setup.cluster.agree(READY_MAX).await.unwrap();
    setup.cluster.cp(1).kill().await.unwrap();
    setup.s3.set(None);
    std::fs::remove_dir_all(setup.cluster.cp(1).data_dir()).unwrap();
    let refused = setup.cluster.cp(1).bootstrap(&["--from=archive", "--witness-window=12s"]).await.unwrap_err();
    assert!(refused.to_string().contains("1 changes would be lost"), "{refused:#}");
    let accepted = ["--from=archive", "--witness-window=12s", "--accept-loss"];
    setup.cluster.cp(1).bootstrap(&accepted).await.unwrap();
    // The epoch is taken.
    std::fs::remove_dir_all(setup.cluster.cp(1).data_dir()).unwrap();
    let refused = setup.cluster.cp(1).bootstrap(&["--from=archive", "--witness-window=0s"]).await.unwrap_err();
    assert!(refused.to_string().contains("epoch 2 is claimed"), "{refused:#}");
}
