//! Traffic at a constant rate, which waits for nobody: each request has a time at which it is meant to be sent, and what
//! it costs is counted from there. Origins are always well, so any failure is the gateway's.
//!
//! The routes that it uses change all the time, a route and two upstreams in one transaction: whoever mixes two such
//! generations in one request arrives at a host that says so.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value as Json, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::looks::Board;
use super::origin::Seen;
use crate::cluster::Api;
use crate::history::{Event, Failure, Rate, Recorder};
use crate::http::Client;

/// What the probe's paths begin with.
pub const PROBE_PATH: &str = "/probe";

/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Connections that wait for the next request.
const IDLE_MAX: usize = 64;

/// Generation `number`, as a transaction: the route leads to one of two upstreams, the right one, and only that one names
/// a host that is right.
#[must_use]
pub fn generation(number: u64, origins: &[String; 2]) -> Json {
    let right = if number.is_multiple_of(2) { "blue" } else { "green" };
    let upstream = |name: &str, origin: &str| {
        let host = format!("{}-{number}.example.com", if name == right { "right" } else { "mixed" });
        let value = json!({"nodes": {origin: 1}, "pass_host": "rewrite", "upstream_host": host});
        json!({"op": "put", "kind": "upstreams", "id": name, "value": value})
    };
    let route = json!({"uri": format!("{PROBE_PATH}/*"), "upstream_id": right});
    json!({"operations": [upstream("blue", &origins[0]), upstream("green", &origins[1]),
        {"op": "put", "kind": "routes", "id": "probe", "value": route}]})
}

/// Goes from generation to generation, whether or not they are taken.
pub(super) async fn turn_generations(nodes: Vec<String>, origins: [String; 2], pause: Duration, stop: Arc<AtomicBool>) {
    let mut apis: Vec<Api> = nodes.iter().map(|node| Api::at(node).patient(Duration::from_secs(3))).collect();
    let mut node = 0;
    for number in 1.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let body = generation(number, &origins).to_string();
        let reply = apis[node].call("POST", "/v1/transactions", &[], body).await;
        if !reply.is_ok_and(|reply| reply.status == 200) {
            node = (node + 1) % apis.len();
        }
        sleep(pause).await;
    }
}

pub(super) struct Probe {
    dp: String,
    address: String,
    rate: u64,
    origins: Vec<Seen>,
    recorder: Recorder,
    board: Board,
    idle: Mutex<Vec<Client>>,
    second: Mutex<Rate>,
}

impl Probe {
    pub(super) fn new(
        dp: String,
        address: &str,
        rate: u64,
        origins: Vec<Seen>,
        recorder: &Recorder,
        board: &Board,
    ) -> Arc<Self> {
        let second = Rate { dp: dp.clone(), at: 0, sent: 0, failed: 0, slowest: 0 };
        Arc::new(Self {
            dp,
            address: address.to_owned(),
            rate,
            origins,
            recorder: recorder.clone(),
            board: board.clone(),
            idle: Mutex::default(),
            second: Mutex::new(second),
        })
    }

    pub(super) async fn run(self: Arc<Self>, stop: Arc<AtomicBool>) {
        let mut ticks = interval(Duration::from_micros(1_000_000 / self.rate.max(1)));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut under_way = JoinSet::new();
        let began = (Instant::now(), self.recorder.now());
        for number in 0_u64.. {
            let tick = ticks.tick().await;
            if stop.load(Ordering::Relaxed) {
                break;
            }
            let since = u64::try_from(tick.saturating_duration_since(began.0).as_micros()).unwrap_or(u64::MAX);
            under_way.spawn(self.clone().send(number, began.1 + since));
            while under_way.try_join_next().is_some() {}
        }
        under_way.join_all().await;
        let last = self.second.lock().expect("nobody panics while he counts").clone();
        self.recorder.note(Event::Rate(last));
    }

    async fn send(self: Arc<Self>, number: u64, intended: u64) {
        let path = format!("{PROBE_PATH}/{}/{number}", self.dp);
        let kept = self.idle.lock().expect("nobody panics while he takes").pop();
        let mut client = kept.unwrap_or_else(|| Client::new(&self.address).patient(ANSWER_MAX));
        let reply = client.get(&path).await;
        let at = self.recorder.now();
        let (trouble, mixed) = match &reply {
            Ok(reply) if reply.status == 200 && reply.body.starts_with(b"right-") => (None, false),
            Ok(reply) if reply.status == 200 && reply.body.starts_with(b"mixed-") => (Some(reply.text()), true),
            Ok(reply) => (Some(format!("{}: {}", reply.status, reply.text().trim_end())), false),
            Err(why) => (Some(format!("{why:#}")), false),
        };
        if reply.is_ok() {
            let mut idle = self.idle.lock().expect("nobody panics while he takes");
            if idle.len() < IDLE_MAX {
                idle.push(client);
            }
        }
        self.count(intended, at, trouble.is_some());
        let Some(why) = trouble else { return };
        let saw = |seen: &Seen| seen.lock().expect("nobody panics while he notes").contains(&path);
        let reached_origin = self.origins.iter().any(saw);
        let position = self.board.of(&self.dp).map(|stand| stand.position).unwrap_or_default();
        let dp = self.dp.clone();
        self.recorder.note(Event::Failure(Failure { dp, intended, at, why, reached_origin, position, mixed }));
    }

    fn count(&self, intended: u64, at: u64, failed: bool) {
        let mut second = self.second.lock().expect("nobody panics while he counts");
        let begins = intended - intended % 1_000_000;
        if begins > second.at {
            let next = Rate { dp: self.dp.clone(), at: begins, sent: 0, failed: 0, slowest: 0 };
            let full = std::mem::replace(&mut *second, next);
            self.recorder.note(Event::Rate(full));
        }
        second.sent += 1;
        second.failed += u64::from(failed);
        second.slowest = second.slowest.max(at.saturating_sub(intended));
    }
}
