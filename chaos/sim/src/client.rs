//! Clients of the Admin API: what they ask, and what they are told, in the order of their own clock.

mod operator;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use protocol::ResourceKey;
use rand::rngs::StdRng;
use serde_json::{Value, json};

use crate::hosts::{KEY, Shared, address};
use crate::network;
use crate::plan::{Mutant, Plan};
use crate::random::{below, millis, stream};

/// How long a client waits for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(4);

/// How often a request with an id is sent, at most.
const ATTEMPTS_MAX: u32 = 4;

/// What a client was told in the end.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) enum Told {
    /// Done, as this revision.
    Done(u64),
    /// Refused by the log, as of this revision.
    Refused(u64),
    /// Not applied, and never will be.
    NotApplied,
    /// Nobody knows.
    Unknown,
}

/// One finished operation.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// A write.
    Write {
        /// Its name, in its id and in its bodies.
        name: String,
        /// What it writes.
        keys: Vec<ResourceKey>,
        /// The revision that `If-Match` named.
        if_match: Option<u64>,
        /// Whether it waits for the record.
        durable: bool,
        /// The highest revision that any client had seen when it was first sent.
        floor: u64,
        told: Told,
    },
    /// A read.
    Read {
        key: ResourceKey,
        /// Whether an old state is good enough.
        stale: bool,
        floor: u64,
        /// The revision that the answer is of.
        revision: u64,
        /// What was found: its last change, and the mark in it.
        found: Option<(u64, String)>,
    },
}

/// How far the clients are to go.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Phase {
    /// Nothing yet.
    Wait,
    /// Load.
    Storm,
    /// One last write, until it is acknowledged.
    Last,
    /// It is.
    Done,
}

/// What all clients share.
#[derive(Clone)]
pub(crate) struct Clients {
    pub(crate) plan: Plan,
    pub(crate) shared: Shared,
    pub(crate) phase: Rc<Cell<Phase>>,
    /// The highest revision that any client has seen in an answer that is not stale.
    pub(crate) floor: Rc<Cell<u64>>,
}

struct Answer {
    status: u16,
    revision: Option<u64>,
    body: Value,
}

impl Clients {
    /// All clients, on one machine.
    pub(crate) async fn run(self) -> turmoil::Result {
        let mut tasks = tokio::task::JoinSet::new();
        for number in 0..self.plan.clients {
            let rng = RefCell::new(stream(self.plan.seed, 70_000 + number));
            tasks.spawn_local(Client { number, sent: Cell::new(0), rng, all: self.clone() }.run());
        }
        if let Some(pause_max) = self.plan.member_changes {
            let rng = RefCell::new(stream(self.plan.seed, 80_000));
            let operator = Client { number: self.plan.clients, sent: Cell::new(0), rng, all: self.clone() };
            tasks.spawn_local(operator.operate(pause_max));
        }
        while tasks.join_next().await.is_some() {}
        Ok(())
    }
}

struct Client {
    number: u64,
    sent: Cell<u64>,
    rng: RefCell<StdRng>,
    all: Clients,
}

impl Client {
    async fn run(self) {
        loop {
            match self.all.phase.get() {
                Phase::Storm => {
                    let think = millis(&mut self.rng.borrow_mut(), 1, millis_of(self.all.plan.think_max));
                    tokio::time::sleep(think).await;
                    self.act().await;
                }
                Phase::Last if self.number == 0 => {
                    let event = self.put(true).await;
                    let done = matches!(event, Event::Write { told: Told::Done(_), .. });
                    self.tell(event);
                    if done {
                        self.all.phase.set(Phase::Done);
                    }
                }
                Phase::Wait | Phase::Last | Phase::Done => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }

    fn draw(&self, bound: u64) -> u64 {
        below(&mut self.rng.borrow_mut(), bound)
    }

    fn key(&self) -> String {
        format!("r{}", self.draw(self.all.plan.keys))
    }

    fn name(&self) -> String {
        let sent = self.sent.get() + 1;
        self.sent.set(sent);
        format!("w{}.{sent}", self.number)
    }

    fn tell(&self, event: Event) {
        let seen = match &event {
            Event::Write { told: Told::Done(revision) | Told::Refused(revision), .. } => *revision,
            Event::Read { stale: false, revision, .. } => *revision,
            Event::Write { .. } | Event::Read { .. } => 0,
        };
        self.all.floor.set(self.all.floor.get().max(seen));
        self.all.shared.borrow_mut().events.push(event);
    }

    async fn act(&self) {
        let event = match self.draw(12) {
            0..=3 => Some(self.put(true).await),
            4 => Some(self.put(false).await),
            5 => Some(self.delete().await),
            6..=7 => Some(self.transact().await),
            8 => self.compare_and_set().await,
            9..=10 => self.read(false).await,
            _ => self.read(true).await,
        };
        if let Some(event) = event {
            self.tell(event);
        }
    }

    async fn put(&self, named: bool) -> Event {
        let (key, name, floor) = (self.key(), self.name(), self.all.floor.get());
        let durable = self.all.plan.record.is_some() && self.draw(4) == 0;
        let query = if durable { "?durability=record" } else { "" };
        let path = format!("/apisix/admin/routes/{key}{query}");
        let told = self.write("PUT", &path, &body(&key, &name).to_string(), &name, named, None).await;
        Event::Write { name, keys: vec![ResourceKey::new("routes", &key)], if_match: None, durable, floor, told }
    }

    async fn delete(&self) -> Event {
        let (key, name, floor) = (self.key(), self.name(), self.all.floor.get());
        let path = format!("/apisix/admin/routes/{key}");
        let told = self.write("DELETE", &path, "", &name, true, None).await;
        Event::Write { name, keys: vec![ResourceKey::new("routes", &key)], if_match: None, durable: false, floor, told }
    }

    async fn transact(&self) -> Event {
        let (name, floor) = (self.name(), self.all.floor.get());
        let first = self.draw(self.all.plan.keys);
        let count = 2 + self.draw(self.all.plan.keys - 1);
        let keys: Vec<String> = (0..count).map(|n| format!("r{}", (first + n) % self.all.plan.keys)).collect();
        let mut keys = keys;
        keys.sort();
        keys.dedup();
        let put = |key: &String| json!({"op": "put", "kind": "routes", "id": key, "value": body(key, &name)});
        let operations: Vec<Value> = keys.iter().map(put).collect();
        let document = json!({ "operations": operations }).to_string();
        let told = self.write("POST", "/v1/transactions", &document, &name, true, None).await;
        let keys = keys.iter().map(|key| ResourceKey::new("routes", key)).collect();
        Event::Write { name, keys, if_match: None, durable: false, floor, told }
    }

    async fn compare_and_set(&self) -> Option<Event> {
        let key = self.key();
        let path = format!("/apisix/admin/routes/{key}");
        let read = self.send("GET", &path, "", &[]).await.ok()?;
        let modified = read.body["modifiedIndex"].as_u64()?;
        let (name, floor) = (self.name(), self.all.floor.get());
        let told = self.write("PUT", &path, &body(&key, &name).to_string(), &name, true, Some(modified)).await;
        Some(Event::Write {
            name,
            keys: vec![ResourceKey::new("routes", &key)],
            if_match: Some(modified),
            durable: false,
            floor,
            told,
        })
    }

    async fn read(&self, stale: bool) -> Option<Event> {
        let (key, floor) = (self.key(), self.all.floor.get());
        let careless = self.all.plan.mutant == Some(Mutant::StaleReads);
        let query = if stale || careless { "?consistency=stale" } else { "" };
        let answer = self.send("GET", &format!("/apisix/admin/routes/{key}{query}"), "", &[]).await.ok()?;
        let found = match answer.status {
            200 => {
                let mark = answer.body["value"]["desc"].as_str().unwrap_or_default();
                Some((answer.body["modifiedIndex"].as_u64().unwrap_or_default(), mark.to_owned()))
            }
            404 => None,
            503 => return None,
            _ => {
                self.odd("GET", &answer);
                return None;
            }
        };
        let revision = answer.revision?;
        Some(Event::Read { key: ResourceKey::new("routes", &key), stale, floor, revision, found })
    }

    /// Sends a write, again and again while its fate is open and it has a name that makes that harmless.
    async fn write(
        &self,
        method: &str,
        path: &str,
        body: &str,
        name: &str,
        named: bool,
        if_match: Option<u64>,
    ) -> Told {
        let mut sure = true;
        for attempt in 0..if named { ATTEMPTS_MAX } else { 1 } {
            let mut headers = Vec::new();
            if named {
                let new_key = attempt > 0 && self.all.plan.mutant == Some(Mutant::NewKeyOnRetry);
                headers.push(("idempotency-key", if new_key { format!("{name}.{attempt}") } else { name.to_owned() }));
            }
            headers.extend(if_match.map(|revision| ("if-match", revision.to_string())));
            match self.send(method, path, body, &headers).await {
                Ok(answer) => match (answer.status, answer.revision) {
                    (200 | 201, Some(revision)) => return Told::Done(revision),
                    (404 | 409 | 412, Some(revision)) if sure => return Told::Refused(revision),
                    // An earlier attempt may be what it met: its own change, by which the condition holds no more.
                    (404 | 409 | 412, Some(_)) => return Told::Unknown,
                    // The first leader has not turned the record on yet.
                    (400, _) if path.ends_with("durability=record") => {}
                    (503, _) if answer.body["outcome"] == "not_applied" => {}
                    (504, _) => sure = false,
                    _ => {
                        self.odd(method, &answer);
                        sure = false;
                    }
                },
                Err(never_sent) => sure &= never_sent,
            }
            let pause = millis(&mut self.rng.borrow_mut(), 10, 300);
            tokio::time::sleep(pause).await;
        }
        if sure { Told::NotApplied } else { Told::Unknown }
    }

    fn odd(&self, method: &str, answer: &Answer) {
        let problem = format!("{method} was answered {} {}", answer.status, answer.body);
        self.all.shared.borrow_mut().problems.push(problem);
    }

    /// Sends one request to some node; when nothing comes back, whether it was surely not sent.
    async fn send(&self, method: &str, path: &str, body: &str, headers: &[(&str, String)]) -> Result<Answer, bool> {
        let node = address(1 + self.draw(self.all.plan.nodes), 9180);
        let stream = network::connect(&node).await.map_err(|_| true)?;
        let exchange = async {
            let (mut sender, connection) =
                hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|_| true)?;
            let connection = tokio::spawn(connection);
            let mut request =
                hyper::Request::builder().method(method).uri(path).header("host", &node).header("x-api-key", KEY);
            for (name, value) in headers {
                request = request.header(*name, value);
            }
            let request = request.body(Full::new(Bytes::copy_from_slice(body.as_bytes()))).expect("it is well formed");
            let response = sender.send_request(request).await.map_err(|_| false)?;
            let (parts, body) = response.into_parts();
            let bytes = body.collect().await.map_err(|_| false)?.to_bytes();
            connection.abort();
            let position = parts.headers.get("x-holdfast-position").and_then(|value| value.to_str().ok());
            let revision = position.and_then(|text| text.split_once('-')?.1.parse().ok());
            let body = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
            Ok(Answer { status: parts.status.as_u16(), revision, body })
        };
        tokio::time::timeout(ANSWER_MAX, exchange).await.unwrap_or(Err(false))
    }
}

/// The resource that takes what no other does.
pub(crate) const LAX: &str = "r0";

/// What stands in a body that cannot be compiled.
pub(crate) const BROKEN: &str = "$env://HOLDFAST_SIMULATION_SETS_NO_SUCH_VARIABLE";

/// One write in so many makes something that every node admits and no proxy can compile.
const BROKEN_IN: u64 = 10;

/// A route. What the name of its write says of it takes no draw of anybody's.
fn body(key: &str, mark: &str) -> Value {
    let mut body = json!({ "uri": format!("/{key}"), "desc": mark, "upstream": { "nodes": { "a:1": 1 } } });
    let number = mark.rsplit_once('.').and_then(|(_, number)| number.parse::<u64>().ok());
    if key == LAX {
        body["uri"] = json!("/*");
    } else if number.is_some_and(|number| number % BROKEN_IN == 0) {
        body["plugins"] = json!({ "csrf": { "key": BROKEN } });
    }
    body
}

fn millis_of(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).expect("a plan's spans are short")
}
