//! Traffic at a constant rate, which waits for nobody: each request has a time at which it is meant to be sent, and what
//! it costs is counted from there. Origins are always well, so any failure is the gateway's.
//!
//! The routes that it uses change all the time, a route and two upstreams in one transaction: whoever mixes two such
//! generations in one request arrives at a host that says so. And whoever answers with an older generation than was seen
//! before he was asked, has gone back.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::{Value as Json, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

use super::looks::Board;
use super::origin::Seen;
use crate::cluster::Api;
use crate::history::{Event, Failure, Micros, Rate, Recorder};
use crate::http::{self, Client, Reply};

/// What the probe's paths begin with.
pub const PROBE_PATH: &str = "/probe";

/// What the host begins with that a request arrives at which saw one generation; its number comes next.
const RIGHT: &str = "right-";
/// What one begins with that a request arrives at which saw two.
const MIXED: &str = "mixed-";

/// How long an answer may take.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// Connections that wait for the next request.
const IDLE_MAX: usize = 64;
/// How long a second is.
const SECOND: Micros = 1_000_000;
/// A second is noted when none of its requests can be under way any more.
const OVER_AFTER: Micros = ANSWER_MAX.as_micros() as Micros + 2 * SECOND;

/// Generations of which nobody said that they were taken: such a one may still come, after newer ones.
pub(super) type Doubtful = Arc<Mutex<HashSet<u64>>>;

/// Generation `number`, as a transaction: the route leads to one of two upstreams, the right one, and only that one names
/// a host that is right.
#[must_use]
pub fn generation(number: u64, origins: &[String; 2]) -> Json {
    let right = if number.is_multiple_of(2) { "blue" } else { "green" };
    let upstream = |name: &str, origin: &str| {
        let host = format!("{}{number}.example.com", if name == right { RIGHT } else { MIXED });
        let value = json!({"nodes": {origin: 1}, "pass_host": "rewrite", "upstream_host": host});
        json!({"op": "put", "kind": "upstreams", "id": name, "value": value})
    };
    let route = json!({"uri": format!("{PROBE_PATH}/*"), "upstream_id": right});
    json!({"operations": [upstream("blue", &origins[0]), upstream("green", &origins[1]),
        {"op": "put", "kind": "routes", "id": "probe", "value": route}]})
}

/// Goes from generation to generation, whether or not they are taken.
pub(super) async fn turn_generations(
    nodes: Vec<String>,
    origins: [String; 2],
    pause: Duration,
    doubtful: Doubtful,
    stop: Arc<AtomicBool>,
) {
    let mut apis: Vec<Api> = nodes.iter().map(|node| Api::at(node).patient(Duration::from_secs(3))).collect();
    let mut node = 0;
    for number in 1.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        let body = generation(number, &origins).to_string();
        let reply = apis[node].call("POST", "/v1/transactions", &[], body).await;
        if !reply.is_ok_and(|reply| reply.status == 200) {
            doubtful.lock().expect("nobody panics while he doubts").insert(number);
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
    doubtful: Doubtful,
    /// The newest generation that an answer has shown.
    newest: AtomicU64,
    /// Those that are not noted yet, by their beginnings.
    seconds: Mutex<BTreeMap<Micros, Rate>>,
}

impl Probe {
    pub(super) fn new(
        dp: String,
        address: &str,
        rate: u64,
        origins: Vec<Seen>,
        recorder: &Recorder,
        board: &Board,
        doubtful: &Doubtful,
    ) -> Arc<Self> {
        Arc::new(Self {
            dp,
            address: address.to_owned(),
            rate,
            origins,
            recorder: recorder.clone(),
            board: board.clone(),
            idle: Mutex::default(),
            doubtful: doubtful.clone(),
            newest: AtomicU64::new(0),
            seconds: Mutex::default(),
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
    }

    async fn send(self: Arc<Self>, number: u64, intended: u64) {
        let path = format!("{PROBE_PATH}/{}/{number}", self.dp);
        let kept = self.idle.lock().expect("nobody panics while he takes").pop();
        let mut client = kept.unwrap_or_else(|| Client::new(&self.address).patient(ANSWER_MAX));
        // Only what was complete before this one is sent is certainly older.
        let before = self.newest.load(Ordering::SeqCst);
        let late = self.recorder.now().saturating_sub(intended);
        let reply = client.get(&path).await;
        let at = self.recorder.now();
        let doubtful =
            |generation: u64| self.doubtful.lock().expect("nobody panics while he doubts").contains(&generation);
        let (mut mixed, mut back) = (false, false);
        let trouble = match &reply {
            Ok(reply) if reply.status == 200 && reply.body.starts_with(MIXED.as_bytes()) => {
                mixed = true;
                Some(reply.text())
            }
            Ok(reply) => match shown(reply) {
                Some(generation) => {
                    self.newest.fetch_max(generation, Ordering::SeqCst);
                    back = generation < before && !doubtful(generation);
                    back.then(|| format!("generation {generation} after generation {before}"))
                }
                None => Some(format!("{}: {}", reply.status, reply.text().trim_end())),
            },
            Err(why) => Some(format!("{why:#}")),
        };
        if reply.is_ok() {
            let mut idle = self.idle.lock().expect("nobody panics while he takes");
            if idle.len() < IDLE_MAX {
                idle.push(client);
            }
        }
        self.count(intended, late, at, trouble.is_some());
        let Some(why) = trouble else { return };
        let saw = |seen: &Seen| seen.lock().expect("nobody panics while he notes").contains(&path);
        let reached_origin = self.origins.iter().any(saw);
        let position = self.board.of(&self.dp).map(|stand| stand.position).unwrap_or_default();
        let dp = self.dp.clone();
        let silent = reply.as_ref().is_err_and(http::is_silence);
        let failure = Failure { dp, intended, at, why, silent, reached_origin, position, mixed, back };
        self.recorder.note(Event::Failure(failure));
    }

    fn count(&self, intended: Micros, late: Micros, at: Micros, failed: bool) {
        let mut seconds = self.seconds.lock().expect("nobody panics while he counts");
        let (begins, took) = (intended - intended % SECOND, at.saturating_sub(intended));
        let new = || Rate { dp: self.dp.clone(), at: begins, ..Rate::default() };
        let second = seconds.entry(begins).or_insert_with(new);
        second.sent += 1;
        second.failed += u64::from(failed);
        second.slowest = second.slowest.max(took);
        second.late = second.late.max(late);
        second.took.push(took);
        let going_on = seconds.split_off(&at.saturating_sub(OVER_AFTER));
        for over in std::mem::replace(&mut *seconds, going_on).into_values() {
            self.recorder.note(Event::Rate(over));
        }
    }
}

impl Drop for Probe {
    /// Whatever ended it: what is not noted yet is noted.
    fn drop(&mut self) {
        let seconds = self.seconds.get_mut().map(std::mem::take).unwrap_or_default();
        seconds.into_values().for_each(|second| self.recorder.note(Event::Rate(second)));
    }
}

/// The generation of an answer as it should be.
fn shown(reply: &Reply) -> Option<u64> {
    let text = std::str::from_utf8(&reply.body).ok().filter(|_| reply.status == 200)?;
    text.strip_prefix(RIGHT)?.split('.').next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    /// Answers one request after the other with these hosts; gives where.
    async fn answering(hosts: &'static [&'static str]) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            for host in hosts {
                let mut asked = [0; 4096];
                let read = stream.read(&mut asked).await.unwrap();
                assert!(asked[..read].ends_with(b"\r\n\r\n"), "a request without a body comes at once");
                let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{host}", host.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
            sleep(Duration::from_secs(60)).await;
        });
        address
    }

    /// What is noted of a proxy that answers so, while the fourth generation is doubtful.
    async fn noted(hosts: &'static [&'static str]) -> Vec<Event> {
        let dir = tempfile::tempdir().unwrap();
        let recorder = Recorder::create(&dir.path().join("history.jsonl")).unwrap();
        let doubtful = Doubtful::default();
        doubtful.lock().unwrap().insert(4);
        let address = answering(hosts).await;
        let probe = Probe::new("dp-1".to_owned(), &address, 100, Vec::new(), &recorder, &Board::default(), &doubtful);
        for number in 0..hosts.len() as u64 {
            probe.clone().send(number, recorder.now()).await;
        }
        drop(probe);
        recorder.events().unwrap()
    }

    #[tokio::test]
    async fn an_answer_of_an_older_generation_is_a_failure_unless_nobody_knows_when_that_one_was_taken() {
        let failures = |events: &[Event]| -> Vec<(bool, bool)> {
            let failure = |event: &Event| if let Event::Failure(f) = event { Some((f.back, f.mixed)) } else { None };
            events.iter().filter_map(failure).collect()
        };
        let fine = noted(&["right-3.example.com\n", "right-5.example.com\n", "right-4.example.com\n"]).await;
        assert_eq!(failures(&fine), [], "the fourth was doubtful");
        let bad = ["right-5.example.com\n", "right-3.example.com\n", "mixed-6.example.com\n", "elsewhere\n"];
        let bad: &'static [&'static str] = Box::leak(Box::new(bad));
        let bad = noted(bad).await;
        assert_eq!(failures(&bad), [(true, false), (false, true), (false, false)]);
        let sent: u64 = crate::history::rates(&bad).map(|rate| rate.sent).sum();
        let took: usize = crate::history::rates(&bad).map(|rate| rate.took.len()).sum();
        assert_eq!((sent, took), (4, 4), "every request is in a second that was noted");
    }
}
