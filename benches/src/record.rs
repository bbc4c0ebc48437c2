//! The durable record: how fast a backlog drains into PostgreSQL, and whether Admin writes feel how PostgreSQL is doing.
//!
//! A private PostgreSQL, durable as it comes, on the disk that is measured. Between it and the control plane lies a link
//! that can be up, down, or slow. Turns of writing alternate between these, so that whatever else the machine does hits
//! all of them.

mod link;
mod postgres;

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::Value;

use crate::figures::{Results, Times, as_millis, median, millis};
use crate::holdfast::{Holdfast, api};
use crate::process::directory;

use link::{Link, State};
use postgres::Postgres;

/// What is not counted at the beginning of a turn.
const WARM_UP: Duration = Duration::from_millis(500);

/// Keys that one client writes over and over.
const KEYS_OF_A_CLIENT: usize = 100;

/// How long a backlog may take to drain.
const DRAIN_MAX: Duration = Duration::from_secs(180);

/// Between two looks at a backlog that drains.
const LOOK: Duration = Duration::from_millis(10);

#[derive(Args)]
pub(crate) struct Arguments {
    /// Clients that write at once.
    #[arg(long, default_value_t = 16)]
    clients: usize,
    /// Turns of each state of the link.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Seconds that count of each turn.
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Changes of a backlog that drains.
    #[arg(long, default_value_t = 40_000)]
    changes: usize,
}

pub(crate) async fn run(arguments: Arguments) -> Result<Results> {
    let dir = directory()?;
    let postgres = Postgres::start(dir.path()).await?;
    let link = Link::start(postgres.address()).await?;
    let (host, port) = link.address();
    let settings = [format!("record.dsn=host={host} port={port} user=holdfast dbname=postgres")];
    let mut holdfast = Holdfast::start(dir.path(), &settings).await?;
    let leader = holdfast.leader().await?;
    drained(leader).await?;
    let mut results = Results::new("record", &["what", "per second", "p50 ms", "p99 ms", "p50 against up"]);
    let states = [State::Up, State::Down, State::Slow];
    let mut turns: [Vec<Times>; 3] = Default::default();
    for _ in 0..arguments.rounds {
        for (state, turns) in states.into_iter().zip(&mut turns) {
            link.set(state);
            turns.push(turn(leader, &arguments).await.with_context(|| format!("{state:?}"))?);
            link.set(State::Up);
            drained(leader).await?;
        }
    }
    let middle = |turns: &[Times], share: f64| {
        median(&turns.iter().map(|times| as_millis(times.quantile(share))).collect::<Vec<_>>())
    };
    let up = middle(&turns[0], 0.5);
    for (state, turns) in states.into_iter().zip(&turns) {
        let rates: Vec<f64> = turns.iter().map(|times| times.count() as f64 / arguments.seconds as f64).collect();
        let p50 = middle(turns, 0.5);
        results.row(vec![
            format!("Admin PUT by {} clients, PostgreSQL {}", arguments.clients, state.word()),
            format!("{:.0}", median(&rates)),
            millis(p50),
            millis(middle(turns, 0.99)),
            format!("{:.2}", p50 / up),
        ]);
    }
    for (what, at_once) in [("one by one", 1), ("in transactions of 100", 100)] {
        link.set(State::Down);
        backlog(leader, arguments.changes, at_once).await?;
        link.set(State::Up);
        let rate = drain(&holdfast, leader).await?;
        results.row(vec![
            format!("drain of {} changes written {what}", arguments.changes),
            format!("{rate:.0}"),
            "-".to_owned(),
            "-".to_owned(),
            "-".to_owned(),
        ]);
    }
    results.note("a drain counts from the first step that was seen to the last".to_owned());
    results.note("slow: the link holds what PostgreSQL says back for 200 ms".to_owned());
    Ok(results)
}

fn route(value: usize) -> Value {
    serde_json::json!({"uri": format!("/{value}"), "desc": "x".repeat(100), "upstream": {"nodes": {"127.0.0.1:1": 1}}})
}

/// Writes in a closed loop for a while.
async fn turn(leader: usize, arguments: &Arguments) -> Result<Times> {
    let seconds = Duration::from_secs(arguments.seconds);
    let mut writers = tokio::task::JoinSet::new();
    for client in 0..arguments.clients {
        writers.spawn(async move {
            let (mut api, began, mut times) = (api(leader), Instant::now(), Vec::new());
            for n in 0.. {
                let sent = Instant::now();
                if sent - began >= WARM_UP + seconds {
                    break;
                }
                let id = format!("c{client}-{}", n % KEYS_OF_A_CLIENT);
                api.put("routes", &id, &route(n).to_string()).await?;
                if sent - began >= WARM_UP {
                    times.push(sent.elapsed());
                }
            }
            anyhow::Ok(times)
        });
    }
    let mut all = Vec::new();
    while let Some(times) = writers.join_next().await {
        all.extend(times??);
    }
    Ok(Times::new(all))
}

/// Writes changes that the record is not told of.
async fn backlog(leader: usize, changes: usize, at_once: usize) -> Result<()> {
    const WRITERS: usize = 64;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..WRITERS {
        let share = changes / WRITERS;
        writers.spawn(async move {
            let mut api = api(leader);
            let resources: Vec<(&str, String, Value)> =
                (0..share).map(|n| ("routes", format!("b{writer}-{n}"), route(n))).collect();
            for part in resources.chunks(at_once) {
                match part {
                    [(kind, id, value)] => api.put(kind, id, &value.to_string()).await?,
                    many => api.put_all(many).await?,
                }
            }
            anyhow::Ok(())
        });
    }
    while let Some(done) = writers.join_next().await {
        done??;
    }
    Ok(())
}

async fn lag(leader: usize) -> Result<u64> {
    let record = api(leader).call("GET", "/v1/record", "").await?.expect(&[200])?.json()?;
    record["lag_changes"].as_u64().context("the node does not say how far the record is behind")
}

async fn drained(leader: usize) -> Result<()> {
    let began = Instant::now();
    while lag(leader).await? > 0 {
        ensure!(began.elapsed() < DRAIN_MAX, "the record does not come to the head");
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// How many changes of resources a second the leader writes, from the first that is seen until none is left.
async fn drain(holdfast: &Holdfast, leader: usize) -> Result<f64> {
    let written = async || holdfast.metric(leader, "holdfast_cp_record_changes_total").await;
    let (began, before) = (Instant::now(), written().await?);
    let mut first = None;
    loop {
        let now = written().await?;
        if first.is_none() && now > before {
            first = Some((Instant::now(), now));
        }
        if let Some((at, count)) = first
            && lag(leader).await? == 0
        {
            let rest = written().await? - count;
            ensure!(rest > 0.0, "the backlog was written in one step: more --changes are needed to measure a rate");
            return Ok(rest / at.elapsed().as_secs_f64());
        }
        ensure!(began.elapsed() < DRAIN_MAX, "the record does not come to the head");
        tokio::time::sleep(LOOK).await;
    }
}
