//! Clients of the Admin API: each does one thing at a time, by its seed, and notes what came of it. Some write, some read
//! what they or others wrote (as of now, or stale), some write on a condition, some several keys at once, some merge into what is
//! there, some delete, all on the same keys; and some send again what they have no answer to, under its id; at times also what
//! they do have an answer to.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Result, bail};

use super::Shared;
use super::resources::{self, CONFLICT, LOST, NOT_FOUND, ask};
use crate::cluster::Api;
use crate::history::{Call, Outcome, POISON, Recorder, Value};
use crate::luck::Luck;

/// How long a client waits for an answer: longer than a node may take.
const ANSWER_MAX: Duration = Duration::from_secs(4);
/// Of so many writes that could as well be deletes, one is.
const DELETES_IN: u64 = 4;
/// Of so many writes that could as well be patches, one is.
const PATCHES_IN: u64 = 4;
/// The most keys of one transaction.
const TOGETHER_MAX: u64 = 3;
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

/// What a client wants written, as it is noted.
#[derive(Clone)]
struct Write {
    writes: Vec<(String, Option<Value>)>,
    if_match: Option<u64>,
    request: Option<String>,
    patch: bool,
}

impl Write {
    /// Values, and deletes, whatever is there.
    fn of(writes: Vec<(String, Option<Value>)>) -> Self {
        Self { writes, if_match: None, request: None, patch: false }
    }

    /// Values that are merged into what is there.
    fn patch(writes: Vec<(String, Option<Value>)>) -> Self {
        Self { patch: true, ..Self::of(writes) }
    }
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
            let key = self.any_key();
            match self.luck.below(15) {
                0 | 1 => self.put(key).await,
                2 | 3 => drop(self.read(vec![key], false).await),
                4 => drop(self.read(vec![key], true).await),
                5 | 6 => self.swap(key).await,
                7 | 8 => self.write_together().await,
                9 => {
                    let list = usize::try_from(self.luck.below(2)).unwrap_or_default();
                    drop(self.read(resources::lists()[list].clone(), false).await);
                }
                10 => drop(self.attempt(Write::of(vec![(key, None)])).await),
                11 | 12 => {
                    let value = self.next_value();
                    drop(self.attempt(Write::patch(vec![(key, Some(value))])).await);
                }
                _ => self.insist(key, &stop).await,
            }
            tokio::time::sleep(pause).await;
        }
    }

    fn any_node(&mut self) -> usize {
        usize::try_from(self.luck.below(self.nodes.len() as u64)).unwrap_or_default()
    }

    fn any_key(&mut self) -> String {
        let keys = resources::keys();
        let at = usize::try_from(self.luck.below(keys.len() as u64)).unwrap_or_default();
        keys[at].clone()
    }

    /// Writes, patches or deletes when nobody has written since it was read.
    async fn swap(&mut self, key: String) {
        let read = self.read(vec![key.clone()], false).await;
        let Outcome::Ok { found, .. } = read else { return };
        let Some((_, Some(found))) = found.first() else { return };
        let write = self.any_write(vec![key]);
        self.attempt(Write { if_match: Some(found.modified), ..write }).await;
    }

    /// Writes some keys, and deletes others, or patches all of them, in one transaction.
    async fn write_together(&mut self) {
        let count = self.luck.between(2, TOGETHER_MAX);
        let mut keys = Vec::new();
        while (keys.len() as u64) < count {
            let key = self.any_key();
            if !keys.contains(&key) {
                keys.push(key);
            }
        }
        let write = self.any_write(keys);
        self.attempt(write).await;
    }

    /// Sends a request under an id until its outcome is known, to one node after the other; and then once more.
    async fn insist(&mut self, key: String, stop: &AtomicBool) {
        self.requests += 1;
        let request = format!("{}-{}", self.name, self.requests);
        let write = Write { request: Some(request), ..self.any_write(vec![key]) };
        for _ in 0..ATTEMPTS_MAX {
            match self.attempt(write.clone()).await {
                Outcome::Ok { .. } if self.luck.below(3) == 0 => {
                    self.node = self.any_node();
                    self.attempt(write).await;
                    return;
                }
                Outcome::Ok { .. } => return,
                // There was nothing to delete or to patch.
                Outcome::Fail { status: NOT_FOUND } => return,
                _ if stop.load(Ordering::Relaxed) => return,
                _ => {}
            }
        }
    }

    /// Values for these keys, of which some are deletes; or values that are merged into them.
    fn any_write(&mut self, keys: Vec<String>) -> Write {
        if self.luck.below(PATCHES_IN) == 0 {
            return Write::patch(keys.into_iter().map(|key| (key, Some(self.next_value()))).collect());
        }
        let value = |client: &mut Self| (client.luck.below(DELETES_IN) > 0).then(|| client.next_to_put());
        Write::of(keys.into_iter().map(|key| (key, value(self))).collect())
    }

    fn next_value(&self) -> Value {
        self.shared.value.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// A value that may be poison.
    fn next_to_put(&mut self) -> Value {
        let is_poison = self.poison_in > 0 && self.luck.below(self.poison_in) == 0;
        self.next_value() + if is_poison { POISON } else { 0 }
    }

    async fn put(&mut self, key: String) {
        let value = self.next_to_put();
        self.attempt(Write::of(vec![(key, Some(value))])).await;
    }

    async fn attempt(&mut self, write: Write) -> Outcome {
        let Write { writes, if_match, request, patch } = write;
        let outcome = self.ask(Call::Write { writes, if_match, request, patch }).await;
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
        // A condition that did not hold, nothing to delete, and others that were faster, say nothing against the node.
        if !matches!(outcome, Outcome::Ok { .. } | Outcome::Fail { status: NOT_FOUND | CONFLICT | LOST }) {
            self.node = (self.node + 1) % self.nodes.len();
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        outcome
    }
}

/// Has a node read every key that clients use.
pub(super) async fn read_all(node: usize, nodes: &[String], recorder: &Recorder) -> Result<()> {
    let mut api = Api::at(&nodes[node - 1]).patient(ANSWER_MAX);
    let single = resources::keys().into_iter().map(|key| vec![key]);
    for keys in single.chain(resources::lists()) {
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
