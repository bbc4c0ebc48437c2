//! From a committed change to a proxy that serves it.
//!
//! One route goes to one of two upstreams, `a` and `b`. The Admin API is told to change it; two proxies are asked, on a
//! connection that stays open, until the other upstream answers. Both are watched at the same time.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use clap::Args;
use http_body_util::Full;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::figures::{Results, Times, as_millis, millis};
use crate::holdfast::{Api, Holdfast, api, proxy};
use crate::process::directory;

/// Between two looks at a proxy. It bounds what can be told apart, and leaves the processor to those who are measured.
const LOOK: Duration = Duration::from_millis(1);

/// How long a change may take to be served before the bench gives up.
const SERVED_MAX: Duration = Duration::from_secs(10);

/// Between two changes.
const PAUSE: Duration = Duration::from_millis(20);

/// Proxies that are watched.
const PROXIES: usize = 2;

#[derive(Args)]
pub(crate) struct Arguments {
    /// How many routes there are.
    #[arg(long, value_delimiter = ',', default_values_t = [10, 1_000, 100_000])]
    routes: Vec<usize>,
    /// Changes at each size.
    #[arg(long, default_value_t = 300)]
    changes: usize,
}

pub(crate) async fn run(arguments: Arguments) -> Result<Results> {
    let mut results = Results::new("propagation", &["routes", "what", "changes", "p50 ms", "p99 ms", "max ms"]);
    let upstreams = [origin("a", "127.40.3.1:1980").await?, origin("b", "127.40.3.2:1980").await?];
    for routes in &arguments.routes {
        let measured = at(*routes, arguments.changes, &upstreams).await;
        let Measured { written, from_reply, from_start, all_from_start } =
            measured.with_context(|| format!("{routes} routes"))?;
        for (what, times) in [
            ("PUT answered", written),
            ("served by a proxy, since the answer", from_reply),
            ("served by a proxy, since the PUT was sent", from_start),
            ("served by both, since the PUT was sent", all_from_start),
        ] {
            results.row(vec![
                routes.to_string(),
                what.to_owned(),
                times.count().to_string(),
                millis(as_millis(times.quantile(0.5))),
                millis(as_millis(times.quantile(0.99))),
                millis(as_millis(times.quantile(1.0))),
            ]);
        }
    }
    results.note(format!("proxies are asked every {LOOK:?}: a time is too long by up to that and one request"));
    Ok(results)
}

struct Measured {
    written: Times,
    from_reply: Times,
    from_start: Times,
    all_from_start: Times,
}

async fn at(routes: usize, changes: usize, upstreams: &[String; 2]) -> Result<Measured> {
    let dir = directory()?;
    let mut holdfast = Holdfast::start(dir.path(), &[]).await?;
    api(1).put_all(&configuration(routes, upstreams)).await?;
    for number in 1..=PROXIES {
        holdfast.add_dp(number, dir.path()).await?;
    }
    let mut clients: Vec<Api> = (1..=3).map(api).collect();
    let (mut written, mut from_reply, mut from_start, mut all_from_start) = (vec![], vec![], vec![], vec![]);
    for change in 0..changes {
        let name = if change % 2 == 0 { "b" } else { "a" };
        let watching: Vec<_> = (1..=PROXIES).map(|number| tokio::spawn(serves(number, name))).collect();
        // By then each has its connection, and has seen that the old upstream answers.
        tokio::time::sleep(PAUSE).await;
        let began = Instant::now();
        clients[change % 3].put("routes", "probe", &probe(name)).await?;
        let answered = Instant::now();
        written.push(answered - began);
        let mut last = began;
        for served in watching {
            let served = served.await??;
            ensure!(served >= began, "a change was served before it was made");
            from_reply.push(served.saturating_duration_since(answered));
            from_start.push(served - began);
            last = last.max(served);
        }
        all_from_start.push(last - began);
    }
    Ok(Measured {
        written: Times::new(written),
        from_reply: Times::new(from_reply),
        from_start: Times::new(from_start),
        all_from_start: Times::new(all_from_start),
    })
}

/// When upstream `name` first answered through proxy `number`.
async fn serves(number: usize, name: &'static str) -> Result<Instant> {
    let mut client = proxy(number);
    let began = Instant::now();
    while began.elapsed() < SERVED_MAX {
        let reply = client.get("/probe").await?.expect(&[200])?;
        if reply.body == name {
            return Ok(Instant::now());
        }
        tokio::time::sleep(LOOK).await;
    }
    bail!("proxy {number} does not serve the change within {SERVED_MAX:?}")
}

fn probe(upstream: &str) -> String {
    json!({ "uri": "/probe", "upstream_id": upstream }).to_string()
}

/// The route that is changed, its two upstreams, and so many routes in all.
fn configuration(routes: usize, [a, b]: &[String; 2]) -> Vec<(&'static str, String, Value)> {
    let upstream = |address: &str| json!({ "type": "roundrobin", "nodes": { address: 1 } });
    let mut all = vec![
        ("upstreams", "a".to_owned(), upstream(a)),
        ("upstreams", "b".to_owned(), upstream(b)),
        ("routes", "probe".to_owned(), json!({ "uri": "/probe", "upstream_id": "a" })),
    ];
    all.extend((1..routes).map(|number| ("routes", format!("r{number}"), route(number))));
    all
}

/// Routes as shops have them: a few hundred hosts with some hundred paths each.
pub(crate) fn route(number: usize) -> Value {
    json!({
        "host": format!("shop-{}.example.com", number % 300),
        "uri": format!("/api/v1/things-{number}/*"),
        "methods": ["GET", "POST"],
        "upstream_id": "a",
    })
}

/// An upstream that answers with its name. It serves until the process ends.
async fn origin(name: &'static str, address: &str) -> Result<String> {
    let listener = TcpListener::bind(address).await.with_context(|| address.to_owned())?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let answer = service_fn(move |_: Request<hyper::body::Incoming>| async move {
                    Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(name.as_bytes()))))
                });
                // A proxy that goes away is its own business.
                let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await;
            });
        }
    });
    Ok(address.to_owned())
}
