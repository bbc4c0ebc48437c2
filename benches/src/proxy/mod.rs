//! What a request costs the proxy, beside what it costs others.
//!
//! Every proxy has one worker on a core of its own; the load and the origin share the other core. All run the whole time
//! and their turns alternate, so that whatever else the machine does hits all: the ratios of one round are worth more
//! than its figures. What counts is the proxy's processor time per request.

mod open_loop;
mod peers;
mod workload;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Args;
use tokio::net::TcpStream;

use crate::figures::{Results, as_millis, median, millis};
use crate::holdfast::api;
use crate::process::{directory, find};
use peers::{Peer, Programs};

#[derive(Args)]
pub(crate) struct Arguments {
    /// Routes of ours; the others have one.
    #[arg(long, default_value_t = 10_000)]
    routes: usize,
    /// Turns of each proxy at each workload.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// How long a turn is.
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Requests a second of the open loop: about six tenths of what nginx can do here.
    #[arg(long, default_value_t = 6_000)]
    rate: u64,
    /// Envoy's program; without it, Envoy is left out.
    #[arg(long)]
    envoy: Option<PathBuf>,
    /// Pingora's program (`make bench` builds it); without it, Pingora is left out.
    #[arg(long)]
    pingora: Option<PathBuf>,
    /// Workloads whose names contain this.
    #[arg(long, default_value = "")]
    only: String,
}

/// Idle connections over which memory is measured.
const IDLE: usize = 2_000;

/// Edits a second while the open loop runs.
const EDITS_PER_SECOND: u64 = 50;

pub(crate) async fn run(arguments: Arguments) -> Result<Results> {
    let dir = directory()?;
    let programs =
        Programs { dir: dir.path(), envoy: arguments.envoy.as_deref(), pingora: arguments.pingora.as_deref() };
    let certificate = programs.certificate()?;
    let _origin = programs.origin().await?;
    let (_control_plane, own) = peers::holdfast(dir.path(), arguments.routes, &certificate).await?;
    let mut all = vec![own];
    all.extend(programs.peers().await?);
    let mut results = Results::new("proxy", &["workload", "proxy", "figure", "ours against it", "goal"]);
    memory(&all, &mut results).await?;
    for workload in workload::ALL.iter().filter(|workload| workload.name.contains(&arguments.only)) {
        measure(workload, &all, &arguments, &mut results).await.with_context(|| workload.name)?;
    }
    if "open loop".contains(&arguments.only) {
        open_loops(&all, &arguments, &mut results).await?;
    }
    let size = fs::metadata(find("dp-proxy")?)?.len();
    results.row(row("binary, as built", "Holdfast", mebibytes(size), None, "25 MiB stripped"));
    results
        .note(format!("Holdfast has {} routes, the others one. CPU is that of the proxy's process.", arguments.routes));
    Ok(results)
}

/// One workload: rounds in which every proxy has its turn.
async fn measure(
    workload: &workload::Workload,
    all: &[Peer],
    arguments: &Arguments,
    results: &mut Results,
) -> Result<()> {
    let mut costs = vec![Vec::new(); all.len()];
    // The first round warms connections and caches up.
    for round in 0..=arguments.rounds {
        for (peer, costs) in all.iter().zip(&mut costs) {
            let before = peer.process.processor();
            let requests = workload.run(&peer.doors, arguments.seconds).await.with_context(|| peer.name)?;
            let used = peer.process.processor() - before;
            if round > 0 {
                costs.push(used.as_secs_f64() * 1e6 / requests as f64);
            }
        }
    }
    for (place, (peer, cost)) in all.iter().zip(&costs).enumerate() {
        // A tool that counts what nobody has answered would make a proxy look free.
        let is_measured = cost.iter().all(|cost| *cost > 0.0);
        let figure = match is_measured {
            true => format!("{:.1} us CPU a request", median(cost)),
            false => "not measured: it was not reached".to_owned(),
        };
        let ratios: Vec<f64> = costs[0].iter().zip(cost).map(|(own, other)| own / other).collect();
        let ratio = (place > 0 && is_measured).then(|| median(&ratios));
        let goal = workload.goals.iter().find(|(name, _)| *name == peer.name).map(|(_, goal)| goal);
        results.row(row(
            workload.name,
            peer.name,
            figure,
            ratio,
            goal.map(|goal| format!("{goal:.2}")).unwrap_or_default(),
        ));
    }
    Ok(())
}

/// Times at a fixed rate, and ours once more while edits arrive.
async fn open_loops(all: &[Peer], arguments: &Arguments, results: &mut Results) -> Result<()> {
    let mut times = vec![(Vec::new(), Vec::new()); all.len() + 1];
    for _ in 0..arguments.rounds {
        for (place, times) in times.iter_mut().enumerate() {
            // The last turn is ours again.
            let edits = all.get(place).is_none().then(edit);
            let peer = all.get(place).unwrap_or(&all[0]);
            let duration = Duration::from_secs(arguments.seconds);
            let taken = open_loop::run(&peer.doors.plain, "/r/5000/x", arguments.rate, duration).await;
            if let Some((stop, edits)) = edits {
                stop.store(true, Ordering::Relaxed);
                edits.await??;
            }
            let taken = taken.with_context(|| peer.name)?;
            times.0.push(as_millis(taken.quantile(0.5)));
            times.1.push(as_millis(taken.quantile(0.99)));
        }
    }
    let load = format!("{} requests a second", arguments.rate);
    for (place, (p50, p99)) in times.iter().enumerate() {
        let name = all.get(place).map_or("Holdfast, 50 edits/s", |peer| peer.name);
        let figure = format!("p50 {} ms, p99 {} ms", millis(median(p50)), millis(median(p99)));
        let ratio = |own: &[f64], other: &[f64]| {
            median(&own.iter().zip(other).map(|(own, other)| own / other).collect::<Vec<_>>())
        };
        let ratios = format!("{:.2}, {:.2}", ratio(&times[0].0, p50), ratio(&times[0].1, p99));
        let ratios = if place == 0 { String::new() } else { ratios };
        let goal = match place {
            1 => "0.90, 1.05",
            place if place == all.len() => "1, 1",
            _ => "",
        };
        results.row(vec![load.clone(), name.to_owned(), figure, ratios, goal.to_owned()]);
    }
    Ok(())
}

/// Edits one route after the other until it is told to stop.
fn edit() -> (Arc<AtomicBool>, tokio::task::JoinHandle<Result<()>>) {
    let stop = Arc::new(AtomicBool::new(false));
    let stopped = stop.clone();
    let edits = tokio::spawn(async move {
        let mut api = api(1);
        let mut tick = tokio::time::interval(Duration::from_millis(1000 / EDITS_PER_SECOND));
        for number in 0_u64.. {
            tick.tick().await;
            if stopped.load(Ordering::Relaxed) {
                break;
            }
            let body = format!(r#"{{"uri":"/r/{}/*","upstream_id":"origin","desc":"{number}"}}"#, number % 100);
            api.put("routes", &format!("r{}", number % 100), &body).await?;
        }
        Ok(())
    });
    (stop, edits)
}

/// What proxies hold at rest, and what a connection adds that has had one request.
async fn memory(all: &[Peer], results: &mut Results) -> Result<()> {
    for (place, peer) in all.iter().enumerate() {
        let idle = peer.process.resident()?;
        let mut held = Vec::with_capacity(IDLE);
        for _ in 0..IDLE {
            let mut stream = TcpStream::connect(&peer.doors.plain).await?;
            ask(&mut stream).await.with_context(|| peer.name)?;
            held.push(stream);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let each = peer.process.resident()?.saturating_sub(idle) as f64 / IDLE as f64 / 1024.0;
        let goals = if place == 0 { ["13 MiB without routes", "4 KiB"] } else { ["", ""] };
        results.row(row("memory before any load", peer.name, mebibytes(idle), None, goals[0]));
        results.row(row("an idle connection", peer.name, format!("{each:.1} KiB"), None, goals[1]));
    }
    Ok(())
}

/// One request and its answer, of 1 KiB and a head.
async fn ask(stream: &mut TcpStream) -> Result<()> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    stream.write_all(b"GET /r/5000/x HTTP/1.1\r\nHost: bench.test\r\n\r\n").await?;
    let mut read = 0;
    let mut buffer = [0; 4096];
    while read < 1 << 10 {
        let more = stream.read(&mut buffer).await?;
        anyhow::ensure!(more > 0, "the connection was closed");
        read += more;
    }
    Ok(())
}

fn row(workload: &str, name: &str, figure: String, ratio: Option<f64>, goal: impl Into<String>) -> Vec<String> {
    let ratio = ratio.map(|ratio| format!("{ratio:.2}")).unwrap_or_default();
    vec![workload.to_owned(), name.to_owned(), figure, ratio, goal.into()]
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
