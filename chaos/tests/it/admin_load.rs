//! Writers that remember what they were promised.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use chaos::cluster::{Api, Cluster};
use serde_json::{Value, json};
use tokio::task::JoinSet;

/// Resources that one writer writes in turn; nobody else writes them.
const KEYS: u64 = 12;

/// What one resource may hold now.
#[derive(Clone, Debug, Default)]
struct Promise {
    /// The last value whose write was acknowledged.
    acknowledged: Option<u64>,
    /// Values of later writes that may or may not have been carried out.
    possible: BTreeSet<u64>,
}

/// What writers were promised.
#[derive(Debug, Default)]
pub(crate) struct Promises {
    values: BTreeMap<String, Promise>,
    /// Revisions under which writes were acknowledged.
    pub(crate) revisions: BTreeSet<u64>,
    /// Acknowledged writes.
    pub(crate) acknowledged: u64,
    /// What was heard of writes whose outcome was never learned.
    pub(crate) unknown: Vec<String>,
    /// Writes that were refused for the moment, and not carried out.
    pub(crate) refused: u64,
}

/// Writers that go on until they are told to stop.
pub(crate) struct AdminLoad {
    stop: Arc<AtomicBool>,
    pub(crate) acknowledged: Arc<AtomicU64>,
    writers: JoinSet<Promises>,
}

impl AdminLoad {
    /// Starts writers; each begins with another node, and goes to the next one after every failure.
    pub(crate) fn start(cluster: &Cluster, writers: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(AtomicU64::new(0));
        let mut running = JoinSet::new();
        for writer in 0..writers {
            let nodes: Vec<Api> = cluster.cps.iter().map(|cp| cp.api().patient(Duration::from_secs(4))).collect();
            running.spawn(write(writer, nodes, stop.clone(), acknowledged.clone()));
        }
        Self { stop, acknowledged, writers: running }
    }

    /// Waits until so many more writes were acknowledged: the cluster serves.
    pub(crate) async fn progress(&self, more: u64, within: Duration) {
        let goal = self.acknowledged.load(Ordering::Relaxed) + more;
        chaos::patience::until("writes are acknowledged", within, async || {
            let now = self.acknowledged.load(Ordering::Relaxed);
            anyhow_ensure(now >= goal, &format!("{now} of {goal}"))
        })
        .await
        .unwrap();
    }

    pub(crate) async fn stop(self) -> Promises {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Promises::default();
        for promises in self.writers.join_all().await {
            let revisions = promises.revisions.len();
            all.values.extend(promises.values);
            let before = all.revisions.len();
            all.revisions.extend(promises.revisions);
            assert_eq!(all.revisions.len(), before + revisions, "two writes were given one revision");
            all.acknowledged += promises.acknowledged;
            all.unknown.extend(promises.unknown);
            all.refused += promises.refused;
        }
        all
    }
}

pub(crate) fn anyhow_ensure(holds: bool, why: &str) -> anyhow::Result<()> {
    anyhow::ensure!(holds, "{why}");
    Ok(())
}

fn body(value: u64) -> Value {
    json!({"uri": format!("/w/{value}"), "desc": value.to_string(), "upstream": {"nodes": {"127.0.0.1:1": 1}}})
}

async fn write(writer: usize, mut nodes: Vec<Api>, stop: Arc<AtomicBool>, acknowledged: Arc<AtomicU64>) -> Promises {
    let mut promises = Promises::default();
    let mut node = writer % nodes.len();
    let mut last_revision = 0;
    for value in 1.. {
        if stop.load(Ordering::Relaxed) {
            break;
        }
        let id = format!("w{writer}-{}", value % KEYS);
        let path = format!("/apisix/admin/routes/{id}");
        let reply = nodes[node].call("PUT", &path, &[], body(value).to_string()).await;
        let promise = promises.values.entry(id).or_default();
        let status = reply.as_ref().map_or(0, |reply| reply.status);
        match status {
            200 | 201 => {
                let position = reply.unwrap().header("x-holdfast-position").unwrap().to_owned();
                let revision: u64 = position.rsplit('-').next().unwrap().parse().unwrap();
                assert!(revision > last_revision, "revision {revision} after {last_revision}");
                last_revision = revision;
                promises.revisions.insert(revision);
                *promise = Promise { acknowledged: Some(value), possible: BTreeSet::new() };
                promises.acknowledged += 1;
                acknowledged.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            503 => promises.refused += 1,
            0 if reply.as_ref().is_err_and(chaos::http::was_not_sent) => promises.refused += 1,
            // 504, or the connection was lost: it may be carried out, now or a little later.
            0 | 504 => {
                promise.possible.insert(value);
                promises.unknown.push(reply.map_or_else(|e| format!("{e:#}"), |reply| reply.text()));
            }
            other => panic!("PUT {path} was answered {other}: {}", reply.unwrap().text()),
        }
        node = (node + 1) % nodes.len();
        // A node that is gone refuses at once: do not spin on the machine that the others need.
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    promises
}

/// How long writes took that nothing is to slow down.
#[derive(Default)]
pub(crate) struct WriteTimes(Vec<Duration>);

impl WriteTimes {
    pub(crate) fn note(&mut self, took: Duration) {
        self.0.push(took);
    }

    /// Holds them against a second each. One may take longer, since a machine may stand still; what slows writes down
    /// slows all of them.
    pub(crate) fn are_short(&self, what: &str) {
        let long: Vec<_> = self.0.iter().filter(|took| **took >= Duration::from_secs(1)).collect();
        assert!(long.len() <= 1, "{what}: of {} writes these took long: {long:?}", self.0.len());
    }
}

impl Promises {
    /// Holds what a node says against what was promised.
    pub(crate) async fn check(&self, api: &mut Api) {
        for (id, promise) in &self.values {
            let found = api.get("routes", id).await.unwrap();
            let found = found.map(|value| value["desc"].as_str().unwrap().parse::<u64>().unwrap());
            let allowed = found == promise.acknowledged || found.is_some_and(|value| promise.possible.contains(&value));
            assert!(allowed, "{id} holds {found:?}, promised was {promise:?}");
        }
    }
}
