//! A large configuration by the command line: `hfctl apply` of many routes and upstreams into an empty cluster with a
//! proxy, then again without and with a difference; and what reads and single writes cost at that size.

use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use serde_json::{Value, json};

use crate::figures::{Results, Times, as_millis, millis};
use crate::holdfast::{Holdfast, KEY, admin_addresses, api};
use crate::process::{directory, find, peak_memory_of};
use crate::propagation::route;

/// What the issue asks of the first apply.
const GOAL: Duration = Duration::from_secs(60);

/// How long a command may take before the bench gives up.
const COMMAND_MAX: Duration = Duration::from_secs(300);

/// Between two looks at a command's memory.
const LOOK: Duration = Duration::from_millis(20);

/// How often whole lists are read.
const WHOLE_LISTS: usize = 5;

#[derive(Args)]
pub(crate) struct Arguments {
    /// How many routes.
    #[arg(long, default_value_t = 100_000)]
    routes: usize,
    /// How many upstreams.
    #[arg(long, default_value_t = 20_000)]
    upstreams: usize,
    /// Single requests of each sort.
    #[arg(long, default_value_t = 200)]
    requests: usize,
}

pub(crate) async fn run(arguments: Arguments) -> Result<Results> {
    let Arguments { routes, upstreams, requests } = arguments;
    ensure!(routes > 1 && upstreams > 0 && requests > 0, "there is nothing to measure");
    let dir = directory()?;
    let mut holdfast = Holdfast::start(dir.path(), &[]).await?;
    holdfast.add_dp(1, dir.path()).await?;
    let file = dir.path().join("all.json");
    write(&file, routes, upstreams, None)?;
    let mut results = Results::new("apply", &["what", "count", "p50 ms", "p99 ms", "max ms", "hfctl's memory MiB"]);
    let first = hfctl(&file, &["--wait", "60s"])?;
    results.row(command("apply into an empty cluster, until the proxy serves it", &first));
    results.row(command("apply again: nothing to change", &hfctl(&file, &[])?));
    write(&file, routes, upstreams, Some(1))?;
    results.row(command("apply with one route changed", &hfctl(&file, &[])?));
    let mut client = api(1);
    for (what, path) in [
        ("a page of 100 routes, the first", "/apisix/admin/routes?page=1&page_size=100".to_owned()),
        ("a page of 100 routes, the last", format!("/apisix/admin/routes?page={}&page_size=100", routes.div_ceil(100))),
        ("a page of 100 of those with a label", "/apisix/admin/routes?page=1&page_size=100&label=owner".to_owned()),
        ("one route", "/apisix/admin/routes/r1".to_owned()),
    ] {
        let times = times(requests, async |_| client.call("GET", &path, "").await?.expect(&[200]).map(drop)).await?;
        results.row(row(what, &times, ""));
    }
    let times_of_lists = times(WHOLE_LISTS, async |_| {
        let list = client.call("GET", "/apisix/admin/routes", "").await?.expect(&[200])?.json()?;
        ensure!(list["total"] == routes, "{} routes", list["total"]);
        Ok(())
    })
    .await?;
    results.row(row("all routes", &times_of_lists, ""));
    let times_of_writes = times(requests, async |n| {
        let mut body = own_route(n, upstreams);
        body["desc"] = json!("changed");
        client.put("routes", &format!("r{n}"), &body.to_string()).await
    })
    .await?;
    results.row(row("PUT of one route", &times_of_writes, ""));
    for (number, memory) in holdfast.peak_memory().iter().enumerate() {
        results.note(format!("cp-node {} held {} at most", number + 1, mib(*memory)));
    }
    let verdict = if first.took <= GOAL { "kept" } else { "missed" };
    results.note(format!("goal: {GOAL:?} for the first apply: {verdict}; the file has {} MiB", megabytes(&file)?));
    Ok(results)
}

/// What a command came to.
struct Done {
    took: Duration,
    /// Bytes, at most.
    memory: u64,
}

fn hfctl(file: &Path, more: &[&str]) -> Result<Done> {
    let began = Instant::now();
    let mut child = Command::new(find("hfctl")?)
        .args(["apply", "--yes", "--timeout", "240s", "-f"])
        .arg(file)
        .args(more)
        .env("HOLDFAST_ADMIN_KEY", KEY)
        .env("HOLDFAST_SERVER", admin_addresses())
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .spawn()?;
    let mut memory = 0;
    loop {
        memory = memory.max(peak_memory_of(child.id()));
        if let Some(status) = child.try_wait()? {
            ensure!(status.success(), "hfctl apply: {status}");
            return Ok(Done { took: began.elapsed(), memory });
        }
        if began.elapsed() > COMMAND_MAX {
            // It may have ended just now.
            let _ = child.kill();
            let _ = child.wait();
            bail!("hfctl apply takes more than {COMMAND_MAX:?}");
        }
        std::thread::sleep(LOOK);
    }
}

async fn times(count: usize, mut one: impl AsyncFnMut(usize) -> Result<()>) -> Result<Times> {
    let mut times = Vec::with_capacity(count);
    for n in 0..count {
        let began = Instant::now();
        one(n).await?;
        times.push(began.elapsed());
    }
    Ok(Times::new(times))
}

fn command(what: &str, done: &Done) -> Vec<String> {
    row(what, &Times::new(vec![done.took]), &mib(done.memory))
}

fn row(what: &str, times: &Times, memory: &str) -> Vec<String> {
    let at = |share| millis(as_millis(times.quantile(share)));
    vec![what.to_owned(), times.count().to_string(), at(0.5), at(0.99), at(1.0), memory.to_owned()]
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

fn megabytes(file: &Path) -> Result<u64> {
    Ok(std::fs::metadata(file)?.len() >> 20)
}

fn own_route(number: usize, upstreams: usize) -> Value {
    let mut body = route(number);
    body["upstream_id"] = json!(format!("u{}", number % upstreams));
    body["labels"] = json!({ "owner": "bench" });
    body
}

/// The file; `changed` is a route that is another one than before.
fn write(file: &Path, routes: usize, upstreams: usize, changed: Option<usize>) -> Result<()> {
    let named = |id: String, mut body: Value| {
        body["id"] = json!(id);
        body
    };
    let upstream = |n: usize| {
        let node = format!("10.{}.{}.{}:80", n >> 16, n >> 8 & 255, n & 255);
        named(format!("u{n}"), json!({ "nodes": { node: 1 } }))
    };
    let route = |n: usize| {
        let mut body = own_route(n, upstreams);
        if changed == Some(n) {
            body["desc"] = json!("another one");
        }
        named(format!("r{n}"), body)
    };
    let all = json!({
        "upstreams": (0..upstreams).map(upstream).collect::<Vec<_>>(),
        "routes": (0..routes).map(route).collect::<Vec<_>>(),
    });
    let mut out = std::io::BufWriter::new(std::fs::File::create(file).with_context(|| file.display().to_string())?);
    serde_json::to_writer(&mut out, &all)?;
    Ok(out.flush()?)
}
