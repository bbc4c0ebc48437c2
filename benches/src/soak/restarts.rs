//! Hot restarts under load: no request fails, and what is open goes on.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::origin::{Origin, TRICKLE};
use super::site::{self, NAME};
use crate::process::{Process, find};

/// Clients at once: half of them keep their connection.
const CLIENTS: usize = 8;
/// The longest that a restart may take.
const RESTART_MAX: Duration = Duration::from_secs(30);
/// Requests that must be answered between two restarts.
const BETWEEN: u64 = 200;

/// A process that another one has started. It is killed when this is dropped.
struct Successor(Option<Pid>);

impl Drop for Successor {
    fn drop(&mut self) {
        if let Some(pid) = self.0 {
            // It may have ended already.
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

pub(super) async fn run(dir: &Path, restarts: usize) -> Result<String> {
    let origin = Origin::start().await?;
    let (args, _) = site::settings(dir, &origin, &["proxy.drain.delay=200ms", "proxy.drain.timeout=10m"])?;
    let notify = dir.join("notify");
    let told = UnixDatagram::bind(&notify)?;
    told.set_nonblocking(true)?;
    let env = [("NOTIFY_SOCKET", notify.as_os_str())];
    let mut first = Process::spawn_with("dp", &find("dp-proxy")?, &args, &env, dir)?;
    site::ready(&mut first).await?;
    let mut socket = open_websocket().await?;
    let mut download = site::connect().await?;
    let (_, mut came) = site::ask(&mut download, "GET /long", 200).await?;
    let (over, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let mut load = JoinSet::new();
    for number in 0..CLIENTS {
        load.spawn(ask(number % 2 == 0, over.clone(), answered.clone()));
    }
    let mut current = Successor(None);
    let mut slowest = Duration::ZERO;
    for number in 0..restarts {
        let pid = current.0.or_else(|| Pid::from_raw(i32::try_from(first.id()).ok()?)).context("its process")?;
        let (began, before) = (Instant::now(), answered.load(Ordering::Relaxed));
        kill_process(pid, Signal::USR2)?;
        let next = next_process(&told).await.with_context(|| format!("restart {number}"))?;
        // The one before ends by itself, except for the first: it has what was open from the beginning.
        std::mem::forget(std::mem::replace(&mut current, Successor(Some(next))));
        slowest = slowest.max(began.elapsed());
        socket.write_all(b"ping").await?;
        let mut echoed = [0; 4];
        timeout(RESTART_MAX, socket.read_exact(&mut echoed)).await.context("the tunnel stands still")??;
        ensure!(&echoed == b"ping", "the tunnel says something else");
        let more = timeout(RESTART_MAX, download.read_buf(&mut came)).await.context("the download stands still")??;
        ensure!(more > 0, "the download was cut off");
        while answered.load(Ordering::Relaxed) < before + BETWEEN {
            if let Some(ended) = load.try_join_next() {
                ended??;
            }
            ensure!(began.elapsed() < RESTART_MAX, "too few requests are answered");
            sleep(Duration::from_millis(5)).await;
        }
    }
    over.store(true, Ordering::Relaxed);
    while let Some(client) = load.join_next().await {
        client??;
    }
    first.runs().context("it has a tunnel and a download left")?;
    let whole = came.chunks(TRICKLE.len()).all(|chunk| TRICKLE.starts_with(chunk));
    ensure!(whole, "the download is not what was sent");
    let requests = answered.load(Ordering::Relaxed);
    Ok(format!("{restarts} restarts, {requests} requests, 0 failed, the slowest hand-over {} ms", slowest.as_millis()))
}

async fn open_websocket() -> Result<TcpStream> {
    let mut socket = site::connect().await?;
    let asked = format!("GET /ws HTTP/1.1\r\nHost: {NAME}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n");
    socket.write_all(asked.as_bytes()).await?;
    site::head(&mut socket, 101).await?;
    Ok(socket)
}

/// The process that serves from now on, as it tells its supervisor.
async fn next_process(told: &UnixDatagram) -> Result<Pid> {
    let began = Instant::now();
    let mut buffer = [0; 256];
    while began.elapsed() < RESTART_MAX {
        while let Ok(read) = told.recv(&mut buffer) {
            let word = String::from_utf8_lossy(&buffer[..read]);
            if let Some(pid) = word.strip_prefix("MAINPID=") {
                return Pid::from_raw(pid.trim().parse()?).context("a process");
            }
        }
        sleep(Duration::from_millis(2)).await;
    }
    bail!("no other process takes over")
}

/// Asks again and again; fails with the first request that does.
async fn ask(keep: bool, over: Arc<AtomicBool>, answered: Arc<AtomicU64>) -> Result<()> {
    let mut stream = site::connect().await?;
    while !over.load(Ordering::Relaxed) {
        let goes_on = site::get(&mut stream).await.with_context(|| format!("a request (kept: {keep})"))?;
        answered.fetch_add(1, Ordering::Relaxed);
        if !keep || !goes_on {
            stream = site::connect().await?;
        }
    }
    Ok(())
}
