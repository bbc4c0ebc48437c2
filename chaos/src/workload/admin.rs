//! Clients of the Admin API: each does one thing at a time, by its seed, and notes what came of it. Some write, some read
//! what they or others wrote (as of now, or stale), some write on a condition, some several keys at once, some delete in any of
//! these ways, and some send again what they have no answer to, under its id; at times also what they do have an answer to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::{Value as Json, json};

use super::Shared;
use crate::cluster::Api;
use crate::history::{At, Call, Found, Outcome, POISON, Recorder, Value};
use crate::http::{Reply, was_not_sent};
use crate::luck::Luck;

/// Keys that all clients share: few, so that they meet.
const KEYS: u64 = 8;
/// Pairs of keys that are only written together.
const PAIRS: u64 = 3;
/// How long a client waits for an answer: longer than a node may take.
const ANSWER_MAX: Duration = Duration::from_secs(4);
/// Of so many writes that could as well be deletes, one is.
const DELETES_IN: u64 = 4;
/// What poison has in the place of a secret: no proxy has such a variable.
const BROKEN: &str = "$env://CHAOS_SETS_NO_SUCH_VARIABLE";
/// What a delete of nothing is answered with.
const NOT_FOUND: u16 = 404;
/// Attempts at one request before a client lets its outcome be.
const ATTEMPTS_MAX: usize = 12;

pub(super) struct Client {
    name: String,
    nodes: Vec<Api>,
    node: usize,
    luck: Luck,
    recorder: Recorder,
    shared: Arc<Shared>,
    requests: u64,
    poison_in: u64,
}

impl Client {
    pub(super) fn new(
        number: usize,
        seed: u64,
        nodes: &[String],
        poison_in: u64,
        recorder: &Recorder,
        shared: &Arc<Shared>,
    ) -> Self {
        Self {
            name: format!("client-{number}"),
            nodes: nodes.iter().map(|node| Api::at(node).patient(ANSWER_MAX)).collect(),
            node: number % nodes.len(),
            luck: Luck::of(&[seed, number as u64]),
            recorder: recorder.clone(),
            shared: shared.clone(),
            requests: 0,
            poison_in,
        }
    }

    pub(super) async fn run(mut self, stop: Arc<AtomicBool>, pause: Duration) {
        while !stop.load(Ordering::Relaxed) {
            if self.luck.below(6) == 0 {
                self.node = self.any_node();
            }
            let key = format!("routes/k{}", self.luck.below(KEYS));
            match self.luck.below(14) {
                0..=2 => drop(self.write(vec![key], None, None).await),
                3 | 4 => drop(self.read(vec![key], false).await),
                5 => drop(self.read(vec![key], true).await),
                6 | 7 => self.swap(key).await,
                8 => {
                    let pair = pair(self.luck.below(PAIRS));
                    drop(self.write(pair, None, None).await);
                }
                // Pairs are deleted as they are written: together.
                12 => {
                    let pair = pair(self.luck.below(PAIRS));
                    drop(self.delete(pair).await);
                }
                13 => drop(self.delete(vec![key]).await),
                9 => drop(self.read((0..PAIRS).flat_map(pair).collect(), false).await),
                _ => self.insist(key, &stop).await,
            }
            tokio::time::sleep(pause).await;
        }
    }

    fn any_node(&mut self) -> usize {
        usize::try_from(self.luck.below(self.nodes.len() as u64)).unwrap_or_default()
    }

    /// Reads, and writes or deletes when nobody has written meanwhile.
    async fn swap(&mut self, key: String) {
        let read = self.read(vec![key.clone()], false).await;
        let Outcome::Ok { found, .. } = read else { return };
        let Some((_, Some(found))) = found.first() else { return };
        let value = self.sometimes_nothing();
        self.attempt(vec![(key, value)], Some(found.modified), None).await;
    }

    /// Sends a request under an id until its outcome is known, to one node after the other; and then once more.
    async fn insist(&mut self, key: String, stop: &AtomicBool) {
        self.requests += 1;
        let request = format!("{}-{}", self.name, self.requests);
        let value = self.sometimes_nothing();
        for _ in 0..ATTEMPTS_MAX {
            let writes = vec![(key.clone(), value)];
            match self.attempt(writes, None, Some(request.clone())).await {
                Outcome::Ok { .. } if self.luck.below(3) == 0 => {
                    self.node = self.any_node();
                    self.attempt(vec![(key, value)], None, Some(request)).await;
                    return;
                }
                Outcome::Ok { .. } => return,
                // There was nothing to delete.
                Outcome::Fail { status: NOT_FOUND } => return,
                _ if stop.load(Ordering::Relaxed) => return,
                _ => {}
            }
        }
    }

    fn next_value(&mut self) -> Value {
        let value = self.shared.value.fetch_add(1, Ordering::Relaxed) + 1;
        let is_poison = self.poison_in > 0 && self.luck.below(self.poison_in) == 0;
        if is_poison { POISON + value } else { value }
    }

    /// A value, or nothing: one time in [`DELETES_IN`] what would be written is deleted.
    fn sometimes_nothing(&mut self) -> Option<Value> {
        (self.luck.below(DELETES_IN) > 0).then(|| self.next_value())
    }

    async fn delete(&mut self, keys: Vec<String>) -> Outcome {
        self.attempt(keys.into_iter().map(|key| (key, None)).collect(), None, None).await
    }

    async fn write(&mut self, keys: Vec<String>, if_match: Option<u64>, request: Option<String>) -> Outcome {
        let writes = keys.into_iter().map(|key| (key, Some(self.next_value()))).collect();
        self.attempt(writes, if_match, request).await
    }

    async fn attempt(
        &mut self,
        writes: Vec<(String, Option<Value>)>,
        if_match: Option<u64>,
        request: Option<String>,
    ) -> Outcome {
        let call = Call::Write { writes, if_match, request };
        let outcome = self.ask(call).await;
        match &outcome {
            Outcome::Ok { .. } => self.shared.acknowledged.fetch_add(1, Ordering::Relaxed),
            Outcome::Unknown { .. } => self.shared.unknown.fetch_add(1, Ordering::Relaxed),
            Outcome::Fail { .. } => 0,
        };
        outcome
    }

    async fn read(&mut self, keys: Vec<String>, stale: bool) -> Outcome {
        self.ask(Call::Read { keys, stale }).await
    }

    async fn ask(&mut self, call: Call) -> Outcome {
        let invoked = self.recorder.invoked(&self.name, number(self.node), call.clone());
        let outcome = ask(&mut self.nodes[self.node], &call).await;
        invoked.returned(outcome.clone());
        // A condition that did not hold, and nothing to delete, say nothing against the node.
        if !matches!(outcome, Outcome::Ok { .. } | Outcome::Fail { status: NOT_FOUND | 412 }) {
            self.node = (self.node + 1) % self.nodes.len();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        outcome
    }
}

/// Keys of routes that clients write, with the path that leads to each.
pub(super) fn routes() -> Vec<(String, String)> {
    (0..KEYS).map(|n| (format!("routes/k{n}"), format!("/k{n}"))).collect()
}

/// Has a node read every key that clients use.
pub(super) async fn read_all(node: usize, nodes: &[String], recorder: &Recorder) -> Result<()> {
    let mut api = Api::at(&nodes[node - 1]).patient(ANSWER_MAX);
    let single = (0..KEYS).map(|n| vec![format!("routes/k{n}")]);
    for keys in single.chain([(0..PAIRS).flat_map(pair).collect()]) {
        let call = Call::Read { keys, stale: false };
        let invoked = recorder.invoked("last-reader", number(node - 1), call.clone());
        let outcome = ask(&mut api, &call).await;
        let failed = !matches!(outcome, Outcome::Ok { .. });
        let what = format!("{outcome:?}");
        invoked.returned(outcome);
        if failed {
            bail!("{what}");
        }
    }
    Ok(())
}

fn number(index: usize) -> u16 {
    u16::try_from(index + 1).unwrap_or(u16::MAX)
}

fn pair(number: u64) -> Vec<String> {
    ["a", "b"].map(|half| format!("services/p{number}-{half}")).to_vec()
}

/// The body of a key that holds a value. A route answers with it itself.
fn body(key: &str, value: Value) -> Json {
    let text = value.to_string();
    let mut body = match key.split_once('/') {
        Some(("routes", id)) => {
            let answers = json!({"mocking": {"response_example": text}});
            json!({"uri": format!("/{id}"), "desc": text, "upstream": {"nodes": {"127.0.0.1:1": 1}}, "plugins": answers})
        }
        _ => json!({"desc": text}),
    };
    if value >= POISON {
        // A reference is admitted as it is written; what it leads to is the proxy's to find out.
        body["plugins"]["csrf"] = json!({"key": BROKEN});
    }
    body
}

/// The value of a resource that clients have written.
pub(super) fn value_of(body: &Json) -> Option<Value> {
    body["desc"].as_str()?.parse().ok()
}

/// Whether clients write this resource.
pub(super) fn is_clients(kind: &str, id: &str) -> bool {
    (kind == "routes" && id.starts_with('k')) || (kind == "services" && id.starts_with('p'))
}

async fn ask(api: &mut Api, call: &Call) -> Outcome {
    let reply = match call {
        Call::Write { writes, if_match, request } => {
            let if_match = if_match.map(|revision| revision.to_string());
            let mut headers: Vec<(&str, &str)> = Vec::new();
            headers.extend(request.as_deref().map(|request| ("idempotency-key", request)));
            headers.extend(if_match.as_deref().map(|revision| ("if-match", revision)));
            if let [(key, value)] = &writes[..] {
                let path = format!("/apisix/admin/{key}");
                match value {
                    Some(value) => api.call("PUT", &path, &headers, body(key, *value).to_string()).await,
                    None => api.call("DELETE", &path, &headers, String::new()).await,
                }
            } else {
                let operation = |(key, value): &(String, Option<Value>)| {
                    let (kind, id) = key.split_once('/').unwrap_or_default();
                    match value {
                        Some(value) => json!({"op": "put", "kind": kind, "id": id, "value": body(key, *value)}),
                        None => json!({"op": "delete", "kind": kind, "id": id}),
                    }
                };
                let operations: Vec<Json> = writes.iter().map(operation).collect();
                api.call("POST", "/v1/transactions", &headers, json!({"operations": operations}).to_string()).await
            }
        }
        Call::Read { keys, stale } => {
            let query = if *stale { "?consistency=stale" } else { "" };
            let path = match &keys[..] {
                [key] => format!("/apisix/admin/{key}{query}"),
                _ => format!("/apisix/admin/services{query}"),
            };
            api.call("GET", &path, &[], String::new()).await
        }
    };
    match reply {
        Err(e) if was_not_sent(&e) => Outcome::Fail { status: 0 },
        Err(e) => Outcome::Unknown { why: format!("{e:#}") },
        Ok(reply) => judge(call, &reply).unwrap_or_else(|e| Outcome::Unknown { why: format!("{e:#}") }),
    }
}

fn judge(call: &Call, reply: &Reply) -> Result<Outcome> {
    let position = || {
        let position = reply.header("x-holdfast-position").context("an answer without a position")?;
        At::parse(position).context("a position that is none")
    };
    Ok(match (call, reply.status) {
        (Call::Write { .. }, 200 | 201) => Outcome::Ok { position: position()?, found: Vec::new() },
        (Call::Read { keys, .. }, 200 | 404) => {
            let body = reply.json()?;
            let items: Vec<&Json> = body["list"].as_array().map_or_else(|| vec![&body], |list| list.iter().collect());
            let found = |key: &String| -> Result<(String, Option<Found>)> {
                let named = |item: &&&Json| item["key"].as_str().is_some_and(|k| k.ends_with(&format!("/{key}")));
                let Some(item) = items.iter().find(named) else { return Ok((key.clone(), None)) };
                let value = value_of(&item["value"]).context("a resource without a value")?;
                let modified = item["modifiedIndex"].as_u64().context("a resource without a revision")?;
                Ok((key.clone(), Some(Found { value, modified })))
            };
            Outcome::Ok { position: position()?, found: keys.iter().map(found).collect::<Result<_>>()? }
        }
        (_, status @ (NOT_FOUND | 412 | 503)) => Outcome::Fail { status },
        (_, status) => bail!("{status}: {}", reply.text().trim_end()),
    })
}
