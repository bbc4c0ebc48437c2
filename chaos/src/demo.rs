//! The demo: the whole of Holdfast on one machine, before your eyes.
//!
//! Every sentence that it prints was measured or checked just before; the first that does not hold ends it with an error.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::Instant;

use crate::cluster::{Cluster, KEY};
use crate::http::Client;
use crate::layout::Layout;
use crate::load::Load;
use crate::sample;
use crate::upstream::Upstream;

/// Routes in the sample configuration.
const ROUTES: usize = 1000;

/// How long the traffic goes on before and after all control-plane nodes are killed.
const UNDER_LOAD: Duration = Duration::from_secs(2);

/// How long a change may take to be served everywhere.
const SERVED_MAX: Duration = Duration::from_secs(5);

/// How long everybody may take to agree after the control plane has come back.
const AGREE_MAX: Duration = Duration::from_secs(30);

/// What stands at the end of the demo, until it is dropped.
#[derive(Debug)]
pub struct Demo {
    cluster: Cluster,
    _upstreams: [Upstream; 2],
}

/// Runs the demo to its end, and leaves everything running.
///
/// # Errors
/// The first thing that did not hold.
pub async fn run(layout: Layout) -> Result<Demo> {
    let began = Instant::now();
    step("Starting two sample upstreams, three control-plane nodes and two proxies");
    let blue = Upstream::start("blue", &layout.upstream(1)).await?;
    let green = Upstream::start("green", &layout.upstream(2)).await?;
    let mut cluster = Cluster::start(layout, 3, 2, &[]).await?;
    let leader = cluster.leader().await?;
    let follower = if leader == 1 { 2 } else { 1 };
    for cp in &cluster.cps {
        let role = if cp.number == leader { "leader  " } else { "follower" };
        say(&format!(
            "{} {role}  Admin API http://{}  data {}",
            cp.name(),
            cp.addresses.admin,
            cp.data_dir().display()
        ));
    }
    for dp in &cluster.dps {
        say(&format!(
            "{} proxy     traffic   http://{}  data {}",
            dp.name(),
            dp.addresses.proxy,
            dp.data_dir().display()
        ));
    }
    say(&format!("all up after {:.1} s", began.elapsed().as_secs_f64()));

    step(&format!("Loading {ROUTES} routes in one transaction, through cp-{follower}, which does not lead"));
    let resources = sample::configuration(ROUTES, &blue.address, &green.address);
    let mut api = cluster.cp(follower).api();
    let began = Instant::now();
    let body = sample::transaction(&resources).to_string();
    api.call("POST", "/v1/transactions", &[], body).await?.expect(&[200])?;
    say(&format!("{} resources committed by a quorum after {} ms", resources.len(), began.elapsed().as_millis()));
    for dp in &cluster.dps {
        dp.ready().await?;
    }
    let (position, _) = cluster.agree(SERVED_MAX).await?;
    say(&format!("both proxies serve them, at position {position}"));

    step("A request through each proxy");
    for dp in &cluster.dps {
        let answer = dp.client().get("/hello").await?.expect(&[200])?.text();
        ensure!(answer == "blue was asked for /hello\n", "{}: {answer}", dp.name());
        say(&format!("GET http://{}/hello -> {}", dp.addresses.proxy, answer.trim_end()));
    }

    step(&format!("Moving /hello from blue to green, through cp-{follower}"));
    let served = change(&mut cluster, follower).await?;
    say(&format!("answered 200 after {} ms", served.answered.as_millis()));
    for (name, after) in &served.proxies {
        say(&format!("{name} serves it {:.1} ms after the request was sent", after.as_secs_f64() * 1000.0));
    }

    step("Killing all three control-plane nodes with SIGKILL, under load");
    let addresses: Vec<String> = cluster.dps.iter().map(|dp| dp.addresses.proxy.clone()).collect();
    let load = Load::start(&addresses, 8, &sample::open_paths(ROUTES), "blue ");
    tokio::time::sleep(UNDER_LOAD).await;
    for number in 1..=3 {
        cluster.cp(number).kill().await?;
    }
    tokio::time::sleep(UNDER_LOAD).await;
    let report = load.stop().await;
    say(&format!(
        "{} requests answered, {} failed; the slowest took {} ms",
        report.answered,
        report.failed,
        report.slowest.as_millis()
    ));
    ensure!(report.failed == 0, "requests failed: {:#?}", report.failures);
    ensure!(report.answered > 100, "only {} requests: that was no load", report.answered);

    step("Killing dp-2 and starting it again, with no control plane at all");
    cluster.dp(2).kill().await?;
    let began = Instant::now();
    cluster.dp(2).run()?;
    cluster.dp(2).ready().await?;
    let answer = cluster.dp(2).client().get("/hello").await?.expect(&[200])?.text();
    ensure!(answer == "green was asked for /hello\n", "{answer}");
    say(&format!(
        "ready after {} ms, from its own disk; GET /hello -> {}",
        began.elapsed().as_millis(),
        answer.trim_end()
    ));

    step("Starting the control plane again");
    let began = Instant::now();
    for number in 1..=3 {
        cluster.cp(number).run()?;
    }
    for number in 1..=3 {
        cluster.cp(number).ready().await?;
    }
    say(&format!("a quorum serves writes again after {} ms", began.elapsed().as_millis()));
    cluster.cp(1).api().put("routes", "r0", &sample::hello("blue")).await?;
    let (position, digest) = cluster.agree(AGREE_MAX).await?;
    say(&format!("one more change, and all five stand at position {position} with digest {}…", &digest[..16]));
    Ok(Demo { cluster, _upstreams: [blue, green] })
}

/// When a change was answered, and when each proxy served it, both from the moment it was sent.
struct Served {
    answered: Duration,
    proxies: Vec<(String, Duration)>,
}

async fn change(cluster: &mut Cluster, through: u16) -> Result<Served> {
    let mut api = cluster.cp(through).api();
    // Both are asked over connections that are open already, as their clients' are.
    api.status().await?;
    let mut asking = tokio::task::JoinSet::new();
    let mut clients: Vec<(String, Client)> = cluster.dps.iter().map(|dp| (dp.name(), dp.client())).collect();
    for (_, client) in &mut clients {
        client.get("/hello").await?;
    }
    let began = Instant::now();
    for (name, client) in clients {
        asking.spawn(async move {
            let served = tokio::time::timeout(SERVED_MAX, first_green(client, began)).await;
            anyhow::Ok((name, served.context("the change is not served")??))
        });
    }
    api.put("routes", "r0", &sample::hello("green")).await?;
    let answered = began.elapsed();
    let mut proxies = Vec::new();
    while let Some(served) = asking.join_next().await {
        proxies.push(served.context("a watcher has ended")??);
    }
    proxies.sort();
    Ok(Served { answered, proxies })
}

/// Asks until the change is served; when that was.
async fn first_green(mut client: Client, began: Instant) -> Result<Duration> {
    while !client.get("/hello").await?.body.starts_with(b"green ") {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    Ok(began.elapsed())
}

impl Demo {
    /// Says what a newcomer may try on what is running.
    pub fn explain(&mut self) -> Result<()> {
        step("It stays up. Try, in another terminal:");
        let (admin, other) = (self.cluster.cp(1).addresses.admin.clone(), self.cluster.cp(2).addresses.admin.clone());
        let proxy = self.cluster.dp(1).addresses.proxy.clone();
        let leader = self.cluster.cp(1).process()?.pid().unwrap_or_default();
        let status = self.cluster.dp(1).addresses.status.clone();
        let metrics = self.cluster.dp(1).addresses.metrics.clone();
        let hfctl = crate::binaries::find("hfctl")?;
        for line in [
            format!("curl http://{proxy}/hello"),
            format!("curl -H 'X-API-KEY: {KEY}' http://{admin}/apisix/admin/routes/r0"),
            format!(
                "curl -X PUT -H 'X-API-KEY: {KEY}' http://{other}/apisix/admin/routes/mine -d '{{\"uri\": \"/mine\", \"upstream_id\": \"green\"}}'"
            ),
            format!("curl http://{proxy}/mine"),
            format!("HOLDFAST_ADMIN_KEY={KEY} {} --server http://{admin} members", hfctl.display()),
            format!("curl http://{status}/status/config       # where this proxy stands"),
            format!("curl http://{metrics}/metrics            # what it has counted"),
            format!("kill -9 {leader}                               # cp-1; the proxies will not notice"),
        ] {
            say(&line);
        }
        println!("\nCtrl-C ends everything and leaves nothing behind.");
        Ok(())
    }
}

fn step(title: &str) {
    println!("\n== {title}");
}

fn say(line: &str) {
    println!("   {line}");
}
