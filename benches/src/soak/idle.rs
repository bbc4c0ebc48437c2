//! Many connections that wait, and honest traffic beside them.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::mebibytes;
use super::origin::Origin;
use super::site;
use crate::figures::{Times, as_millis, millis};

/// What each may cost the proxy.
const EACH_BYTES_MAX: u64 = 4 << 10;
/// How many are opened at once.
const AT_ONCE: usize = 16;
/// Files that the proxy and this program need beside those.
const FILES_BESIDE: u64 = 500;
/// How long all of them wait together, with honest traffic beside them.
const WAIT: Duration = Duration::from_secs(5);

pub(super) async fn run(dir: &Path, wanted: usize) -> Result<String> {
    let files = allow_files(wanted as u64 + FILES_BESIDE);
    let connections = wanted.min(usize::try_from(files.saturating_sub(FILES_BESIDE)).unwrap_or(usize::MAX));
    let origin = Origin::start().await?;
    let (args, _) = site::settings(dir, &origin, &["proxy.limits.idle_timeout=1h"])?;
    let process = site::start(dir, &args).await?;
    // What a first few connections bring with them is there already.
    let mut held = open(AT_ONCE * 4).await?;
    let before = process.resident()?;
    let over = Arc::new(AtomicBool::new(false));
    let honest = tokio::spawn(ask(over.clone()));
    held.extend(open(connections).await?);
    sleep(WAIT).await;
    let after = process.resident()?;
    over.store(true, Ordering::Relaxed);
    let times = honest.await?.context("honest traffic beside them")?;
    // The oldest and the newest are of use.
    let newest = held.len() - 1;
    for place in [0, newest] {
        site::get(&mut held[place]).await.with_context(|| format!("connection {place}"))?;
    }
    let each = after.saturating_sub(before) / connections.max(1) as u64;
    ensure!(each <= EACH_BYTES_MAX, "{each} bytes for each of {connections}");
    let few =
        if connections < wanted { format!(" (of {wanted}: the limit is {files} open files)") } else { String::new() };
    let at = |share| millis(as_millis(times.quantile(share)));
    Ok(format!(
        "{connections} connections{few}, {each} bytes each, memory {} then {}; beside them {} requests, p50 {} ms, p99 {} ms",
        mebibytes(before),
        mebibytes(after),
        times.count(),
        at(0.5),
        at(0.99)
    ))
}

/// Connections that were of use and wait.
async fn open(count: usize) -> Result<Vec<TcpStream>> {
    let mut opening = JoinSet::new();
    for worker in 0..AT_ONCE {
        let share = count / AT_ONCE + usize::from(worker < count % AT_ONCE);
        opening.spawn(async move {
            let mut held = Vec::with_capacity(share);
            for _ in 0..share {
                let mut stream = site::connect().await?;
                site::get(&mut stream).await?;
                held.push(stream);
            }
            Ok::<_, anyhow::Error>(held)
        });
    }
    let mut all = Vec::with_capacity(count);
    while let Some(opened) = opening.join_next().await {
        all.extend(opened??);
    }
    Ok(all)
}

/// Asks again and again, on a connection that is kept and on new ones in turn.
async fn ask(over: Arc<AtomicBool>) -> Result<Times> {
    let mut times = Vec::new();
    let mut kept = site::connect().await?;
    while !over.load(Ordering::Relaxed) {
        let began = Instant::now();
        site::get(&mut kept).await?;
        times.push(began.elapsed());
        site::get(&mut site::connect().await?).await?;
        sleep(Duration::from_millis(2)).await;
    }
    Ok(Times::new(times))
}

/// Lets this process, and those that it starts, have so many files open, or as many as may be. Gives how many.
fn allow_files(count: u64) -> u64 {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    let now = current.unwrap_or(u64::MAX);
    if now >= count {
        return now;
    }
    let most = maximum.unwrap_or(u64::MAX).max(count);
    // Only a privileged process may raise the second.
    for (current, maximum) in [(count, most), (maximum.unwrap_or(u64::MAX).min(count), maximum.unwrap_or(u64::MAX))] {
        let limit = Rlimit { current: Some(current), maximum: Some(maximum) };
        if setrlimit(Resource::Nofile, limit).is_ok() {
            return current;
        }
    }
    now
}
