//! A cluster of Holdfast's own programs.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::http::{Client, Reply};
use crate::process::{Process, find};

/// The key of the Admin API.
pub(crate) const KEY: &str = "bench-admin-key-0001";

/// How long a program may take to be ready.
const READY_MAX: Duration = Duration::from_secs(30);

/// The pause between two looks.
const LOOK: Duration = Duration::from_millis(20);

/// Three control-plane nodes, and proxies. They are killed when this is dropped.
pub(crate) struct Holdfast {
    cps: Vec<Process>,
    dps: Vec<Process>,
}

/// An address of node `number`; ports as in production.
fn cp(number: usize, port: u16) -> String {
    format!("127.40.0.{number}:{port}")
}

fn dp(number: usize, port: u16) -> String {
    format!("127.40.1.{number}:{port}")
}

fn args(verb: &str, settings: &[String]) -> Vec<String> {
    let set = settings.iter().map(|setting| format!("--set={setting}"));
    std::iter::once(verb.to_owned()).chain(set).collect()
}

impl Holdfast {
    /// Starts three nodes, all of them voters at once. `settings` are more lines `key=value`.
    pub(crate) async fn start(dir: &Path, settings: &[String]) -> Result<Self> {
        Self::start_nodes(3, dir, settings).await
    }

    /// The same with so many nodes.
    pub(crate) async fn start_nodes(nodes: usize, dir: &Path, settings: &[String]) -> Result<Self> {
        let program = find("cp-node")?;
        let mut holdfast = Self { cps: Vec::new(), dps: Vec::new() };
        for number in 1..=nodes {
            let mut all = vec![
                format!("node.name=cp-{number}"),
                format!("data_dir={}", dir.join(format!("cp-{number}")).display()),
                format!("peer.listen={}", cp(number, 9190)),
                format!("feed.listen={}", cp(number, 9191)),
                format!("admin.listen={}", cp(number, 9180)),
                format!("status.listen={}", cp(number, 7085)),
                format!("admin.keys=[{{name: bench, key: {KEY}, role: admin}}]"),
            ];
            all.extend_from_slice(settings);
            let name = format!("cp-{number}");
            if number == 1 {
                Process::spawn(&name, &program, &args("init", &all), dir)?.succeed()?;
            } else {
                all.push(format!("cluster.join=[{}]", cp(1, 9190)));
            }
            holdfast.cps.push(Process::spawn(&name, &program, &args("run", &all), dir)?);
            until(&format!("{name} is ready"), &mut holdfast.cps, async || {
                Client::new(&cp(number, 7085)).get("/status/ready").await?.expect(&[200])
            })
            .await?;
        }
        until("every node votes", &mut holdfast.cps, async || {
            let cluster = api(1).call("GET", "/v1/cluster", "").await?.expect(&[200])?.json()?;
            let voters = cluster["members"].as_array().into_iter().flatten().filter(|m| m["voter"] == true).count();
            ensure!(voters == nodes, "{voters} vote");
            Ok(())
        })
        .await?;
        Ok(holdfast)
    }

    /// Starts a proxy that follows all nodes; waits until it serves a configuration.
    pub(crate) async fn add_dp(&mut self, number: usize, dir: &Path) -> Result<()> {
        let process = Process::spawn(&format!("dp-{number}"), &find("dp-proxy")?, &self.dp_args(number, dir), dir)?;
        self.dps.push(process);
        ready(number, &mut self.dps).await
    }

    /// The same on one core, with more settings; it is the caller's.
    pub(crate) async fn pinned_dp(&self, number: usize, dir: &Path, more: &[String], core: &str) -> Result<Process> {
        let pinned = ["-c".to_owned(), core.to_owned(), find("dp-proxy")?.display().to_string()];
        let more = more.iter().map(|setting| format!("--set={setting}"));
        let args: Vec<String> = pinned.into_iter().chain(self.dp_args(number, dir)).chain(more).collect();
        let mut process = [Process::spawn(&format!("dp-{number}"), Path::new("taskset"), &args, dir)?];
        ready(number, &mut process).await?;
        let [process] = process;
        Ok(process)
    }

    fn dp_args(&self, number: usize, dir: &Path) -> Vec<String> {
        let endpoints: Vec<String> = (1..=self.cps.len()).map(|number| cp(number, 9191)).collect();
        let settings = [
            format!("node.name=dp-{number}"),
            format!("data_dir={}", dir.join(format!("dp-{number}")).display()),
            format!("proxy.listen=[{}]", dp(number, 9080)),
            "proxy.workers=1".to_owned(),
            "proxy.tls.listen=[]".to_owned(),
            format!("status.listen={}", dp(number, 7085)),
            format!("metrics.listen={}", dp(number, 9091)),
            format!("control.listen={}", dp(number, 9090)),
            format!("control_plane.endpoints=[{}]", endpoints.join(", ")),
        ];
        args("run", &settings)
    }

    /// The number of the node that leads.
    pub(crate) async fn leader(&mut self) -> Result<usize> {
        until("a leader", &mut self.cps, async || {
            for number in 1..=3 {
                let status = api(number).call("GET", "/v1/status", "").await?.expect(&[200])?.json()?;
                if status["role"] == "leader" {
                    return Ok(number);
                }
            }
            bail!("nobody leads")
        })
        .await
    }

    /// The most memory that each node has held so far, in bytes.
    pub(crate) fn peak_memory(&self) -> Vec<u64> {
        self.cps.iter().map(Process::peak_memory).collect()
    }

    /// What all nodes have used of the processor.
    pub(crate) fn processor(&self) -> Duration {
        self.cps.iter().map(Process::processor).sum()
    }

    /// A figure of a node's metrics.
    pub(crate) async fn metric(&self, number: usize, name: &str) -> Result<f64> {
        let text = Client::new(&cp(number, 7085)).get("/metrics").await?.expect(&[200])?.body;
        let text = String::from_utf8_lossy(&text).into_owned();
        let line = text.lines().find(|line| line.split([' ', '{']).next() == Some(name));
        let value = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
        value.with_context(|| format!("there is no metric {name}"))
    }
}

/// The Admin APIs of all nodes, as `hfctl` wants them.
pub(crate) fn admin_addresses() -> String {
    (1..=3).map(|number| format!("http://{}", cp(number, 9180))).collect::<Vec<_>>().join(",")
}

/// Waits until a proxy serves a configuration.
async fn ready(number: usize, processes: &mut [Process]) -> Result<()> {
    until(&format!("dp-{number} is ready"), processes, async || {
        Client::new(&dp(number, 7085)).get("/status/ready").await?.expect(&[200]).map(drop)
    })
    .await
}

/// A client of node `number`'s Admin API.
pub(crate) struct Api(Client);

pub(crate) fn api(number: usize) -> Api {
    Api(Client::new(&cp(number, 9180)))
}

/// A client of proxy `number`.
pub(crate) fn proxy(number: usize) -> Client {
    Client::new(&dp(number, 9080))
}

impl Api {
    pub(crate) async fn call(&mut self, method: &str, path: &str, body: impl Into<bytes::Bytes>) -> Result<Reply> {
        self.0.send(method, path, &[("x-api-key", KEY)], body).await
    }

    pub(crate) async fn put(&mut self, kind: &str, id: &str, body: &str) -> Result<()> {
        let path = format!("/apisix/admin/{kind}/{id}");
        self.call("PUT", &path, body.to_owned()).await?.expect(&[200, 201]).map(drop)
    }

    /// Puts many, a transaction at a time.
    pub(crate) async fn put_all(&mut self, resources: &[(&str, String, Value)]) -> Result<()> {
        const AT_ONCE: usize = 10_000;
        for part in resources.chunks(AT_ONCE) {
            let operation = |(kind, id, value): &(&str, String, Value)| serde_json::json!({ "op": "put", "kind": kind, "id": id, "value": value });
            let operations: Vec<Value> = part.iter().map(operation).collect();
            let body = serde_json::json!({ "operations": operations }).to_string();
            self.call("POST", "/v1/transactions", body).await?.expect(&[200])?;
        }
        Ok(())
    }
}

/// Looks again until it is so; ends with an error when a process has ended or the time is up.
async fn until<T>(what: &str, processes: &mut [Process], mut look: impl AsyncFnMut() -> Result<T>) -> Result<T> {
    let deadline = Instant::now() + READY_MAX;
    loop {
        match look().await {
            Ok(seen) => return Ok(seen),
            Err(why) if Instant::now() >= deadline => bail!("{what}: not within {READY_MAX:?}; last: {why:#}"),
            Err(_) => tokio::time::sleep(LOOK).await,
        }
        for process in &mut *processes {
            process.runs().with_context(|| what.to_owned())?;
        }
    }
}
