//! Fifty proxies in three regions, a client that waits for them with each of its changes, and control-plane nodes that die
//! meanwhile. After each 200 the first request to every proxy in scope must get the new answer.
//!
//! The nodes are real programs. The proxies are real too (listeners, table, disk, feed), and run in this process: fifty
//! processes would measure the machine. The change is a redirect whose target counts, so that an answer tells its version.

use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use dp_proxy::run::{Proxy, Seams};
use dp_proxy::settings::Settings;
use futures_util::future::join_all;
use serde_json::json;
use tempfile::TempDir;

use crate::cluster::{Api, Cluster, READY_MAX};
use crate::http::{Client, Reply};
use crate::layout::Layout;
use crate::luck::Luck;
use crate::patience::until;

/// Where proxies are.
pub const REGIONS: [&str; 3] = ["eu", "us", "ap"];

/// How long a client waits for the fleet: a killed node is back, and known to have forgotten nobody, well before.
const WAIT: Duration = Duration::from_secs(8);

/// After so long a node that was restarted is out of the reckoning.
const LOST_AFTER: &str = "feed.lost_after=1500ms";

/// A node is killed at some moment of a change, up to so long after its beginning.
const KILL_WITHIN_MICROS: u64 = 40_000;

/// Attempts at one change before it counts as refused for good.
const ATTEMPTS_MAX: usize = 50;

/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(50);

/// What is to be done.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// How many proxies.
    pub proxies: usize,
    /// How many changes must be answered with a 200.
    pub changes: usize,
    /// A node is killed, and comes back, with each so many changes.
    pub kill_every: usize,
    /// Decides who is killed when, who is asked, and which changes have a scope.
    pub seed: u64,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Told {
    /// Changes that were answered with a 200 or 201.
    pub served: usize,
    /// Of these, such with a region as their scope.
    pub scoped: usize,
    /// Changes that were answered with a 202.
    pub not_yet: usize,
    /// Attempts without a verdict, which were made again.
    pub again: usize,
    /// Nodes that were killed.
    pub kills: usize,
    /// First requests after a 200, each of which got the new answer.
    pub first_requests: usize,
    /// How long the answers with a 200 took, in order.
    pub times: Vec<Duration>,
}

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let at = |share: usize| self.times.get(self.times.len() * share / 100).copied().unwrap_or_default();
        write!(
            f,
            "{} changes served ({} of them with a scope), {} not in time, {} attempts made again, {} nodes killed; \
             {} first requests got the new answer; waited p50 {:?}, p99 {:?}, at most {:?}",
            self.served,
            self.scoped,
            self.not_yet,
            self.again,
            self.kills,
            self.first_requests,
            at(50),
            at(99),
            self.times.last().copied().unwrap_or_default()
        )
    }
}

/// A proxy and whoever asks it.
struct Member {
    region: &'static str,
    _proxy: Proxy,
    client: Client,
    _dir: TempDir,
}

/// Does it.
///
/// # Errors
/// The first breach: a proxy in scope whose first request after a 200 got another answer; or what did not start.
pub async fn run(plan: Plan) -> Result<Told> {
    let layout = Layout::Test { cluster: 0 };
    let mut cluster = Cluster::start(layout, 3, 0, &[LOST_AFTER, "feed.heartbeat=250ms"]).await?;
    cluster.cp(1).api().put("routes", "probe", &route(0)).await?;
    let endpoints: Vec<String> = cluster.cps.iter().map(|cp| cp.addresses.feed.clone()).collect();
    let mut fleet = Vec::new();
    for number in 0..plan.proxies {
        fleet.push(member(number, &endpoints).await?);
    }
    for member in &mut fleet {
        until("every proxy serves", READY_MAX, async || shows(&member.client.get("/probe").await?, 0)).await?;
    }
    let mut luck = Luck::of(&[plan.seed, 50]);
    let mut told = Told::default();
    let mut version = 0;
    while told.served < plan.changes {
        version += 1;
        ensure!(version < plan.changes * 2 + 100, "too few changes are served: {told}");
        let scope = (luck.below(4) == 0).then(|| REGIONS[pick(&mut luck, REGIONS.len())]);
        let first = pick(&mut luck, 3);
        let nodes: Vec<String> = cluster.cps.iter().map(|cp| cp.addresses.admin.clone()).collect();
        let victim =
            (version % plan.kill_every == 0).then(|| u16::try_from(pick(&mut luck, 3)).unwrap_or_default() + 1);
        let delay = Duration::from_micros(luck.below(KILL_WITHIN_MICROS));
        let began = Instant::now();
        let dying = async {
            let Some(victim) = victim else { return Ok(()) };
            tokio::time::sleep(delay).await;
            cluster.cp(victim).kill().await?;
            cluster.cp(victim).run()
        };
        let (reply, died) = tokio::join!(change(&nodes, first, version, scope, &mut told.again), dying);
        let reply = reply?;
        died?;
        if let Some(victim) = victim {
            told.kills += 1;
            cluster.cp(victim).ready().await?;
        }
        if reply.status == 202 {
            told.not_yet += 1;
            continue;
        }
        told.served += 1;
        told.scoped += usize::from(scope.is_some());
        told.times.push(began.elapsed());
        let concerned = fleet.iter_mut().filter(|member| scope.is_none_or(|scope| scope == member.region));
        let asked = join_all(concerned.map(async |member| {
            let reply = member.client.get("/probe").await?;
            shows(&reply, version).with_context(|| format!("a proxy in {}, scope {scope:?}", member.region))
        }))
        .await;
        told.first_requests += asked.len();
        asked.into_iter().collect::<Result<Vec<()>>>()?;
    }
    told.times.sort_unstable();
    ensure!(plan.changes < plan.kill_every || told.kills > 0, "nobody was killed");
    Ok(told)
}

fn pick(luck: &mut Luck, of: usize) -> usize {
    usize::try_from(luck.below(of as u64)).unwrap_or_default()
}

async fn member(number: usize, endpoints: &[String]) -> Result<Member> {
    let dir = crate::leftovers::directory("fleet-")?;
    let region = REGIONS[number % REGIONS.len()];
    let mut settings = Settings { data_dir: dir.path().to_owned(), ..Settings::default() };
    settings.node.name = format!("dp-{number}");
    region.clone_into(&mut settings.node.region);
    settings.control_plane.endpoints = endpoints.to_vec();
    let anywhere: std::net::SocketAddr = ([127, 0, 0, 1], 0).into();
    for address in [&mut settings.status.listen, &mut settings.metrics.listen, &mut settings.control.listen] {
        *address = anywhere.to_string().parse()?;
    }
    settings.proxy.listen = vec![anywhere.to_string().parse()?];
    settings.proxy.tls.listen = Vec::new();
    settings.proxy.workers = 1;
    let proxy = Proxy::start(settings.check()?, Seams::default()).await?;
    let client = Client::new(&proxy.addresses()[0].to_string());
    Ok(Member { region, _proxy: proxy, client, _dir: dir })
}

fn route(version: usize) -> serde_json::Value {
    json!({
        "uri": "/probe",
        "plugins": { "redirect": { "uri": format!("/version-{version}"), "ret_code": 302 } },
        "upstream": { "nodes": {} },
    })
}

fn shows(reply: &Reply, version: usize) -> Result<()> {
    let (location, wanted) = (reply.header("location"), format!("/version-{version}"));
    ensure!(location == Some(&wanted), "{} {location:?} in place of {wanted}", reply.status);
    Ok(())
}

/// Makes a change under one id until somebody says what became of it, beginning with node `first`.
async fn change(
    nodes: &[String],
    first: usize,
    version: usize,
    scope: Option<&str>,
    again: &mut usize,
) -> Result<Reply> {
    let scope = scope.map(|region| format!("&scope=region:{region}")).unwrap_or_default();
    let path = format!("/apisix/admin/routes/probe?wait={}{scope}", WAIT.as_millis());
    let request = format!("change-{version}");
    let mut last = String::new();
    for attempt in 0..ATTEMPTS_MAX {
        let mut api = Api::at(&nodes[(first + attempt) % nodes.len()]).patient(WAIT + Duration::from_secs(4));
        let headers = [("idempotency-key", request.as_str())];
        match api.call("PUT", &path, &headers, route(version).to_string()).await {
            Ok(reply) if [200, 201, 202].contains(&reply.status) => return Ok(reply),
            Ok(reply) if [503, 504].contains(&reply.status) => last = reply.text(),
            Ok(reply) => bail!("{}: {}", reply.status, reply.text()),
            Err(e) => last = format!("{e:#}"),
        }
        *again += 1;
        tokio::time::sleep(PAUSE).await;
    }
    bail!("change {version} has no outcome after {ATTEMPTS_MAX} attempts; last: {last}")
}
